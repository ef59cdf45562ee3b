//! What an operator decides, validated.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::domain::policy::SourcePolicy;

/// Fetching from sources is never slower than this.
const SOURCE_RATE_MIN_BYTES_PER_S: u64 = 64 * 1024;

/// The effective configuration of a service.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where all state is kept.
    pub home: PathBuf,
    /// The address to listen on; `None` for all addresses of both families.
    pub bind: Option<IpAddr>,
    /// Port of the API; 0 picks a free one.
    pub port: u16,
    /// Port from which pieces are fetched; 0 picks a free one.
    pub download_port: u16,
    /// The address clients are sent to for pieces, unless they say how they reach us.
    pub advertise_ip: Option<IpAddr>,
    /// Pieces in flight to one client (`peerDownLimit`).
    pub peer_down_limit: usize,
    /// Uploads at once of one peer (`peerUpLimit`).
    pub peer_up_limit: u32,
    /// Errors as a server before a peer is no longer used (`eliminationLimit`).
    pub elimination_limit: u8,
    /// Errors as a receiver before a client is served by the supernode only (`failureCountLimit`).
    pub failure_count_limit: u8,
    /// What clients are told to fetch at. KiB per second (`linkLimit`).
    pub link_limit_kib: u32,
    /// How long a URL that was not there stays refused (`failAccessInterval`).
    pub fail_access_interval: Duration,
    /// How long a request of a client with nothing to do is held for something to turn up.
    pub hold: Duration,
    /// Sources fetched at once.
    pub downloads_max: usize,
    /// What all fetching from sources may take of the network, with what is kept for other things. Bytes per second; 0 for
    /// no limit (`maxBandwidth`).
    pub max_bandwidth: u64,
    /// What of it is kept for other things (`systemReservedBandwidth`). Bytes per second.
    pub system_reserved_bandwidth: u64,
    /// Where sources may be (`source.allow`, `source.deny`).
    pub source: SourcePolicy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            home: PathBuf::from("./data"),
            bind: None,
            port: 8002,
            download_port: 8001,
            advertise_ip: None,
            peer_down_limit: 4,
            peer_up_limit: 5,
            elimination_limit: 5,
            failure_count_limit: 5,
            link_limit_kib: 20 * 1024,
            fail_access_interval: Duration::from_secs(3 * 60),
            hold: Duration::from_secs(1),
            downloads_max: 32,
            max_bandwidth: 200 * 1024 * 1024,
            system_reserved_bandwidth: 20 * 1024 * 1024,
            source: SourcePolicy::default(),
        }
    }
}

impl Config {
    /// How fast sources are fetched, all together. Bytes per second; 0 for no limit.
    pub fn source_rate(&self) -> u64 {
        match self.max_bandwidth {
            0 => 0,
            // However much is kept, fetching goes on.
            max => max.saturating_sub(self.system_reserved_bandwidth).max(SOURCE_RATE_MIN_BYTES_PER_S),
        }
    }
}

/// The files of a home directory.
#[derive(Clone, Debug)]
pub struct Home(PathBuf);

impl Home {
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn database(&self) -> PathBuf {
        self.0.join("db")
    }

    pub fn pieces(&self) -> PathBuf {
        self.0.join("pieces")
    }

    /// Held by the service that runs here; names its process.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Where scripts find the addresses of a running service.
    pub fn addresses(&self) -> PathBuf {
        self.0.join("serve.json")
    }

    /// Where commands reach a running service.
    pub fn control_socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }
}
