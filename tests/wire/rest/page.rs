//! The page for people. What it looks like is for eyes; this is what it may do and what it asks for.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::{call, fetch};
use crate::harness::service::Service;

/// What stands between the first of one text and the next of the other.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("no {begin}"));
    rest.split_once(end).unwrap_or_else(|| panic!("no {end} after {begin}")).0
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_runs_its_own_script_alone_and_asks_for_routes_that_are_there() {
    let service = Service::start().await;
    let response = call(service.api(), "GET", "/").await;
    assert_eq!((response.status, response.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let page = String::from_utf8(response.body.to_vec()).expect("UTF-8");

    let policy = response.header("content-security-policy").expect("a policy");
    for element in ["script", "style"] {
        let hash = BASE64_STANDARD.encode(Sha256::digest(between(&page, &format!("<{element}>"), &format!("</{element}>"))));
        assert!(policy.contains(&format!("{element}-src 'sha256-{hash}'")), "{policy} does not let {element} {hash} run");
        assert_eq!(page.matches(&format!("<{element}")).count(), 1, "one {element}");
    }
    for else_forbidden in ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(else_forbidden), "{policy}");
    }
    for never in
        ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "://", "onclick=\"", "style=\""]
    {
        assert!(!page.contains(never), "the page has {never}");
    }

    let description = fetch(service.api(), "/openapi.json").await;
    let script = between(&page, "<script>", "</script>").replace("headers.get(", "");
    let asked: Vec<String> = ["get('", "list('", "list(`"]
        .iter()
        .flat_map(|call| script.split(call).skip(1))
        .map(|rest| rest.split(['\'', '`', '?']).next().expect("a path").replace("${task.ID}", "{id}"))
        .collect();
    assert!(asked.len() >= 7, "{asked:?}");
    for path in asked {
        assert!(description["paths"][format!("/{path}")]["get"].is_object(), "the page asks for /{path}, which is no route");
    }
}
