//! Leases: who is fetching which piece from whom, for how long that is believed, and the upload slots they take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::domain::{Endpoint, Moment, PieceNumber, PieceSize};

/// The slowest transfer of a piece that a client still accepts.
///
/// Bytes per second. Source: the clients' own minimum rate, from which they compute a piece's timeout.
const PIECE_RATE_MIN_BYTES_PER_S: u64 = 64 * 1024;
/// What clients add to that timeout.
const PIECE_TIMEOUT_EXTRA: Duration = Duration::from_secs(10);
/// Room for a report to arrive after the slowest honest fetch.
const LEASE_GRACE: Duration = Duration::from_secs(30);

/// Before the first piece of a swarm has been timed, a piece is expected to come at this rate. Bytes per second.
const PACE_FIRST_GUESS_BYTES_PER_S: u64 = 1024 * 1024;
/// Patience never falls below this: a hiccup of a machine is not a dead peer.
const PATIENCE_MIN_MS: u64 = 1000;

/// How long a lease outlives its grant: the slowest honest fetch, and some.
pub fn lease_life(piece_size: PieceSize) -> Duration {
    Duration::from_secs(u64::from(piece_size.bytes()) / PIECE_RATE_MIN_BYTES_PER_S) + PIECE_TIMEOUT_EXTRA + LEASE_GRACE
}

/// An upload server, which is an address and port, and how many uploads it is doing. Shared by all tasks that it serves.
#[derive(Debug, Default)]
pub struct UploadServer {
    uploads: AtomicU32,
}

impl UploadServer {
    /// Uploads that were handed out and have not ended.
    pub fn uploads(&self) -> u32 {
        self.uploads.load(Ordering::Relaxed)
    }

    /// Takes a slot if fewer than `limit` are taken.
    pub fn acquire(self: &Arc<Self>, limit: u32) -> Option<UploadSlot> {
        self.uploads
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < limit).then_some(taken + 1))
            .is_ok()
            .then(|| UploadSlot(self.clone()))
    }
}

/// One upload of a server, for as long as this value lives.
#[derive(Debug)]
pub struct UploadSlot(Arc<UploadServer>);

impl UploadSlot {
    /// Whose slot it is.
    #[cfg(test)]
    pub fn server(&self) -> &Arc<UploadServer> {
        &self.0
    }
}

impl Drop for UploadSlot {
    fn drop(&mut self) {
        self.0.uploads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whom a piece is fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// The supernode itself.
    Seed,
    Peer(Arc<Endpoint>),
}

/// A piece on its way to a client.
#[derive(Debug)]
pub struct Lease {
    pub piece: PieceNumber,
    pub server: Server,
    pub granted: Moment,
    /// The upload slot of the serving peer; given back early when the transfer is overdue.
    pub slot: Option<UploadSlot>,
    /// Whether the swarm counts on this client to hold and serve the piece soon.
    pub promising: bool,
    /// Slower than this swarm's pieces usually are: what it took is others' to use, but the client may still finish.
    pub overdue: bool,
}

/// How long a piece takes in this swarm: a smoothed mean and deviation, as TCP estimates its round trip (RFC 6298).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Milliseconds; `None` before the first piece.
    mean_and_deviation_ms: Option<(u64, u64)>,
}

impl Pace {
    pub fn observe(&mut self, took: Duration) {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX >> 8);
        self.mean_and_deviation_ms = Some(match self.mean_and_deviation_ms {
            None => (took_ms, took_ms / 2),
            Some((mean, deviation)) => ((7 * mean + took_ms) / 8, (3 * deviation + mean.abs_diff(took_ms)) / 4),
        });
    }

    /// After how long a transfer is overdue.
    pub fn patience(&self, piece_size: PieceSize) -> Duration {
        let guess_ms = u64::from(piece_size.bytes()) * 1000 / PACE_FIRST_GUESS_BYTES_PER_S;
        let expected_ms = self.mean_and_deviation_ms.map_or(guess_ms, |(mean, deviation)| 2 * mean + 4 * deviation);
        Duration::from_millis(expected_ms.max(PATIENCE_MIN_MS)).min(lease_life(piece_size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_outlives_the_slowest_honest_fetch() {
        assert_eq!(lease_life(PieceSize::DEFAULT), Duration::from_secs(64 + 10 + 30));
    }

    #[test]
    fn a_slot_is_free_again_when_its_lease_ends() {
        let server = Arc::new(UploadServer::default());
        let first = server.acquire(1);
        assert!(first.is_some());
        assert!(server.acquire(1).is_none());
        drop(first);
        assert_eq!(server.uploads(), 0);
        assert!(server.acquire(1).is_some());
    }

    #[test]
    fn patience_follows_the_pace_and_has_bounds() {
        let mut pace = Pace::default();
        assert_eq!(pace.patience(PieceSize::DEFAULT), Duration::from_secs(4));
        for _ in 0..50 {
            pace.observe(Duration::from_millis(10));
        }
        assert_eq!(pace.patience(PieceSize::DEFAULT), Duration::from_millis(PATIENCE_MIN_MS));
        for _ in 0..50 {
            pace.observe(Duration::from_secs(30));
        }
        let slow = pace.patience(PieceSize::DEFAULT);
        assert!(slow >= Duration::from_secs(60) && slow <= lease_life(PieceSize::DEFAULT), "{slow:?}");
    }
}
