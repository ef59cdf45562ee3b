//! One piece: as the supernode tells of it, and fetching it from whom it names.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde_json::Value;

use super::{Dialect, Surprise};
use crate::harness::exchange;
use crate::harness::pieces;

/// What a published client gives one piece of 4 MiB.
const PIECE_TIMEOUT: Duration = Duration::from_secs(74);
/// How the supernode calls itself as a server.
const SUPERNODE_PREFIX: &str = "cdnnode:";

/// A piece to fetch, as it stands in a 601.
#[derive(Clone, Debug)]
pub struct Piece {
    pub number: u32,
    pub size: u64,
    pub range: String,
    pub md5: String,
    /// Whom to fetch it from.
    pub cid: String,
    address: SocketAddr,
    path: String,
}

impl Piece {
    /// Reads one entry of a 601 and checks that its fields agree with each other.
    pub fn read(entry: &Value, dialect: Dialect) -> Result<Self, Surprise> {
        Self::parse(entry, dialect).map_err(|why| Surprise::new(format!("a 601 names a piece whose {why}: {entry}")))
    }

    fn parse(entry: &Value, dialect: Dialect) -> Result<Self, String> {
        let text = |name: &str| entry[name].as_str().map(str::to_owned).ok_or_else(|| format!("{name} is no string"));
        let number = |name: &str| entry[name].as_u64().ok_or_else(|| format!("{name} is no whole number"));
        let piece = Self {
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
        let link = match dialect {
            Dialect::Go => number("downLink")?,
            Dialect::Documented => text("downLink")?.parse().map_err(|_| "downLink is no number in a string")?,
        };
        if link == 0 { Err("downLink is 0, which means 10 MiB/s to Go clients".into()) } else { Ok(piece) }
    }

    pub fn is_from_supernode(&self) -> bool {
        self.cid.starts_with(SUPERNODE_PREFIX)
    }

    /// Fetches the slot, wrapped, and checks every byte of it.
    pub async fn fetch(&self, link_bytes_per_s: Option<u64>) -> Result<Bytes, String> {
        let from = format!("{} from {} at {}{}", self.range, self.cid, self.address, self.path);
        let fetched = tokio::time::timeout(PIECE_TIMEOUT, self.fetch_unchecked(link_bytes_per_s)).await;
        let slot = fetched
            .unwrap_or_else(|_| Err(format!("not here after {PIECE_TIMEOUT:?}")))
            .map_err(|why| format!("{from}: {why}"))?;
        // Hashing megabytes would hold up everybody else's answers.
        let hashing = slot.clone();
        let found = tokio::task::spawn_blocking(move || pieces::piece_md5(&hashing)).await.expect("hashing does not panic");
        if found != self.md5 {
            return Err(format!("{from}: its md5 is {found}, expected {}", self.md5));
        }
        pieces::unwrap(&slot, self.size).map_err(|why| format!("{from}: {why}"))?;
        Ok(slot)
    }

    async fn fetch_unchecked(&self, link_bytes_per_s: Option<u64>) -> Result<Bytes, String> {
        let told = |error: exchange::CallError| error.to_string();
        let mut connection = exchange::connect(self.address).await.map_err(told)?;
        let request = exchange::with_header(exchange::get(&self.path), "range", &format!("bytes={}", self.range));
        let request = exchange::with_header(request, "piecenum", &self.number.to_string());
        let request = exchange::with_header(request, "piecesize", &self.size.to_string());
        let response = exchange::send(&mut connection, self.address, request).await.map_err(told)?;
        if response.status() != exchange::PARTIAL {
            return Err(exchange::collect(response).await.map_err(told)?.to_string());
        }
        let mut body = response.into_body();
        let (began, mut slot) = (Instant::now(), BytesMut::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| exchange::broken(&error).to_string())?;
            slot.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            if let Some(rate) = link_bytes_per_s {
                let due = Duration::from_secs_f64(slot.len() as f64 / rate as f64);
                tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
            }
        }
        Ok(slot.freeze())
    }
}
