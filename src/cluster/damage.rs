//! Reports of bad pieces: believed only as far as they can be checked.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::cell::Cell;
use super::{CallError, Cluster, Told, pieces_on_disk};
use crate::domain::{CdnPattern, ClientId, PieceDigest, PieceNumber, TaskId};
use crate::pieces::{PieceBytes, PieceFileError};
use crate::swarm::Event;

/// Who is said to have served a bad piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accused {
    /// The supernode itself.
    Seed,
    Peer(ClientId),
}

/// What of our own is looked at, and how closely.
#[derive(Clone, Debug)]
enum Look {
    /// The piece at this range: its digest.
    Piece(RangeInclusive<u64>),
    /// Whether the file is there.
    Presence,
    /// The digest of every piece.
    Everything,
}

/// A piece of our own that is looked at.
#[derive(Clone, Copy, Debug)]
enum Check {
    /// Its digest.
    Content(PieceNumber, PieceDigest),
    /// Whether the file reaches that far: what a missing file costs to notice.
    Presence(PieceNumber, PieceDigest),
}

impl Check {
    const fn piece(&self) -> PieceNumber {
        match self {
            Self::Content(piece, _) | Self::Presence(piece, _) => *piece,
        }
    }
}

impl Cluster {
    /// Takes a report of a bad piece: against a peer it counts where the client was sent there; our own are looked at.
    /// Without a range no piece is spoken of, only the server's file as a whole.
    pub async fn report_damage(
        self: &Arc<Self>,
        task: &TaskId,
        client: ClientId,
        accused: Accused,
        range: Option<RangeInclusive<u64>>,
    ) -> Result<(), CallError> {
        let cell = self.cell(task)?;
        match (accused, range) {
            (Accused::Peer(server), Some(range)) => self.report(task, client, Told::Failed { range, server: Some(server) }).await,
            // The reports of the pieces themselves follow, each for its own.
            (Accused::Peer(_), None) => Ok(()),
            (Accused::Seed, range) => self.look_at_own(&cell, range.map_or(Look::Presence, Look::Piece)),
        }
    }

    /// Looks at a piece of our own that a client could not get; where none is our own, at the source.
    pub(super) fn look_at_piece(self: &Arc<Self>, cell: &Arc<Cell>, piece: PieceNumber) {
        let status = cell.lock().swarm.status().clone();
        if status.pattern == CdnPattern::Source {
            return self.doubt_source(cell);
        }
        let range = status.piece_size.slot_range(piece);
        // A piece that is no longer the file's is nobody's trouble.
        let _ = self.look_at_own(cell, Look::Piece(range));
    }

    /// Looks at all pieces of our own: the disk that damaged the database may have damaged them, too.
    pub(super) fn look_at_everything(self: &Arc<Self>) {
        for cell in self.cells() {
            // Nothing is refused that names no range.
            let _ = self.look_at_own(&cell, Look::Everything);
        }
    }

    /// Looks at our own pieces in the background: each once at a time, however many ask for it.
    fn look_at_own(self: &Arc<Self>, cell: &Arc<Cell>, look: Look) -> Result<(), CallError> {
        let (checks, status) = {
            let mut inner = cell.lock();
            let swarm = &inner.swarm;
            let mut checks: Vec<Check> = match look {
                Look::Piece(range) => {
                    let piece = swarm.piece_of_range(&range)?;
                    swarm.stored_piece(piece).map(|digest| Check::Content(piece, digest)).into_iter().collect()
                }
                Look::Presence => swarm.stored_pieces().map(|(piece, digest)| Check::Presence(piece, digest)).collect(),
                Look::Everything => swarm.stored_pieces().map(|(piece, digest)| Check::Content(piece, digest)).collect(),
            };
            let status = swarm.status().clone();
            // Nobody was told of a content that is on its way into the database.
            if !self.committer.is_durable(inner.content_ticket()) {
                checks.clear();
            }
            checks.retain(|check| inner.looking.insert(check.piece()));
            if checks.is_empty() {
                return Ok(());
            }
            (checks, status)
        };
        let (cluster, cell) = (self.clone(), cell.clone());
        self.spawn(async move {
            // One look after the other: reports cost their senders nothing, and looking costs us a core.
            let Some(Ok(_place)) = cluster.stopping.run_until_cancelled(cluster.looks.acquire()).await else { return };
            let (store, repository, task) = (cluster.store(), cluster.repository.clone(), cell.spec.id);
            let generation = status.generation;
            let looked_at: HashSet<PieceNumber> = checks.iter().map(|check| check.piece()).collect();
            let looking = cluster.blocking(move || {
                let bytes = pieces_on_disk::open(&store, &repository, &task, &status)?;
                look_at(bytes.as_ref(), checks)
            });
            // A service that stops does not wait for it: what is damaged is found again.
            let Some(looked) = cluster.stopping.run_until_cancelled(looking).await else { return };
            let Ok(looked) = looked else { return };
            cell.lock().looking.retain(|piece| !looked_at.contains(piece));
            let damaged = match looked {
                Ok(damaged) => damaged,
                // It says nothing of the pieces, which stay as they are recorded.
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    return tracing::error!(task = %cell.spec.id, error, "stored pieces cannot be looked at");
                }
            };
            for piece in damaged {
                if cell.lock().swarm.status().generation != generation {
                    return;
                }
                tracing::warn!(task = %cell.spec.id, %piece, "stored piece is damaged or gone and will be fetched again");
                // A failed commit stops the service, which is told of it by the committer.
                let _ = cluster.record(&cell, Event::PieceLost { piece }).await;
            }
            if cell.lock().is_unfinished() {
                cluster.ensure_fetching(&cell);
            }
        });
        Ok(())
    }
}

/// Those of the pieces that are damaged or gone.
fn look_at(bytes: Option<&PieceBytes>, checks: Vec<Check>) -> Result<Vec<PieceNumber>, PieceFileError> {
    let mut damaged = Vec::new();
    for check in checks {
        let sound = match (bytes, check) {
            (None, _) => false,
            (Some(bytes), Check::Content(piece, digest)) => bytes.read_verified(piece, &digest)?.is_some(),
            (Some(bytes), Check::Presence(piece, digest)) => bytes.reaches(piece, &digest)?,
        };
        if !sound {
            damaged.push(check.piece());
        }
    }
    Ok(damaged)
}
