//! The golden values, asked of the running service: task ids, piece sizes, and every byte of the cached files.

use std::collections::HashSet;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

use crate::harness::eventually;
use crate::harness::exchange::{self, Answer, Response};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::{PIECE_SIZE, golden_content, md5_hex, piece_md5};
use crate::harness::service::Service;

const CID: &str = "127.0.0.1-19168-1795423513.832";
/// `downLink` by default. KiB per second.
const LINK_KIB_PER_S: u64 = 20480;

#[tokio::test(flavor = "multi_thread")]
async fn task_ids_are_those_of_every_supernode() {
    let vectors = read_vectors("task_id.json");
    let origin = Origin::start().await;
    // The md5 of the vectors is that of nothing; a range needs something.
    let empty = origin.put("empty", File::new(Bytes::new()));
    let ranged = origin.put("ranged", File::new(golden_content(200)));
    let (service, another) = (Service::start().await, Service::start().await);
    let mut registered = HashSet::new();
    for case in vectors["cases"].as_array().expect("a list of cases") {
        let range = case["rangeHeader"].as_str().expect("a string");
        let mut body = registration(if range.is_empty() { &empty } else { &ranged });
        for name in ["taskUrl", "md5", "identifier"] {
            body[name] = case[name].clone();
        }
        if !range.is_empty() {
            body["headers"] = json!([format!("Range: {range}")]);
        }
        let home = if registered.insert(case["taskId"].to_string()) {
            &service
        } else {
            // An md5 hides the identifier from the id, so here two downloads have one id: the home knows the other.
            let conflict = exchange::ask(service.api(), exchange::post_json("/peer/registry", &body)).await;
            assert_eq!(conflict.code, 606, "{case} after one with another identifier: {conflict}");
            &another
        };
        let answer = register(home.api(), &body).await;
        assert_eq!(answer.data["taskId"], case["taskId"], "{case}: {answer}");
        let length = if range.is_empty() { 0 } else { 100 };
        assert_eq!(answer.data["fileLength"], length, "{case}: {answer}");
    }
    let record = origin.record("ranged").0;
    assert!(
        record.iter().all(|seen| seen.range.as_deref() == Some("bytes=0-99")),
        "the task's own range is asked for: {record:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn piece_sizes_follow_from_the_length() {
    let vectors = read_vectors("piece_size.json");
    let origin = Origin::start().await;
    let service = Service::start().await;
    for case in vectors.as_array().expect("a list of cases") {
        // The length is announced; the bytes never come.
        let announced_length = case["fileLength"].as_u64();
        let chunked = announced_length.is_none();
        let file = File { announced_length, chunked, ending: Ending::StallsAfter(0), ..File::new(Bytes::new()) };
        let url = origin.put(&format!("file{}", case["fileLength"]), file);
        let answer = register(service.api(), &registration(&url)).await;
        for name in ["fileLength", "pieceSize"] {
            assert_eq!(answer.data[name], case[name], "{name} of {case}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_files_are_laid_out_as_ever() {
    let vectors = read_vectors("piece_layout.json");
    let origin = Origin::start().await;
    let service = Service::start().await;
    for case in vectors.as_array().expect("a list of cases") {
        let length = usize::try_from(number(case, "sourceLength")).expect("a vector's file is small");
        let url = origin.put(&format!("file-{length}"), File::new(golden_content(length)));
        let answer = register(service.api(), &registration(&url)).await;
        assert_eq!(answer.data["fileLength"], case["sourceLength"], "{answer}");
        assert_eq!(answer.data["pieceSize"], case["pieceSize"], "{answer}");
        let cached = Cached { service: &service, task: text(&answer.data, "taskId").to_owned(), case };
        cached.check().await;
    }
}

/// A file that the service is to cache, and what it must look like.
struct Cached<'a> {
    service: &'a Service,
    task: String,
    case: &'a Value,
}

impl Cached<'_> {
    async fn check(&self) {
        let entries = self.pull().await;
        let mut whole = BytesMut::new();
        for expected in self.case["pieces"].as_array().expect("a list of pieces") {
            let piece = number(expected, "pieceNum");
            let entry = entries.iter().find(|entry| entry["pieceNum"] == piece);
            self.check_entry(entry.unwrap_or_else(|| panic!("piece {piece} was never handed out: {entries:?}")), expected);
            whole.extend_from_slice(&self.check_slot(expected, whole.len() as u64).await);
        }
        self.check_whole(&whole.freeze()).await;
        self.check_past_the_end().await;
    }

    /// Asks until every piece was handed out; those in flight are told of again, so the last answer has them all.
    async fn pull(&self) -> Vec<Value> {
        let asked = format!("/peer/task?srcCid={CID}&dstCid=&range=&result=502&status=700&taskId={}", self.task);
        eventually("every piece is handed out", async || {
            let answer = exchange::ask(self.service.api(), exchange::get(&asked)).await;
            assert!(matches!(answer.code, 601 | 602), "{asked} was answered {answer}");
            let entries = answer.data.as_array().cloned().unwrap_or_default();
            (entries.len() as u64 == number(self.case, "pieceTotal")).then_some(entries)
        })
        .await
    }

    fn check_entry(&self, entry: &Value, expected: &Value) {
        for name in ["range", "pieceMd5", "pieceNum"] {
            assert_eq!(entry[name], expected[name], "{name} of {entry}");
        }
        assert_eq!(entry["pieceSize"], self.case["pieceSize"], "{entry}");
        assert_eq!(entry["cid"], format!("cdnnode:127.0.0.1~{}", self.task), "{entry}");
        assert_eq!(entry["peerIp"], "127.0.0.1", "{entry}");
        assert_eq!(entry["peerPort"], self.service.download().port(), "{entry}");
        assert_eq!(entry["path"], self.path("qtdown"), "{entry}");
        assert_eq!(entry["downLink"], LINK_KIB_PER_S, "{entry}");
    }

    fn path(&self, root: &str) -> String {
        format!("/{root}/{}/{}", &self.task[..3], self.task)
    }

    /// Fetches a slot by its range, which runs past the end of the last one, at both paths.
    async fn check_slot(&self, expected: &Value, start: u64) -> Bytes {
        let range = format!("bytes={}", text(expected, "range"));
        let part = self.fetch("qtdown", Some(&range)).await;
        assert_eq!(part.status, 206, "{expected}: {part}");
        assert_eq!(piece_md5(&part.body), text(expected, "pieceMd5"), "{expected}: {part}");
        assert_eq!(hex::encode(&part.body[..4]), text(expected, "header"), "{expected}: {part}");
        assert_eq!(part.body.last(), Some(&0x7f), "{expected}: {part}");
        let end = (start + PIECE_SIZE).min(self.cached_length()) - 1;
        let content_range = format!("bytes {start}-{end}/{}", self.cached_length());
        assert_eq!(part.header("content-range"), Some(content_range.as_str()), "{expected}: {part}");
        let old_path = self.fetch("download", Some(&range)).await;
        assert!(old_path.status == 206 && old_path.body == part.body, "{expected} under /download: {old_path}");
        part.body
    }

    async fn check_whole(&self, expected: &Bytes) {
        assert_eq!(expected.len() as u64, self.cached_length(), "{}", self.case);
        // It is complete once the source's md5 is known, which is a moment after the last piece.
        self.check_finished().await;
        let whole = self.fetch("qtdown", None).await;
        assert_eq!(whole.status, 200, "{whole}");
        assert!(whole.body == *expected, "the whole is not the sum of its parts: {whole}");
    }

    async fn check_past_the_end(&self) {
        let past = self.cached_length();
        for range in [format!("bytes={past}-{}", past + PIECE_SIZE - 1), format!("bytes={past}-")] {
            let refused = self.fetch("qtdown", Some(&range)).await;
            assert_eq!(refused.status, 416, "{range} of {past} bytes: {refused}");
        }
        let last = self.fetch("qtdown", Some(&format!("bytes={}-", past - 1))).await;
        assert!(last.status == 206 && last.body[..] == [0x7f], "the last byte alone: {last}");
    }

    /// Reports every piece, which ends the download with what the vector says of the whole.
    async fn check_finished(&self) {
        let answer = eventually("a client with every piece is told that this was all", async || {
            let mut last = None;
            for piece in self.case["pieces"].as_array().expect("a list of pieces") {
                let (range, task) = (text(piece, "range"), &self.task);
                let asked = format!("/peer/task?srcCid={CID}&dstCid=&range={range}&result=503&status=701&taskId={task}");
                last = Some(exchange::ask(self.service.api(), exchange::get(&asked)).await);
            }
            last.filter(|answer| answer.code == 600)
        })
        .await;
        assert_eq!(answer.data["md5"], self.case["sourceMd5"], "{answer}");
        assert_eq!(answer.data["fileLength"], self.case["cachedLength"], "{answer}");
    }

    fn cached_length(&self) -> u64 {
        number(self.case, "cachedLength")
    }

    async fn fetch(&self, root: &str, range: Option<&str>) -> Response {
        let request = exchange::get(&self.path(root));
        let request = match range {
            Some(range) => exchange::with_header(request, "range", range),
            None => request,
        };
        exchange::call(self.service.download(), request).await.unwrap_or_else(|error| panic!("{range:?}: {error}"))
    }
}

#[test]
fn the_golden_content_is_the_one_that_the_vectors_were_made_of() {
    for case in read_vectors("piece_layout.json").as_array().expect("a list of cases") {
        let length = usize::try_from(number(case, "sourceLength")).expect("a vector's file is small");
        assert_eq!(md5_hex(&golden_content(length)), text(case, "sourceMd5"), "{length} bytes");
    }
}

async fn register(api: SocketAddr, body: &Value) -> Answer {
    let answer = exchange::ask(api, exchange::post_json("/peer/registry", body)).await;
    assert_eq!(answer.code, 200, "{body} was answered {answer}");
    answer
}

fn registration(url: &str) -> Value {
    json!({
        "superNodeIp": "127.0.0.1", "rawUrl": url, "taskUrl": url, "cid": CID, "ip": "127.0.0.1", "hostName": "host",
        "port": 15001, "path": "/peer/file/a-file", "version": "1.0.6",
    })
}

fn read_vectors(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no number {name:?} in {value}"))
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_else(|| panic!("no string {name:?} in {value}"))
}
