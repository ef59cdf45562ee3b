//! Files that are cached already, and are registered for again: what their sources say then.

use super::answers::{ETAG, bare, refusal, whole};
use super::case::{BUFFERED_MAX, Case, Group, case, long};
use super::redirects::METADATA;
use crate::harness::origin::scripted::{Act, Asked};
use crate::harness::pieces::other_content;

/// Every registration after the first has the source asked.
const ASKING_AGAIN: &str = "base: {revalidateAfter: 1ms, sourceIdleTimeout: 2s}\n";
const ETAG_AND_DATE: &str = "ETag: \"1\"\r\nLast-Modified: Mon, 23 Nov 2026 08:36:45 GMT\r\n";
const OTHER_ETAG: &str = "ETag: \"2\"\r\n";

/// How many times the content is sent at most with an answer of which only the head is looked at.
const UNREAD_MAX: f64 = 0.25;

/// Sends a long file, and does this when it is asked again: over another connection, as the buffers of the first have grown.
fn again(what: &str, headers: &'static str, again: impl Fn(&Asked) -> Vec<Act> + Send + Sync + 'static) -> Case {
    case(what, move |asked| if asked.number == 0 { first(headers) } else { again(asked) })
        .of(long())
        .asked_before(|wanted| wanted)
        .under(ASKING_AGAIN)
}

fn first(headers: &str) -> Vec<Act> {
    [whole(&format!("{headers}Connection: close\r\n"), long()), vec![Act::Close]].concat()
}

pub fn group() -> Group {
    let cases = [unchanged(), changed(), unsaid()].into_iter().flatten().collect();
    Group { title: "Asked again for a file that is cached, with revalidateAfter over", cases }
}

fn unchanged() -> Vec<Case> {
    vec![
        again("has nothing new (304), and was asked under the conditions of its ETag and date", ETAG_AND_DATE, |asked| {
            match (asked.header("if-none-match"), asked.header("if-modified-since")) {
                (Some("\"1\""), Some("Mon, 23 Nov 2026 08:36:45 GMT")) => bare("304 Not Modified", ETAG),
                _ => whole(OTHER_ETAG, other_content(&long())),
            }
        }),
        again("knows no conditions, and begins to send everything with the same ETag", ETAG, |_| whole(ETAG, long()))
            .sending_at_most(UNREAD_MAX),
        again("has no ETag and no date, so that it is not asked", "", |_| whole("", other_content(&long()))),
    ]
}

fn changed() -> Vec<Case> {
    let other = other_content(&long());
    let content = other.clone();
    vec![
        again("has another ETag, and is fetched anew", ETAG, move |_| whole(OTHER_ETAG, content.clone()))
            .of(other)
            .sending_at_most(1.0 + UNREAD_MAX),
        again("has the same ETag and another length, and is fetched anew", ETAG, |_| whole(ETAG, long().slice(1..)))
            .of(long().slice(1..))
            .sending_at_most(1.0 + UNREAD_MAX),
        again("has another ETag, and then cannot (503)", ETAG, |asked| match asked.number {
            1 => whole(OTHER_ETAG, other_content(&long())),
            _ => refusal("503 Service Unavailable", ""),
        })
        .refused_within(BUFFERED_MAX),
    ]
}

/// What is cached is better than nothing.
fn unsaid() -> Vec<Case> {
    vec![
        again("has it no more (404)", ETAG, |_| refusal("404 Not Found", "")),
        again("wants credentials now (401)", ETAG, |_| refusal("401 Unauthorized", "")),
        again("cannot (503)", ETAG, |_| refusal("503 Service Unavailable", "")),
        again("leads to where it may not be fetched from (302)", ETAG, |_| {
            bare("302 Found", &format!("Location: {}\r\n", METADATA[0]))
        }),
        again("falls silent", ETAG, |_| vec![Act::FallSilent]),
    ]
}
