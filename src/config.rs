//! What an operator decides, validated.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    /// How often a snapshot is taken (`snapshotInterval`); zero for never.
    pub snapshot_interval: Duration,
    /// How many of those are kept (`snapshotKeep`).
    pub snapshot_keep: usize,
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
            snapshot_interval: Duration::from_secs(60 * 60),
            snapshot_keep: 24,
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

    /// Snapshots, unless they are asked for elsewhere.
    pub fn snapshots(&self) -> PathBuf {
        self.0.join("snapshots")
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
