//! One durable fact.

use std::sync::Arc;

use super::{
    Client, ClientId, Generation, Peer, PieceDigest, PieceNumber, Preheat, PreheatChild, PreheatId, TaskId, TaskSpec, TaskStatus,
};

/// A fact that must outlive the process before anybody is told of it.
///
/// Each is whole by itself and says how things are, not how they changed: applied twice, or after an older one of the
/// same subject, it leaves the same state.
#[derive(Clone, Debug)]
pub enum Change {
    /// What the task fetches, of which nothing is stored yet.
    TaskDefined(Arc<TaskSpec>),
    /// The same of a task of which something may be.
    TaskRedefined(Arc<TaskSpec>),
    /// How far its source has got.
    TaskProgressed {
        task: TaskId,
        status: TaskStatus,
    },
    /// Whether an operator wants its file kept, whatever is short.
    TaskPinned {
        task: TaskId,
        pinned: bool,
    },
    /// A piece's bytes are on disk, verified and synced.
    PieceStored {
        task: TaskId,
        piece: PieceNumber,
        digest: PieceDigest,
    },
    /// The only slot of a source that is too small for a file of its own.
    ContentKept {
        task: TaskId,
        generation: Generation,
        slot: Arc<[u8]>,
    },
    /// The piece's bytes are gone or damaged. Its digest stays: peers may hold it, and it must come out the same again.
    PieceLost {
        task: TaskId,
        piece: PieceNumber,
        digest: PieceDigest,
    },
    PeerSeen(Arc<Peer>),
    ClientChanged(Client),
    /// What a client has of one chunk of 512 pieces, as little-endian bits.
    ClientProgressed {
        task: TaskId,
        client: ClientId,
        chunk: u32,
        held: Vec<u8>,
        servable: Vec<u8>,
    },
    /// All clients of a task, their progress and its pieces are of a generation that is over.
    GenerationEnded {
        task: TaskId,
    },
    /// A client is no longer one of the task's.
    ClientForgotten {
        task: TaskId,
        client: ClientId,
    },
    /// Nothing is left of the task: neither what it fetches nor its pieces, its clients and their progress.
    TaskForgotten {
        task: TaskId,
    },
    PeerForgotten(ClientId),
    PreheatChanged(Arc<Preheat>),
    /// What a preheat found to fetch, in this order.
    PreheatResolved {
        preheat: PreheatId,
        children: Arc<[PreheatChild]>,
        /// How many it had found before; those beyond the new ones are no more.
        former: usize,
    },
    PreheatForgotten(PreheatId),
}
