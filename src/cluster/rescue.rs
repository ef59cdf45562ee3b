//! A database that cannot be used: set aside, never deleted, and the newest sound snapshot put in its place.
//!
//! What happens is told in the log at the level of errors, whatever it is: starting with less than was acknowledged is
//! never silent.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::cell::Cell;
use super::{Cluster, StartError, snapshots};
use crate::config::{Config, Home};
use crate::store::{self, StoreError};

/// What to do with a database that lost something.
enum Remedy {
    /// It has more than any snapshot.
    Keep,
    /// Another was put in its place.
    Replaced,
}

impl Cluster {
    /// Opens the home and rebuilds every swarm; where the database cannot be used, with the newest snapshot in its place.
    pub fn open(config: Config) -> Result<Arc<Self>, StartError> {
        let home = Home::new(config.home.clone());
        let opened = if is_new_beside_snapshots(&home)? {
            Err(StoreError::Gone { path: home.database() }.into())
        } else {
            guarded(&home, || Self::open_as_it_is(config.clone(), false))
        };
        snapshots::remove_partial(&home);
        match opened {
            Err(StartError::Store(error)) if error.is_damage() => {
                store::look_for_hindrance(&home.database())?;
                let keep = matches!(replace(&home, &error)?, Remedy::Keep);
                let cluster = guarded(&home, || Self::open_as_it_is(config, keep))?;
                cluster.rescued.store(true, Ordering::Release);
                Ok(cluster)
            }
            opened => {
                let cluster = opened?;
                // A database that was never used may stand beside the pieces of another, which somebody moved.
                if cluster.store.boot() > 1 {
                    cluster.remove_orphans()?;
                }
                Ok(cluster)
            }
        }
    }

    /// Removes piece files that no task names: of tasks that were forgotten, of generations that are over.
    fn remove_orphans(&self) -> Result<(), StartError> {
        let files = self.repository.files()?;
        let tasks = self.tasks.read();
        let path = |cell: &Arc<Cell>| self.repository.path(&cell.spec.id, cell.lock().swarm.status().generation);
        let named: HashSet<PathBuf> = tasks.values().map(path).collect();
        for orphan in files.into_iter().filter(|file| !named.contains(file)) {
            match std::fs::remove_file(&orphan) {
                Ok(()) => tracing::info!(path = %orphan.display(), "piece file that no task names is removed"),
                Err(error) => tracing::warn!(path = %orphan.display(), %error, "piece file that no task names stays behind"),
            }
        }
        Ok(())
    }
}

/// sled panics on some damage, when it is opened or later when it is read.
fn guarded<T>(home: &Home, open: impl FnOnce() -> Result<T, StartError>) -> Result<T, StartError> {
    std::panic::catch_unwind(AssertUnwindSafe(open))
        .unwrap_or_else(|_| Err(StoreError::Panicked { path: home.database() }.into()))
}

/// Whether there is no database where there was one: snapshots are left of it.
fn is_new_beside_snapshots(home: &Home) -> Result<bool, StartError> {
    Ok(!home.database().join("db").exists() && !snapshots::list(home).map_err(StartError::Home)?.is_empty())
}

/// Puts the newest sound snapshot in the place of a database that cannot be used, or an empty one where there is none.
fn replace(home: &Home, error: &StoreError) -> Result<Remedy, StartError> {
    let database = home.database();
    tracing::error!(error = error as &dyn std::error::Error, path = %database.display(), "database is damaged");
    let newest = snapshots::newest_valid(home).map_err(StartError::Home)?;
    if let StoreError::CommitsLost { commits, lost, .. } = error
        && *commits > 0
        && newest.as_ref().is_none_or(|(_, contents)| contents.commits <= *commits)
    {
        tracing::error!(
            lost,
            commits,
            "the database lost its last commits to damage, and no snapshot has more: serving what is left; clients that miss something register again"
        );
        return Ok(Remedy::Keep);
    }
    let kept = store::swap::beside(&database, &format!("damaged-{}", snapshots::timestamp(SystemTime::now())));
    let building = store::swap::building(&database);
    match newest {
        Some((path, contents)) => {
            let snapshot_age_s = age_s(contents.header.created_ms);
            tracing::error!(
                snapshot = %path.display(),
                snapshot_age_s,
                rows = contents.rows,
                kept = %kept.display(),
                "restoring the newest snapshot in place of the damaged database: what happened after it is lost"
            );
            store::snapshot::build(&path, &building)?;
        }
        None => {
            tracing::error!(
                kept = %kept.display(),
                "no snapshot can be used: starting EMPTY in place of the damaged database; all tasks and clients are lost"
            );
            std::fs::create_dir(&building).map_err(StartError::Home)?;
        }
    }
    swap(&database, &kept)?;
    Ok(Remedy::Replaced)
}

fn swap(database: &Path, kept: &Path) -> Result<(), StartError> {
    store::swap::replace(database, kept).map_err(StartError::Home)
}

fn age_s(created_ms: u64) -> u64 {
    let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(now_ms).unwrap_or(u64::MAX).saturating_sub(created_ms) / 1000
}
