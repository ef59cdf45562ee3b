//! What makes room, and what is refused where there is none.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{fetch, files, is_stored, pull, register};
use crate::end_to_end::download;
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::{random_content, random_seed};
use crate::harness::service::Service;

const MIB: usize = 1024 * 1024;
const SOURCE_FAIL: i64 = 604;

fn stored_bytes(service: &Service) -> u64 {
    files(service).iter().filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_would_exceed_the_quota_makes_what_was_unused_longest_go() {
    let (origin, service) = (Origin::start().await, Service::start_configured("base: {repositoryQuota: 10M}\n").await);
    let mut tasks = Vec::new();
    for number in 0..4 {
        let content = random_content(3 * MIB);
        let url = origin.put(&format!("file-{number}"), File::new(content.clone()));
        let downloaded = download(&service, &url).await;
        assert!(downloaded.content == content);
        tasks.push(downloaded.task);
        // Using the first one again makes the second the one that was unused longest.
        if number == 2 {
            let first = format!("http://{}/file-0", origin.address());
            download(&service, &first).await;
        }
        assert!(stored_bytes(&service) <= 10 * MIB as u64, "the repository holds {} bytes", stored_bytes(&service));
    }
    let mut there = Vec::new();
    for task in &tasks {
        there.push(is_stored(&service, task).await);
    }
    assert_eq!(there, [true, false, true, true]);
    let metrics = exchange_metrics(&service).await;
    assert!(metrics.contains("dragonfly_supernode_evictions_total{reason=\"quota\"} 1\n"), "{metrics}");
    assert!(metrics.contains("dragonfly_supernode_gc_disks_total 1\n"), "{metrics}");
}

async fn exchange_metrics(service: &Service) -> String {
    let response = crate::harness::exchange::call(service.api(), crate::harness::exchange::get("/metrics")).await;
    String::from_utf8_lossy(&response.unwrap_or_else(|error| panic!("{error}")).body).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_fit_is_refused_with_604_and_what_is_in_use_stays() {
    let (origin, service) = (Origin::start().await, Service::start_configured("base: {repositoryQuota: 10M}\n").await);
    // Larger than all of it.
    let url = origin.put("huge", File::new(random_content(11 * MIB)));
    let refused = register(&service, &url).await.expect_err("it cannot fit");
    assert_eq!(refused.code, SOURCE_FAIL, "{refused}");
    assert!(refused.msg.contains("repositoryQuota"), "the message does not say why: {refused}");
    assert_eq!(origin.record("huge").body_bytes() / (11 * MIB as u64), 0, "it was fetched all the same");

    // A client is in the middle of one: nothing of it goes for another.
    let using = origin.put("using", File { ending: Ending::StallsAfter(5 * MIB as u64), ..File::new(random_content(6 * MIB)) });
    let (client, task) = register(&service, &using).await.expect("it fits");
    eventually("a piece is in flight", async || (pull(&service, &task, client.cid()).await.code == 601).then_some(())).await;
    let other = origin.put("other", File::new(random_content(6 * MIB)));
    let refused = register(&service, &other).await.expect_err("there is no room");
    assert_eq!(refused.code, SOURCE_FAIL, "{refused}");
    assert_eq!(pull(&service, &task, client.cid()).await.code, 601, "what is in use went");
    assert!(service.dump().await.of_kind("task").count() == 1, "what was refused left a task");

    // What was refused for want of room is taken as soon as there is some.
    service.reconfigure("base: {repositoryQuota: 20M}\n");
    eventually("it is accepted", async || register(&service, &other).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_that_compete_for_the_quota_end_well_or_are_told_why_not() {
    let (origin, service) = (Origin::start().await, Service::start_configured("base: {repositoryQuota: 4M}\n").await);
    let files: Vec<_> = (0..12).map(|_| random_content(MIB - 1000)).collect();
    let urls: Vec<String> = (0..)
        .zip(&files)
        .map(|(number, content): (u32, _)| origin.put(&format!("file-{number}"), File::new(content.clone())))
        .collect();
    let mut random = fastrand::Rng::with_seed(random_seed("who wants what"));
    let mut downloads = JoinSet::new();
    for _ in 0..6 {
        let wanted: Vec<(String, Bytes)> = (0..8)
            .map(|_| {
                let number = random.usize(..files.len());
                (urls[number].clone(), files[number].clone())
            })
            .collect();
        let api = service.api();
        downloads.spawn(async move {
            let mut good = 0;
            for (url, content) in wanted {
                let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
                match client.download(api, &Wanted::url(&url)).await {
                    Ok(downloaded) => {
                        assert!(downloaded.content == content, "{url} is another file");
                        good += 1;
                    }
                    // The last report of a client that is done may come when its task has gone: nobody knows its release
                    // any more, and 200 is what the oldest expect. Others log it.
                    Err(surprise) => assert!(
                        surprise.code == Some(SOURCE_FAIL)
                            || surprise.code == Some(200) && surprise.to_string().contains("/peer/piece/suc"),
                        "{surprise}"
                    ),
                }
            }
            good
        });
    }
    let mut good = 0;
    while let Some(done) = downloads.join_next().await {
        good += done.expect("no client meets anything else");
        assert!(stored_bytes(&service) <= 4 * MIB as u64, "the repository holds {} bytes", stored_bytes(&service));
    }
    assert!(good > 12, "only {good} of 48 downloads ended well");
    // Clients may have used four of the files all the time. Now nobody does.
    download(&service, &origin.put("one-more", File::new(random_content(3 * MIB)))).await;
    assert!(exchange_metrics(&service).await.contains("dragonfly_supernode_evictions_total{reason=\"quota\"}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_unknown_length_count_as_they_come() {
    let (origin, service) = (Origin::start().await, Service::start_configured("base: {repositoryQuota: 10M}\n").await);
    let small = origin.put("small", File::new(random_content(3 * MIB)));
    let small = download(&service, &small).await.task;
    let fits = random_content(9 * MIB);
    let url = origin.put("fits", File { chunked: true, ..File::new(fits.clone()) });
    assert!(download(&service, &url).await.content == fits);
    assert!(!is_stored(&service, &small).await, "nothing made room");

    let url = origin.put("does-not", File { chunked: true, ..File::new(random_content(13 * MIB)) });
    let failed = async || {
        // It may fail before it is answered or after.
        let (client, task) = match register(&service, &url).await {
            Err(refused) => return Some(refused),
            Ok(registered) => registered,
        };
        let answer = pull(&service, &task, client.cid()).await;
        (answer.code == SOURCE_FAIL).then_some(answer)
    };
    let failed = eventually("the download fails", failed).await;
    assert!(failed.code == SOURCE_FAIL && failed.msg.contains("repositoryQuota"), "{failed}");
    assert!(stored_bytes(&service) <= 10 * MIB as u64, "it went on: {} bytes", stored_bytes(&service));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_kill_leaves_of_an_unfinished_piece_takes_no_room() {
    let origin = Origin::start().await;
    let mut service = Service::start_configured("base: {sourceIdleTimeout: 10m}\n").await;
    let whole = random_content(6_000_000);
    // Of the one a piece is whole, of the other none.
    let stalling = [("one", 5_500_000), ("none", 3_000_000)];
    for (name, bytes) in stalling {
        let file = File { ending: Ending::StallsAfter(bytes), ..File::new(whole.clone()) };
        register(&service, &origin.put(name, file)).await.expect("it is accepted");
    }
    let piece = Some(4 * MIB as u64);
    let written = async || {
        let recorded = fetch(service.api(), "/api/v1/cache").await["storedBytes"].as_u64();
        (recorded == piece && stored_bytes(&service) > 7 * MIB as u64).then_some(())
    };
    eventually("one piece is recorded, and some of what is none is written", written).await;
    service.kill9();
    // Nothing more comes of them.
    for (name, _) in stalling {
        origin.put(name, File { delay: Duration::from_secs(600), ..File::new(whole.clone()) });
    }
    service.restart().await;
    let told = fetch(service.api(), "/api/v1/cache").await;
    assert_eq!((told["storedBytes"].as_u64(), Some(stored_bytes(&service))), (piece, piece), "{told}");
    assert_eq!(files(&service).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_no_disk_holds_is_not_fetched_again() {
    let (origin, mut service) = (Origin::start().await, Service::start().await);
    // 8 TiB: half of what a file may have.
    let file = File { announced_length: Some(8 << 40), ending: Ending::StallsAfter(1_000_000), ..File::new(vec![0; 1_000_001]) };
    let url = origin.put("large", file);
    let client = Client::start(&Release::GO_1_0_6).await;
    let register = async |service: &Service| {
        client.register(service.api(), &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}"))
    };
    assert_eq!(register(&service).await.code, 200, "once it is taken at its word");
    service.kill9();
    let requests_before = origin.record("large").0.len();
    service.restart().await;
    let answer = eventually("it is refused", async || Some(register(&service).await).filter(|answer| answer.code != 200)).await;
    assert_eq!(answer.code, SOURCE_FAIL, "{answer}");
    assert!(answer.msg.contains("the supernode has no room for this file: 8796"), "{answer}");
    assert_eq!((stored_bytes(&service), origin.record("large").0.len()), (0, requests_before), "it was begun again");
    let small = download(&service, &origin.put("small", File::new("abc"))).await;
    assert_eq!(small.content, "abc");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_quota_and_a_full_disk_take_what_is_unused() {
    let (origin, service) = (Origin::start().await, Service::start_configured("base: {gcDiskInterval: 1s}\n").await);
    let mut urls = Vec::new();
    for number in 0..4 {
        let url = origin.put(&format!("file-{number}"), File::new(random_content(2 * MIB)));
        download(&service, &url).await;
        urls.push(url);
    }
    // 8 of 8 MiB are beyond 90 %, and 60 % are not reached before two are gone.
    service.reconfigure(
        "base: {gcDiskInterval: 1s, repositoryQuota: 8M, repositoryHighWatermark: 90, repositoryLowWatermark: 60}\n",
    );
    eventually("two have gone", async || (files(&service).len() == 2).then_some(())).await;
    assert_eq!(service.dump().await.of_kind("task").count(), 2);
    download(&service, &urls[3]).await;
    assert_eq!(origin.record("file-3").0.len(), 1, "the one that was used last was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_nearly_full_keeps_nothing_that_is_unused() {
    let everything = "gcInitialDelay: 0s, gcDiskInterval: 1s, youngGCThreshold: 1000000G, fullGCThreshold: 1000000G";
    let configuration = format!("base: {{{everything}}}\n");
    let (origin, service) = (Origin::start().await, Service::start_configured(&configuration).await);
    let url = origin.put("file", File { ending: Ending::StallsAfter(5_000_000), ..File::new(random_content(6_000_000)) });
    let (client, using) = register(&service, &url).await.expect("it is accepted");
    eventually("a piece is in flight", async || (pull(&service, &using, client.cid()).await.code == 601).then_some(())).await;
    let unused = origin.put("unused", File::new(random_content(2000)));
    let unused = download(&service, &unused).await.task;
    eventually("what is unused goes", async || (!is_stored(&service, &unused).await).then_some(())).await;
    assert_eq!(pull(&service, &using, client.cid()).await.code, 601, "what is in use stays");
    assert_eq!(files(&service).len(), 1);
}
