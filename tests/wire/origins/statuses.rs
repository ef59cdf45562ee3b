//! Statuses instead of a file.

use super::answers::{bare, long_refusal, refusal, small_file};
use super::case::{BUFFERED_MAX, Case, Group, case};
use crate::harness::origin::scripted::Act;

const STATUSES: [&str; 31] = [
    "201 Created",
    "202 Accepted",
    "203 Non-Authoritative Information",
    "204 No Content",
    "205 Reset Content",
    "300 Multiple Choices",
    "304 Not Modified",
    "305 Use Proxy",
    "400 Bad Request",
    "401 Unauthorized",
    "402 Payment Required",
    "403 Forbidden",
    "404 Not Found",
    "405 Method Not Allowed",
    "406 Not Acceptable",
    "407 Proxy Authentication Required",
    "408 Request Timeout",
    "409 Conflict",
    "410 Gone",
    "416 Range Not Satisfiable",
    "418 I'm a teapot",
    "425 Too Early",
    "429 Too Many Requests",
    "451 Unavailable For Legal Reasons",
    "500 Internal Server Error",
    "501 Not Implemented",
    "502 Bad Gateway",
    "503 Service Unavailable",
    "504 Gateway Timeout",
    "599 ",
    "999 ",
];
/// Before a client that registers is told that the source cannot.
const ATTEMPTS: u64 = 3;

pub fn group() -> Group {
    let always = |what: &str, status: &'static str, headers: &'static str| case(what, move |_| refusal(status, headers));
    let once = |what: &str, status: &'static str, headers: &'static str| {
        case(what, move |asked| if asked.number == 0 { refusal(status, headers) } else { small_file() })
    };
    let mut cases: Vec<Case> = STATUSES
        .into_iter()
        .map(|status| {
            case(format!("answers {}", status.trim()), |_| if has_body(status) { refusal(status, "") } else { bare(status, "") })
        })
        .collect();
    cases.extend([
        case("answers 404, with a page of 1 GiB", |_| long_refusal("404 Not Found")).refused_within(BUFFERED_MAX),
        case("answers 503 always, with a page of 1 GiB", |_| long_refusal("503 Service Unavailable"))
            .refused_within(ATTEMPTS * BUFFERED_MAX),
        once("answers 503 once", "503 Service Unavailable", "").sending_at_most(2.0),
        once("answers 503 once, with Retry-After: 1", "503 Service Unavailable", "Retry-After: 1\r\n").sending_at_most(2.0),
        once("answers 429 once, with Retry-After: 1", "429 Too Many Requests", "Retry-After: 1\r\n").sending_at_most(2.0),
        once("answers 500 once, with Retry-After: 1", "500 Internal Server Error", "Retry-After: 1\r\n").sending_at_most(2.0),
        always("answers 503 always, with Retry-After: 1", "503 Service Unavailable", "Retry-After: 1\r\n"),
        always("answers 429 always, with Retry-After: 1", "429 Too Many Requests", "Retry-After: 1\r\n"),
        always("answers 500 always, with Retry-After: 1", "500 Internal Server Error", "Retry-After: 1\r\n"),
        always("answers 503 always, with a Retry-After that is none", "503 Service Unavailable", "Retry-After: soon\r\n"),
        always("answers 503 always, with a Retry-After of years", "503 Service Unavailable", "Retry-After: 99999999999\r\n"),
        always("answers 401 and says what it wants", "401 Unauthorized", "WWW-Authenticate: Basic realm=\"r\"\r\n"),
        case("answers 101 unasked", |_| {
            vec![Act::say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")]
        }),
    ]);
    Group { title: "Statuses", cases }
}

/// Whether an answer with this status may have a body.
fn has_body(status: &str) -> bool {
    !["204", "205", "304"].iter().any(|bodiless| status.starts_with(bodiless))
}
