//! Preheats: files and images that are fetched before anybody asks for them, so that the first client finds them here.
//!
//! A preheat is stored when it is taken, each time it gets further, and when it has ended; one that a kill interrupted
//! begins anew, and finds what it had fetched. It has tasks like those of clients, which outlive it.

pub mod image;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::cell::{Fetching, Probe};
use super::{CallError, Cluster, Page, Window};
use crate::cdn::{GaveWay, HostKey, Turns, TurnsMax};
use crate::domain::{
    CdnPattern, Change, Platform, Preheat, PreheatChild, PreheatId, PreheatKind, PreheatState, SourceState, TaskId, TaskSpec,
};
use crate::store::CommitFailed;

/// Preheats that are remembered, ended ones included.
const PREHEATS_MAX: usize = 10_000;
/// Images of which it is found out at once what they are, and of those, of one host. Each has a manifest of at most 4 MiB in
/// memory.
const RESOLVING_MAX: TurnsMax = TurnsMax { all: 16, per_host: 8 };
/// Preheats that fetch at once, and of those, of one host; others wait.
const FETCHING_MAX: TurnsMax = TurnsMax { all: 64, per_host: 16 };
/// How long a turn is in any case where others wait whose host has fewer: long enough for what is small to be here.
const GRACE: Duration = Duration::from_secs(10);
/// Tasks of one preheat that are fetched at once.
const CHILDREN_AT_ONCE: usize = 4;
/// How long a registry may take to tell what an image is.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(60);
const REASON_MAX_BYTES: usize = 1024;
/// Of a task's. It is stored with the task's URL, and both together are one value; see there how large that may be.
const REASON_OF_TASK_MAX_BYTES: usize = 512;
/// Reasons of one preheat's tasks that are kept. A cause that many share is one.
const REASONS_MAX: usize = 16;
/// Told of a task whose own reason is one too many.
const REASON_IN_LOG: &str = "it could not be fetched; the log tells why";
/// How long what was fetched ahead does not expire, if no client comes. For want of room it may go sooner.
const AWAITS_CLIENTS_FOR: Duration = Duration::from_hours(24);
/// How long an ended preheat is remembered.
const REMEMBERED_FOR_MS: u64 = 24 * 60 * 60 * 1000;
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Between two looks at a task that is being fetched: at first, and at most.
const LOOK_FIRST: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_secs(1);
const LEFT_AT_SOURCE: &str = "clients are fetching it from its source, as they began under another cdnPattern, and nothing of it \
                              is kept: ask again once they are done";

/// All preheats.
#[derive(Debug)]
pub struct Preheats {
    known: Mutex<BTreeMap<PreheatId, Arc<Job>>>,
    resolving: Turns,
    fetching: Turns,
}

impl Default for Preheats {
    fn default() -> Self {
        Self { known: Mutex::default(), resolving: Turns::new(RESOLVING_MAX), fetching: Turns::new(FETCHING_MAX) }
    }
}

/// A preheat as the running service has it.
#[derive(Debug)]
struct Job {
    now: Mutex<Stage>,
    /// It was deleted.
    ended: CancellationToken,
}

#[derive(Clone, Debug)]
struct Stage {
    preheat: Arc<Preheat>,
    children: Arc<[PreheatChild]>,
    /// Why some were not fetched: a task that nobody was told of is no more once it failed.
    failures: HashMap<TaskId, Arc<str>>,
}

impl Stage {
    fn new(preheat: Arc<Preheat>, children: Arc<[PreheatChild]>) -> Self {
        let failures = children.iter().filter_map(|child| Some((child.task, child.failure.clone()?))).collect();
        Self { preheat, children, failures }
    }

    /// The children with the reasons of those that failed.
    fn children_with_failures(&self) -> Arc<[PreheatChild]> {
        let with_failure =
            |child: &PreheatChild| PreheatChild { failure: self.failures.get(&child.task).cloned(), ..child.clone() };
        self.children.iter().map(with_failure).collect()
    }

    fn note_failure(&mut self, task: TaskId, reason: &str) {
        let known = self.failures.values().find(|known| &***known == reason).cloned();
        let distinct = self.failures.values().map(|reason| &**reason).collect::<HashSet<_>>().len();
        let reason = known.unwrap_or_else(|| if distinct < REASONS_MAX { reason } else { REASON_IN_LOG }.into());
        self.failures.insert(task, reason);
    }
}

/// What is to be fetched ahead.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub kind: PreheatKind,
    /// What is fetched; of an image, its manifest.
    pub source: TaskSpec,
    pub filter: Vec<String>,
}

/// A preheat as it is now.
#[derive(Clone, Debug)]
pub struct PreheatView {
    pub preheat: Arc<Preheat>,
    pub children: Vec<ChildView>,
}

/// One task of a preheat.
#[derive(Clone, Debug)]
pub struct ChildView {
    pub child: PreheatChild,
    /// `None` where the task is no more.
    pub state: Option<SourceState>,
    /// Why it was not fetched, where its task cannot tell any more.
    pub failure: Option<Arc<str>>,
    pub length: Option<u64>,
    /// Pieces that are here.
    pub pieces: u32,
}

impl Cluster {
    /// Takes a preheat, which begins when it is its turn. Returns once it is durable.
    pub async fn preheat(self: &Arc<Self>, wanted: Wanted) -> Result<PreheatId, CallError> {
        if self.is_draining() {
            return Err(CallError::AskAgain);
        }
        if self.config().cdn_pattern == CdnPattern::Source {
            return Err(CallError::NothingKept);
        }
        let Wanted { kind, source, filter } = wanted;
        let id = PreheatId::from_bytes(fastrand::u128(..).to_be_bytes());
        let preheat =
            Arc::new(Preheat { id, kind, source, filter, created_ms: now_ms(), ended_ms: None, state: PreheatState::Waiting });
        let job = Arc::new(Job { now: Mutex::new(Stage::new(preheat.clone(), [].into())), ended: CancellationToken::new() });
        let room = self.committer.room().await?;
        let ticket = {
            let mut known = self.preheats.known.lock();
            if known.len() >= PREHEATS_MAX {
                return Err(CallError::TooManyPreheats(PREHEATS_MAX));
            }
            known.insert(id, job.clone());
            // Under the lock, so that no deletion is written before it.
            room.submit(vec![Change::PreheatChanged(preheat)], 0)
        };
        // Before anything is waited for: whoever asked may hang up, and what is stored runs.
        self.run_preheat(job);
        ticket.durable().await?;
        Ok(id)
    }

    /// A page of all preheats, the latest first.
    pub fn preheats(&self, window: Window) -> Page<PreheatView> {
        let mut stages: Vec<Stage> = self.preheats.known.lock().values().map(|job| job.now.lock().clone()).collect();
        stages.sort_by_key(|stage| std::cmp::Reverse((stage.preheat.created_ms, stage.preheat.id)));
        let total = stages.len();
        let items = stages.into_iter().skip(window.skip).take(window.take).map(|stage| self.view_of_preheat(stage)).collect();
        Page { total, items }
    }

    pub fn preheat_view(&self, id: &PreheatId) -> Result<PreheatView, CallError> {
        let job = self.preheats.known.lock().get(id).cloned().ok_or(CallError::UnknownPreheat(*id))?;
        let stage = job.now.lock().clone();
        Ok(self.view_of_preheat(stage))
    }

    fn view_of_preheat(&self, stage: Stage) -> PreheatView {
        let view = |child: &PreheatChild| {
            let cell = self.tasks.read().get(&child.task).cloned();
            let failure = stage.failures.get(&child.task).cloned();
            let Some(cell) = cell else {
                return ChildView { child: child.clone(), state: None, failure, length: None, pieces: 0 };
            };
            let inner = cell.lock();
            let status = inner.swarm.status();
            let pieces = inner.swarm.pieces_stored();
            ChildView { child: child.clone(), state: Some(status.state.clone()), failure, length: status.length, pieces }
        };
        PreheatView { children: stage.children.iter().map(view).collect(), preheat: stage.preheat }
    }

    /// Forgets a preheat; one that runs ends. What it fetched stays.
    pub async fn forget_preheat(&self, id: &PreheatId) -> Result<(), CallError> {
        let room = self.committer.room().await?;
        let ticket = {
            // Nobody finds it gone before its end is submitted.
            let mut known = self.preheats.known.lock();
            let job = known.remove(id).ok_or(CallError::UnknownPreheat(*id))?;
            job.ended.cancel();
            // Under the lock of its stage, as every change of it.
            let _stage = job.now.lock();
            room.submit(vec![Change::PreheatForgotten(*id)], 0)
        };
        Ok(ticket.durable().await?)
    }

    /// Takes up what is stored.
    pub(super) fn load_preheats(&self) -> Result<(), crate::store::StoreError> {
        let stored = self.store.preheats()?;
        // Whether clients came before this start is not known: they may still be on their way.
        for child in stored.iter().flat_map(|(_, children)| children) {
            if let Ok(cell) = self.cell(&child.task) {
                cell.lock().await_clients(AWAITS_CLIENTS_FOR);
            }
        }
        let job = |(preheat, children): (Preheat, Vec<PreheatChild>)| {
            let stage = Stage::new(Arc::new(preheat), children.into());
            (stage.preheat.id, Arc::new(Job { now: Mutex::new(stage), ended: CancellationToken::new() }))
        };
        *self.preheats.known.lock() = stored.into_iter().map(job).collect();
        Ok(())
    }

    /// Goes on with what has not ended, and forgets what ended long ago, for as long as the service runs.
    pub(super) fn keep_preheats(self: &Arc<Self>) {
        for job in self.preheats.unended() {
            self.run_preheat(job);
        }
        let cluster = self.clone();
        self.spawn(async move {
            let mut ticks = tokio::time::interval(SWEEP_EVERY);
            while cluster.stopping.run_until_cancelled(ticks.tick()).await.is_some() {
                cluster.forget_ended_preheats(now_ms()).await;
            }
        });
    }

    async fn forget_ended_preheats(&self, now_ms: u64) {
        for id in self.preheats.ended_before(now_ms.saturating_sub(REMEMBERED_FOR_MS)) {
            // Somebody else may have deleted it; and a committer that takes nothing stops the service.
            let _ = self.forget_preheat(&id).await;
        }
    }

    fn run_preheat(self: &Arc<Self>, job: Arc<Job>) {
        let cluster = self.clone();
        self.spawn(async move {
            // Boxed: each that wraps it would hold it twice.
            let running = job.ended.run_until_cancelled(Box::pin(cluster.run_to_its_end(&job)));
            // Stopped, it goes on with the next start. A committer that takes nothing stops the service, which is told of it.
            let _ = cluster.stopping.run_until_cancelled(running).await;
        });
    }

    async fn run_to_its_end(self: &Arc<Self>, job: &Job) -> Result<(), CommitFailed> {
        let preheat = job.now.lock().preheat.clone();
        let host = HostKey::of(&preheat.source.raw_url);
        let resolved = match &preheat.kind {
            // It was taken by a service that kept bytes.
            _ if self.config().cdn_pattern == CdnPattern::Source => Err(CallError::NothingKept.to_string()),
            _ if preheat.source.headers_left_out => {
                Err("its request headers were left out of the snapshot that this home was restored from".to_owned())
            }
            PreheatKind::File => {
                Ok(vec![PreheatChild { task: preheat.source.id, url: preheat.source.raw_url.clone(), failure: None }])
            }
            // What was found out in a turn that was too short is lost: the next one is longer.
            PreheatKind::Image { platform } => {
                let resolve = || self.resolve(&preheat, platform);
                self.in_turns(job, &self.preheats.resolving, host, RESOLVE_TIMEOUT, resolve).await?
            }
        };
        let outcome = match resolved {
            Ok(children) => {
                self.change_preheat(job, PreheatState::Waiting, Some(children.into())).await?;
                // Where that was too short, its tasks go on.
                let warm = || self.warm_all(job, &preheat);
                self.in_turns(job, &self.preheats.fetching, host, GRACE, warm).await?
            }
            Err(why) => Err(why),
        };
        self.end_preheat(job, outcome).await
    }

    /// Does a part of a preheat when it is its turn: once more and for twice as long, up to `grace_max`, where it had to make
    /// room for another host. Between its turns the preheat is shown as waiting.
    async fn in_turns<T, F: Future<Output = Result<T, String>>>(
        &self,
        job: &Job,
        turns: &Turns,
        host: HostKey,
        grace_max: Duration,
        work: impl Fn() -> F,
    ) -> Result<Result<T, String>, CommitFailed> {
        let mut grace = GRACE;
        loop {
            let is_running = job.now.lock().preheat.state == PreheatState::Running;
            if is_running {
                self.change_preheat(job, PreheatState::Waiting, None).await?;
            }
            let turn = async {
                self.change_preheat(job, PreheatState::Running, None).await?;
                // Thousands may wait, and need no room for what they will do.
                Ok(Box::pin(work()).await)
            };
            match turns.take(host, grace, turn).await {
                Ok(done) => return done,
                Err(GaveWay { after }) => {
                    tracing::debug!(after_s = after.as_secs(), "preheat makes room for one of another host");
                    grace = (grace * 2).min(grace_max);
                }
            }
        }
    }

    async fn end_preheat(&self, job: &Job, outcome: Result<(), String>) -> Result<(), CommitFailed> {
        let preheat = job.now.lock().preheat.id;
        let state = match outcome {
            Ok(()) => PreheatState::Success,
            Err(why) => PreheatState::Failed(shortened(why, REASON_MAX_BYTES)),
        };
        match &state {
            PreheatState::Failed(reason) => tracing::warn!(%preheat, reason, "preheat failed"),
            _ => tracing::info!(%preheat, "preheated"),
        }
        let failed = job.now.lock().children_with_failures();
        let failed = failed.iter().any(|child| child.failure.is_some()).then_some(failed);
        self.change_preheat(job, state, failed).await
    }

    /// What an image is, or why that cannot be told.
    async fn resolve(&self, preheat: &Preheat, platform: &Platform) -> Result<Vec<PreheatChild>, String> {
        tracing::info!(preheat = %preheat.id, url = %crate::domain::task::redacted_url(&preheat.source.raw_url), "finding out what an image is");
        let deadline = tokio::time::Instant::now() + RESOLVE_TIMEOUT;
        let resolving = image::resolve(&self.worker, &preheat.source, &preheat.filter, platform, deadline);
        let resolved = tokio::time::timeout_at(deadline, resolving).await;
        resolved.unwrap_or_else(|_| Err("the registry does not tell in time what the image is".to_owned()))
    }

    /// Fetches all that there is to fetch. What can be fetched is, even where something cannot.
    async fn warm_all(self: &Arc<Self>, job: &Job, preheat: &Preheat) -> Result<(), String> {
        tracing::info!(preheat = %preheat.id, url = %crate::domain::task::redacted_url(&preheat.source.raw_url), "preheating");
        let children = {
            let mut stage = job.now.lock();
            // What failed in an earlier turn is tried again.
            stage.failures.clear();
            stage.children.clone()
        };
        // Made one by one: each has the headers and certificates of all.
        let warming = (0..children.len()).map(|index| {
            let (cluster, child) = (self.clone(), children[index].clone());
            async move {
                let source = source_of(preheat, child.url);
                let why = shortened(cluster.warm(&source).await.err()?, REASON_OF_TASK_MAX_BYTES);
                job.now.lock().note_failure(source.id, &why);
                Some(format!("{}: {why}", crate::domain::task::redacted_url(&source.raw_url)))
            }
        });
        let outcomes: Vec<Option<String>> =
            futures_util::stream::iter(warming).buffer_unordered(CHILDREN_AT_ONCE).collect().await;
        let failed: Vec<String> = outcomes.into_iter().flatten().collect();
        let Some(first) = failed.first() else { return Ok(()) };
        Err(match failed.len() - 1 {
            0 => first.clone(),
            others => format!("{first}; and {others} more failed"),
        })
    }

    /// Has a task fetched that nobody registered for, and returns once it is here whole.
    pub(super) async fn warm(self: &Arc<Self>, source: &TaskSpec) -> Result<(), String> {
        let cell = self.cell_for(source).await.map_err(|error| error.to_string())?;
        self.revalidate(&cell, source).await;
        cell.lock().touch(self.now());
        let mut wait = LOOK_FIRST;
        loop {
            {
                let mut inner = cell.lock();
                // Nothing of it is here, though clients lack nothing.
                if inner.swarm.status().pattern == CdnPattern::Source {
                    return Err(LEFT_AT_SOURCE.to_owned());
                }
                if inner.swarm.is_whole() {
                    inner.await_clients(AWAITS_CLIENTS_FOR);
                    return Ok(());
                }
                match &inner.fetching {
                    // A source that was here whole and lost pieces has not failed; but nobody would ask for them again.
                    Fetching::Idle { failed: Some(failed) } => return Err(failed.refused.to_string()),
                    Fetching::Removed => {
                        return Err(match &*cell.probe.borrow() {
                            Probe::Refused(refused) => refused.to_string(),
                            Probe::Pending | Probe::Answered => "its task was deleted".to_owned(),
                        });
                    }
                    Fetching::Idle { failed: None } | Fetching::Underway { .. } => {}
                }
                if let Some(failure) = inner.swarm.failure() {
                    return Err(failure.reason.clone());
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LOOK_MAX);
        }
    }

    async fn change_preheat(
        &self,
        job: &Job,
        state: PreheatState,
        children: Option<Arc<[PreheatChild]>>,
    ) -> Result<(), CommitFailed> {
        let room = self.committer.room().await?;
        let ticket = {
            let mut stage = job.now.lock();
            if job.ended.is_cancelled() {
                return Ok(());
            }
            let mut preheat = Preheat::clone(&stage.preheat);
            if matches!(state, PreheatState::Success | PreheatState::Failed(_)) {
                preheat.ended_ms = Some(now_ms());
                // Nobody needs the credentials any more.
                preheat.source = preheat.source.without_headers();
            }
            preheat.state = state;
            let mut changes = vec![Change::PreheatChanged(Arc::new(preheat.clone()))];
            if let Some(children) = children {
                let former = stage.children.len();
                changes.push(Change::PreheatResolved { preheat: preheat.id, children: children.clone(), former });
                stage.children = children;
            }
            stage.preheat = Arc::new(preheat);
            room.submit(changes, 0)
        };
        ticket.durable().await
    }
}

impl Preheats {
    /// Brings the gauges of their turns up to date.
    pub fn observe(&self) {
        self.resolving.observe("images");
        self.fetching.observe("preheats");
    }

    /// Those that have not ended, in the order in which they came.
    fn unended(&self) -> Vec<Arc<Job>> {
        let known = self.known.lock();
        let mut unended: Vec<&Arc<Job>> = known.values().filter(|job| job.now.lock().preheat.ended_ms.is_none()).collect();
        unended.sort_by_key(|job| job.now.lock().preheat.created_ms);
        unended.into_iter().cloned().collect()
    }

    fn ended_before(&self, then_ms: u64) -> Vec<PreheatId> {
        let known = self.known.lock();
        let ended = known.values().filter_map(|job| {
            let stage = job.now.lock();
            stage.preheat.ended_ms.filter(|ended| *ended < then_ms).map(|_| stage.preheat.id)
        });
        ended.collect()
    }
}

/// A reason is stored and shown; what a registry put into it may be of any length.
fn shortened(mut reason: String, max_bytes: usize) -> String {
    if reason.len() > max_bytes {
        let end = (0..=max_bytes).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        reason.truncate(end);
        reason.push('…');
    }
    reason
}

/// Milliseconds since 1970: kept across restarts.
fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

/// What is fetched from one of a preheat's URLs.
fn source_of(preheat: &Preheat, url: String) -> TaskSpec {
    match preheat.kind {
        PreheatKind::File => preheat.source.clone(),
        PreheatKind::Image { .. } => part_of(&preheat.source, url, &preheat.filter),
    }
}

/// A task of what this source names.
fn part_of(source: &TaskSpec, url: String, filter: &[String]) -> TaskSpec {
    let task_url = crate::domain::task::without_filtered(&url, filter);
    let identifier = source.identifier.clone();
    TaskSpec {
        id: TaskId::derive(&task_url, identifier.as_deref().unwrap_or_default(), ""),
        raw_url: url,
        task_url,
        md5: None,
        identifier,
        // A part of each is none of the image's parts.
        headers: source.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("range")).cloned().collect(),
        ..source.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const HOUR_MS: u64 = 60 * 60 * 1000;

    fn cluster(home: &std::path::Path) -> Arc<Cluster> {
        Cluster::open(Config { home: home.to_owned(), ..Config::default() }).expect("opened")
    }

    /// Takes a preheat as it was stored when it ended, or while it runs.
    async fn take(cluster: &Cluster, number: u8, ended_ms: Option<u64>) -> PreheatId {
        let state = if ended_ms.is_some() { PreheatState::Success } else { PreheatState::Running };
        let (id, source) = (PreheatId::from_bytes([number; 16]), TaskSpec::of_url("http://h/f"));
        let preheat = Preheat { id, kind: PreheatKind::File, source, filter: vec![], created_ms: 0, ended_ms, state };
        let preheat = Arc::new(preheat);
        let room = cluster.committer.room().await.expect("the committer runs");
        room.submit(vec![Change::PreheatChanged(preheat.clone())], 0).durable().await.expect("stored");
        let job = Job { now: Mutex::new(Stage::new(preheat, [].into())), ended: CancellationToken::new() };
        cluster.preheats.known.lock().insert(id, Arc::new(job));
        id
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_preheat_is_forgotten_a_day_after_its_end_and_not_sooner() {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = cluster(dir.path());
        let now_ms = 100 * 24 * HOUR_MS;
        let over = take(&cluster, 1, Some(now_ms - 24 * HOUR_MS - 1)).await;
        let just = take(&cluster, 2, Some(now_ms - 24 * HOUR_MS)).await;
        let running = take(&cluster, 3, None).await;
        cluster.forget_ended_preheats(now_ms).await;
        let known = |id| cluster.preheat_view(id).is_ok();
        assert_eq!([&over, &just, &running].map(known), [false, true, true]);
        let stored = cluster.store.preheats().expect("the database can be read");
        let stored: Vec<PreheatId> = stored.into_iter().map(|(preheat, _)| preheat.id).collect();
        assert_eq!(stored, [just, running], "a start would not take it up again");
        // A clock that was set back forgets nothing.
        cluster.forget_ended_preheats(HOUR_MS).await;
        assert_eq!(cluster.preheats.known.lock().len(), 2);
    }
}
