//! After a start: every swarm as it was, checked against the piece files.

use std::sync::Arc;
use std::time::Instant;

use super::cell::{Cell, Probe};
use super::revalidation::Validated;
use super::{Cluster, StartError};
use crate::domain::{ClientId, ClientVersion, Endpoint, Peer, PieceDigest, PieceSet, SourceState};
use crate::store::TaskRows;
use crate::swarm::{Introduction, StoredClient, StoredPiece, StoredTask, Swarm};
use crate::telemetry::metrics::METRICS;

impl Cluster {
    /// Rebuilds all swarms from the store.
    pub(super) fn recover(&self) -> Result<(), StartError> {
        let started = Instant::now();
        let (mut tasks, mut clients, mut pieces) = (0, 0, 0);
        for id in self.store.task_ids()? {
            let Some(rows) = self.store.task(&id)? else { continue };
            clients += rows.clients.len();
            pieces += rows.pieces.len();
            let cell = self.rebuild(rows)?;
            self.tasks.write().insert(id, Arc::new(cell));
            tasks += 1;
        }
        let took_ms = started.elapsed().as_millis();
        tracing::info!(tasks, clients, pieces, took_ms, boot = self.store.boot(), "recovered what was stored");
        Ok(())
    }

    fn rebuild(&self, rows: TaskRows) -> Result<Cell, StartError> {
        let TaskRows { spec, status, pieces, clients, progress } = rows;
        let mut progress: std::collections::HashMap<ClientId, (PieceSet, PieceSet)> =
            progress.into_iter().map(|(client, progress)| (client, (progress.held, progress.servable))).collect();
        let file = self.repository.open_task(&spec.id, status.generation, status.piece_size);
        let idle = file.as_ref().ok().and_then(|file| file.used().ok()?.elapsed().ok()).unwrap_or_default();
        let length = file.and_then(|file| file.length()).unwrap_or(0);
        let on_disk = |piece, digest: &PieceDigest| status.piece_size.slot_start(piece) + u64::from(digest.slot_len()) <= length;
        let recorded = pieces.iter().filter(|(_, _, stored)| *stored).count();
        let piece_of = |(piece, digest, stored)| StoredPiece { piece, digest, stored: stored && on_disk(piece, &digest) };
        let pieces: Vec<StoredPiece> = pieces.into_iter().map(piece_of).collect();
        // A recorded piece was synced before its record was written. Where its bytes are gone all the same, somebody took them.
        let missing = recorded - pieces.iter().filter(|piece| piece.stored).count();
        if missing > 0 {
            tracing::warn!(task = %spec.id, missing, recorded, "recorded pieces are not on disk and will be fetched again");
        }
        let mut stored_clients = Vec::with_capacity(clients.len());
        for client in clients {
            // Registered clients have a peer record; one that was only heard of has none.
            let peer = self.store.peer(&client.id)?;
            let intro = self.introduce(&client.id, client.path.clone(), peer);
            let (held, servable) = progress.remove(&client.id).unwrap_or_default();
            stored_clients.push(StoredClient { client, intro, held, servable });
        }
        let probe = match status.state {
            SourceState::Waiting => Probe::Pending,
            // A failed task is asked for anew by its next registration.
            SourceState::Running | SourceState::Success { .. } | SourceState::Failed(_) => Probe::Answered,
        };
        let task = spec.id;
        let stored = StoredTask { status, pieces, clients: stored_clients };
        let swarm = Swarm::rebuild(self.now(), task, self.limits(), stored);
        let cell = Cell::new(Arc::new(spec), swarm, probe, true, self.now());
        {
            let mut inner = cell.lock();
            inner.idle_before = idle;
            inner.validated = Validated::before_start(self.now(), idle);
        }
        Ok(cell)
    }

    fn introduce(&self, client: &ClientId, path: Arc<str>, peer: Option<Peer>) -> Introduction {
        let unheard = || Peer {
            id: client.clone(),
            ip: std::net::Ipv4Addr::UNSPECIFIED.into(),
            port: 0,
            host_name: String::new(),
            version: String::new(),
            call_system: String::new(),
            dfdaemon: false,
            seed_host: "".into(),
        };
        let peer = peer.unwrap_or_else(unheard);
        Introduction {
            server: self.servers.lock().at(peer.ip, peer.port),
            version: ClientVersion::parse(&peer.version),
            call_system: METRICS.call_system(&peer.call_system),
            seed_host: peer.seed_host,
            endpoint: Arc::new(Endpoint { client: peer.id, ip: peer.ip, port: peer.port, path }),
        }
    }
}
