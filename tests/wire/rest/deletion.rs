//! Forgetting tasks and peers, whatever is under way.

use std::path::PathBuf;
use std::sync::Arc;

use super::{call, fetch, refused};
use crate::end_to_end::download;
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, get};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

fn files_of(service: &Service, task: &str) -> Vec<PathBuf> {
    let directory = service.home().join("pieces").join(&task[..3]);
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.expect("a readable entry").path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_forgotten_with_its_file_and_without() {
    let (origin, mut service) = (Origin::start().await, Service::start().await);
    let content = random_content(5_000_000);
    for (name, query, files_left) in [("with", "?full=true", 0), ("without", "", 1)] {
        let url = origin.put(name, File::new(content.clone()));
        let task = download(&service, &url).await.task;
        assert_eq!(files_of(&service, &task).len(), 1);
        let path = format!("/tasks/{task}");
        assert_eq!(call(service.api(), "DELETE", &format!("{path}{query}")).await.status, 204);
        assert_eq!(files_of(&service, &task).len(), files_left, "{name}");

        // A kill right after the answer brings nothing back.
        service.kill9();
        service.restart().await;
        refused(service.api(), "GET", &path, 404, "no such task").await;
        refused(service.api(), "DELETE", &path, 404, "no such task").await;
        assert!(service.dump().await.0.iter().all(|line| line["task"] != task), "rows of a forgotten task are left");
        assert!(files_of(&service, &task).is_empty(), "{name}: a file that no task names outlived a start");

        assert!(download(&service, &url).await.content == content, "{name}: the next registration begins anew");
        assert_eq!(origin.record(name).0.len(), 2, "{name}: the source was asked again");
    }
}

/// The `ETag` under which the download port gives the first bytes of a task's file.
async fn etag(service: &Service, task: &str) -> String {
    let request = exchange::with_header(get(&format!("/qtdown/{}/{task}", &task[..3])), "range", "bytes=0-9");
    let response = exchange::call(service.download(), request).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(response.status, 206, "{response}");
    response.header("etag").expect("an ETag").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_comes_anew_has_the_etag_of_its_content() {
    let (origin, mut service) = (Origin::start().await, Service::start().await);
    let first = random_content(5_000_000);
    let mut longer = first.to_vec();
    longer.extend_from_slice(b"more");
    let (other, url) = (random_content(5_000_000), origin.put("file", File::new(first.clone())));
    let task = download(&service, &url).await.task;
    let mut seen = vec![etag(&service, &task).await];
    service.kill9();
    service.restart().await;
    assert_eq!(etag(&service, &task).await, seen[0], "a start changes no content");
    // Another content under the same validators, and the same first piece under others.
    for file in [File::new(other), File { revision: 2, ..File::new(longer) }, File { revision: 3, ..File::new(first) }] {
        assert_eq!(call(service.api(), "DELETE", &format!("/tasks/{task}?full=true")).await.status, 204);
        origin.put("file", file);
        assert_eq!(download(&service, &url).await.task, task);
        seen.push(etag(&service, &task).await);
    }
    let distinct: std::collections::HashSet<&String> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len(), "two contents have one ETag: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_file_goes_with_the_next_registration() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let url = origin.put("file", File::new(random_content(2000)));
    let task = download(&service, &url).await.task;
    assert_eq!(call(service.api(), "DELETE", &format!("/tasks/{task}")).await.status, 204);
    let old = files_of(&service, &task);
    download(&service, &url).await;
    eventually("the file of the forgotten task is gone", async || {
        let files = files_of(&service, &task);
        (files.len() == 1 && files != old).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_forgotten_in_the_middle_of_its_download() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let content = random_content(9_000_000);
    let url = origin.put("file", File { ending: Ending::StallsAfter(5_000_000), ..File::new(content.clone()) });
    let client = Client::start(&Release::GO_1_0_6).await;
    let registered = client.register(service.api(), &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    let task = registered.data["taskId"].as_str().expect("a task id").to_owned();
    // One who has what there is so far, and is held.
    let ask = |piece: u64, result: u16| {
        let range = format!("{}-{}", piece * 4_194_304, (piece + 1) * 4_194_304 - 1);
        get(&format!("/peer/task?srcCid={}&dstCid=&range={range}&result={result}&status=701&taskId={task}", client.cid()))
    };
    let api = service.api();
    let held = tokio::spawn(exchange::ask(api, ask(0, 503)));
    eventually("the report is in a dump", async || service.dump().await.held(&task, client.cid()).contains(&0).then_some(()))
        .await;
    assert_eq!(call(api, "DELETE", &format!("/tasks/{task}?full=true")).await.status, 204);
    let answer = held.await.expect("asking does not panic");
    assert!(matches!(answer.code, 502 | 602), "a held question about a task that is forgotten: {answer}");
    assert_eq!(exchange::ask(api, ask(1, 503)).await.code, 502, "the task is unknown now");
    assert!(files_of(&service, &task).is_empty());

    // The next registration has nothing of the old one, whose source still stalls.
    origin.put("file", File::new(content.clone()));
    assert!(download(&service, &url).await.content == content);
    let old = service.dump().await.held(&task, client.cid());
    assert!(old.is_empty(), "a client of the forgotten task holds {old:?} of the new one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_peer_is_sent_to_by_nobody_and_served_on() {
    let (origin, mut service) = (Origin::start().await, Service::start().await);
    let content = random_content(9_000_000);
    let url = origin.put("file", File::new(content.clone()));
    let first = Arc::new(Client::start(&Release::GO_1_0_6).await);
    let downloaded = first.download(service.api(), &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    assert_eq!(call(service.api(), "DELETE", &format!("/peers/{}", first.cid())).await.status, 204);
    service.kill9();
    service.restart().await;
    refused(service.api(), "GET", &format!("/peers/{}", first.cid()), 404, "no such peer").await;
    let clients = fetch(service.api(), &format!("/tasks/{}/clients", downloaded.task)).await;
    assert_eq!(clients, serde_json::json!([]));

    let served_before = first.served();
    assert!(download(&service, &url).await.content == content);
    assert_eq!(first.served(), served_before, "somebody was sent to a peer that is forgotten");
    let again = first.download(service.api(), &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    assert!(again.content == content, "it may come back");
}
