//! `supernode migrate`: brings a stopped home to this program's schema, as its first start would.

use super::home_lock::HomeLock;
use crate::cli::MigrateArgs;
use crate::cluster::snapshots;
use crate::store::snapshot::SnapshotError;
use crate::store::{SCHEMA_VERSION, Store, migration_steps};

/// Runs the steps that the database has not seen, or names them.
pub fn run(args: &MigrateArgs) -> anyhow::Result<()> {
    let home = super::home_of(&args.home)?;
    super::require_home(&home)?;
    let _lock = HomeLock::take(&home)?;
    let found = Store::open_to_read(&home.database())?.schema();
    let steps = migration_steps(found);
    if steps.is_empty() {
        println!("the database has schema {found}, which is this program's: nothing to do");
        return Ok(());
    }
    for (version, name) in steps {
        println!("{} step {version}: {name}", if args.dry_run { "would run" } else { "running" });
    }
    if args.dry_run {
        return Ok(());
    }
    let path = snapshots::before_migration_path(&home);
    Store::open_with(&home.database(), &|store| {
        store.refuse_loss()?;
        let taken = snapshots::take_of_stopped(store, &path, &mut |_| ())?;
        println!("took a snapshot before: {}", taken.path.display());
        Ok::<_, SnapshotError>(())
    })?;
    println!("the database has schema {SCHEMA_VERSION}");
    Ok(())
}
