//! Clients that go, die, come back or begin twice, and those that are left.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::{check_content, download};
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::{other_content, piece_count, random_content};
use crate::harness::service::Service;

/// Three pieces, the last not full.
const FILE_BYTES: usize = 9_000_000;
/// Thirteen.
const LARGE_BYTES: usize = 50 * 1024 * 1024;
const PIECES_BEFORE_DEATH: u32 = 6;
/// For a migration: this many pieces came from elsewhere.
const BROUGHT: std::ops::Range<u32> = 0..2;

struct Stage {
    origin: Origin,
    service: Service,
    content: Bytes,
    url: String,
}

impl Stage {
    async fn set(length: usize) -> Self {
        let (origin, service, content) = (Origin::start().await, Service::start().await, random_content(length));
        let url = origin.put("file", File::new(content.clone()));
        Self { origin, service, content, url }
    }

    async fn client(&self, release: &'static Release) -> Arc<Client> {
        let client = Arc::new(Client::start(release).await);
        let downloaded = download(&self.service, &client, &self.url).await;
        check_content(&downloaded, &self.content, release.name);
        client
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_sent_to_a_peer_which_has_gone_says_so_and_finishes() {
    let stage = Stage::set(FILE_BYTES).await;
    let gone = stage.client(&Release::GO_1_0_6).await;
    gone.vanish();
    for release in Release::PUBLISHED {
        let client = Arc::new(Client::start(release).await);
        let downloaded = download(&stage.service, &client, &stage.url).await;
        check_content(&downloaded, &stage.content, release.name);
        if release.name == Release::PUBLISHED[0].name {
            assert!(downloaded.transfers.failed > 0, "nobody was sent to the peer that has gone: this proves nothing");
        }
        // Whoever comes next is to meet the one that has gone, not this one.
        client.go_away(stage.service.api()).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    }
    assert_eq!(stage.origin.record("file").0.len(), 1, "the source was asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_sent_to_a_peer_which_lost_the_file_says_so_and_finishes() {
    let stage = Stage::set(FILE_BYTES).await;
    let forgetful = stage.client(&Release::GO_1_0_6).await;
    forgetful.forget();
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
    let downloaded = download(&stage.service, &client, &stage.url).await;
    check_content(&downloaded, &stage.content, "a client that was sent to a forgetful one");
    assert!(downloaded.transfers.failed > 0, "nobody was sent to the peer that lost the file: this proves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_served_other_bytes_says_so_and_finishes() {
    let stage = Stage::set(FILE_BYTES).await;
    let liar = stage.client(&Release::GO_1_0_6).await;
    liar.spoil(&other_content(&stage.content));
    for release in Release::PUBLISHED {
        let client = Arc::new(Client::start(release).await);
        let downloaded = download(&stage.service, &client, &stage.url).await;
        check_content(&downloaded, &stage.content, release.name);
        client.go_away(stage.service.api()).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    }
    assert!(liar.served() > 0, "nobody was sent to the peer that serves other bytes: this proves nothing");
    assert_eq!(stage.origin.record("file").0.len(), 1, "the source was asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_finish_when_the_third_dies() {
    for release in [&Release::GO_0_3_0, &Release::GO_1_0_6] {
        let stage = Stage::set(LARGE_BYTES).await;
        let (progress, mut arrived) = watch::channel(0);
        let start = |client: Arc<Client>| {
            let (api, wanted) = (stage.service.api(), Wanted::url(&stage.url));
            tokio::spawn(async move { client.download(api, &wanted).await })
        };
        let dying = Arc::new(Client::start(release).await.with_progress(progress));
        let death = start(dying.clone());
        let living = [Arc::new(Client::start(release).await), Arc::new(Client::start(release).await)];
        let downloads = living.clone().map(start);
        arrived.wait_for(|pieces| *pieces >= PIECES_BEFORE_DEATH).await.expect("it counts while it lives");
        // Neither answers nor reports from now on, and still has pieces in flight.
        death.abort();
        dying.vanish();
        for downloading in downloads {
            let downloaded = downloading.await.expect("a client does not panic").unwrap_or_else(|surprise| panic!("{surprise}"));
            check_content(&downloaded, &stage.content, release.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_registers_twice_at_once_is_one_client() {
    let stage = Stage::set(FILE_BYTES).await;
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
    let wanted = Wanted::url(&stage.url);
    let (one, other) = tokio::join!(client.register(stage.service.api(), &wanted), client.register(stage.service.api(), &wanted));
    for answer in [one, other] {
        let answer = answer.unwrap_or_else(|surprise| panic!("{surprise}"));
        assert_eq!((answer.code, answer.data["fileLength"].as_u64()), (200, Some(FILE_BYTES as u64)), "{answer}");
    }
    let downloaded = download(&stage.service, &client, &stage.url).await;
    check_content(&downloaded, &stage.content, "a client that registered three times");
    let dump = stage.service.dump().await;
    assert_eq!(dump.of_kind("client").count(), 1, "one client of one task");
    assert_eq!(stage.origin.record("file").0.len(), 1, "the source was asked once for each registration");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_is_found_at_its_new_port() {
    let stage = Stage::set(FILE_BYTES).await;
    let before = stage.client(&Release::GO_1_0_6).await;
    before.vanish();
    let pieces = piece_count(FILE_BYTES as u64);
    // It kept what it had, and has another port.
    let after = Client::start_as(&Release::GO_1_0_6, before.cid()).await.with_pieces(&stage.content, 0..pieces);
    let after = Arc::new(after);
    let downloaded = download(&stage.service, &after, &stage.url).await;
    check_content(&downloaded, &stage.content, "a client that came back");
    assert_eq!(downloaded.transfers.from_supernode + downloaded.transfers.from_peers, 0, "it had everything");

    let other = Arc::new(Client::start(&Release::GO_0_3_0).await);
    let downloaded = download(&stage.service, &other, &stage.url).await;
    check_content(&downloaded, &stage.content, "a client after one that came back");
    assert_eq!((downloaded.transfers.failed, downloaded.transfers.from_peers), (0, pieces), "all from the new port");
    assert_eq!(after.served(), pieces);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_lost_another_supernode_bring_what_they_hold() {
    let stage = Stage::set(LARGE_BYTES).await;
    for release in Release::PUBLISHED {
        let client = Client::start(release).await.with_pieces(&stage.content, BROUGHT);
        let client = Arc::new(client);
        let downloaded = download(&stage.service, &client, &stage.url).await;
        check_content(&downloaded, &stage.content, release.name);
        let fetched = downloaded.transfers.from_supernode + downloaded.transfers.from_peers;
        let missing = piece_count(LARGE_BYTES as u64) - BROUGHT.end;
        assert_eq!(fetched, missing, "{} fetched what it holds, or missed what it lacks", release.name);
    }
    assert_eq!(stage.origin.record("file").body_bytes(), LARGE_BYTES as u64, "the source was asked again");
}
