//! Snapshots: everything that is stored, in one file of a format of our own.
//!
//! Owns the format ([`format`]), writing one of a database that may be written meanwhile ([`write`]), and reading one:
//! verifying it, and building a database of it ([`read`]).
//! Must not: know where snapshots are kept, or when one is taken.
//!
//! Invariant: a snapshot of a running service is what was committed at the moment it ended, all of it, and nothing else.
//! Invariant: no header of a source is in it but `Range`: they may be credentials, which stay in the database.

pub mod format;
mod read;
mod write;

#[cfg(test)]
pub mod tests;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::records::RecordError;
use super::{SCHEMA_VERSION, StoreError};
pub use format::Header;
pub(super) use read::UNFLUSHED_BYTES;
pub use read::{Contents, build, read_header, verify};

/// Why a snapshot cannot be taken, or is none.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("cannot {operation} {path}", path = path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a snapshot of a supernode", path = path.display())]
    NotASnapshot { path: PathBuf },
    #[error("{path} has format {found}, this program reads format {known}: use the program that wrote it, or a newer one", path = path.display(), known = format::FORMAT_VERSION)]
    Format { path: PathBuf, found: u32 },
    #[error("{path} is of schema version {found}, this program knows {known} and older ones: use the newer program", path = path.display(), known = SCHEMA_VERSION)]
    NewerSchema { path: PathBuf, found: u32 },
    #[error("the snapshot {path} is damaged: {what}", path = path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("a row of the snapshot's table {table:?} cannot be read")]
    Row {
        table: &'static str,
        #[source]
        source: RecordError,
    },
    #[error("another snapshot is being taken; wait for it to end")]
    Underway,
    #[error("the snapshot fell behind what is written and was given up; try again when there is less to do")]
    FellBehind,
    #[error("there is a file {path} already", path = path.display())]
    Exists { path: PathBuf },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SnapshotError {
    /// What the machine said, where it is the machine that failed.
    pub const fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::File { source, .. } => Some(source),
            Self::Store(error) => error.io_error(),
            Self::NotASnapshot { .. }
            | Self::Format { .. }
            | Self::NewerSchema { .. }
            | Self::Damaged { .. }
            | Self::Row { .. }
            | Self::Underway
            | Self::FellBehind
            | Self::Exists { .. } => None,
        }
    }
}

/// What became of a snapshot.
#[derive(Clone, Debug)]
pub struct Taken {
    pub path: PathBuf,
    /// Rows read, including those that were read again because they were written meanwhile.
    pub rows: u64,
    pub bytes: u64,
    pub took: Duration,
    /// The longest time for which nothing could be committed because of it.
    pub longest_pause: Duration,
}
