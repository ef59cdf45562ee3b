//! Tasks whose bytes stay at their source (`cdnPattern: source`): clients fetch there what no peer has, and the supernode
//! only says who fetches what from whom.
//!
//! A source is asked for its first byte when a task begins, which proves that it can be fetched part by part, and once more
//! whenever a cached file would be. Nothing of it is stored here but what it said of itself.

use std::sync::Arc;
use std::time::Duration;

use super::cell::{Cell, Fetching, Inner, Probe};
use super::fetch::About;
use super::revalidation::{Question, Validated};
use super::{CallError, Cluster, Refused};
use crate::cdn::{FetchError, LedgerError};
use crate::domain::{CdnPattern, ClientId, ClientVersion, Generation, PieceSize, SourceState, TaskId, TaskSpec, TaskStatus};
use crate::origin::Probed;
use crate::store::Room;
use crate::swarm::{Effects, Event};

/// A source that failed clients is asked about that no more often. A report costs its sender nothing.
const DOUBTED_EVERY: Duration = Duration::from_secs(2);
/// The longest URL that clients are sent to. Bytes. It is told with every piece, and kept for every client with one of its own.
pub const SOURCE_URL_MAX_BYTES: usize = 8 * 1024;
const NOT_UNDERSTOOD: &str = "clients fetch this file from its source part by part (cdnPattern is source), which only dfget \
                              1.0.1 to 1.0.6 can: fetch it from the source, or have the supernode use cdnPattern local";

/// Files of no more pieces are not counted together: 1 GiB to 15 GiB.
const FEW_PIECES: u32 = 1024;
/// Pieces of all larger files that clients fetch at their sources, each some 60 bytes of memory.
const PIECES_AT_SOURCES_MAX: u64 = 1 << 20;

impl Cluster {
    /// Refuses a client that could not do what it would be told, before anybody is asked for its sake.
    pub(super) fn check_can_be_sent(&self, spec: &TaskSpec, version: ClientVersion) -> Result<(), CallError> {
        let configured = self.config().cdn_pattern;
        let pattern = self.cell(&spec.id).map_or(configured, |cell| {
            let inner = cell.lock();
            if self.is_to_change(&inner) { configured } else { inner.swarm.status().pattern }
        });
        understood(pattern, version)?;
        if pattern == CdnPattern::Source && spec.raw_url.len().max(spec.task_url.len()) > SOURCE_URL_MAX_BYTES {
            let reason = format!("clients are sent to no URL of more than {SOURCE_URL_MAX_BYTES} bytes (cdnPattern is source)");
            return Err(Refused::Unreachable(reason).into());
        }
        Ok(())
    }

    /// Whether a task began under another `cdnPattern` than the one that is configured, and nobody is in its midst.
    pub(super) fn is_to_change(&self, inner: &Inner) -> bool {
        let is_idle = matches!(inner.fetching, Fetching::Idle { .. });
        is_idle && inner.swarm.status().pattern != self.config().cdn_pattern && inner.in_use(self.now()).is_none()
    }

    /// Begins a task anew whose `cdnPattern` is no longer the one that is configured, unless clients are in its midst, which
    /// finish as they began.
    pub(super) async fn change_pattern(&self, cell: &Cell, room: Room) {
        let mut effects = Effects::default();
        let over = {
            let Ok(mut inner) = cell.live() else { return };
            if !self.is_to_change(&inner) {
                return;
            }
            let over = inner.swarm.status().generation;
            inner.swarm.next_generation(self.now(), self.config().cdn_pattern, &mut effects);
            inner.fetching = Fetching::Idle { failed: None };
            cell.probe.send_replace(Probe::Pending);
            // Nobody is told of it before something else of the task is.
            let _ = inner.submit(room, &mut effects);
            over
        };
        tracing::info!(task = %cell.spec.id, "cdnPattern is another than when this task began: beginning it anew");
        cell.wake(effects.openings);
        self.remove_file(&cell.spec.id, over).await;
    }

    /// Asks a source what clients will be sent there for, and lets them in.
    pub(super) async fn refer(&self, cell: &Cell, spec: &TaskSpec) -> Result<(), FetchError> {
        let Probed { length, validators } = self.worker.probe(spec).await?;
        let piece_size = PieceSize::for_length(Some(length));
        self.refuse_too_many_pieces(piece_size.bare_piece_count(length).unwrap_or_default())?;
        let room = self.committer.room().await.map_err(|_| LedgerError::Stopping)?;
        let mut effects = Effects::default();
        let ticket = {
            let mut inner = cell.live().map_err(|_| LedgerError::Stopping)?;
            let status = TaskStatus {
                generation: inner.swarm.status().generation,
                pattern: CdnPattern::Source,
                piece_size,
                length: Some(length),
                validators,
                state: SourceState::Success { md5: None, length },
            };
            if status.piece_count().is_none() {
                return Err(FetchError::TooLong(length));
            }
            // Only a registration has it asked again, and brings its own.
            inner.drop_headers(&mut effects);
            effects.changes.extend(inner.define());
            let now = self.now();
            inner.swarm.handle(now, Event::SourceAnswered(status), &mut effects).map_err(|_| LedgerError::Contradiction)?;
            inner.fetching = Fetching::Idle { failed: None };
            inner.validated = Validated::now(now);
            inner.put_off.clear();
            cell.probe.send_replace(Probe::Answered);
            inner.submit(room, &mut effects)
        };
        cell.wake(effects.openings);
        ticket.durable().await.map_err(|_| LedgerError::Stopping)?;
        self.refusals.lock().forget(&cell.spec.id);
        tracing::info!(task = %cell.spec.id, length, "clients are sent to the source");
        Ok(())
    }

    /// All pieces of such a file exist as soon as its source says how long it is, which costs that nothing.
    fn refuse_too_many_pieces(&self, more: u32) -> Result<(), LedgerError> {
        if more <= FEW_PIECES {
            return Ok(());
        }
        let pieces_of = |cell: Arc<Cell>| {
            let inner = cell.lock();
            let status = inner.swarm.status();
            let many = status.piece_count().filter(|count| status.pattern == CdnPattern::Source && *count > FEW_PIECES);
            u64::from(many.unwrap_or_default())
        };
        let held: u64 = self.cells().into_iter().map(pieces_of).sum();
        if held + u64::from(more) > PIECES_AT_SOURCES_MAX { Err(LedgerError::TooManyPieces { held, more }) } else { Ok(()) }
    }

    /// Asks a source that failed a client whether it is still what it was, if it can be asked and was not just now.
    pub(super) fn doubt_source(self: &Arc<Self>, cell: &Arc<Cell>) {
        let question = {
            let mut inner = cell.lock();
            let is_idle = matches!(inner.fetching, Fetching::Idle { .. });
            let is_answered = matches!(inner.swarm.status().state, SourceState::Success { .. });
            let asked_just_now = self.now().since(inner.validated.at()) < DOUBTED_EVERY;
            if !is_idle || !is_answered || asked_just_now || inner.validated.is_asking() || inner.spec.headers_left_out {
                return;
            }
            let spec = inner.spec.clone();
            Question::begin(&mut inner, spec).0
        };
        self.ask_in_background(cell, question);
    }

    /// A source that clients were sent to has nothing for them any more: those in its midst are told to leave.
    pub(super) async fn lose_source(&self, cell: &Cell, generation: Generation, error: &FetchError) {
        cell.lock().validated = Validated::now(self.now());
        self.fail(cell, generation, About::Answered, error).await;
    }

    /// Where this client is sent for a piece that comes from the source, if the task's do: to the URL that it named itself.
    /// Where that is not known any more, to the task's, which is without what is filtered out: a signature of one client is
    /// nothing for another.
    pub fn source_url(&self, task: &TaskId, client: &ClientId) -> Option<Arc<str>> {
        let cell = self.cell(task).ok()?;
        let inner = cell.lock();
        if inner.swarm.status().pattern == CdnPattern::Local {
            return None;
        }
        let own = inner.swarm.introduction(client).and_then(|intro| intro.own_url.clone());
        Some(own.unwrap_or_else(|| cell.spec.task_url.as_str().into()))
    }
}

impl Inner {
    /// Whether a client of this release can become a member as things are.
    pub(super) fn admits(&self, version: ClientVersion) -> Result<(), CallError> {
        let status = self.swarm.status();
        understood(status.pattern, version)?;
        match (status.pattern, &status.state) {
            // The length must be known to whoever is sent to the source.
            (CdnPattern::Source, SourceState::Waiting | SourceState::Running | SourceState::Failed(_)) => {
                Err(CallError::AskAgain)
            }
            (CdnPattern::Source, SourceState::Success { .. }) | (CdnPattern::Local, _) => Ok(()),
        }
    }
}

fn understood(pattern: CdnPattern, version: ClientVersion) -> Result<(), CallError> {
    match pattern {
        CdnPattern::Source if !version.understands_source_pattern() => {
            Err(Refused::Unreachable(NOT_UNDERSTOOD.to_owned()).into())
        }
        CdnPattern::Source | CdnPattern::Local => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http::StatusCode;

    use super::*;
    use crate::config::Config;
    use crate::domain::{Failure, Fault};
    use crate::origin::OriginError;
    use crate::swarm::{Limits, Swarm};

    fn spec() -> TaskSpec {
        TaskSpec::of_url("http://h/f")
    }

    /// A task whose source was asked once, and answered.
    fn answered(pattern: CdnPattern) -> Arc<Cell> {
        let state = SourceState::Success { md5: None, length: 1 };
        let status = TaskStatus { length: Some(1), state, ..TaskStatus::waiting(Generation::FIRST, pattern) };
        let spec = spec();
        let swarm = Swarm::new(spec.id, Limits::default(), status);
        Arc::new(Cell::new(Arc::new(spec), swarm, Probe::Answered, true, crate::domain::Moment(0)))
    }

    fn cluster(dir: &tempfile::TempDir, cdn_pattern: CdnPattern) -> Arc<Cluster> {
        let config = Config { home: dir.path().to_owned(), cdn_pattern, ..Config::default() };
        Cluster::open(config).expect("opened")
    }

    /// All that the committer has, so that whoever wants room waits until this is dropped.
    fn all_rooms(cluster: &Cluster) -> Vec<Room> {
        let room = || tokio::task::unconstrained(cluster.committer.room()).now_or_never();
        std::iter::from_fn(room).map(|room| room.expect("room")).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_source_that_is_lost_is_that_of_no_later_generation() {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = cluster(&dir, CdnPattern::Source);
        for (is_next, is_underway, is_failed) in [(true, false, false), (false, true, false), (false, false, true)] {
            let cell = answered(CdnPattern::Source);
            let rooms = all_rooms(&cluster);
            let gone = FetchError::from(OriginError::Status(StatusCode::NOT_FOUND));
            let mut losing = Box::pin(cluster.lose_source(&cell, Generation::FIRST, &gone));
            assert!(losing.as_mut().now_or_never().is_none(), "it waits for room");
            if is_next {
                cell.lock().swarm.next_generation(cluster.now(), CdnPattern::Source, &mut Effects::default());
            }
            if is_underway {
                cell.lock().begin_fetching().expect("begun");
            }
            drop(rooms);
            losing.await;
            let has_failed = matches!(cell.lock().fetching, Fetching::Idle { failed: Some(_) });
            assert_eq!(has_failed, is_failed, "next generation {is_next}, under way {is_underway}");
        }
        cluster.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_is_given_up_once_that_is_durable() {
        let dir = tempfile::tempdir().expect("a directory");
        for is_durable in [true, false] {
            let cluster = cluster(&dir, CdnPattern::Source);
            let cell = answered(CdnPattern::Local);
            let (task, size) = (cell.spec.id, PieceSize::for_length(Some(1)));
            cluster.repository.create(&task, Generation::FIRST, size).expect("a file");
            let room = cluster.committer.room().await.expect("room");
            if !is_durable {
                cluster.committer.stop();
            }
            cluster.change_pattern(&cell, room).await;
            assert_eq!(cell.lock().swarm.status().pattern, CdnPattern::Source);
            let file = cluster.repository.open_if_there(&task, Generation::FIRST, size).expect("looked");
            assert_eq!(file.is_none(), is_durable);
            cluster.stop().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_clients_fetch_at_the_source_is_not_taken_for_fetched_ahead_of_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = cluster(&dir, CdnPattern::Local);
        let cell = answered(CdnPattern::Source);
        // Somebody is in its midst, so that it stays as it is.
        cell.lock().held.insert(ClientId::parse("a-client").expect("an id"), Arc::default());
        cluster.tasks.write().insert(cell.spec.id, cell.clone());
        let warmed = cluster.warm(&spec()).await;
        assert!(warmed.is_err_and(|why| why.contains("cdnPattern")));
        cluster.stop().await;
    }

    #[test]
    fn nobody_is_let_in_before_the_source_has_told_its_length() {
        let spec = spec();
        let failed = Failure { fault: Fault::Source, discard: true, reason: "404".into() };
        let success = SourceState::Success { md5: None, length: 1 };
        for (pattern, state, admitted) in [
            (CdnPattern::Source, SourceState::Waiting, false),
            (CdnPattern::Source, SourceState::Failed(failed), false),
            (CdnPattern::Source, success, true),
            (CdnPattern::Local, SourceState::Waiting, true),
        ] {
            let status = TaskStatus { length: Some(1), state, ..TaskStatus::waiting(Generation::FIRST, pattern) };
            let swarm = Swarm::new(spec.id, Limits::default(), status.clone());
            let cell = Cell::new(Arc::new(spec.clone()), swarm, Probe::Answered, true, crate::domain::Moment(0));
            let inner = cell.lock();
            match inner.admits(ClientVersion::parse("1.0.6")) {
                Ok(()) => assert!(admitted, "{status:?}"),
                Err(CallError::AskAgain) => assert!(!admitted, "{status:?}"),
                Err(error) => panic!("{status:?}: {error}"),
            }
            let old = inner.admits(ClientVersion::parse("0.4.3"));
            assert_eq!(old.is_ok(), pattern == CdnPattern::Local, "{status:?}");
        }
    }
}
