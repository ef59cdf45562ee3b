//! Schema 4: a task's record says whom clients fetch from what no peer has: the supernode, or the source itself; small
//! sources lie in the database, and tasks can be pinned, each in a tree of its own.
//!
//! Version 1 of the record becomes version 2 by one more field at its end: four bytes that are 0, for the supernode.

/// Rows that are changed between two flushes: what waits for one gathers in memory.
const ROWS_AT_ONCE: usize = 10_000;

pub fn run(db: &sled::Db) -> Result<(), sled::Error> {
    db.open_tree("contents")?;
    db.open_tree("pins")?;
    let tasks = db.open_tree("tasks")?;
    let mut unflushed = 0;
    for row in tasks.iter() {
        let (key, value) = row?;
        // Whatever is not of version 1 was migrated before a kill, or is damage, which is for others to find.
        if value.first() != Some(&1) {
            continue;
        }
        let mut record = value.to_vec();
        record[0] = 2;
        record.extend([0; 4]);
        tasks.insert(key, record)?;
        unflushed += 1;
        if unflushed == ROWS_AT_ONCE {
            db.flush()?;
            unflushed = 0;
        }
    }
    Ok(())
}
