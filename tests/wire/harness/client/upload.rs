//! The upload server of a client: gives pieces that were written to whoever is sent here for them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::fetch::CDN_SOURCE;

/// What a client has written, slot by slot, wrapped.
#[derive(Debug, Default)]
pub struct Shelf {
    piece_size: AtomicU64,
    /// Pieces are cut without wrapping, and asked for so.
    bare: AtomicBool,
    slots: Mutex<BTreeMap<u32, Bytes>>,
    served: AtomicU32,
    asked_in_vain: AtomicU32,
}

impl Shelf {
    pub fn set_piece_size(&self, piece_size: u64, bare: bool) {
        self.bare.store(bare, Ordering::Relaxed);
        self.piece_size.store(piece_size, Ordering::Relaxed);
    }

    pub fn put(&self, piece: u32, slot: Bytes) {
        self.lock().insert(piece, slot);
    }

    pub fn clear(&self) {
        self.lock().clear();
    }

    pub fn slots(&self) -> BTreeMap<u32, Bytes> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Bytes>> {
        self.slots.lock().expect("nobody panics while they hold this")
    }

    /// The bytes of a range, clipped at the end of the slot that it begins.
    fn read(&self, range: &str) -> Option<Bytes> {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let piece_size = self.piece_size.load(Ordering::Relaxed);
        let piece = u32::try_from(first.checked_div(piece_size)?).ok()?;
        let slots = self.lock();
        let slot = slots.get(&piece).filter(|_| first % piece_size == 0 && first <= last)?;
        let length = usize::try_from(last - first + 1).unwrap_or(usize::MAX).min(slot.len());
        Some(slot.slice(..length))
    }

    fn answer(&self, path: &str, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let range = request.headers().get("range").and_then(|range| range.to_str().ok()).unwrap_or_default();
        let wants_bare = request.headers().get(CDN_SOURCE).is_some_and(|value| value == "source");
        let fits = request.uri().path() == path && wants_bare == self.bare.load(Ordering::Relaxed);
        let found = if fits { self.read(range) } else { None };
        let (status, counter) = match &found {
            _ if is_of_one_byte(range) => (StatusCode::BAD_REQUEST, &self.asked_in_vain),
            Some(_) => (StatusCode::PARTIAL_CONTENT, &self.served),
            None => (StatusCode::NOT_FOUND, &self.asked_in_vain),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::new(Full::new(found.unwrap_or_default()));
        *response.status_mut() = status;
        response
    }
}

/// The published server takes such a range for a mistake.
fn is_of_one_byte(range: &str) -> bool {
    range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).is_some_and(|(first, last)| first == last)
}

/// The server. It goes when this is dropped.
#[derive(Debug)]
pub struct Upload {
    address: SocketAddr,
    path: String,
    shelf: Arc<Shelf>,
    accepting: JoinHandle<()>,
}

impl Upload {
    pub async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let path = format!("/peer/file/{name}");
        let shelf = Arc::new(Shelf::default());
        let accepting = tokio::spawn(accept(listener, path.clone(), shelf.clone()));
        Self { address, path, shelf, accepting }
    }

    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub const fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    /// Closes the port and every connection, without a word.
    pub fn close(&self) {
        self.accepting.abort();
    }

    pub fn served(&self) -> u32 {
        self.shelf.served.load(Ordering::Relaxed)
    }

    pub fn asked_in_vain(&self) -> u32 {
        self.shelf.asked_in_vain.load(Ordering::Relaxed)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.close();
    }
}

async fn accept(listener: TcpListener, path: String, shelf: Arc<Shelf>) {
    let path: Arc<str> = path.into();
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (path, shelf) = (path.clone(), shelf.clone());
        let service = service_fn(move |request| {
            let response = shelf.answer(&path, &request);
            async move { Ok::<_, Infallible>(response) }
        });
        // A reader that hangs up ends it with an error, which is the reader's affair.
        connections.spawn(async move {
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}
