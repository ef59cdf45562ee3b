//! `supernode check`: whether a home, or a snapshot, is sound, and what mends it if not.

use std::fmt::Display;
use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use anyhow::Context;

use super::home_lock::HomeLock;
use super::progress::Progress;
use crate::cli::CheckArgs;
use crate::cluster::pieces_on_disk::{self, Found};
use crate::cluster::snapshots;
use crate::config::Home;
use crate::pieces::Repository;
use crate::store::snapshot::SnapshotError;
use crate::store::{SCHEMA_VERSION, Store, StoreError, snapshot};

/// Problems of one kind that are named; more are counted.
const NAMED_MAX: usize = 20;

/// The check went to its end and found something.
#[derive(Debug, thiserror::Error)]
#[error("{0} problem(s) found")]
pub struct ProblemsFound(usize);

/// Checks a home, or the snapshot that is named.
pub fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let mut findings = Findings::default();
    match &args.snapshot {
        Some(path) => {
            File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            check_snapshot(path, &mut findings);
        }
        None => {
            let home = super::home_of(&args.home)?;
            super::require_home(&home)?;
            let _lock = HomeLock::take(&home).map_err(|error| {
                error.context(
                    "only a stopped home can be checked; of a running one, take a snapshot and check that with --snapshot",
                )
            })?;
            check_home(&home, &mut findings)?;
        }
    }
    match findings.count {
        0 => {
            println!("everything is sound");
            Ok(())
        }
        count => Err(ProblemsFound(count).into()),
    }
}

#[derive(Debug, Default)]
struct Findings {
    count: usize,
}

impl Findings {
    /// Names what is wrong, and what mends it.
    fn add(&mut self, wrong: impl Display, mend: &str) {
        self.count += 1;
        println!("PROBLEM: {wrong}");
        println!("    mend: {mend}");
    }

    fn add_all(&mut self, wrong: &[String], mend: &str) {
        for one in wrong.iter().take(NAMED_MAX) {
            self.add(one, mend);
        }
        if wrong.len() > NAMED_MAX {
            self.count += wrong.len() - NAMED_MAX;
            println!("PROBLEM: … and {} more like these", wrong.len() - NAMED_MAX);
        }
    }
}

fn check_home(home: &Home, findings: &mut Findings) -> anyhow::Result<()> {
    let restore = "start the service, which sets the database aside and restores the newest sound snapshot; or choose one: supernode restore FILE --force --home-dir …";
    // sled panics on some damage, also when it reads.
    let checked = std::panic::catch_unwind(AssertUnwindSafe(|| -> Result<(), StoreError> {
        let store = Store::open_to_check(&home.database())?;
        if let Err(lost) = store.refuse_loss() {
            findings.add(lost, restore);
        }
        if store.schema() < SCHEMA_VERSION {
            println!("database: schema {}, which supernode migrate brings to {SCHEMA_VERSION}", store.schema());
        }
        let (rows, wrong) = store.check()?;
        println!("database: {rows} rows");
        findings.add_all(&wrong, restore);
        check_pieces(home, &store, findings);
        Ok(())
    }));
    match checked {
        Ok(Ok(())) => {}
        Ok(Err(error)) if error.is_damage() => findings.add(format!("{:#}", anyhow::Error::from(error)), restore),
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => findings.add("reading the database panicked: it is damaged", restore),
    }
    for path in snapshots::list(home)? {
        check_snapshot(&path, findings);
    }
    Ok(())
}

fn check_pieces(home: &Home, store: &Store, findings: &mut Findings) {
    let refetch = "remove the task's file below pieces/ (if it is there) and start the service, which fetches it again";
    let compared = pieces_on_disk::recorded_bytes(store).and_then(|total| {
        let progress = Progress::bytes(total);
        let compared = pieces_on_disk::compare(store, &Repository::at(home.pieces()), &mut |bytes| progress.advance(bytes));
        progress.finish();
        compared
    });
    let comparison = match compared {
        Ok(comparison) => comparison,
        Err(error) => return findings.add(format!("{:#}", anyhow::Error::from(error)), "see the problem before"),
    };
    println!("pieces: {} of {} bytes", comparison.pieces, comparison.bytes);
    let lost: Vec<String> = comparison
        .lost
        .iter()
        .map(|lost| {
            let piece = format!("piece {} of the task {} ({})", lost.piece, lost.task, lost.place);
            match lost.found {
                Found::Damaged => format!("{piece} has other bytes than were written"),
                Found::Unreadable => format!("{piece} cannot be read: look at the disk and the file's permissions"),
                Found::Missing | Found::Sound => format!("{piece} is not on disk"),
            }
        })
        .collect();
    findings.add_all(&lost, refetch);
    let orphans: Vec<String> = comparison.orphans.iter().map(|path| format!("{} belongs to no task", path.display())).collect();
    findings.add_all(&orphans, "remove the file if nobody needs it");
}

fn check_snapshot(path: &Path, findings: &mut Findings) {
    match snapshot::verify(path) {
        Ok(contents) => println!("snapshot {}: {} rows, sound", path.display(), contents.rows),
        Err(error) => {
            let mend = mend_of_snapshot(&error);
            findings.add(format!("{:#}", anyhow::Error::from(error)), mend);
        }
    }
}

/// Only what is a snapshot, and a broken one, is anybody told to remove.
const fn mend_of_snapshot(error: &SnapshotError) -> &'static str {
    match error {
        SnapshotError::Damaged { .. } | SnapshotError::Row { .. } => "take another: supernode snapshot; and remove this one",
        SnapshotError::NotASnapshot { .. } => "is this the right file?",
        SnapshotError::Format { .. } | SnapshotError::NewerSchema { .. } => "check it with that program",
        SnapshotError::File { .. } => "look at the disk and the file's permissions, and check again",
        SnapshotError::Underway | SnapshotError::FellBehind | SnapshotError::Exists { .. } | SnapshotError::Store(_) => {
            "check again"
        }
    }
}
