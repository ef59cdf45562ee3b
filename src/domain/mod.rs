//! The values that the whole house speaks in: identifiers, tasks, pieces, clients, digests, and the durable facts about them.
//!
//! Owns what a value means and which values exist: everything here is valid by construction.
//! Must not: do IO, read a clock, make randomness, or know how a value looks on the wire (`http`) or on disk (`store`).

pub mod change;
pub mod client;
pub mod digest;
pub mod durability;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod ids;
pub mod moment;
pub mod piece;
pub mod piece_set;
pub mod policy;
pub mod preheat;
pub mod task;

pub use change::Change;
pub use client::{Client, ClientState, ClientVersion, Endpoint, Peer};
pub use digest::Md5Digest;
pub use durability::Durability;
pub use ids::{ClientId, Generation, PieceNumber, TaskId};
pub use moment::Moment;
pub use piece::{PieceDigest, PieceSize};
pub use piece_set::PieceSet;
pub use preheat::{ChildUrl, Platform, Preheat, PreheatChild, PreheatId, PreheatKind, PreheatState};
pub use task::{CdnPattern, Failure, Fault, Modified, SourceState, TaskSpec, TaskStatus, Validators};
