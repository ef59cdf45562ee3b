//! `supernode restore`: a home as a snapshot has it.

use std::time::SystemTime;

use anyhow::{Context, bail};

use super::home_lock::HomeLock;
use super::progress::Progress;
use crate::cli::RestoreArgs;
use crate::cluster::{pieces_on_disk, snapshots};
use crate::config::Home;
use crate::pieces::Repository;
use crate::store::{Store, snapshot, swap};

/// Verifies all of the snapshot, builds a database of it beside the one that is there, compares it with the piece files,
/// and puts it in its place. Until then nothing that is there is touched.
pub fn run(args: &RestoreArgs) -> anyhow::Result<()> {
    let contents = snapshot::verify(&args.snapshot)?;
    let home = super::home_of(&args.home)?;
    let _lock = HomeLock::take(&home)?;
    let database = home.database();
    let occupied = database.read_dir().with_context(|| format!("cannot read {}", database.display()))?.next().is_some();
    if occupied && !args.force {
        bail!(
            "the home {} has a database already: restore into another with --home-dir, or replace it with --force, which keeps it under another name",
            home.path().display()
        );
    }
    let building = swap::building(&database);
    println!("{}: {} rows, sound; restoring", args.snapshot.display(), contents.rows);
    snapshot::build(&args.snapshot, &building)?;
    reconcile(&home, &building)?;
    let kept = swap::beside(&database, &format!("before-restore-{}", snapshots::timestamp(SystemTime::now())));
    swap::replace(&database, &kept).context("cannot put the restored database in its place")?;
    if occupied {
        println!("the database that was there is kept as {}", kept.display());
    } else {
        // An empty directory that the lock made.
        let _ = std::fs::remove_dir(&kept);
    }
    println!("restored {}", home.path().display());
    Ok(())
}

/// Has every piece fetched again whose bytes are not there any more, or are others.
fn reconcile(home: &Home, database: &std::path::Path) -> anyhow::Result<()> {
    let store = Store::open_restored(database)?;
    let repository = Repository::at(home.pieces());
    let progress = Progress::bytes(pieces_on_disk::recorded_bytes(&store)?);
    let comparison = pieces_on_disk::compare(&store, &repository, &mut |bytes| progress.advance(bytes))?;
    progress.finish();
    let lost = pieces_on_disk::mark_lost(&store, &comparison)?;
    let (pieces, unreadable) = (comparison.pieces, comparison.lost.len() - lost);
    println!("{pieces} pieces are recorded as stored; {lost} of them are missing or damaged and will be fetched again");
    if unreadable > 0 {
        println!("{unreadable} of them cannot be read and stay recorded: look at the disk and at the files' permissions");
    }
    for path in &comparison.orphans {
        println!("{} belongs to no task; remove it if nobody needs it", path.display());
    }
    Ok(())
}
