//! One task as the running service has it: its swarm behind a lock, and who waits for it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};

use super::Refused;
use crate::domain::{Change, ClientId, Moment, TaskSpec};
use crate::store::{Room, Ticket};
use crate::swarm::{Effects, Swarm};

/// What registrations wait for.
#[derive(Clone, Debug)]
pub enum Probe {
    /// The source was asked and has not answered.
    Pending,
    /// The task has a piece size, and a length if it will have one.
    Answered,
    /// The source gave nothing; the task is no more.
    Refused(Refused),
}

/// A task. The lock is held for microseconds and never across an await.
#[derive(Debug)]
pub struct Cell {
    pub spec: Arc<TaskSpec>,
    pub probe: watch::Sender<Probe>,
    /// Wakes held requests, first come first.
    pub openings: Notify,
    inner: Mutex<Inner>,
}

/// What the lock guards.
#[derive(Debug)]
pub struct Inner {
    pub swarm: Swarm,
    pub rng: fastrand::Rng,
    /// A download of this task is under way.
    pub fetching: bool,
    /// What the task fetches is stored.
    pub defined: bool,
    /// It is no longer among the tasks: its source gave nothing before anybody joined.
    pub removed: bool,
    /// When fetching last failed, and how often in a row.
    pub failed: Option<(Moment, u32)>,
    /// How often each client was told to ask again while the source was slow.
    pub put_off: HashMap<ClientId, u8>,
    /// Clients whose request is being held, and how to wake them.
    pub held: HashMap<ClientId, Arc<Notify>>,
    /// The ticket of the latest change: what any answer about this task may speak of.
    last_ticket: u64,
}

impl Cell {
    pub fn new(spec: Arc<TaskSpec>, swarm: Swarm, probe: Probe, defined: bool) -> Self {
        let inner = Inner {
            swarm,
            rng: fastrand::Rng::new(),
            fetching: false,
            defined,
            removed: false,
            failed: None,
            put_off: HashMap::new(),
            held: HashMap::new(),
            last_ticket: 0,
        };
        Self { spec, probe: watch::Sender::new(probe), openings: Notify::new(), inner: Mutex::new(inner) }
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Lets as many held requests look again as may now find something.
    pub fn wake(&self, openings: u32) {
        if openings == u32::MAX {
            self.openings.notify_waiters();
            return;
        }
        for _ in 0..openings {
            self.openings.notify_one();
        }
    }
}

impl Inner {
    /// Hands the changes to the committer while the lock is held, so that they are written in the order they were made.
    pub fn submit(&mut self, room: Room, effects: &mut Effects) -> Ticket {
        let ticket = room.submit(std::mem::take(&mut effects.changes), self.last_ticket);
        self.last_ticket = self.last_ticket.max(ticket.number());
        ticket
    }

    /// A client has said something: what it waits for on another connection may have changed with it.
    pub fn heard_from(&self, client: &ClientId) {
        if let Some(waiting) = self.held.get(client) {
            waiting.notify_one();
        }
    }

    /// The change that makes the task's definition durable, unless it is.
    pub fn define(&mut self, spec: &Arc<TaskSpec>) -> Option<Change> {
        (!std::mem::replace(&mut self.defined, true)).then(|| Change::TaskDefined(spec.clone()))
    }
}
