//! Damage: what the store heals, and what it must not take for sound.

use super::*;
use crate::domain::{Change, TaskId, TaskSpec};

#[test]
fn what_sled_can_do_without_is_healed_where_it_is_torn() {
    for (name, content) in [
        ("snap.0000000000000B26.generating", "torn"),
        ("snap.7000000000000B26", "torn, and long enough to be read"),
        ("conf", "segment_size: 524288\nuse_compression: fal"),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let node = Store::open(dir.path()).expect("a new database").node();
        std::fs::write(dir.path().join(name), content).expect("written");
        assert!(try_open_sled(dir.path()).is_err(), "{name}: sled stumbles over it, or this test shows nothing");
        assert_eq!(Store::open(dir.path()).expect("healed").node(), node, "{name}");
    }
}

#[test]
fn a_large_record_makes_no_file_of_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("a new database");
    for task in 0..10_u8 {
        // Written again and again, as by tasks that come and go.
        for length in [300_000, 5_000, 900_000] {
            let spec = TaskSpec {
                id: TaskId::derive(&format!("http://h/{}", task % 4), "", ""),
                identifier: Some("i".repeat(length)),
                ..commit::tests::spec(Vec::new())
            };
            store.write(&[Change::TaskDefined(spec.into())]).expect("written");
        }
    }
    let blobs = std::fs::read_dir(dir.path().join("blobs")).expect("readable").count();
    assert_eq!(blobs, 0, "files that are not in step with the log");
}

#[test]
fn commits_that_are_gone_are_missed() {
    let dir = tempfile::tempdir().expect("a directory");
    {
        let store = Store::open(dir.path()).expect("a new database");
        (0..3).for_each(|_| store.write(&[]).expect("written"));
        assert!(store.refuse_loss().is_ok());
    }
    std::fs::write(dir.path().join("db"), "").expect("emptied");
    let refused = Store::open(dir.path()).and_then(|store| store.refuse_loss());
    assert!(refused.as_ref().is_err_and(StoreError::is_damage), "{refused:?}");
}

/// Everything that can be read of a database, or why it is not taken for sound.
fn rows_of(directory: &Path) -> Result<Vec<(sled::IVec, sled::IVec)>, StoreError> {
    let read = || {
        let store = Store::open(directory)?;
        store.refuse_loss()?;
        let mut rows = Vec::new();
        for table in schema::Table::ALL {
            for row in table.tree(&*store.trees()?).iter() {
                rows.push(row.map_err(StoreError::sled("read"))?);
            }
        }
        Ok(rows)
    };
    let path = directory.to_owned();
    std::panic::catch_unwind(AssertUnwindSafe(read)).unwrap_or(Err(StoreError::Panicked { path }))
}

/// More of them with the environment variable `FLIPS`.
#[test]
fn a_flipped_bit_in_a_large_database_is_harmless_or_noticed() {
    let flips = std::env::var("FLIPS").ok().and_then(|flips| flips.parse().ok()).unwrap_or(20);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (sound, damaged) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    {
        let store = Store::open(sound.path()).expect("a new database");
        for window in 0..60_u32 {
            // Half of it new, half of it written before.
            let numbers = (0..500).map(|number| window * 250 + number);
            let changes: Vec<_> = numbers
                .flat_map(|number| snapshot::tests::pair(crate::domain::TaskId::from_bytes([7; 32]), number, window))
                .collect();
            store.write(&changes).expect("written");
        }
    }
    let before = rows_of(sound.path()).expect("sound");
    let log = std::fs::read(sound.path().join("db")).expect("readable");
    let used = log.iter().rposition(|byte| *byte != 0).expect("something");
    let (mut noticed, mut harmless, mut silent) = (0, 0, 0);
    for _ in 0..flips {
        for entry in std::fs::read_dir(sound.path()).expect("readable").flatten().filter(|entry| entry.path().is_file()) {
            std::fs::copy(entry.path(), damaged.path().join(entry.file_name())).expect("copied");
        }
        let at = random.usize(..used);
        let mut bytes = log.clone();
        bytes[at] ^= 1 << random.u8(..8);
        std::fs::write(damaged.path().join("db"), bytes).expect("written");
        match rows_of(damaged.path()) {
            Ok(rows) if rows == before => harmless += 1,
            Ok(rows) => {
                silent += 1;
                println!("silent: byte {at} of {used}: {} rows of {}", rows.len(), before.len());
            }
            Err(error) => {
                assert!(error.is_damage(), "a flipped bit in byte {at}: {error:?}");
                noticed += 1;
            }
        }
        for entry in std::fs::read_dir(damaged.path()).expect("readable").flatten().filter(|entry| entry.path().is_file()) {
            std::fs::remove_file(entry.path()).expect("removed");
        }
    }
    println!("{noticed} flipped bits noticed, {harmless} harmless, {silent} silent");
    assert_eq!(silent, 0);
}
