//! `/`: one page that shows what the service is doing, made in the browser of what the other routes tell.

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderName, HeaderValue, header};
use sha2::{Digest, Sha256};
use warp::Reply;
use warp::reply::Response;

const PAGE: &str = include_str!("page.html");

/// The page runs its own script and nothing else, and speaks with this service and nobody else.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let [script, style] = ["script", "style"].map(|element| BASE64_STANDARD.encode(Sha256::digest(inside(element))));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_maybe_shared(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// A page for people: tasks and how far they are, their clients and pieces, preheats, room and rates.
#[utoipa::path(get, path = "/", tag = "service", responses((status = 200, body = String, content_type = "text/html")))]
pub async fn page() -> Response {
    let mut response = PAGE.into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    response
}

/// The text inside the page's only element of this name.
fn inside(element: &str) -> &'static str {
    let (begin, end) = (format!("<{element}>"), format!("</{element}>"));
    PAGE.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map_or("", |(text, _)| text)
}
