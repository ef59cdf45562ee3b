//! Piece files that are damaged on disk, and reports that say so, rightly or wrongly.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::download;
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, get, with_header};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::{PIECE_CONTENT, PIECE_SIZE, random_content, range_of, slot_of};
use crate::harness::service::Service;

/// Four pieces, the last not full.
const FILE_BYTES: usize = 15_000_000;
const REPORTER: &str = "127.0.0.1-7-1795423513.000";

struct Stage {
    origin: Origin,
    service: Service,
    content: Bytes,
    url: String,
    task: String,
}

impl Stage {
    /// A file that is stored, and of whose client nothing is left but the memory.
    async fn set() -> Self {
        let (origin, service, content) = (Origin::start().await, Service::start().await, random_content(FILE_BYTES));
        let url = origin.put("file", File::new(content.clone()));
        let task = download(&service, &url).await.task;
        Self { origin, service, content, url, task }
    }

    /// Turns a byte of a stored piece around.
    fn damage(&self, piece: u32) {
        let path = only_file_in(&self.service.home().join("pieces"));
        let mut file = fs::OpenOptions::new().write(true).open(&path).expect("a piece file can be written");
        let place = u64::from(piece) * PIECE_SIZE + 100;
        file.seek(SeekFrom::Start(place)).expect("a piece file can be sought in");
        let sound = slot_of(&self.content, piece)[100];
        file.write_all(&[!sound]).expect("a piece file can be written");
    }

    async fn accuse(&self, piece: u32) {
        let (task, range) = (&self.task, range_of(piece));
        let report = format!(
            "/peer/piece/error?errorType=FILE_MD5_NOT_MATCH&srcCid={REPORTER}&dstCid=cdnnode:127.0.0.1~{task}\
             &dstIp=127.0.0.1&taskId={task}&range={range}&realMd5={}&expectedMd5={}",
            "0".repeat(32),
            "1".repeat(32)
        );
        let answer = exchange::ask(self.service.api(), get(&report)).await;
        assert_eq!((answer.status, answer.code), (200, 200), "{report} was answered {answer}");
    }

    async fn served(&self, piece: u32) -> Bytes {
        let path = format!("/qtdown/{}/{}", &self.task[..3], self.task);
        let request = with_header(get(&path), "range", &format!("bytes={}", range_of(piece)));
        exchange::call(self.service.download(), request).await.unwrap_or_else(|error| panic!("{error}")).body
    }

    async fn is_served_right(&self, piece: u32) -> bool {
        self.served(piece).await == slot_of(&self.content, piece)
    }

    async fn wait_until_mended(&self, piece: u32) {
        eventually(&format!("piece {piece} is mended"), async || self.is_served_right(piece).await.then_some(())).await;
    }

    /// The ranges that the source was asked for since the file came.
    fn asked_again(&self) -> Vec<Option<String>> {
        self.origin.record("file").0.into_iter().skip(1).map(|seen| seen.range).collect()
    }
}

fn only_file_in(directory: &Path) -> PathBuf {
    let entries: Vec<PathBuf> =
        fs::read_dir(directory).expect("a readable directory").map(|entry| entry.expect("a readable entry").path()).collect();
    let [entry] = &entries[..] else { panic!("one file is expected below {}, not {entries:?}", directory.display()) };
    if entry.is_dir() { only_file_in(entry) } else { entry.clone() }
}

fn content_range(piece: u32) -> Option<String> {
    let start = u64::from(piece) * PIECE_CONTENT;
    Some(format!("bytes={start}-{}", start + PIECE_CONTENT - 1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_piece_is_fetched_again_and_nothing_else() {
    let stage = Stage::set().await;
    let before = stage.service.dump().await.sorted();
    stage.damage(1);
    assert!(!stage.is_served_right(1).await, "the damage is to be seen by whoever fetches the piece");
    // Of a piece that is sound, nothing comes of the report.
    stage.accuse(0).await;
    stage.accuse(1).await;
    stage.wait_until_mended(1).await;
    assert_eq!(stage.asked_again(), [content_range(1)], "exactly the damaged piece");
    for piece in 0..4 {
        assert!(stage.is_served_right(piece).await, "piece {piece} is damaged");
    }
    eventually("the task is as it was", async || (stage.service.dump().await.sorted() == before).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_reports_no_bad_pieces_gets_a_damaged_one_all_the_same() {
    let stage = Stage::set().await;
    for (piece, release) in [(1, &Release::GO_0_3_0), (2, &Release::PYTHON_0_2)] {
        stage.damage(piece);
        let client = Arc::new(Client::start(release).await);
        let downloaded = client.download(stage.service.api(), &Wanted::url(&stage.url)).await;
        let downloaded = downloaded.unwrap_or_else(|surprise| panic!("{}: {surprise}", release.name));
        assert!(downloaded.content == stage.content, "{} ended with other bytes", release.name);
        assert!(stage.is_served_right(piece).await, "piece {piece} is damaged");
    }
    assert_eq!(stage.asked_again(), [content_range(1), content_range(2)], "exactly the damaged pieces");
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_that_are_reported_at_once_are_all_mended() {
    let stage = Stage::set().await;
    for piece in [0, 2] {
        stage.damage(piece);
    }
    for piece in [0, 2, 2, 0] {
        stage.accuse(piece).await;
    }
    for piece in [0, 2] {
        stage.wait_until_mended(piece).await;
    }
    let mut asked = stage.asked_again();
    asked.sort();
    assert_eq!(asked, [content_range(0), content_range(2)], "each once");
}
