//! What operators are told: what is cached, what goes and why, and what stays and why.

use std::process::Output;

use serde_json::Value;

use super::{fetch, files, pull, register};
use crate::end_to_end::download;
use crate::harness::dump::output;
use crate::harness::eventually;
use crate::harness::exchange::{self, get, request};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::{PIECE_SIZE, other_content, random_content};
use crate::harness::service::{Service, command};

/// Nothing goes by itself in the time of a test.
const BY_HAND: &str = "base: {gcInitialDelay: 1h, gcMetaInterval: 1h, gcDiskInterval: 1h, taskExpireTime: 1s, cacheExpireTime: 1s, peerGCDelay: 1s}\n";

async fn gc(service: &Service, args: &[&str]) -> Output {
    let mut command = command();
    command.arg("gc").arg("--home-dir").arg(service.home()).args(args);
    output(command).await
}

async fn lines(service: &Service, args: &[&str]) -> Vec<Value> {
    let Output { status, stdout, stderr } = gc(service, args).await;
    assert!(status.success(), "gc ended with {status}: {}", String::from_utf8_lossy(&stderr));
    let text = String::from_utf8(stdout).expect("the lines are UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

fn line_of<'a>(lines: &'a [Value], task: &str) -> &'a Value {
    lines.iter().find(|line| line["ID"] == task).unwrap_or_else(|| panic!("no line of {task} in {lines:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_what_would_go_and_takes_nothing_and_the_real_one_takes_just_that() {
    let (origin, service) = (Origin::start().await, Service::start_configured(BY_HAND).await);
    let unused = origin.put("unused", File::new(random_content(100_000)));
    let unused = download(&service, &(unused + "?token=secret")).await.task;
    let using = origin.put("using", File::new(random_content(9_000_000)));
    let (client, using) = register(&service, &using).await.expect("it is accepted");
    eventually("pieces are in flight", async || (pull(&service, &using, client.cid()).await.code == 601).then_some(())).await;
    let would_go = async || {
        let lines = lines(&service, &["--dry-run", "--json"]).await;
        (line_of(&lines, &unused)["goes"] == true).then_some(lines)
    };
    let dry = eventually("the unused file would go", would_go).await;
    let (goes, stays) = (line_of(&dry, &unused), line_of(&dry, &using));
    assert!(goes["why"].as_str().is_some_and(|why| why.contains("nobody used it for")), "{goes}");
    assert_eq!((&stays["goes"], &stays["why"]), (&false.into(), &"a client is fetching it".into()), "{stays}");
    assert_eq!(stays["pinned"], false, "{stays}");
    let target = format!("/api/v1/tasks/{using}/pin");
    for (method, pinned, why) in [("PUT", true, "a client is fetching it; pinned"), ("DELETE", false, "a client is fetching it")]
    {
        let changed = exchange::call(service.api(), request(method, &target, bytes::Bytes::new())).await;
        assert_eq!(changed.unwrap_or_else(|error| panic!("{error}")).status, 204);
        let again = lines(&service, &["--dry-run", "--json"]).await;
        let told = line_of(&again, &using);
        assert_eq!((&told["pinned"], &told["why"]), (&pinned.into(), &why.into()), "{told}");
    }
    assert_eq!(dry.last().expect("a last line")["kind"], "cache");
    assert_eq!(dry.last().expect("a last line")["silentClients"], 1, "the one that has finished: {dry:?}");
    assert!(!format!("{dry:?}").contains("secret"));
    assert_eq!(files(&service).len(), 2, "a dry run took something");

    let table = String::from_utf8(gc(&service, &["--dry-run"]).await.stdout).expect("a table is UTF-8");
    for part in ["would go (1)", "stays (1)", &unused[..12], "a client is fetching it", "no quota"] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }

    let collected = lines(&service, &["--json"]).await;
    let last = collected.last().expect("a last line");
    assert_eq!(
        (&last["kind"], &last["expired"], &last["clients"], &last["bytes"]),
        (&"collected".into(), &1.into(), &1.into(), &100_005.into()),
        "{last}"
    );
    assert_eq!(files(&service).len(), 1);
    assert_eq!(service.dump().await.of_kind("task").count(), 1);
    assert_eq!(pull(&service, &using, client.cid()).await.code, 601, "what is in use stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_failed_is_not_said_to_be_fetched_by_the_client_of_whose_piece_nothing_was_heard() {
    let (origin, service) = (Origin::start().await, Service::start_configured(BY_HAND).await);
    let content = random_content(9_000_000);
    let url = origin.put("file", File { ending: Ending::StallsAfter(5_000_000), ..File::new(content.clone()) });
    let (client, task) = register(&service, &url).await.expect("it is accepted");
    eventually("a piece is in flight", async || (pull(&service, &task, client.cid()).await.code == 601).then_some(())).await;
    origin.put("file", File { revision: 2, ..File::new(other_content(&content)) });
    let failed = async || {
        let lines = lines(&service, &["--dry-run", "--json"]).await;
        Some(line_of(&lines, &task).clone()).filter(|line| line["cdnStatus"] == "FAILED")
    };
    let told = eventually("its source has failed", failed).await;
    let why = "it has failed, and what comes of pieces on their way to clients is not known yet";
    assert_eq!((&told["goes"], &told["why"]), (&false.into(), &why.into()), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_still_to_come_is_told_apart_from_what_is_here() {
    let configuration = BY_HAND.replace('}', ", repositoryQuota: 20M}");
    let (origin, service) = (Origin::start().await, Service::start_configured(&configuration).await);
    let file = File { ending: Ending::StallsAfter(5_000_000), ..File::new(random_content(9_000_000)) };
    let (_client, _task) = register(&service, &origin.put("file", file)).await.expect("it is accepted");
    let cache = eventually("a piece is here, and two are not", async || {
        let cache = fetch(service.api(), "/cache").await;
        (cache["storedBytes"] == PIECE_SIZE).then_some(cache)
    })
    .await;
    let all = 9_000_000 + 3 * 5;
    assert_eq!((&cache["comingBytes"], &cache["bytes"]), (&(all - PIECE_SIZE).into(), &all.into()), "{cache}");
    let table = String::from_utf8(gc(&service, &["--dry-run"]).await.stdout).expect("a table is UTF-8");
    assert!(table.contains("cached: 4MB, and 4693KB to come (of a quota of 20MB)"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_collected_where_no_service_runs() {
    let mut service = Service::start().await;
    service.terminate().await;
    let Output { status, stderr, .. } = gc(&service, &["--dry-run"]).await;
    let errors = String::from_utf8_lossy(&stderr).into_owned();
    assert!(status.code() == Some(1) && errors.contains("no service runs"), "{status}: {errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_is_shown_page_by_page_in_the_order_in_which_it_would_go() {
    let configuration = "base: {repositoryQuota: 10M, repositoryHighWatermark: 80, repositoryLowWatermark: 50}\n";
    let (origin, service) = (Origin::start().await, Service::start_configured(configuration).await);
    let mut tasks = Vec::new();
    for number in 0..3 {
        let url = origin.put(&format!("file-{number}"), File::new(random_content(100_000)));
        tasks.push(download(&service, &url).await.task);
    }
    let cache = fetch(service.api(), "/api/v1/cache?pageSize=2").await;
    for (field, expected) in [
        ("storedBytes", 300_015),
        ("comingBytes", 0),
        ("bytes", 300_015),
        ("quotaBytes", 10 << 20),
        ("highWatermarkBytes", 8 << 20),
        ("lowWatermarkBytes", 5 << 20),
        ("taskExpireSeconds", 180),
        ("cacheExpireSeconds", 259_200),
    ] {
        assert_eq!(cache[field], expected, "{field} of {cache}");
    }
    assert!(cache["freeBytes"].as_u64().is_some_and(|free| free > 0), "{cache}");
    let rest = fetch(service.api(), "/cache?pageSize=2&pageNum=1").await;
    let shown: Vec<&Value> = [&cache, &rest].iter().flat_map(|page| page["files"].as_array().expect("a list")).collect();
    let ids: Vec<&str> = shown.iter().map(|file| file["ID"].as_str().expect("an id")).collect();
    assert_eq!(ids, tasks, "the one that was unused longest is first");
    for file in shown {
        assert_eq!(
            (&file["goes"], &file["storedBytes"], &file["cdnStatus"]),
            (&false.into(), &100_005.into(), &"SUCCESS".into())
        );
        assert!(file["why"].as_str().is_some_and(|why| why.starts_with("there is room; expires in ")), "{file}");
        assert!(file["expiresInSeconds"].as_u64().is_some_and(|left| left <= 259_200), "{file}");
    }
    let response = exchange::call(service.api(), get("/cache")).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(response.header("x-total-count"), Some("3"));
    let refused = exchange::ask(service.api(), get("/cache?pageSize=0")).await;
    assert!(refused.status == 400 && refused.msg.contains("pageSize"), "{refused}");
}
