//! Forgetting: a task with its clients and its bytes, or a peer with what it serves.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::cell::{Cell, Fetching, Inner, Probe};
use super::{CallError, Cluster};
use crate::domain::{Change, ClientId, Generation, Moment, TaskId};
use crate::retention::Cached;
use crate::swarm::Effects;

/// A write of a forgotten task that is still on its way has arrived after this long.
const WRITES_ARRIVE_WITHIN: Duration = Duration::from_mins(10);
/// Clients of a task that are forgotten at once, before the task itself: each takes rows of the database with it.
const CLIENTS_AT_ONCE: usize = 128;
/// Forgotten tasks remembered at once; beyond that, any one makes room.
const FORGOTTEN_MAX: usize = 65_536;

/// What is left of a forgotten task until it is registered again or the service ends.
#[derive(Clone, Copy, Debug)]
pub struct Forgotten {
    pub at: Moment,
    /// A write of the old task may still be on its way to the file of this generation: the next task takes another.
    pub generation: Generation,
    pub file_kept: bool,
}

impl Cluster {
    /// Forgets a task. A download of its source stops, its clients meet an unknown task, and it is as if it had never
    /// been registered. Its file goes as well if so told; otherwise with the task's next registration, after
    /// `taskExpireTime`, or with the next start.
    pub async fn forget_task(self: &Arc<Self>, task: TaskId, with_file: bool) -> Result<(), CallError> {
        let cluster = self.clone();
        self.to_its_end(async move { cluster.forget_task_if(&task, with_file, |_| true).await }).await?;
        tracing::info!(%task, with_file, "task forgotten");
        Ok(())
    }

    /// Keeps a task's file whatever is short and however long nobody uses it, or no longer. Returns once that is durable.
    pub async fn pin_task(&self, task: TaskId, pinned: bool) -> Result<(), CallError> {
        let cell = self.cell(&task)?;
        let room = self.committer.room().await?;
        let mut effects = Effects::default();
        let ticket = {
            let mut inner = cell.live()?;
            // Nobody was told of it yet, and it may never be stored.
            if !inner.stored {
                return Err(CallError::UnknownTask(task));
            }
            if inner.pinned != pinned {
                inner.pinned = pinned;
                effects.changes.push(Change::TaskPinned { task, pinned });
            }
            inner.submit(room, &mut effects)
        };
        ticket.durable().await?;
        tracing::info!(%task, pinned, "task pinned or released");
        Ok(())
    }

    /// Forgets a task that nobody uses, and its file: first its clients, some at a time, then the rest. Tells whether it is
    /// gone, which it is not where somebody has come to use it, or a stop has come between two steps.
    pub(super) async fn forget_unused_task(&self, unused: &Cached) -> Result<bool, CallError> {
        let is_unused = |inner: &Inner| {
            let now = self.now();
            inner.must_stay(now).is_none() && now.since(inner.used) >= unused.unused
        };
        loop {
            if self.stopping.is_cancelled() {
                return Ok(false);
            }
            let room = self.committer.room().await?;
            let cell = self.cell(&unused.task)?;
            let mut effects = Effects::default();
            let ticket = {
                let mut inner = cell.live()?;
                if !is_unused(&inner) {
                    return Ok(false);
                }
                if inner.swarm.forget_some(CLIENTS_AT_ONCE, &mut effects) == 0 {
                    break;
                }
                self.note_alone(&effects);
                inner.submit(room, &mut effects)
            };
            ticket.durable().await?;
        }
        self.forget_task_if(&unused.task, true, is_unused).await
    }

    /// Whoever is no longer a client of a task may be one of none.
    pub(super) fn note_alone(&self, effects: &Effects) {
        let client = |change: &Change| match change {
            Change::ClientForgotten { client, .. } => Some(client.clone()),
            _ => None,
        };
        self.alone.note(effects.changes.iter().filter_map(client), self.now());
    }

    async fn forget_task_if(
        &self,
        task: &TaskId,
        with_file: bool,
        condition: impl Fn(&Inner) -> bool,
    ) -> Result<bool, CallError> {
        let room = self.committer.room().await?;
        let mut effects = Effects::default();
        let (cell, generation, idle, ticket) = {
            let mut tasks = self.tasks.write();
            let cell = tasks.get(task).cloned().ok_or(CallError::UnknownTask(*task))?;
            let mut inner = cell.lock();
            if !condition(&inner) {
                return Ok(false);
            }
            tasks.remove(task);
            if tasks.capacity() > 4 * tasks.len() + 64 {
                let room_for = 2 * tasks.len();
                tasks.shrink_to(room_for);
            }
            // Nothing of it is being written, or about to be, so its next generation need not know of it.
            let idle = matches!(inner.fetching, Fetching::Idle { .. }) && inner.looking.is_empty();
            inner.fetching = Fetching::Removed;
            let generation = inner.swarm.status().generation;
            self.alone.note(inner.swarm.client_ids().cloned(), self.now());
            self.remember_forgotten(*task, Forgotten { at: self.now(), generation, file_kept: !with_file });
            effects.changes.push(Change::TaskForgotten { task: *task });
            let ticket = inner.submit(room, &mut effects);
            drop(inner);
            (cell, generation, idle, ticket)
        };
        cell.ended.cancel();
        // Registrations that wait for the source look again, and find the task gone.
        cell.probe.send_replace(Probe::Answered);
        cell.openings.notify_waiters();
        self.refusals.lock().forget(task);
        ticket.durable().await?;
        if with_file {
            self.remove_file(task, generation).await;
            if idle {
                let mut forgotten = self.forgotten.lock();
                if forgotten.get(task).is_some_and(|forgotten| forgotten.generation == generation) {
                    forgotten.remove(task);
                }
            }
        }
        Ok(true)
    }

    /// Removes files that were kept of tasks that were forgotten this long ago, and lets go of what is over.
    pub(super) async fn tidy_forgotten(&self, keep_for: Duration) {
        let now = self.now();
        let kept: Vec<(TaskId, Generation)> = {
            let mut forgotten = self.forgotten.lock();
            forgotten.retain(|_, forgotten| forgotten.file_kept || now.since(forgotten.at) < WRITES_ARRIVE_WITHIN);
            let over = |forgotten: &&mut Forgotten| forgotten.file_kept && now.since(forgotten.at) >= keep_for;
            let over = forgotten.iter_mut().filter(|(_, forgotten)| over(forgotten));
            over.map(|(task, forgotten)| {
                forgotten.file_kept = false;
                (*task, forgotten.generation)
            })
            .collect()
        };
        for (task, generation) in kept {
            // No task names these files, so the next start removes what is left of them.
            if self.stopping.is_cancelled() {
                break;
            }
            self.remove_file(&task, generation).await;
        }
        let mut forgotten = self.forgotten.lock();
        let room_for = 2 * forgotten.len();
        forgotten.shrink_to(room_for);
    }

    fn remember_forgotten(&self, task: TaskId, forgotten: Forgotten) {
        let mut all = self.forgotten.lock();
        if all.len() >= FORGOTTEN_MAX
            && let Some(any) = all.keys().next().copied()
        {
            all.remove(&any);
        }
        all.insert(task, forgotten);
    }

    /// Forgets a peer: nobody is sent there any more. Tells whether it was known.
    pub async fn forget_peer(self: &Arc<Self>, client: ClientId) -> Result<bool, CallError> {
        let cluster = self.clone();
        self.to_its_end(async move { cluster.forget_peer_now(&client).await }).await
    }

    async fn forget_peer_now(&self, client: &ClientId) -> Result<bool, CallError> {
        let mut known = self.peer(client.clone()).await?.is_some();
        // Before its memberships: one that registers meanwhile is stored after this, and stays.
        let room = self.committer.room().await?;
        let forgotten = room.submit(vec![Change::PeerForgotten(client.clone())], 0);
        for cell in self.cells() {
            if cell.lock().swarm.introduction(client).is_some() {
                known = true;
                match self.forget_client(&cell, client).await {
                    // The task was forgotten in between, and all its clients with it.
                    Ok(()) | Err(CallError::UnknownTask(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        forgotten.durable().await?;
        Ok(known)
    }

    /// Does all of it, even if whoever asked hangs up in its middle.
    pub(super) async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, CallError>> + Send + 'static,
    ) -> Result<T, CallError> {
        let (sender, done) = oneshot::channel();
        self.spawn(async move {
            // Nobody may be there to be told.
            let _ = sender.send(work.await);
        });
        done.await.unwrap_or(Err(CallError::Panicked))
    }

    async fn forget_client(&self, cell: &Cell, client: &ClientId) -> Result<(), CallError> {
        let room = self.committer.room().await?;
        let mut effects = Effects::default();
        let ticket = {
            let mut inner = cell.live()?;
            inner.heard_from(client);
            inner.swarm.forget(client, &mut effects);
            self.note_alone(&effects);
            inner.submit(room, &mut effects)
        };
        cell.wake(effects.openings);
        Ok(ticket.durable().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Collected, Failed, Unreadable};
    use crate::config::Config;
    use crate::domain::{
        CdnPattern, Failure, Fault, Md5Digest, PieceDigest, PieceNumber, PieceSize, SourceState, TaskSpec, TaskStatus,
    };
    use crate::retention::Reason;
    use crate::swarm::{Event, Limits, Report, Swarm};

    fn cluster(home: &std::path::Path) -> Arc<Cluster> {
        Cluster::open(Config { home: home.to_owned(), ..Config::default() }).expect("opened")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_of_what_is_done_to_its_end_ends_the_service() {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = cluster(dir.path());
        assert_eq!(cluster.to_its_end(async { Ok(7) }).await.expect("done"), 7);
        let asked: Result<(), CallError> = cluster.to_its_end(async { panic!("on purpose") }).await;
        assert!(matches!(asked, Err(CallError::Panicked)));
        let failed = tokio::time::timeout(std::time::Duration::from_secs(10), cluster.failed()).await;
        assert_eq!(failed.expect("it is told"), Failed::Panic);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_of_disk_work_that_somebody_waits_for_ends_the_service() {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = cluster(dir.path());
        let worked: Result<(), CallError> = cluster.blocking(|| panic!("on purpose")).await;
        assert!(matches!(worked, Err(CallError::Panicked)));
        let failed = tokio::time::timeout(std::time::Duration::from_secs(10), cluster.failed()).await;
        assert_eq!(failed.expect("it is told"), Failed::Panic);
    }

    /// A task that nobody uses, with clients that wait for nothing.
    fn unused_task(cluster: &Cluster, clients: u32) -> Arc<Cell> {
        let spec = TaskSpec::of_url("http://h/f");
        let failure = Failure { fault: Fault::Source, discard: false, reason: "404".into() };
        let status = TaskStatus {
            generation: Generation::FIRST,
            pattern: CdnPattern::Local,
            piece_size: PieceSize::DEFAULT,
            length: None,
            validators: Default::default(),
            state: SourceState::Failed(failure),
        };
        let mut swarm = Swarm::new(spec.id, Limits::default(), status);
        for number in 0..clients {
            let client = ClientId::parse(&format!("client-{number}")).expect("a client id");
            let event = Event::FromClient { client, report: Report::Asked };
            swarm.handle(cluster.now(), event, &mut Effects::default()).expect("a client may ask");
        }
        let cell = Arc::new(Cell::new(Arc::new(spec), swarm, Probe::Answered, true, cluster.now()));
        cluster.tasks.write().insert(cell.spec.id, cell.clone());
        cell
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_download_of_a_task_that_has_just_gone_finds_no_task() {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = cluster(dir.path());
        let cell = unused_task(&cluster, 0);
        let digest = PieceDigest { md5: Md5Digest([1; 16]), content_len: 100 };
        let stored = Event::PieceStored { piece: PieceNumber(0), digest };
        cell.lock().swarm.handle(cluster.now(), stored, &mut Effects::default()).expect("a piece of the file");
        let read = || cluster.readable(&cell.spec.id, Some((0, 9))).map(|_| ());
        assert_eq!(read(), Err(Unreadable::Disk), "its file is missing, which somebody should hear of");
        // As the download finds it that took it out of the table a moment before it went.
        cell.lock().fetching = Fetching::Removed;
        assert_eq!(read(), Err(Unreadable::UnknownTask));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stop_does_not_wait_for_all_clients_of_a_task_that_is_going() {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = cluster(dir.path());
        let clients = 3 * u32::try_from(CLIENTS_AT_ONCE).expect("few");
        let cell = unused_task(&cluster, clients);
        let cached = cell.lock().cached(cluster.now());
        assert_eq!(cached.in_use, None, "it could go");
        cluster.stopping.cancel();
        assert!(!cluster.evict_file(&cached, Reason::Expired).await.expect("asked"), "it went on after the stop");
        assert_eq!(cell.lock().swarm.members(), clients as usize);
        assert_eq!(cluster.collect().await.expect("asked"), Collected::default());
        assert_eq!(cluster.cells().len(), 1, "a collection went on after the stop");
    }
}
