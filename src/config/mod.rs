//! What an operator decides: file, environment and flags, made one validated [`Config`].
//!
//! Owns the table of settings ([`SETTINGS`]), from which everything else follows: what is read and from where, what is
//! allowed, what `supernode config` prints, what a reload may change, and the documentation.
//! Must not: act on a setting. It reads the configuration file and the environment, and nothing else.

#[cfg(test)]
mod documents;
mod home;
mod load;
mod nearest;
mod print;
mod reload;
mod settings;
pub mod units;
mod value;
mod yaml;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::domain::policy::SourcePolicy;
use crate::domain::{CdnPattern, Durability};
pub use home::Home;
pub use load::{ConfigError, DEFAULT_FILE, Loaded, Origin, Sources, WrongValue};
pub use print::effective;
pub use reload::{Difference, Reloaded, reload};
pub use settings::{Effect, Group, SETTINGS, Setting};
pub use value::Field;

/// Fetching from sources is never slower than this.
const SOURCE_RATE_MIN_BYTES_PER_S: u64 = 64 * 1024;

/// Where the log goes, and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `None` for standard error.
    pub path: Option<PathBuf>,
    pub size_max_mb: u32,
    /// Files that were rotated away; 0 for all.
    pub backups_max: u32,
    /// Of files that were rotated away; 0 for any age.
    pub age_max_days: u32,
}

/// The effective configuration of a service. Every field is a row of [`SETTINGS`], which tells more about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where all state is kept.
    pub home: PathBuf,
    /// What is promised of it.
    pub durability: Durability,
    /// The address to listen on; `None` for all addresses of both families.
    pub bind: Option<IpAddr>,
    /// Port of the API; 0 picks a free one.
    pub port: u16,
    /// Port from which pieces are fetched; 0 picks a free one.
    pub download_port: u16,
    /// The address clients are sent to for pieces, unless they say how they reach us.
    pub advertise_ip: Option<IpAddr>,
    pub cdn_pattern: CdnPattern,
    /// Pieces in flight to one client.
    pub peer_down_limit: u32,
    /// Uploads at once of one peer.
    pub peer_up_limit: u32,
    /// Errors as a server before a peer is no longer used.
    pub elimination_limit: u32,
    /// Errors as a receiver before a client is served by the supernode only.
    pub failure_count_limit: u32,
    /// What clients are told to fetch at; 0 for no cap.
    pub link_limit_bytes_per_s: u64,
    /// How long a request of a client with nothing to do is held for something to turn up.
    pub hold: Duration,
    /// How long a URL that was not there stays refused.
    pub fail_access_interval: Duration,
    /// When a cached file's source is asked again; zero for never.
    pub revalidate_after: Duration,
    /// Sources fetched at once.
    pub downloads_max: u32,
    /// Of those, of one host; half of them where nothing is given and that is less than the default.
    pub downloads_per_host_max: u32,
    /// How long a source may take for its headers, and how long it may be silent then.
    pub source_idle_timeout: Duration,
    pub max_bandwidth_bytes_per_s: u64,
    pub system_reserved_bandwidth_bytes_per_s: u64,
    /// How fast one source is fetched at most; 0 for no limit of its own.
    pub task_max_bandwidth_bytes_per_s: u64,
    /// The least that a source must send while it is waited for; 0 for whatever comes.
    pub source_min_rate_bytes_per_s: u64,
    /// The time of waiting over which that is judged.
    pub source_min_rate_window: Duration,
    /// Where sources may be.
    pub source: SourcePolicy,
    /// How often a snapshot is taken; zero for never.
    pub snapshot_interval: Duration,
    pub snapshot_keep: u32,
    pub gc_initial_delay: Duration,
    pub gc_meta_interval: Duration,
    pub gc_disk_interval: Duration,
    pub task_expire_time: Duration,
    pub cache_expire_time: Duration,
    pub peer_gc_delay: Duration,
    pub young_gc_threshold_bytes: u64,
    pub full_gc_threshold_bytes: u64,
    pub interval_threshold: Duration,
    /// Tenths of the candidates that go in one round.
    pub clean_ratio: u32,
    /// 0 for no limit.
    pub repository_quota_bytes: u64,
    pub repository_high_watermark_percent: u32,
    pub repository_low_watermark_percent: u32,
    pub log: LogConfig,
    pub debug: bool,
    pub enable_profiler: bool,
    pub scheduler_core_pool_size: u32,
}

impl Config {
    /// What clients are told to fetch at. KiB per second, 0 for no cap, as the wire has it.
    pub fn link_limit_kib(&self) -> u32 {
        // A limit below 1 KiB is still a limit.
        u32::try_from(self.link_limit_bytes_per_s.div_ceil(1024)).unwrap_or(u32::MAX)
    }

    /// How fast sources are fetched, all together.
    pub fn source_rate_bytes_per_s(&self) -> u64 {
        // However much is left to others, fetching goes on.
        self.max_bandwidth_bytes_per_s.saturating_sub(self.system_reserved_bandwidth_bytes_per_s).max(SOURCE_RATE_MIN_BYTES_PER_S)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            home: PathBuf::from("./data"),
            durability: Durability::Power,
            bind: None,
            port: 8002,
            download_port: 8001,
            advertise_ip: None,
            cdn_pattern: CdnPattern::Local,
            peer_down_limit: 4,
            peer_up_limit: 5,
            elimination_limit: 5,
            failure_count_limit: 5,
            link_limit_bytes_per_s: 20 * units::M,
            hold: Duration::from_secs(1),
            fail_access_interval: Duration::from_mins(3),
            revalidate_after: Duration::from_mins(3),
            downloads_max: 32,
            downloads_per_host_max: 16,
            source_idle_timeout: Duration::from_secs(30),
            max_bandwidth_bytes_per_s: 200 * units::M,
            system_reserved_bandwidth_bytes_per_s: 20 * units::M,
            task_max_bandwidth_bytes_per_s: 0,
            source_min_rate_bytes_per_s: units::K,
            source_min_rate_window: Duration::from_mins(1),
            source: SourcePolicy::default(),
            snapshot_interval: Duration::from_hours(1),
            snapshot_keep: 24,
            gc_initial_delay: Duration::from_secs(6),
            gc_meta_interval: Duration::from_mins(2),
            gc_disk_interval: Duration::from_secs(15),
            task_expire_time: Duration::from_mins(3),
            cache_expire_time: Duration::from_hours(72),
            peer_gc_delay: Duration::from_mins(3),
            young_gc_threshold_bytes: 100 * units::G,
            full_gc_threshold_bytes: 5 * units::G,
            interval_threshold: Duration::from_hours(2),
            clean_ratio: 1,
            repository_quota_bytes: 0,
            repository_high_watermark_percent: 95,
            repository_low_watermark_percent: 85,
            log: LogConfig { path: None, size_max_mb: 40, backups_max: 1, age_max_days: 0 },
            debug: false,
            enable_profiler: false,
            scheduler_core_pool_size: 10,
        }
    }
}
