//! Sources that are too small for a file of their own: they lie in the database, and go wherever that goes.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::Value;

use super::download;
use super::snapshots::{done, text};
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, get};
use crate::harness::origin::scripted::{Act, Scripted};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

/// The longest that has no file. Bytes.
const SMALL_MAX_BYTES: usize = 1024;

fn piece_files(service: &Service) -> usize {
    let directories = std::fs::read_dir(service.home().join("pieces")).expect("a home has pieces");
    directories.map(|entry| std::fs::read_dir(entry.expect("readable").path()).map_or(0, Iterator::count)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn small_sources_have_no_files_and_are_served_like_others() {
    let (origin, mut service) = (Origin::start().await, Service::start().await);
    let files: Vec<_> = [0, 1, 3, SMALL_MAX_BYTES, SMALL_MAX_BYTES + 1].map(random_content).into();
    let urls: Vec<String> =
        files.iter().map(|content| origin.put(&format!("of-{}", content.len()), File::new(content.clone()))).collect();
    for (url, content) in urls.iter().zip(&files) {
        assert!(download(&service, url).await.content == *content, "{url}");
    }
    assert_eq!(piece_files(&service), 1, "only what is too large has a file");
    service.kill9();
    service.restart().await;
    for (url, content) in urls.iter().zip(&files) {
        assert!(download(&service, url).await.content == *content, "{url} after a kill");
        let name = url.rsplit('/').next().expect("a name");
        assert_eq!(origin.record(name).0.len(), 1, "{url} was fetched again");
    }
}

/// Registers a client; tells the task.
async fn register(service: &Service, url: &str) -> String {
    let client = Client::start(&Release::GO_1_0_6).await;
    let answer = client.register(service.api(), &Wanted::url(url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    assert_eq!(answer.data["fileLength"], 3, "{answer}");
    answer.data["taskId"].as_str().expect("a task id").to_owned()
}

async fn status(service: &Service, task: &str) -> String {
    let told =
        exchange::call(service.api(), get(&format!("/tasks/{task}"))).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    let told: Value = serde_json::from_slice(&told.body).expect("a task");
    told["cdnStatus"].as_str().expect("a status").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_that_comes_with_its_head_is_here_once_its_registration_is_answered() {
    let at_once = |_: &_| vec![Act::say("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")];
    let origin = Scripted::start(Arc::new(at_once), Ipv4Addr::LOCALHOST.into(), None, None).await;
    let mut service = Service::start().await;
    let urls: Vec<String> = (0..20).map(|number| format!("http://{}/{number}", origin.address())).collect();
    for url in &urls {
        let task = register(&service, url).await;
        assert_eq!(status(&service, &task).await, "SUCCESS");
    }
    service.kill9();
    service.restart().await;
    for url in &urls {
        assert!(download(&service, url).await.content == "abc", "{url}");
    }
    assert_eq!(origin.sent().requests, urls.len(), "what was here is fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_for_a_content_that_comes_with_its_head_are_never_stored() {
    let (origin, mut service) = (Origin::start().await, Service::start().await);
    let (secret, kept) = ("Bearer not-to-be-kept", "a-name-that-is-kept");
    let url = origin.put(kept, File { authorization: Some(secret.to_owned()), ..File::new("abc") });
    let client = Client::start(&Release::GO_1_0_6).await;
    let wanted = Wanted { headers: vec![format!("Authorization: {secret}")], ..Wanted::url(&url) };
    let answer = client.register(service.api(), &wanted).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    assert_eq!(answer.data["fileLength"], 3, "{answer}");
    service.kill9();
    let database = std::fs::read(service.home().join("db/db")).expect("readable");
    let has = |text: &str| database.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has(kept) && !has(secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_that_does_not_come_with_its_head_keeps_no_registration_waiting() {
    let late = |_: &_| vec![Act::say("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"), Act::Wait, Act::Send("abc".into())];
    let origin = Scripted::start(Arc::new(late), Ipv4Addr::LOCALHOST.into(), None, None).await;
    let service = Service::start().await;
    let url = format!("http://{}/file", origin.address());
    let task = register(&service, &url).await;
    assert_eq!(status(&service, &task).await, "RUNNING");
    origin.go_on();
    assert!(download(&service, &url).await.content == "abc");
    assert_eq!((status(&service, &task).await.as_str(), origin.sent().requests), ("SUCCESS", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_home_has_the_small_sources_without_piece_files() {
    let (origin, mut service) = (Origin::start().await, Service::start().await);
    let content = random_content(700);
    let url = origin.put("file", File::new(content.clone()));
    download(&service, &url).await;
    let home = service.home();
    let snapshot = home.join("s.snap");
    done(&["snapshot", "--home-dir", text(&home), "--output", text(&snapshot)]).await;
    assert!(service.terminate().await.success(), "an orderly stop");
    std::fs::remove_dir_all(home.join("db")).expect("removed");
    std::fs::remove_dir_all(home.join("pieces")).expect("removed");
    done(&["restore", text(&snapshot), "--home-dir", text(&home)]).await;
    done(&["check", "--home-dir", text(&home)]).await;
    service.restart().await;
    assert!(download(&service, &url).await.content == content);
    assert_eq!(origin.record("file").0.len(), 1, "it was fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_source_that_changes_is_replaced() {
    let (origin, service) = (Origin::start().await, Service::start_configured("base: {revalidateAfter: 1s}\n").await);
    let (before, after) = (random_content(10), random_content(900));
    let url = origin.put("file", File::new(before.clone()));
    assert!(download(&service, &url).await.content == before);
    origin.put("file", File { revision: 2, ..File::new(after.clone()) });
    eventually("the new one is told", async || (download(&service, &url).await.content == after).then_some(())).await;
    assert_eq!(piece_files(&service), 0);
}
