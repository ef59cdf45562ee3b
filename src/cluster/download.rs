//! What can be read of a task's piece file.

use super::{Cluster, pieces_on_disk};
use crate::domain::{CdnPattern, Generation, PieceDigest, PieceNumber, TaskId, Validators};
use crate::pieces::{Md5, PieceBytes};

/// A run of bytes that is on disk, verified and recorded.
#[derive(Debug)]
pub struct Readable {
    pub bytes: PieceBytes,
    pub first: u64,
    /// Inclusive.
    pub last: u64,
    /// The length of the whole cached file, once known.
    pub total: Option<u64>,
    /// Changes with the content, also where a task was forgotten and comes anew; stays while more of it arrives.
    pub etag: String,
}

/// Why nothing can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("there is no such task")]
    UnknownTask,
    #[error("nothing of this task is kept here: clients fetch it from its source (cdnPattern is source)")]
    NotKept,
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
    /// Blocks on opening the file, or on the database where the source is too small for one.
    pub fn readable(&self, task: &TaskId, range: Option<(u64, u64)>) -> Result<Readable, Unreadable> {
        let cell = self.cell(task).map_err(|_| Unreadable::UnknownTask)?;
        let (status, etag, total, first, last) = {
            // Of a task that was forgotten meanwhile there is no file.
            let mut inner = cell.live().map_err(|_| Unreadable::UnknownTask)?;
            inner.touch(self.now());
            let swarm = &inner.swarm;
            let status = swarm.status().clone();
            let piece_size = status.piece_size;
            if status.pattern == CdnPattern::Source {
                return Err(Unreadable::NotKept);
            }
            let total = status.file_length();
            // A content on its way into the database is here for nobody: a crash may still take it back.
            let is_coming = !self.committer.is_durable(inner.content_ticket());
            if range.is_none() && (is_coming || !swarm.is_whole()) {
                return Err(Unreadable::Incomplete);
            }
            if is_coming {
                return Err(Unreadable::NotThere { total });
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
            let etag = etag(task, status.generation, swarm.digest(PieceNumber(0)), &status.validators);
            (status, etag, total, first, last)
        };
        let opened = pieces_on_disk::open(&self.store, &self.repository, task, &status);
        if let Ok(Some(bytes)) = opened {
            return Ok(Readable { bytes, first, last, total, etag });
        }
        if cell.live().map_or(true, |inner| inner.swarm.status().generation != status.generation) {
            return Err(Unreadable::UnknownTask);
        }
        match opened {
            Err(error) => tracing::error!(%task, error = &error as &dyn std::error::Error, "recorded pieces cannot be read"),
            Ok(_) => tracing::error!(%task, "recorded pieces are gone"),
        }
        Err(Unreadable::Disk)
    }
}

/// Generations begin anew with a task that was forgotten, so that the content itself has a part in it: what its source was
/// recognised by, and its first piece. More of it is not known while it arrives.
fn etag(task: &TaskId, generation: Generation, first: Option<PieceDigest>, validators: &Validators) -> String {
    let mut hash = Md5::new();
    hash.update(&first.map_or([0; 16], |digest| digest.md5.0));
    for text in [validators.etag.as_deref(), validators.date()] {
        hash.update(text.unwrap_or_default().as_bytes());
        // No header has it.
        hash.update(&[0]);
    }
    format!("\"{task}.{generation}.{}\"", hex::encode(hash.digest()))
}
