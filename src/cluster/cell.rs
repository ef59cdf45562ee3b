//! One task as the running service has it: its swarm behind a lock, and who waits for it.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::refusals::Rest;
use super::revalidation::Validated;
use super::{CallError, Refused};
use crate::domain::{CdnPattern, Change, ClientId, Moment, PieceNumber, TaskId, TaskSpec};
use crate::retention::{Cached, Use};
use crate::store::{Room, Ticket};
use crate::swarm::{Decision, Effects, Swarm};

/// How often one opening is passed on by clients that have no use for it, before it is left to whoever asks next.
const PASSES_MAX: u32 = 8;

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
    /// What the task is. How its source is asked can change, and is below the lock.
    pub spec: Arc<TaskSpec>,
    pub probe: watch::Sender<Probe>,
    /// Wakes held requests, first come first.
    pub openings: Notify,
    /// Ends the download of a task that is forgotten, or whose file makes room for the database.
    pub ended: CancellationToken,
    /// How often the latest opening may still be passed on.
    passes: AtomicU32,
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
        asked: Asked,
    },
    /// It is no longer among the tasks: it was forgotten, or its source gave nothing before anybody was told of it.
    Removed,
}

/// How fetching failed.
#[derive(Clone, Debug)]
pub struct LastFailure {
    pub at: Moment,
    /// In a row.
    pub failures: u32,
    pub refused: Refused,
    rest: Rest,
    asked: Asked,
}

/// How a source was asked, to be compared and not to be read: what it was asked with may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked(u64);

impl Asked {
    fn with(spec: &TaskSpec) -> Self {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(KEYS.hash_one(spec))
    }
}

/// What the lock guards.
#[derive(Debug)]
pub struct Inner {
    task: TaskId,
    pub swarm: Swarm,
    /// What is asked of the source: as in the cell, with the headers of the registration that brought the latest.
    pub spec: Arc<TaskSpec>,
    pub rng: fastrand::Rng,
    pub fetching: Fetching,
    /// What the task fetches is stored as it is here.
    defined: bool,
    /// There are rows of this task in the database.
    pub stored: bool,
    /// Pieces on disk that are being looked at, or are about to be.
    pub looking: HashSet<PieceNumber>,
    /// How often each client was told to ask again while the source was slow.
    pub put_off: HashMap<ClientId, u8>,
    /// Its source announced more than the disk could hold even if everything unused went: nobody knows whether it ends.
    pub outgrows_disk: bool,
    /// Of a source that nobody knows to end, what has room to be on the disk beyond what is stored; and how much of that is
    /// being written. Bytes.
    pub coming_bytes: u64,
    pub writing_bytes: u64,
    /// This process has begun to fetch it.
    pub fetched_here: bool,
    /// The source wants a token, and its token service has not answered.
    pub authenticating: bool,
    /// Clients whose request is being held, and how to wake them.
    pub held: HashMap<ClientId, Arc<Notify>>,
    /// When a client last spoke of this task or fetched of it, or its source brought something.
    pub used: Moment,
    /// For how long nobody had used it when the service started, if nobody has since.
    pub idle_before: Duration,
    /// An operator wants its file kept.
    pub pinned: bool,
    /// For how long it waits for clients that have yet to come.
    pub awaited_for: Duration,
    /// The use that is noted on the disk.
    pub marked: Moment,
    pub validated: Validated,
    /// The ticket of its content, where that is in the database: nobody reads it there before.
    content_ticket: u64,
    /// The ticket of the latest change: what any answer about this task may speak of.
    last_ticket: u64,
}

impl Cell {
    pub fn new(spec: Arc<TaskSpec>, swarm: Swarm, probe: Probe, stored: bool, now: Moment) -> Self {
        let inner = Inner {
            task: spec.id,
            swarm,
            spec: spec.clone(),
            rng: fastrand::Rng::new(),
            fetching: Fetching::Idle { failed: None },
            defined: stored,
            stored,
            looking: HashSet::new(),
            put_off: HashMap::new(),
            outgrows_disk: false,
            coming_bytes: 0,
            writing_bytes: 0,
            fetched_here: false,
            authenticating: false,
            held: HashMap::new(),
            used: now,
            idle_before: Duration::ZERO,
            pinned: false,
            awaited_for: Duration::ZERO,
            marked: now,
            validated: Validated::now(now),
            content_ticket: 0,
            last_ticket: 0,
        };
        Self {
            // Headers are dropped once they have done their service, so none are kept where nothing is ever changed.
            spec: if spec.brings_headers() { Arc::new(spec.without_headers()) } else { spec },
            probe: watch::Sender::new(probe),
            openings: Notify::new(),
            ended: CancellationToken::new(),
            passes: AtomicU32::new(0),
            inner: Mutex::new(inner),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Locks a task that is still among the tasks: what is taken in by one that is not would be stored of the next.
    pub fn live(&self) -> Result<MutexGuard<'_, Inner>, CallError> {
        let inner = self.inner.lock();
        match inner.fetching {
            Fetching::Removed => Err(CallError::UnknownTask(self.spec.id)),
            Fetching::Idle { .. } | Fetching::Underway { .. } => Ok(inner),
        }
    }

    /// Lets as many held requests look again as may now find something.
    pub fn wake(&self, openings: u32) {
        if openings == u32::MAX {
            self.openings.notify_waiters();
            return;
        }
        if openings > 0 {
            self.passes.store(PASSES_MAX, Ordering::Relaxed);
        }
        for _ in 0..openings {
            self.openings.notify_one();
        }
    }

    /// Wakes the next in line in the place of one that was woken and found nothing, or has hung up.
    fn pass_on(&self) {
        let others = self.lock().held.len() > 1;
        let left = |passes: u32| passes.checked_sub(1).filter(|_| others);
        if self.passes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok() {
            self.openings.notify_one();
        }
    }
}

/// The opening that woke a held request, if one did. Unless it is used, it goes to the next in line: nobody swallows what
/// another waits for.
#[derive(Debug, Default)]
pub struct Woken<'a>(Option<&'a Cell>);

impl<'a> Woken<'a> {
    pub const fn by(cell: &'a Cell) -> Self {
        Self(Some(cell))
    }

    pub fn used(mut self) {
        self.0 = None;
    }
}

impl Drop for Woken<'_> {
    fn drop(&mut self) {
        if let Some(cell) = self.0 {
            cell.pass_on();
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

    /// The same for changes by which a small content comes into the database.
    pub fn submit_content(&mut self, room: Room, effects: &mut Effects) -> Ticket {
        let ticket = self.submit(room, effects);
        self.content_ticket = ticket.number();
        ticket
    }

    /// The ticket of a content in the database that can be read there once it is durable.
    pub const fn content_ticket(&self) -> u64 {
        self.content_ticket
    }

    /// What the client should do now.
    pub fn decide(&mut self, now: Moment, client: &ClientId, effects: &mut Effects) -> Decision {
        let decision = self.swarm.decide(now, &mut self.rng, client);
        if let Decision::Finished { .. } = decision {
            self.swarm.finish_client(client, effects);
        }
        decision
    }

    /// A client has said something: what it waits for on another connection may have changed with it.
    pub fn heard_from(&self, client: &ClientId) {
        if let Some(waiting) = self.held.get(client) {
            waiting.notify_one();
        }
    }

    /// Notes that a download begins, and tells what is asked of the source; `None` where none may.
    pub fn begin_fetching(&mut self) -> Option<Arc<TaskSpec>> {
        let Fetching::Idle { failed } = &self.fetching else { return None };
        let failures = failed.as_ref().map_or(0, |failed| failed.failures);
        self.fetching = Fetching::Underway { failures, asked: Asked::with(&self.spec) };
        // What goes on with a length that is known is refused where the disk cannot hold it.
        self.outgrows_disk = false;
        self.nothing_is_coming();
        Some(self.spec.clone())
    }

    /// Of what was being written, so much counts as stored from here on.
    pub const fn has_come(&mut self, bytes: u64) {
        self.writing_bytes = self.writing_bytes.saturating_sub(bytes);
        self.coming_bytes = self.coming_bytes.saturating_sub(bytes);
    }

    /// Nothing is being written, and none of the room is needed.
    pub const fn nothing_is_coming(&mut self) {
        self.writing_bytes = 0;
        self.coming_bytes = 0;
    }

    /// Takes back what has room to be on the disk and is not being written: it is looked for again.
    pub fn take_back_room(&mut self) {
        self.coming_bytes = self.coming_bytes.min(self.writing_bytes);
    }

    /// Whether it is known how much it will hold.
    pub fn is_measured(&self) -> bool {
        self.swarm.status().length.is_some() && !self.outgrows_disk
    }

    /// Notes that a download has failed, and that the task stays.
    pub fn note_failure(&mut self, at: Moment, refused: Refused, rest: Rest) {
        let (failures, asked) = match &self.fetching {
            Fetching::Underway { failures, asked } => (failures.saturating_add(1), *asked),
            Fetching::Idle { .. } | Fetching::Removed => (1, Asked::with(&self.spec)),
        };
        self.fetching = Fetching::Idle { failed: Some(LastFailure { at, failures, refused, rest, asked }) };
        self.put_off.clear();
    }

    /// The failure for whose sake the source is not asked again yet.
    pub fn resting(&self, now: Moment, longest: Duration) -> Option<&LastFailure> {
        let Fetching::Idle { failed: Some(failed) } = &self.fetching else { return None };
        (now.since(failed.at) < failed.rest.wait(failed.failures, longest)).then_some(failed)
    }

    /// Whether pieces are missing of a source that could be asked.
    pub fn is_unfinished(&self) -> bool {
        !self.swarm.is_whole() && self.swarm.failure().is_none()
    }

    /// Somebody uses the task.
    pub const fn touch(&mut self, now: Moment) {
        self.used = now;
        self.idle_before = Duration::ZERO;
        self.awaited_for = Duration::ZERO;
    }

    /// It is here for clients that have yet to come.
    pub const fn await_clients(&mut self, span: Duration) {
        self.awaited_for = span;
    }

    /// What uses the task now, so that it must stay.
    pub fn in_use(&self, now: Moment) -> Option<Use> {
        if matches!(self.fetching, Fetching::Underway { .. }) {
            return Some(Use::SourceFetched);
        }
        let clients = self.swarm.fetching(now).max(self.held.len());
        (clients > 0).then_some(Use::Clients(clients))
    }

    /// Why its file must stay, if it must.
    pub fn must_stay(&self, now: Moment) -> Option<Use> {
        self.in_use(now).or(self.pinned.then_some(Use::Pinned))
    }

    /// The task as a file of the repository.
    pub fn cached(&self, now: Moment) -> Cached {
        let status = self.swarm.status();
        let stored_bytes = self.swarm.stored_bytes();
        let is_kept = status.pattern == CdnPattern::Local;
        let coming = is_kept && matches!(self.fetching, Fetching::Underway { .. });
        let measured = self.is_measured();
        let unused = now.since(self.used);
        Cached {
            task: self.task,
            stored_bytes,
            bytes: if coming {
                let length = status.file_length().filter(|_| measured);
                length.unwrap_or_default().max(stored_bytes + self.coming_bytes)
            } else {
                stored_bytes
            },
            unmeasured_bytes: (coming && !measured).then_some(stored_bytes + self.writing_bytes),
            unused,
            idle: unused.saturating_add(self.idle_before),
            in_use: self.must_stay(now),
            pinned: self.pinned,
            whole: is_kept && self.swarm.is_whole(),
            awaited_for: self.awaited_for,
        }
    }

    /// Has the source asked as this registration says, where it brings what is wanting: headers that were left out, or
    /// another way to ask after the source refused the last one, which is then tried at once.
    pub fn take_headers_of(&mut self, registered: &TaskSpec) {
        let brings = self.spec.headers_left_out && registered.brings_headers() && !self.swarm.is_whole();
        let may_answer = self.may_answer(registered);
        if !brings && !may_answer {
            return;
        }
        self.ask_as(&self.asked_for(registered));
        if may_answer {
            self.fetching = Fetching::Idle { failed: None };
        }
    }

    /// How the source would be asked for this registration. Until a piece is known, it is as good as the first; from then
    /// on nobody's word makes another source of it, which might have other bytes.
    fn asked_for(&self, registered: &TaskSpec) -> TaskSpec {
        if self.swarm.knows_pieces() { self.spec.with_credentials_of(registered) } else { registered.clone() }
    }

    /// Has the source asked like this from now on.
    pub fn ask_as(&mut self, spec: &TaskSpec) {
        if *self.spec != *spec {
            self.spec = Arc::new(spec.clone());
            self.defined = false;
        }
    }

    /// Whether the source refused whoever asked the last time, and this registration would ask otherwise.
    fn may_answer(&self, registered: &TaskSpec) -> bool {
        let Fetching::Idle { failed: Some(failed) } = &self.fetching else { return false };
        let nothing_new = self.spec.headers_left_out && !registered.brings_headers();
        failed.refused.is_of_credentials() && !nothing_new && failed.asked != Asked::with(&self.asked_for(registered))
    }

    /// Whether it is worth to ask once more for this registration, though the source was just found to refuse.
    pub fn would_ask_again_for(&self, registered: &TaskSpec) -> bool {
        match self.fetching {
            Fetching::Idle { .. } => self.may_answer(registered),
            // It was asked for another, and is gone with that one's headers.
            Fetching::Removed => *self.spec != *registered,
            Fetching::Underway { asked, .. } => asked != Asked::with(&self.asked_for(registered)),
        }
    }

    /// Forgets the headers for the source, which is asked no more unless a registration brings some again.
    pub fn drop_headers(&mut self, effects: &mut Effects) {
        if self.spec.brings_headers() {
            self.spec = Arc::new(self.spec.without_headers());
            self.defined = false;
            effects.changes.extend(self.define());
        }
    }

    /// The change that makes the task's definition durable, unless it is.
    pub fn define(&mut self) -> Option<Change> {
        let stored_before = std::mem::replace(&mut self.stored, true);
        if std::mem::replace(&mut self.defined, true) {
            return None;
        }
        let spec = self.spec.clone();
        Some(if stored_before { Change::TaskRedefined(spec) } else { Change::TaskDefined(spec) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Generation, PieceSize, SourceState, TaskId, TaskStatus};
    use crate::swarm::Limits;

    fn cell_that_holds(clients: u32) -> Cell {
        let id = TaskId::derive("http://h/f", "", "");
        let spec = TaskSpec::of_url("http://h/f");
        let status = TaskStatus {
            generation: Generation(0),
            pattern: CdnPattern::Local,
            piece_size: PieceSize::DEFAULT,
            length: None,
            validators: Default::default(),
            state: SourceState::Waiting,
        };
        let cell = Cell::new(Arc::new(spec), Swarm::new(id, Limits::default(), status), Probe::Answered, true, Moment(0));
        for number in 0..clients {
            let client = ClientId::parse(&format!("client-{number}")).expect("a client id");
            cell.lock().held.insert(client, Arc::new(Notify::new()));
        }
        cell
    }

    /// How many looks one opening causes where nobody finds anything.
    async fn looks_at_an_opening(clients: u32) -> u32 {
        let cell = cell_that_holds(clients);
        cell.wake(1);
        let mut looks = 0;
        while tokio::time::timeout(Duration::from_millis(1), cell.openings.notified()).await.is_ok() {
            looks += 1;
            drop(Woken::by(&cell));
        }
        looks
    }

    #[tokio::test]
    async fn an_opening_that_is_of_no_use_goes_to_others_and_comes_to_an_end() {
        assert_eq!(looks_at_an_opening(1).await, 1, "nobody else is there");
        assert_eq!(looks_at_an_opening(2).await, 1 + PASSES_MAX);
    }

    #[tokio::test]
    async fn an_opening_that_is_used_is_gone() {
        let cell = cell_that_holds(2);
        cell.wake(1);
        cell.openings.notified().await;
        Woken::by(&cell).used();
        assert!(tokio::time::timeout(Duration::from_millis(1), cell.openings.notified()).await.is_err());
    }
}
