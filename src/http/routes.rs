//! Which routes the API port has: one table, without whose entry a route cannot be reached.
//!
//! It is held against the interface description by a test, so what is not described is not there.

use http::{Method, Uri};

/// A path, with `{id}` for whatever stands there, and the methods that it has.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub path: &'static str,
    /// But for HEAD, which goes with GET.
    pub methods: &'static [&'static str],
    /// Whether a GET reports something, which whoever asks for a head alone does not mean to do.
    reports: bool,
}

const fn route(path: &'static str, methods: &'static [&'static str]) -> Route {
    Route { path, methods, reports: false }
}

const fn report(path: &'static str) -> Route {
    Route { path, methods: &["GET"], reports: true }
}

impl Route {
    /// The method that is answered where this one is asked for: a HEAD is a GET whose body is not sent.
    pub fn answers(&self, asked: &Method) -> Option<Method> {
        let answered = if asked == Method::HEAD && !self.reports { Method::GET } else { asked.clone() };
        self.methods.contains(&answered.as_str()).then_some(answered)
    }

    /// As `Allow` has them.
    pub fn allowed(&self) -> String {
        let head = self.answers(&Method::HEAD).map(|_| "HEAD");
        self.methods.iter().copied().chain(head).collect::<Vec<_>>().join(", ")
    }
}

/// Those that clients call for every piece stand first.
pub static ROUTES: [Route; 24] = [
    report("/peer/task"),
    report("/peer/piece/suc"),
    route("/peer/registry", &["POST"]),
    report("/peer/piece/error"),
    report("/peer/service/down"),
    route("/peer/heartbeat", &["POST"]),
    route("/peer/network", &["POST"]),
    route("/task/metrics", &["POST"]),
    route("/metrics", &["GET"]),
    route("/version", &["GET"]),
    route("/_ping", &["GET"]),
    route("/live", &["GET"]),
    route("/ready", &["GET"]),
    route("/openapi.json", &["GET"]),
    route("/", &["GET"]),
    route("/peers", &["GET", "POST"]),
    route("/peers/{id}", &["GET", "DELETE"]),
    route("/cache", &["GET"]),
    route("/preheats", &["GET", "POST"]),
    route("/preheats/{id}", &["GET", "DELETE"]),
    route("/tasks", &["GET"]),
    route("/tasks/{id}", &["GET", "DELETE"]),
    route("/tasks/{id}/pin", &["PUT", "DELETE"]),
    // Two lists of one task.
    route("/tasks/{id}/{list}", &["GET"]),
];

/// The route of a path.
pub fn find(path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| matches(route.path, path))
}

fn matches(template: &str, path: &str) -> bool {
    if !template.contains('{') {
        return template == path;
    }
    let (mut parts, mut segments) = (template.split('/'), path.split('/'));
    loop {
        match (parts.next(), segments.next()) {
            (None, None) => return true,
            (Some(part), Some(segment)) if part == segment || (part.starts_with('{') && !segment.is_empty()) => {}
            _ => return false,
        }
    }
}

/// Every route answers under `/v<version>`, as the published server's router did, and under `/api/v1`, as its REST did.
pub fn strip_prefixes(uri: &mut Uri) {
    let Some(whole) = uri.path_and_query().map(http::uri::PathAndQuery::as_str) else { return };
    let unversioned = after_version(whole).unwrap_or(whole);
    let rest = unversioned.strip_prefix("/api/v1").filter(|rest| rest.starts_with('/')).unwrap_or(unversioned);
    if rest.len() == whole.len() {
        return;
    }
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = rest.parse().ok();
    if let Ok(stripped) = Uri::from_parts(parts) {
        *uri = stripped;
    }
}

/// What follows `/v1.0.6` in `/v1.0.6/peer/task?…`.
fn after_version(path_and_query: &str) -> Option<&str> {
    let rest = path_and_query.strip_prefix("/v")?;
    let end = rest.find('/')?;
    let version = &rest[..end];
    let is_version = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    is_version.then(|| &rest[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_before_the_path_are_passed_over() {
        for (path, rest) in [
            ("/v1.0.6/peer/task?x=/v1/y", "/peer/task?x=/v1/y"),
            ("/v1/_ping", "/_ping"),
            ("/api/v1/tasks?pageNum=1", "/tasks?pageNum=1"),
            ("/v1.0.6/api/v1/peers", "/peers"),
            ("/version", "/version"),
            ("/v/peer/task", "/v/peer/task"),
            ("/v1", "/v1"),
            ("/api/v1", "/api/v1"),
            ("/api/v1x/tasks", "/api/v1x/tasks"),
            ("/peer/task", "/peer/task"),
        ] {
            let mut uri: Uri = path.parse().expect("a URI");
            strip_prefixes(&mut uri);
            assert_eq!(uri, rest, "{path}");
        }
    }

    #[test]
    fn a_head_is_a_get_unless_that_reports_something() {
        let answers = |path: &str| find(path).and_then(|route| route.answers(&Method::HEAD));
        for path in ["/", "/metrics", "/live", "/peers", "/tasks/abc/pieces"] {
            assert_eq!(answers(path), Some(Method::GET), "{path}");
        }
        for path in
            ["/peer/task", "/peer/piece/suc", "/peer/piece/error", "/peer/service/down", "/peer/registry", "/tasks/abc/pin"]
        {
            assert_eq!(answers(path), None, "{path}");
        }
        assert_eq!(find("/peers").map(Route::allowed).as_deref(), Some("GET, POST, HEAD"));
        assert_eq!(find("/peer/task").map(Route::allowed).as_deref(), Some("GET"));
    }

    #[test]
    fn a_path_is_named_by_its_route_and_never_by_what_clients_put_there() {
        for (path, route) in [
            ("/peer/task", Some("/peer/task")),
            ("/peers/some-client", Some("/peers/{id}")),
            ("/tasks/abc/pieces", Some("/tasks/{id}/{list}")),
            ("/peers/", None),
            ("/peers/a/b", None),
            ("/tasks/a/b/c", None),
            ("/", Some("/")),
            ("//", None),
            ("/nothing", None),
        ] {
            assert_eq!(find(path).map(|found| found.path), route, "{path}");
        }
    }
}
