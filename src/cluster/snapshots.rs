//! Snapshots of a home: where they are, when one is taken, which are kept.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Cluster;
use crate::config::Home;
use crate::store::snapshot::{self, Contents, SnapshotError, Taken};
use crate::store::{SCHEMA_VERSION, Store};
use crate::telemetry::metrics::METRICS;

/// What the name of every snapshot of a home ends with.
const ENDING: &str = ".snap";
/// Those that the schedule took, which alone are removed when there are enough.
const SCHEDULED_ENDING: &str = ".auto.snap";
/// When the first snapshot of a home is taken: a young home changes most.
const FIRST_AFTER: Duration = Duration::from_secs(60);

/// What a running service says of a snapshot that it was asked for, one JSON object a line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    Progress {
        rows: u64,
    },
    #[serde(rename_all = "camelCase")]
    Taken {
        path: String,
        rows: u64,
        bytes: u64,
        took_ms: u64,
        longest_pause_us: u64,
    },
    Error {
        error: String,
    },
}

impl From<&Taken> for Line {
    fn from(taken: &Taken) -> Self {
        Self::Taken {
            path: taken.path.display().to_string(),
            rows: taken.rows,
            bytes: taken.bytes,
            took_ms: u64::try_from(taken.took.as_millis()).unwrap_or(u64::MAX),
            longest_pause_us: u64::try_from(taken.longest_pause.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

/// A file name that sorts by time: `20261124T090541.123Z`.
pub fn timestamp(now: SystemTime) -> String {
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since_1970.as_secs() / 86_400, since_1970.as_secs() % 86_400);
    // Years that begin in March, so that the odd day is their last, in eras of 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{:03}Z", since_1970.subsec_millis())
}

/// Where a snapshot goes that was not given a place.
pub fn default_path(home: &Home) -> PathBuf {
    home.snapshots().join(format!("{}{ENDING}", timestamp(SystemTime::now())))
}

/// Where the snapshot goes that is taken before a home is migrated to this program's schema.
pub fn before_migration_path(home: &Home) -> PathBuf {
    home.snapshots().join(format!("{}.before-schema-{SCHEMA_VERSION}{ENDING}", timestamp(SystemTime::now())))
}

/// The snapshots of a home, the newest first.
pub fn list(home: &Home) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(home.snapshots()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(ENDING)) {
            paths.push(path);
        }
    }
    paths.sort_unstable_by(|a, b| b.cmp(a));
    Ok(paths)
}

/// The newest snapshot that is sound, and what it has. Those that are not are told of in the log.
pub fn newest_valid(home: &Home) -> std::io::Result<Option<(PathBuf, Contents)>> {
    let mut paths = list(home)?;
    // By what it says of itself: somebody may have named one as he liked.
    paths.sort_by_cached_key(|path| Reverse(snapshot::read_header(path).map_or(0, |header| header.created_ms)));
    for path in paths {
        match snapshot::verify(&path) {
            Ok(contents) => return Ok(Some((path, contents))),
            Err(error) => {
                tracing::error!(path = %path.display(), error = &error as &dyn std::error::Error, "snapshot cannot be used");
            }
        }
    }
    Ok(None)
}

/// Takes a snapshot of a home that no service has.
pub fn take_of_stopped(store: &Store, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Taken, SnapshotError> {
    make_directory(path)?;
    store.snapshot(None, path, progress)
}

impl Cluster {
    /// Takes a snapshot while everything goes on. Blocks.
    pub fn snapshot(&self, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Taken, SnapshotError> {
        let taken = make_directory(path).and_then(|()| self.store.snapshot(Some(&self.committer), path, progress));
        let taken = taken.inspect_err(|_| METRICS.snapshots_failed.inc())?;
        METRICS.snapshots.inc();
        tracing::info!(
            path = %taken.path.display(),
            rows = taken.rows,
            bytes = taken.bytes,
            took_ms = taken.took.as_millis(),
            longest_pause_us = taken.longest_pause.as_micros(),
            "took a snapshot"
        );
        Ok(taken)
    }

    /// Takes snapshots on the schedule, for as long as the service runs.
    pub(super) fn keep_snapshots(self: &Arc<Self>) {
        let interval = self.config().snapshot_interval;
        if interval.is_zero() {
            return;
        }
        let cluster = self.clone();
        self.spawn(async move {
            let home = Home::new(cluster.config().home.clone());
            let mut wait = first_wait(&home, interval);
            while cluster.stopping.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
                let taking = cluster.clone();
                // Not waited for when the service stops: what it leaves is removed by the next one.
                let taken = tokio::task::spawn_blocking(move || taking.take_scheduled());
                match cluster.stopping.run_until_cancelled(taken).await {
                    None => return,
                    Some(Ok(Ok(()))) => {}
                    Some(Ok(Err(error))) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "scheduled snapshot could not be taken");
                    }
                    Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                }
                wait = interval;
            }
        });
    }

    fn take_scheduled(&self) -> Result<(), SnapshotError> {
        let home = Home::new(self.config().home.clone());
        let name = format!("{}{SCHEDULED_ENDING}", timestamp(SystemTime::now()));
        self.snapshot(&home.snapshots().join(name), &mut |_| ())?;
        remove_old(&home, self.config().snapshot_keep as usize);
        Ok(())
    }
}

fn first_wait(home: &Home, interval: Duration) -> Duration {
    let newest = list(home).ok().and_then(|paths| paths.into_iter().next());
    let age = newest.and_then(|path| path.metadata().ok()?.modified().ok()?.elapsed().ok());
    age.map_or(FIRST_AFTER.min(interval), |age| interval.saturating_sub(age))
}

/// Removes what snapshots were called that a kill cut short. Only while nobody can ask for one.
pub fn remove_partial(home: &Home) {
    let Ok(entries) = std::fs::read_dir(home.snapshots()) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "partial")) {
        let _ = std::fs::remove_file(path);
    }
}

/// Removes scheduled snapshots beyond the newest `keep`. Those that somebody asked for are theirs to remove.
fn remove_old(home: &Home, keep: usize) {
    let Ok(paths) = list(home) else { return };
    let scheduled = paths.into_iter().filter(|path| path.to_string_lossy().ends_with(SCHEDULED_ENDING));
    for path in scheduled.skip(keep.max(1)) {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "old snapshot cannot be removed");
        }
    }
}

fn make_directory(path: &Path) -> Result<(), SnapshotError> {
    use std::os::unix::fs::DirBuilderExt;
    let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    // A snapshot that was told of survives a loss of power, and so does the name of its directory.
    made.and_then(|()| crate::store::swap::sync_parent(directory)).map_err(|source| SnapshotError::File {
        operation: "make the directory",
        path: directory.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_the_date_in_utc() {
        let at = |seconds: u64| timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101T000000.000Z");
        assert_eq!(at(951_782_400), "20000229T000000.000Z");
        assert_eq!(at(1_795_511_141), "20261124T090541.000Z");
        assert_eq!(at(4_107_542_399), "21000228T235959.000Z");
        assert_eq!(at(4_107_542_400), "21000301T000000.000Z");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_running_cluster_takes_snapshots_and_keeps_the_newest() {
        const KEPT: usize = 2;
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path().to_owned());
        std::fs::create_dir(home.database()).expect("made");
        let config = crate::config::Config {
            home: dir.path().to_owned(),
            snapshot_interval: Duration::from_millis(20),
            snapshot_keep: u32::try_from(KEPT).expect("few"),
            ..crate::config::Config::default()
        };
        let cluster = Cluster::open(config).expect("opened");
        cluster.start();
        let mut seen = std::collections::BTreeSet::new();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while seen.len() < 3 * KEPT {
            assert!(std::time::Instant::now() < deadline, "only {seen:?} were taken");
            let now = list(&home).expect("readable");
            assert!(now.len() <= KEPT + 1, "{now:?}");
            seen.extend(now);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cluster.stop().await;
        let newest = newest_valid(&home).expect("readable").expect("one is sound");
        assert_eq!(Some(&newest.0), list(&home).expect("readable").first());
    }

    #[test]
    fn only_scheduled_snapshots_make_room_for_newer_ones() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path().to_owned());
        std::fs::create_dir(home.snapshots()).expect("made");
        for name in ["1.snap", "2.auto.snap", "3.auto.snap", "4.auto.snap", "5.snap.partial"] {
            std::fs::write(home.snapshots().join(name), "").expect("written");
        }
        remove_old(&home, 2);
        remove_partial(&home);
        let names: Vec<_> =
            list(&home).expect("readable").iter().map(|path| path.file_name().map(|name| name.to_owned())).collect();
        assert_eq!(names, ["4.auto.snap", "3.auto.snap", "1.snap"].map(|name| Some(name.into())));
        assert_eq!(std::fs::read_dir(home.snapshots()).expect("readable").count(), 3);
    }
}
