//! The interface description of the API port, generated from the handlers and the wire types.

use std::sync::LazyLock;

use http::{HeaderValue, header};
use utoipa::OpenApi;
use warp::Reply;
use warp::reply::Response;

use super::rest::{cache, peers, preheats, tasks};
use super::{client_api, page, peer_api};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "supernode",
        description = "Tracker, scheduler and seed of a P2P file-distribution cluster. Every route also answers under /api/v1 and under /v<version>. The routes below /peer and /task answer with HTTP 200 and tell failures by `code`, because clients that see another status give the supernode up; the others answer with HTTP statuses. Where there is a GET that reports nothing, there is a HEAD."
    ),
    tags(
        (name = "peer", description = "What clients (dfget, dfdaemon) call"),
        (name = "tasks", description = "Tasks, their pieces and clients"),
        (name = "peers", description = "Peers"),
        (name = "preheats", description = "Files and images that are fetched before anybody asks for them"),
        (name = "service", description = "The service itself")
    ),
    paths(
        peer_api::registry,
        peer_api::task,
        peer_api::piece_suc,
        client_api::piece_error,
        client_api::service_down,
        client_api::heartbeat,
        client_api::network,
        client_api::task_metrics,
        client_api::metrics,
        client_api::version,
        client_api::ping,
        client_api::live,
        client_api::ready,
        openapi,
        page::page,
        cache::get,
        peers::list,
        peers::add,
        peers::get,
        peers::delete,
        preheats::list,
        preheats::add,
        preheats::get,
        preheats::delete,
        tasks::list,
        tasks::get,
        tasks::delete,
        tasks::pin,
        tasks::unpin,
        tasks::pieces,
        tasks::clients
    )
)]
struct Description;

static DESCRIPTION: LazyLock<String> = LazyLock::new(|| Description::openapi().to_json().unwrap_or_default());

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "service", responses((status = 200, body = serde_json::Value)))]
pub async fn openapi() -> Response {
    let mut response = DESCRIPTION.as_str().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::routes::ROUTES;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let description: serde_json::Value = serde_json::from_str(&DESCRIPTION).expect("JSON");
        let mut described = BTreeSet::new();
        for (path, item) in description["paths"].as_object().expect("paths") {
            for method in item.as_object().expect("methods").keys() {
                // The table has one entry for both lists of a task.
                let path = path.replace("/pieces", "/{list}").replace("/clients", "/{list}");
                described.insert((path, method.to_ascii_uppercase()));
            }
        }
        let routes: BTreeSet<(String, String)> = ROUTES
            .iter()
            .flat_map(|route| route.methods.iter().map(|method| (route.path.to_owned(), (*method).to_owned())))
            .collect();
        assert_eq!(described, routes);
    }
}
