//! Parts: asked for, sent unasked, and not what was asked for; and contents that change in between.

use bytes::Bytes;

use super::answers::{
    BROKEN_OFF_AFTER, ETAG, answer, as_asked, bare, breaking_off, long_refusal, part, refusal, rest, small_file, whole,
};
use super::case::{Case, Group, case, long, small};
use super::redirects::METADATA;
use crate::harness::client::Wanted;
use crate::harness::origin::scripted::{Act, Asked};
use crate::harness::pieces::{PIECE_CONTENT, other_content};

const MODIFIED: &str = "Date: Mon, 23 Nov 2026 08:36:46 GMT\r\nLast-Modified: Mon, 23 Nov 2026 08:36:45 GMT\r\n";
const MODIFIED_JUST_NOW: &str = "Date: Mon, 23 Nov 2026 08:36:45 GMT\r\nLast-Modified: Mon, 23 Nov 2026 08:36:45 GMT\r\n";
const MODIFIED_UNDATED: &str = "Last-Modified: Mon, 23 Nov 2026 08:36:45 GMT\r\n";
const WEAK_AND_MODIFIED: &str =
    "ETag: W/\"1\"\r\nDate: Mon, 23 Nov 2026 08:36:46 GMT\r\nLast-Modified: Mon, 23 Nov 2026 08:36:45 GMT\r\n";
const MODIFIED_LATER: &str = "Date: Mon, 23 Nov 2026 09:36:46 GMT\r\nLast-Modified: Mon, 23 Nov 2026 09:36:45 GMT\r\n";

/// How many times the content is sent at most, where the second answer is not taken to its end.
const REFUSED_MAX: f64 = 2.0;

pub fn resumed() -> Group {
    let cases = [told_otherwise(), refused(), other_lengths()].into_iter().flatten().collect();
    Group { title: "Asked for the second of two pieces, after the connection broke", cases }
}

/// Breaks off in the second piece, and does this when it is asked again.
fn again(what: &str, headers: &'static str, again: impl Fn(&Asked, usize) -> Vec<Act> + Send + Sync + 'static) -> Case {
    let script = move |asked: &Asked| if asked.number == 0 { breaking_off(headers) } else { again(asked, piece_start()) };
    case(what, script).of(long())
}

/// Where the piece begins that is asked for.
fn piece_start() -> usize {
    usize::try_from(PIECE_CONTENT).expect("a piece fits")
}

fn told_otherwise() -> Vec<Case> {
    let saying = |what: &str, range: fn(usize, usize) -> String| {
        again(what, ETAG, move |_, from| part(&range(from, long().len()), ETAG, long().slice(from..)))
    };
    let lying = |what: &str, range: fn(usize, usize) -> String| saying(what, range).sending_at_most(REFUSED_MAX);
    vec![
        again("sends it, and was asked under the condition of its ETag", ETAG, |asked, from| match asked.header("if-range") {
            Some("\"1\"") => rest(ETAG, &long(), from),
            _ => bare("400 Bad Request", ""),
        }),
        again("sends everything instead", ETAG, |_, _| whole(ETAG, long())),
        again("sends everything instead, in chunks", ETAG, |_, _| {
            let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{ETAG}");
            let mut acts = answer(head, Bytes::new());
            acts.extend([Act::say(format!("{:x}\r\n", long().len())), Act::Send(long()), Act::say("\r\n0\r\n\r\n")]);
            acts
        }),
        again("sends everything of another content instead, which it says is the same", ETAG, |_, _| {
            whole(ETAG, other_content(&long()))
        })
        .sending_at_most(REFUSED_MAX),
        lying("says that it begins elsewhere", |from, length| format!("bytes {}-{}/{length}", from + 1, length - 1)),
        lying("says that it begins at 0", |_, length| format!("bytes 0-{}/{length}", length - 1)),
        lying("says that it ends earlier", |from, length| format!("bytes {from}-{}/{length}", length - 2)),
        lying("says that the file is longer", |from, length| format!("bytes {from}-{length}/{}", length + 1)),
        saying("does not say how long the file is", |from, length| format!("bytes {from}-{}/*", length - 1)),
        lying("says a range that is none", |_, _| "bytes garbage".to_owned()),
        lying("says a range in another unit", |from, length| format!("items {from}-{}/{length}", length - 1)),
        again("does not say which part it sends", ETAG, |_, from| {
            let head = format!("HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n{ETAG}", long().len() - from);
            answer(head, long().slice(from..))
        })
        .sending_at_most(REFUSED_MAX),
        again("sends multipart/byteranges", ETAG, |_, from| {
            let length = long().len();
            let body = [
                format!("--x\r\nContent-Range: bytes {from}-{}/{length}\r\n\r\n", length - 1).as_bytes(),
                &long()[from..],
                b"\r\n--x--\r\n",
            ]
            .concat();
            let head = "HTTP/1.1 206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=x\r\n";
            answer(format!("{head}Content-Length: {}\r\n{ETAG}", body.len()), body)
        })
        .sending_at_most(REFUSED_MAX),
    ]
}

fn refused() -> Vec<Case> {
    let status =
        |what: &str, status: &'static str, headers: &'static str| again(what, ETAG, move |_, _| refusal(status, headers));
    vec![
        status("says that there is no such range", "416 Range Not Satisfiable", "Content-Range: bytes */6000000\r\n"),
        status(
            "says that it ends where the second piece begins (416)",
            "416 Range Not Satisfiable",
            "Content-Range: bytes */4194299\r\n",
        ),
        again("has nothing new to say (304)", ETAG, |_, _| bare("304 Not Modified", ETAG)),
        status("has the file no more (404)", "404 Not Found", ""),
        again("has the file no more (404), but a page of 1 GiB", ETAG, |_, _| long_refusal("404 Not Found")).sending_at_most(1.0),
        again("leads to where it may not be fetched from (302)", ETAG, |_, _| {
            bare("302 Found", &format!("Location: {}\r\n", METADATA[0]))
        }),
        status("wants credentials now (401)", "401 Unauthorized", ""),
        status("denies it now (403)", "403 Forbidden", ""),
        again("cannot now, and then can (503)", ETAG, |asked, _| match asked.number {
            1 => refusal("503 Service Unavailable", ""),
            _ => as_asked(asked, ETAG),
        }),
        status("cannot any more (503)", "503 Service Unavailable", ""),
    ]
}

fn other_lengths() -> Vec<Case> {
    vec![
        again("sends less than it said, and closes", ETAG, |_, from| {
            let length = long().len();
            let head = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes ";
            let head = format!("{head}{from}-{}/{length}\r\nContent-Length: {}\r\n{ETAG}", length - 1, length - from);
            [answer(head, long().slice(from..from + 1000)), vec![Act::Close]].concat()
        }),
        again("sends a shorter body than its range", ETAG, |_, from| {
            part(&format!("bytes {from}-{}/{}", long().len() - 1, long().len()), ETAG, long().slice(from..from + 1000))
        }),
        again("sends a longer body than its range", ETAG, |_, from| {
            let body = [long().slice(from..), small()].concat();
            part(&format!("bytes {from}-{}/{}", long().len() - 1, long().len()), ETAG, body.into())
        }),
    ]
}

/// The same, of a length that nobody knows.
fn unmeasured_again(what: &str, again: impl Fn(usize) -> Vec<Act> + Send + Sync + 'static) -> Case {
    let script = move |asked: &Asked| {
        if asked.number > 0 {
            return again(piece_start());
        }
        let mut acts = answer(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{ETAG}"), Bytes::new());
        acts.extend([Act::say("ffffff\r\n"), Act::Send(long().slice(..BROKEN_OFF_AFTER)), Act::Close]);
        acts
    };
    case(what, script).of(long())
}

/// Says that it is all from this byte on, and sends this.
fn chunked_part(from: usize, sent: Bytes) -> Vec<Act> {
    let range = format!("Content-Range: bytes {from}-{}/{}\r\n", long().len() - 1, long().len());
    let head = format!("HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n{range}{ETAG}");
    let mut acts = answer(head, Bytes::new());
    acts.extend([Act::say(format!("{:x}\r\n", sent.len())), Act::Send(sent), Act::say("\r\n0\r\n\r\n")]);
    acts
}

pub fn unmeasured() -> Group {
    let part_of =
        |range: fn(usize, usize) -> String| move |from: usize| part(&range(from, long().len()), ETAG, long().slice(from..));
    let cases = vec![
        unmeasured_again("sends it", part_of(|from, length| format!("bytes {from}-{}/{length}", length - 1))),
        unmeasured_again(
            "sends it and does not say how long the file is",
            part_of(|from, length| format!("bytes {from}-{}/*", length - 1)),
        )
        .sending_at_most(REFUSED_MAX),
        unmeasured_again("sends a part of it and does not say how long the file is", |from| {
            part(&format!("bytes {from}-{}/*", from + 999), ETAG, long().slice(from..from + 1000))
        })
        .sending_at_most(REFUSED_MAX),
        unmeasured_again("sends less of it than it says, in chunks", |from| chunked_part(from, long().slice(from..from + 1000)))
            .sending_at_most(REFUSED_MAX),
        unmeasured_again("sends more of it than it says, in chunks", |from| {
            chunked_part(from, [long().slice(from..), small()].concat().into())
        })
        .sending_at_most(2.0 * REFUSED_MAX),
        unmeasured_again("sends everything instead", |_| whole(ETAG, long())),
        unmeasured_again("says that it ends before what was sent already (416)", |from| {
            bare("416 Range Not Satisfiable", &format!("Content-Range: bytes */{from}\r\n"))
        }),
        unmeasured_again("sends everything of another content instead", |_| whole("ETag: \"2\"\r\n", other_content(&long())))
            .sending_at_most(REFUSED_MAX),
    ];
    Group { title: "The same, where no length was told", cases }
}

pub fn changed() -> Group {
    let other = || other_content(&long());
    let cases = vec![
        again("has another ETag and sends everything", ETAG, move |_, _| whole("ETag: \"2\"\r\n", other()))
            .sending_at_most(REFUSED_MAX),
        again("has another ETag and sends the rest all the same", ETAG, move |_, from| rest("ETag: \"2\"\r\n", &other(), from))
            .sending_at_most(REFUSED_MAX),
        again("has the same ETag and another length", ETAG, |_, from| {
            let longer = [long(), small()].concat().into();
            rest(ETAG, &longer, from)
        })
        .sending_at_most(REFUSED_MAX),
        again("has no ETag any more and sends the rest", ETAG, |_, from| rest("", &long(), from)),
        again("was modified later and sends everything", MODIFIED, move |_, _| whole(MODIFIED_LATER, other()))
            .sending_at_most(REFUSED_MAX),
        again("is as it was by its modification date, and sends the rest", MODIFIED, |asked, from| {
            match asked.header("if-range") {
                Some("Mon, 23 Nov 2026 08:36:45 GMT") => rest(MODIFIED, &long(), from),
                _ => bare("400 Bad Request", ""),
            }
        }),
        again("was modified in the second in which it was asked, and sends the same", MODIFIED_JUST_NOW, |asked, _| {
            as_asked(asked, MODIFIED_JUST_NOW)
        }),
        again(
            "was modified in the second in which it was asked, and sends other bytes",
            MODIFIED_JUST_NOW,
            move |asked, from| match asked.header("range") {
                Some(_) => rest(MODIFIED_JUST_NOW, &other(), from),
                None => whole(MODIFIED_JUST_NOW, other()),
            },
        )
        .sending_at_most(REFUSED_MAX),
        again("was modified nobody knows how long before it was asked (no Date)", MODIFIED_UNDATED, |asked, _| {
            as_asked(asked, MODIFIED_UNDATED)
        }),
        again("has a weak ETag and sends the same", "ETag: W/\"1\"\r\n", |asked, _| as_asked(asked, "ETag: W/\"1\"\r\n")),
        again("has a weak ETag and sends other bytes", "ETag: W/\"1\"\r\n", move |_, _| whole("ETag: W/\"1\"\r\n", other()))
            .sending_at_most(REFUSED_MAX),
        again("has another weak ETag", "ETag: W/\"1\"\r\n", move |_, _| whole("ETag: W/\"2\"\r\n", other()))
            .sending_at_most(REFUSED_MAX),
        again("has a weak ETag and a modification date", WEAK_AND_MODIFIED, |asked, _| as_asked(asked, WEAK_AND_MODIFIED)),
        again("has no validators and sends the same", "", |asked, _| as_asked(asked, "")),
        again("has no validators and sends other bytes", "", move |_, _| whole("", other())).sending_at_most(REFUSED_MAX),
        again("has no validators and sends a file that is longer", "", |_, _| whole("", [long(), small()].concat().into()))
            .sending_at_most(REFUSED_MAX),
        again("has no validators and sends a file that is shorter", "", |_, _| whole("", small())),
    ];
    Group { title: "Changed, or perhaps not, when it is asked again after the connection broke", cases }
}

pub fn parts() -> Group {
    let ranged = |wanted: Wanted| Wanted { headers: vec!["Range: bytes=100-199".to_owned()], ..wanted };
    let several = |wanted: Wanted| Wanted { headers: vec!["Range: bytes=0-9,20-29".to_owned()], ..wanted };
    let last = |wanted: Wanted| Wanted { headers: vec!["Range: bytes=-100".to_owned()], ..wanted };
    let cases = vec![
        case("sends a part that nobody asked for (206)", |_| part("bytes 0-999/1000", ETAG, small())),
        case("sends everything, with a Content-Range as if it were a part (200)", |_| {
            whole("Content-Range: bytes 0-99/1000\r\n", small())
        }),
        case("sends the part that the task is", |_| part("bytes 100-199/1000", ETAG, small().slice(100..200)))
            .of(small().slice(100..200))
            .asked(ranged),
        case("sends everything for the part that the task is", |_| small_file()).asked(ranged),
        case("sends another part than the task is", |_| part("bytes 200-299/1000", ETAG, small().slice(200..300)))
            .of(small().slice(100..200))
            .asked(ranged),
        case("has nothing in the range that the task is (416)", |_| {
            bare("416 Range Not Satisfiable", "Content-Range: bytes */50\r\n")
        })
        .asked(ranged),
        case("sends the last 100 bytes, which the task is", |_| part("bytes 900-999/1000", ETAG, small().slice(900..)))
            .of(small().slice(900..))
            .asked(last),
        case("sends multipart/byteranges for the several parts that the task is", |_| {
            let body = "--x\r\nContent-Range: bytes 0-9/1000\r\n\r\n0123456789\r\n--x--\r\n";
            let head = "HTTP/1.1 206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=x\r\n";
            answer(format!("{head}Content-Length: {}\r\n", body.len()), body)
        })
        .asked(several),
    ];
    Group { title: "Parts of files", cases }
}
