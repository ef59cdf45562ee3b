//! What real clients sent, sent again: captured conversations of two releases, byte for byte.
//!
//! The captures are of real clients against the Go supernode. Its answers are not all right: what ours are held against is
//! what those clients decode, and the protocol.

mod answers;
mod capture;
mod connection;
mod player;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::harness::client::Upload;
use crate::harness::exchange::{self, get};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::{random_content, range_of};
use crate::harness::service::Service;
use capture::conversations;
use player::{Player, Surroundings};

const GO_0_3_0: &str = include_str!("traffic-dfget-0.3.0.txt");
const GO_1_0_6: &str = include_str!("traffic-dfget-1.0.6.txt");
const LARGE_FILE: &str = "f50m.bin";
const LARGE_FILE_BYTES: usize = 52_428_800;
/// A peer of the second conversation, whose file is gone.
const GONE_CID: &str = "127.0.0.1-25730-1795424216.165";
const GONE_FILE: &str = "e1-25730-1795424216.165";
/// The client that is sent there.
const SENT_CID: &str = "127.0.0.2-25908-1795424218.929";
const SENT_FILE: &str = "e2-25908-1795424218.929";
const PIECES: u32 = 13;

/// A service, and a source that has what the capture's had.
struct Stage {
    origin: Origin,
    service: Service,
    files: BTreeMap<&'static str, Bytes>,
    upload: Upload,
}

impl Stage {
    async fn set() -> Self {
        let (origin, service) = (Origin::start().await, Service::start().await);
        let files = BTreeMap::from([("f3b.bin", Bytes::from("abc")), (LARGE_FILE, random_content(LARGE_FILE_BYTES))]);
        for (name, content) in &files {
            origin.put(name, File::new(content.clone()));
        }
        Self { origin, service, files, upload: Upload::start(GONE_FILE).await }
    }

    fn player(&self, piece_accepted: i64) -> Player<'_> {
        let origin = self.origin.address();
        Player::new(Surroundings { service: &self.service, origin, files: &self.files, upload: &self.upload, piece_accepted })
    }

    fn check_content(&self, content: &[u8]) {
        assert!(*content == self.files[LARGE_FILE], "the client ended with other bytes than the source has");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_0_3_0_client_sent_gets_it_a_small_and_a_large_file() {
    let stage = Stage::set().await;
    let mut player = stage.player(200);
    let capture = conversations(GO_0_3_0);
    assert_eq!(capture[0].len(), 46, "the capture is read whole");
    player.play(&capture[0]).await;
    stage.check_content(&player.finish().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_1_0_6_client_sent_gets_it_a_small_and_a_large_file() {
    let stage = Stage::set().await;
    let mut player = stage.player(611);
    let capture = conversations(GO_1_0_6);
    assert_eq!(capture[0].len(), 78, "the capture is read whole");
    player.play(&capture[0]).await;
    stage.check_content(&player.finish().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_1_0_6_client_that_is_sent_to_a_peer_without_the_file_is_sent_elsewhere() {
    let stage = Stage::set().await;
    let capture = conversations(GO_1_0_6);
    let meeting = &capture[1];
    assert_eq!(meeting.len(), 23, "the capture is read whole");
    // The peer registered before the conversation begins: with the same words, but its own names.
    let mut peer = stage.player(611);
    peer.bind(SENT_CID, GONE_CID);
    peer.bind(SENT_FILE, GONE_FILE);
    peer.play(&meeting[..1]).await;
    for piece in 0..PIECES {
        let (task, range) = (peer.task(), range_of(piece));
        let report = format!("/peer/piece/suc?taskId={task}&cid={GONE_CID}&dstCid=&pieceRange={range}");
        let answer = exchange::ask(stage.service.api(), get(&report)).await;
        assert_eq!(answer.code, 611, "{report} was answered {answer}");
    }
    let mut player = stage.player(611);
    player.play(meeting).await;
    stage.check_content(&player.finish().await);

    // The third conversation: an MD5 that does not match, of a piece that is sound.
    let before = (stage.origin.record(LARGE_FILE).0.len(), stage.service.dump().await.sorted());
    assert_eq!(capture[2].len(), 1, "the capture is read whole");
    player.play(&capture[2]).await;
    stage.check_content(&player.finish().await);
    assert_eq!((stage.origin.record(LARGE_FILE).0.len(), stage.service.dump().await.sorted()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_leaves_no_line_in_the_log() {
    let mut logs = Vec::new();
    for connections in [0, 20] {
        let mut service = Service::start().await;
        for _ in 0..connections {
            connection::open_and_close(service.api()).await;
            connection::open_and_close(service.download()).await;
        }
        // Connections are taken in the order they come, and an orderly stop waits for each.
        let answer = exchange::call(service.api(), get("/_ping")).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(answer.body, "OK", "the service does not serve on");
        assert!(service.terminate().await.success(), "an orderly stop");
        logs.push(service.log());
    }
    let lines = |log: &str| log.lines().count();
    assert_eq!(lines(&logs[1]), lines(&logs[0]), "without such connections:\n{}\nwith them:\n{}", logs[0], logs[1]);
}
