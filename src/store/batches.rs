//! Changes as writes: which rows of which trees each becomes, or takes.

use std::collections::{BTreeMap, HashMap};

use sled::transaction::{TransactionError, Transactional};
use sled::{Batch, IVec, Tree};

use super::records::{
    ClientV1, ContentV1, PeerV1, PieceV1, PinV1, PreheatChildV2, PreheatV1, ProgressV1, Record, RecordError, SourceV2, TaskV2,
};
use super::schema::{Table, Trees, client_key, piece_key, preheat_child_key, progress_key, progress_prefix, source_key};
use super::{Store, StoreError};
use crate::domain::{Change, Durability, TaskId, TaskSpec};

/// Larger records are cut into chunks of this many bytes. sled makes a file of its own of a leaf with more than 128 KiB,
/// and neither writes nor removes that in step with its log ([`super::blobs`]). A leaf has some 20 values at most.
pub(super) const CHUNK_BYTES: usize = 4 * 1024;

impl Store {
    /// Makes changes durable in a database that has no committer: nobody else writes it.
    pub fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        write(self, changes, false)?;
        self.make_durable(Durability::Power)
    }
}

/// Writes changes in their order, and tells which keys that touched if that is wanted.
pub(super) fn write<'a>(
    store: &Store,
    changes: impl IntoIterator<Item = &'a Change>,
    wants_keys: bool,
) -> Result<Vec<(Table, IVec)>, StoreError> {
    let trees = store.trees()?;
    let mut batches = Batches::new(wants_keys);
    for change in changes {
        if let Some(ended) = Ended::by(change) {
            batches.remove_ended(&trees, &ended)?;
        }
        batches.add(&trees, change)?;
    }
    let written = batches.apply(&trees)?;
    store.count_commit(&trees)?;
    Ok(written)
}

/// What a change ends: rows that only the database can name.
struct Ended {
    tables: &'static [Table],
    prefix: Vec<u8>,
    /// The row of a client: its key has no end by which its prefix could be told from another client's.
    client: Option<Vec<u8>>,
}

impl Ended {
    fn by(change: &Change) -> Option<Self> {
        match change {
            Change::GenerationEnded { task } => Some(Self {
                tables: &[Table::Pieces, Table::Progress, Table::Contents],
                prefix: task.as_bytes().to_vec(),
                client: None,
            }),
            Change::TaskForgotten { task } => Some(Self {
                tables: &[
                    Table::Sources,
                    Table::Tasks,
                    Table::Pieces,
                    Table::Clients,
                    Table::Progress,
                    Table::Contents,
                    Table::Pins,
                ],
                prefix: task.as_bytes().to_vec(),
                client: None,
            }),
            Change::ClientForgotten { task, client } => Some(Self {
                tables: &[Table::Progress],
                prefix: progress_prefix(task, client),
                client: Some(client_key(task, client)),
            }),
            Change::PreheatForgotten(id) => {
                Some(Self { tables: &[Table::Preheats], prefix: id.as_bytes().to_vec(), client: None })
            }
            Change::TaskDefined(_)
            | Change::TaskRedefined(_)
            | Change::TaskProgressed { .. }
            | Change::PieceStored { .. }
            | Change::ContentKept { .. }
            | Change::TaskPinned { .. }
            | Change::PieceLost { .. }
            | Change::PeerSeen(_)
            | Change::ClientChanged(_)
            | Change::ClientProgressed { .. }
            | Change::PeerForgotten(_)
            | Change::PreheatChanged(_)
            | Change::PreheatResolved { .. } => None,
        }
    }
}

/// The writes of one window, by tree; of several to one key only the last is left.
#[derive(Default)]
struct Batches {
    by_tree: BTreeMap<Table, Batch>,
    /// What is written here and not yet in the database, where what ends must find it, too.
    put: Vec<(Table, IVec)>,
    /// In how many chunks what a task fetches is written here, where those are several.
    chunks: HashMap<TaskId, u16>,
    /// The keys, if somebody wants to know them.
    keys: Option<Vec<(Table, IVec)>>,
}

impl Batches {
    fn new(wants_keys: bool) -> Self {
        Self { keys: wants_keys.then(Vec::new), ..Self::default() }
    }

    /// Adds what is there after a change; what is not is removed by [`Self::remove_ended`].
    fn add(&mut self, trees: &Trees, change: &Change) -> Result<(), StoreError> {
        match change {
            Change::TaskDefined(spec) => {
                self.put_source(spec)?;
            }
            Change::TaskRedefined(spec) => {
                let chunks = self.put_source(spec)?;
                self.remove_rest_of_source(trees, &spec.id, chunks)?;
            }
            Change::TaskProgressed { task, status } => {
                self.put(Table::Tasks, task.as_bytes().as_slice(), encode("tasks", &TaskV2::from(status))?);
            }
            Change::PieceStored { task, piece, digest } => {
                self.put(Table::Pieces, piece_key(task, *piece).as_slice(), encode("pieces", &PieceV1::new(digest, true))?);
            }
            Change::TaskPinned { task, pinned: true } => {
                self.put(Table::Pins, task.as_bytes().as_slice(), encode("pins", &PinV1 {})?);
            }
            Change::TaskPinned { task, pinned: false } => self.remove(Table::Pins, task.as_bytes().as_slice()),
            Change::ContentKept { task, generation, slot } => {
                let record = ContentV1 { generation: generation.0, slot: slot.to_vec() };
                self.put(Table::Contents, task.as_bytes().as_slice(), encode("contents", &record)?);
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
                self.remove(Table::Peers, client.as_str().as_bytes());
            }
            Change::PreheatChanged(preheat) => {
                let record = encode("preheats", &PreheatV1::from(preheat.as_ref()))?;
                self.put(Table::Preheats, preheat.id.as_bytes().as_slice(), record);
            }
            Change::PreheatResolved { preheat, children, former } => {
                for (number, _) in (0..).zip(0..*former).skip(children.len()) {
                    self.remove(Table::Preheats, preheat_child_key(preheat, number).as_slice());
                }
                for (number, child) in (0..).zip(children.iter()) {
                    let record = encode("preheats", &PreheatChildV2::from(child))?;
                    self.put(Table::Preheats, preheat_child_key(preheat, number).as_slice(), record);
                }
            }
            Change::GenerationEnded { .. }
            | Change::ClientForgotten { .. }
            | Change::TaskForgotten { .. }
            | Change::PreheatForgotten(_) => {}
        }
        Ok(())
    }

    /// Writes what a task fetches; tells in how many chunks.
    fn put_source(&mut self, spec: &TaskSpec) -> Result<u16, StoreError> {
        let bytes = encode("sources", &SourceV2::from(spec))?;
        let mut chunks = 0;
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.put(Table::Sources, source_key(&spec.id, chunks).as_slice(), chunk);
            chunks += 1;
        }
        if chunks > 1 {
            self.chunks.entry(spec.id).and_modify(|most| *most = chunks.max(*most)).or_insert(chunks);
        }
        Ok(chunks)
    }

    /// Removes the chunks that a longer record had, in the database or in this window: they may have secrets.
    fn remove_rest_of_source(&mut self, trees: &Trees, task: &TaskId, chunks: u16) -> Result<(), StoreError> {
        let here = self.chunks.get(task).copied().unwrap_or(0);
        for number in chunks.. {
            let key = source_key(task, number);
            if number >= here && !trees.sources.contains_key(key).map_err(StoreError::sled("look for a source"))? {
                break;
            }
            self.remove(Table::Sources, key.as_slice());
        }
        Ok(())
    }

    fn put(&mut self, table: Table, key: impl Into<IVec>, value: impl Into<IVec>) {
        let key = key.into();
        self.note(table, &key);
        self.put.push((table, key.clone()));
        self.by_tree.entry(table).or_default().insert(key, value);
    }

    fn remove(&mut self, table: Table, key: impl Into<IVec>) {
        let key = key.into();
        self.note(table, &key);
        self.by_tree.entry(table).or_default().remove(key);
    }

    fn note(&mut self, table: Table, key: &IVec) {
        if let Some(keys) = &mut self.keys {
            keys.push((table, key.clone()));
        }
    }

    /// Removes every row that begins with what has ended, those of this window included: thousands of clients that
    /// expire together are one batch, not thousands.
    fn remove_ended(&mut self, trees: &Trees, ended: &Ended) -> Result<(), StoreError> {
        for table in ended.tables {
            for key in table.tree(trees).scan_prefix(&ended.prefix).keys() {
                let key = key.map_err(StoreError::sled("read what is removed"))?;
                self.remove(*table, key);
            }
        }
        let of_this_window = |(table, key): &(Table, IVec)| ended.tables.contains(table) && key.starts_with(&ended.prefix);
        let (over, left) = std::mem::take(&mut self.put).into_iter().partition(of_this_window);
        self.put = left;
        for (table, key) in over {
            self.remove(table, key);
        }
        if let Some(key) = &ended.client {
            self.remove(Table::Clients, key.as_slice());
        }
        Ok(())
    }

    /// Writes everything as one: after a crash all of it is there, or nothing. Tells the keys, if they are wanted.
    fn apply(self, trees: &Trees) -> Result<Vec<(Table, IVec)>, StoreError> {
        let keys = self.keys.unwrap_or_default();
        let batches = self.by_tree.into_iter();
        let mut batches: Vec<(&Tree, Batch)> = batches.map(|(table, batch)| (table.tree(trees), batch)).collect();
        if batches.len() <= 1 {
            // The usual window is progress alone, and a plain batch costs half of a transaction, which reads what it writes.
            return match batches.pop() {
                Some((tree, batch)) => tree.apply_batch(batch).map(|()| keys).map_err(StoreError::sled("write a batch")),
                None => Ok(keys),
            };
        }
        let (trees, batches): (Vec<&Tree>, Vec<Batch>) = batches.into_iter().unzip();
        let written = trees.as_slice().transaction(|views| {
            for (view, batch) in views.iter().zip(&batches) {
                view.apply_batch(batch)?;
            }
            Ok(())
        });
        written.map(|()| keys).map_err(|error: TransactionError<()>| match error {
            TransactionError::Storage(source) => StoreError::Sled { operation: "write a batch", source },
            TransactionError::Abort(()) => unreachable!("no transaction here aborts"),
        })
    }
}

fn encode(tree: &'static str, record: &impl Record) -> Result<Vec<u8>, StoreError> {
    record.encode().map_err(|source: RecordError| StoreError::Record { tree, source })
}
