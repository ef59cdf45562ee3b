//! An HTTP server with files that behave well, or badly in a way that a test asks for.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{CHUNK_BYTES, SEND_BUFFER_BYTES};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A file, and how it is served. By default it is served as it should be.
#[derive(Clone, Debug)]
pub struct File {
    pub content: Bytes,
    /// Part of the validators: another revision has another `ETag` and `Last-Modified`.
    pub revision: u32,
    /// Answered instead of the file.
    pub status: Option<StatusCode>,
    /// Says with that when to ask again.
    pub retry_after: Option<&'static str>,
    /// Answered with 302 instead of the file.
    pub location: Option<String>,
    /// Denies requests that do not bring this `Authorization`.
    pub authorization: Option<String>,
    /// Says what it wants to see, with the denial.
    pub challenge: Option<String>,
    /// With which status.
    pub denial: StatusCode,
    /// No `Content-Length`.
    pub chunked: bool,
    /// Announced instead of the content's own length; what is beyond the content never comes.
    pub announced_length: Option<u64>,
    pub ignores_range: bool,
    /// Sends parts of what it does not tell the length of.
    pub hides_total: bool,
    /// Says of every part that it begins a byte later than it was asked for.
    pub misplaces_parts: bool,
    /// Sends a byte less of every part than it says.
    pub shortens_parts: bool,
    /// Answered instead of the file to whoever asks for more than its first byte.
    pub status_of_parts: Option<StatusCode>,
    /// Says nothing by which its content could be recognised.
    pub unvalidated: bool,
    /// Sends the file to whoever has it already.
    pub ignores_conditions: bool,
    pub rate_bytes_per_s: Option<u64>,
    pub delay: Duration,
    pub ending: Ending,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Whole,
    /// Nothing comes after this many bytes, until the file is changed; then the connection breaks.
    StallsAfter(u64),
}

impl File {
    pub fn new(content: impl Into<Bytes>) -> Self {
        Self {
            content: content.into(),
            revision: 1,
            status: None,
            retry_after: None,
            location: None,
            authorization: None,
            challenge: None,
            denial: StatusCode::UNAUTHORIZED,
            chunked: false,
            announced_length: None,
            ignores_range: false,
            hides_total: false,
            misplaces_parts: false,
            shortens_parts: false,
            status_of_parts: None,
            unvalidated: false,
            ignores_conditions: false,
            rate_bytes_per_s: None,
            delay: Duration::ZERO,
            ending: Ending::Whole,
        }
    }

    /// A file that is not there.
    pub fn missing() -> Self {
        Self { status: Some(StatusCode::NOT_FOUND), ..Self::new(Bytes::new()) }
    }

    pub fn etag(&self) -> String {
        format!("\"revision-{}\"", self.revision)
    }

    fn last_modified(&self) -> String {
        format!("Mon, 23 Nov 2026 08:{:02}:00 GMT", self.revision % 60)
    }

    /// The part of the content that a request is for; `None` for the whole. A range that cannot be had is an error.
    fn part(&self, headers: &HeaderMap) -> Result<Option<Range<usize>>, OutOfRange> {
        let Some(range) = header(headers, "range").filter(|_| !self.ignores_range) else { return Ok(None) };
        if header(headers, "if-range").is_some_and(|validator| validator != self.etag()) {
            return Ok(None);
        }
        let length = self.content.len();
        let (first, last) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or(OutOfRange)?;
        let number = |text: &str| text.parse::<usize>().map_err(|_| OutOfRange);
        let (start, end) = match (first, last) {
            ("", count) => (length.saturating_sub(number(count)?), length),
            (first, "") => (number(first)?, length),
            (first, last) => (number(first)?, number(last)?.saturating_add(1).min(length)),
        };
        if start < end { Ok(Some(start..end)) } else { Err(OutOfRange) }
    }
}

struct OutOfRange;

/// A request that came for a file.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub range: Option<String>,
    pub if_range: Option<String>,
    pub if_none_match: Option<String>,
    pub authorization: Option<String>,
    #[allow(dead_code, reason = "looked at by those who look for secrets, not by all who use sources")]
    pub cookie: Option<String>,
    /// The byte of the content at which the body began.
    pub start: u64,
    /// Bytes of the body that were handed to the socket.
    pub body_bytes: u64,
}

/// What was asked for and sent of one file.
#[derive(Clone, Debug, Default)]
pub struct Record(pub Vec<Seen>);

impl Record {
    pub fn body_bytes(&self) -> u64 {
        self.0.iter().map(|seen| seen.body_bytes).sum()
    }

    /// How many bytes from the first on were sent, without a gap, by all requests together.
    pub fn covered(&self) -> u64 {
        let mut sent: Vec<(u64, u64)> = self.0.iter().map(|seen| (seen.start, seen.start + seen.body_bytes)).collect();
        sent.sort_unstable();
        sent.iter().fold(0, |covered, &(start, end)| if start <= covered { covered.max(end) } else { covered })
    }
}

/// The source. It goes when this is dropped.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    files: Files,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
struct Files(Arc<Mutex<HashMap<String, Entry>>>);

#[derive(Debug)]
struct Entry {
    file: File,
    record: Record,
    /// Ends stalls.
    changed: watch::Sender<()>,
}

impl Origin {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let files = Files::default();
        Self { address, files: files.clone(), accepting: tokio::spawn(accept(listener, files)) }
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves a file from now on, and tells its URL. One of this name that is being sent stays as it was.
    pub fn put(&self, name: &str, file: File) -> String {
        let mut files = self.files.lock();
        match files.get_mut(name) {
            Some(entry) => {
                entry.file = file;
                entry.changed.send_replace(());
            }
            None => {
                let entry = Entry { file, record: Record::default(), changed: watch::Sender::new(()) };
                files.insert(name.to_owned(), entry);
            }
        }
        format!("http://{}/{name}", self.address)
    }

    /// What was asked for and sent of a file so far.
    pub fn record(&self, name: &str) -> Record {
        self.files.lock().get(name).unwrap_or_else(|| panic!("{name} was never put")).record.clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Files {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().expect("no test panics while it holds this")
    }

    /// Writes a request down and tells how to answer it.
    fn take(&self, name: &str, request: &Request<Incoming>) -> Option<(File, Sending)> {
        let mut files = self.lock();
        let entry = files.get_mut(name)?;
        let text = |name| header(request.headers(), name).map(str::to_owned);
        let seen = Seen {
            method: request.method().clone(),
            range: text("range"),
            if_range: text("if-range"),
            if_none_match: text("if-none-match"),
            authorization: text("authorization"),
            cookie: text("cookie"),
            start: 0,
            body_bytes: 0,
        };
        entry.record.0.push(seen);
        let request = entry.record.0.len() - 1;
        let sending = Sending { files: self.clone(), name: name.to_owned(), request, changed: entry.changed.subscribe() };
        Some((entry.file.clone(), sending))
    }
}

/// One request that is being answered: where it is counted.
struct Sending {
    files: Files,
    name: String,
    request: usize,
    changed: watch::Receiver<()>,
}

impl Sending {
    fn count(&self, change: impl FnOnce(&mut Seen)) {
        let mut files = self.files.lock();
        if let Some(seen) = files.get_mut(&self.name).and_then(|entry| entry.record.0.get_mut(self.request)) {
            change(seen);
        }
    }
}

async fn accept(listener: TcpListener, files: Files) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, files.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, files: Files) {
    let socket = socket2::SockRef::from(&stream);
    socket.set_send_buffer_size(SEND_BUFFER_BYTES).expect("a socket's buffer can be made small");
    stream.set_nodelay(true).expect("a socket can do without delays");
    let service = service_fn(move |request| {
        let files = files.clone();
        async move { Ok::<_, Infallible>(answer(&files, &request).await) }
    });
    // A supernode that is killed, or a break that a test asked for, ends it with an error: neither is news.
    let _ = http1::Builder::new().max_buf_size(SEND_BUFFER_BYTES).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(files: &Files, request: &Request<Incoming>) -> Response<Body> {
    let name = request.uri().path().trim_start_matches('/');
    let Some((file, sending)) = files.take(name, request) else { return bare(StatusCode::NOT_FOUND) };
    tokio::time::sleep(file.delay).await;
    if let Some(status) = file.status {
        let mut response = bare(status);
        if let Some(wait) = file.retry_after {
            response.headers_mut().insert("retry-after", http::HeaderValue::from_static(wait));
        }
        return response;
    }
    if let Some(location) = &file.location {
        let mut response = bare(StatusCode::FOUND);
        response.headers_mut().insert("location", location.parse().expect("a test's location is a header value"));
        return response;
    }
    if file.authorization.is_some() && header(request.headers(), "authorization") != file.authorization.as_deref() {
        let mut response = bare(file.denial);
        if let Some(challenge) = &file.challenge {
            response.headers_mut().insert("www-authenticate", challenge.parse().expect("a test's challenge is a header value"));
        }
        return response;
    }
    let has_it = header(request.headers(), "if-none-match").is_some_and(|etag| etag == file.etag());
    if has_it && !file.ignores_conditions {
        return bare(StatusCode::NOT_MODIFIED);
    }
    let total = file.content.len();
    let Ok(part) = file.part(request.headers()) else {
        let mut response = bare(StatusCode::RANGE_NOT_SATISFIABLE);
        response.headers_mut().insert("content-range", format!("bytes */{total}").parse().expect("a number is a header value"));
        return response;
    };
    if let (Some(status), Some(part)) = (file.status_of_parts, &part)
        && *part != (0..1)
    {
        return bare(status);
    }
    let mut response = Response::builder().header("content-type", "application/octet-stream").header("accept-ranges", "bytes");
    if !file.unvalidated {
        response = response.header("etag", file.etag()).header("last-modified", file.last_modified());
    }
    if let Some(part) = &part {
        let total = if file.hides_total { "*".to_owned() } else { total.to_string() };
        let start = part.start + usize::from(file.misplaces_parts);
        let range = format!("bytes {start}-{}/{total}", part.end - 1);
        response = response.status(StatusCode::PARTIAL_CONTENT).header("content-range", range);
    }
    let part = part.map_or(0..total, |part| part.start..part.end - usize::from(file.shortens_parts));
    if !file.chunked {
        response = response.header("content-length", file.announced_length.unwrap_or(part.len() as u64));
    }
    sending.count(|seen| seen.start = part.start as u64);
    response.body(body(file, part, sending)).expect("these headers are valid")
}

fn bare(status: StatusCode) -> Response<Body> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn body(file: File, part: Range<usize>, sending: Sending) -> Body {
    StreamBody::new(frames(file, part, sending)).boxed_unsync()
}

fn frames(file: File, part: Range<usize>, sending: Sending) -> impl Stream<Item = std::io::Result<Frame<Bytes>>> {
    let outgoing = Outgoing { rest: file.content.slice(part), file, sent: 0, began: Instant::now(), sending };
    futures_util::stream::try_unfold(outgoing, |mut outgoing| async move {
        let chunk = outgoing.next_chunk().await?;
        Ok(chunk.map(|chunk| (Frame::data(chunk), outgoing)))
    })
}

/// A body on its way.
struct Outgoing {
    file: File,
    rest: Bytes,
    sent: u64,
    began: Instant,
    sending: Sending,
}

impl Outgoing {
    /// The next bytes, when they are due; `None` at the end; an error breaks the connection.
    async fn next_chunk(&mut self) -> std::io::Result<Option<Bytes>> {
        self.wait_for_rate().await;
        let allowed = match self.file.ending {
            Ending::Whole => u64::MAX,
            Ending::StallsAfter(bytes) => bytes.saturating_sub(self.sent),
        };
        let length = usize::try_from(allowed).unwrap_or(usize::MAX).min(CHUNK_BYTES).min(self.rest.len());
        if length > 0 {
            let chunk = self.rest.split_to(length);
            self.sent += length as u64;
            self.sending.count(|seen| seen.body_bytes += length as u64);
            return Ok(Some(chunk));
        }
        let more_announced = self.file.announced_length.is_some_and(|announced| announced > self.sent);
        match self.file.ending {
            Ending::StallsAfter(_) => self.stall().await,
            Ending::Whole if more_announced => self.stall().await,
            Ending::Whole => Ok(None),
        }
    }

    async fn stall(&mut self) -> std::io::Result<Option<Bytes>> {
        // It ends with the origin at the latest.
        let _ = self.sending.changed.changed().await;
        Err(std::io::Error::other("a stall ends with a break"))
    }

    async fn wait_for_rate(&self) {
        if let Some(rate) = self.file.rate_bytes_per_s {
            let due = Duration::from_secs_f64(self.sent as f64 / rate as f64);
            tokio::time::sleep(due.saturating_sub(self.began.elapsed())).await;
        }
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
