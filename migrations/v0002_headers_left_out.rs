//! Schema 2: a source's record says whether headers of it were left out, as snapshots do with whatever may be a secret.
//!
//! Version 1 of the record becomes version 2 by one more field at its end: a byte that is 0.

use std::collections::BTreeSet;

const TASK_BYTES: usize = 32;
const CHUNK_BYTES: usize = 32 * 1024;

pub fn run(db: &sled::Db) -> Result<(), sled::Error> {
    let sources = db.open_tree("sources")?;
    let mut tasks = BTreeSet::new();
    for key in sources.iter().keys() {
        tasks.insert(key?.get(..TASK_BYTES).map(<[u8]>::to_vec).unwrap_or_default());
    }
    for task in tasks {
        let mut record = Vec::new();
        for chunk in sources.scan_prefix(&task).values() {
            record.extend_from_slice(&chunk?);
        }
        // Whatever is not of version 1 was migrated before a kill, or is damage, which is for others to find.
        if record.first() != Some(&1) {
            continue;
        }
        record[0] = 2;
        record.push(0);
        let mut batch = sled::Batch::default();
        for (chunk, number) in record.chunks(CHUNK_BYTES).zip(0_u16..) {
            batch.insert([task.as_slice(), &number.to_be_bytes()].concat(), chunk);
        }
        // One batch a task: after a kill its record is of one version or the other.
        sources.apply_batch(batch)?;
    }
    Ok(())
}
