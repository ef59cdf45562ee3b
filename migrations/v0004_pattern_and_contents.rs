//! Schema 4: a task's record says whom clients fetch from what no peer has: the supernode, or the source itself; small
//! sources lie in the database, and tasks can be pinned, each in a tree of its own; a preheat's child says why it failed.
//!
//! Version 1 of a task's record becomes version 2 by one more field at its end: four bytes that are 0, for the supernode.
//! So does that of a preheat's child, by a byte that is 0: nobody knows why.

/// Rows that are changed between two flushes: what waits for one gathers in memory.
const ROWS_AT_ONCE: usize = 10_000;
/// Bytes of a preheat's id and the number of its child.
const PREHEAT_CHILD_KEY_BYTES: usize = 16 + 2;

pub fn run(db: &sled::Db) -> Result<(), sled::Error> {
    db.open_tree("contents")?;
    db.open_tree("pins")?;
    lengthen(db, "tasks", &|_| true, &[0; 4])?;
    lengthen(db, "preheats", &|key| key.len() == PREHEAT_CHILD_KEY_BYTES, &[0])
}

/// Makes version 2 of the records of version 1 by more bytes at their end.
fn lengthen(db: &sled::Db, tree: &str, is_meant: &dyn Fn(&[u8]) -> bool, more: &[u8]) -> Result<(), sled::Error> {
    let rows = db.open_tree(tree)?;
    let mut unflushed = 0;
    for row in rows.iter() {
        let (key, value) = row?;
        // Whatever is not of version 1 was migrated before a kill, or is damage, which is for others to find.
        if value.first() != Some(&1) || !is_meant(&key) {
            continue;
        }
        let mut record = value.to_vec();
        record[0] = 2;
        record.extend(more);
        rows.insert(key, record)?;
        unflushed += 1;
        if unflushed == ROWS_AT_ONCE {
            db.flush()?;
            unflushed = 0;
        }
    }
    Ok(())
}
