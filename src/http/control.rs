//! What the commands ask of a running service over its control socket.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, Reply};

use super::params::Params;
use super::registration::task_id;
use super::rest::cache::{CacheInfo, CachedFileInfo};
use super::wire::Answer;
use crate::cluster::snapshots::Line;
use crate::cluster::{Cluster, inventory};

/// Lines of an answer that wait for a slow reader.
const LINES_AHEAD: usize = 1024;
/// Lines of a dump for which the disk is waited for at once. Bytes.
const KEPT_MAX_BYTES: usize = 256 * 1024;

/// The routes of the control socket: `GET /dump?taskId=…`, `POST /snapshot?output=…` and `POST /gc?dryRun=…`, answered with
/// JSON lines.
pub fn control_routes(cluster: Arc<Cluster>) -> BoxedFilter<(impl Reply,)> {
    let with_cluster = warp::any().map(move || cluster.clone());
    let dump = warp::path!("dump").and(warp::get()).and(super::query()).and(with_cluster.clone()).then(dump);
    let snapshot = warp::path!("snapshot").and(warp::post()).and(super::query()).and(with_cluster.clone()).then(snapshot);
    let gc = warp::path!("gc").and(warp::post()).and(super::query()).and(with_cluster).then(gc);
    dump.or(snapshot).unify().or(gc).unify().recover(super::explain).unify().boxed()
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
    json_lines(move |lines| {
        let mut settling = Settling { cluster: &cluster, lines: &lines, kept: Vec::new(), kept_bytes: 0, broken: false };
        // A reader that has gone ends the walk.
        match inventory::walk(&cluster.store(), only.as_ref(), &mut |row| settling.put(&row)) {
            Ok(()) if settling.broken => {}
            Ok(()) => drop(settling.let_go()),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "dump breaks off");
                if !settling.broken && settling.let_go() {
                    put_error(&lines, &error.to_string());
                }
            }
        }
    })
}

/// Lines about what is stored, kept back until that is durable: sled shows what is being committed.
struct Settling<'a> {
    cluster: &'a Cluster,
    lines: &'a mpsc::Sender<Bytes>,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// It was said why there are no more.
    broken: bool,
}

impl Settling<'_> {
    /// Tells whether more is wanted.
    fn put(&mut self, line: &impl Serialize) -> bool {
        let line = line_of(line);
        self.kept_bytes += line.len();
        self.kept.push(line);
        self.kept_bytes < KEPT_MAX_BYTES || self.let_go()
    }

    /// The same.
    fn let_go(&mut self) -> bool {
        self.kept_bytes = 0;
        let settled = Handle::current().block_on(self.cluster.settled());
        if let Err(error) = settled {
            put_error(self.lines, &error.to_string());
            self.broken = true;
            return false;
        }
        self.kept.drain(..).all(|line| self.lines.blocking_send(line).is_ok())
    }
}

async fn snapshot(query: String, cluster: Arc<Cluster>) -> Response {
    let params = Params::of_query(&query);
    let Ok(output) = params.text("output").map(PathBuf::from) else {
        return Answer::transport(StatusCode::BAD_REQUEST, "output is not a path").into_response();
    };
    if !output.is_absolute() {
        return Answer::transport(StatusCode::BAD_REQUEST, "output must be an absolute path").into_response();
    }
    json_lines(move |lines| {
        // Whoever asked may have gone; the snapshot is taken all the same.
        let taken = cluster.snapshot(&output, &mut |rows| drop(lines.try_send(line_of(&Line::Progress { rows }))));
        let last = match taken {
            Ok(taken) => Line::from(&taken),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "snapshot could not be taken");
                Line::Error { error: reason(&error) }
            }
        };
        put(&lines, &last);
    })
}

/// Collects garbage, or only tells what would go. What is told of each file is how it was found.
async fn gc(query: String, cluster: Arc<Cluster>) -> Response {
    let Ok(dry) = Params::of_query(&query).flag("dryRun") else {
        return Answer::transport(StatusCode::BAD_REQUEST, "dryRun must be true or false").into_response();
    };
    let view = cluster.cache().await;
    let collected = if dry { Ok(None) } else { cluster.collect().await.map(Some) };
    let settled = cluster.settled().await;
    json_lines(move |lines| {
        if let Err(error) = settled {
            return put_error(&lines, &error.to_string());
        }
        let all = view.files.iter().map(|file| CachedFileInfo::new(file, &view.rules));
        for file in all {
            if !put(&lines, &Kind { kind: "file", line: file }) {
                return;
            }
        }
        put(&lines, &Kind { kind: "cache", line: CacheInfo::new(&view) });
        match collected {
            Ok(None) => {}
            Ok(Some(collected)) => drop(put(&lines, &Kind { kind: "collected", line: collected })),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "garbage could not be collected");
                put_error(&lines, &reason(&error));
            }
        }
    })
}

/// A line that says what it is.
#[derive(Serialize)]
struct Kind<T> {
    kind: &'static str,
    #[serde(flatten)]
    line: T,
}

/// The whole chain of an error in one sentence.
fn reason(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", reason(source)))
}

fn line_of(line: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

/// Tells whether anybody reads.
fn put(lines: &mpsc::Sender<Bytes>, line: &impl Serialize) -> bool {
    lines.blocking_send(line_of(line)).is_ok()
}

/// The last line of an answer that cannot go on.
fn put_error(lines: &mpsc::Sender<Bytes>, error: &str) {
    put(lines, &serde_json::json!({ "kind": "error", "error": error }));
}

/// An answer that grows line by line while `work` runs on a thread of its own.
fn json_lines(work: impl FnOnce(mpsc::Sender<Bytes>) + Send + 'static) -> Response {
    let (lines, mut written) = mpsc::channel::<Bytes>(LINES_AHEAD);
    tokio::task::spawn_blocking(move || work(lines));
    let stream = futures_util::stream::poll_fn(move |context| written.poll_recv(context));
    let mut response = warp::reply::stream(futures_util::StreamExt::map(stream, Ok::<_, Infallible>)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}
