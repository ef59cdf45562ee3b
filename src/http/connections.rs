//! Connections: accepting them, serving HTTP/1.1 on them, and letting them end.
//!
//! `warp::serve` has no timeouts, no cap and no deadline for a stop, so the accept loop is our own around the same filters.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::reply::Response;

use super::routes::strip_prefixes;

/// Connections of all ports at once. More wait in the listening sockets' queues.
const CONNECTIONS_MAX: usize = 65_536;
/// However few descriptors there are.
const CONNECTIONS_MIN: usize = 16;
/// Descriptors that connections leave to the database, piece files, sources and the log.
const DESCRIPTORS_RESERVED: usize = 512;
/// How long a client may take to send its request's head; an idle connection is closed after it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may read nothing of an answer that is being sent to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// What is kept of one connection's requests that were not read yet, their heads included. Bytes.
const BUFFER_MAX_BYTES: usize = 128 * 1024;
/// After an accept that failed for want of files or memory, before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often failed accepts are told of, however many there are.
const ACCEPT_FAILURES_TOLD_EVERY: Duration = Duration::from_secs(30);

/// The address at which a client reached us, among the request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct LocalAddress(pub SocketAddr);

/// All connections of a service, and the word that they should end.
#[derive(Clone, Debug)]
pub struct Connections {
    open: TaskTracker,
    ending: CancellationToken,
    /// For the connections of all TCP ports.
    places: Arc<Semaphore>,
}

impl Default for Connections {
    fn default() -> Self {
        Self::within(usize::MAX)
    }
}

impl Connections {
    /// So many at once that of this many descriptors enough are left for the database, piece files and sources.
    pub fn within(descriptors: usize) -> Self {
        let places = descriptors.saturating_sub(DESCRIPTORS_RESERVED).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX);
        Self { open: TaskTracker::new(), ending: CancellationToken::new(), places: Arc::new(Semaphore::new(places)) }
    }

    /// Takes no new connections and lets every open one end with the request it is serving.
    pub fn end(&self) {
        self.ending.cancel();
        self.open.close();
    }

    /// Returns when all have ended.
    pub async fn ended(&self) {
        self.open.wait().await;
    }
}

/// Serves these routes on every connection to the listener, until the connections are told to end.
pub async fn serve_tcp<R>(listener: TcpListener, routes: R, connections: Connections)
where
    R: Routes,
{
    let mut failures = AcceptFailures::default();
    loop {
        let Some(accepted) = connections.ending.run_until_cancelled(listener.accept()).await else { return };
        // After the accept, so that a port where nobody calls holds no place that another could use.
        let placed = connections.places.clone().acquire_owned();
        let Some(Ok(place)) = connections.ending.run_until_cancelled(placed).await else { return };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                failures.pause_after(&error).await;
                continue;
            }
        };
        // Answers are small and waited for: they must not sit in the kernel until a fuller packet is due.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "connection ended before it was served");
            continue;
        }
        let local = stream.local_addr().ok().map(LocalAddress);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let served = serve_connection(TokioIo::new(Box::pin(stream)), routes.clone(), local, connections.ending.clone());
        connections.open.spawn(async move {
            served.await;
            drop(place);
        });
    }
}

/// Serves these routes on a Unix socket.
pub async fn serve_unix<R>(listener: UnixListener, routes: R, connections: Connections)
where
    R: Routes,
{
    let mut failures = AcceptFailures::default();
    while let Some(accepted) = connections.ending.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                connections.open.spawn(serve_connection(TokioIo::new(stream), routes.clone(), None, connections.ending.clone()));
            }
            Err(error) => failures.pause_after(&error).await,
        }
    }
}

/// A warp filter's service, which never fails.
pub trait Routes: Clone + Send + 'static {
    fn answer(&self, request: http::Request<Incoming>) -> impl Future<Output = Response> + Send;
}

impl<S> Routes for S
where
    S: tower_service::Service<http::Request<Incoming>, Response = Response, Error = std::convert::Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    fn answer(&self, request: http::Request<Incoming>) -> impl Future<Output = Response> + Send {
        let answer = self.clone().call(request);
        async move {
            let Ok(response) = answer.await;
            response
        }
    }
}

/// Failed accepts of one listener. Where descriptors are scarce there are many a second, and one line says it all.
#[derive(Debug, Default)]
struct AcceptFailures {
    untold: u64,
    told: Option<Instant>,
}

impl AcceptFailures {
    async fn pause_after(&mut self, error: &io::Error) {
        // A client that hung up before it was accepted is nobody's trouble.
        if error.kind() == io::ErrorKind::ConnectionAborted {
            return;
        }
        if let Some(failures) = self.due(Instant::now()) {
            tracing::warn!(%error, failures, "connections cannot be accepted and wait");
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }

    /// Counts a failure. Tells how many there were since the last were told, if it is time to tell.
    fn due(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| now.duration_since(told) < ACCEPT_FAILURES_TOLD_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

async fn serve_connection<I, R>(io: I, routes: R, local: Option<LocalAddress>, ending: CancellationToken)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    R: Routes,
{
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        if let Some(local) = local {
            request.extensions_mut().insert(local);
        }
        strip_prefixes(request.uri_mut());
        let routes = routes.clone();
        async move { Ok::<_, std::convert::Infallible>(routes.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER_MAX_BYTES)
        .serve_connection(io, service);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "connection broke off");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        let places = |descriptors| Connections::within(descriptors).places.available_permits();
        assert_eq!(places(usize::MAX), CONNECTIONS_MAX);
        assert_eq!(places(1024), 512);
        assert_eq!(places(100), CONNECTIONS_MIN);
    }

    #[test]
    fn accepts_that_fail_by_the_hundred_are_told_of_once_and_counted() {
        let (mut failures, start) = (AcceptFailures::default(), Instant::now());
        assert_eq!(failures.due(start), Some(1), "the first is told at once");
        for _ in 0..100 {
            assert_eq!(failures.due(start + ACCEPT_FAILURES_TOLD_EVERY / 2), None);
        }
        assert_eq!(failures.due(start + ACCEPT_FAILURES_TOLD_EVERY), Some(101));
    }
}
