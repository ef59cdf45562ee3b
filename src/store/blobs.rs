//! The files that sled makes of large values, which it never syncs.
//!
//! A leaf of a tree that is larger than a quarter of a segment (128 KiB) is not in the log but in a file of its own, below
//! `blobs/`. The log refers to it. One that is torn ends the log for sled when it is opened again, and all that came after
//! is lost; one that is missing is passed over. So new ones are synced, by their names too, before the log is.
//!
//! Our records are small enough, or cut into pieces that are, so that there is hardly ever any; see `CHUNK_BYTES`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

#[derive(Debug)]
pub struct Blobs {
    directory: PathBuf,
    synced: Mutex<HashSet<OsString>>,
}

impl Blobs {
    /// Those of the database in this directory.
    pub fn of(database: &Path) -> Self {
        Self { directory: database.join("blobs"), synced: Mutex::default() }
    }

    /// Syncs those that are new.
    pub fn sync(&self) -> io::Result<()> {
        let mut synced = self.synced.lock();
        let mut there = HashSet::new();
        let mut is_new = false;
        for entry in std::fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            if !synced.contains(&name) {
                match File::open(self.directory.join(&name)) {
                    // sled removes those of replaced values when it likes.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    opened => opened?.sync_all()?,
                }
                is_new = true;
            }
            there.insert(name);
        }
        if is_new {
            File::open(&self.directory)?.sync_all()?;
        }
        *synced = there;
        Ok(())
    }
}
