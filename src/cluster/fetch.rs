//! The course of the downloads of the tasks' sources.

use std::sync::Arc;
use std::time::Duration;

use super::cell::{Cell, Fetching, Inner, Probe};
use super::ledger::CellLedger;
use super::refusals::Rest;
use super::revalidation::Validated;
use super::{Cluster, Refused, pieces_on_disk};
use crate::cdn::{FetchError, Fetched, Known, LedgerError, Start};
use crate::domain::{CdnPattern, Failure, Fault, Generation, PieceDigest, PieceNumber, SourceState, TaskSpec};
use crate::origin::OriginError;
use crate::swarm::{Effects, Event};
use crate::telemetry::metrics::METRICS;

/// How long a file for which there was no room stays refused.
const NO_ROOM_WAIT: Duration = Duration::from_secs(1);

impl Cluster {
    /// Begins to fetch what is missing of a task, unless that is under way.
    pub(super) fn ensure_fetching(self: &Arc<Self>, cell: &Arc<Cell>) {
        let (spec, generation) = {
            let mut inner = cell.lock();
            let Some(spec) = inner.begin_fetching() else { return };
            (spec, inner.swarm.status().generation)
        };
        let (cluster, cell) = (self.clone(), cell.clone());
        self.spawn(async move {
            METRICS.cdn_trigger.inc();
            // Boxed: each that wraps it would hold it twice, before and while it runs.
            let fetching = cell.ended.run_until_cancelled(Box::pin(cluster.fetch(&cell, &spec)));
            let Some(Some(outcome)) = cluster.stopping.run_until_cancelled(fetching).await else { return };
            match outcome {
                Ok(Some(fetched)) => cluster.finish(&cell, fetched).await,
                Ok(None) => {}
                Err(FetchError::Ledger(LedgerError::Stopping)) => {}
                Err(error) => {
                    cluster.trim_file(&cell, generation).await;
                    if error.is_want_of_room() {
                        cluster.give_up_file(&cell, generation).await;
                    }
                    cluster.fail(&cell, generation, About::Download, &error).await;
                }
            }
            // A piece may have been lost while others were fetched.
            let resting = cell.lock().resting(cluster.now(), cluster.config().fail_access_interval).is_some();
            if !resting && cell.lock().is_unfinished() {
                cluster.ensure_fetching(&cell);
            }
        });
    }

    /// Fetches what is to be here of a source; `None` where nothing is, or where all of it came at once and that is noted.
    async fn fetch(self: &Arc<Self>, cell: &Arc<Cell>, spec: &TaskSpec) -> Result<Option<Fetched>, FetchError> {
        if spec.headers_left_out {
            return Err(OriginError::HeadersLeftOut.into());
        }
        if cell.lock().swarm.status().pattern == CdnPattern::Source {
            return self.refer(cell, spec).await.map(|()| None);
        }
        if let Some(lost) = lost_pieces(cell) {
            return self.mend(cell, spec, lost).await.map(Some);
        }
        let mut start = start_of(cell);
        if !start.stored.is_empty() {
            let (store, repository, task) = (self.store(), self.repository.clone(), cell.spec.id);
            let status = cell.lock().swarm.status().clone();
            let opening = self.blocking(move || pieces_on_disk::open(&store, &repository, &task, &status));
            start.bytes = opening.await.map_err(|_| LedgerError::Stopping)??;
        }
        if let Some(known) = &start.known {
            log_fetching(&cell.spec, known.length, start.stored.len());
            // What is missing counts already, now that it is on its way again.
            drop(self.make_room(0).await?);
            let stored = start.stored.iter().map(|digest| u64::from(digest.slot_len())).sum();
            self.check_room_on_disk(known.length.unwrap_or_default().saturating_sub(stored)).await?;
        }
        tracing::debug!(task = %cell.spec.id, "asking the source");
        let fetched = self.worker.fetch(spec, start, &CellLedger { cluster: self, cell }).await?;
        let Some(fetched) = fetched else { return Ok(None) };
        // Clients were told of pieces that are past its end.
        let inner = cell.lock();
        if inner.swarm.status().piece_size.piece_count(fetched.length) < Some(inner.swarm.known_end()) {
            return Err(OriginError::Changed.into());
        }
        Ok(Some(fetched))
    }

    /// Fetches again what was lost of a source that was here whole: those pieces, and nothing else.
    async fn mend(self: &Arc<Self>, cell: &Arc<Cell>, spec: &TaskSpec, lost: LostPieces) -> Result<Fetched, FetchError> {
        tracing::info!(task = %cell.spec.id, pieces = lost.missing.len(), "fetching lost pieces again");
        self.check_room_on_disk(lost.missing.iter().map(|(_, digest)| u64::from(digest.slot_len())).sum()).await?;
        let ledger = CellLedger { cluster: self, cell };
        self.worker.mend(spec, lost.generation, &lost.known, lost.missing, &ledger).await?;
        if lost.known.is_small() {
            // It may have had a file: its length was not known, or a program before schema 4 fetched it.
            self.remove_file(&cell.spec.id, lost.generation).await;
        }
        Ok(lost.whole)
    }

    async fn finish(&self, cell: &Cell, fetched: Fetched) {
        // A committer that takes nothing stops the service, which is told of it.
        let Ok(room) = self.committer.room().await else { return };
        let mut effects = Effects::default();
        let ticket = {
            let Ok(mut inner) = cell.live() else { return };
            self.note_finished(&mut inner, fetched, &mut effects);
            cell.probe.send_replace(Probe::Answered);
            inner.submit(room, &mut effects)
        };
        cell.wake(effects.openings);
        if ticket.durable().await.is_ok() {
            tell_finished(&cell.spec, fetched);
        }
    }

    /// Takes in that a download has ended, and all of its source is here.
    pub(super) fn note_finished(&self, inner: &mut Inner, fetched: Fetched, effects: &mut Effects) {
        let now = self.now();
        inner.fetching = Fetching::Idle { failed: None };
        inner.touch(now);
        inner.validated = Validated::now(now);
        let event = Event::SourceFinished { md5: fetched.md5, length: fetched.length };
        // The swarm refuses nothing that its own worker tells.
        let _ = inner.swarm.handle(now, event, effects);
        if inner.swarm.is_whole() {
            inner.drop_headers(effects);
        }
    }

    /// Cuts off what was written of pieces that are not whole: nothing counts it. Nobody else writes the file, whose download
    /// has ended and is not noted as over yet.
    async fn trim_file(&self, cell: &Cell, generation: Generation) {
        // A piece that was just found to be lost still counts in the database until then.
        if self.settled().await.is_err() {
            return;
        }
        let (piece_size, pieces) = {
            let inner = cell.lock();
            let status = inner.swarm.status();
            if status.generation != generation || status.pattern == CdnPattern::Source {
                return;
            }
            (status.piece_size, inner.swarm.stored_pieces().last().map_or(0, |(piece, _)| piece.0 + 1))
        };
        let (repository, task) = (self.repository.clone(), cell.spec.id);
        let trimmed = self.blocking(move || repository.trim(&task, generation, piece_size, pieces)).await;
        if let Ok(Err(error)) = trimmed {
            tracing::warn!(task = %cell.spec.id, error = &error as &dyn std::error::Error, "what is left of a download stays behind");
        }
    }

    /// Makes the file go of a download for which the disk has no room: it is in the way of everything else, the database
    /// included. Its pieces are recorded as lost before, while nobody else may begin to fetch them. Where the source was here
    /// whole, what is left of it stays: clients have been told that all of it is here.
    async fn give_up_file(&self, cell: &Cell, generation: Generation) {
        loop {
            let Ok(room) = self.committer.room().await else { return };
            let ticket = {
                let Ok(mut inner) = cell.live() else { return };
                let status = inner.swarm.status();
                if status.generation != generation || status.state != SourceState::Running {
                    return;
                }
                let pieces: Vec<_> =
                    inner.swarm.stored_pieces().map(|(piece, _)| piece).take(pieces_on_disk::LOST_AT_ONCE).collect();
                if pieces.is_empty() {
                    break;
                }
                let mut effects = Effects::default();
                for piece in pieces {
                    // The swarm refuses nothing that its own worker tells.
                    let _ = inner.swarm.handle(self.now(), Event::PieceLost { piece }, &mut effects);
                }
                inner.submit(room, &mut effects)
            };
            // A commit that fails stops the service, which makes room for its database then.
            if ticket.durable().await.is_err() {
                return;
            }
        }
        self.remove_file(&cell.spec.id, generation).await;
    }

    /// Takes in that a generation's source gave nothing. One that has ended meanwhile has no part in it.
    pub(super) async fn fail(&self, cell: &Cell, generation: Generation, about: About, error: &FetchError) {
        let Ok(room) = self.committer.room().await else { return };
        let now = self.now();
        let (refused, rest) = Refused::of(error);
        let mut effects = Effects::default();
        let ticket = {
            let mut tasks = self.tasks.write();
            let Ok(mut inner) = cell.live() else { return };
            if inner.swarm.status().generation != generation || !about.is_still(&inner.fetching) {
                return;
            }
            log_failure(&cell.spec, error);
            METRICS.cdn_download_failed.inc();
            match &inner.swarm.status().state {
                // Peers hold what was lost here, and go on serving it; it is tried again later. Only a source that is another
                // now ends what they have, and one that is gone, or for which there is no room, what nobody has.
                SourceState::Success { .. }
                    if inner.swarm.status().pattern == CdnPattern::Local
                        && !is_contradiction(error)
                        && (!(rest == Rest::Missing || error.lacks_room()) || inner.swarm.is_held_by_peers()) =>
                {
                    inner.note_failure(now, refused, rest);
                    return;
                }
                // Nobody was told of this task: it leaves nothing but the memory of its refusal.
                SourceState::Waiting if inner.swarm.members() == 0 && !inner.stored => {
                    METRICS.cdn_trigger_failed.inc();
                    inner.fetching = Fetching::Removed;
                    tasks.remove(&cell.spec.id);
                    // What is in use now may not be in a moment; that has nothing to do with the source.
                    let longest = if error.lacks_room() { NO_ROOM_WAIT } else { self.config().fail_access_interval };
                    self.refusals.lock().remember(cell.spec.id, refused.clone(), rest, now, longest);
                    cell.probe.send_replace(Probe::Refused(refused));
                    return;
                }
                SourceState::Waiting | SourceState::Running | SourceState::Success { .. } | SourceState::Failed(_) => {
                    let pattern = inner.swarm.status().pattern;
                    inner.note_failure(now, refused.clone(), rest);
                    cell.probe.send_replace(Probe::Refused(refused));
                    // The swarm refuses nothing that its own worker tells.
                    let _ = inner.swarm.handle(now, Event::SourceFailed(failure_of(error, pattern)), &mut effects);
                    // Only a registration has it tried again, and brings its own.
                    inner.drop_headers(&mut effects);
                    inner.submit(room, &mut effects)
                }
            }
        };
        cell.wake(effects.openings);
        // A commit that fails stops the service.
        let _ = ticket.durable().await;
    }

    /// Takes an event of the worker in and returns once it is durable.
    pub(super) async fn record(&self, cell: &Cell, event: Event) -> Result<(), LedgerError> {
        let room = self.committer.room().await.map_err(|_| LedgerError::Stopping)?;
        let mut effects = Effects::default();
        let ticket = {
            let mut inner = cell.live().map_err(|_| LedgerError::Stopping)?;
            // From here on it counts as stored, and no longer as coming.
            if let Event::PieceStored { digest, .. } = &event {
                inner.has_come(digest.slot_len().into());
            }
            inner.swarm.handle(self.now(), event, &mut effects).map_err(|_| LedgerError::Contradiction)?;
            inner.submit(room, &mut effects)
        };
        // Whoever is woken waits for the same ticket before it is answered.
        cell.wake(effects.openings);
        ticket.durable().await.map_err(|_| LedgerError::Stopping)
    }
}

/// What has failed.
#[derive(Clone, Copy, Debug)]
pub(super) enum About {
    /// The fetching that is under way.
    Download,
    /// What was fetched, or found out, before.
    Answered,
}

impl About {
    const fn is_still(self, fetching: &Fetching) -> bool {
        match self {
            Self::Download => matches!(fetching, Fetching::Underway { .. }),
            Self::Answered => matches!(fetching, Fetching::Idle { .. }),
        }
    }
}

/// Whether what clients have been told is not so.
const fn is_contradiction(error: &FetchError) -> bool {
    matches!(error, FetchError::Origin(OriginError::Changed) | FetchError::Ledger(LedgerError::Contradiction))
}

pub(super) fn tell_finished(spec: &TaskSpec, fetched: Fetched) {
    let url = crate::domain::task::redacted_url(&spec.raw_url);
    tracing::info!(task = %spec.id, url, length = fetched.length, "source is here whole");
    METRICS.cdn_download.inc();
}

/// Once its length is known, if it will be: what comes with its head is here before there is anything to say of it.
pub(super) fn log_fetching(spec: &TaskSpec, length: Option<u64>, first_piece: usize) {
    let url = crate::domain::task::redacted_url(&spec.raw_url);
    tracing::info!(task = %spec.id, url, length, first_piece, "fetching the source");
}

fn log_failure(spec: &TaskSpec, error: &FetchError) {
    let (task, url) = (spec.id, crate::domain::task::redacted_url(&spec.raw_url));
    let why = error as &dyn std::error::Error;
    match error {
        // The source has no part in it.
        FetchError::Disk(_) | FetchError::Ledger(_) => {
            tracing::warn!(%task, url, error = why, "what the source sends cannot be kept");
        }
        _ => tracing::warn!(%task, url, error = why, "source cannot be fetched"),
    }
}

/// What is missing of a source that was here whole.
struct LostPieces {
    whole: Fetched,
    generation: Generation,
    known: Known,
    missing: Vec<(PieceNumber, PieceDigest)>,
}

/// What is missing of a source, if that was here whole.
fn lost_pieces(cell: &Cell) -> Option<LostPieces> {
    let inner = cell.lock();
    let status = inner.swarm.status();
    let SourceState::Success { md5: Some(md5), length } = status.state else { return None };
    let known = Known { piece_size: status.piece_size, length: Some(length), validators: status.validators.clone() };
    Some(LostPieces {
        whole: Fetched { md5, length },
        generation: status.generation,
        known,
        missing: inner.swarm.missing_pieces(),
    })
}

/// Where the download of a task begins, from what its swarm knows to be stored.
fn start_of(cell: &Cell) -> Start {
    let mut inner = cell.lock();
    let recovered = !std::mem::replace(&mut inner.fetched_here, true);
    let status = inner.swarm.status();
    let known = (status.state != SourceState::Waiting).then(|| Known {
        piece_size: status.piece_size,
        length: status.length,
        validators: status.validators.clone(),
    });
    let stored = (0..inner.swarm.stored_prefix()).map_while(|piece| inner.swarm.stored_piece(PieceNumber(piece))).collect();
    Start { generation: status.generation, known, stored, recovered, bytes: None }
}

/// The whole chain of an error in one sentence, for clients.
pub fn reason(error: &FetchError) -> String {
    match error {
        FetchError::Disk(error) => error.without_path(),
        error => chain(error),
    }
}

/// The whole chain of an error in one sentence.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // A transparent error repeats its cause.
        if !reason.ends_with(&text) {
            reason.push_str(": ");
            reason.push_str(&text);
        }
        source = cause.source();
    }
    reason
}

fn failure_of(error: &FetchError, pattern: CdnPattern) -> Failure {
    let (fault, discard) = match error {
        FetchError::Origin(OriginError::Forbidden(_)) => (Fault::Supernode, pattern == CdnPattern::Source),
        // What its clients fetched by themselves is nothing that could be gone on with here.
        _ if pattern == CdnPattern::Source => (Fault::Source, true),
        // Of what does not fit what was asked for, nothing is believed; asked for the same part again it would say the same.
        FetchError::Origin(OriginError::Changed | OriginError::RangeIgnored | OriginError::Part { .. })
        | FetchError::Ledger(LedgerError::Stopping | LedgerError::Contradiction) => (Fault::Source, true),
        FetchError::Disk(_)
        | FetchError::Ledger(
            LedgerError::NoRoom { .. }
            | LedgerError::DiskFull { .. }
            | LedgerError::NoRoomToGrow { .. }
            | LedgerError::TooManyPieces { .. },
        ) => (Fault::Supernode, false),
        FetchError::Origin(_)
        | FetchError::Unfit(_)
        | FetchError::TooLong(_)
        | FetchError::Length { .. }
        | FetchError::Slow { .. }
        | FetchError::GaveWay { .. }
        | FetchError::BodyGaveWay { .. } => (Fault::Source, false),
        FetchError::Md5 { .. } => (Fault::Supernode, true),
    };
    Failure { fault, discard, reason: reason(error) }
}
