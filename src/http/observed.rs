//! Counts and times every request of the API port, and answers those that no route has.

use std::time::Instant;

use http::{HeaderValue, Method, StatusCode, header};
use http_body::Body;
use hyper::body::Incoming;
use warp::Reply;
use warp::reply::Response;

use super::connections::Routes;
use super::no_such_route;
use super::routes::{self, Route};
use super::wire::Answer;
use crate::telemetry::metrics::METRICS;

/// What metrics call a path that no route has: paths are chosen by clients.
const OTHER: &str = "other";

/// Routes whose requests are counted.
#[derive(Clone, Debug)]
pub struct Observed<R>(pub R);

impl<R: Routes + Sync> Routes for Observed<R> {
    async fn answer(&self, mut request: http::Request<Incoming>) -> Response {
        let started = Instant::now();
        let route = routes::find(request.uri().path());
        let request_bytes = request.body().size_hint().lower();
        // The server sends no body where it was asked for a head, but its length.
        let is_head = request.method() == Method::HEAD;
        let response = match route.map(|route| (route, route.answers(request.method()))) {
            Some((_, Some(method))) => {
                *request.method_mut() = method;
                self.0.answer(request).await
            }
            Some((route, None)) => no_such_method(route),
            None => no_such_route().into_response(),
        };
        let response_bytes = if is_head { 0 } else { response.body().size_hint().lower() };
        METRICS.observe_request(
            route.map_or(OTHER, |route| route.path),
            response.status().as_str(),
            started.elapsed(),
            request_bytes,
            response_bytes,
        );
        response
    }
}

fn no_such_method(route: &Route) -> Response {
    let mut response = Answer::transport(StatusCode::METHOD_NOT_ALLOWED, "the route does not have this method").into_response();
    if let Ok(methods) = HeaderValue::from_str(&route.allowed()) {
        response.headers_mut().insert(header::ALLOW, methods);
    }
    response
}
