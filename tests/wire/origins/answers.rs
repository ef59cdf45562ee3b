//! What sources say. A body comes only after the client that registered has its answer, so that whatever is wrong with
//! the body is told to a client that downloads, and never now and then to one that registers.

use bytes::Bytes;

use super::case::{long, small};
use crate::harness::origin::scripted::{Act, Asked};

/// In the second piece of two. Bytes.
pub const BROKEN_OFF_AFTER: usize = 5_000_000;
/// Of a body without end. Bytes.
pub const CHUNK_BYTES: usize = 64 * 1024;
pub const ETAG: &str = "ETag: \"1\"\r\n";

/// A status line and headers, with their line ends, and the body.
pub fn answer(head: impl Into<String>, body: impl Into<Bytes>) -> Vec<Act> {
    vec![Act::say(head.into() + "\r\n"), Act::Wait, Act::Send(body.into())]
}

/// The same, after which the connection is closed.
pub fn last_answer(head: impl Into<String>, body: impl Into<Bytes>) -> Vec<Act> {
    [answer(head, body), vec![Act::Close]].concat()
}

/// All of it, as it should be, with these headers beside its length.
pub fn whole(headers: &str, content: Bytes) -> Vec<Act> {
    answer(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{headers}", content.len()), content)
}

pub fn small_file() -> Vec<Act> {
    whole(ETAG, small())
}

/// An answer without a body.
pub fn bare(status: &str, headers: &str) -> Vec<Act> {
    vec![Act::say(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n{headers}\r\n"))]
}

/// A status that is no file, and why, for people to read.
pub fn refusal(status: &str, headers: &str) -> Vec<Act> {
    let body = small();
    vec![Act::say(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len())), Act::Send(body)]
}

/// The same, with a page of 1 GiB, which is sent until the connection is closed.
pub fn long_refusal(status: &str) -> Vec<Act> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: 1073741824\r\n\r\n");
    vec![Act::say(head), Act::SendForever(vec![7; CHUNK_BYTES].into())]
}

/// The first part of a long file; then the connection breaks.
pub fn breaking_off(headers: &str) -> Vec<Act> {
    let content = long();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{headers}", content.len());
    last_answer(head, content.slice(..BROKEN_OFF_AFTER))
}

/// The rest of a content from a byte on, as a part of it.
pub fn rest(headers: &str, content: &Bytes, from: usize) -> Vec<Act> {
    part(&format!("bytes {from}-{}/{}", content.len() - 1, content.len()), headers, content.slice(from..))
}

pub fn part(content_range: &str, headers: &str, body: Bytes) -> Vec<Act> {
    let length = body.len();
    let head = format!("HTTP/1.1 206 Partial Content\r\nContent-Length: {length}\r\nContent-Range: {content_range}\r\n{headers}");
    answer(head, body)
}

/// What is asked for of the long file: the rest where that is, else all of it.
pub fn as_asked(asked: &Asked, headers: &str) -> Vec<Act> {
    match asked.rest() {
        Some(from) => rest(headers, &long(), from),
        None => whole(headers, long()),
    }
}
