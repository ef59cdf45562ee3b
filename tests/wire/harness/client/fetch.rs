//! One piece: as the supernode tells of it, and fetching it from whom it names.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, Request};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio::net::TcpStream;

use super::release::DownLink;
use super::{Release, Surprise};
use crate::harness::exchange;
use crate::harness::pieces;

/// What a published client gives one piece of 4 MiB.
const PIECE_TIMEOUT: Duration = Duration::from_secs(74);
/// What comes this much too early is let through. Less than any piece takes.
const LIMITER_SLACK: Duration = Duration::from_millis(2);
/// How the supernode calls itself as a server.
const SUPERNODE_PREFIX: &str = "cdnnode:";
const NOT_FOUND: u16 = 404;
/// Tells a peer that no wrapping is wanted.
pub const CDN_SOURCE: &str = "cdnsource";

/// How the pieces of a download are cut, and what goes with the questions for them.
#[derive(Clone, Debug)]
pub enum Cut {
    /// Slots with their wrapping, as the supernode keeps them.
    Wrapped,
    /// Parts of the source's content as they are, got from there or from peers (`cdnSource: source`). Ranges end with the
    /// content, and the client's own headers go along, to peers as well.
    Bare { length: u64, headers: Vec<String> },
}

/// A piece to fetch, as it stands in a 601.
#[derive(Clone, Debug)]
pub struct Piece {
    pub number: u32,
    pub size: u64,
    pub range: String,
    pub md5: String,
    /// Whom to fetch it from.
    pub cid: String,
    pub address: SocketAddr,
    path: String,
    /// What the supernode asks the download to keep to. KiB per second.
    pub link_kib_per_s: u64,
}

/// How fast pieces may come.
#[derive(Debug)]
pub struct Rates {
    /// Of one fetch, by the client's own link.
    pub link_bytes_per_s: Option<u64>,
    /// Of the whole download, by the release's limiter.
    pub whole_bytes_per_s: u64,
    /// When the whole download may take the next bytes.
    next: Mutex<Instant>,
}

impl Rates {
    pub fn new(link_bytes_per_s: Option<u64>, whole_bytes_per_s: u64) -> Self {
        Self { link_bytes_per_s, whole_bytes_per_s, next: Mutex::new(Instant::now()) }
    }

    /// Waits until so many more bytes of a fetch may be taken.
    async fn pass(&self, bytes: usize, began: Instant, fetched: usize) {
        let link = self.link_bytes_per_s.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(fetched as f64 / rate as f64));
        let whole = {
            let mut next = self.next.lock().expect("nobody panics while they hold this");
            *next = (*next).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / self.whole_bytes_per_s as f64);
            *next
        };
        let due = (began + link).max(whole);
        // A limiter waits once it has nothing left to give; timers are no finer than this.
        if due > Instant::now() + LIMITER_SLACK {
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

/// Why a piece is not here.
#[derive(Clone, Debug)]
pub struct Failure {
    pub why: String,
    /// What the server is told on for, if it is.
    pub accusation: Option<Accusation>,
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self { why, accusation: None }
    }
}

/// What is wrong with a server.
#[derive(Clone, Debug)]
pub enum Accusation {
    /// It does not have the file.
    NotThere,
    /// Its piece has another MD5.
    Different { found: String },
}

impl Piece {
    /// Reads one entry of a 601 and checks that its fields agree with each other.
    pub fn read(entry: &Value, release: &Release) -> Result<Self, Surprise> {
        Self::parse(entry, release).map_err(|why| Surprise::new(format!("a 601 names a piece whose {why}: {entry}")))
    }

    fn parse(entry: &Value, release: &Release) -> Result<Self, String> {
        let text = |name: &str| entry[name].as_str().map(str::to_owned).ok_or_else(|| format!("{name} is no string"));
        let number = |name: &str| entry[name].as_u64().ok_or_else(|| format!("{name} is no whole number"));
        let link = |entry: &Value| match (release.down_link, entry.as_u64(), entry.as_str()) {
            (DownLink::Integer | DownLink::Either, Some(link), _) => Ok(link),
            (DownLink::Text | DownLink::Either, _, Some(link)) => link.parse().map_err(|_| "downLink is no number in a string"),
            _ => Err("downLink has a type that the client cannot read"),
        };
        let piece = Self {
            link_kib_per_s: link(&entry["downLink"])?,
            number: u32::try_from(number("pieceNum")?).map_err(|_| "pieceNum is too large")?,
            size: number("pieceSize")?,
            range: text("range")?,
            md5: text("pieceMd5")?,
            cid: text("cid")?,
            address: format!("{}:{}", text("peerIp")?, number("peerPort")?).parse().map_err(|_| "address is none")?,
            path: text("path")?,
        };
        let start = u64::from(piece.number) * piece.size;
        if piece.range != format!("{start}-{}", start + piece.size - 1) {
            return Err("range is not that of its number".into());
        }
        if piece.link_kib_per_s == 0 { Err("downLink is 0, which means 10 MiB/s to Go clients".into()) } else { Ok(piece) }
    }

    pub fn is_from_supernode(&self) -> bool {
        self.cid.starts_with(SUPERNODE_PREFIX) && !self.is_from_source()
    }

    /// Whether the path is a URL, which is asked for as it is.
    pub fn is_from_source(&self) -> bool {
        self.path.contains("://")
    }

    /// Fetches the piece as it is cut, and checks every byte of it that it can.
    pub async fn fetch(&self, release: &Release, rates: &Rates, cut: &Cut) -> Result<Bytes, Failure> {
        let from = format!("{} from {} at {}{}", self.range, self.cid, self.address, self.path);
        let fetched = tokio::time::timeout(PIECE_TIMEOUT, self.fetch_unchecked(release, rates, cut)).await;
        let slot = fetched
            .unwrap_or_else(|_| Err(format!("not here after {PIECE_TIMEOUT:?}").into()))
            .map_err(|failure| Failure { why: format!("{from}: {}", failure.why), ..failure })?;
        if let Cut::Bare { .. } = cut {
            if !self.md5.is_empty() {
                return Err(format!("{from}: there is an md5 for a piece without wrapping: {}", self.md5).into());
            }
            return Ok(slot);
        }
        // Hashing megabytes would hold up everybody else's answers.
        let hashing = slot.clone();
        let found = tokio::task::spawn_blocking(move || pieces::piece_md5(&hashing)).await.expect("hashing does not panic");
        if found != self.md5 {
            let why = format!("{from}: its md5 is {found}, expected {}", self.md5);
            return Err(Failure { why, accusation: Some(Accusation::Different { found }) });
        }
        pieces::unwrap(&slot, self.size).map_err(|why| format!("{from}: {why}"))?;
        Ok(slot)
    }

    /// The range that is asked for: without wrapping, no further than the content.
    fn asked_range(&self, cut: &Cut) -> String {
        let Cut::Bare { length, .. } = cut else { return self.range.clone() };
        let (first, last) = self.range.split_once('-').expect("it was read");
        let last: u64 = last.parse().expect("it was read");
        format!("{first}-{}", last.min(length.saturating_sub(1)))
    }

    /// Where it is fetched: who is connected to, and what for.
    fn place(&self) -> (SocketAddr, &str) {
        let Some((_, rest)) = self.path.split_once("://") else { return (self.address, &self.path) };
        let (host, _) = rest.split_once('/').expect("a test's URL has a path");
        (host.parse().expect("a test's source is an address"), &rest[host.len()..])
    }

    async fn fetch_unchecked(&self, release: &Release, rates: &Rates, cut: &Cut) -> Result<Bytes, Failure> {
        let told = |error: exchange::CallError| error.to_string();
        if release.checks_server {
            drop(TcpStream::connect(self.address).await.map_err(|error| error.to_string())?);
        }
        let (address, path) = self.place();
        let mut connection = exchange::connect(address).await.map_err(told)?;
        let request = exchange::with_header(exchange::get(path), "range", &format!("bytes={}", self.asked_range(cut)));
        let request = exchange::with_header(request, "piecenum", &self.number.to_string());
        let request = exchange::with_header(request, "piecesize", &self.size.to_string());
        let (request, is_taken) = match cut {
            Cut::Wrapped => (request, (exchange::PARTIAL..=exchange::PARTIAL)),
            // The published client takes any success for the piece that it asked for.
            Cut::Bare { headers, .. } => (with_own_headers(request, headers), (200..=299)),
        };
        let response = exchange::send(&mut connection, address, request).await.map_err(told)?;
        if !is_taken.contains(&response.status().as_u16()) {
            let answer = exchange::collect(response).await.map_err(told)?;
            let accusation = (answer.status == NOT_FOUND).then_some(Accusation::NotThere);
            return Err(Failure { why: answer.to_string(), accusation });
        }
        let mut body = response.into_body();
        let (began, mut slot) = (Instant::now(), BytesMut::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| exchange::broken(&error).to_string())?;
            let bytes = frame.data_ref().map_or(&[][..], |data| data);
            slot.extend_from_slice(bytes);
            rates.pass(bytes.len(), began, slot.len()).await;
        }
        Ok(slot.freeze())
    }
}

fn with_own_headers(mut request: Request<Full<Bytes>>, headers: &[String]) -> Request<Full<Bytes>> {
    for header in headers {
        let (name, value) = header.split_once(": ").expect("a test writes its headers as dfget does");
        let name: HeaderName = name.parse().expect("a test's header has a name");
        request.headers_mut().insert(name, value.parse().expect("a test's header has a value"));
    }
    exchange::with_header(request, CDN_SOURCE, "source")
}
