//! The table of settings: one row each, and nothing about a setting is said anywhere else.
//!
//! A new setting is a row here, and its field and default in [`Config`]. Keys, flags and defaults that the published
//! supernode has are its own; the others are ours.

use std::time::Duration;

use super::units::{G, M};
use super::{Config, Field};

/// What heads the settings that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Place,
    Scheduling,
    Sources,
    Snapshots,
    Cleaning,
    Log,
    Compatibility,
}

impl Group {
    pub const fn title(self) -> &'static str {
        match self {
            Self::Place => "Place and addresses",
            Self::Scheduling => "Scheduling",
            Self::Sources => "Sources",
            Self::Snapshots => "Snapshots",
            Self::Cleaning => "Garbage collection",
            Self::Log => "Log",
            Self::Compatibility => "Accepted from the Go supernode, without effect",
        }
    }
}

/// Whether a setting does anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Now,
    /// It is accepted from those who have it in their files and scripts.
    Never,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name in the file, below `base`; a dot leads into a mapping there.
    pub key: &'static str,
    /// Its name on the command line, which also gives the environment variable's.
    pub flag: &'static str,
    pub short: Option<char>,
    pub group: Group,
    pub field: Field,
    /// Whether SIGHUP changes it; otherwise a restart is needed.
    pub at_run_time: bool,
    pub effect: Effect,
    pub help: &'static str,
}

impl Setting {
    const fn new(group: Group, key: &'static str, flag: &'static str, field: Field, help: &'static str) -> Self {
        Self { key, flag, short: None, group, field, at_run_time: false, effect: Effect::Now, help }
    }

    const fn at_run_time(self) -> Self {
        Self { at_run_time: true, ..self }
    }

    const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }

    const fn never(self) -> Self {
        Self { effect: Effect::Never, ..self }
    }

    /// What it is for, and honestly whether it does it.
    pub fn note(&self) -> String {
        let effect = match self.effect {
            Effect::Now => "",
            Effect::Never => " Has no effect.",
        };
        format!("{}{effect}", self.help)
    }

    /// The environment variable: the flag's name in capitals.
    pub fn variable(&self) -> String {
        format!("SUPERNODE_{}", self.flag.replace('-', "_").to_uppercase())
    }

    /// The default as it would be written; empty where there is none.
    pub fn default_text(&self) -> String {
        self.field.show(&Config::default()).unwrap_or_default()
    }
}

/// As long as a duration can be written.
const LONGEST: Duration = Duration::MAX;
/// A wait of no length would ask a failing source without a pause.
const SHORTEST: Duration = Duration::from_secs(1);
/// As large as a size can be written. Bytes.
const LARGEST: u64 = u64::MAX;
/// Held answers must leave before the least patient client (3 s) gives up.
const HOLD_MAX: Duration = Duration::from_millis(2999);
/// The counters of errors are this wide.
const ERRORS_MAX: u32 = 255;
/// `linkLimit` is a 32-bit count of KiB on the wire. Bytes per second.
const LINK_LIMIT_MAX: u64 = 1024 * G;

const fn count(field: fn(&mut Config) -> &mut u32, min: u32, max: u32) -> Field {
    Field::Count { field, min, max }
}

const fn duration(field: fn(&mut Config) -> &mut Duration, min: Duration, max: Duration) -> Field {
    Field::Duration { field, min, max }
}

const fn size(field: fn(&mut Config) -> &mut u64, min_bytes: u64, max_bytes: u64) -> Field {
    Field::Size { field, min_bytes, max_bytes }
}

/// Every setting, those of a group together.
pub const SETTINGS: &[Setting] = &[
    Setting::new(
        Group::Place,
        "homeDir",
        "home-dir",
        Field::Directory(|config| &mut config.home),
        "Where all state is kept; made if it is not there. The Go supernode's default was /home/admin/supernode.",
    ),
    Setting::new(
        Group::Place,
        "durability",
        "durability",
        Field::Durability(|config| &mut config.durability),
        "What everything survives that clients were told: power, a loss of power; process, the death of the service, but not \
         of the machine.",
    ),
    Setting::new(
        Group::Place,
        "bind",
        "bind",
        Field::Ip(|config| &mut config.bind),
        "Listen on this address only; on all addresses, IPv4 and IPv6, where it is not given.",
    ),
    Setting::new(
        Group::Place,
        "listenPort",
        "port",
        Field::Port(|config| &mut config.port),
        "Port of the API; 0 picks a free one.",
    ),
    Setting::new(
        Group::Place,
        "downloadPort",
        "download-port",
        Field::Port(|config| &mut config.download_port),
        "Port from which clients fetch pieces; 0 picks a free one.",
    ),
    Setting::new(
        Group::Place,
        "advertiseIP",
        "advertise-ip",
        Field::Peer(|config| &mut config.advertise_ip),
        "Send clients to this address for pieces, unless they say how they reach the supernode.",
    )
    .at_run_time(),
    Setting::new(
        Group::Scheduling,
        "peerDownLimit",
        "down-limit",
        count(|config| &mut config.peer_down_limit, 1, 1000),
        "Pieces in flight to one client at once.",
    )
    .at_run_time(),
    Setting::new(
        Group::Scheduling,
        "peerUpLimit",
        "up-limit",
        count(|config| &mut config.peer_up_limit, 1, 10_000),
        "Uploads of one peer at once, over all tasks.",
    )
    .at_run_time(),
    Setting::new(
        Group::Scheduling,
        "eliminationLimit",
        "elimination-limit",
        count(|config| &mut config.elimination_limit, 1, ERRORS_MAX),
        "Errors as a server before a peer is no longer used.",
    )
    .at_run_time(),
    Setting::new(
        Group::Scheduling,
        "failureCountLimit",
        "failure-count-limit",
        count(|config| &mut config.failure_count_limit, 1, ERRORS_MAX),
        "Errors as a receiver before a client is served by the supernode only.",
    )
    .at_run_time(),
    Setting::new(
        Group::Scheduling,
        "linkLimit",
        "link-limit",
        size(|config| &mut config.link_limit_bytes_per_s, 0, LINK_LIMIT_MAX),
        "Rate per second at which clients are told to fetch a piece; 0 for no cap.",
    )
    .at_run_time(),
    Setting::new(
        Group::Scheduling,
        "hold",
        "hold",
        duration(|config| &mut config.hold, Duration::ZERO, HOLD_MAX),
        "How long a request of a client with nothing to do is held for something to turn up; 0 answers at once.",
    )
    .at_run_time(),
    Setting::new(
        Group::Sources,
        "cdnPattern",
        "cdn-pattern",
        Field::Pattern(|config| &mut config.cdn_pattern),
        "local: the supernode fetches files and keeps them. source: it keeps nothing and sends clients to the source for what no \
         other client has; only dfget 1.0.1 to 1.0.6 can be sent there, and only to sources that tell a length and honour \
         ranges. Tasks in use finish as they began.",
    ),
    Setting::new(
        Group::Sources,
        "failAccessInterval",
        "fail-access-interval",
        duration(|config| &mut config.fail_access_interval, SHORTEST, LONGEST),
        "How long a URL that was not there stays refused; one that failed otherwise, up to that.",
    )
    .at_run_time(),
    Setting::new(
        Group::Sources,
        "revalidateAfter",
        "revalidate-after",
        duration(|config| &mut config.revalidate_after, Duration::ZERO, LONGEST),
        "The first to register for a cached file after so long has its source asked whether it changed, if that gave an ETag or \
         a modification date; 0 for never.",
    )
    .at_run_time(),
    Setting::new(
        Group::Sources,
        "downloadsMax",
        "downloads-max",
        count(|config| &mut config.downloads_max, 1, 10_000),
        "Sources fetched at once. A quarter of the places is for files of which at most 16 MiB are missing.",
    )
    .at_run_time(),
    Setting::new(
        Group::Sources,
        "downloadsPerHostMax",
        "downloads-per-host-max",
        count(|config| &mut config.downloads_per_host_max, 1, 10_000),
        "Sources fetched at once of one scheme, host and port of a URL, so that a slow one leaves places to others; with the same \
         quarter. Where redirects lead does not count. Not given, it is no more than half of `downloadsMax`.",
    )
    .at_run_time(),
    Setting::new(
        Group::Sources,
        "sourceIdleTimeout",
        "source-idle-timeout",
        duration(|config| &mut config.source_idle_timeout, SHORTEST, LONGEST),
        "How long a source may take for all of its headers, and how long it may then be silent, before the attempt has failed.",
    ),
    Setting::new(
        Group::Sources,
        "maxBandwidth",
        "max-bandwidth",
        size(|config| &mut config.max_bandwidth_bytes_per_s, M, LARGEST),
        "Bandwidth of this machine per second. Sources are fetched with that less systemReservedBandwidth.",
    )
    .at_run_time(),
    Setting::new(
        Group::Sources,
        "systemReservedBandwidth",
        "system-bandwidth",
        size(|config| &mut config.system_reserved_bandwidth_bytes_per_s, 0, LARGEST),
        "Bandwidth per second that is left to other programs.",
    )
    .at_run_time(),
    Setting::new(
        Group::Sources,
        "taskMaxBandwidth",
        "task-max-bandwidth",
        size(|config| &mut config.task_max_bandwidth_bytes_per_s, 0, LARGEST),
        "Bandwidth per second with which the source of one task is fetched at most; 0 for no limit but the one of all together.",
    )
    .at_run_time(),
    Setting::new(
        Group::Sources,
        "sourceMinRate",
        "source-min-rate",
        size(|config| &mut config.source_min_rate_bytes_per_s, 0, LARGEST),
        "A source that sends less per second, over sourceMinRateWindow of waiting for it, counts as stalled: it is asked again \
         for the rest, and has failed after five such attempts in a row; 0 for whatever comes.",
    )
    .at_run_time(),
    Setting::new(
        Group::Sources,
        "sourceMinRateWindow",
        "source-min-rate-window",
        duration(|config| &mut config.source_min_rate_window, SHORTEST, LONGEST),
        "The time over which sourceMinRate is judged. What the supernode's own limits and disk take does not count.",
    )
    .at_run_time(),
    Setting::new(
        Group::Sources,
        "source.allow",
        "source-allow",
        Field::Patterns(|config| &mut config.source.allow),
        "Fetch from these hosts and networks only; from everywhere where none is given. A network given here is reached even if \
         it is one of link-local or cloud metadata addresses.",
    ),
    Setting::new(
        Group::Sources,
        "source.deny",
        "source-deny",
        Field::Patterns(|config| &mut config.source.deny),
        "Never fetch from these hosts and networks, whatever else is allowed.",
    ),
    Setting::new(
        Group::Snapshots,
        "snapshotInterval",
        "snapshot-interval",
        duration(|config| &mut config.snapshot_interval, Duration::ZERO, LONGEST),
        "How often a snapshot of the database is taken; 0 for never.",
    ),
    Setting::new(
        Group::Snapshots,
        "snapshotKeep",
        "snapshot-keep",
        count(|config| &mut config.snapshot_keep, 1, 10_000),
        "How many of those are kept; older ones are removed.",
    ),
    Setting::new(
        Group::Cleaning,
        "gcInitialDelay",
        "gc-initial-delay",
        duration(|config| &mut config.gc_initial_delay, Duration::ZERO, LONGEST),
        "How long after the start the first rounds of garbage collection are.",
    )
    .at_run_time(),
    Setting::new(
        Group::Cleaning,
        "gcMetaInterval",
        "gc-meta-interval",
        duration(|config| &mut config.gc_meta_interval, SHORTEST, LONGEST),
        "Between two looks for tasks, clients and peers that nobody needs any more, and for a database that is mostly of what is gone.",
    )
    .at_run_time(),
    Setting::new(
        Group::Cleaning,
        "gcDiskInterval",
        "gc-disk-interval",
        duration(|config| &mut config.gc_disk_interval, SHORTEST, LONGEST),
        "Between two looks at the free space of the disk and at the quota.",
    )
    .at_run_time(),
    Setting::new(
        Group::Cleaning,
        "taskExpireTime",
        "task-expire-time",
        duration(|config| &mut config.task_expire_time, SHORTEST, LONGEST),
        "A task that nobody used for this long goes, unless its file is here whole: see cacheExpireTime.",
    )
    .at_run_time(),
    Setting::new(
        Group::Cleaning,
        "cacheExpireTime",
        "cache-expire-time",
        duration(|config| &mut config.cache_expire_time, SHORTEST, LONGEST),
        "A whole file that nobody used for this long goes, with its task; no sooner than after taskExpireTime. Want of room takes it \
         earlier.",
    )
    .at_run_time(),
    Setting::new(
        Group::Cleaning,
        "peerGCDelay",
        "peer-gc-delay",
        duration(|config| &mut config.peer_gc_delay, Duration::ZERO, LONGEST),
        "A client that was silent for this long leaves its tasks, unless it may still be fetching a piece or others fetch from it; \
         a peer without tasks is forgotten after as long.",
    )
    .at_run_time(),
    Setting::new(
        Group::Cleaning,
        "youngGCThreshold",
        "young-gc-threshold",
        size(|config| &mut config.young_gc_threshold_bytes, 0, LARGEST),
        "Free space of the disk from which on nothing goes for want of it.",
    )
    .at_run_time(),
    Setting::new(
        Group::Cleaning,
        "fullGCThreshold",
        "full-gc-threshold",
        size(|config| &mut config.full_gc_threshold_bytes, 0, LARGEST),
        "Free space of the disk at which every file goes that is not in use and was not used within half a minute. A source that \
         does not tell its length, or announces more than the disk can hold, is given up before its file takes of it, from 16 MiB \
         on.",
    )
    .at_run_time(),
    Setting::new(
        Group::Cleaning,
        "IntervalThreshold",
        "interval-threshold",
        duration(|config| &mut config.interval_threshold, Duration::ZERO, LONGEST),
        "What was used less long ago than this goes last.",
    )
    .at_run_time(),
    Setting::new(
        Group::Cleaning,
        "cleanRatio",
        "clean-ratio",
        count(|config| &mut config.clean_ratio, 1, 10),
        "Tenths of the files that go in one round while there is less free space than youngGCThreshold: of those that nobody used \
         for three minutes.",
    )
    .at_run_time(),
    Setting::new(
        Group::Cleaning,
        "repositoryQuota",
        "repository-quota",
        size(|config| &mut config.repository_quota_bytes, 0, LARGEST),
        "How much the cached files may hold together; 0 for no limit. A file that does not fit makes unused ones go; where that \
         is not enough, it is refused with 604.",
    )
    .at_run_time(),
    Setting::new(
        Group::Cleaning,
        "repositoryHighWatermark",
        "repository-high-watermark",
        count(|config| &mut config.repository_high_watermark_percent, 1, 100),
        "Percent of repositoryQuota beyond which unused files go, those first that nobody used for longest.",
    )
    .at_run_time(),
    Setting::new(
        Group::Cleaning,
        "repositoryLowWatermark",
        "repository-low-watermark",
        count(|config| &mut config.repository_low_watermark_percent, 1, 100),
        "Percent of repositoryQuota that may be left then.",
    )
    .at_run_time(),
    Setting::new(
        Group::Log,
        "debug",
        "debug",
        Field::Switch(|config| &mut config.debug),
        "Log at level debug what the supernode itself does. SUPERNODE_LOG, where it is set, decides alone.",
    )
    .short('D')
    .at_run_time(),
    Setting::new(
        Group::Log,
        "logConfig.path",
        "log-path",
        Field::File(|config| &mut config.log.path),
        "Log to this file (mode 0600) rather than to standard error.",
    ),
    Setting::new(
        Group::Log,
        "logConfig.maxSize",
        "log-max-size",
        count(|config| &mut config.log.size_max_mb, 1, 1_000_000),
        "A file of more than so many MB is rotated: it becomes PATH.1, the one before it PATH.2, and so on.",
    ),
    Setting::new(
        Group::Log,
        "logConfig.maxBackups",
        "log-max-backups",
        count(|config| &mut config.log.backups_max, 0, 10_000),
        "Rotated files that are kept; 0 for all.",
    ),
    Setting::new(
        Group::Log,
        "logConfig.maxAge",
        "log-max-age",
        count(|config| &mut config.log.age_max_days, 0, 36_500),
        "Rotated files older than so many days are removed; 0 for none.",
    ),
    Setting::new(
        Group::Compatibility,
        "schedulerCorePoolSize",
        "pool-size",
        count(|config| &mut config.scheduler_core_pool_size, 0, 1_000_000),
        "Decisions need no pool of threads.",
    )
    .never(),
    Setting::new(
        Group::Compatibility,
        "enableProfiler",
        "profiler",
        Field::Switch(|config| &mut config.enable_profiler),
        "There is no profiler inside; those of the system see everything.",
    )
    .never(),
];
