//! One task as the running service has it: its swarm behind a lock, and who waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};

use super::Refused;
use super::refusals::wait_after;
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

/// What is being done about a task's source. Changes hands under the lock, together with the probe.
#[derive(Clone, Debug)]
pub enum Fetching {
    Idle {
        /// How it ended the last time, if badly.
        failed: Option<LastFailure>,
    },
    Underway {
        /// Failures in a row before this attempt.
        failures: u32,
    },
    /// The source gave nothing before anybody was told of the task, which is no longer among the tasks.
    Removed,
}

/// How fetching failed.
#[derive(Clone, Debug)]
pub struct LastFailure {
    pub at: Moment,
    /// In a row.
    pub failures: u32,
    pub refused: Refused,
}

/// What the lock guards.
#[derive(Debug)]
pub struct Inner {
    pub swarm: Swarm,
    /// What is asked of the source: as in the cell, but with headers that were brought again after a restore.
    pub spec: Arc<TaskSpec>,
    pub rng: fastrand::Rng,
    pub fetching: Fetching,
    /// What the task fetches is stored.
    pub defined: bool,
    /// Its pieces on disk are being looked at.
    pub looking: bool,
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
            spec: spec.clone(),
            rng: fastrand::Rng::new(),
            fetching: Fetching::Idle { failed: None },
            defined,
            looking: false,
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

    /// Notes that a download begins; `false` where none may.
    pub fn begin_fetching(&mut self) -> bool {
        let Fetching::Idle { failed } = &self.fetching else { return false };
        self.fetching = Fetching::Underway { failures: failed.as_ref().map_or(0, |failed| failed.failures) };
        true
    }

    /// Notes that a download has failed, and that the task stays.
    pub fn note_failure(&mut self, at: Moment, refused: Refused) {
        let failures = match &self.fetching {
            Fetching::Underway { failures } => failures.saturating_add(1),
            Fetching::Idle { .. } | Fetching::Removed => 1,
        };
        self.fetching = Fetching::Idle { failed: Some(LastFailure { at, failures, refused }) };
        self.put_off.clear();
    }

    /// The failure for whose sake the source is not asked again yet.
    pub fn resting(&self, now: Moment, longest: Duration) -> Option<&LastFailure> {
        let Fetching::Idle { failed: Some(failed) } = &self.fetching else { return None };
        (now.since(failed.at) < wait_after(failed.failures, longest)).then_some(failed)
    }

    /// Whether pieces are missing of a source that could be asked.
    pub fn is_unfinished(&self) -> bool {
        !self.swarm.is_whole() && self.swarm.failure().is_none()
    }

    /// Takes the headers from a registration that a snapshot had left out; the source may be asked again with them.
    pub fn bring_headers(&mut self, registered: &TaskSpec) {
        if !self.spec.headers_left_out {
            return;
        }
        self.spec = Arc::new(registered.clone());
        self.defined = false;
        if matches!(self.fetching, Fetching::Idle { .. }) {
            self.fetching = Fetching::Idle { failed: None };
        }
    }

    /// The change that makes the task's definition durable, unless it is.
    pub fn define(&mut self) -> Option<Change> {
        (!std::mem::replace(&mut self.defined, true)).then(|| Change::TaskDefined(self.spec.clone()))
    }
}
