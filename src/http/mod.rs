//! The wire: routes, what clients send, what they get back.
//!
//! Owns the protocol as bytes: parameters in all their spellings, the dialects ([`dialect`]), the codes ([`wire`]), and the
//! connections themselves ([`connections`]). Wire types become domain values here, and nowhere else.
//! Must not: decide, or keep anything between two requests.

mod client_api;
mod connections;
mod control;
mod described;
mod dialect;
mod download;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod late;
mod observed;
mod openapi;
mod page;
mod params;
mod peer_api;
mod range;
mod registration;
mod rest;
mod routes;
mod settled;
mod staged;
mod wire;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{StatusCode, header};
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use crate::cluster::Cluster;
pub use connections::{Connections, LocalAddress, serve_tcp, serve_unix};
pub use control::control_routes;
pub use observed::Observed;
pub use staged::Staged;
use wire::Answer;

/// The largest body of a request. Bytes. Certificates travel in registrations.
const BODY_MAX_BYTES: usize = 1024 * 1024;
/// How long a body may take to come. Clients give a whole call 5 s; one that sends a byte now and then keeps a connection.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What every route of the API needs.
#[derive(Clone, Debug)]
pub struct Api {
    pub cluster: Arc<Cluster>,
    /// The port that clients are sent to for pieces.
    pub download_port: u16,
}

/// The routes of the API port.
pub fn api_routes(api: Api) -> BoxedFilter<(impl Reply,)> {
    let api = Arc::new(api);
    let with_api = || {
        let api = api.clone();
        warp::any().map(move || api.clone())
    };
    // The routes that every client calls for every piece stand first.
    let task = warp::path!("task").and(warp::get()).and(with_api()).and(query()).and(local_address()).then(peer_api::task);
    let suc = warp::path!("piece" / "suc").and(warp::get()).and(with_api()).and(query()).then(peer_api::piece_suc);
    let registry = warp::path!("registry")
        .and(warp::post())
        .and(with_api())
        .and(warp::header::optional::<String>(header::CONTENT_TYPE.as_str()))
        .and(limited_body())
        .then(peer_api::registry);
    let service_down =
        warp::path!("service" / "down").and(warp::get()).and(with_api()).and(query()).then(client_api::service_down);
    let piece_error = warp::path!("piece" / "error").and(warp::get()).and(with_api()).and(query()).then(client_api::piece_error);
    let network =
        warp::path!("network").and(warp::post()).and(with_api()).and(query()).and(limited_body()).then(client_api::network);
    let heartbeat = warp::path!("heartbeat").and(warp::post()).and(with_api()).and(limited_body()).then(client_api::heartbeat);
    let rarer = registry.or(service_down).unify().or(piece_error).unify().or(network).unify().map(Reply::into_response);
    let rarer = rarer.or(heartbeat).unify().boxed();
    let peer = warp::path("peer").and(task.or(suc).unify().map(Reply::into_response).or(rarer).unify());

    let metrics = warp::path!("task" / "metrics").and(warp::post()).and(limited_body()).then(client_api::task_metrics);
    let ping = warp::path!("_ping").and(warp::get()).then(client_api::ping).map(Reply::into_response);
    let version = warp::path!("version").and(warp::get()).then(client_api::version);
    let scrape = warp::path!("metrics").and(warp::get()).and(with_api()).then(client_api::metrics);
    let description = warp::path!("openapi.json").and(warp::get()).then(openapi::openapi);
    let page = warp::path::end().and(warp::get()).then(page::page);
    let ready = warp::path!("ready").and(warp::get()).and(with_api()).then(client_api::ready);
    let health = warp::path!("live").and(warp::get()).then(client_api::live).or(ready).unify().map(Reply::into_response);
    let others = metrics.map(Reply::into_response).or(ping).unify().or(version).unify().or(scrape).unify();
    let others = others.or(health).unify().or(description).unify().or(page).unify().or(rest::routes(&api)).unify().boxed();
    peer.or(others).unify().recover(explain).unify().boxed()
}

/// The routes of the download port.
pub fn download_routes(cluster: Arc<Cluster>) -> BoxedFilter<(impl Reply,)> {
    let with_cluster = warp::any().map(move || cluster.clone());
    let path = warp::path!("qtdown" / String / String).or(warp::path!("download" / String / String)).unify();
    let method = warp::get().map(|| true).or(warp::head().map(|| false)).unify();
    path.and(method)
        .and(warp::header::optional::<String>(header::RANGE.as_str()))
        .and(with_cluster)
        .then(download::piece)
        .recover(explain)
        .unify()
        .boxed()
}

/// The raw query; empty where there is none.
fn query() -> impl Filter<Extract = (String,), Error = Infallible> + Clone {
    warp::query::raw().or_else(|_| async { Ok::<_, Infallible>((String::new(),)) })
}

/// The address at which the client reached us.
fn local_address() -> impl Filter<Extract = (Option<SocketAddr>,), Error = Infallible> + Clone {
    warp::ext::optional::<LocalAddress>().map(|local: Option<LocalAddress>| local.map(|local| local.0))
}

/// A body that is larger than [`BODY_MAX_BYTES`].
#[derive(Debug)]
struct BodyTooLarge;
impl warp::reject::Reject for BodyTooLarge {}

/// A body that broke off.
#[derive(Debug)]
struct BodyBroken;
impl warp::reject::Reject for BodyBroken {}

/// A body that did not come within [`BODY_TIMEOUT`].
#[derive(Debug)]
struct BodyLate;
impl warp::reject::Reject for BodyLate {}

/// The whole body, counted as it comes: a length that a client announces is not believed, and none is needed.
fn limited_body() -> impl Filter<Extract = (Bytes,), Error = Rejection> + Copy {
    warp::body::stream().and_then(|body| collect_within(BODY_TIMEOUT, body))
}

async fn collect_within<B: Buf>(timeout: Duration, body: impl Stream<Item = Result<B, warp::Error>>) -> Result<Bytes, Rejection> {
    let collecting = tokio::time::timeout(timeout, collect_body(body)).await;
    collecting.unwrap_or_else(|_| Err(warp::reject::custom(BodyLate)))
}

async fn collect_body<B: Buf>(body: impl Stream<Item = Result<B, warp::Error>>) -> Result<Bytes, Rejection> {
    let mut body = std::pin::pin!(body);
    let mut collected = BytesMut::new();
    while let Some(part) = body.next().await {
        let mut part = part.map_err(|_| warp::reject::custom(BodyBroken))?;
        if collected.len() + part.remaining() > BODY_MAX_BYTES {
            return Err(warp::reject::custom(BodyTooLarge));
        }
        collected.extend_from_slice(&part.copy_to_bytes(part.remaining()));
    }
    Ok(collected.freeze())
}

fn no_such_route() -> Answer {
    Answer::transport(StatusCode::NOT_FOUND, "there is no such route")
}

/// Requests that no route takes keep their HTTP status, in the envelope that clients parse.
async fn explain(rejection: Rejection) -> Result<Response, Rejection> {
    if rejection.is_not_found() {
        return Ok(no_such_route().into_response());
    }
    let (status, message) = if rejection.find::<BodyTooLarge>().is_some() {
        (StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 1 MiB")
    } else if rejection.find::<BodyBroken>().is_some() {
        (StatusCode::BAD_REQUEST, "the body broke off")
    } else if rejection.find::<BodyLate>().is_some() {
        (StatusCode::REQUEST_TIMEOUT, "the body did not come in time")
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        (StatusCode::METHOD_NOT_ALLOWED, "the route does not have this method")
    } else {
        (StatusCode::BAD_REQUEST, "the request cannot be read")
    };
    Ok(Answer::transport(status, message).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_does_not_end_is_not_waited_for() {
        let beginning = futures_util::stream::iter([Ok(Bytes::from_static(b"{"))]);
        let collected = collect_within(Duration::from_millis(10), beginning.chain(futures_util::stream::pending())).await;
        let answer = explain(collected.expect_err("there is no whole body")).await.expect("every rejection is explained");
        assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
    }
}
