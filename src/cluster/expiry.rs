//! Garbage collection by time: clients that have fallen silent, tasks that nobody uses, peers without a task.
//!
//! When something was last used is known in memory only, and a start counts as a use: that nobody came while the service
//! was down says nothing. For the order in which files go, the use is noted as the modification time of the file.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::Instant;

use super::cell::Cell;
use super::{CallError, Cluster};
use crate::config::Config;
use crate::domain::{ClientId, Generation, Moment, TaskId};
use crate::memory;
use crate::retention::Reason;
use crate::store::Rewritten;
use crate::swarm::{Effects, Left};
use crate::telemetry::metrics::METRICS;

/// Peers that are forgotten at once.
const PEERS_AT_ONCE: usize = 256;
/// Files that are marked as used at once, on a thread that may block.
const MARKS_AT_ONCE: usize = 256;

/// What is looked for, and how often.
#[derive(Clone, Copy, Debug)]
enum Schedule {
    Time,
    Room,
}

impl Schedule {
    const fn interval(self, config: &Config) -> Duration {
        match self {
            Self::Time => config.gc_meta_interval,
            Self::Room => config.gc_disk_interval,
        }
    }
}

/// What a collection took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    pub clients: usize,
    pub peers: usize,
    /// Tasks that nobody used, with their files.
    pub expired: usize,
    /// Files that made room, with their tasks.
    pub evicted: usize,
    pub bytes: u64,
}

impl Cluster {
    /// Begins to collect garbage on schedule.
    pub(super) fn keep_clean(self: &Arc<Self>) {
        for schedule in [Schedule::Time, Schedule::Room] {
            let cluster = self.clone();
            self.spawn(async move { cluster.on_schedule(schedule).await });
        }
    }

    /// Collects again and again for as long as the service runs. The interval may change under way.
    async fn on_schedule(self: &Arc<Self>, schedule: Schedule) {
        let mut reconfigured = self.reconfigured.subscribe();
        let mut last = Instant::now();
        let mut first = true;
        loop {
            let config = self.config();
            let wait = if first { config.gc_initial_delay } else { schedule.interval(&config) };
            tokio::select! {
                () = self.stopping.cancelled() => return,
                _ = reconfigured.changed() => continue,
                () = tokio::time::sleep(wait.saturating_sub(last.elapsed())) => {}
            }
            let round = async {
                match schedule {
                    Schedule::Time => self.expire().await,
                    Schedule::Room => self.evict().await,
                }
            };
            // What a stop interrupts is whole as far as it got.
            match self.stopping.run_until_cancelled(round).await {
                None => return,
                Some(Ok(_)) => {}
                // What cannot be written stops the service, which says so.
                Some(Err(error)) => tracing::debug!(error = &error as &dyn std::error::Error, "collection breaks off"),
            }
            (last, first) = (Instant::now(), false);
        }
    }

    /// Collects all that there is to collect now, even if whoever asked for it goes. A stop breaks it off between two
    /// steps, and what it has taken by then is told.
    pub async fn collect(self: &Arc<Self>) -> Result<Collected, CallError> {
        let cluster = self.clone();
        let collecting = async move {
            let by_time = cluster.expire().await?;
            let by_room = cluster.evict().await?;
            Ok(Collected {
                expired: by_time.expired + by_room.expired,
                evicted: by_room.evicted,
                bytes: by_time.bytes + by_room.bytes,
                ..by_time
            })
        };
        self.to_its_end(collecting).await
    }

    /// How many clients have been silent for too long.
    pub(super) fn silent_clients(&self) -> usize {
        let (now, silence) = (self.now(), self.config().peer_gc_delay);
        let silent = |cell: Arc<Cell>| {
            let inner = cell.lock();
            let heard = self.heard.lock();
            let heard = |client: &ClientId| if inner.held.contains_key(client) { Some(now) } else { heard.get(client).copied() };
            inner.swarm.silent(now, silence, &heard)
        };
        self.cells().into_iter().map(silent).sum()
    }

    /// Takes what time has made useless.
    pub async fn expire(self: &Arc<Self>) -> Result<Collected, CallError> {
        let Ok(_turn) = self.rounds.acquire().await else { return Ok(Collected::default()) };
        let config = self.config();
        let mut collected = Collected { clients: self.expire_clients(config.peer_gc_delay).await?, ..Default::default() };
        self.expire_tasks(&mut collected).await?;
        collected.peers = self.expire_peers(config.peer_gc_delay).await?;
        self.tidy_forgotten(config.task_expire_time).await;
        self.servers.lock().shrink();
        self.mark_used().await;
        let shrunk = self.shrink_database().await?;
        if shrunk || collected != Collected::default() {
            // A panic in there is a bug of the allocator's, and ends more than this.
            let _ = tokio::task::spawn_blocking(memory::give_back).await;
        }
        if collected != Collected::default() {
            let Collected { clients, peers, expired, bytes, .. } = collected;
            tracing::info!(clients, peers, tasks = expired, bytes, "collected what nobody uses");
        }
        Ok(collected)
    }

    async fn expire_clients(&self, silence: Duration) -> Result<usize, CallError> {
        let now = self.now();
        {
            let mut heard = self.heard.lock();
            heard.retain(|_, heard| now.since(*heard) < silence);
            let room_for = 2 * heard.len();
            heard.shrink_to(room_for);
        }
        let mut clients = 0;
        for cell in self.cells() {
            let mut left = Left::From(0);
            while left != Left::Nobody && !self.stopping.is_cancelled() {
                clients += self.expire_some(&cell, silence, &mut left).await?;
            }
        }
        METRICS.gc_peers.inc_by(clients as u64);
        Ok(clients)
    }

    /// One step through the clients of a task; tells how many left.
    async fn expire_some(&self, cell: &Cell, silence: Duration, left: &mut Left) -> Result<usize, CallError> {
        let room = self.committer.room().await?;
        let mut effects = Effects::default();
        let (clients, ticket) = {
            // A task that was forgotten has no clients.
            let Ok(mut inner) = cell.live() else {
                *left = Left::Nobody;
                return Ok(0);
            };
            let inner = &mut *inner;
            let now = self.now();
            let heard = self.heard.lock();
            // Whoever waits for our answer is not silent.
            let heard = |client: &ClientId| {
                if inner.held.contains_key(client) { Some(now) } else { heard.get(client).copied() }
            };
            *left = inner.swarm.expire(now, silence, &heard, *left, &mut effects);
            self.note_alone(&effects);
            let clients = effects.changes.len();
            if clients == 0 {
                return Ok(0);
            }
            (clients, inner.submit(room, &mut effects))
        };
        cell.wake(effects.openings);
        ticket.durable().await?;
        Ok(clients)
    }

    async fn expire_tasks(self: &Arc<Self>, collected: &mut Collected) -> Result<(), CallError> {
        let rules = self.retention_rules();
        for cached in self.cached_files().await {
            if self.stopping.is_cancelled() {
                break;
            }
            if cached.is_expired(&rules) && self.evict_file(&cached, Reason::Expired).await? {
                collected.expired += 1;
                collected.bytes += cached.stored_bytes;
            }
        }
        Ok(())
    }

    /// Forgets peers that have had no task for this long and were not heard of.
    async fn expire_peers(&self, silence: Duration) -> Result<usize, CallError> {
        self.list_peers_once().await?;
        let now = self.now();
        let Some(until) = now.before(silence) else { return Ok(0) };
        let mut due: HashSet<ClientId> = self.alone.since(until).into_iter().collect();
        {
            let heard = self.heard.lock();
            due.retain(|peer| !heard.contains_key(peer));
        }
        let members = self.take_members_out(&mut due);
        self.alone.release(&members, until);
        let due: Vec<ClientId> = due.into_iter().collect();
        let mut gone = 0;
        for peers in due.chunks(PEERS_AT_ONCE) {
            if self.stopping.is_cancelled() {
                break;
            }
            let room = self.committer.room().await?;
            self.alone.forget(peers, |changes| room.submit(changes, 0)).durable().await?;
            gone += peers.len();
        }
        self.alone.shrink();
        Ok(gone)
    }

    /// Takes those out of the set that are clients of some task; tells who they are.
    fn take_members_out(&self, peers: &mut HashSet<ClientId>) -> Vec<ClientId> {
        let mut members = Vec::new();
        for cell in self.cells() {
            if peers.is_empty() {
                break;
            }
            let inner = cell.lock();
            if inner.swarm.members() < peers.len() {
                members.extend(inner.swarm.client_ids().filter_map(|client| peers.take(client)));
            } else {
                members.extend(peers.extract_if(|peer| inner.swarm.introduction(peer).is_some()));
            }
        }
        members
    }

    /// Peers that were stored before this service started may have no task; nobody else would notice.
    async fn list_peers_once(&self) -> Result<(), CallError> {
        if self.alone.is_listed() {
            return Ok(());
        }
        let store = self.store();
        let stored = self.read(move || store.peer_ids()?.collect::<Result<HashSet<ClientId>, _>>()).await?;
        let mut alone = stored;
        self.take_members_out(&mut alone);
        self.alone.note(alone, Moment(0));
        self.alone.note_listed();
        Ok(())
    }

    /// Makes the database small again where what went has left it large. What fails is told and leaves it as it is; if it can
    /// no longer be written, that ends the service. Tells whether it was written anew.
    async fn shrink_database(self: &Arc<Self>) -> Result<bool, CallError> {
        let rows = self.rows();
        let before = self.rows_before.swap(rows, Ordering::Relaxed);
        // While more and more goes, it would be written anew again and again.
        let still_falling = rows < before - before / 4;
        if still_falling || !self.store.may_be_sparse(rows) {
            return Ok(false);
        }
        let cluster = self.clone();
        match self.blocking(move || cluster.store.give_room_back(&cluster.committer)).await? {
            Ok(None) => Ok(false),
            Ok(Some(Rewritten { rows, bytes_before, bytes_after, pause })) => {
                let pause_ms = pause.as_millis();
                tracing::info!(
                    rows,
                    bytes_before,
                    bytes_after,
                    pause_ms,
                    "wrote the database anew: most of its file was of what is gone"
                );
                Ok(true)
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the database is larger than it need be and could not be written anew"
                );
                self.prove_progress().await?;
                Ok(false)
            }
        }
    }

    /// About how many rows the database has, without what few tasks have: what a task fetches and how far it is, its pieces,
    /// where a client is in it and what it holds, and peers without a task.
    fn rows(&self) -> u64 {
        let of_task = |cell: Arc<Cell>| {
            let inner = cell.lock();
            2 + u64::from(inner.swarm.known_end()) + 2 * inner.swarm.members() as u64
        };
        self.alone.len() as u64 + self.cells().into_iter().map(of_task).sum::<u64>()
    }

    /// Notes on the files when they were used.
    async fn mark_used(&self) {
        let now = self.now();
        let mut marks: Vec<(TaskId, Generation, Duration)> = Vec::new();
        for cell in self.cells() {
            let mut inner = cell.lock();
            if inner.used > inner.marked && inner.swarm.stored_bytes() > 0 {
                inner.marked = inner.used;
                marks.push((cell.spec.id, inner.swarm.status().generation, now.since(inner.used)));
            }
        }
        for some in marks.chunks(MARKS_AT_ONCE) {
            let (repository, some) = (self.repository.clone(), some.to_vec());
            let marking = move || {
                for (task, generation, ago) in some {
                    let at = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
                    // A file that has gone meanwhile needs no mark.
                    let _ = repository.mark_used(&task, generation, at);
                }
            };
            // A panic in there is a bug of ours, and costs no more than an order.
            let _ = tokio::task::spawn_blocking(marking).await;
        }
    }
}
