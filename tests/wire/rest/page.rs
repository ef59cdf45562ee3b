//! The page for people. What it looks like is for eyes; this is what it may do and what it asks for.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::{call, fetch};
use crate::end_to_end::download;
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

/// What stands between the first of one text and the next of the other.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("no {begin}"));
    rest.split_once(end).unwrap_or_else(|| panic!("no {end} after {begin}")).0
}

/// The page as it is served.
async fn page_of(service: &Service) -> String {
    String::from_utf8(call(service.api(), "GET", "/").await.body.to_vec()).expect("UTF-8")
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
    for never in ["eval(", "Function(", "://", "onclick=\"", "style=\""] {
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
        assert!(!path.starts_with("peer/"), "the page counts itself among the requests of clients with /{path}");
        assert!(description["paths"][format!("/{path}")]["get"].is_object(), "the page asks for /{path}, which is no route");
    }
}

/// What stands between every one of one text and the next of the other.
fn all_between<'a>(text: &'a str, begin: &str, end: &str) -> Vec<&'a str> {
    text.split(begin).skip(1).map(|rest| rest.split_once(end).expect("it ends").0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_strings_get_into_the_page_by_the_one_way_that_shows_what_is_unseen() {
    let service = Service::start().await;
    let page = page_of(&service).await;
    for never in [
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "innerText",
        "createTextNode",
        "createContextualFragment",
        "DOMParser",
        "setAttribute",
        "document.title",
    ] {
        assert!(!page.contains(never), "the page has {never}");
    }
    // Controls, formats (among them those that turn the direction), and every space but the plain one.
    assert!(page.contains(r"replace(/(?! )[\p{C}\p{Z}]/gu"), "nothing makes them visible");
    for (write, is) in [("textContent = ", "visible(text)"), ("createElement(", "name)"), ("made.append(", "...children.map(")] {
        let written = all_between(&page, write, "\n");
        assert!(written.len() == 1 && written[0].starts_with(is), "{write} {written:?}");
    }
    assert!(page.contains("child instanceof Node ? child : visible(child)"), "children are written as they came");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_figures_are_of_metrics_that_are_there() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    download(&service, &origin.put("file", File::new(random_content(100)))).await;
    let page = page_of(&service).await;
    let metrics = String::from_utf8(call(service.api(), "GET", "/metrics").await.body.to_vec()).expect("UTF-8");
    let summed = all_between(&page, "sum('", "'");
    assert!(summed.len() >= 8, "{summed:?}");
    for name in summed {
        let there = ["{", " "].iter().any(|after| metrics.contains(&format!("\ndragonfly_supernode_{name}{after}")));
        assert!(there, "the page sums {name}, which is no metric");
    }
    for series in
        [r#"source_places{count="held",of="bodies"}"#, r#"source_places{count="waiting",of="bodies"}"#, r#"handler="/peer/"#]
    {
        assert!(metrics.contains(series), "the page counts {series}, which is not there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_once_at_a_time_and_names_its_parts() {
    let page = page_of(&Service::start().await).await;
    for never in ["setInterval", "Promise.all"] {
        assert!(!page.contains(never), "with {never}, questions would pile up");
    }
    assert_eq!(all_between(&page, "fetch(path,", "\n").len(), 1, "one place asks");
    assert_eq!(page.matches("fetch(").count(), 1, "one place asks");
    assert!(page.contains("if (!document.hidden) timer = setTimeout(refresh, EVERY)"), "nobody looks, and it asks");
    assert!(page.contains("AbortSignal.timeout(PATIENCE)"), "what is never answered is waited for");
    for part in ["<html lang=\"en\">", "<header>", "<main ", "<nav ", ":focus-visible", "scope: 'col'", "scope: 'row'"] {
        assert!(page.contains(part), "the page has no {part}");
    }
    for element in ["<section ", "<input ", "<select ", "<table ", "<nav "] {
        for attributes in all_between(&page, element, ">") {
            assert!(attributes.contains("aria-label"), "{element}{attributes}> has no name");
        }
    }
    for state in ["WAITING", "RUNNING", "SUCCESS", "FAILED", "FAIL", "GONE"] {
        assert!(page.contains(&format!(" {state}: '")), "{state} has no word");
    }
}
