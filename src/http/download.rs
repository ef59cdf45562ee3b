//! The download port: pieces by range, straight from the piece file.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, StatusCode, header};
use warp::Reply;
use warp::reply::Response;

use super::range::{ByteRange, parse_byte_range};
use super::wire::Answer;
use crate::cluster::{Cluster, Readable, Unreadable};
use crate::domain::TaskId;
use crate::telemetry::metrics::METRICS;

/// Bytes read at once. Larger reads gain nothing, smaller ones cost a switch to a blocking thread each.
const READ_BYTES: u64 = 256 * 1024;
/// Reads under way per download: one is sent while the next is read.
const READS_AHEAD: usize = 2;

/// `GET /qtdown/<first 3 characters>/<task id>`, and the same under `/download`. A `HEAD` has no body.
pub async fn piece(prefix: String, task: String, body: bool, range: Option<String>, cluster: Arc<Cluster>) -> Response {
    let Some(id) = TaskId::parse(&task).ok().filter(|_| task.get(..3) == Some(prefix.as_str())) else {
        return Answer::transport(StatusCode::NOT_FOUND, "there is no such task").into_response();
    };
    let asked = parse_byte_range(range.as_deref());
    let found = tokio::task::spawn_blocking(move || find(&cluster, &id, asked)).await;
    let found = found.unwrap_or(Err(Unreadable::Disk));
    match found {
        Ok(readable) => stream(readable, asked != ByteRange::Whole, body),
        Err(unreadable) => explain(unreadable),
    }
}

fn find(cluster: &Cluster, task: &TaskId, asked: ByteRange) -> Result<Readable, Unreadable> {
    match asked {
        ByteRange::Whole => cluster.readable(task, None),
        ByteRange::Bounded(first, last) => cluster.readable(task, Some((first, last))),
        ByteRange::Suffix(count) => {
            let whole = cluster.readable(task, None)?;
            Ok(Readable { first: (whole.last + 1).saturating_sub(count), ..whole })
        }
        ByteRange::Unsatisfiable => match cluster.readable(task, Some((u64::MAX, u64::MAX))) {
            Ok(_) => Err(Unreadable::NotThere { total: None }),
            Err(unreadable) => Err(unreadable),
        },
    }
}

fn stream(readable: Readable, partial: bool, body: bool) -> Response {
    let Readable { bytes, first, last, total, etag } = readable;
    let length = last - first + 1;
    let mut response = if body {
        let bytes = Arc::new(bytes);
        let starts = (0..length.div_ceil(READ_BYTES)).map(move |index| first + index * READ_BYTES);
        let reads = futures_util::stream::iter(starts).map(move |start| {
            let bytes = bytes.clone();
            tokio::task::spawn_blocking(move || {
                // At most READ_BYTES, so it fits.
                let mut buffer = vec![0; (last - start + 1).min(READ_BYTES) as usize];
                bytes.read_exact_at(&mut buffer, start).map(|()| Bytes::from(buffer))
            })
        });
        let chunks = reads.buffered(READS_AHEAD).map(|read| match read {
            Ok(Ok(chunk)) => {
                METRICS.pieces_downloaded_bytes.inc_by(chunk.len() as u64);
                Ok(chunk)
            }
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "download breaks off");
                Err(std::io::Error::other(error))
            }
            Err(error) => Err(std::io::Error::other(error)),
        });
        warp::reply::stream(chunks).into_response()
    } else {
        Response::default()
    };
    *response.status_mut() = if partial { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    let total = total.map_or("*".to_owned(), |total| total.to_string());
    if partial && let Ok(content_range) = HeaderValue::from_str(&format!("bytes {first}-{last}/{total}")) {
        headers.insert(header::CONTENT_RANGE, content_range);
    }
    response
}

fn explain(unreadable: Unreadable) -> Response {
    let status = match unreadable {
        Unreadable::UnknownTask | Unreadable::NotKept | Unreadable::Incomplete => StatusCode::NOT_FOUND,
        Unreadable::NotThere { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
        Unreadable::Disk => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = Answer::transport(status, &unreadable.to_string()).into_response();
    if let Unreadable::NotThere { total: Some(total) } = unreadable
        && let Ok(content_range) = HeaderValue::from_str(&format!("bytes */{total}"))
    {
        response.headers_mut().insert(header::CONTENT_RANGE, content_range);
    }
    response
}
