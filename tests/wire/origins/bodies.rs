//! Bodies: how long they are said to be, and how long they are.

use std::time::Duration;

use bytes::Bytes;

use super::answers::{BROKEN_OFF_AFTER, CHUNK_BYTES, ETAG, answer, as_asked, breaking_off, last_answer, small_file, whole};
use super::case::{BUFFERED_MAX, Case, Group, IMPATIENT, case, long, small};
use crate::harness::client::Wanted;
use crate::harness::origin::scripted::{Act, Asked};
use crate::harness::pieces::md5_hex;

const QUOTA: &str = "base: {repositoryQuota: 20M}\n";
const QUOTA_BYTES: usize = 20 * 1024 * 1024;
/// No disk has so much free.
const FULL: &str = "base: {youngGCThreshold: 1000000G, fullGCThreshold: 1000000G}\n";

pub fn group() -> Group {
    let cases = [lengths(), endless(), interrupted(), digests()].into_iter().flatten().collect();
    Group { title: "Bodies and their lengths", cases }
}

/// A body in one chunk, and how it ends.
fn chunked(body: &Bytes, end: &str) -> Bytes {
    [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n", end.as_bytes()].concat().into()
}

fn lengths() -> Vec<Case> {
    vec![
        case("tells its length", |_| small_file()),
        case("has an empty file", |_| whole("", Bytes::new())).of(Bytes::new()),
        case("has an empty file and does not say so", |_| last_answer("HTTP/1.1 200 OK\r\n", Bytes::new())).of(Bytes::new()),
        case("tells no length and closes at the end (HTTP/1.0)", |_| last_answer("HTTP/1.0 200 OK\r\n", small())),
        case("tells no length and closes at the end (HTTP/1.1), two pieces", |_| last_answer("HTTP/1.1 200 OK\r\n", long()))
            .of(long()),
        case("sends chunks", |_| {
            let mut acts = answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", Bytes::new());
            acts.extend([Act::say("3e8\r\n"), Act::Send(small()), Act::say("\r\n0\r\n\r\n")]);
            acts
        }),
        case("sends chunks and closes before the last", |_| {
            last_answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", chunked(&small(), ""))
        }),
        case("announces more than it has, and closes", |_| last_answer("HTTP/1.1 200 OK\r\nContent-Length: 1100\r\n", small())),
        case("announces more than it has, and falls silent", |_| {
            [answer("HTTP/1.1 200 OK\r\nContent-Length: 1100\r\n", small()), vec![Act::FallSilent]].concat()
        })
        .under(IMPATIENT),
        case("sends more than it announced", |_| {
            last_answer("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n", [small(), small().slice(..100)].concat())
        }),
    ]
}

fn endless() -> Vec<Case> {
    let content = Bytes::from(vec![7; QUOTA_BYTES]);
    let chunk = Bytes::from(vec![7; CHUNK_BYTES]);
    let (endless, on_full_disk, announced) = (chunk.clone(), chunk.clone(), chunk.clone());
    let framed = chunked(&chunk, "");
    let announcing = |what: &str, bytes: u64| {
        let chunk = chunk.clone();
        case(what, move |_| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
            vec![Act::say(head), Act::SendForever(chunk.clone())]
        })
        .refused_within(BUFFERED_MAX)
    };
    vec![
        case("sends without end and without a length, with fullGCThreshold above what the disk has free", move |_| {
            [answer("HTTP/1.0 200 OK\r\n", Bytes::new()), vec![Act::SendForever(on_full_disk.clone())]].concat()
        })
        .of(content.clone())
        .under(FULL)
        .sending_at_most(2.0),
        case("announces 15 TB and sends without end, with fullGCThreshold above what the disk has free", move |_| {
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 15000000000000\r\n\r\n";
            vec![Act::say(head), Act::SendForever(announced.clone())]
        })
        .of(content.clone())
        .under(FULL)
        .sending_at_most(2.0),
        case("tells no length and ends, two pieces, with fullGCThreshold above what the disk has free", |_| {
            last_answer("HTTP/1.1 200 OK\r\n", long())
        })
        .of(long())
        .under(FULL),
        case("sends chunks without end, with repositoryQuota at 20 MiB", move |_| {
            let head = answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", Bytes::new());
            [head, vec![Act::SendForever(framed.clone())]].concat()
        })
        .of(content.clone())
        .under(QUOTA)
        .sending_at_most(2.0),
        case("sends without end and without a length (HTTP/1.0), with repositoryQuota at 20 MiB", move |_| {
            [answer("HTTP/1.0 200 OK\r\n", Bytes::new()), vec![Act::SendForever(endless.clone())]].concat()
        })
        .of(content)
        // Of its own, so that what the other fills is not in its way.
        .under("base: {repositoryQuota: 20M }\n")
        .sending_at_most(2.0),
        announcing("announces 1 GiB, with repositoryQuota at 20 MiB", 1 << 30).under("base: { repositoryQuota: 20M}\n"),
        announcing("announces more pieces than a file may have (16 TiB)", 1 << 44),
        announcing("announces more than clients can count (2^63 bytes)", 1 << 63),
    ]
}

fn interrupted() -> Vec<Case> {
    /// Nothing new comes after the first piece.
    fn then(asked: &Asked, end: Act) -> Vec<Act> {
        match asked.rest() {
            None => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{ETAG}", long().len());
                [answer(head, long().slice(..BROKEN_OFF_AFTER)), vec![end]].concat()
            }
            Some(from) => {
                let content = long();
                let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: {range}\r\n{ETAG}",
                    content.len() - from
                );
                [answer(head, content.slice(from..from + 1000)), vec![end]].concat()
            }
        }
    }
    vec![
        case("breaks off once", |asked| if asked.number == 0 { breaking_off(ETAG) } else { as_asked(asked, ETAG) }).of(long()),
        case("breaks off always", |asked| then(asked, Act::Close)).of(long()),
        case("falls silent once", |asked| if asked.number == 0 { then(asked, Act::FallSilent) } else { as_asked(asked, ETAG) })
            .of(long())
            .under(IMPATIENT),
        case("falls silent always", |asked| then(asked, Act::FallSilent)).of(long()).under(IMPATIENT),
        case("sends its body with pauses that are shorter than sourceIdleTimeout", |_| {
            let parts = (0..10).flat_map(|part| {
                [Act::Send(small().slice(100 * part..100 * (part + 1))), Act::Pause(Duration::from_millis(200))]
            });
            [answer("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n", Bytes::new()), parts.collect()].concat()
        })
        .under(IMPATIENT),
    ]
}

fn digests() -> Vec<Case> {
    vec![
        case("has the md5 that the client knows", |_| small_file())
            .asked(|wanted| Wanted { md5: Some(md5_hex(&small())), ..wanted }),
        case("has another md5 than the client knows", |_| small_file())
            .asked(|wanted| Wanted { md5: Some(md5_hex(&long())), ..wanted }),
        case("has another md5 than the client knows, two pieces", |asked| as_asked(asked, ETAG))
            .of(long())
            .asked(|wanted| Wanted { md5: Some(md5_hex(&small())), ..wanted }),
        case("has another md5 than the client knows, two pieces, and tells no length", |_| {
            last_answer("HTTP/1.1 200 OK\r\n", long())
        })
        .of(long())
        .asked(|wanted| Wanted { md5: Some(md5_hex(&small())), ..wanted }),
    ]
}
