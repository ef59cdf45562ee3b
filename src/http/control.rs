//! What the commands ask of a running service over its control socket.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use tokio::sync::mpsc;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, Reply};

use super::params::Params;
use super::registration::task_id;
use super::wire::Answer;
use crate::cluster::{Cluster, inventory};

/// Lines of a dump that wait for a slow reader.
const LINES_AHEAD: usize = 1024;

/// The routes of the control socket: `GET /dump?taskId=…`, JSON lines.
pub fn control_routes(cluster: Arc<Cluster>) -> BoxedFilter<(impl Reply,)> {
    let with_cluster = warp::any().map(move || cluster.clone());
    let dump = warp::path!("dump").and(warp::get()).and(super::query()).and(with_cluster).then(dump);
    dump.recover(super::explain).unify().boxed()
}

async fn dump(query: String, cluster: Arc<Cluster>) -> Response {
    let params = Params::of_query(&query);
    let only = match params.text("taskId") {
        Ok("") => None,
        _ => match task_id(&params) {
            Ok(id) => Some(id),
            Err(bad) => return Answer::transport(StatusCode::BAD_REQUEST, &format!("{} {}", bad.name, bad.why)).into_response(),
        },
    };
    let (lines, mut written) = mpsc::channel::<Bytes>(LINES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut write = |row: inventory::Row| {
            let mut line = serde_json::to_vec(&row).unwrap_or_default();
            line.push(b'\n');
            // A reader that has gone ends the walk.
            lines.blocking_send(line.into()).is_ok()
        };
        if let Err(error) = inventory::walk(&cluster.store(), only.as_ref(), &mut write) {
            tracing::error!(error = &error as &dyn std::error::Error, "dump breaks off");
            let mut line = serde_json::json!({ "kind": "error", "error": error.to_string() }).to_string();
            line.push('\n');
            let _ = lines.blocking_send(line.into());
        }
    });
    let stream = futures_util::stream::poll_fn(move |context| written.poll_recv(context));
    let mut response = warp::reply::stream(futures_util::StreamExt::map(stream, Ok::<_, Infallible>)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}
