//! Preheats: files and images that are fetched before anybody asks for them, so that the first client finds them here.
//!
//! A preheat is stored when it is taken, each time it gets further, and when it has ended; one that a kill interrupted
//! begins anew, and finds what it had fetched. It has tasks like those of clients, which outlive it.

pub mod image;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::cell::{Fetching, Probe};
use super::{CallError, Cluster, Page, Window};
use crate::cdn::{GaveWay, HostKey, Turns, TurnsMax};
use crate::domain::{
    CdnPattern, Change, ChildUrl, Platform, Preheat, PreheatChild, PreheatId, PreheatKind, PreheatState, SourceState, TaskId,
    TaskSpec,
};
use crate::store::CommitFailed;

/// Preheats that are remembered, ended ones included.
const PREHEATS_MAX: usize = 10_000;
/// Parts of all of them together, a file being one: thirteen each, an ordinary image, where there are as many as may be. One
/// takes 160 bytes for as long as its preheat is remembered.
const PARTS_OF_ALL_MAX: usize = 131_072;
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
    known: Mutex<Known>,
    resolving: Turns,
    fetching: Turns,
}

impl Default for Preheats {
    fn default() -> Self {
        Self { known: Mutex::default(), resolving: Turns::new(RESOLVING_MAX), fetching: Turns::new(FETCHING_MAX) }
    }
}

#[derive(Debug, Default)]
struct Known {
    jobs: BTreeMap<PreheatId, Arc<Job>>,
    /// Those of all.
    parts: usize,
}

/// A preheat as the running service has it.
#[derive(Debug)]
struct Job {
    id: PreheatId,
    created_ms: u64,
    now: Mutex<Stage>,
    /// It was deleted.
    ended: CancellationToken,
}

impl Job {
    fn new(preheat: Arc<Preheat>, children: Arc<[PreheatChild]>) -> Self {
        let (id, created_ms, parts) = (preheat.id, preheat.created_ms, children.len());
        Self { id, created_ms, now: Mutex::new(Stage { preheat, children, parts }), ended: CancellationToken::new() }
    }

    fn stage(&self) -> Stage {
        self.now.lock().clone()
    }
}

#[derive(Clone, Debug)]
struct Stage {
    preheat: Arc<Preheat>,
    /// With the reasons of those that were not fetched: a task that nobody was told of is no more once it failed.
    children: Arc<[PreheatChild]>,
    /// Those that are counted among the parts of all preheats: from when they are found, and shown once they are stored.
    parts: usize,
}

impl Stage {
    fn note_failure(&mut self, index: usize, reason: &str) {
        let known = PreheatChild::reason_of_any(&self.children, reason);
        let distinct = self.children.iter().filter_map(|child| child.failure.as_deref()).collect::<HashSet<_>>().len();
        let reason = known.unwrap_or_else(|| if distinct < REASONS_MAX { reason } else { REASON_IN_LOG }.into());
        if let Some(child) = Arc::make_mut(&mut self.children).get_mut(index) {
            child.failure = Some(reason);
        }
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
        let job = Arc::new(Job::new(preheat.clone(), [].into()));
        let room = self.committer.room().await?;
        let ticket = {
            let mut known = self.preheats.known.lock();
            if known.jobs.len() >= PREHEATS_MAX {
                return Err(CallError::TooManyPreheats(PREHEATS_MAX));
            }
            // How many parts it has is not known yet; and it has one at least.
            if known.parts >= PARTS_OF_ALL_MAX {
                return Err(CallError::TooManyParts(PARTS_OF_ALL_MAX));
            }
            known.jobs.insert(id, job.clone());
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
        let mut jobs: Vec<Arc<Job>> = self.preheats.known.lock().jobs.values().cloned().collect();
        jobs.sort_by_key(|job| Reverse((job.created_ms, job.id)));
        let shown = jobs.iter().skip(window.skip).take(window.take);
        Page { total: jobs.len(), items: shown.map(|job| self.view_of_preheat(job.stage())).collect() }
    }

    pub fn preheat_view(&self, id: &PreheatId) -> Result<PreheatView, CallError> {
        let job = self.preheats.known.lock().jobs.get(id).cloned().ok_or(CallError::UnknownPreheat(*id))?;
        Ok(self.view_of_preheat(job.stage()))
    }

    fn view_of_preheat(&self, stage: Stage) -> PreheatView {
        let view = |child: &PreheatChild| {
            let cell = self.tasks.read().get(&child.task).cloned();
            let Some(cell) = cell else {
                return ChildView { child: child.clone(), state: None, length: None, pieces: 0 };
            };
            let inner = cell.lock();
            let status = inner.swarm.status();
            let pieces = inner.swarm.pieces_stored();
            ChildView { child: child.clone(), state: Some(status.state.clone()), length: status.length, pieces }
        };
        PreheatView { children: stage.children.iter().map(view).collect(), preheat: stage.preheat }
    }

    /// Forgets a preheat; one that runs ends. What it fetched stays.
    pub async fn forget_preheat(&self, id: &PreheatId) -> Result<(), CallError> {
        let room = self.committer.room().await?;
        let ticket = {
            // Nobody finds it gone before its end is submitted.
            let mut known = self.preheats.known.lock();
            let job = known.jobs.remove(id).ok_or(CallError::UnknownPreheat(*id))?;
            job.ended.cancel();
            // Under the lock of its stage, as every change of it.
            let stage = job.now.lock();
            known.parts -= stage.parts;
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
        let mut known = self.preheats.known.lock();
        for (preheat, children) in stored {
            known.parts += children.len();
            known.jobs.insert(preheat.id, Arc::new(Job::new(Arc::new(preheat), children.into())));
        }
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
                let url = ChildUrl::beside(None, &preheat.source.raw_url);
                Ok(vec![PreheatChild { task: preheat.source.id, url, failure: None }])
            }
            // What was found out in a turn that was too short is lost: the next one is longer.
            PreheatKind::Image { platform } => {
                let resolve = || self.resolve(&preheat, platform);
                self.in_turns(job, &self.preheats.resolving, host, RESOLVE_TIMEOUT, resolve).await?
            }
        };
        let has_room = |children: Vec<PreheatChild>| match self.preheats.make_room(job, children.len()) {
            Ok(()) => Ok(children),
            Err(refused) => Err(refused.to_string()),
        };
        let outcome = match resolved.and_then(has_room) {
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
        let children = job.stage().children;
        let failed = children.iter().any(|child| child.failure.is_some()).then_some(children);
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
            Arc::make_mut(&mut stage.children).iter_mut().for_each(|child| child.failure = None);
            stage.children.len()
        };
        // Made one by one: each has the headers and certificates of all.
        let warming = (0..children).map(|index| {
            let cluster = self.clone();
            async move {
                let url = job.now.lock().children.get(index)?.url.to_string();
                let source = source_of(preheat, url);
                let why = shortened(cluster.warm(&source).await.err()?, REASON_OF_TASK_MAX_BYTES);
                job.now.lock().note_failure(index, &why);
                Some(format!("{}: {why}", crate::domain::task::redacted_url(&source.raw_url)))
            }
        });
        let mut failing =
            std::pin::pin!(futures_util::stream::iter(warming).buffer_unordered(CHILDREN_AT_ONCE).filter_map(std::future::ready));
        let Some(first) = failing.next().await else { return Ok(()) };
        Err(match failing.count().await {
            0 => first,
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
                // The end of its download is a use like any other, after which nothing is awaited.
                if inner.swarm.is_whole() && matches!(inner.fetching, Fetching::Idle { .. }) {
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

    /// Has so many parts of a preheat counted among those of all, unless that would be too many.
    fn make_room(&self, job: &Job, parts: usize) -> Result<(), CallError> {
        let mut known = self.known.lock();
        let mut stage = job.now.lock();
        if job.ended.is_cancelled() {
            return Ok(());
        }
        let all = known.parts - stage.parts + parts;
        // One that goes on after a start keeps what it had.
        if all > PARTS_OF_ALL_MAX && parts > stage.parts {
            return Err(CallError::TooManyParts(PARTS_OF_ALL_MAX));
        }
        (known.parts, stage.parts) = (all, parts);
        Ok(())
    }

    /// Those that have not ended, in the order in which they came.
    fn unended(&self) -> Vec<Arc<Job>> {
        let known = self.known.lock();
        let mut unended: Vec<&Arc<Job>> = known.jobs.values().filter(|job| job.now.lock().preheat.ended_ms.is_none()).collect();
        unended.sort_by_key(|job| job.created_ms);
        unended.into_iter().cloned().collect()
    }

    fn ended_before(&self, then_ms: u64) -> Vec<PreheatId> {
        let known = self.known.lock();
        let ended = known.jobs.values().filter_map(|job| {
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::Config;

    const HOUR_MS: u64 = 60 * 60 * 1000;

    fn cluster(home: &std::path::Path) -> Arc<Cluster> {
        Cluster::open(Config { home: home.to_owned(), ..Config::default() }).expect("opened")
    }

    /// Takes a preheat as it was stored when it ended, or while it runs.
    async fn take(cluster: &Cluster, number: u8, ended_ms: Option<u64>) -> PreheatId {
        take_with_parts(cluster, number, ended_ms, 0).await
    }

    async fn take_with_parts(cluster: &Cluster, number: u8, ended_ms: Option<u64>, parts: usize) -> PreheatId {
        let state = if ended_ms.is_some() { PreheatState::Success } else { PreheatState::Running };
        let (id, source) = (PreheatId::from_bytes([number; 16]), TaskSpec::of_url("http://h/f"));
        let preheat = Preheat { id, kind: PreheatKind::File, source, filter: vec![], created_ms: 0, ended_ms, state };
        let preheat = Arc::new(preheat);
        let room = cluster.committer.room().await.expect("the committer runs");
        let mut children = Vec::new();
        for part in 0..parts {
            let url = ChildUrl::beside(children.last(), &format!("https://registry.example/v2/app/blobs/sha256:{part:064x}"));
            children.push(PreheatChild { task: TaskId::derive(&url.to_string(), "", ""), url, failure: None });
        }
        let children: Arc<[PreheatChild]> = children.into();
        let resolved = Change::PreheatResolved { preheat: id, children: children.clone(), former: 0 };
        room.submit(vec![Change::PreheatChanged(preheat.clone()), resolved], 0).durable().await.expect("stored");
        let job = Job::new(preheat, children);
        let mut known = cluster.preheats.known.lock();
        known.parts += parts;
        known.jobs.insert(id, Arc::new(job));
        id
    }

    /// A registry of one image with so many parts, none of which it has; tells the URL of its manifest.
    async fn registry(parts: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let url = format!("http://{}/v2/app/manifests/1", listener.local_addr().expect("it is bound"));
        let layers: Vec<_> = (0..parts).map(|part| serde_json::json!({ "digest": format!("sha256:{part:064x}") })).collect();
        let manifest = serde_json::json!({ "schemaVersion": 2, "layers": layers }).to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let is_manifest = String::from_utf8_lossy(&request[..read]).starts_with("GET /v2/app/manifests/1 ");
                let (status, body) = if is_manifest { ("200 OK", manifest.as_str()) } else { ("404 Not Found", "") };
                let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).await.expect("the answer is taken");
            }
        });
        url
    }

    fn image(url: &str) -> Wanted {
        Wanted { kind: PreheatKind::Image { platform: Platform::All }, source: TaskSpec::of_url(url), filter: vec![] }
    }

    /// Why the preheat failed, once it has ended.
    async fn failure(cluster: &Cluster, id: PreheatId) -> String {
        for _ in 0..3_000 {
            match cluster.preheat_view(&id).expect("it is known").preheat.state.clone() {
                PreheatState::Failed(why) => return why,
                PreheatState::Success => panic!("the registry has no part"),
                PreheatState::Waiting | PreheatState::Running => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        panic!("it does not end");
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
        assert_eq!(cluster.preheats.known.lock().jobs.len(), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn all_preheats_together_have_no_more_parts_than_fit_also_after_a_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = cluster(dir.path());
        let large = take_with_parts(&cluster, 1, Some(now_ms()), 1024).await;
        for number in 2..PARTS_OF_ALL_MAX / 1024 {
            take_with_parts(&cluster, u8::try_from(number).expect("few"), Some(now_ms()), 1024).await;
        }
        take_with_parts(&cluster, u8::MAX, Some(now_ms()), 1024 - 3).await;
        // What a start does.
        *cluster.preheats.known.lock() = Known::default();
        cluster.load_preheats().expect("the database can be read");
        let (two, four) = (registry(2).await, registry(4).await);
        let preheat = async |url| cluster.preheat(image(url)).await;
        let refused = CallError::TooManyParts(PARTS_OF_ALL_MAX).to_string();

        let fits = preheat(&two).await.expect("there is room");
        let why = failure(&cluster, fits).await;
        assert!(why.contains("404") && why.ends_with("; and 1 more failed"), "{why}");
        let does_not = preheat(&two).await.expect("how much it is is not known yet");
        assert_eq!(failure(&cluster, does_not).await, refused);
        assert!(cluster.preheat_view(&does_not).expect("it is known").children.is_empty());
        assert!(refused.contains("131072") && refused.contains("delete some that have ended"), "{refused}");

        // One part is room for one; then there is none for anything.
        let one = registry(1).await;
        let last = preheat(&one).await.expect("there is room");
        assert!(failure(&cluster, last).await.contains("404"));
        assert_eq!(preheat(&one).await.map_err(|error| error.to_string()), Err(refused.clone()));

        // What is forgotten makes room, once.
        cluster.forget_preheat(&last).await.expect("forgotten");
        cluster.forget_preheat(&does_not).await.expect("forgotten");
        let small = preheat(&one).await.expect("there is room");
        assert!(failure(&cluster, small).await.contains("404"));
        assert!(preheat(&four).await.is_err());
        cluster.forget_preheat(&large).await.expect("forgotten");
        let four = preheat(&four).await.expect("there is room");
        assert!(failure(&cluster, four).await.contains("404"));
        assert_eq!(cluster.preheats.known.lock().parts, PARTS_OF_ALL_MAX - 1024 + 4);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_preheat_that_goes_on_after_a_start_keeps_its_parts_though_they_are_too_many_together() {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = cluster(dir.path());
        // Of a program that had no such limit.
        take_with_parts(&cluster, 1, Some(now_ms()), 1).await;
        let running = take_with_parts(&cluster, 2, None, 2).await;
        cluster.preheats.known.lock().parts += PARTS_OF_ALL_MAX;
        let job = cluster.preheats.known.lock().jobs[&running].clone();
        let make_room = |parts| cluster.preheats.make_room(&job, parts).map_err(|error| error.to_string());
        assert_eq!(make_room(3), Err(CallError::TooManyParts(PARTS_OF_ALL_MAX).to_string()));
        assert_eq!([make_room(2), make_room(1)], [Ok(()), Ok(())]);
        assert_eq!(cluster.preheats.known.lock().parts, PARTS_OF_ALL_MAX + 2);
        // One that is forgotten meanwhile holds nothing.
        cluster.forget_preheat(&running).await.expect("forgotten");
        assert_eq!(make_room(1), Ok(()));
        assert_eq!(cluster.preheats.known.lock().parts, PARTS_OF_ALL_MAX + 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_page_of_preheats_looks_at_none_that_is_not_on_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = cluster(dir.path());
        let shown = take(&cluster, 2, None).await;
        let other = take(&cluster, 1, None).await;
        let busy = cluster.preheats.known.lock().jobs[&other].clone();
        // It would wait for this if it looked at all of them.
        let busy = busy.now.lock();
        let (tell, told) = std::sync::mpsc::channel();
        let asked = cluster.clone();
        std::thread::spawn(move || tell.send(asked.preheats(Window { skip: 0, take: 1 })));
        let page = told.recv_timeout(Duration::from_secs(30)).expect("the page needs the other one");
        drop(busy);
        assert_eq!((page.total, page.items[0].preheat.id), (2, shown));
    }

    #[test]
    fn of_many_failures_a_few_reasons_are_kept() {
        let part = |part: usize| PreheatChild {
            task: TaskId::from_bytes([0; 32]),
            url: ChildUrl::beside(None, &part.to_string()),
            failure: None,
        };
        let preheat = Preheat {
            id: PreheatId::from_bytes([1; 16]),
            kind: PreheatKind::File,
            source: TaskSpec::of_url("http://h/f"),
            filter: vec![],
            created_ms: 0,
            ended_ms: None,
            state: PreheatState::Running,
        };
        let job = Job::new(Arc::new(preheat), (0..REASONS_MAX + 3).map(part).collect());
        let mut stage = job.now.lock();
        for index in 0..REASONS_MAX + 2 {
            stage.note_failure(index, &format!("reason {}", index.saturating_sub(1)));
        }
        let reasons: Vec<Option<&str>> = stage.children.iter().map(|child| child.failure.as_deref()).collect();
        assert_eq!((reasons[0], reasons[1], reasons[2]), (Some("reason 0"), Some("reason 0"), Some("reason 1")));
        assert_eq!(reasons[REASONS_MAX..], [Some("reason 15"), Some(REASON_IN_LOG), None]);
    }
}
