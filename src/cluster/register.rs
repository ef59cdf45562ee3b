//! Registration: a client names a URL and becomes a member of its task.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cell::{Cell, Fetching, Probe};
use super::forget::Forgotten;
use super::{CallError, Cluster, Refused};
use crate::domain::{
    CdnPattern, Change, ClientVersion, Endpoint, Generation, Peer, PieceSize, SourceState, TaskId, TaskSpec, TaskStatus,
};
use crate::store::Room;
use crate::swarm::{Effects, Event, Introduction, Swarm};
use crate::telemetry::metrics::METRICS;

/// How long a registration waits for the source's first answer. Clients give a registration 5 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// How often a `dfget` is told to ask again before it is told that the length is unknown. It gives up after that.
const PUT_OFF_MAX: u8 = 3;

/// Tasks at once, each with a file on disk.
const TASKS_MAX: usize = 1 << 20;
/// Clients of one task that are told to ask again; others are told what is known.
const PUT_OFF_CLIENTS_MAX: usize = 65_536;
/// How often a registration may find its task gone the moment it found it.
const RACES_MAX: usize = 3;

/// What a client brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub spec: TaskSpec,
    pub peer: Peer,
    /// Under which path it serves what it gets.
    pub path: Arc<str>,
}

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    pub task: TaskId,
    /// Bytes of the source, if known.
    pub length: Option<u64>,
    pub piece_size: PieceSize,
    /// Whom it will be sent to for what no peer has.
    pub pattern: CdnPattern,
}

impl Cluster {
    /// Makes the client a member of its task, which is created if it is new. Returns once that is durable.
    pub async fn register(self: &Arc<Self>, registration: Registration) -> Result<Registered, CallError> {
        if self.is_draining() {
            return Err(CallError::AskAgain);
        }
        self.check_can_be_sent(&registration.spec, ClientVersion::parse(&registration.peer.version))?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        for _ in 0..RACES_MAX {
            let cell = self.cell_for(&registration.spec).await?;
            self.revalidate(&cell, &registration.spec).await;
            let mut probe = cell.probe.subscribe();
            let answer = tokio::time::timeout_at(deadline, probe.wait_for(|probe| !matches!(probe, Probe::Pending))).await;
            match answer.map(|probe| probe.map(|probe| probe.clone())) {
                // Others asked for it, and this one may be let in.
                Ok(Ok(Probe::Refused(refused)))
                    if refused.is_of_credentials() && cell.lock().would_ask_again_for(&registration.spec) =>
                {
                    continue;
                }
                Ok(Ok(Probe::Refused(refused))) => return Err(refused.into()),
                // Whether it may be fetched at all is not known yet.
                Err(_) if cell.lock().authenticating => return Err(CallError::AskAgain),
                // The length stays unknown to a client that does not ask again, and to one that has often enough.
                Err(_) if put_off(&cell, &registration) => return Err(CallError::AskAgain),
                Ok(Ok(Probe::Answered | Probe::Pending) | Err(_)) | Err(_) => {}
            }
            match self.join(&cell, registration.clone()).await {
                // It was forgotten in between: this registration is the first of the next.
                Err(CallError::UnknownTask(_)) => {}
                joined => return joined,
            }
        }
        Err(CallError::AskAgain)
    }

    async fn join(&self, cell: &Cell, registration: Registration) -> Result<Registered, CallError> {
        let Registration { spec, peer, path } = registration;
        let endpoint = Endpoint { client: peer.id.clone(), ip: peer.ip, port: peer.port, path };
        let mut intro = Introduction {
            server: self.servers.lock().at(peer.ip, peer.port),
            version: ClientVersion::parse(&peer.version),
            call_system: METRICS.call_system(&peer.call_system),
            seed_host: peer.seed_host.clone(),
            own_url: None,
            endpoint: Arc::new(endpoint),
        };
        let call_system = intro.call_system.clone();
        let room = self.committer.room().await?;
        let mut effects = Effects::default();
        let (registered, ticket) = {
            let mut inner = cell.live()?;
            inner.admits(intro.version)?;
            if inner.swarm.status().pattern == CdnPattern::Source && spec.raw_url != cell.spec.task_url {
                intro.own_url = Some(spec.raw_url.into());
            }
            let now = self.now();
            inner.swarm.handle(now, Event::ClientRegistered(intro), &mut effects)?;
            inner.touch(now);
            self.alone.join(&peer.id);
            effects.changes.push(Change::PeerSeen(Arc::new(peer)));
            if let Some(defined) = inner.define() {
                effects.changes.push(defined);
                effects.changes.push(Change::TaskProgressed { task: cell.spec.id, status: inner.swarm.status().clone() });
            }
            let status = inner.swarm.status();
            let registered =
                Registered { task: cell.spec.id, length: status.length, piece_size: status.piece_size, pattern: status.pattern };
            (registered, inner.submit(room, &mut effects))
        };
        ticket.durable().await?;
        METRICS.tasks_registered.inc();
        METRICS.dfget_tasks_registered.with_label_values(&[&*call_system]).inc();
        Ok(registered)
    }

    /// The task that this registration is for, its source being asked or answered.
    pub(super) async fn cell_for(self: &Arc<Self>, spec: &TaskSpec) -> Result<Arc<Cell>, CallError> {
        for _ in 0..RACES_MAX {
            if let Some(refused) = self.refusals.lock().get(&spec.id, self.now()) {
                return Err(refused.into());
            }
            // Before it is entered: what could never be stored would be a task that waits for ever.
            let room = self.committer.room().await?;
            let cell = self.known_or_new(spec)?;
            check_same(spec, &cell.spec)?;
            if self.is_to_change(&cell.lock()) {
                self.change_pattern(&cell, room).await;
                continue;
            }
            cell.lock().take_headers_of(spec);
            if self.revive(&cell, room).await? {
                return Ok(cell);
            }
        }
        Err(gave_nothing().into())
    }

    fn known_or_new(self: &Arc<Self>, spec: &TaskSpec) -> Result<Arc<Cell>, CallError> {
        if let Some(cell) = self.tasks.read().get(&spec.id) {
            METRICS.cdn_cache_hit.inc();
            return Ok(cell.clone());
        }
        let mut tasks = self.tasks.write();
        if tasks.len() >= TASKS_MAX && !tasks.contains_key(&spec.id) {
            return Err(Refused::Ours(format!("there are {TASKS_MAX} tasks, and no more at once")).into());
        }
        // Somebody else may have created it in between.
        let created = tasks.entry(spec.id).or_insert_with(|| {
            let forgotten = self.forgotten.lock().remove(&spec.id);
            if let Some(Forgotten { generation, file_kept: true, .. }) = forgotten {
                self.remove_file_later(spec.id, generation);
            }
            let generation = forgotten.map_or(Generation::FIRST, |forgotten| forgotten.generation.next());
            let status = TaskStatus::waiting(generation, self.config().cdn_pattern);
            Arc::new(Cell::new(
                Arc::new(spec.clone()),
                Swarm::new(spec.id, self.limits(), status),
                Probe::Pending,
                false,
                self.now(),
            ))
        });
        Ok(created.clone())
    }

    /// Has the source asked for what is missing; a failed one only once that has had its wait. `false` where the task is no
    /// longer among the tasks.
    async fn revive(self: &Arc<Self>, cell: &Arc<Cell>, room: Room) -> Result<bool, CallError> {
        let now = self.now();
        let mut effects = Effects::default();
        let mut ended = None;
        {
            let mut inner = cell.lock();
            match inner.fetching {
                Fetching::Removed => return Ok(false),
                Fetching::Underway { .. } => return Ok(true),
                Fetching::Idle { .. } if inner.swarm.is_whole() => return Ok(true),
                Fetching::Idle { .. } => {}
            }
            let resting = inner.resting(now, self.config().fail_access_interval).map(|last| last.refused.clone());
            match (inner.swarm.failure().cloned(), resting) {
                (Some(_), Some(refused)) => return Err(refused.into()),
                // Pieces were lost of a task that peers still serve; they are asked for again after the wait.
                (None, Some(_)) => return Ok(true),
                (None, None) => {}
                (Some(failure), None) => {
                    if failure.discard {
                        ended = Some(inner.swarm.status().generation);
                        inner.swarm.next_generation(now, self.config().cdn_pattern, &mut effects);
                    } else {
                        inner.swarm.handle(now, Event::SourceRetried, &mut effects)?;
                    }
                    let answered = inner.swarm.status().state != SourceState::Waiting;
                    cell.probe.send_replace(if answered { Probe::Answered } else { Probe::Pending });
                    // Nothing is answered on the strength of this change alone: what it begins is committed after it.
                    let _ = inner.submit(room, &mut effects);
                }
            }
        }
        if let Some(generation) = ended {
            self.remove_file_later(cell.spec.id, generation);
        }
        self.ensure_fetching(cell);
        Ok(true)
    }

    /// The same as [`Self::remove_file`], for whoever has somebody to answer.
    fn remove_file_later(self: &Arc<Self>, task: TaskId, generation: Generation) {
        let cluster = self.clone();
        self.spawn(async move { cluster.remove_file(&task, generation).await });
    }

    /// Removes the file of a generation whose end was submitted, once nothing that is stored names it: a crash in between
    /// leaves a file without rows, which the next start removes, and never rows without a file.
    pub(super) async fn remove_file(&self, task: &TaskId, generation: Generation) {
        if self.settled().await.is_ok() {
            self.remove_file_at_once(task, generation).await;
        }
    }

    /// Removes a file whatever is stored of it.
    pub(super) async fn remove_file_at_once(&self, task: &TaskId, generation: Generation) {
        let (repository, id) = (self.repository.clone(), *task);
        let removed = self.blocking(move || repository.remove(&id, generation)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%task, error = &error as &dyn std::error::Error, "file of an earlier generation stays behind");
        }
    }
}

fn gave_nothing() -> Refused {
    Refused::Unreachable("the source gave nothing".into())
}

/// Whether this client should ask again, rather than be told that the length is unknown.
fn put_off(cell: &Cell, registration: &Registration) -> bool {
    if !ClientVersion::parse(&registration.peer.version).is_dfget() {
        return false;
    }
    let mut inner = cell.lock();
    if inner.put_off.len() >= PUT_OFF_CLIENTS_MAX && !inner.put_off.contains_key(&registration.peer.id) {
        return false;
    }
    let times = inner.put_off.entry(registration.peer.id.clone()).or_default();
    *times = times.saturating_add(1);
    *times <= PUT_OFF_MAX
}

/// Whether a text is a URL that can be fetched; if not, why.
pub fn check_url(text: &str) -> Result<url::Url, String> {
    crate::origin::parse_url(text).map_err(|_| "is not a valid http or https URL".to_owned())
}

/// Two registrations of one task id must mean the same download. Filters may make their `raw_url` differ.
fn check_same(new: &TaskSpec, known: &TaskSpec) -> Result<(), CallError> {
    if new.task_url != known.task_url {
        return Err(CallError::Conflict("taskUrl"));
    }
    if new.md5 != known.md5 {
        return Err(CallError::Conflict("md5"));
    }
    if new.identifier != known.identifier {
        return Err(CallError::Conflict("identifier"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_cannot_be_stored_leaves_no_task() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config { home: dir.path().to_owned(), ..Config::default() };
        let cluster = Cluster::open(config).expect("opened");
        let spec = TaskSpec::of_url("http://h/f");
        // As after a failed write: nothing is taken any more.
        cluster.committer.stop();
        assert!(matches!(cluster.cell_for(&spec).await, Err(CallError::Commit(_))));
        assert!(cluster.tasks.read().is_empty(), "it waits for a source that nobody asks");
    }
}
