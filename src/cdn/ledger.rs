//! What the worker is told by whoever keeps its findings: the contract, not a keeper.

use crate::domain::{Md5Digest, PieceDigest, PieceNumber, PieceSize, Validators};
use crate::pieces::Slot;

/// Keeps what the worker finds out. Every method that waits returns once it is durable.
pub trait Ledger: Send + Sync {
    /// The source wants a token, and one is asked for; or that has ended. Nothing of it is kept.
    fn authenticating(&self, under_way: bool);
    /// The source has answered for the first time. Tells the piece size to cut with: clients may have been told one.
    fn answered(
        &self,
        length: Option<u64>,
        validators: Validators,
    ) -> impl Future<Output = Result<PieceSize, LedgerError>> + Send;
    /// The source has answered for the first time, and all of its content, too small for a file, came with that. There is
    /// nothing left to fetch.
    fn answered_whole(
        &self,
        content: &[u8],
        md5: Md5Digest,
        validators: Validators,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// So many more bytes of a piece are about to be written.
    fn storing(&self, bytes: usize) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// What was about to be written is stored by now, or will not be.
    fn settled(&self);
    /// A piece is on disk and synced.
    fn stored(&self, piece: PieceNumber, digest: PieceDigest) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// The only piece of a source that is too small for a file: the ledger keeps it.
    fn stored_small(&self, slot: Slot) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// A piece that was stored is not as it was.
    fn lost(&self, piece: PieceNumber) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

/// Why the ledger does not keep what it is told.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("the service is stopping")]
    Stopping,
    #[error("a piece differs from what clients were told of it")]
    Contradiction,
    #[error("{needed} bytes do not fit: repositoryQuota is {quota} bytes, of which files in use hold {in_use}")]
    NoRoom { needed: u64, quota: u64, in_use: u64 },
    #[error("the supernode has no room for this file: {needed} bytes are missing of it, and its disk has {free} bytes left")]
    DiskFull { needed: u64, free: u64 },
    #[error(
        "the supernode has no room for this file: its source {}, {held} bytes of it are here, and its disk \
         has {free} bytes left, where {kept} are to stay free (fullGCThreshold, 16 MiB at least) and {granted} are for others of \
         that kind; make room there, lower the threshold, or have the source tell the {}length",
        what_was_told(*.announced),
        if .announced.is_some() { "right " } else { "" }
    )]
    NoRoomToGrow { announced: Option<u64>, held: u64, free: u64, kept: u64, granted: u64 },
    #[error("files that clients fetch at their sources have {held} pieces together, and {more} more are too many at once")]
    TooManyPieces { held: u64, more: u32 },
}

/// What a source said of its length that nobody can count on.
fn what_was_told(announced: Option<u64>) -> String {
    match announced {
        None => "does not tell its length".to_owned(),
        Some(bytes) => format!("announced {bytes} bytes, which the disk cannot hold"),
    }
}
