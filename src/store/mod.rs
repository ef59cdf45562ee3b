//! The database: every durable fact, in typed sled trees.
//!
//! Owns the disk format: which trees there are, what their keys and records look like, which schema version they are of,
//! and when a write counts as durable. One committer thread owns every write ([`commit`]); reading is for recovery,
//! for `dump`, for lists of peers and for heartbeats, never for what clients call for every piece.
//! Must not: decide anything about swarms, or know the wire.
//!
//! ```text
//! meta      name                            schema version, boot count, node, commits so far
//! sources   task, chunk of the record       what the task fetches, with secrets (request headers)
//! tasks     task                            how far its source has got
//! pieces    task, piece number              digest, and whether the bytes are on disk
//! peers     client                          address, host, version
//! clients   task, client                    state, path, what it may still do
//! progress  task, client, chunk of 512      bits held, bits servable
//! preheats  preheat, number of child        what is fetched ahead (with secrets, as in sources); each child its task
//! ```
//! Keys sort as their meaning does: integers are big-endian. A record is one version byte and a bincode payload.
//!
//! Invariant: a database that knows of fewer commits than were acknowledged is not taken for sound ([`mark`]).

mod batches;
mod blobs;
mod check;
mod commit;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod load;
mod mark;
mod migrate;
mod recording;
mod records;
mod rewrite;
mod schema;
pub mod snapshot;
pub mod swap;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};

use crate::domain::Durability;
use batches::CHUNK_BYTES;
pub use commit::{CommitFailed, Committer, Room, Ticket};
pub use load::{StoredPieces, StoredProgress, TaskRows};
pub use migrate::migration_steps;
pub use records::RecordError;
pub use rewrite::Rewritten;
pub use schema::SCHEMA_VERSION;

/// Pages that sled keeps in memory. Bytes. The hot path never reads, so this need only hold what is being written.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// How long the lock of sled's file may be held by what this process had open before.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const LOCK_EVERY: Duration = Duration::from_millis(5);
/// What is written to see whether the database can be. Bytes. Two of sled's segments.
const PROBE_BYTES: usize = 1024 * 1024;

/// Why the database cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the database {path}", path = path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: sled::Error,
    },
    #[error("the database {path} is damaged: opening or reading it panicked", path = path.display())]
    Panicked { path: PathBuf },
    #[error("the database {path} has {commits} commits; {lost} more were acknowledged and are gone", path = path.display())]
    CommitsLost { path: PathBuf, commits: u64, lost: u64 },
    /// Sled may call it damage, or panic; it is not the database's fault, which is left as it is.
    #[error("the database {path} cannot be {hindered} on this machine", path = path.display())]
    Hindered {
        path: PathBuf,
        hindered: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("the database {path} is gone, though there are snapshots of it", path = path.display())]
    Gone { path: PathBuf },
    #[error("the database {path} has other rows than the one that it was written of", path = path.display())]
    Unlike { path: PathBuf },
    #[error(
        "it would hold clients up for too long ({rows} rows came within the time for it); to make it small, stop the service, take a snapshot and restore that with --force"
    )]
    TooManyRows { rows: u64 },
    #[error("the database {path} was closed to be written anew, and could not be opened again", path = path.display())]
    Closed { path: PathBuf },
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

    /// Whether the database itself is at fault, so that another has to take its place. Otherwise it is the machine (no
    /// room, no permission, a failing disk) or this program, and the database should be left as it is.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Open { source, .. } | Self::Sled { source, .. } | Self::Migration { source, .. } => match source {
                sled::Error::Io(error) => matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData),
                sled::Error::Corruption { .. }
                | sled::Error::Unsupported(_)
                | sled::Error::ReportableBug(_)
                | sled::Error::CollectionNotFound(_) => true,
            },
            Self::Panicked { .. } | Self::CommitsLost { .. } | Self::Gone { .. } | Self::Record { .. } => true,
            Self::Hindered { .. }
            | Self::Sync { .. }
            | Self::NewerSchema { .. }
            | Self::Unlike { .. }
            | Self::Closed { .. }
            | Self::TooManyRows { .. } => false,
        }
    }

    /// What the machine said, where it is the machine that failed.
    pub const fn io_error(&self) -> Option<&std::io::Error> {
        match self {
            Self::Hindered { source, .. }
            | Self::Sync { source, .. }
            | Self::Open { source: sled::Error::Io(source), .. }
            | Self::Sled { source: sled::Error::Io(source), .. }
            | Self::Migration { source: sled::Error::Io(source), .. } => Some(source),
            Self::Open { .. }
            | Self::Sled { .. }
            | Self::Migration { .. }
            | Self::Panicked { .. }
            | Self::CommitsLost { .. }
            | Self::Gone { .. }
            | Self::Record { .. }
            | Self::Unlike { .. }
            | Self::Closed { .. }
            | Self::TooManyRows { .. }
            | Self::NewerSchema { .. } => None,
        }
    }
}

/// An open database.
#[derive(Debug)]
pub struct Store {
    /// Another one with the same rows may take its place under way ([`rewrite`]); `None` if that failed half way.
    files: RwLock<Option<Files>>,
    path: PathBuf,
    boot: u64,
    node: u64,
    /// What its records are of.
    schema: u32,
    /// Windows committed so far.
    commits: AtomicU64,
    lost_commits: u64,
    /// It was to be written anew, and had too many rows.
    takes_too_long: AtomicBool,
}

/// What of a database is open.
#[derive(Debug)]
struct Files {
    db: sled::Db,
    trees: schema::Trees,
    /// Our own handle to sled's file: its flush does not sync, so we do.
    file: File,
    /// `None` where nothing may be written.
    mark: Option<mark::Mark>,
    blobs: blobs::Blobs,
}

impl Files {
    fn to_read(path: &Path, db: sled::Db) -> Result<Self, StoreError> {
        let (trees, file) = (schema::Trees::open(&db)?, open_database_file(path)?);
        Ok(Self { db, trees, file, mark: None, blobs: blobs::Blobs::of(path) })
    }

    /// Tells what its mark says, too.
    fn to_write(path: &Path, db: sled::Db) -> Result<(Self, u64), StoreError> {
        let (mark, marked) = mark::Mark::open(path).map_err(sync_failed(path))?;
        Ok((Self { mark: Some(mark), ..Self::to_read(path, db)? }, marked))
    }

    /// Makes what was just opened survive a loss of power: sled syncs neither what it is configured with nor the names of its
    /// files, and without them a synced log is lost.
    fn settle(&self, path: &Path) -> Result<(), StoreError> {
        self.db.flush().map_err(StoreError::sled("flush"))?;
        self.file
            .sync_data()
            .and_then(|()| sync_all_below(path))
            .and_then(|()| swap::sync_parent(path))
            .map_err(sync_failed(path))
    }
}

impl Store {
    /// Opens the database below `path`, creates or migrates its schema, and counts the boot.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, &|_| Ok(()))
    }

    /// The same; an older database that holds something is shown to `before_migration` before any step changes it.
    pub fn open_with<E: From<StoreError>>(path: &Path, before_migration: &dyn Fn(&Self) -> Result<(), E>) -> Result<Self, E> {
        let db = open_or_heal(path)?;
        let found = migrate::refuse_newer(&db)?;
        if found != 0 && found < SCHEMA_VERSION {
            before_migration(&Self::to_read(path, db.clone(), found)?.counting_loss()?)?;
        }
        Ok(Self::migrate(path, db)?)
    }

    fn migrate(path: &Path, db: sled::Db) -> Result<Self, StoreError> {
        migrate::bring_up_to_date(&db)?;
        let (files, marked) = Files::to_write(path, db)?;
        let (boot, node, commits) = (files.trees.count_boot()?, files.trees.node()?, files.trees.commits()?);
        files.settle(path)?;
        Ok(Self {
            files: RwLock::new(Some(files)),
            path: path.to_owned(),
            boot,
            node,
            schema: SCHEMA_VERSION,
            commits: AtomicU64::new(commits),
            lost_commits: marked.saturating_sub(commits),
            takes_too_long: AtomicBool::new(false),
        })
    }

    /// Opens the database for reading what is there; writes nothing.
    pub fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        let db = open_sled(path)?;
        let schema = migrate::refuse_newer(&db)?;
        Self::to_read(path, db, schema)
    }

    fn to_read(path: &Path, db: sled::Db, schema: u32) -> Result<Self, StoreError> {
        let files = Files::to_read(path, db)?;
        let trees = &files.trees;
        let (boot, node, commits) = (trees.boot()?, trees.known_node()?, AtomicU64::new(trees.commits()?));
        Ok(Self {
            files: RwLock::new(Some(files)),
            path: path.to_owned(),
            boot,
            node,
            schema,
            commits,
            lost_commits: 0,
            takes_too_long: AtomicBool::new(false),
        })
    }

    /// Opens the database for a check: for reading, but telling whether commits were lost.
    pub fn open_to_check(path: &Path) -> Result<Self, StoreError> {
        Self::open_to_read(path)?.counting_loss()
    }

    fn counting_loss(self) -> Result<Self, StoreError> {
        let (_, marked) = mark::Mark::open(&self.path).map_err(sync_failed(&self.path))?;
        Ok(Self { lost_commits: marked.saturating_sub(self.commits()), ..self })
    }

    /// Opens a database that was just built and that no service has had yet, for writing and without counting a boot.
    pub fn open_restored(path: &Path) -> Result<Self, StoreError> {
        let store = Self::open_to_read(path)?;
        let (mark, _) = mark::Mark::open(path).map_err(sync_failed(path))?;
        let files = store.files.into_inner().map(|files| Files { mark: Some(mark), ..files });
        Ok(Self { files: RwLock::new(files), ..store })
    }

    /// How often this database was opened by a service, this time included.
    pub const fn boot(&self) -> u64 {
        self.boot
    }

    /// Tells this database from any other; drawn when it was new.
    pub const fn node(&self) -> u64 {
        self.node
    }

    /// How many windows were committed so far.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }

    /// Whether everything that was acknowledged was there when the database was opened.
    pub fn refuse_loss(&self) -> Result<(), StoreError> {
        match self.lost_commits {
            0 => Ok(()),
            lost => Err(StoreError::CommitsLost { path: self.path.clone(), commits: self.commits(), lost }),
        }
    }

    /// The schema version of what is stored.
    pub const fn schema(&self) -> u32 {
        self.schema
    }

    /// What is open of it, for as long as this is held. Whoever has it already may ask again, even while another database is
    /// about to take its place.
    fn files(&self) -> Result<MappedRwLockReadGuard<'_, Files>, StoreError> {
        let files = RwLockReadGuard::try_map(self.files.read_recursive(), Option::as_ref);
        files.map_err(|_| StoreError::Closed { path: self.path.clone() })
    }

    fn trees(&self) -> Result<MappedRwLockReadGuard<'_, schema::Trees>, StoreError> {
        Ok(MappedRwLockReadGuard::map(self.files()?, |files| &files.trees))
    }

    /// Counts a window, after it was written: where the count is, the window is.
    fn count_commit(&self, trees: &schema::Trees) -> Result<(), StoreError> {
        trees.set_commits(self.commits.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Makes everything written so far survive what `durability` promises.
    fn make_durable(&self, durability: Durability) -> Result<(), StoreError> {
        let files = self.files()?;
        files.db.flush().map_err(StoreError::sled("flush"))?;
        if durability == Durability::Power {
            files.blobs.sync().map_err(sync_failed(&self.path))?;
            files.file.sync_data().map_err(sync_failed(&self.path))?;
        }
        match &files.mark {
            Some(mark) => mark.set(self.commits()).map_err(sync_failed(&self.path)),
            None => Ok(()),
        }
    }

    /// Whether the database could be written now, after a write has failed. This one cannot any more, only one that is
    /// opened anew.
    pub fn try_write(&self) -> Result<(), StoreError> {
        // What failed may have been its rewrite, between the old one's going and the new one's coming.
        if swap::is_interrupted(&self.path) {
            swap::finish(&self.path).map_err(sync_failed(&self.path))?;
        }
        try_write(&self.path)
    }

    /// Has the next process read what is on the disk. After a failed sync the kernel may have pages that never get there,
    /// and takes them for written.
    fn distrust_cache(&self) {
        // One that is closed has nothing there that was not synced.
        let Ok(files) = self.files() else { return };
        if let Err(error) = rustix::fs::fadvise(&files.file, 0, None, rustix::fs::Advice::DontNeed) {
            tracing::warn!(%error, "the kernel's copy of the database cannot be dropped");
        }
    }
}

/// Opens the database, and waits for its lock: sled lets go of it a moment after the last of its handles is dropped, and
/// a database is opened again when the one before was found damaged. Other processes are kept away by the home's lock.
fn open_sled(path: &Path) -> Result<sled::Db, StoreError> {
    // A kill leaves these torn, and sled takes them for whole.
    remove_files(path, |name| name.ends_with(".generating"))?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match try_open_sled(path) {
            Err(StoreError::Open { source: sled::Error::Io(error), .. })
                if error.to_string().contains("could not acquire lock") && Instant::now() < deadline =>
            {
                std::thread::sleep(LOCK_EVERY);
            }
            opened => return opened,
        }
    }
}

fn try_open_sled(path: &Path) -> Result<sled::Db, StoreError> {
    // The committer flushes when it has something to flush; sled's own thread would only add writes between.
    let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    // On some damage sled panics instead of telling.
    match std::panic::catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(opened) => opened.map_err(|source| StoreError::Open { path: path.to_owned(), source }),
        Err(_) => Err(StoreError::Panicked { path: path.to_owned() }),
    }
}

/// Opens the database; where that fails, without what sled can do without, and some kills tear: its own snapshots of its
/// log, of which it then reads the whole, and the parameters that it notes for itself, which are always the same.
fn open_or_heal(path: &Path) -> Result<sled::Db, StoreError> {
    let parameters = path.join("conf");
    // The parameters come before the log. Without a log, a kill may have torn them, and nobody needs them yet.
    if !path.join("db").exists() && parameters.exists() {
        std::fs::remove_file(&parameters).map_err(sync_failed(path))?;
    }
    let error = match open_sled(path) {
        Err(error) if error.is_damage() => error,
        opened => return opened,
    };
    look_for_hindrance(path)?;
    let removed = remove_files(path, |name| name.starts_with("snap.") || name == "conf")?;
    if removed == 0 {
        return Err(error);
    }
    tracing::warn!(removed, error = &error as &dyn std::error::Error, "database did not open; trying without snap.* and conf");
    open_sled(path)
}

/// Removes the files of a database that are named like this, and tells how many those were.
fn remove_files(database: &Path, is_named: impl Fn(&str) -> bool) -> Result<usize, StoreError> {
    let entries = match std::fs::read_dir(database) {
        // Of a new database there is nothing.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(sync_failed(database))?,
    };
    let named = entries.flatten().filter(|entry| is_named(&entry.file_name().to_string_lossy()));
    Ok(named.filter(|entry| std::fs::remove_file(entry.path()).is_ok()).count())
}

/// Whether this machine can read all of a database and write beside it. Where it cannot, what looks like damage may be none.
pub fn look_for_hindrance(path: &Path) -> Result<(), StoreError> {
    let hindered = |hindered| move |source| StoreError::Hindered { path: path.to_owned(), hindered, source };
    match File::open(path.join("db")).and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink())) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(hindered("read")(error)),
        _ => {}
    }
    try_write(path)
}

/// Writes a file beside a database, as large as what sled writes at once, syncs it and removes it.
pub fn try_write(path: &Path) -> Result<(), StoreError> {
    let probe = path.join("probe");
    let written = std::fs::write(&probe, vec![0; PROBE_BYTES]).and_then(|()| File::open(&probe)?.sync_all());
    let removed = std::fs::remove_file(&probe);
    let hindered = |source| StoreError::Hindered { path: path.to_owned(), hindered: "written", source };
    written.and(removed).map_err(hindered)
}

fn sync_failed(database: &Path) -> impl FnOnce(std::io::Error) -> StoreError + '_ {
    move |source| StoreError::Sync { path: database.to_owned(), source }
}

/// Syncs every file of a directory, and the directory.
fn sync_all_below(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_all_below(&path)?;
        } else {
            File::open(path)?.sync_all()?;
        }
    }
    File::open(directory)?.sync_all()
}

fn open_database_file(path: &Path) -> Result<File, StoreError> {
    let path = path.join("db");
    File::open(&path).map_err(|source| StoreError::Sync { path, source })
}
