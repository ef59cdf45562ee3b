//! Which trees there are, and their keys.

use sled::{IVec, Tree};

use super::StoreError;
use crate::domain::piece::PIECES_MAX;
use crate::domain::piece_set::CHUNK_PIECES;
use crate::domain::{ClientId, PieceNumber, PreheatId, TaskId};

/// The version of keys and records that this program writes. A change of either is a step in `migrations/`.
pub const SCHEMA_VERSION: u32 = 4;

/// Where the schema version is kept, in the tree `meta`, as a big-endian u32.
pub const SCHEMA_KEY: &[u8] = b"schema";
const BOOT_KEY: &[u8] = b"boot";
/// A random number that was drawn when the database was new: another one means that state was lost.
const NODE_KEY: &[u8] = b"node";

/// How many windows were committed; see `mark`.
const COMMITS_KEY: &[u8] = b"commits";

/// Bytes of a task id, which every key but a peer's begins with.
const TASK_BYTES: usize = 32;
/// Bytes of a preheat's id, which its keys begin with.
const PREHEAT_BYTES: usize = 16;

/// The trees of facts, in the order in which a snapshot has them. `meta` is not among them: it is about the database itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    Sources,
    Tasks,
    Pieces,
    Peers,
    Clients,
    Progress,
    Preheats,
    Contents,
    Pins,
}

impl Table {
    pub const ALL: [Self; 9] = [
        Self::Sources,
        Self::Tasks,
        Self::Pieces,
        Self::Peers,
        Self::Clients,
        Self::Progress,
        Self::Preheats,
        Self::Contents,
        Self::Pins,
    ];

    pub const fn tree(self, trees: &Trees) -> &Tree {
        match self {
            Self::Sources => &trees.sources,
            Self::Tasks => &trees.tasks,
            Self::Pieces => &trees.pieces,
            Self::Peers => &trees.peers,
            Self::Clients => &trees.clients,
            Self::Progress => &trees.progress,
            Self::Preheats => &trees.preheats,
            Self::Contents => &trees.contents,
            Self::Pins => &trees.pins,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Sources => "sources",
            Self::Tasks => "tasks",
            Self::Pieces => "pieces",
            Self::Peers => "peers",
            Self::Clients => "clients",
            Self::Progress => "progress",
            Self::Preheats => "preheats",
            Self::Contents => "contents",
            Self::Pins => "pins",
        }
    }
}

/// The open trees.
#[derive(Debug)]
pub struct Trees {
    pub meta: Tree,
    pub sources: Tree,
    pub tasks: Tree,
    pub pieces: Tree,
    pub peers: Tree,
    pub clients: Tree,
    pub progress: Tree,
    pub preheats: Tree,
    pub contents: Tree,
    pub pins: Tree,
}

impl Trees {
    pub fn open(db: &sled::Db) -> Result<Self, StoreError> {
        let open = |name: &str| db.open_tree(name).map_err(StoreError::sled("open a tree"));
        Ok(Self {
            meta: open("meta")?,
            sources: open("sources")?,
            tasks: open("tasks")?,
            pieces: open("pieces")?,
            peers: open("peers")?,
            clients: open("clients")?,
            progress: open("progress")?,
            preheats: open("preheats")?,
            contents: open("contents")?,
            pins: open("pins")?,
        })
    }

    /// The number that this database was given when it was new.
    pub fn node(&self) -> Result<u64, StoreError> {
        let drawn = |old: Option<&[u8]>| Some(old.map_or_else(|| IVec::from(&fastrand::u64(..).to_be_bytes()), IVec::from));
        let node = self.meta.update_and_fetch(NODE_KEY, drawn).map_err(StoreError::sled("name the database"))?;
        Ok(node.and_then(|bytes| bytes.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes))
    }

    /// The number, if it was drawn; 0 otherwise.
    pub fn known_node(&self) -> Result<u64, StoreError> {
        self.number(NODE_KEY)
    }

    /// How many services have opened this database.
    pub fn boot(&self) -> Result<u64, StoreError> {
        self.number(BOOT_KEY)
    }

    /// How many windows have been committed to this database.
    pub fn commits(&self) -> Result<u64, StoreError> {
        self.number(COMMITS_KEY)
    }

    fn number(&self, key: &[u8]) -> Result<u64, StoreError> {
        let stored = self.meta.get(key).map_err(StoreError::sled("read about the database"))?;
        Ok(stored.and_then(|bytes| bytes.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes))
    }

    pub fn set_commits(&self, commits: u64) -> Result<(), StoreError> {
        self.meta.insert(COMMITS_KEY, &commits.to_be_bytes()).map_err(StoreError::sled("count a commit"))?;
        Ok(())
    }

    /// One more service has opened this database; tells how many have.
    pub fn count_boot(&self) -> Result<u64, StoreError> {
        let count = |old: Option<&[u8]>| {
            let boots = old.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
            Some(IVec::from(&(boots + 1).to_be_bytes()))
        };
        let counted = self.meta.update_and_fetch(BOOT_KEY, count).map_err(StoreError::sled("count the boot"))?;
        Ok(counted.and_then(|bytes| bytes.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes))
    }
}

pub fn source_key(task: &TaskId, chunk: u16) -> [u8; TASK_BYTES + 2] {
    let mut key = [0; TASK_BYTES + 2];
    key[..TASK_BYTES].copy_from_slice(task.as_bytes());
    key[TASK_BYTES..].copy_from_slice(&chunk.to_be_bytes());
    key
}

pub fn piece_key(task: &TaskId, piece: PieceNumber) -> [u8; TASK_BYTES + 4] {
    let mut key = [0; TASK_BYTES + 4];
    key[..TASK_BYTES].copy_from_slice(task.as_bytes());
    key[TASK_BYTES..].copy_from_slice(&piece.0.to_be_bytes());
    key
}

pub fn client_key(task: &TaskId, client: &ClientId) -> Vec<u8> {
    [task.as_bytes(), client.as_str().as_bytes()].concat()
}

/// The client's length stands before it, so that no client's keys are among those of a client whose id begins like it.
pub fn progress_key(task: &TaskId, client: &ClientId, chunk: u32) -> Vec<u8> {
    [progress_prefix(task, client).as_slice(), &chunk.to_be_bytes()].concat()
}

/// What the keys of a client's progress begin with, and no others.
pub fn progress_prefix(task: &TaskId, client: &ClientId) -> Vec<u8> {
    let id = client.as_str().as_bytes();
    // A client id has at most 255 bytes by construction.
    let length = [u8::try_from(id.len()).unwrap_or(u8::MAX)];
    [task.as_bytes().as_slice(), &length, id].concat()
}

/// A preheat itself has its id for a key; what it found to fetch is behind that, in order.
pub fn preheat_child_key(preheat: &PreheatId, child: u16) -> [u8; PREHEAT_BYTES + 2] {
    let mut key = [0; PREHEAT_BYTES + 2];
    key[..PREHEAT_BYTES].copy_from_slice(preheat.as_bytes());
    key[PREHEAT_BYTES..].copy_from_slice(&child.to_be_bytes());
    key
}

/// The preheat that a key is of, and whether it is that of one of its children.
pub fn parse_preheat(key: &[u8]) -> Option<(PreheatId, bool)> {
    let (id, rest) = key.split_first_chunk::<PREHEAT_BYTES>()?;
    matches!(rest.len(), 0 | 2).then(|| (PreheatId::from_bytes(*id), rest.len() == 2))
}

/// The task that a key begins with, and the rest of the key.
pub fn split_task(key: &[u8]) -> Option<(TaskId, &[u8])> {
    let (task, rest) = key.split_first_chunk::<TASK_BYTES>()?;
    Some((TaskId::from_bytes(*task), rest))
}

/// A piece that no file has is no piece: tables as long as its number would be made for it.
pub fn parse_piece(rest: &[u8]) -> Option<PieceNumber> {
    let piece = u32::from_be_bytes(rest.try_into().ok()?);
    (piece < PIECES_MAX).then_some(PieceNumber(piece))
}

pub fn parse_client(bytes: &[u8]) -> Option<ClientId> {
    ClientId::parse(std::str::from_utf8(bytes).ok()?).ok()
}

/// The client and chunk of a progress key without its task.
pub fn parse_progress(rest: &[u8]) -> Option<(ClientId, u32)> {
    let (&length, rest) = rest.split_first()?;
    let (client, chunk) = rest.split_at_checked(usize::from(length))?;
    let chunk = u32::from_be_bytes(chunk.try_into().ok()?);
    (chunk < PIECES_MAX / CHUNK_PIECES).then_some((parse_client(client)?, chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back() {
        let task = TaskId::derive("http://h/f", "", "");
        let client = ClientId::parse("127.0.0.1-1-2.3").expect("a valid id");
        let key = progress_key(&task, &client, 7);
        let (read, rest) = split_task(&key).expect("a task");
        assert_eq!((read, parse_progress(rest)), (task, Some((client.clone(), 7))));
        let key = piece_key(&task, PieceNumber(258));
        assert_eq!(split_task(&key).map(|(_, rest)| parse_piece(rest)), Some(Some(PieceNumber(258))));
        let key = client_key(&task, &client);
        assert_eq!(split_task(&key).map(|(_, rest)| parse_client(rest)), Some(Some(client)));
    }

    #[test]
    fn pieces_sort_by_number() {
        let task = TaskId::derive("http://h/f", "", "");
        assert!(piece_key(&task, PieceNumber(255)) < piece_key(&task, PieceNumber(256)));
    }
}
