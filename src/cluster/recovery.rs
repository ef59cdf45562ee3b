//! After a start: every swarm as it was, checked against the piece files.
//!
//! Peers are read once, in the order of their keys, and shared by all tasks; the tasks are rebuilt on all cores, each by
//! scans of its own rows.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use super::cell::{Cell, Probe};
use super::revalidation::Validated;
use super::{Cluster, StartError, pieces_on_disk};
use crate::domain::{
    CdnPattern, Change, Client, ClientId, ClientVersion, Endpoint, PieceDigest, PieceNumber, PieceSet, SourceState, TaskId,
    TaskStatus,
};
use crate::pieces::{PieceBytes, PieceFileError};
use crate::store::TaskRows;
use crate::swarm::{Introduction, PATH_OF_UNREGISTERED, StoredClient, StoredPiece, StoredTask, Swarm, UploadServer};
use crate::telemetry::metrics::METRICS;
use crate::telemetry::recovery::RECOVERY;

/// Memberships that are removed at once: a batch costs the database far more memory than it has bytes.
const FORGOTTEN_AT_ONCE: usize = 1_000;

/// What was rebuilt.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    tasks: usize,
    clients: usize,
    pieces: usize,
}

/// What a client said of itself, whichever task it is asked for.
#[derive(Debug)]
struct Known {
    ip: std::net::IpAddr,
    port: u16,
    server: Option<Arc<UploadServer>>,
    version: ClientVersion,
    call_system: Arc<str>,
    seed_host: Arc<str>,
}

type Peers = HashMap<ClientId, Known>;

impl Cluster {
    /// Rebuilds all swarms from the store.
    pub(super) fn recover(&self) -> Result<(), StartError> {
        let started = Instant::now();
        let ids = self.store.task_ids()?;
        RECOVERY.begin(ids.len());
        let peers = if ids.is_empty() { Peers::new() } else { self.load_peers()? };
        let peers_ms = started.elapsed().as_millis();
        let next = AtomicUsize::new(0);
        let threads = available_parallelism().map_or(1, NonZero::get).min(ids.len());
        let rebuilt: Result<Vec<(Counts, Vec<Change>)>, StartError> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| self.rebuild_from(&ids, &next, &peers))).collect();
            // A panic here goes on as it would have without threads.
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let (counts, forgotten): (Vec<Counts>, Vec<Vec<Change>>) = rebuilt?.into_iter().unzip();
        self.finish_forgetting(&forgotten.concat())?;
        let Counts { tasks, clients, pieces } = counts.into_iter().fold(Counts::default(), Counts::plus);
        let took_ms = started.elapsed().as_millis();
        let (peers, boot) = (peers.len(), self.store.boot());
        tracing::info!(tasks, clients, pieces, peers, peers_ms, took_ms, boot, "recovered what was stored");
        Ok(())
    }

    /// Everybody that ever registered. Hosts are few, and shared.
    fn load_peers(&self) -> Result<Peers, StartError> {
        let (mut peers, mut hosts) = (Peers::new(), HashMap::<Arc<str>, Arc<str>>::new());
        let mut servers = self.servers.lock();
        for peer in self.store.peers()? {
            let peer = peer?;
            let seed_host = hosts.entry(peer.seed_host.clone()).or_insert(peer.seed_host).clone();
            let known = Known {
                ip: peer.ip,
                port: peer.port,
                server: servers.at(peer.ip, peer.port),
                version: ClientVersion::parse(&peer.version),
                call_system: METRICS.call_system(&peer.call_system),
                seed_host,
            };
            peers.insert(peer.id, known);
        }
        Ok(peers)
    }

    /// A peer that was being forgotten when the process died is gone from all of its tasks, as its record is.
    fn finish_forgetting(&self, forgotten: &[Change]) -> Result<(), StartError> {
        if !forgotten.is_empty() {
            tracing::info!(memberships = forgotten.len(), "finished forgetting peers, which was cut short");
        }
        // The committer has nothing to write yet.
        forgotten.chunks(FORGOTTEN_AT_ONCE).try_for_each(|some| self.store.write(some)).map_err(StartError::from)
    }

    /// Rebuilds one task after the other that no other thread has taken. Tells what of them is to be forgotten, too.
    fn rebuild_from(&self, ids: &[TaskId], next: &AtomicUsize, peers: &Peers) -> Result<(Counts, Vec<Change>), StartError> {
        let (mut counts, mut forgotten) = (Counts::default(), Vec::new());
        while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(mut rows) = self.store.task(id)? {
                forgotten.extend(take_half_forgotten(&mut rows, peers));
                counts = counts.plus(Counts { tasks: 1, clients: rows.clients.len(), pieces: rows.pieces.len() });
                let cell = self.rebuild(rows, peers);
                self.tasks.write().insert(*id, Arc::new(cell));
            }
            RECOVERY.count();
        }
        Ok((counts, forgotten))
    }

    fn rebuild(&self, rows: TaskRows, peers: &Peers) -> Cell {
        let TaskRows { spec, mut status, pieces, clients, progress, pinned } = rows;
        let mut progress: HashMap<ClientId, (PieceSet, PieceSet)> =
            progress.into_iter().map(|(client, progress)| (client, (progress.held, progress.servable))).collect();
        let is_kept = status.pattern == CdnPattern::Local;
        let (length, idle) = if is_kept { self.on_disk(&spec.id, &status) } else { (Some(0), Duration::ZERO) };
        let on_disk = |piece, digest: &PieceDigest| {
            let end = status.piece_size.slot_start(piece) + u64::from(digest.slot_len());
            length.is_none_or(|length| end <= length)
        };
        let recorded = pieces.iter().filter(|(_, _, stored)| *stored).count();
        let piece_of = |(piece, digest, stored)| StoredPiece { piece, digest, stored: stored && on_disk(piece, &digest) };
        let pieces: Vec<StoredPiece> = pieces.into_iter().map(piece_of).collect();
        // A recorded piece was synced before its record was written. Where its bytes are gone all the same, somebody took them.
        let missing = recorded - pieces.iter().filter(|piece| piece.stored).count();
        if missing > 0 {
            tracing::warn!(task = %spec.id, missing, recorded, "recorded pieces are not on disk and will be fetched again");
        }
        if let Some(length) = length {
            let end = pieces.iter().filter(|piece| piece.stored).map(|piece| piece.piece.0 + 1).max();
            self.trim(&spec.id, &status, length, end.unwrap_or(0));
        }
        // Nobody knows what such a piece must be: the download goes on, and finds out.
        if let SourceState::Success { .. } = status.state
            && is_kept
            && status.piece_count().is_none_or(|count| (pieces.len() as u64) < u64::from(count))
        {
            tracing::warn!(task = %spec.id, recorded = pieces.len(), "records of pieces are gone from the database; the task is fetched on");
            status.state = SourceState::Running;
        }
        let clients = clients.into_iter().map(|client| {
            let intro = introduce(&client.id, client.path.clone(), peers);
            let (held, servable) = progress.remove(&client.id).unwrap_or_default();
            StoredClient { client, intro, held, servable }
        });
        let clients = clients.collect();
        let probe = match status.state {
            SourceState::Waiting => Probe::Pending,
            // A failed task is asked for anew by its next registration.
            SourceState::Running | SourceState::Success { .. } | SourceState::Failed(_) => Probe::Answered,
        };
        let task = spec.id;
        let swarm = Swarm::rebuild(self.now(), task, self.limits(), StoredTask { status, pieces, clients });
        let cell = Cell::new(Arc::new(spec), swarm, probe, true, self.now());
        {
            let mut inner = cell.lock();
            inner.idle_before = idle;
            inner.pinned = pinned;
            inner.validated = Validated::before_start(self.now(), idle);
        }
        cell
    }

    /// Cuts off what the process before this one wrote of pieces that it did not come to record: nothing counts it.
    fn trim(&self, task: &TaskId, status: &TaskStatus, length: u64, pieces: u32) {
        if length <= status.piece_size.slot_start(PieceNumber(pieces)) {
            return;
        }
        if let Err(error) = self.repository.trim(task, status.generation, status.piece_size, pieces) {
            tracing::warn!(%task, error = &error as &dyn std::error::Error, "what is left of a download stays behind");
        }
    }

    /// How far the piece file reaches, and for how long nobody has used it. One that cannot be looked at is taken for what
    /// the database says of it: it is not gone, and whoever reads it will be told why that fails.
    fn on_disk(&self, task: &TaskId, status: &TaskStatus) -> (Option<u64>, Duration) {
        let look = || {
            let Some(bytes) = pieces_on_disk::open(&self.store, &self.repository, task, status)? else {
                return Ok::<_, PieceFileError>((Some(0), Duration::ZERO));
            };
            let idle = match &bytes {
                PieceBytes::File(file) => file.used()?.elapsed().unwrap_or_default(),
                // Small as it is, it is not worth a note in the database whenever it is used.
                PieceBytes::Row { .. } => Duration::ZERO,
            };
            Ok((Some(bytes.length()?), idle))
        };
        look().unwrap_or_else(|error| {
            tracing::error!(%task, error = &error as &dyn std::error::Error, "piece file cannot be looked at and is taken for whole");
            (None, Duration::ZERO)
        })
    }
}

impl Counts {
    const fn plus(self, other: Self) -> Self {
        Self { tasks: self.tasks + other.tasks, clients: self.clients + other.clients, pieces: self.pieces + other.pieces }
    }
}

/// Takes out the clients that registered and have no peer record any more: forgetting a peer begins with that, and goes on
/// from task to task. One that was only heard of never had one; it serves nothing.
fn take_half_forgotten(rows: &mut TaskRows, peers: &Peers) -> Vec<Change> {
    let generation = rows.status.generation;
    let (half, whole): (Vec<Client>, Vec<Client>) = std::mem::take(&mut rows.clients).into_iter().partition(|client| {
        let was_registered = !client.gone || *client.path != *PATH_OF_UNREGISTERED;
        // Who began an earlier generation stays known as that.
        was_registered && client.generation == generation && !peers.contains_key(&client.id)
    });
    rows.clients = whole;
    half.into_iter().map(|client| Change::ClientForgotten { task: client.task, client: client.id }).collect()
}

/// Registered clients have a peer record; one that was only heard of has none.
fn introduce(client: &ClientId, path: Arc<str>, peers: &Peers) -> Introduction {
    let endpoint = |ip, port| Arc::new(Endpoint { client: client.clone(), ip, port, path });
    match peers.get(client) {
        Some(peer) => Introduction {
            endpoint: endpoint(peer.ip, peer.port),
            server: peer.server.clone(),
            version: peer.version,
            call_system: peer.call_system.clone(),
            seed_host: peer.seed_host.clone(),
            own_url: None,
        },
        None => Introduction {
            endpoint: endpoint(std::net::Ipv4Addr::UNSPECIFIED.into(), 0),
            server: None,
            version: ClientVersion::parse(""),
            call_system: METRICS.call_system(""),
            seed_host: "".into(),
            own_url: None,
        },
    }
}
