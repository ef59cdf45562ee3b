//! Statuses instead of a file.

use super::answers::{bare, small_file};
use super::case::{Case, Group, case};
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

pub fn group() -> Group {
    let mut cases: Vec<Case> =
        STATUSES.into_iter().map(|status| case(format!("answers {}", status.trim()), |_| bare(status, ""))).collect();
    let once = |what: &str, status: &'static str, headers: &'static str| {
        case(what, move |asked| if asked.number == 0 { bare(status, headers) } else { small_file() })
    };
    cases.extend([
        once("answers 503 once", "503 Service Unavailable", ""),
        once("answers 503 once, with Retry-After: 1", "503 Service Unavailable", "Retry-After: 1\r\n"),
        once("answers 429 once, with Retry-After: 1", "429 Too Many Requests", "Retry-After: 1\r\n"),
        case("answers 503 always, with Retry-After: 1", |_| bare("503 Service Unavailable", "Retry-After: 1\r\n")),
        case("answers 503 always, with a Retry-After that is none", |_| bare("503 Service Unavailable", "Retry-After: soon\r\n")),
        case("answers 503 always, with a Retry-After of years", |_| {
            bare("503 Service Unavailable", "Retry-After: 99999999999\r\n")
        }),
        case("answers 401 and says what it wants", |_| bare("401 Unauthorized", "WWW-Authenticate: Basic realm=\"r\"\r\n")),
        case("answers 101 unasked", |_| {
            vec![Act::say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")]
        }),
    ]);
    Group { title: "Statuses", cases }
}
