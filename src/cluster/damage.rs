//! Reports of bad pieces: believed only as far as they can be checked.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::cell::Cell;
use super::{CallError, Cluster};
use crate::domain::{ClientId, PieceDigest, PieceNumber, TaskId};
use crate::pieces::PieceFile;
use crate::swarm::{Effects, Event, Report};

/// Who is said to have served a bad piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accused {
    /// The supernode itself.
    Seed,
    Peer(ClientId),
}

/// A piece of our own that is looked at.
#[derive(Clone, Copy, Debug)]
enum Check {
    /// Its digest.
    Content(PieceNumber, PieceDigest),
    /// Whether the file reaches that far: what a missing file costs to notice.
    Presence(PieceNumber, PieceDigest),
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
            (Accused::Peer(server), Some(range)) => self.count_against(&cell, client, server, &range).await,
            // The reports of the pieces themselves follow, each for its own.
            (Accused::Peer(_), None) => Ok(()),
            (Accused::Seed, range) => self.look_at_own(&cell, range),
        }
    }

    async fn count_against(
        &self,
        cell: &Cell,
        client: ClientId,
        server: ClientId,
        range: &RangeInclusive<u64>,
    ) -> Result<(), CallError> {
        let room = self.committer.room().await?;
        let mut effects = Effects::default();
        let ticket = {
            let mut inner = cell.lock();
            let piece = inner.swarm.piece_of_range(range)?;
            let report = Report::PieceFailed { piece, server: Some(server) };
            inner.swarm.handle(self.now(), Event::FromClient { client, report }, &mut effects)?;
            inner.submit(room, &mut effects)
        };
        ticket.durable().await?;
        cell.wake(effects.openings);
        Ok(())
    }

    /// Looks at our own pieces in the background: one look at a time, however many ask for it.
    fn look_at_own(self: &Arc<Self>, cell: &Arc<Cell>, range: Option<RangeInclusive<u64>>) -> Result<(), CallError> {
        let (checks, generation, piece_size) = {
            let inner = cell.lock();
            let swarm = &inner.swarm;
            let checks: Vec<Check> = match range {
                Some(range) => {
                    let piece = swarm.piece_of_range(&range)?;
                    swarm.stored_piece(piece).map(|digest| Check::Content(piece, digest)).into_iter().collect()
                }
                None => swarm.stored_pieces().map(|(piece, digest)| Check::Presence(piece, digest)).collect(),
            };
            (checks, swarm.status().generation, swarm.status().piece_size)
        };
        let Ok(place) = self.looks.clone().try_acquire_owned() else { return Ok(()) };
        let (cluster, cell) = (self.clone(), cell.clone());
        self.background.spawn(async move {
            let _place = place;
            let (repository, task) = (cluster.repository.clone(), cell.spec.id);
            let looking = tokio::task::spawn_blocking(move || {
                let file = repository.open_task(&task, generation, piece_size).ok();
                checks.into_iter().filter_map(|check| damaged(check, file.as_ref())).collect::<Vec<PieceNumber>>()
            });
            for piece in looking.await.unwrap_or_default() {
                tracing::warn!(task = %cell.spec.id, %piece, "stored piece is damaged or gone and will be fetched again");
                // A failed commit stops the service, which is told of it by the committer.
                let _ = cluster.record(&cell, Event::PieceLost { piece }).await;
            }
            let unfinished = {
                let inner = cell.lock();
                !inner.swarm.is_whole() && inner.swarm.failure().is_none()
            };
            if unfinished {
                cluster.ensure_fetching(&cell);
            }
        });
        Ok(())
    }
}

fn damaged(check: Check, file: Option<&PieceFile>) -> Option<PieceNumber> {
    let (piece, sound) = match check {
        Check::Content(piece, digest) => {
            (piece, file.is_some_and(|file| matches!(file.read_verified(piece, &digest), Ok(Some(_)))))
        }
        Check::Presence(piece, digest) => (piece, file.is_some_and(|file| file.reaches(piece, &digest).unwrap_or(false))),
    };
    (!sound).then_some(piece)
}
