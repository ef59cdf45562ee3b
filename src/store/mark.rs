//! How much was acknowledged, told apart from the database.
//!
//! sled takes a damaged stretch of its log for a torn end: it opens, and what came after is silently gone. So every window
//! also counts itself in the tree `meta`, and once it is durable the count is written into a file of its own. A database
//! that knows of fewer commits than its mark has lost some.
//!
//! The mark is not synced: after a power loss it may be older than the database, never newer.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// The count and its checksum. Bytes.
const MARK_BYTES: usize = 12;

#[derive(Debug)]
pub struct Mark(File);

impl Mark {
    /// The mark of the database in this directory, and what it says. One that is not there or is damaged says 0.
    pub fn open(database: &Path) -> io::Result<(Self, u64)> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(database.join("mark"))?;
        let mut bytes = [0; MARK_BYTES];
        let commits = file.read_exact_at(&mut bytes, 0).ok().and_then(|()| decode(&bytes)).unwrap_or(0);
        Ok((Self(file), commits))
    }

    pub fn set(&self, commits: u64) -> io::Result<()> {
        let mut bytes = [0; MARK_BYTES];
        bytes[..8].copy_from_slice(&commits.to_be_bytes());
        let checksum = crc32fast::hash(&bytes[..8]);
        bytes[8..].copy_from_slice(&checksum.to_be_bytes());
        self.0.write_all_at(&bytes, 0)
    }
}

fn decode(bytes: &[u8; MARK_BYTES]) -> Option<u64> {
    let (commits, checksum) = bytes.split_first_chunk::<8>()?;
    (checksum == crc32fast::hash(commits).to_be_bytes()).then(|| u64::from_be_bytes(*commits))
}
