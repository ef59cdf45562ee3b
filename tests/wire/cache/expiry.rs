//! What time makes useless.

use std::time::Duration;

use serde_json::json;

use super::{files, is_stored, pull, register};
use crate::end_to_end::download;
use crate::harness::eventually;
use crate::harness::exchange::{self, post_json};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

const SHORT: &str = "base: {gcInitialDelay: 0s, gcMetaInterval: 1s, taskExpireTime: 2s, cacheExpireTime: 2s, peerGCDelay: 2s}\n";
/// Tasks live; clients and peers do not.
const CLIENTS_ONLY: &str = "base: {gcInitialDelay: 0s, gcMetaInterval: 1s, taskExpireTime: 1h, peerGCDelay: 3s}\n";
/// Longer than anything is kept here.
const SEVERAL_ROUNDS: Duration = Duration::from_secs(7);
const UNKNOWN: i64 = 502;

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_task_goes_with_its_rows_its_file_and_its_clients_and_comes_back_anew() {
    let (origin, mut service) = (Origin::start().await, Service::start_configured(SHORT).await);
    let content = random_content(5_000_000);
    let url = origin.put("file", File::new(content.clone()));
    let task = download(&service, &url).await.task;
    eventually("nothing is left", async || {
        let dump = service.dump().await;
        (dump.0.is_empty() && files(&service).is_empty()).then_some(())
    })
    .await;
    service.kill9();
    service.restart().await;
    assert_eq!(service.dump().await.0.len(), 0, "what expired came back");
    let again = download(&service, &url).await;
    assert!(again.content == content && again.task == task);
    assert_eq!(origin.record("file").0.len(), 2, "the source was asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_outlives_every_round() {
    let (origin, service) = (Origin::start().await, Service::start_configured(SHORT).await);
    let stalled = origin.put("stalled", File { ending: Ending::StallsAfter(1000), ..File::new(random_content(5_000_000)) });
    let (_waiting, fetched) = register(&service, &stalled).await.expect("it is accepted");
    // One that has begun and holds a piece in flight is silent for as long as a slow piece takes.
    let url = origin.put("file", File::new(random_content(9_000_000)));
    let (client, task) = register(&service, &url).await.expect("it is accepted");
    eventually("pieces are in flight", async || (pull(&service, &task, client.cid()).await.code == 601).then_some(())).await;
    tokio::time::sleep(SEVERAL_ROUNDS).await;
    assert!(is_stored(&service, &fetched).await, "the task went in the middle of its download");
    assert!(service.dump().await.has_client(&task, client.cid()), "a client that fetches a piece has left");
    assert_eq!(pull(&service, &task, client.cid()).await.code, 601);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_leaves_for_good_and_is_served_when_it_comes_back() {
    let (origin, mut service) = (Origin::start().await, Service::start_configured(CLIENTS_ONLY).await);
    let url = origin.put("file", File::new(random_content(5_000_000)));
    let downloaded = download(&service, &url).await;
    eventually("no client and no peer is stored", async || {
        let dump = service.dump().await;
        let left = dump.0.iter().any(|line| matches!(line["kind"].as_str(), Some("client" | "progress" | "peer")));
        (!left).then_some(())
    })
    .await;
    service.kill9();
    service.restart().await;
    let dump = service.dump().await;
    assert_eq!((dump.of_kind("client").count(), dump.of_kind("task").count()), (0, 1));
    let cid = "127.0.0.1-1-1795423513.832";
    let answer = pull(&service, &downloaded.task, cid).await;
    assert_eq!(answer.code, 601, "whoever comes is served: {answer}");
    let from = answer.data[0]["cid"].as_str().expect("a server");
    assert!(from.starts_with("cdnnode:"), "it was sent to {from}, who has left");
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_keep_a_client_and_its_peer() {
    let (origin, service) = (Origin::start().await, Service::start_configured(CLIENTS_ONLY).await);
    let url = origin.put("file", File::new(random_content(2000)));
    let (client, task) = register(&service, &url).await.expect("it is accepted");
    let port = service.dump().await.of_kind("peer").next().expect("a peer")["port"].clone();
    let heartbeat = json!({"cID": client.cid(), "IP": "127.0.0.1", "port": port});
    let api = service.api();
    let beating = tokio::spawn(async move {
        loop {
            let answer = exchange::ask(api, post_json("/peer/heartbeat", &heartbeat)).await;
            assert_eq!(answer.data["needRegister"], false, "{answer}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    tokio::time::sleep(SEVERAL_ROUNDS).await;
    assert!(service.dump().await.has_client(&task, client.cid()));
    assert!(!beating.is_finished(), "a heartbeat was told to register");
    beating.abort();
    eventually("it leaves when its heart stands still", async || {
        let dump = service.dump().await;
        (!dump.has_client(&task, client.cid()) && dump.of_kind("peer").count() == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_without_a_service_expires_nothing_at_once() {
    let origin = Origin::start().await;
    let long = "base: {gcInitialDelay: 0s, gcMetaInterval: 1s, taskExpireTime: 1h}\n";
    let mut service = Service::start_configured(long).await;
    let url = origin.put("file", File::new(random_content(2000)));
    let task = download(&service, &url).await.task;
    service.kill9();
    // As if it had been down for days.
    let long_ago = std::time::SystemTime::now() - Duration::from_hours(100);
    for file in files(&service) {
        std::fs::File::open(file).and_then(|file| file.set_modified(long_ago)).expect("the file is ours");
    }
    service.restart().await;
    tokio::time::sleep(SEVERAL_ROUNDS).await;
    assert!(is_stored(&service, &task).await, "it expired because nobody could come");
    // A reload changes it under way.
    service.reconfigure("base: {gcInitialDelay: 0s, gcMetaInterval: 1s, taskExpireTime: 1s, cacheExpireTime: 1s}\n");
    eventually("the task expires", async || (!is_stored(&service, &task).await).then_some(())).await;
    assert_eq!(pull(&service, &task, "127.0.0.1-1-1795423513.832").await.code, UNKNOWN);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_preheated_waits_for_its_first_client() {
    let (origin, mut service) = (Origin::start().await, Service::start_configured(SHORT).await);
    let content = random_content(2000);
    let url = origin.put("file", File::new(content.clone()));
    let answer = exchange::call(service.api(), post_json("/api/v1/preheats", &json!({"type": "file", "url": url}))).await;
    assert_eq!(answer.expect("an answer").status, 201);
    eventually("it is here", async || (files(&service).len() == 1).then_some(())).await;
    tokio::time::sleep(SEVERAL_ROUNDS).await;
    assert_eq!(files(&service).len(), 1, "it expired before anybody came");
    service.kill9();
    service.restart().await;
    tokio::time::sleep(SEVERAL_ROUNDS).await;
    let downloaded = download(&service, &url).await;
    assert!(downloaded.content == content);
    assert_eq!(origin.record("file").0.len(), 1, "it was fetched again");
    eventually("it expires when clients have come", async || (!is_stored(&service, &downloaded.task).await).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kept_file_of_a_forgotten_task_expires() {
    let (origin, service) = (Origin::start().await, Service::start_configured(SHORT).await);
    let url = origin.put("file", File { ending: Ending::StallsAfter(4_500_000), ..File::new(random_content(5_000_000)) });
    let (_client, task) = register(&service, &url).await.expect("it is accepted");
    eventually("a piece is stored", async || (service.dump().await.of_kind("piece").count() == 1).then_some(())).await;
    let deleted = exchange::request("DELETE", &format!("/tasks/{task}"), bytes::Bytes::new());
    assert_eq!(exchange::call(service.api(), deleted).await.expect("an answer").status, 204);
    eventually("its file is gone", async || files(&service).is_empty().then_some(())).await;
}
