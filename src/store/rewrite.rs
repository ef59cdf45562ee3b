//! Giving room back: a database most of whose file is dead is written anew, under the service that has it.
//!
//! sled uses the room of what is gone again, and hardly ever gives it back. Its file is a row of segments; one is free once
//! the last page has been moved out of it, and pages are moved only as others are written, from the first segment on.
//! What a burst leaves, a few pages in nearly every segment, stays where it is; and so does what sled keeps in memory of it.
//!
//! Commits wait while the rows are copied and compared, reads only while one database takes the other's place.
//!
//! Invariant: the old database goes after the new one was read back and has exactly its rows. Whatever fails before that
//! leaves the old one, in which nothing was changed.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;
use rustix::fs::{FlockOperation, flock};

use super::snapshot::UNFLUSHED_BYTES;
use super::{
    Committer, Files, LOCK_EVERY, LOCK_TIMEOUT, Store, StoreError, open_database_file, open_sled, swap, sync_all_below,
    sync_failed,
};
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
/// How long rows may be copied and compared. Nothing is committed meanwhile, and clients wait, some of them 3 s at most.
const COPYING_MAX: Duration = Duration::from_secs(2);
/// How long those may take to end who read the old database. Commits wait as well.
const READERS_END_WITHIN: Duration = Duration::from_millis(100);

/// What became of a database.
#[derive(Clone, Copy, Debug)]
pub struct Rewritten {
    pub rows: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// How long nothing could be committed.
    pub pause: Duration,
}

impl Store {
    /// Whether a database of about so many rows is so much larger than those that it is worth looking at all of them.
    pub fn may_be_sparse(&self, rows: u64) -> bool {
        let bytes = file_bytes(&self.path);
        !self.takes_too_long.load(Ordering::Relaxed)
            && bytes >= FILE_BYTES_MIN
            && rows.saturating_mul(ROW_BYTES_MIN * FILE_PER_ROWS_MIN) <= bytes
    }

    /// Writes the database anew if that gives much room back. Blocks. `None` if it is as large as it should be, or has long
    /// readers; then another time may do. After some errors the database is closed: the next commit fails.
    pub fn give_room_back(&self, committer: &Committer) -> Result<Option<Rewritten>, StoreError> {
        // On some damage, and on some errors of the disk, sled panics instead of telling.
        let rewritten = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let bytes_before = file_bytes(&self.path);
            if bytes_before < FILE_BYTES_MIN || !is_sparse(&self.files()?.db, bytes_before)? {
                return Ok(None);
            }
            // What could not be written is not to be written elsewhere: it was not acknowledged.
            let Some(_nothing_is_written) = committer.pause() else { return Ok(None) };
            self.rewrite(bytes_before)
        }));
        rewritten.unwrap_or_else(|_| Err(StoreError::Panicked { path: self.path.clone() }))
    }

    fn rewrite(&self, bytes_before: u64) -> Result<Option<Rewritten>, StoreError> {
        let began = Instant::now();
        // A dump that nobody reads on may hold it for hours: not to copy all rows in vain each time.
        if self.files.try_write_for(READERS_END_WITHIN).is_none() {
            return Ok(None);
        }
        self.require_room(bytes_before)?;
        let building = swap::building(&self.path);
        let remove_building = || {
            // It takes room that is needed. If it cannot be removed, the next start tries that again.
            let _ = std::fs::remove_dir_all(&building);
        };
        let rows = build(&self.files()?.db, &building, began + COPYING_MAX).inspect_err(|error| {
            remove_building();
            // It would not be faster the next time.
            self.takes_too_long.store(matches!(error, StoreError::TooManyRows { .. }), Ordering::Relaxed);
        })?;
        let Some(mut files) = self.files.try_write_for(READERS_END_WITHIN) else {
            remove_building();
            return Ok(None);
        };
        if let Some(old) = files.take() {
            close(old, &self.path)?;
        }
        let superseded = swap::supersede(&self.path);
        // It may have got as far as to leave no database where one is looked for. Either one will do.
        if superseded.is_err() && swap::is_interrupted(&self.path) {
            swap::finish(&self.path).map_err(sync_failed(&self.path))?;
        }
        *files = Some(self.open_again()?);
        drop(files);
        let pause = began.elapsed();
        if let Err(error) = swap::finish(&self.path) {
            let path = self.path.display();
            tracing::warn!(%path, %error, "what was beside the database while it was written anew stays there until the next start");
        }
        superseded.map_err(sync_failed(&self.path))?;
        Ok(Some(Rewritten { rows, bytes_before, bytes_after: file_bytes(&self.path), pause }))
    }

    /// What cannot become whole must not take the last of the disk meanwhile. A new database is three to four times its rows.
    fn require_room(&self, bytes_before: u64) -> Result<(), StoreError> {
        let hindered = |source| StoreError::Hindered { path: self.path.clone(), hindered: "written anew", source };
        let disk = statvfs(&self.path).map_err(|error| hindered(error.into()))?;
        let (free, needed) = (disk.blocks_available().saturating_mul(disk.fragment_size()), bytes_before / 2);
        if free < needed {
            let told = format!("it may take {needed} bytes, and the disk has {free} bytes left");
            return Err(hindered(std::io::Error::new(std::io::ErrorKind::StorageFull, told)));
        }
        Ok(())
    }

    /// Opens what has taken the place of what was open.
    fn open_again(&self) -> Result<Files, StoreError> {
        let (files, _) = Files::to_write(&self.path, open_sled(&self.path)?)?;
        files.settle(&self.path)?;
        let (commits, path) = (files.trees.commits()?, self.path.clone());
        match self.commits().saturating_sub(commits) {
            0 => Ok(files),
            lost => Err(StoreError::CommitsLost { path, commits, lost }),
        }
    }
}

/// Closes a database and waits until sled has let go of it: what one of its threads does after that would be done to another
/// database in the same place.
fn close(files: Files, path: &Path) -> Result<(), StoreError> {
    drop(files);
    let (file, deadline) = (open_database_file(path)?, Instant::now() + LOCK_TIMEOUT);
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if Instant::now() > deadline {
            return Err(sync_failed(path)(error.into()));
        }
        std::thread::sleep(LOCK_EVERY);
    }
    Ok(())
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
fn build(old: &sled::Db, building: &Path, until: Instant) -> Result<u64, StoreError> {
    copy(old, &open_sled(building)?, until)?;
    let new = Store::open_restored(building)?;
    let rows = compare(old, &new.files()?.db, building, until)?;
    new.make_durable(Durability::Power)?;
    if let Some(files) = new.files.into_inner() {
        close(files, building)?;
    }
    sync_all_below(building).map_err(sync_failed(building))?;
    Ok(rows)
}

fn copy(old: &sled::Db, new: &sled::Db, until: Instant) -> Result<(), StoreError> {
    let (mut rows, mut unflushed) = (0, 0);
    for name in old.tree_names() {
        let (from, to) = (old.open_tree(&name), new.open_tree(&name));
        let (from, to) = from.and_then(|from| Ok((from, to?))).map_err(StoreError::sled("open a tree"))?;
        for row in from.iter() {
            let (key, value) = row.map_err(StoreError::sled("read a row"))?;
            (rows, unflushed) = (rows + 1, unflushed + key.len() + value.len());
            to.insert(key, value).map_err(StoreError::sled("write a row anew"))?;
            if unflushed > UNFLUSHED_BYTES {
                new.flush().map_err(StoreError::sled("flush"))?;
                unflushed = 0;
            }
            require_time(until, rows)?;
        }
    }
    new.flush().map_err(StoreError::sled("flush"))?;
    Ok(())
}

fn require_time(until: Instant, rows: u64) -> Result<(), StoreError> {
    if Instant::now() > until { Err(StoreError::TooManyRows { rows }) } else { Ok(()) }
}

/// Counts the rows, which have to be the same in both.
fn compare(old: &sled::Db, new: &sled::Db, building: &Path, until: Instant) -> Result<u64, StoreError> {
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
            require_time(until, rows)?;
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::{Change, Client, ClientId, TaskId, TaskSpec};
    use crate::store::commit::tests::{everything, spec};
    use crate::store::mark::Mark;

    fn of_task(number: u32) -> TaskSpec {
        TaskSpec { id: TaskId::derive(&format!("http://h/{number}"), "", ""), ..spec(Vec::new()) }
    }

    /// A database that so many tasks were written to, and how large it is.
    fn database(path: &Path, tasks: u32) -> (Arc<Store>, u64) {
        let store = Store::open(path).expect("a new database");
        (0..tasks).for_each(|task| store.write(&everything(&of_task(task))).expect("written"));
        (Arc::new(store), file_bytes(path))
    }

    fn forget(store: &Store, tasks: std::ops::Range<u32>) {
        tasks.for_each(|task| store.write(&[Change::TaskForgotten { task: of_task(task).id }]).expect("written"));
    }

    fn committer(store: &Arc<Store>) -> Committer {
        Committer::start(store.clone(), Durability::Power).expect("a thread")
    }

    fn names_in(home: &Path) -> Vec<std::ffi::OsString> {
        std::fs::read_dir(home).expect("readable").flatten().map(|entry| entry.file_name()).collect()
    }

    #[tokio::test]
    async fn a_database_whose_rows_went_is_written_anew_with_all_that_is_left_and_goes_on() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("db");
        let (store, large) = database(&path, 150);
        assert!(large > 2 * FILE_BYTES_MIN, "{large} bytes are no burst");
        forget(&store, 3..150);
        let facts = |store: &Store| (store.node(), store.boot(), store.commits(), store.task_ids().expect("readable"));
        let before = facts(&store);
        let committer = committer(&store);
        let rewritten = store.give_room_back(&committer).expect("written anew").expect("sparse");
        // Not quite as large: sled cuts off what comes to be free at the end of its file.
        assert!(rewritten.bytes_before > large / 2 && rewritten.bytes_after < FILE_BYTES_MIN, "{rewritten:?}");
        assert_eq!(names_in(home.path()), ["db"], "leftovers");
        assert_eq!(facts(&store), before);
        let added = committer.room().await.expect("room").submit(everything(&of_task(200)), 0);
        added.durable().await.expect("it can be written");
        assert!(store.give_room_back(&committer).expect("looked at").is_none(), "it is small");
        let after = facts(&store);
        drop((committer, store));

        let store = Store::open_to_check(&path).expect("the new database");
        store.refuse_loss().expect("nothing was lost");
        assert_eq!(facts(&store), after);
        for task in [0, 1, 2, 200] {
            let rows = store.task(&of_task(task).id).expect("readable").expect("there");
            assert!(rows.spec == of_task(task) && rows.pieces.len() == 2 && rows.progress.len() == 1);
        }
        assert!(store.peer(&ClientId::parse("c-1").expect("a valid id")).expect("readable").is_some());
        // The mark is there, too: a commit that is lost from here on is missed.
        assert_eq!(Mark::open(&path).expect("readable").1, after.2);
    }

    #[test]
    fn a_database_that_is_as_large_as_its_rows_is_left_as_it_is() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("db");
        let (store, large) = database(&path, 100);
        assert!(large > FILE_BYTES_MIN, "{large} bytes are left alone in any case");
        assert!(store.give_room_back(&committer(&store)).expect("looked at").is_none());
        assert!(file_bytes(&path) >= large);
    }

    #[test]
    fn one_that_somebody_reads_is_left_until_another_time() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("db");
        let (store, large) = database(&path, 150);
        forget(&store, 0..150);
        let committer = committer(&store);
        let reading = store.peers().expect("open");
        // No row is copied: here nothing can be built.
        std::fs::write(swap::building(&path), "").expect("made");
        assert!(store.give_room_back(&committer).expect("looked at").is_none());
        std::fs::remove_file(swap::building(&path)).expect("still there");
        assert_eq!((reading.count(), names_in(home.path()), file_bytes(&path) > large / 2), (1, vec!["db".into()], true));
        store.give_room_back(&committer).expect("written anew").expect("sparse");
    }

    #[tokio::test]
    async fn one_that_cannot_be_moved_goes_on() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("db");
        let (store, _) = database(&path, 150);
        forget(&store, 0..150);
        let committer = committer(&store);
        // What stands in the way of the old one's removal from its place.
        std::fs::create_dir(swap::beside(&path, "superseded")).expect("made");
        std::fs::write(swap::beside(&path, "superseded").join("full"), "").expect("made");
        store.give_room_back(&committer).expect_err("it cannot be moved");
        let added = committer.room().await.expect("room").submit(everything(&of_task(200)), 0);
        added.durable().await.expect("the old one goes on");
        assert_eq!(names_in(home.path()), ["db"], "leftovers");
    }

    #[test]
    fn one_that_was_moved_away_and_not_replaced_can_be_written_once_it_is_in_its_place() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("db");
        let (store, _) = database(&path, 1);
        close(store.files.write().take().expect("open"), &path).expect("closed");
        // So it is where its place could not be taken, say because the disk could only be read then.
        std::fs::rename(&path, swap::beside(&path, "superseded")).expect("moved");
        std::fs::create_dir(swap::beside(&path, "restored")).expect("made");
        store.try_write().expect("it is put in its place, and there it can be written");
        assert_eq!(names_in(home.path()), ["db"], "leftovers");
    }

    #[test]
    fn one_that_would_hold_clients_up_is_left_and_not_tried_again() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("db");
        let (store, _) = database(&path, 150);
        forget(&store, 1..150);
        assert!(store.may_be_sparse(10));
        let building = swap::building(&path);
        let refused = build(&store.files().expect("open").db, &building, Instant::now());
        assert!(matches!(refused, Err(StoreError::TooManyRows { rows: 1 })), "{refused:?}");
        store.takes_too_long.store(true, Ordering::Relaxed);
        assert!(!store.may_be_sparse(10));
    }

    /// `cargo test --release --lib -- --ignored --nocapture rewrite` tells how long commits wait.
    #[test]
    #[ignore = "takes a minute"]
    fn many_rows_are_written_anew_within_the_time_for_it() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("db");
        let store = Arc::new(Store::open(&path).expect("a new database"));
        for task in 0..TASKS {
            let spec = TaskSpec { root_cas: Vec::new(), ..of_task(task) };
            let of_clients = (0..CLIENTS).flat_map(|number| {
                let id = ClientId::parse(&format!("10.0.{}.{}-1795423514.1-{number}", task % 250, number % 250)).expect("valid");
                everything(&spec).into_iter().filter_map(move |change| match change {
                    Change::ClientChanged(client) => Some(Change::ClientChanged(Client { id: id.clone(), ..client })),
                    Change::ClientProgressed { task, chunk, held, servable, .. } => {
                        Some(Change::ClientProgressed { task, client: id.clone(), chunk, held, servable })
                    }
                    _ => None,
                })
            });
            let changes: Vec<Change> = everything(&spec).into_iter().chain(of_clients).collect();
            changes.chunks(1_000).for_each(|some| store.write(some).expect("written"));
        }
        forget(&store, TASKS / 16..TASKS);
        let rewritten = store.give_room_back(&committer(&store)).expect("written anew").expect("sparse");
        println!("{rewritten:?}");
    }

    const TASKS: u32 = 320;
    const CLIENTS: u32 = 1_000;
}
