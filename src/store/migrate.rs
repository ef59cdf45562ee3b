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
        if found > 0 {
            tracing::info!(schema = to, "migrated the database");
        }
    }
    if found == 0 {
        tracing::info!(schema = SCHEMA_VERSION, "made a new database");
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
    use crate::domain::{CdnPattern, ChildUrl, Generation, PreheatChild, PreheatId, TaskId, TaskStatus};
    use crate::store::records::{PreheatChildV2, Record, SourceV2, TaskV2};
    use crate::store::schema::preheat_child_key;

    #[test]
    fn there_is_a_step_for_every_schema_version() {
        assert_eq!(migrations::STEPS.len(), SCHEMA_VERSION as usize);
        assert_eq!(migrations::NAMES.len(), migrations::STEPS.len());
    }

    /// A source as schema 1 has it, in two chunks of the database.
    fn source_of_schema_1(db: &sled::Db, task: u8) {
        let mut record = vec![1];
        for text in ["http://h/f", "http://h/f"] {
            record.extend((text.len() as u64).to_le_bytes());
            record.extend(text.as_bytes());
        }
        // No md5, no identifier, no headers; not insecure; one certificate.
        record.extend([0, 0]);
        record.extend(0_u64.to_le_bytes());
        record.push(0);
        record.extend(1_u64.to_le_bytes());
        record.extend(40_000_u64.to_le_bytes());
        record.extend(vec![task; 40_000]);
        let sources = db.open_tree("sources").expect("a tree");
        for (number, chunk) in record.chunks(32 * 1024).enumerate() {
            sources.insert([vec![task; 32], vec![0, u8::try_from(number).expect("few")]].concat(), chunk).expect("written");
        }
    }

    fn rows(db: &sled::Db) -> Vec<(sled::IVec, sled::IVec)> {
        db.open_tree("sources").expect("a tree").iter().collect::<Result<_, _>>().expect("readable")
    }

    #[test]
    fn a_migration_that_was_killed_anywhere_ends_in_the_same_state() {
        const TASKS: u8 = 5;
        let migrated_after = |kills_after: &[u8]| {
            let dir = tempfile::tempdir().expect("a directory");
            let db = sled::open(dir.path()).expect("a database");
            set(&db, 1).expect("written");
            for &tasks in kills_after {
                // A kill leaves the tasks before it migrated, and the version as it was.
                (0..tasks)
                    .filter(|task| rows(&db).len() < 2 * (usize::from(*task) + 1))
                    .for_each(|task| source_of_schema_1(&db, task));
                migrations::STEPS[1](&db).expect("migrated");
            }
            (0..TASKS)
                .filter(|task| rows(&db).len() < 2 * (usize::from(*task) + 1))
                .for_each(|task| source_of_schema_1(&db, task));
            bring_up_to_date(&db).expect("migrated");
            bring_up_to_date(&db).expect("migrated again");
            rows(&db)
        };
        let undisturbed = migrated_after(&[]);
        assert_eq!(undisturbed.len(), 2 * usize::from(TASKS));
        for (key, value) in undisturbed.iter().filter(|(key, _)| key.ends_with(&[0, 0])) {
            let rest =
                undisturbed.iter().find(|(other, _)| other[..32] == key[..32] && other.ends_with(&[0, 1])).expect("a chunk");
            let record = [value.as_ref(), rest.1.as_ref()].concat();
            let spec = SourceV2::decode(&record).expect("a record of this schema").into_domain(TaskId::from_bytes([0; 32]));
            assert!(!spec.headers_left_out && spec.root_cas[0].len() == 40_000);
        }
        for first in 0..=TASKS {
            for second in first..=TASKS {
                assert_eq!(migrated_after(&[first, second]), undisturbed, "kills after {first} and {second} tasks");
            }
        }
    }

    #[test]
    fn tasks_are_migrated_once_wherever_a_kill_comes() {
        let dir = tempfile::tempdir().expect("a directory");
        let db = sled::open(dir.path()).expect("a database");
        set(&db, 3).expect("written");
        let tasks = db.open_tree("tasks").expect("a tree");
        // Generation, piece size, no length, no validators, waiting.
        let payload = [&7_u32.to_le_bytes()[..], &4_194_304_u32.to_le_bytes(), &[0, 0, 0], &0_u32.to_le_bytes()].concat();
        let before = [&[1], payload.as_slice()].concat();
        for task in 0..4_u8 {
            tasks.insert([task; 32], before.clone()).expect("written");
        }
        // A kill came after two tasks.
        migrations::STEPS[3](&db).expect("migrated");
        for task in 2..4_u8 {
            tasks.insert([task; 32], before.clone()).expect("written");
        }
        bring_up_to_date(&db).expect("migrated");
        for row in tasks.iter().values() {
            let status = TaskV2::decode(&row.expect("readable")).and_then(TaskStatus::try_from).expect("of this schema");
            assert_eq!(status, TaskStatus::waiting(Generation(7), CdnPattern::Local));
        }
        assert_eq!(tasks.len(), 4);
    }

    #[test]
    fn children_of_preheats_are_migrated_once_and_preheats_are_left_as_they_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let db = sled::open(dir.path()).expect("a database");
        set(&db, 3).expect("written");
        let preheats = db.open_tree("preheats").expect("a tree");
        let before = [&[1], &[9; 32][..], &3_u64.to_le_bytes(), b"url"].concat();
        let id = PreheatId::from_bytes([5; 16]);
        preheats.insert(id.as_bytes(), &[1, 2, 3]).expect("written");
        preheats.insert(preheat_child_key(&id, 0), before.clone()).expect("written");
        migrations::STEPS[3](&db).expect("migrated");
        // A kill came before the second child.
        preheats.insert(preheat_child_key(&id, 1), before.clone()).expect("written");
        bring_up_to_date(&db).expect("migrated");
        assert_eq!(preheats.get(id.as_bytes()).expect("readable").expect("there"), [1, 2, 3]);
        for number in 0..2 {
            let row = preheats.get(preheat_child_key(&id, number)).expect("readable").expect("there");
            let child = PreheatChildV2::decode(&row).expect("of this schema").into_domain(&[]);
            let expected = PreheatChild { task: TaskId::from_bytes([9; 32]), url: ChildUrl::beside(None, "url"), failure: None };
            assert_eq!(child, expected);
        }
        let of_before = PreheatChildV2::decode_any(&before).map(|child| child.into_domain(&[]).url.to_string());
        assert_eq!(of_before.ok().as_deref(), Some("url"));
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
