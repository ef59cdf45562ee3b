//! What the database says of pieces, compared with the piece files.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::StartError;
use crate::domain::piece::SMALL_CONTENT_MAX_BYTES;
use crate::domain::{Change, PieceDigest, PieceNumber, TaskId, TaskStatus};
use crate::pieces::{PieceBytes, PieceFileError, Repository};
use crate::store::{Store, StoreError, StoredPieces};

/// Lost pieces that are recorded at once: a batch costs the database far more memory than it has bytes.
pub const LOST_AT_ONCE: usize = 1_000;

/// How a piece that is recorded as stored was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Sound,
    /// The file is not there, or ends before it.
    Missing,
    /// Other bytes than were written.
    Damaged,
    /// The machine cannot read it: it may be as it was.
    Unreadable,
}

/// A piece that is recorded as stored and is not.
#[derive(Clone, Debug)]
pub struct LostPiece {
    pub task: TaskId,
    pub piece: PieceNumber,
    pub digest: PieceDigest,
    /// The file that should have it, or that the database should.
    pub place: Arc<str>,
    pub found: Found,
}

/// What a comparison found.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    pub pieces: u64,
    pub bytes: u64,
    pub lost: Vec<LostPiece>,
    /// Files that no task names.
    pub orphans: Vec<PathBuf>,
}

/// Reads every piece that is recorded as stored and compares its digest. `progress` is told of every piece's bytes.
pub fn compare(store: &Store, repository: &Repository, progress: &mut dyn FnMut(u64)) -> Result<Comparison, StartError> {
    let mut comparison = Comparison::default();
    let mut named = HashSet::new();
    for id in store.task_ids()? {
        let Some(StoredPieces { status, pieces }) = store.stored_pieces(&id)? else { continue };
        let path = repository.path(&id, status.generation);
        let file = open(store, repository, &id, &status);
        let place: Arc<str> = match &file {
            Ok(Some(PieceBytes::Row { .. })) => "in the database".into(),
            _ => path.display().to_string().into(),
        };
        named.insert(path);
        for (piece, digest) in pieces {
            let bytes = u64::from(digest.slot_len());
            comparison.pieces += 1;
            comparison.bytes += bytes;
            match find(&file, piece, &digest) {
                Found::Sound => {}
                found => comparison.lost.push(LostPiece { task: id, piece, digest, place: place.clone(), found }),
            }
            progress(bytes);
        }
    }
    comparison.orphans = repository.files()?.into_iter().filter(|path| !named.contains(path)).collect();
    Ok(comparison)
}

/// Bytes of all pieces that are recorded as stored.
pub fn recorded_bytes(store: &Store) -> Result<u64, StartError> {
    let mut bytes = 0;
    for id in store.task_ids()? {
        let pieces = store.stored_pieces(&id)?.map(|stored| stored.pieces).unwrap_or_default();
        bytes += pieces.iter().map(|(_, digest)| u64::from(digest.slot_len())).sum::<u64>();
    }
    Ok(bytes)
}

/// What is stored of a task's generation: its file, or its row where the source is too small for one. `None` where there
/// is neither; any failure is the machine's, and says nothing of the pieces.
pub fn open(
    store: &Store,
    repository: &Repository,
    task: &TaskId,
    status: &TaskStatus,
) -> Result<Option<PieceBytes>, PieceFileError> {
    if status.length.is_some_and(|length| length <= SMALL_CONTENT_MAX_BYTES) {
        match store.content(task, status.generation) {
            Ok(Some(slot)) => return Ok(Some(PieceBytes::Row { slot, piece_size: status.piece_size })),
            Ok(None) => {}
            // It is as damaged as a piece with other bytes, and fetched again like one.
            Err(error @ StoreError::Record { .. }) => {
                tracing::error!(%task, error = &error as &dyn std::error::Error, "small content is damaged");
            }
            Err(error) => {
                let path = repository.path(task, status.generation);
                return Err(PieceFileError { operation: "read the small content of", path, source: io::Error::other(error) });
            }
        }
        // Programs before schema 4 gave every source a file.
    }
    Ok(repository.open_if_there(task, status.generation, status.piece_size)?.map(PieceBytes::File))
}

fn find(file: &Result<Option<PieceBytes>, PieceFileError>, piece: PieceNumber, digest: &PieceDigest) -> Found {
    let look = |file: &PieceBytes| -> Result<Found, PieceFileError> {
        if !file.reaches(piece, digest)? {
            return Ok(Found::Missing);
        }
        Ok(if file.read_verified(piece, digest)?.is_some() { Found::Sound } else { Found::Damaged })
    };
    match file {
        Ok(Some(file)) => look(file).unwrap_or(Found::Unreadable),
        Ok(None) => Found::Missing,
        Err(_) => Found::Unreadable,
    }
}

/// Has lost pieces fetched again: their records say so from now on. Tells how many those are.
pub fn mark_lost(store: &Store, comparison: &Comparison) -> Result<usize, StartError> {
    let lost = comparison.lost.iter().filter(|lost| matches!(lost.found, Found::Missing | Found::Damaged));
    let changes: Vec<Change> = lost
        .map(|LostPiece { task, piece, digest, .. }| Change::PieceLost { task: *task, piece: *piece, digest: *digest })
        .collect();
    for some in changes.chunks(LOST_AT_ONCE) {
        store.write(some)?;
    }
    Ok(changes.len())
}
