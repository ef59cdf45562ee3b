//! Counts and times every request of the API port.

use std::time::Instant;

use http_body::Body;
use hyper::body::Incoming;
use warp::reply::Response;

use super::connections::Routes;
use crate::telemetry::metrics::METRICS;

/// The routes as metrics name them. Whatever is not among these is `other`: paths are chosen by clients.
const HANDLERS: [&str; 12] = [
    "/peer/task",
    "/peer/piece/suc",
    "/peer/registry",
    "/peer/piece/error",
    "/peer/service/down",
    "/peer/heartbeat",
    "/peer/network",
    "/task/metrics",
    "/metrics",
    "/version",
    "/_ping",
    "/openapi.json",
];

/// Routes whose requests are counted.
#[derive(Clone, Debug)]
pub struct Observed<R>(pub R);

impl<R: Routes + Sync> Routes for Observed<R> {
    async fn answer(&self, request: http::Request<Incoming>) -> Response {
        let started = Instant::now();
        let path = request.uri().path();
        let handler = HANDLERS.into_iter().find(|handler| *handler == path).unwrap_or("other");
        let request_bytes = request.body().size_hint().lower();
        let response = self.0.answer(request).await;
        let response_bytes = response.body().size_hint().lower();
        METRICS.observe_request(handler, response.status().as_str(), started.elapsed(), request_bytes, response_bytes);
        response
    }
}
