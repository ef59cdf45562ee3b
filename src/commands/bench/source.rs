//! The source that the measured service fetches: 13 full pieces of zeros under any path but `/tiny…`, where it is a
//! few bytes, and `/small…`, where it is 64 KiB.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::stream;
use tokio::net::TcpListener;
use warp::Filter;

use crate::domain::PieceSize;
use crate::http::{Connections, serve_tcp};

const PIECES: u64 = 13;
const TINY: &[u8] = b"tiny";
const CHUNK: &[u8] = &[0; 64 * 1024];

/// Serves until the runtime ends.
pub async fn start() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let length = PIECES * u64::from(PieceSize::DEFAULT.content_bytes());
    let short_of = |path: warp::path::FullPath| async move {
        match path.as_str() {
            path if path.starts_with("/tiny") => Ok(TINY),
            path if path.starts_with("/small") => Ok(CHUNK),
            _ => Err(warp::reject::not_found()),
        }
    };
    let short = warp::path::full().and_then(short_of);
    let large = warp::any().map(move || {
        let chunk = CHUNK.len() as u64;
        let last = usize::try_from(length % chunk).unwrap_or_default();
        let sizes = (0..length / chunk).map(|_| CHUNK.len()).chain([last]);
        let chunks = sizes.map(|size| Ok::<_, Infallible>(Bytes::from_static(&CHUNK[..size])));
        warp::reply::with_header(warp::reply::stream(stream::iter(chunks)), "content-length", length)
    });
    tokio::spawn(serve_tcp(listener, warp::service(short.or(large)), Connections::default()));
    Ok(address)
}
