//! What operators see of tasks, their pieces and clients, and peers: a page at a time.

use std::sync::Arc;

use super::cell::Cell;
use super::{CallError, Cluster, inventory};
use crate::domain::task::redacted_url;
use crate::domain::{Change, ClientId, Peer, TaskId, TaskSpec, TaskStatus};
use crate::swarm::{ClientView, PieceView};

/// Some of a list, and how many there are in all.
#[derive(Debug)]
pub struct Page<T> {
    pub total: usize,
    pub items: Vec<T>,
}

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub skip: usize,
    pub take: usize,
}

/// A task as it is now.
#[derive(Debug)]
pub struct TaskView {
    pub spec: Arc<TaskSpec>,
    pub status: TaskStatus,
    pub pieces_stored: u32,
    pub clients: usize,
    pub pinned: bool,
}

/// Which tasks are wanted; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    /// A state by its published name.
    pub state: Option<String>,
    /// What the task's URL contains, as it is shown.
    pub url: Option<String>,
    pub identifier: Option<String>,
}

impl TaskFilter {
    fn matches(&self, cell: &Cell) -> bool {
        let spec = &cell.spec;
        // What is not shown is not matched either: who asks often enough would guess it letter by letter.
        self.url.as_ref().is_none_or(|url| redacted_url(&spec.task_url).contains(url.as_str()))
            && (self.identifier.is_none() || self.identifier == spec.identifier)
            && self
                .state
                .as_ref()
                .is_none_or(|state| inventory::source_state(&cell.lock().swarm.status().state).eq_ignore_ascii_case(state))
    }
}

impl Cluster {
    /// Tasks in the order of their ids.
    pub fn tasks(&self, filter: &TaskFilter, window: Window) -> Page<TaskView> {
        let mut cells = self.cells();
        cells.retain(|cell| filter.matches(cell));
        cells.sort_unstable_by_key(|cell| cell.spec.id);
        let items = cells.iter().skip(window.skip).take(window.take).map(|cell| view(cell)).collect();
        Page { total: cells.len(), items }
    }

    pub fn task(&self, id: &TaskId) -> Result<TaskView, CallError> {
        Ok(view(&*self.cell(id)?))
    }

    /// Pieces of a task by number, as far as their digests are known.
    pub fn task_pieces(&self, id: &TaskId, window: Window) -> Result<(TaskStatus, Page<PieceView>), CallError> {
        let cell = self.cell(id)?;
        let inner = cell.lock();
        let items = inner.swarm.piece_views().skip(window.skip).take(window.take).collect();
        Ok((inner.swarm.status().clone(), Page { total: inner.swarm.known_pieces() as usize, items }))
    }

    /// Clients of a task in the order in which they came.
    pub fn task_clients(&self, id: &TaskId, window: Window) -> Result<Page<ClientView>, CallError> {
        let cell = self.cell(id)?;
        let inner = cell.lock();
        let items = inner.swarm.client_views().skip(window.skip).take(window.take).collect();
        Ok(Page { total: inner.swarm.members(), items })
    }

    /// What a client says of itself.
    pub async fn peer(&self, client: ClientId) -> Result<Option<Peer>, CallError> {
        let store = self.store.clone();
        Ok(self.read(move || store.peer(&client)).await?)
    }

    /// Peers in the order of their ids.
    pub async fn peers(&self, window: Window) -> Result<Page<Peer>, CallError> {
        let store = self.store.clone();
        Ok(self
            .read(move || {
                let items = store.peers()?.skip(window.skip).take(window.take).collect::<Result<_, _>>()?;
                Ok(Page { total: store.peer_count()?, items })
            })
            .await?)
    }

    /// Notes a peer that registered for itself and not yet for a task. Returns once that is durable.
    pub async fn add_peer(&self, peer: Peer) -> Result<(), CallError> {
        let room = self.committer.room().await?;
        // It has no task: unless it registers for one, it is forgotten in time.
        self.alone.note([peer.id.clone()], self.now());
        Ok(room.submit(vec![Change::PeerSeen(Arc::new(peer))], 0).durable().await?)
    }

    /// Reads the database, which blocks.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, crate::store::StoreError> + Send + 'static,
    ) -> Result<T, crate::store::StoreError> {
        match tokio::task::spawn_blocking(read).await {
            Ok(found) => found,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

fn view(cell: &Cell) -> TaskView {
    let inner = cell.lock();
    TaskView {
        spec: inner.spec.clone(),
        status: inner.swarm.status().clone(),
        pieces_stored: inner.swarm.pieces_stored(),
        clients: inner.swarm.members(),
        pinned: inner.pinned,
    }
}
