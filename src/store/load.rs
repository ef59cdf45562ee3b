//! Reading what is stored: for recovery and for `dump`.

use super::records::{
    ClientV1, ContentV1, PeerV1, PieceV1, PreheatChildV2, PreheatV1, ProgressV1, Record, RecordError, SourceV2, TaskV2,
};
use super::schema::{parse_client, parse_piece, parse_preheat, parse_progress, source_key, split_task};
use super::{Store, StoreError};
use crate::domain::{
    Client, ClientId, Generation, Peer, PieceDigest, PieceNumber, PieceSet, Preheat, PreheatChild, TaskId, TaskSpec, TaskStatus,
};

/// A client's pieces of one task.
#[derive(Debug, Default)]
pub struct StoredProgress {
    pub held: PieceSet,
    pub servable: PieceSet,
}

/// What of a task is on disk, without its clients.
#[derive(Debug)]
pub struct StoredPieces {
    pub status: TaskStatus,
    pub pieces: Vec<(PieceNumber, PieceDigest)>,
}

/// Everything stored about one task, its rows in the order of their keys.
#[derive(Debug)]
pub struct TaskRows {
    pub spec: TaskSpec,
    pub status: TaskStatus,
    /// Piece, digest, and whether the bytes are on disk.
    pub pieces: Vec<(PieceNumber, PieceDigest, bool)>,
    pub clients: Vec<Client>,
    pub progress: Vec<(ClientId, StoredProgress)>,
    pub pinned: bool,
}

impl Store {
    /// The ids of all tasks, ascending.
    pub fn task_ids(&self) -> Result<Vec<TaskId>, StoreError> {
        let trees = self.trees()?;
        let ids = trees.tasks.iter().keys().map(|key| {
            let key = key.map_err(StoreError::sled("read the tasks"))?;
            split_task(&key).map(|(task, _)| task).ok_or_else(|| bad_key("tasks"))
        });
        ids.collect()
    }

    /// Everything about one task; `None` when there is no such task.
    pub fn task(&self, id: &TaskId) -> Result<Option<TaskRows>, StoreError> {
        let Some(status) = self.status(id)? else { return Ok(None) };
        let spec = match self.source(id) {
            // A dump reads beside deletions, which take all rows of a task at once.
            Err(_) if self.status(id)?.is_none() => return Ok(None),
            source => source?,
        };
        let pinned = self.trees()?.pins.contains_key(id.as_bytes()).map_err(StoreError::sled("read a pin"))?;
        let (pieces, clients, progress) = (self.pieces(id)?, self.clients(id)?, self.progress(id)?);
        Ok(Some(TaskRows { spec, status, pieces, clients, progress, pinned }))
    }

    /// The only slot of a task's generation whose source is too small for a file; `None` where there is none.
    pub fn content(&self, id: &TaskId, generation: Generation) -> Result<Option<Vec<u8>>, StoreError> {
        let row = self.trees()?.contents.get(id.as_bytes()).map_err(StoreError::sled("read a content"))?;
        let record = row.map(|row| ContentV1::decode(&row).map_err(in_tree("contents"))).transpose()?;
        Ok(record.filter(|record| record.generation == generation.0).map(|record| record.slot))
    }

    /// The pieces of a task whose bytes are on disk; `None` when there is no such task.
    pub fn stored_pieces(&self, id: &TaskId) -> Result<Option<StoredPieces>, StoreError> {
        let Some(status) = self.status(id)? else { return Ok(None) };
        let stored = self.pieces(id)?.into_iter().filter(|(_, _, stored)| *stored);
        let pieces = stored.map(|(piece, digest, _)| (piece, digest)).collect();
        Ok(Some(StoredPieces { status, pieces }))
    }

    /// How far the source of a task has got.
    pub(super) fn status(&self, id: &TaskId) -> Result<Option<TaskStatus>, StoreError> {
        let bytes = self.trees()?.tasks.get(id.as_bytes()).map_err(StoreError::sled("read a task"))?;
        bytes.map(|bytes| TaskV2::decode_any(&bytes).and_then(TaskStatus::try_from).map_err(in_tree("tasks"))).transpose()
    }

    /// What a client says of itself.
    pub fn peer(&self, id: &ClientId) -> Result<Option<Peer>, StoreError> {
        let bytes = self.trees()?.peers.get(id.as_str()).map_err(StoreError::sled("read a peer"))?;
        let decode =
            |bytes: sled::IVec| PeerV1::decode(&bytes).map(|record| record.into_domain(id.clone())).map_err(in_tree("peers"));
        bytes.map(decode).transpose()
    }

    /// All peers, in the order of their ids.
    pub fn peers(&self) -> Result<impl Iterator<Item = Result<Peer, StoreError>>, StoreError> {
        Ok(self.peer_rows()?.map(|row| {
            let (key, value) = row?;
            let id = parse_client(&key).ok_or_else(|| bad_key("peers"))?;
            Ok(PeerV1::decode(&value).map_err(in_tree("peers"))?.into_domain(id))
        }))
    }

    /// All preheats, in the order of their ids, and what each found to fetch.
    pub fn preheats(&self) -> Result<Vec<(Preheat, Vec<PreheatChild>)>, StoreError> {
        let mut preheats: Vec<(Preheat, Vec<PreheatChild>)> = Vec::new();
        let trees = self.trees()?;
        for row in trees.preheats.iter() {
            let (key, value) = row.map_err(StoreError::sled("read the preheats"))?;
            let (id, is_child) = parse_preheat(&key).ok_or_else(|| bad_key("preheats"))?;
            if !is_child {
                let record = PreheatV1::decode(&value).and_then(|record| record.into_domain(id));
                preheats.push((record.map_err(in_tree("preheats"))?, Vec::new()));
                continue;
            }
            // A preheat stands before its children.
            let (_, children) = preheats.last_mut().filter(|(last, _)| last.id == id).ok_or_else(|| bad_key("preheats"))?;
            let child = PreheatChildV2::decode(&value).map_err(in_tree("preheats"))?.into_domain(children);
            children.push(child);
        }
        Ok(preheats)
    }

    /// The ids of all peers, ascending.
    pub fn peer_ids(&self) -> Result<impl Iterator<Item = Result<ClientId, StoreError>>, StoreError> {
        Ok(self.peer_rows()?.map(|row| parse_client(&row?.0).ok_or_else(|| bad_key("peers"))))
    }

    pub fn peer_count(&self) -> Result<usize, StoreError> {
        Ok(self.trees()?.peers.len())
    }

    /// The database stays the one that it is for as long as these are read.
    fn peer_rows(&self) -> Result<impl Iterator<Item = Result<(sled::IVec, sled::IVec), StoreError>>, StoreError> {
        let trees = self.trees()?;
        let mut rows = trees.peers.iter();
        Ok(std::iter::from_fn(move || {
            let _held = &trees;
            rows.next().map(|row| row.map_err(StoreError::sled("read the peers")))
        }))
    }

    /// What a task fetches, put together from the chunks of its record.
    fn source(&self, id: &TaskId) -> Result<TaskSpec, StoreError> {
        let bytes = self.source_record(id)?;
        Ok(SourceV2::decode_any(&bytes).map_err(in_tree("sources"))?.into_domain(*id))
    }

    /// The record of what a task fetches, put together from its chunks; empty where there is none.
    pub(super) fn source_record(&self, id: &TaskId) -> Result<Vec<u8>, StoreError> {
        let (mut bytes, trees) = (Vec::new(), self.trees()?);
        for chunk in 0.. {
            match trees.sources.get(source_key(id, chunk)).map_err(StoreError::sled("read a source"))? {
                Some(part) => bytes.extend_from_slice(&part),
                None => break,
            }
        }
        Ok(bytes)
    }

    fn pieces(&self, task: &TaskId) -> Result<Vec<(PieceNumber, PieceDigest, bool)>, StoreError> {
        let trees = self.trees()?;
        let rows = trees.pieces.scan_prefix(task.as_bytes()).map(|row| {
            let (key, value) = row.map_err(StoreError::sled("read the pieces"))?;
            let piece = split_task(&key).and_then(|(_, rest)| parse_piece(rest)).ok_or_else(|| bad_key("pieces"))?;
            let record = PieceV1::decode(&value).map_err(in_tree("pieces"))?;
            Ok((piece, record.digest(), record.stored()))
        });
        rows.collect()
    }

    fn clients(&self, task: &TaskId) -> Result<Vec<Client>, StoreError> {
        let trees = self.trees()?;
        let rows = trees.clients.scan_prefix(task.as_bytes()).map(|row| {
            let (key, value) = row.map_err(StoreError::sled("read the clients"))?;
            let id = split_task(&key).and_then(|(_, rest)| parse_client(rest)).ok_or_else(|| bad_key("clients"))?;
            Ok(ClientV1::decode(&value).map_err(in_tree("clients"))?.into_domain(*task, id))
        });
        rows.collect()
    }

    fn progress(&self, task: &TaskId) -> Result<Vec<(ClientId, StoredProgress)>, StoreError> {
        let mut clients: Vec<(ClientId, StoredProgress)> = Vec::new();
        let trees = self.trees()?;
        for row in trees.progress.scan_prefix(task.as_bytes()) {
            let (key, value) = row.map_err(StoreError::sled("read the progress"))?;
            let (id, chunk) = split_task(&key).and_then(|(_, rest)| parse_progress(rest)).ok_or_else(|| bad_key("progress"))?;
            let record = ProgressV1::decode(&value).map_err(in_tree("progress"))?;
            // A client's chunks follow each other.
            if clients.last().is_none_or(|(last, _)| *last != id) {
                clients.push((id, StoredProgress::default()));
            }
            if let Some((_, progress)) = clients.last_mut() {
                progress.held.insert_chunk(chunk, &record.held);
                progress.servable.insert_chunk(chunk, &record.servable);
            }
        }
        Ok(clients)
    }
}

pub(super) fn in_tree(tree: &'static str) -> impl FnOnce(RecordError) -> StoreError {
    move |source| StoreError::Record { tree, source }
}

fn bad_key(tree: &'static str) -> StoreError {
    in_tree(tree)(RecordError::Key)
}
