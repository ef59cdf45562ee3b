//! Changes as writes: which rows of which trees each becomes, or takes.

use std::collections::BTreeMap;

use sled::transaction::{TransactionError, Transactional};
use sled::{Batch, IVec, Tree};

use super::records::{ClientV1, PeerV1, PieceV1, ProgressV1, Record, RecordError, SourceV1, TaskV1};
use super::schema::{client_key, piece_key, progress_key, progress_prefix, source_key};
use super::{Store, StoreError};
use crate::domain::Change;

/// sled turns large values into files that it never syncs; larger records are cut into chunks of this many bytes.
const CHUNK_BYTES: usize = 32 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Table {
    Sources,
    Tasks,
    Pieces,
    Peers,
    Clients,
    Progress,
}

impl Table {
    const fn tree(self, store: &Store) -> &Tree {
        match self {
            Self::Sources => &store.trees.sources,
            Self::Tasks => &store.trees.tasks,
            Self::Pieces => &store.trees.pieces,
            Self::Peers => &store.trees.peers,
            Self::Clients => &store.trees.clients,
            Self::Progress => &store.trees.progress,
        }
    }
}

/// What a change ends: rows that only the database can name.
pub(super) struct Ended {
    tables: &'static [Table],
    prefix: Vec<u8>,
    /// The row of a client: its key has no end by which its prefix could be told from another client's.
    client: Option<Vec<u8>>,
}

impl Ended {
    pub fn by(change: &Change) -> Option<Self> {
        match change {
            Change::GenerationEnded { task } => {
                Some(Self { tables: &[Table::Pieces, Table::Progress], prefix: task.as_bytes().to_vec(), client: None })
            }
            Change::TaskForgotten { task } => Some(Self {
                tables: &[Table::Sources, Table::Tasks, Table::Pieces, Table::Clients, Table::Progress],
                prefix: task.as_bytes().to_vec(),
                client: None,
            }),
            Change::ClientForgotten { task, client } => Some(Self {
                tables: &[Table::Progress],
                prefix: progress_prefix(task, client),
                client: Some(client_key(task, client)),
            }),
            Change::TaskDefined(_)
            | Change::TaskProgressed { .. }
            | Change::PieceStored { .. }
            | Change::PieceLost { .. }
            | Change::PeerSeen(_)
            | Change::ClientChanged(_)
            | Change::ClientProgressed { .. }
            | Change::PeerForgotten(_) => None,
        }
    }
}

/// The writes of one window, by tree; of several to one key only the last is left.
#[derive(Default)]
pub(super) struct Batches(BTreeMap<Table, Batch>);

impl Batches {
    pub fn add(&mut self, change: &Change) -> Result<(), StoreError> {
        match change {
            Change::TaskDefined(spec) => {
                let bytes = encode("sources", &SourceV1::from(spec.as_ref()))?;
                let mut chunks = 0;
                for chunk in bytes.chunks(CHUNK_BYTES) {
                    self.put(Table::Sources, source_key(&spec.id, chunks).as_slice(), chunk);
                    chunks += 1;
                }
                // A shorter record than before ends where its own chunks end.
                self.0.entry(Table::Sources).or_default().remove(source_key(&spec.id, chunks).as_slice());
            }
            Change::TaskProgressed { task, status } => {
                self.put(Table::Tasks, task.as_bytes().as_slice(), encode("tasks", &TaskV1::from(status))?);
            }
            Change::PieceStored { task, piece, digest } => {
                self.put(Table::Pieces, piece_key(task, *piece).as_slice(), encode("pieces", &PieceV1::new(digest, true))?);
            }
            Change::PieceLost { task, piece, digest } => {
                self.put(Table::Pieces, piece_key(task, *piece).as_slice(), encode("pieces", &PieceV1::new(digest, false))?);
            }
            Change::PeerSeen(peer) => {
                self.put(Table::Peers, peer.id.as_str().as_bytes(), encode("peers", &PeerV1::from(peer.as_ref()))?);
            }
            Change::ClientChanged(client) => {
                self.put(Table::Clients, client_key(&client.task, &client.id), encode("clients", &ClientV1::from(client))?);
            }
            Change::ClientProgressed { task, client, chunk, held, servable } => {
                let record = ProgressV1 { held: held.clone(), servable: servable.clone() };
                self.put(Table::Progress, progress_key(task, client, *chunk), encode("progress", &record)?);
            }
            Change::PeerForgotten(client) => {
                self.0.entry(Table::Peers).or_default().remove(client.as_str().as_bytes());
            }
            Change::GenerationEnded { .. } | Change::ClientForgotten { .. } | Change::TaskForgotten { .. } => {
                unreachable!("removed by `remove`, which must look into the database")
            }
        }
        Ok(())
    }

    fn put(&mut self, table: Table, key: impl Into<IVec>, value: impl Into<IVec>) {
        self.0.entry(table).or_default().insert(key, value);
    }

    /// Removes every row that begins with what has ended.
    pub fn remove(&mut self, store: &Store, ended: &Ended) -> Result<(), StoreError> {
        for table in ended.tables {
            for key in table.tree(store).scan_prefix(&ended.prefix).keys() {
                let key = key.map_err(StoreError::sled("read what is removed"))?;
                self.0.entry(*table).or_default().remove(key);
            }
        }
        if let Some(key) = &ended.client {
            self.0.entry(Table::Clients).or_default().remove(key.as_slice());
        }
        Ok(())
    }

    /// Writes everything as one: after a crash all of it is there, or nothing.
    pub fn apply(self, store: &Store) -> Result<(), StoreError> {
        let mut batches: Vec<(&Tree, Batch)> = self.0.into_iter().map(|(table, batch)| (table.tree(store), batch)).collect();
        if batches.len() <= 1 {
            // The usual window is progress alone, and a plain batch costs half of a transaction, which reads what it writes.
            return match batches.pop() {
                Some((tree, batch)) => tree.apply_batch(batch).map_err(StoreError::sled("write a batch")),
                None => Ok(()),
            };
        }
        let (trees, batches): (Vec<&Tree>, Vec<Batch>) = batches.into_iter().unzip();
        let written = trees.as_slice().transaction(|views| {
            for (view, batch) in views.iter().zip(&batches) {
                view.apply_batch(batch)?;
            }
            Ok(())
        });
        written.map_err(|error: TransactionError<()>| match error {
            TransactionError::Storage(source) => StoreError::Sled { operation: "write a batch", source },
            TransactionError::Abort(()) => unreachable!("no transaction here aborts"),
        })
    }
}

fn encode(tree: &'static str, record: &impl Record) -> Result<Vec<u8>, StoreError> {
    record.encode().map_err(|source: RecordError| StoreError::Record { tree, source })
}
