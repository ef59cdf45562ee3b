//! The database: every durable fact, in typed sled trees.
//!
//! Owns the disk format: which trees there are, what their keys and records look like, which schema version they are of,
//! and when a write counts as durable. One committer thread owns every write ([`commit`]); reading is for recovery and
//! for `dump`, never for the hot path.
//! Must not: decide anything about swarms, or know the wire.
//!
//! ```text
//! meta      name                            schema version, boot count
//! sources   task, chunk of the record       what the task fetches; the only tree with secrets (request headers)
//! tasks     task                            how far its source has got
//! pieces    task, piece number              digest, and whether the bytes are on disk
//! peers     client                          address, host, version
//! clients   task, client                    state, path, what it may still do
//! progress  task, client, chunk of 512      bits held, bits servable
//! ```
//! Keys sort as their meaning does: integers are big-endian. A record is one version byte and a bincode payload.

mod commit;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod load;
mod migrate;
mod records;
mod schema;

use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

pub use commit::{CommitFailed, Committer, Durability, Room, Ticket};
pub use load::{StoredProgress, TaskRows};
pub use records::RecordError;
pub use schema::SCHEMA_VERSION;

/// Pages that sled keeps in memory. Bytes. The hot path never reads, so this need only hold what is being written.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// Why the database cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the database {path}", path = path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: sled::Error,
    },
    #[error("the database {path} is damaged: opening it panicked", path = path.display())]
    OpenPanicked { path: PathBuf },
    #[error("cannot {operation} in the database")]
    Sled {
        operation: &'static str,
        #[source]
        source: sled::Error,
    },
    #[error("cannot sync the database file {path}", path = path.display())]
    Sync {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("a record of the tree {tree:?} cannot be read")]
    Record {
        tree: &'static str,
        #[source]
        source: RecordError,
    },
    #[error(
        "the database has schema version {found}, this program knows {known} and older ones: start the newer program, or restore a snapshot of the older one"
    )]
    NewerSchema { found: u32, known: u32 },
    #[error("migrating the database to schema version {to} failed")]
    Migration {
        to: u32,
        #[source]
        source: sled::Error,
    },
}

impl StoreError {
    fn sled(operation: &'static str) -> impl FnOnce(sled::Error) -> Self {
        move |source| Self::Sled { operation, source }
    }
}

/// An open database.
#[derive(Debug)]
pub struct Store {
    db: sled::Db,
    trees: schema::Trees,
    /// Our own handle to sled's file: its flush does not sync, so we do.
    file: File,
    path: PathBuf,
    boot: u64,
    node: u64,
}

impl Store {
    /// Opens the database below `path`, creates or migrates its schema, and counts the boot.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let db = open_sled(path)?;
        migrate::bring_up_to_date(&db)?;
        let trees = schema::Trees::open(&db)?;
        let (boot, node) = (trees.count_boot()?, trees.node()?);
        let store = Self { file: open_database_file(path)?, db, trees, path: path.to_owned(), boot, node };
        store.make_durable(Durability::Power)?;
        Ok(store)
    }

    /// Opens the database for reading what is there; writes nothing.
    pub fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        let db = open_sled(path)?;
        migrate::refuse_newer(&db)?;
        let trees = schema::Trees::open(&db)?;
        Ok(Self { file: open_database_file(path)?, db, trees, path: path.to_owned(), boot: 0, node: 0 })
    }

    /// How often this database was opened by a service, this time included.
    pub const fn boot(&self) -> u64 {
        self.boot
    }

    /// Tells this database from any other; drawn when it was new.
    pub const fn node(&self) -> u64 {
        self.node
    }

    /// Makes everything written so far survive what `durability` promises.
    fn make_durable(&self, durability: Durability) -> Result<(), StoreError> {
        self.db.flush().map_err(StoreError::sled("flush"))?;
        match durability {
            Durability::Process => Ok(()),
            Durability::Power => self.file.sync_data().map_err(|source| StoreError::Sync { path: self.path.join("db"), source }),
        }
    }
}

fn open_sled(path: &Path) -> Result<sled::Db, StoreError> {
    // The committer flushes when it has something to flush; sled's own thread would only add writes between.
    let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    // On some damage sled panics instead of telling.
    match std::panic::catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(opened) => opened.map_err(|source| StoreError::Open { path: path.to_owned(), source }),
        Err(_) => Err(StoreError::OpenPanicked { path: path.to_owned() }),
    }
}

fn open_database_file(path: &Path) -> Result<File, StoreError> {
    let path = path.join("db");
    File::open(&path).map_err(|source| StoreError::Sync { path, source })
}
