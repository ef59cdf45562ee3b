//! Answers that are odd, or no answers at all.

use std::time::Duration;

use bytes::Bytes;

use super::answers::{ETAG, answer, last_answer, small_file, whole};
use super::case::{BUFFERED_MAX, Case, Group, IMPATIENT, KIB, case, small};
use crate::harness::origin::scripted::Act;

/// Shorter than the timeout of a service that is impatient.
const BETWEEN_LINES: Duration = Duration::from_millis(700);

pub fn headers() -> Group {
    let cases = [lengths(), codings(), sizes()].into_iter().flatten().collect();
    Group { title: "Headers", cases }
}

/// A good answer, but for this in the place of its length.
fn framed(what: &str, framing: &'static str) -> Case {
    case(what, move |_| last_answer(format!("HTTP/1.1 200 OK\r\n{framing}\r\n"), small()))
}

fn lengths() -> Vec<Case> {
    vec![
        framed("tells its length twice", "Content-Length: 1000\r\nContent-Length: 1000"),
        framed("tells its length twice in one header", "Content-Length: 1000, 1000"),
        framed("tells two lengths", "Content-Length: 1000\r\nContent-Length: 999"),
        framed("tells two lengths in one header", "Content-Length: 1000, 999"),
        framed("tells a negative length", "Content-Length: -1"),
        framed("tells a length with a sign", "Content-Length: +1000"),
        framed("tells a length that is no number", "Content-Length: abc"),
        framed("tells an empty length", "Content-Length:"),
        framed("tells a length beyond 64 bits", "Content-Length: 18446744073709551616"),
    ]
}

/// In chunks, written by hand.
fn chunks(what: &str, coding: &'static str, before: &'static str, after: &'static str) -> Case {
    case(what, move |_| {
        let mut acts = answer(format!("HTTP/1.1 200 OK\r\n{coding}\r\n"), Bytes::new());
        acts.extend([Act::say(before), Act::Send(small()), Act::say(after), Act::Close]);
        acts
    })
}

fn codings() -> Vec<Case> {
    const CHUNKED: &str = "Transfer-Encoding: chunked";
    const END: &str = "\r\n0\r\n\r\n";
    vec![
        chunks("sends chunks and tells a length, too", "Transfer-Encoding: chunked\r\nContent-Length: 5", "3e8\r\n", END),
        chunks("sends chunks with extensions and trailers", CHUNKED, "3e8;a=b\r\n", "\r\n0\r\nX-Sum: 1\r\n\r\n"),
        case("sends chunks of one byte", |_| {
            let mut acts = answer(format!("HTTP/1.1 200 OK\r\n{CHUNKED}\r\n"), Bytes::new());
            acts.extend(
                small().chunks(1).flat_map(|byte| [Act::say("1\r\n"), Act::Send(Bytes::copy_from_slice(byte)), Act::say("\r\n")]),
            );
            acts.push(Act::say("0\r\n\r\n"));
            acts
        }),
        chunks("sends chunks whose size is no number", CHUNKED, "xyz\r\n", END).sending_at_most(5.0),
        chunks("sends a chunk of 2^64 bytes", CHUNKED, "10000000000000000\r\n", END).sending_at_most(5.0),
        chunks("sends a chunk that does not end where it said", CHUNKED, "3e7\r\n", END).sending_at_most(5.0),
        framed("has a transfer coding that nobody knows, and no length", "Transfer-Encoding: unknown"),
        framed("has a transfer coding that nobody asked for: gzip", "Transfer-Encoding: gzip"),
        chunks("has a transfer coding that nobody asked for, in chunks", "Transfer-Encoding: gzip, chunked", "3e8\r\n", END),
        framed("has a transfer coding that is none: identity", "Transfer-Encoding: identity"),
        case("says Content-Encoding: gzip unasked: its bytes are kept as they are sent", |asked| {
            match asked.header("accept-encoding") {
                Some("identity") => whole("Content-Encoding: gzip\r\n", small()),
                _ => whole("", Bytes::new()),
            }
        }),
    ]
}

fn sizes() -> Vec<Case> {
    vec![
        case("has a header of 100 KiB", |_| whole(&format!("X: {}\r\n", "x".repeat(100 * 1024)), small()))
            .refused_within(128 * KIB),
        case("has a header of 1 MiB", |_| whole(&format!("X: {}\r\n", "x".repeat(1024 * 1024)), small()))
            .refused_within(BUFFERED_MAX),
        case("has 90 headers", |_| whole(&"X: x\r\n".repeat(90), small())),
        case("has 10,000 headers", |_| whole(&"X: x\r\n".repeat(10_000), small())).refused_within(128 * KIB),
        case("has headers without end", |_| {
            vec![Act::say("HTTP/1.1 200 OK\r\n"), Act::SayForever(Bytes::from("X: x\r\n".repeat(1000)))]
        })
        .refused_within(BUFFERED_MAX),
        case("has an ETag of 10 KiB", |_| whole(&format!("ETag: \"{}\"\r\n", "x".repeat(10 * 1024)), small())),
        case("has an ETag of bytes that are no text", |_| {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: \"\xff\"\r\n\r\n";
            vec![Act::Say(head.to_vec().into()), Act::Wait, Act::Send(small())]
        }),
        case("has a header with a NUL in it", |_| whole("X: a\0b\r\n", small())),
        case("has a header that goes on in the next line", |_| whole("X: a\r\n b\r\n", small())),
        case("has a header without a colon", |_| whole("nonsense\r\n", small())),
        case("has a header with a space before its colon", |_| whole("X : a\r\n", small())),
        case("takes longer than sourceIdleTimeout for its headers, though less for each line", |_| {
            let lines = ["HTTP/1.1 200 OK\r\n", "Content-Length: 1000\r\n", "A: b\r\n", "C: d\r\n", "\r\n"];
            let slowly = lines.into_iter().flat_map(|line| [Act::Pause(BETWEEN_LINES), Act::say(line)]);
            slowly.chain([Act::Wait, Act::Send(small())]).collect()
        })
        .under(IMPATIENT),
        case("sends its headers and no end of them", |_| {
            vec![Act::say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n"), Act::FallSilent]
        })
        .under(IMPATIENT),
    ]
}

pub fn answers() -> Group {
    let said = |what: &str, text: &'static str| case(what, move |_| vec![Act::say(text), Act::Close]);
    let before = |what: &str, text: &'static str| case(what, move |_| [vec![Act::say(text)], small_file()].concat());
    let cases = vec![
        case("closes at once", |_| vec![Act::Close]),
        case("closes the first connection at once", |asked| if asked.number == 0 { vec![Act::Close] } else { small_file() }),
        case("never says a word", |_| vec![Act::FallSilent]).under(IMPATIENT),
        said("closes in its status line", "HTTP/1.1 20"),
        said("closes in its headers", "HTTP/1.1 200 OK\r\nContent-Le"),
        said("speaks no HTTP", "220 smtp.example ready\r\n"),
        said("speaks HTTP/0.9", "<html>hello</html>\n"),
        said("speaks of HTTP/2", "HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n"),
        said("says a status that is no number", "HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n"),
        case("ends lines with LF alone", |_| {
            vec![Act::say("HTTP/1.1 200 OK\nContent-Length: 1000\n\n"), Act::Wait, Act::Send(small())]
        }),
        case("gives no reason for its status", |_| answer("HTTP/1.1 200\r\nContent-Length: 1000\r\n", small())),
        before("says 100 first", "HTTP/1.1 100 Continue\r\n\r\n"),
        before("gives early hints first (103)", "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"),
        case("says 100 again and again, and nothing else", |_| {
            vec![Act::SayForever(Bytes::from("HTTP/1.1 100 Continue\r\n\r\n".repeat(100)))]
        })
        .under(IMPATIENT)
        .refused_by_timeout(),
        case("answers twice", |_| {
            let second = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n{ETAG}\r\nabc");
            [small_file(), vec![Act::say(second)]].concat()
        }),
    ];
    Group { title: "Answers that are odd or none", cases }
}
