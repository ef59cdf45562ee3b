//! What the database says of pieces, compared with the piece files.

use std::collections::HashSet;
use std::path::PathBuf;

use super::StartError;
use crate::domain::{Change, PieceDigest, PieceNumber, TaskId};
use crate::pieces::{PieceFile, Repository};
use crate::store::Store;

/// How a piece that is recorded as stored was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Sound,
    /// The file is not there, or ends before it.
    Missing,
    /// Other bytes than were written.
    Damaged,
}

/// What a comparison found.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    pub pieces: u64,
    pub bytes: u64,
    pub lost: Vec<(TaskId, PieceNumber, PieceDigest, Found)>,
    /// Files that no task names.
    pub orphans: Vec<PathBuf>,
}

/// Reads every piece that is recorded as stored and compares its digest. `progress` is told of every piece's bytes.
pub fn compare(store: &Store, repository: &Repository, progress: &mut dyn FnMut(u64)) -> Result<Comparison, StartError> {
    let mut comparison = Comparison::default();
    let mut named = HashSet::new();
    for id in store.task_ids()? {
        let Some(rows) = store.task(&id)? else { continue };
        named.insert(repository.path(&id, rows.status.generation));
        let file = repository.open_task(&id, rows.status.generation, rows.status.piece_size).ok();
        for (piece, digest, _) in rows.pieces.into_iter().filter(|(_, _, stored)| *stored) {
            let bytes = u64::from(digest.slot_len());
            comparison.pieces += 1;
            comparison.bytes += bytes;
            match find(file.as_ref(), piece, &digest) {
                Found::Sound => {}
                found => comparison.lost.push((id, piece, digest, found)),
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
        let pieces = store.task(&id)?.map(|rows| rows.pieces).unwrap_or_default();
        bytes += pieces.iter().filter(|(_, _, stored)| *stored).map(|(_, digest, _)| u64::from(digest.slot_len())).sum::<u64>();
    }
    Ok(bytes)
}

fn find(file: Option<&PieceFile>, piece: PieceNumber, digest: &PieceDigest) -> Found {
    let Some(file) = file else { return Found::Missing };
    match file.reaches(piece, digest) {
        Ok(true) => {}
        Ok(false) | Err(_) => return Found::Missing,
    }
    match file.read_verified(piece, digest) {
        Ok(Some(_)) => Found::Sound,
        Ok(None) | Err(_) => Found::Damaged,
    }
}

/// Has lost pieces fetched again: their records say so from now on.
pub fn mark_lost(store: &Store, comparison: &Comparison) -> Result<(), StartError> {
    let lost = comparison.lost.iter();
    let changes: Vec<Change> =
        lost.map(|(task, piece, digest, _)| Change::PieceLost { task: *task, piece: *piece, digest: *digest }).collect();
    Ok(store.write(&changes)?)
}
