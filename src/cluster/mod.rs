//! The running whole: all tasks, and everything that happens to them.
//!
//! Owns the swarms, the store, the piece files and the downloads, and the rule that ties them: an event is taken in by its
//! swarm, its changes are committed, and only then is anybody answered.
//! Must not: know the wire. Its callers bring domain values and map its errors to codes.

mod alone;
mod cell;
mod damage;
mod download;
mod eviction;
mod expiry;
mod fetch;
mod forget;
pub mod inventory;
mod ledger;
mod network;
pub mod pieces_on_disk;
pub mod preheat;
mod pull;
mod recovery;
mod referral;
mod refusals;
mod register;
mod rescue;
mod revalidation;
pub mod snapshots;
mod views;

use std::collections::HashMap;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cdn::{self, BodiesMax, RateMin, Worker};
use crate::config::{Config, Home};
use crate::domain::{ClientId, ClientVersion, Moment, PreheatId, SourceState, TaskId};
use crate::origin::Source;
use crate::pieces::{self, PieceFileError, Repository};
use crate::store::snapshot::SnapshotError;
use crate::store::{CommitFailed, Committer, Store, StoreError};
use crate::swarm::{Effects, Introduction, Limits, Refusal, UploadServer};
use crate::telemetry::metrics::METRICS;
use cell::Cell;
pub use damage::Accused;
pub use download::{Readable, Unreadable};
pub use eviction::{CacheView, CachedFile};
pub use expiry::Collected;
pub use network::{Node, Share};
pub use pull::Told;
pub use refusals::Refused;
pub use register::{Registered, Registration, check_url};
pub use views::{Page, TaskFilter, TaskView, Window};

/// How often overdue and expired leases are looked for.
const SWEEP_EVERY: Duration = Duration::from_millis(200);

/// After the database could not be written, before that is tried; doubled each time up to the longest.
const WRITABLE_FIRST: Duration = Duration::from_secs(1);
const WRITABLE_EVERY_MAX: Duration = Duration::from_secs(15);

/// Why the cluster cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pieces(#[from] PieceFileError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("cannot read or change the home")]
    Home(#[source] std::io::Error),
    #[error("cannot set up the client that fetches sources")]
    Source(#[from] reqwest::Error),
    #[error("cannot start the thread that writes the database")]
    Thread(#[from] std::io::Error),
}

impl StartError {
    /// Whether it is the machine's fault (a full disk, say), so that another try may succeed.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Store(error) => !error.is_damage() && !matches!(error, StoreError::NewerSchema { .. }),
            Self::Pieces(_) | Self::Snapshot(_) | Self::Home(_) | Self::Thread(_) => true,
            Self::Source(_) => false,
        }
    }

    /// Whether the disk has no room for it. The program before this one may need less: it has nothing to migrate.
    pub fn is_want_of_room(&self) -> bool {
        let error = match self {
            Self::Store(error) => error.io_error(),
            Self::Snapshot(error) => error.io_error(),
            Self::Pieces(error) => Some(&error.source),
            Self::Home(error) | Self::Thread(error) => Some(error),
            Self::Source(_) => None,
        };
        error.is_some_and(pieces::is_want_of_room)
    }
}

/// Why a call of a client is refused. `http` maps each to a code.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("there is no task {0}")]
    UnknownTask(TaskId),
    #[error("there is no preheat {0}")]
    UnknownPreheat(PreheatId),
    #[error("there are {0} preheats, and no more at once: delete some that have ended")]
    TooManyPreheats(usize),
    #[error("all preheats together have no more than {0} parts: delete some that have ended")]
    TooManyParts(usize),
    #[error("the task exists with another {0}")]
    Conflict(&'static str),
    #[error("nothing can be fetched ahead of clients: cdnPattern is source, so that the supernode keeps no bytes")]
    NothingKept,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Swarm(#[from] Refusal),
    /// The source is slow to answer.
    #[error("the source has not answered yet, ask again")]
    AskAgain,
    #[error(transparent)]
    Commit(#[from] CommitFailed),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was to be done broke in its middle, which ends the service.
    #[error("the service ends because of an error in it")]
    Panicked,
}

/// Why a service cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    #[error("the database can no longer be written; start again to recover what was acknowledged")]
    Database,
    #[error("a background task panicked (the log says where); start again to recover what was acknowledged")]
    Panic,
}

/// Why an open cluster should not be sent new clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    #[error("draining")]
    Draining,
    #[error(
        "the database cannot be written (the log says why): make room or mend the disk, and the service starts anew by itself"
    )]
    Database,
}

/// All tasks of this service.
#[derive(Debug)]
pub struct Cluster {
    /// Read once for every request, and changed by a reload.
    config: RwLock<Arc<Config>>,
    clock: Instant,
    store: Arc<Store>,
    committer: Committer,
    repository: Arc<Repository>,
    worker: Worker,
    /// Looks at pieces that were reported as damaged.
    looks: Semaphore,
    tasks: RwLock<HashMap<TaskId, Arc<Cell>>>,
    refusals: Mutex<refusals::Refusals>,
    forgotten: Mutex<HashMap<TaskId, forget::Forgotten>>,
    preheats: preheat::Preheats,
    servers: Mutex<UploadServers>,
    /// When peers sent a heartbeat, which names no task.
    heard: Mutex<HashMap<ClientId, Moment>>,
    /// Peers that may have no task any more.
    alone: alone::Alone,
    /// Rounds of garbage collection, one at a time.
    rounds: Semaphore,
    /// About how many rows the database had after the round before.
    rows_before: AtomicU64,
    /// Files for which there must be room, one at a time.
    room: Semaphore,
    /// Tells loops that wait for a time that is configured.
    reconfigured: watch::Sender<()>,
    /// Everything that runs in the background.
    background: TaskTracker,
    stopping: CancellationToken,
    draining: watch::Sender<bool>,
    panicked: watch::Sender<bool>,
    /// The database is another than was left here.
    rescued: AtomicBool,
}

/// What fetching from sources keeps to.
fn source_limits(config: &Config) -> cdn::Limits {
    cdn::Limits {
        bodies_max: BodiesMax { all: config.downloads_max as usize, per_host: config.downloads_per_host_max as usize },
        rate_bytes_per_s: config.source_rate_bytes_per_s(),
        task_rate_bytes_per_s: config.task_max_bandwidth_bytes_per_s,
        source_rate_min: RateMin { bytes_per_s: config.source_min_rate_bytes_per_s, window: config.source_min_rate_window },
    }
}

impl Cluster {
    /// Opens the home and rebuilds every swarm from what is stored there, or says why that cannot be used. With
    /// `accept_loss`, a database that lost commits can.
    fn open_as_it_is(config: Config, accept_loss: bool) -> Result<Arc<Self>, StartError> {
        let home = Home::new(config.home.clone());
        let before_migration = |store: &Store| {
            // A database that damage threw back to an older schema must not become the newest snapshot.
            if !accept_loss {
                store.refuse_loss()?;
            }
            let taken = snapshots::take_of_stopped(store, &snapshots::before_migration_path(&home), &mut |_| ())?;
            tracing::info!(path = %taken.path.display(), rows = taken.rows, "took a snapshot before migrating the database");
            Ok::<_, StartError>(())
        };
        let store = Arc::new(Store::open_with(&home.database(), &before_migration)?);
        if !accept_loss {
            store.refuse_loss()?;
        }
        let repository = Arc::new(Repository::open(home.pieces())?);
        let cluster = Arc::new(Self {
            clock: Instant::now(),
            committer: Committer::start(store.clone(), config.durability)?,
            worker: Worker::new(
                Source::new(config.source.clone(), config.source_idle_timeout)?,
                repository.clone(),
                source_limits(&config),
            ),
            looks: Semaphore::new(1),
            tasks: RwLock::default(),
            refusals: Mutex::default(),
            forgotten: Mutex::default(),
            preheats: preheat::Preheats::default(),
            servers: Mutex::default(),
            heard: Mutex::default(),
            alone: alone::Alone::default(),
            rounds: Semaphore::new(1),
            rows_before: AtomicU64::new(0),
            room: Semaphore::new(1),
            reconfigured: watch::Sender::new(()),
            background: TaskTracker::new(),
            stopping: CancellationToken::new(),
            draining: watch::Sender::new(false),
            panicked: watch::Sender::new(false),
            config: RwLock::new(Arc::new(config)),
            rescued: AtomicBool::new(false),
            store,
            repository,
        });
        cluster.recover()?;
        cluster.load_preheats()?;
        Ok(cluster)
    }

    /// Begins what runs in the background: unfinished downloads and the sweep of leases.
    pub fn start(self: &Arc<Self>) {
        for cell in self.cells() {
            let unfinished = {
                let inner = cell.lock();
                inner.swarm.members() > 0 && inner.is_unfinished()
            };
            if unfinished {
                self.ensure_fetching(&cell);
            }
        }
        self.keep_snapshots();
        self.keep_preheats();
        self.keep_clean();
        if self.rescued.load(Ordering::Acquire) {
            self.look_at_everything();
        }
        let cluster = self.clone();
        self.spawn(async move {
            let mut ticks = tokio::time::interval(SWEEP_EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while cluster.stopping.run_until_cancelled(ticks.tick()).await.is_some() {
                cluster.sweep();
            }
        });
    }

    /// Answers what is held and takes no new registrations; what runs goes on.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Whether everything that clients may ask can be answered, and if not, why.
    pub fn readiness(&self) -> Result<(), Unready> {
        if self.committer.has_failed() {
            return Err(Unready::Database);
        }
        if self.is_draining() { Err(Unready::Draining) } else { Ok(()) }
    }

    /// Returns once a write of its own is durable: the runtime and the committer are both at work.
    pub async fn prove_progress(&self) -> Result<(), CommitFailed> {
        // It goes the way of every change, with nothing to write.
        self.committer.room().await?.submit(Vec::new(), u64::MAX).durable().await
    }

    /// Returns once all that can be seen by now of tasks, peers and preheats is durable.
    pub async fn settled(&self) -> Result<(), CommitFailed> {
        self.committer.settled().await
    }

    /// Stops what runs in the background and writes what was submitted.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.background.close();
        self.background.wait().await;
        self.committer.stop();
    }

    /// Returns when nothing can be promised any more, and says why.
    pub async fn failed(&self) -> Failed {
        tokio::select! {
            () = self.committer.failed() => Failed::Database,
            () = self.panicked() => Failed::Panic,
        }
    }

    /// Returns once the database could be written again, after it could not. That takes another process: this one must not
    /// write to what it has open, but goes on serving what it has.
    pub async fn writable_again(&self) {
        let mut wait = WRITABLE_FIRST;
        loop {
            tokio::time::sleep(wait).await;
            let store = self.store.clone();
            match self.blocking(move || store.try_write()).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    wait = (wait * 2).min(WRITABLE_EVERY_MAX);
                    let retry_after_s = wait.as_secs();
                    tracing::warn!(error = &error as &dyn std::error::Error, retry_after_s, "database still cannot be written");
                }
                // The service ends.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Returns when a background task has panicked.
    pub async fn panicked(&self) {
        // The sender lives as long as `self`.
        let _ = self.panicked.subscribe().wait_for(|panicked| *panicked).await;
    }

    /// Runs something in the background. A panic there leaves things half done: it ends the service.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let panicked = self.panicked.clone();
        self.background.spawn(async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                panicked.send_replace(true);
            }
        });
    }

    /// Runs disk work on the threads that may block. A panic there ends the service, whoever asked for the work.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, CallError> {
        tokio::task::spawn_blocking(work).await.map_err(|_| {
            self.panicked.send_replace(true);
            CallError::Panicked
        })
    }

    pub fn config(&self) -> Arc<Config> {
        self.config.read().clone()
    }

    /// Takes over another configuration, as far as it can change under way.
    pub fn reconfigure(&self, config: Config) {
        self.worker.set_limits(source_limits(&config));
        *self.config.write() = Arc::new(config);
        self.reconfigured.send_replace(());
        let limits = self.limits();
        // A task that is made from here on has the new limits: they are read while it is entered.
        for cell in self.cells() {
            let mut effects = Effects::default();
            cell.lock().swarm.set_limits(limits, &mut effects);
            cell.wake(effects.openings);
        }
    }

    fn limits(&self) -> Limits {
        let config = self.config();
        let narrow = |errors: u32| u8::try_from(errors).unwrap_or(u8::MAX);
        Limits {
            down: config.peer_down_limit as usize,
            up: config.peer_up_limit,
            serve_errors: narrow(config.elimination_limit),
            download_errors: narrow(config.failure_count_limit),
        }
    }

    pub fn store(&self) -> Arc<Store> {
        self.store.clone()
    }

    /// What a client said when it registered for this task, as far as answers to it depend on that.
    pub fn introduction(&self, task: &TaskId, client: &ClientId) -> Option<(ClientVersion, Arc<str>)> {
        let cell = self.cell(task).ok()?;
        let inner = cell.lock();
        let Introduction { version, seed_host, .. } = inner.swarm.introduction(client)?;
        Some((*version, seed_host.clone()))
    }

    /// Brings the gauges up to date: what is counted when somebody looks, and not for every change.
    pub fn observe(&self) {
        let (mut peers, mut tasks, mut downloads, mut bytes) = (0, HashMap::new(), HashMap::new(), 0);
        for cell in self.cells() {
            let inner = cell.lock();
            peers += inner.swarm.members();
            bytes += inner.swarm.stored_bytes();
            *tasks.entry(inventory::source_state(&inner.swarm.status().state)).or_insert(0) += 1;
            for (call_system, state) in inner.swarm.states() {
                *downloads.entry((call_system.clone(), inventory::client_state(state))).or_insert(0) += 1;
            }
        }
        METRICS.peers.set(i64::try_from(peers).unwrap_or(i64::MAX));
        METRICS.repository_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        METRICS.repository_quota_bytes.set(i64::try_from(self.config().repository_quota_bytes).unwrap_or(i64::MAX));
        let remembered = [
            ("forgotten_tasks", self.forgotten.lock().len()),
            ("refusals", self.refusals.lock().len()),
            ("heartbeats", self.heard.lock().len()),
            ("peers_without_task", self.alone.len()),
            ("upload_servers", self.servers.lock().known.len()),
        ];
        for (what, count) in remembered {
            METRICS.remembered.with_label_values(&[what]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.worker.observe();
        self.preheats.observe();
        METRICS.tasks.reset();
        tasks.into_iter().for_each(|(state, count)| METRICS.tasks.with_label_values(&[state]).set(count));
        METRICS.dfget_tasks.reset();
        downloads
            .into_iter()
            .for_each(|((call_system, state), count)| METRICS.dfget_tasks.with_label_values(&[&*call_system, state]).set(count));
    }

    fn cell(&self, task: &TaskId) -> Result<Arc<Cell>, CallError> {
        self.tasks.read().get(task).cloned().ok_or(CallError::UnknownTask(*task))
    }

    /// All tasks as they are now.
    fn cells(&self) -> Vec<Arc<Cell>> {
        self.tasks.read().values().cloned().collect()
    }

    fn now(&self) -> Moment {
        Moment(u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn sweep(self: &Arc<Self>) {
        let now = self.now();
        let longest = self.config().fail_access_interval;
        for cell in self.cells() {
            let mut effects = Effects::default();
            let mend = {
                let mut inner = cell.lock();
                inner.swarm.sweep(now, &mut effects);
                let lost = matches!(inner.swarm.status().state, SourceState::Success { .. }) && inner.is_unfinished();
                lost && inner.swarm.members() > 0 && inner.resting(now, longest).is_none()
            };
            cell.wake(effects.openings);
            if mend {
                self.ensure_fetching(&cell);
            }
        }
        self.refusals.lock().expire(now);
    }
}

/// Upload servers by address and port, for as long as anybody uses them.
#[derive(Debug, Default)]
struct UploadServers {
    known: HashMap<(IpAddr, u16), Weak<UploadServer>>,
    /// The size at which those that nobody uses are looked for.
    sweep_at: usize,
}

impl UploadServers {
    /// The server at this address; `None` for port 0, from which nothing can be fetched.
    fn at(&mut self, ip: IpAddr, port: u16) -> Option<Arc<UploadServer>> {
        if port == 0 {
            return None;
        }
        if let Some(server) = self.known.get(&(ip, port)).and_then(Weak::upgrade) {
            return Some(server);
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, server| server.strong_count() > 0);
            self.sweep_at = 2 * self.known.len() + 64;
        }
        let server = Arc::new(UploadServer::default());
        self.known.insert((ip, port), Arc::downgrade(&server));
        Some(server)
    }

    /// Gives back what nobody uses.
    fn shrink(&mut self) {
        self.known.retain(|_, server| server.strong_count() > 0);
        self.known.shrink_to(2 * self.known.len());
        self.sweep_at = 2 * self.known.len() + 64;
    }
}
