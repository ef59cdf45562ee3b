//! Giving room back: at a start, a database most of whose file is dead is written anew.
//!
//! sled uses the room of what is gone again, and hardly ever gives it back. Its file is a row of segments; one is free once
//! the last page has been moved out of it, and pages are moved only as others are written, from the first segment on.
//! What a burst leaves, a few pages in nearly every segment, stays where it is.
//!
//! Invariant: the old database goes after the new one was read back and has exactly its rows. Whatever fails before that
//! leaves the old one, in which nothing was changed.

use std::panic::AssertUnwindSafe;
use std::path::Path;

use super::snapshot::UNFLUSHED_BYTES;
use super::{SCHEMA_VERSION, Store, StoreError, open_sled, swap, sync_all_below, sync_failed};
use crate::domain::Durability;

/// Databases smaller than this are left as they are. Bytes.
const FILE_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// What sled has beside a row. Bytes. With it, a database that was just written is three to four times its rows, be they
/// large or small (measured with keys and values of 37 to 210 bytes).
const BESIDE_ROW_BYTES: usize = 64;
/// How many times its rows a database has to be, so that one that was just written is not written anew.
const FILE_PER_ROWS_MIN: u64 = 8;

/// The least that a row of ours takes, with what sled has beside it. Bytes.
const ROW_BYTES_MIN: u64 = 128;

/// What became of a database.
#[derive(Clone, Copy, Debug)]
pub struct Rewritten {
    pub rows: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// Whether a database of about so many rows is so much larger than those that it is worth looking at: reading rows to find
/// out costs what a start has to wait for.
pub fn may_be_sparse(path: &Path, rows: u64) -> bool {
    let bytes = file_bytes(path);
    bytes >= FILE_BYTES_MIN && rows.saturating_mul(ROW_BYTES_MIN * FILE_PER_ROWS_MIN) <= bytes
}

/// Writes the database below `path` anew if that gives much room back. Nobody else may have it.
pub fn rewrite_if_sparse(path: &Path) -> Result<Option<Rewritten>, StoreError> {
    let bytes_before = file_bytes(path);
    if bytes_before < FILE_BYTES_MIN {
        return Ok(None);
    }
    // On some damage, and on some errors of the disk, sled panics instead of telling.
    let rewritten = std::panic::catch_unwind(AssertUnwindSafe(|| rewrite(path, bytes_before)));
    rewritten.unwrap_or_else(|_| Err(StoreError::Panicked { path: path.to_owned() }))
}

fn rewrite(path: &Path, bytes_before: u64) -> Result<Option<Rewritten>, StoreError> {
    let old = Store::open_to_check(path)?;
    // One that has to be migrated, or has lost something, is another's to deal with.
    if old.schema() != SCHEMA_VERSION || old.refuse_loss().is_err() || !is_sparse(&old.db, bytes_before)? {
        return Ok(None);
    }
    let building = swap::building(path);
    let rows = build(&old.db, &building).inspect_err(|_| {
        // It takes room that is needed. If it cannot be removed, the next start tries that again.
        let _ = std::fs::remove_dir_all(&building);
    })?;
    drop(old);
    if let Err(error) = swap::supersede(path) {
        // It may have got as far as to leave no database where one is looked for.
        swap::finish(path).map_err(sync_failed(path))?;
        return Err(sync_failed(path)(error));
    }
    Ok(Some(Rewritten { rows, bytes_before, bytes_after: file_bytes(path) }))
}

/// How large sled's file is; 0 if there is none that can be looked at.
fn file_bytes(path: &Path) -> u64 {
    std::fs::metadata(path.join("db")).map_or(0, |metadata| metadata.len())
}

/// Whether the rows are a small part of the file. Reads no more of them than that part.
fn is_sparse(db: &sled::Db, file_bytes: u64) -> Result<bool, StoreError> {
    let mut bytes = 0;
    for name in db.tree_names() {
        for row in db.open_tree(name).map_err(StoreError::sled("open a tree"))?.iter() {
            let (key, value) = row.map_err(StoreError::sled("read a row"))?;
            bytes += (key.len() + value.len() + BESIDE_ROW_BYTES) as u64;
            if bytes * FILE_PER_ROWS_MIN > file_bytes {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Makes a database of the rows of another, durable and compared with it. Tells how many those are.
fn build(old: &sled::Db, building: &Path) -> Result<u64, StoreError> {
    copy(old, &open_sled(building)?)?;
    let new = Store::open_restored(building)?;
    let rows = compare(old, &new.db, building)?;
    new.make_durable(Durability::Power)?;
    drop(new);
    sync_all_below(building).map_err(sync_failed(building))?;
    Ok(rows)
}

fn copy(old: &sled::Db, new: &sled::Db) -> Result<(), StoreError> {
    let mut unflushed = 0;
    for name in old.tree_names() {
        let (from, to) = (old.open_tree(&name), new.open_tree(&name));
        let (from, to) = from.and_then(|from| Ok((from, to?))).map_err(StoreError::sled("open a tree"))?;
        for row in from.iter() {
            let (key, value) = row.map_err(StoreError::sled("read a row"))?;
            unflushed += key.len() + value.len();
            to.insert(key, value).map_err(StoreError::sled("write a row anew"))?;
            if unflushed > UNFLUSHED_BYTES {
                new.flush().map_err(StoreError::sled("flush"))?;
                unflushed = 0;
            }
        }
    }
    new.flush().map_err(StoreError::sled("flush"))?;
    Ok(())
}

/// Counts the rows, which have to be the same in both.
fn compare(old: &sled::Db, new: &sled::Db, building: &Path) -> Result<u64, StoreError> {
    let mut rows = 0;
    for name in old.tree_names() {
        let (one, other) = (old.open_tree(&name), new.open_tree(&name));
        let (one, other) = one.and_then(|one| Ok((one, other?))).map_err(StoreError::sled("open a tree"))?;
        let (mut one, mut other) = (one.iter(), other.iter());
        loop {
            let pair = one.next().transpose().and_then(|row| Ok((row, other.next().transpose()?)));
            match pair.map_err(StoreError::sled("compare a row"))? {
                (None, None) => break,
                (row, same) if row == same => rows += 1,
                _ => return Err(StoreError::Unlike { path: building.to_owned() }),
            }
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Change, ClientId, TaskId, TaskSpec};
    use crate::store::commit::tests::{everything, spec};

    fn of_task(number: u32) -> TaskSpec {
        TaskSpec { id: TaskId::derive(&format!("http://h/{number}"), "", ""), ..spec(Vec::new()) }
    }

    /// A database that so many tasks were written to, and how large it is.
    fn database(path: &Path, tasks: u32) -> (Store, u64) {
        let store = Store::open(path).expect("a new database");
        (0..tasks).for_each(|task| store.write(&everything(&of_task(task))).expect("written"));
        (store, file_bytes(path))
    }

    #[test]
    fn a_database_whose_rows_went_is_written_anew_with_all_that_is_left() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("db");
        let (store, large) = database(&path, 150);
        assert!(large > 2 * FILE_BYTES_MIN, "{large} bytes are no burst");
        (3..150).for_each(|task| store.write(&[Change::TaskForgotten { task: of_task(task).id }]).expect("written"));
        let facts = |store: &Store| (store.node(), store.boot(), store.commits(), store.task_ids().expect("readable"));
        let before = facts(&store);
        drop(store);
        let rewritten = rewrite_if_sparse(&path).expect("written anew").expect("sparse");
        assert!(rewritten.bytes_before >= large && rewritten.bytes_after < FILE_BYTES_MIN, "{rewritten:?}");
        let names = std::fs::read_dir(home.path()).expect("readable").flatten().map(|entry| entry.file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["db"], "leftovers");
        let store = Store::open_to_check(&path).expect("the new database");
        store.refuse_loss().expect("nothing was lost");
        assert_eq!(facts(&store), before);
        for task in 0..3 {
            let rows = store.task(&of_task(task).id).expect("readable").expect("there");
            assert!(rows.spec == of_task(task) && rows.pieces.len() == 2 && rows.progress.len() == 1);
        }
        assert!(store.peer(&ClientId::parse("c-1").expect("a valid id")).expect("readable").is_some());
        // The mark is there, too: a commit that is lost from here on is missed.
        assert_eq!(super::super::mark::Mark::open(&path).expect("readable").1, before.2);
    }

    #[test]
    fn a_database_that_is_as_large_as_its_rows_is_left_as_it_is() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("db");
        let (store, large) = database(&path, 100);
        drop(store);
        assert!(large > FILE_BYTES_MIN, "{large} bytes are left alone in any case");
        assert!(rewrite_if_sparse(&path).expect("looked at").is_none());
        assert!(file_bytes(&path) >= large);
    }

    #[test]
    fn one_that_lost_commits_is_left_for_the_rescue() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("db");
        let (store, _) = database(&path, 100);
        (0..100).for_each(|task| store.write(&[Change::TaskForgotten { task: of_task(task).id }]).expect("written"));
        let commits = store.commits();
        drop(store);
        super::super::mark::Mark::open(&path).and_then(|(mark, _)| mark.set(commits + 1)).expect("set");
        assert!(rewrite_if_sparse(&path).expect("looked at").is_none());
    }
}
