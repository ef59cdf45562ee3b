//! Taking a snapshot.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};
use sled::IVec;

use super::format::{End, FORMAT_VERSION, FRAME_BYTES, Frame, Header, Kind, MAGIC, push_row};
use super::{SnapshotError, Taken};
use crate::domain::Preheat;
use crate::store::recording::Keys;
use crate::store::records::{PreheatV1, Record, SourceV2};
use crate::store::schema::{Table, parse_preheat, split_task};
use crate::store::{Committer, Store, StoreError};

/// Rows that are read in one go. Short enough that what is noted meanwhile stays small.
const RUN_ROWS: usize = 2_000;
/// How often a source's record is read that a write cuts into pieces at the same moment.
const READS_MAX: u32 = 100;

/// What a file is called until it is whole.
pub const PARTIAL: &str = "partial";

impl Store {
    /// Writes everything that is stored to a new file: beside it first, then synced and renamed.
    ///
    /// With a committer, which may write all the while, it is what was committed at the moment of the end. `progress` is
    /// told how many rows were read, now and then.
    pub fn snapshot(
        &self,
        committer: Option<&Committer>,
        path: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Taken, SnapshotError> {
        if path.exists() {
            return Err(SnapshotError::Exists { path: path.to_owned() });
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".");
        name.push(PARTIAL);
        let partial = path.with_file_name(name);
        let taken = self.write_snapshot(committer, &partial, progress).and_then(|taken| {
            std::fs::rename(&partial, path).map_err(failed("rename", &partial))?;
            // Sync the directory too: a rename alone may not survive power loss.
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let synced = File::open(directory).and_then(|opened| opened.sync_all());
            synced.map_err(failed("sync the directory", directory)).inspect_err(|_| {
                // Nobody is told of it, so nobody should find it.
                let _ = std::fs::remove_file(path);
            })?;
            Ok(Taken { path: path.to_owned(), ..taken })
        });
        if taken.is_err() {
            // What is left of it is of no use to anybody.
            let _ = std::fs::remove_file(&partial);
        }
        taken
    }

    fn write_snapshot(
        &self,
        committer: Option<&Committer>,
        path: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Taken, SnapshotError> {
        let began = Instant::now();
        let mut output = Output::create(path)?;
        let recording = committer.map(Committer::record).transpose()?;
        output.frame(Kind::Header, 1, &encode(&self.header())?)?;
        for table in Table::ALL {
            let mut after = None;
            while let Some(last) = self.walk_run(table, after, &mut output)? {
                // Keys that were noted while these rows were read are read again only now, after all of them: sled hands
                // out a leaf as it was when the run came to it.
                if let Some(recording) = &recording {
                    self.read_again(recording.take()?, &mut output)?;
                }
                progress(output.rows);
                after = Some(last);
            }
        }
        let (mut longest_pause, mut commits) = (Duration::ZERO, self.commits());
        if let Some(recording) = recording {
            longest_pause = recording.finish(|keys| {
                commits = self.commits();
                self.read_again(keys, &mut output)
            })?;
        }
        let rows = output.rows;
        let bytes = output.finish(commits)?;
        Ok(Taken { path: path.to_owned(), rows, bytes, took: began.elapsed(), longest_pause })
    }

    fn header(&self) -> Header {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Header {
            schema: self.schema(),
            created_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            node: self.node(),
            boot: self.boot(),
            program: format!("supernode {}", env!("CARGO_PKG_VERSION")),
        }
    }

    /// Puts out a run of rows after the key, and tells the last of them; `None` at the end of the table.
    fn walk_run(&self, table: Table, after: Option<IVec>, output: &mut Output) -> Result<Option<IVec>, SnapshotError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut last, trees) = (None, self.trees()?);
        for row in table.tree(&trees).range::<IVec, _>((from, Bound::Unbounded)).take(RUN_ROWS) {
            let (key, value) = row.map_err(StoreError::sled("read for a snapshot"))?;
            match table {
                Table::Sources => self.put_source(&key, output)?,
                Table::Preheats => put_preheat(&key, Some(&value), output)?,
                Table::Tasks
                | Table::Pieces
                | Table::Peers
                | Table::Clients
                | Table::Progress
                | Table::Contents
                | Table::Pins => {
                    output.row(table, &key, Some(&value))?;
                }
            }
            last = Some(key);
        }
        Ok(last)
    }

    fn read_again(&self, keys: Keys, output: &mut Output) -> Result<(), SnapshotError> {
        let trees = self.trees()?;
        for (table, key) in keys {
            if table == Table::Sources {
                self.put_source(&key, output)?;
                continue;
            }
            let value = table.tree(&trees).get(&key).map_err(StoreError::sled("read for a snapshot"))?;
            match table {
                Table::Preheats => put_preheat(&key, value.as_deref(), output)?,
                _ => output.row(table, &key, value.as_deref())?,
            }
        }
        Ok(())
    }

    /// The record that a chunk belongs to, whole and without headers; once, for its first chunk.
    fn put_source(&self, chunk: &[u8], output: &mut Output) -> Result<(), SnapshotError> {
        let in_sources = |source| SnapshotError::Row { table: "sources", source };
        let Some((task, [0, 0])) = split_task(chunk) else { return Ok(()) };
        for read in 1.. {
            let bytes = self.source_record(&task)?;
            if bytes.is_empty() {
                return output.row(Table::Sources, task.as_bytes(), None);
            }
            match SourceV2::decode_any(&bytes) {
                Ok(record) => {
                    let spec = record.into_domain(task).without_headers();
                    let bytes = SourceV2::from(&spec).encode().map_err(in_sources)?;
                    return output.row(Table::Sources, task.as_bytes(), Some(&bytes));
                }
                // Chunks of two records, if it is being written just now.
                Err(_) if read < READS_MAX => std::thread::yield_now(),
                Err(error) => return Err(in_sources(error)),
            }
        }
        Ok(())
    }
}

/// A preheat's row, without headers.
fn put_preheat(key: &[u8], value: Option<&[u8]>, output: &mut Output) -> Result<(), SnapshotError> {
    let in_preheats = |source| SnapshotError::Row { table: "preheats", source };
    match (parse_preheat(key), value) {
        (Some((id, false)), Some(value)) => {
            let preheat = PreheatV1::decode(value).and_then(|record| record.into_domain(id)).map_err(in_preheats)?;
            let preheat = Preheat { source: preheat.source.without_headers(), ..preheat };
            let bytes = PreheatV1::from(&preheat).encode().map_err(in_preheats)?;
            output.row(Table::Preheats, key, Some(&bytes))
        }
        _ => output.row(Table::Preheats, key, value),
    }
}

fn encode(record: &impl Record) -> Result<Vec<u8>, SnapshotError> {
    record.encode().map_err(|source| SnapshotError::Row { table: "meta", source })
}

/// The file as it grows: rows gather by table until they are a frame.
struct Output {
    file: BufWriter<File>,
    path: PathBuf,
    hash: Sha256,
    gathered: BTreeMap<Table, (u32, Vec<u8>)>,
    rows: u64,
    bytes: u64,
}

impl Output {
    fn create(path: &Path) -> Result<Self, SnapshotError> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed("create", path))?;
        let (hash, gathered) = (Sha256::new(), BTreeMap::new());
        let mut output = Self { file: BufWriter::new(file), path: path.to_owned(), hash, gathered, rows: 0, bytes: 0 };
        output.put(MAGIC)?;
        output.put(&FORMAT_VERSION.to_be_bytes())?;
        Ok(output)
    }

    fn row(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<(), SnapshotError> {
        self.rows += 1;
        let (rows, plain) = self.gathered.entry(table).or_default();
        *rows += 1;
        push_row(plain, key, value).map_err(failed("write", &self.path))?;
        if plain.len() >= FRAME_BYTES {
            self.close_frame(table)?;
        }
        Ok(())
    }

    fn close_frame(&mut self, table: Table) -> Result<(), SnapshotError> {
        match self.gathered.remove(&table) {
            Some((rows, plain)) => self.frame(Kind::Rows(table), rows, &plain),
            None => Ok(()),
        }
    }

    fn frame(&mut self, kind: Kind, rows: u32, plain: &[u8]) -> Result<(), SnapshotError> {
        let bytes = Frame::encode(kind, rows, plain).map_err(failed("write", &self.path))?;
        self.put(&bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(failed("write", &self.path))
    }

    /// Puts out what is gathered and the end, and syncs. Tells how long the file is.
    fn finish(mut self, commits: u64) -> Result<u64, SnapshotError> {
        for table in Table::ALL {
            self.close_frame(table)?;
        }
        let end = End { rows: self.rows, commits, sha256: self.hash.clone().finalize().into() };
        self.frame(Kind::End, 1, &encode(&end)?)?;
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error);
        file.and_then(|file| file.sync_all()).map_err(failed("sync", &self.path))?;
        Ok(self.bytes)
    }
}

pub(super) fn failed<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SnapshotError + 'a {
    move |source| SnapshotError::File { operation, path: path.to_owned(), source }
}
