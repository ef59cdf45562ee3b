//! Reading a snapshot: verifying it, and building a database of it.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::SnapshotError;
use super::format::{End, FORMAT_VERSION, Frame, HEAD_BYTES, Header, Kind, MAGIC, Row, take_row};
use super::write::failed;
use crate::domain::Durability;
use crate::store::records::{Record, RecordError};
use crate::store::schema::{Table, Trees, source_key, split_task};
use crate::store::{CHUNK_BYTES, SCHEMA_VERSION, Store, StoreError, migrate, open_sled};

/// What a whole snapshot has.
#[derive(Clone, Debug)]
pub struct Contents {
    pub header: Header,
    /// Rows, including those that later ones replace.
    pub rows: u64,
    /// How many windows had been committed to its database.
    pub commits: u64,
}

/// Reads what a snapshot says of itself, and nothing more of it.
pub fn read_header(path: &Path) -> Result<Header, SnapshotError> {
    Ok(Reader::open(path)?.1)
}

/// Reads all of a snapshot, checks every checksum and every row of a schema that this program writes.
pub fn verify(path: &Path) -> Result<Contents, SnapshotError> {
    let (mut reader, header) = Reader::open(path)?;
    let current = header.schema == SCHEMA_VERSION;
    let end = reader.rows(&mut |table, (key, value)| match value {
        Some(value) if current => table.check(key, value).map_err(|source| SnapshotError::Row { table: table.name(), source }),
        _ => Ok(()),
    })?;
    Ok(Contents { header, rows: end.rows, commits: end.commits })
}

/// Makes a database of a snapshot in a directory that is not there yet, of this program's schema and synced.
pub fn build(path: &Path, database: &Path) -> Result<Contents, SnapshotError> {
    let (mut reader, header) = Reader::open(path)?;
    let db = open_sled(database)?;
    let trees = Trees::open(&db)?;
    let mut unflushed = 0;
    let end = reader.rows(&mut |table, (key, value)| {
        put(&trees, table, (key, value)).map_err(StoreError::sled("write a restored row"))?;
        unflushed += key.len() + value.map_or(0, <[u8]>::len);
        if unflushed > UNFLUSHED_BYTES {
            db.flush().map_err(StoreError::sled("flush"))?;
            unflushed = 0;
        }
        Ok(())
    })?;
    // The node is drawn anew: what happened after the snapshot is lost, and clients should notice.
    trees.set_commits(end.commits)?;
    migrate::set_version(&db, header.schema)?;
    migrate::bring_up_to_date(&db)?;
    drop((trees, db));
    Store::open_to_read(database)?.make_durable(Durability::Power)?;
    crate::store::sync_all_below(database).map_err(failed("sync", database))?;
    Ok(Contents { header, rows: end.rows, commits: end.commits })
}

/// Bytes that are written before they are flushed: what waits gathers in sled's memory.
pub const UNFLUSHED_BYTES: usize = 4 * 1024 * 1024;

/// Writes one row. Not as part of a batch: nobody uses the database before it is whole, and sled's batches cost it more
/// memory than they have bytes.
fn put(trees: &Trees, table: Table, (key, value): Row<'_>) -> Result<(), sled::Error> {
    let tree = table.tree(trees);
    match (table, split_task(key), value) {
        // Cut into the chunks that the database has.
        (Table::Sources, Some((task, _)), value) => {
            let mut next = 0;
            for chunk in value.unwrap_or_default().chunks(CHUNK_BYTES) {
                tree.insert(source_key(&task, next), chunk)?;
                next += 1;
            }
            // An earlier row of the same task may have been longer.
            while tree.remove(source_key(&task, next))?.is_some() {
                next += 1;
            }
            Ok(())
        }
        (_, _, Some(value)) => tree.insert(key, value).map(drop),
        (_, _, None) => tree.remove(key).map(drop),
    }
}

struct Reader {
    file: BufReader<File>,
    path: PathBuf,
    hash: Sha256,
}

impl Reader {
    fn open(path: &Path) -> Result<(Self, Header), SnapshotError> {
        let file = File::open(path).map_err(failed("open", path))?;
        let mut reader = Self { file: BufReader::with_capacity(256 * 1024, file), path: path.to_owned(), hash: Sha256::new() };
        let mut start = [0; MAGIC.len() + 4];
        let read = reader.file.read_exact(&mut start);
        if read.is_err() || !start.starts_with(MAGIC) {
            return Err(SnapshotError::NotASnapshot { path: path.to_owned() });
        }
        let found = start[MAGIC.len()..].iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        if found != FORMAT_VERSION {
            return Err(SnapshotError::Format { path: path.to_owned(), found });
        }
        reader.hash.update(start);
        let frame = reader.frame()?;
        if frame.kind != Kind::Header {
            return Err(reader.damaged("it has no header"));
        }
        let header = Header::decode(&frame.plain).map_err(|error| reader.damaged(error))?;
        if header.schema > SCHEMA_VERSION {
            return Err(SnapshotError::NewerSchema { path: path.to_owned(), found: header.schema });
        }
        Ok((reader, header))
    }

    /// Hands out every row, in order, and checks what the end says.
    fn rows(&mut self, each: &mut dyn FnMut(Table, Row<'_>) -> Result<(), SnapshotError>) -> Result<End, SnapshotError> {
        let mut rows = 0;
        loop {
            let before: [u8; 32] = self.hash.clone().finalize().into();
            let frame = self.frame()?;
            let table = match frame.kind {
                Kind::Rows(table) => table,
                Kind::Header => return Err(self.damaged("it has two headers")),
                Kind::End => {
                    let end = End::decode(&frame.plain).map_err(|error| self.damaged(error))?;
                    let over = self.file.read(&mut [0]).map_err(failed("read", &self.path))? == 0;
                    return match (end.sha256 == before, end.rows == rows, over) {
                        (true, true, true) => Ok(end),
                        (false, _, _) => Err(self.damaged("its checksum does not match")),
                        (_, false, _) => Err(self.damaged(format!("it has {rows} rows and says {}", end.rows))),
                        (_, _, false) => Err(self.damaged("something follows its end")),
                    };
                }
            };
            let mut plain = frame.plain.as_slice();
            for _ in 0..frame.rows {
                let row = take_row(&mut plain).ok_or_else(|| self.damaged("a row is cut short"))?;
                each(table, row)?;
                rows += 1;
            }
            if !plain.is_empty() {
                return Err(self.damaged("a section is longer than its rows"));
            }
        }
    }

    fn frame(&mut self) -> Result<Frame, SnapshotError> {
        let (frame, bytes) = Frame::read(&mut self.file).map_err(|what| self.damaged(what))?;
        debug_assert!(bytes.len() >= HEAD_BYTES);
        self.hash.update(&bytes);
        Ok(frame)
    }

    fn damaged(&self, what: impl ToString) -> SnapshotError {
        SnapshotError::Damaged { path: self.path.clone(), what: what.to_string() }
    }
}

impl Table {
    /// Whether a row of a snapshot is one: its key, and its record as this program writes it.
    pub fn check(self, key: &[u8], value: &[u8]) -> Result<(), RecordError> {
        match self {
            Self::Sources => crate::store::check::source(key, value),
            Self::Tasks
            | Self::Pieces
            | Self::Peers
            | Self::Clients
            | Self::Progress
            | Self::Preheats
            | Self::Contents
            | Self::Pins => crate::store::check::row(self, key, value),
        }
    }
}
