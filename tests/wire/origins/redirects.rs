//! Redirects: where they lead, and where they may not.

use std::net::Ipv4Addr;

use super::answers::{bare, small_file};
use super::case::{Case, Group, KIB, case, small};
use crate::harness::client::Wanted;
use crate::harness::origin::scripted::{Act, Asked};
use crate::harness::origin::tls::self_signed_acceptor;

/// Where clouds hand out credentials, however it is written.
pub const METADATA: [&str; 5] = [
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/latest/meta-data/",
    "http://2852039166/latest/meta-data/",
    "http://0xa9fea9fe/latest/meta-data/",
    "http://[fe80::1]/",
];
const DENYING: &str = "base: {source: {deny: ['*.internal.example', 127.0.0.1, '::1']}}\n";
/// On loopback, and none that `localhost` resolves to.
const NOT_LOCALHOST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

pub fn group() -> Group {
    let cases = [followed(), chains(), forbidden(), broken()].into_iter().flatten().collect();
    Group { title: "Redirects", cases }
}

fn to(status: &str, location: &str) -> Vec<Act> {
    bare(status, &format!("Location: {location}\r\n"))
}

/// Leads there, and has the file itself, too.
fn leading(what: &str, status: &'static str, location: &'static str) -> Case {
    case(what, move |asked| if asked.target() == "/file" { to(status, location) } else { small_file() })
}

fn followed() -> Vec<Case> {
    let statuses = ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"];
    let mut cases: Vec<Case> =
        statuses.into_iter().map(|status| leading(&format!("moved, {status}"), status, "/moved")).collect();
    cases.extend([leading("moved, to a relative place", "302 Found", "moved?a=b")]);
    cases.extend(with_credentials());
    cases
}

/// What a source is given of the headers with credentials.
fn given(asked: &Asked) -> (Option<&str>, Option<&str>) {
    (asked.header("authorization"), asked.header("cookie"))
}

/// Has the file for whoever comes with all headers but those with credentials.
fn file_without_credentials(asked: &Asked) -> Vec<Act> {
    match (given(asked), asked.header("x-harmless")) {
        ((None, None), Some(_)) => small_file(),
        _ => bare("400 Bad Request", ""),
    }
}

fn with_credentials() -> Vec<Case> {
    /// Leads there whoever comes with credentials.
    fn leading_on(asked: &Asked, location: &str) -> Vec<Act> {
        match given(asked) {
            (Some("Bearer secret"), Some("a=secret")) => to("302 Found", location),
            _ => bare("401 Unauthorized", ""),
        }
    }
    let cases = [
        case("moved to another port: it is not given the headers with credentials", |asked| {
            leading_on(asked, &format!("http://{}/file", asked.elsewhere))
        })
        .elsewhere(file_without_credentials),
        case("moved to another host at the same port: it is not given the headers with credentials", |asked| {
            match asked.target() {
                "/file" => leading_on(asked, &format!("http://localhost:{}/moved", asked.elsewhere.port())),
                _ => file_without_credentials(asked),
            }
        }),
        case("moved from https to http: it is not given the headers with credentials", |asked| {
            leading_on(asked, &format!("http://{}/file", asked.elsewhere))
        })
        .tls(self_signed_acceptor())
        .elsewhere(file_without_credentials)
        .asked(|wanted| Wanted { insecure: true, ..wanted }),
        case("moved within the same host: it is given the headers with credentials again", |asked| {
            match (asked.target(), given(asked)) {
                ("/file", _) => leading_on(asked, "/moved"),
                (_, (Some("Bearer secret"), Some("a=secret"))) => small_file(),
                _ => bare("401 Unauthorized", ""),
            }
        }),
    ];
    let headers = ["Authorization: Bearer secret", "Cookie: a=secret", "X-Harmless: yes"].map(str::to_owned);
    cases
        .into_iter()
        .map(|case| {
            let (asking, headers) = (case.asking.clone(), headers.to_vec());
            case.asked(move |wanted| Wanted { headers: headers.clone(), ..asking(wanted) })
        })
        .collect()
}

/// Leads from `/file` on to `/1`, `/2` and so on.
fn chain(asked: &Asked, redirects: u32) -> Vec<Act> {
    let place = asked.target().trim_start_matches('/').parse().unwrap_or(0);
    if place < redirects { to("302 Found", &format!("/{}", place + 1)) } else { small_file() }
}

fn chains() -> Vec<Case> {
    vec![
        case("redirects 3 times", |asked| chain(asked, 3)),
        case("redirects 10 times", |asked| chain(asked, 10)),
        case("redirects 11 times", |asked| chain(asked, 11)),
        case("redirects in a circle", |asked| to("302 Found", asked.target())),
    ]
}

fn forbidden() -> Vec<Case> {
    let mut cases: Vec<Case> = METADATA
        .into_iter()
        .map(|forbidden| leading(&format!("redirects to where clouds keep metadata, {forbidden}"), "302 Found", forbidden))
        .collect();
    cases.extend([
        leading("redirects to a host that source.deny names", "302 Found", "http://db.internal.example/file")
            .on(NOT_LOCALHOST)
            .under(DENYING),
        case("redirects to a name whose every address source.deny names", |asked| {
            to("302 Found", &format!("http://localhost:{}/file", asked.elsewhere.port()))
        })
        .on(NOT_LOCALHOST)
        .under(DENYING),
    ]);
    for scheme in ["ftp://127.0.0.1/file", "file:///etc/passwd", "gopher://127.0.0.1/", "data:text/plain,abc"] {
        let shown = scheme.split(':').next().unwrap_or_default();
        cases.push(leading(&format!("redirects to {shown}:"), "302 Found", scheme));
    }
    cases
}

fn broken() -> Vec<Case> {
    vec![
        leading("redirects to where nobody is", "302 Found", "http://127.0.0.1:0/file"),
        case("redirects without a Location", |_| bare("302 Found", "")),
        case("redirects to an empty Location", |asked| match asked.number {
            0 => to("302 Found", ""),
            _ => bare("404 Not Found", ""),
        }),
        case("redirects to no URL", |_| to("302 Found", "http://[::1")),
        case("redirects to bytes that are no text", |_| {
            vec![Act::Say(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /\xff\xfe\r\n\r\n".to_vec().into())]
        }),
        case("redirects to a URL of 100,000 characters", |asked| match asked.target() {
            "/file" => to("302 Found", &format!("/{}", "x".repeat(100_000))),
            _ => small_file(),
        })
        .refused_within(128 * KIB),
        case("redirects to a URL with user and password", |asked| match asked.header("authorization") {
            None if asked.target() == "/file" => to("302 Found", &format!("http://user:pass@{}/moved", asked.elsewhere)),
            None => bare("401 Unauthorized", ""),
            Some(_) => small_file(),
        }),
        case("redirects, with a body", |asked| match asked.target() {
            "/file" => {
                let head = "HTTP/1.1 302 Found\r\nContent-Length: 1000\r\nLocation: /moved\r\n\r\n";
                vec![Act::say(head), Act::Send(small())]
            }
            _ => small_file(),
        })
        .sending_at_most(2.0),
    ]
}
