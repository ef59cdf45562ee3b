//! URLs: how they are spelt, and where nobody is.

use std::net::{Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

use super::answers::{bare, small_file};
use super::case::{Case, Group, case};
use super::redirects::METADATA;
use crate::harness::origin::scripted::Asked;

const NO_URLS: [&str; 9] = [
    "file",
    "/etc/passwd",
    "//host/file",
    "http://",
    "http:///file",
    "ftp://127.0.0.1/file",
    "file:///etc/passwd",
    "http://[::1/file",
    "http://127.0.0.1:99999/file",
];

pub fn group() -> Group {
    let cases = [spelt(), unreachable()].into_iter().flatten().collect();
    Group { title: "URLs", cases }
}

/// A URL at which the source is asked for this.
fn asked_for(what: &str, url: impl Fn(SocketAddr) -> String + Send + Sync + 'static, target: String) -> Case {
    let script = move |asked: &Asked| {
        if asked.target() == target { small_file() } else { bare("400 Bad Request", "") }
    };
    case(what, script).at(url)
}

fn spelt() -> Vec<Case> {
    let file = || "/file".to_owned();
    let long = |length: usize| format!("/{}", "x".repeat(length));
    vec![
        case("is at a URL with user and password", |asked| match asked.header("authorization") {
            Some("Basic dXNlcjpwYSBzcw==") => small_file(),
            _ => bare("401 Unauthorized", ""),
        })
        .at(|address| format!("http://user:pa%20ss@{address}/file")),
        asked_for("is at a URL with a fragment", |address| format!("http://{address}/file#part"), file()),
        asked_for("is at a URL with a query", |address| format!("http://{address}/file?a=b&c"), "/file?a=b&c".to_owned()),
        asked_for("is at a URL without a path", |address| format!("http://{address}"), "/".to_owned()),
        asked_for(
            "is at a URL with spaces and letters beyond ASCII",
            |address| format!("http://{address}/a b/ü"),
            "/a%20b/%C3%BC".to_owned(),
        ),
        asked_for("is at a URL with dots in its path", |address| format!("http://{address}/a/../file"), file()),
        asked_for("is at an IPv6 address", |address| format!("http://{address}/file"), file()).on(Ipv6Addr::LOCALHOST),
        asked_for("is at a name", |address| format!("http://localhost:{}/file", address.port()), file()),
        asked_for(
            "is at a name in letters beyond ASCII",
            |address| format!("http://ＬＯＣＡＬＨＯＳＴ:{}/file", address.port()),
            file(),
        ),
        asked_for(
            "is at an address that is spelt as a number",
            |address| format!("http://2130706433:{}/file", address.port()),
            file(),
        ),
        asked_for("is at a URL of 4,000 characters", move |address| format!("http://{address}{}", long(4000)), long(4000)),
        asked_for(
            "is at a URL of 100,000 characters",
            move |address| format!("http://{address}{}", long(100_000)),
            long(100_000),
        ),
        asked_for("is at a URL of 60,000 characters", move |address| format!("http://{address}{}", long(60_000)), long(60_000)),
    ]
}

fn unreachable() -> Vec<Case> {
    let nobody = || case("", |_| Vec::new());
    let at = |what: &str, url: &'static str| Case { what: what.to_owned(), ..nobody() }.at(move |_| url.to_owned());
    // Bound and not listening: a connection there is refused for as long as this lives.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has a free port");
    let deaf = Case { what: "refuses connections".to_owned(), ..nobody() }.at(move |_| {
        let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("a bound socket has an address");
        format!("http://{address}/file")
    });
    let mut cases = vec![
        deaf,
        at("is at a name that does not resolve", "http://no-such-host.invalid/file"),
        at("is at a name in letters beyond ASCII that does not resolve", "http://bücher.invalid/file"),
        at("is at port 0", "http://127.0.0.1:0/file"),
    ];
    cases.extend(METADATA.map(|url| at(&format!("is where clouds keep metadata, {url}"), url)));
    cases.extend(NO_URLS.map(|url| at(&format!("is at what is no http URL, {url}"), url)));
    cases
}
