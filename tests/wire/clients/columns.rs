//! Each release by itself, through every kind of file; and all of them in one swarm.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{check_content, download};
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

const LARGE_BYTES: usize = 50 * 1024 * 1024;
/// Three pieces, the last not full.
const CHUNKED_BYTES: usize = 9_000_000;
const CLIENTS_PER_RELEASE: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn python_0_2_gets_every_kind_of_file() {
    check_every_kind(&Release::PYTHON_0_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn go_0_3_0_gets_every_kind_of_file() {
    check_every_kind(&Release::GO_0_3_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn go_0_4_3_gets_every_kind_of_file() {
    check_every_kind(&Release::GO_0_4_3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn go_1_0_6_gets_every_kind_of_file() {
    check_every_kind(&Release::GO_1_0_6).await;
}

/// 50 MiB, 3 bytes, none (and once more, now that it is cached), and a length that nobody knows.
async fn check_every_kind(release: &'static Release) {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let small = File::new(Bytes::from("abc"));
    let chunked = File { chunked: true, ..File::new(random_content(CHUNKED_BYTES)) };
    for (name, file) in [
        ("large", File::new(random_content(LARGE_BYTES))),
        ("small", small),
        ("empty", File::new(Bytes::new())),
        ("empty", File::new(Bytes::new())),
        ("chunked", chunked),
    ] {
        let url = origin.put(name, file.clone());
        let client = Arc::new(Client::start(release).await);
        let downloaded = download(&service, &client, &url).await;
        println!("{} had the {name} file after {:?}", release.name, downloaded.took);
        check_content(&downloaded, &file.content, &format!("{} with the {name} file", release.name));
        assert_eq!(downloaded.transfers.failed, 0, "{} with the {name} file: everybody who serves is there", release.name);
        client.go_away(service.api()).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    }
    assert_eq!(origin.record("empty").0.len(), 1, "an empty file that is here already was fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_all_releases_share_one_swarm() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let content = random_content(LARGE_BYTES);
    let wanted = Wanted::url(&origin.put("file", File::new(content.clone())));
    let mut swarm = JoinSet::new();
    // They serve until the last of them is done.
    let mut clients = Vec::new();
    for release in Release::PUBLISHED.iter().chain([&&Release::DOCUMENTED]).cycle().take(5 * CLIENTS_PER_RELEASE) {
        let client = Arc::new(Client::start(release).await);
        clients.push(client.clone());
        let (api, wanted) = (service.api(), wanted.clone());
        swarm.spawn(async move { (client.download(api, &wanted).await, release.name) });
    }
    let mut from_peers = 0;
    while let Some(ended) = swarm.join_next().await {
        let (downloaded, name) = ended.expect("a client does not panic");
        let downloaded = downloaded.unwrap_or_else(|surprise| panic!("{surprise}"));
        check_content(&downloaded, &content, name);
        assert_eq!(downloaded.transfers.failed, 0, "{name}: everybody who serves is there");
        from_peers += downloaded.transfers.from_peers;
    }
    assert!(from_peers > 0, "nobody fetched anything from a client of another release");
    assert_eq!(origin.record("file").0.len(), 1, "the source was asked more than once");
    for client in clients {
        assert_eq!(client.asked_in_vain(), 0, "a client was asked for a piece that it never said to serve");
    }
}
