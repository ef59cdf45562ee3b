//! Who is in the network: which peers are known, and who holds what.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{CallError, Cluster};
use crate::domain::{ClientId, Endpoint, PieceNumber, PieceSize, TaskId, TaskSpec, TaskStatus};

/// What a node has of one task.
#[derive(Clone, Debug)]
pub struct Share {
    pub spec: Arc<TaskSpec>,
    pub status: TaskStatus,
    /// Pieces that it serves, ascending.
    pub pieces: Vec<PieceNumber>,
    /// Where it serves them.
    pub endpoint: Arc<Endpoint>,
}

impl Share {
    pub const fn piece_size(&self) -> PieceSize {
        self.status.piece_size
    }
}

/// A client that serves something.
#[derive(Clone, Debug)]
pub struct Node {
    pub client: ClientId,
    /// Uploads that it does now.
    pub load: u32,
    pub shares: Vec<Share>,
}

impl Cluster {
    /// Whether this client is known at this address.
    pub async fn knows_peer(&self, client: ClientId, ip: IpAddr, port: u16) -> Result<bool, CallError> {
        let known = self.peer(client.clone()).await?.is_some_and(|peer| peer.ip == ip && peer.port == port);
        if known {
            self.heard.lock().insert(client, self.now());
        }
        Ok(known)
    }

    /// Changes when state was lost, so that clients register again.
    pub fn state_version(&self) -> String {
        format!("{:016x}", self.store.node())
    }

    /// Who serves what of these task URLs: `limit` nodes after the first `start`, in the order of their ids.
    pub fn network(&self, urls: &HashSet<String>, start: usize, limit: usize) -> Vec<Node> {
        let cells: Vec<_> = self.tasks.read().values().filter(|cell| urls.contains(&cell.spec.task_url)).cloned().collect();
        let mut nodes: BTreeMap<ClientId, Node> = BTreeMap::new();
        for cell in cells {
            let inner = cell.lock();
            for serving in inner.swarm.serving_clients() {
                let client = serving.endpoint.client.clone();
                let node = nodes.entry(client.clone()).or_insert(Node { client, load: serving.uploads, shares: Vec::new() });
                let (spec, status) = (cell.spec.clone(), inner.swarm.status().clone());
                node.shares.push(Share { spec, status, pieces: serving.pieces, endpoint: serving.endpoint });
            }
        }
        nodes.into_values().skip(start).take(limit).collect()
    }

    /// The task's upload server of this client is going away. Nothing is handed out from there any more.
    pub async fn take_down(&self, task: &TaskId, client: ClientId) -> Result<(), CallError> {
        self.report(task, client, super::Told::ServiceDown).await
    }
}
