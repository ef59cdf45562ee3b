//! What can be read of a task's piece file.

use crate::domain::{PieceNumber, TaskId};
use crate::pieces::PieceFile;

use super::Cluster;

/// A run of bytes that is on disk, verified and recorded.
#[derive(Debug)]
pub struct Readable {
    pub file: PieceFile,
    pub first: u64,
    /// Inclusive.
    pub last: u64,
    /// The length of the whole cached file, once known.
    pub total: Option<u64>,
    /// Changes with the content.
    pub etag: String,
}

/// Why nothing can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("there is no such task")]
    UnknownTask,
    /// Past the end of the file, or of what is here of it so far.
    #[error("the range is not available")]
    NotThere { total: Option<u64> },
    /// Asked for the whole, which is not here yet.
    #[error("the file is not complete yet; ask for the ranges of pieces that were handed out")]
    Incomplete,
    #[error("the piece file cannot be opened")]
    Disk,
}

impl Cluster {
    /// Bytes `first` to `last` of a task's cached file, clipped at the end of what is there; the whole of it for `None`.
    /// Blocks on opening the file.
    pub fn readable(&self, task: &TaskId, range: Option<(u64, u64)>) -> Result<Readable, Unreadable> {
        let cell = self.cell(task).map_err(|_| Unreadable::UnknownTask)?;
        let (piece_size, generation, total, first, last) = {
            let mut inner = cell.lock();
            inner.touch(self.now());
            let swarm = &inner.swarm;
            let status = swarm.status();
            let piece_size = status.piece_size;
            let total = status.length.zip(status.piece_count()).map(|(length, count)| piece_size.cached_length(length, count));
            if range.is_none() && !swarm.is_whole() {
                return Err(Unreadable::Incomplete);
            }
            let (first, wanted_last) = range.unwrap_or((0, u64::MAX));
            let slot = u64::from(piece_size.bytes());
            let mut end = None;
            // A piece number that does not fit is past the end of any file.
            let Ok(mut piece) = u32::try_from(first / slot) else { return Err(Unreadable::NotThere { total }) };
            while let Some(digest) = swarm.stored_piece(PieceNumber(piece)) {
                let slot_end = piece_size.slot_start(PieceNumber(piece)) + u64::from(digest.slot_len());
                end = Some(slot_end);
                if slot_end > wanted_last || digest.slot_len() < piece_size.bytes() {
                    break;
                }
                piece += 1;
            }
            let last = end.map_or(0, |end| (end - 1).min(wanted_last));
            if end.is_none() || first > last {
                return Err(Unreadable::NotThere { total });
            }
            (piece_size, status.generation, total, first, last)
        };
        let file = self.repository.open_task(task, generation, piece_size).map_err(|error| {
            tracing::error!(%task, error = &error as &dyn std::error::Error, "recorded pieces cannot be read");
            Unreadable::Disk
        })?;
        Ok(Readable { file, first, last, total, etag: format!("\"{task}.{generation}\"") })
    }
}
