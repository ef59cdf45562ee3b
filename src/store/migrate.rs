//! Brings an older database up to this program's schema, one step of `migrations/` at a time.

use super::StoreError;
use super::schema::{SCHEMA_KEY, SCHEMA_VERSION};

#[path = "../../migrations/mod.rs"]
mod migrations;

/// Runs the steps that this database has not seen. Each is followed by its version and a flush, so that a kill anywhere
/// repeats at most one step, which every step allows.
pub fn bring_up_to_date(db: &sled::Db) -> Result<(), StoreError> {
    let found = refuse_newer(db)?;
    for (to, step) in (1..).zip(migrations::STEPS).skip_while(|(to, _)| *to <= found) {
        let migrated = || -> Result<(), sled::Error> {
            step(db)?;
            db.flush()?;
            set(db, to)
        };
        migrated().map_err(|source| StoreError::Migration { to, source })?;
        tracing::info!(schema = to, "migrated the database");
    }
    Ok(())
}

/// The steps that a database of this schema has not seen: the version that each makes, and what it does.
pub fn migration_steps(found: u32) -> Vec<(u32, &'static str)> {
    (1..).zip(migrations::NAMES).skip_while(|(to, _)| *to <= found).collect()
}

/// Says which schema a database has that was just built.
pub fn set_version(db: &sled::Db, version: u32) -> Result<(), StoreError> {
    set(db, version).map_err(StoreError::sled("set the schema version"))
}

fn set(db: &sled::Db, version: u32) -> Result<(), sled::Error> {
    db.open_tree("meta")?.insert(SCHEMA_KEY, &version.to_be_bytes())?;
    db.flush()?;
    Ok(())
}

/// The database's schema version (0 for a new one), unless this program is too old for it.
pub fn refuse_newer(db: &sled::Db) -> Result<u32, StoreError> {
    let meta = db.open_tree("meta").map_err(StoreError::sled("open a tree"))?;
    let stored = meta.get(SCHEMA_KEY).map_err(StoreError::sled("read the schema version"))?;
    let found = stored.and_then(|bytes| bytes.as_ref().try_into().ok()).map_or(0, u32::from_be_bytes);
    if found > SCHEMA_VERSION {
        return Err(StoreError::NewerSchema { found, known: SCHEMA_VERSION });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_step_for_every_schema_version() {
        assert_eq!(migrations::STEPS.len(), SCHEMA_VERSION as usize);
        assert_eq!(migrations::NAMES.len(), migrations::STEPS.len());
    }

    #[test]
    fn a_database_of_a_newer_program_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let db = sled::open(dir.path()).expect("a database");
        let meta = db.open_tree("meta").expect("a tree");
        meta.insert(SCHEMA_KEY, &u32::to_be_bytes(SCHEMA_VERSION + 1)).expect("written");
        assert!(matches!(bring_up_to_date(&db), Err(StoreError::NewerSchema { .. })));
        assert_eq!(meta.len(), 1);
    }
}
