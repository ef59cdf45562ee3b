//! Headers for the source: whose are taken, and how long they are kept.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use super::download_wanted;
use super::snapshots::done;
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, Answer, get, post_json};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

/// Four pieces, the last not full.
const FILE_BYTES: usize = 15_000_000;
/// In the middle of the third piece.
const INTERRUPTED_AFTER: u64 = 10_000_000;
const PIECES_BEFORE: usize = 2;
const LAST_BEFORE: u32 = 1;
const NEED_AUTH: i64 = 608;
const NOT_REACHABLE: i64 = 607;
const SOURCE_ERROR: i64 = 610;

fn wanted(url: &str, authorization: Option<&str>) -> Wanted {
    let headers = authorization.map(|value| format!("Authorization: {value}")).into_iter().collect();
    Wanted { headers, ..Wanted::url(url) }
}

async fn register(service: &Service, wanted: &Wanted) -> Answer {
    let client = Client::start(&Release::GO_1_0_6).await;
    client.register(service.api(), wanted).await.unwrap_or_else(|surprise| panic!("{surprise}"))
}

async fn stored(service: &Service, pieces: usize) {
    eventually("pieces are stored", async || {
        let dump = service.dump().await;
        (dump.of_kind("piece").filter(|line| line["stored"] == true).count() >= pieces).then_some(())
    })
    .await;
}

async fn header_names(service: &Service) -> String {
    service.dump().await.of_kind("task").next().expect("a task")["headerNames"].to_string()
}

fn file(content: &Bytes, authorization: &str) -> File {
    File { authorization: Some(authorization.to_owned()), ..File::new(content.clone()) }
}

/// A task whose credentials ran out when it had two pieces.
async fn expired(origin: &Origin, name: &str, service: &Service, content: &Bytes) -> String {
    let stalling = File { ending: Ending::StallsAfter(INTERRUPTED_AFTER), ..file(content, "Bearer old") };
    let url = origin.put(name, stalling);
    let registered = register(service, &wanted(&url, Some("Bearer old"))).await;
    assert_eq!(registered.code, 200, "{registered}");
    let task = registered.data["taskId"].as_str().expect("a task id").to_owned();
    eventually("two pieces are stored", async || service.dump().await.piece_md5(&task, LAST_BEFORE).map(|_| ())).await;
    origin.put(name, file(content, "Bearer new"));
    eventually("the task has failed", async || {
        let question = format!("/peer/task?taskId={task}&srcCid=somebody&status=700&result=502");
        let answer = exchange::ask(service.api(), get(&question)).await;
        (answer.code == SOURCE_ERROR).then_some(())
    })
    .await;
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_with_good_credentials_revives_a_task_whose_own_have_run_out() {
    let (origin, mut service, content) = (Origin::start().await, Service::start().await, random_content(FILE_BYTES));
    let url = expired(&origin, "file", &service, &content).await;
    // The old ones are not even tried again, and what others bring is.
    let again = register(&service, &wanted(&url, Some("Bearer old"))).await;
    assert_eq!(again.code, NEED_AUTH, "{again}");
    let downloaded = download_wanted(&service, &wanted(&url, Some("Bearer new"))).await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
    let resumed = origin.record("file").0.last().map(|seen| seen.start);
    assert!(resumed.is_some_and(|start| start > 0), "the download began anew: {resumed:?}");

    // Also after a restart, which knows nothing of how the source was asked.
    service.kill9();
    service.restart().await;
    let url = expired(&origin, "other", &service, &random_content(FILE_BYTES)).await;
    service.kill9();
    service.restart().await;
    let registered = register(&service, &wanted(&url, Some("Bearer new"))).await;
    assert_eq!(registered.code, 200, "{registered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_begun_is_not_continued_from_another_source() {
    let (origin, service, content) = (Origin::start().await, Service::start().await, random_content(FILE_BYTES));
    let url = expired(&origin, "file", &service, &content).await;
    // It claims to be the same, and would be asked for the rest.
    let elsewhere = origin.put("elsewhere", File::new(vec![0; FILE_BYTES]));
    let downloaded = download_wanted(&service, &Wanted { raw_url: elsewhere, ..wanted(&url, Some("Bearer new")) }).await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
    assert!(origin.record("elsewhere").0.is_empty(), "another source was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_denies_one_client_is_asked_for_the_next_with_what_that_one_brings() {
    let (origin, service, content) = (Origin::start().await, Service::start().await, random_content(1000));
    let denied = File { denial: StatusCode::FORBIDDEN, ..file(&content, "Bearer right") };
    let url = origin.put("file", denied);
    for authorization in [None, Some("Bearer wrong")] {
        let refused = register(&service, &wanted(&url, authorization)).await;
        assert_eq!(refused.code, NOT_REACHABLE, "{authorization:?}: {refused}");
    }
    // At once, although a source that fails otherwise is left alone for a while.
    let downloaded = download_wanted(&service, &wanted(&url, Some("Bearer right"))).await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_dropped_once_the_file_is_here_and_brought_again_to_mend_it() {
    let (origin, mut service, content) = (Origin::start().await, Service::start().await, random_content(FILE_BYTES));
    let url = origin.put("file", File { ending: Ending::StallsAfter(INTERRUPTED_AFTER), ..file(&content, "Bearer secret") });
    let bringing = wanted(&url, Some("Bearer secret"));
    assert_eq!(register(&service, &bringing).await.code, 200);
    stored(&service, PIECES_BEFORE).await;
    assert_eq!(header_names(&service).await, "[\"Authorization\"]", "they are needed until the file is here");
    service.kill9();
    origin.put("file", file(&content, "Bearer secret"));
    service.restart().await;
    eventually("the credentials are dropped", async || (header_names(&service).await == "[]").then_some(())).await;
    let downloaded = download_wanted(&service, &bringing).await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
    assert_eq!(header_names(&service).await, "[]", "a file that is here needs no credentials");

    // Its bytes are lost: without credentials the source is not asked, and with them it is.
    service.kill9();
    std::fs::remove_dir_all(service.home().join("pieces")).expect("removed");
    let asked_before = origin.record("file").0.len();
    service.restart().await;
    assert_eq!(register(&service, &wanted(&url, None)).await.code, 200, "peers may have what is lost here");
    eventually("the want of headers is told", async || {
        service.log().contains("headers for the source were left out").then_some(())
    })
    .await;
    assert_eq!(origin.record("file").0.len(), asked_before, "the source was asked without its headers");
    let downloaded = download_wanted(&service, &bringing).await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
    stored(&service, 4).await;
    assert_eq!(origin.record("file").0.len(), asked_before + 1, "one request brings all that was lost");
    eventually("the credentials are dropped again", async || (header_names(&service).await == "[]").then_some(())).await;
}

/// What is there of a task that was waiting for its source when a snapshot was taken and has no client any more.
async fn waiting_and_alone(origin: &Origin) -> (Service, String, String) {
    let mut service = Service::start().await;
    let url = origin.put("file", File { delay: Duration::from_secs(60), ..File::new(Bytes::from_static(b"abc")) });
    // A client of no known release is told after 4 s that the length is unknown.
    let body = json!({
        "rawUrl": url, "taskUrl": url, "cid": "a-client", "ip": "127.0.0.1", "port": 15001, "path": "/p",
        "headers": ["Authorization: Bearer x"],
    });
    let registered = exchange::ask(service.api(), post_json("/peer/registry", &body)).await;
    assert_eq!((registered.code, registered.data["fileLength"].as_i64()), (200, Some(-1)), "{registered}");
    let task = registered.data["taskId"].as_str().expect("a task id").to_owned();
    let forget = exchange::request("DELETE", "/peers/a-client", Bytes::new());
    assert_eq!(exchange::call(service.api(), forget).await.expect("answered").status, 204);
    let (home, snapshot) = (service.home(), service.home().join("s.snap"));
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    done(&["snapshot", "--home-dir", &text(&home), "--output", &text(&snapshot)]).await;
    assert!(service.terminate().await.success(), "an orderly stop");
    done(&["restore", &text(&snapshot), "--home-dir", &text(&home), "--force"]).await;
    origin.put("file", File::missing());
    service.restart().await;
    (service, url, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_task_takes_no_empty_headers_for_those_that_were_left_out() {
    let origin = Origin::start().await;
    let (service, url, task) = waiting_and_alone(&origin).await;
    let asked_before = origin.record("file").0.len();
    for headers in [vec![], vec!["Range: bytes=0-".to_owned()]] {
        // A range is another task, which is asked for as it says.
        let refused = register(&service, &Wanted { headers: headers.clone(), ..Wanted::url(&url) }).await;
        let expected = if headers.is_empty() { NEED_AUTH } else { NOT_REACHABLE };
        assert_eq!(refused.code, expected, "{headers:?}: {refused}");
    }
    assert_eq!(origin.record("file").0.len(), asked_before + 1, "the source was asked without the headers that it wants");

    // With them it is asked, and says that there is no such file: what is stored of the task and what is known of it agree.
    let refused = register(&service, &wanted(&url, Some("Bearer x"))).await;
    assert_eq!(refused.code, NOT_REACHABLE, "{refused}");
    let known = exchange::call(service.api(), get(&format!("/tasks/{task}"))).await.expect("answered");
    let known: serde_json::Value = serde_json::from_slice(&known.body).expect("JSON");
    let dump = service.dump().await;
    let stored = dump.of_kind("task").find(|line| line["task"] == task.as_str()).map(|line| line["state"].clone());
    assert_eq!(stored, Some(json!("FAILED")));
    assert_eq!(known["cdnStatus"], "FAILED", "{known}");
}
