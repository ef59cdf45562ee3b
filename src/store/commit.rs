//! Group commit: the one thread that writes, and what waits for it.
//!
//! A returned sled insert is not durable: it lies in sled's memory until a flush, and a flush does not sync. So requests
//! hand their [`Change`]s to one thread, which writes all that wait as one atomic batch, flushes, syncs, and then lets
//! everybody go. A lone change is committed at once. In a crowd, whose members come back together after each commit, a
//! commit waits up to half a millisecond for as many as the last one had: each wakes every thread of sled's pool, which
//! costs more than the wait.
//!
//! Invariants: changes are written in the order in which they were submitted; those of one submission are written
//! together or not at all; after a failure nothing is acknowledged until the database has been opened anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::batches::write;
use super::recording::{Recorder, Recording};
use super::snapshot::SnapshotError;
use super::{Store, StoreError};
use crate::domain::{Change, Durability};

/// Submissions that may wait at once. More wait for room before they change anything: backpressure, not growth.
const QUEUE_SUBMISSIONS_MAX: usize = 8192;
/// Submissions of one commit: enough to share its cost, few enough to keep its time in the milliseconds.
const WINDOW_SUBMISSIONS_MAX: usize = 1024;
/// The window of which this many submissions are a crowd.
const CROWD_SUBMISSIONS: usize = 4;
/// How long a commit waits for as many submissions as the one before it had, if that was a crowd.
const GATHER_TIMEOUT: Duration = Duration::from_micros(500);

/// The database can no longer be written; the log says why. Nothing is acknowledged until it is opened anew.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the database can no longer be written")]
pub struct CommitFailed;

/// Owns every write to a [`Store`].
#[derive(Debug)]
pub struct Committer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
    room: Arc<Semaphore>,
    /// The last submission of which everything up to it is durable.
    durable: AtomicU64,
    failed: watch::Sender<bool>,
    /// Held while a window is written; a snapshot has it told which keys those were.
    recorder: Recorder,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Submission>,
    /// The writer is told when this many wait: the first, or as many as it gathers.
    awaited: usize,
    submitted: u64,
    closed: bool,
}

#[derive(Debug)]
struct Submission {
    changes: Vec<Change>,
    durable: oneshot::Sender<()>,
    _room: OwnedSemaphorePermit,
}

/// A place in the queue: taken before anything is changed in memory, so that what was changed can always be submitted.
#[derive(Debug)]
pub struct Room {
    shared: Arc<Shared>,
    permit: OwnedSemaphorePermit,
}

/// Becomes durable.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
    /// `None` when there is nothing to wait for.
    durable: Option<oneshot::Receiver<()>>,
}

impl Committer {
    /// Starts the thread that writes.
    pub fn start(store: Arc<Store>, durability: Durability) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            arrived: Condvar::new(),
            room: Arc::new(Semaphore::new(QUEUE_SUBMISSIONS_MAX)),
            durable: AtomicU64::new(0),
            failed: watch::Sender::new(false),
            recorder: Recorder::default(),
        });
        let writer = Writer { shared: shared.clone(), store, durability };
        let thread = std::thread::Builder::new().name("committer".into()).spawn(move || writer.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Waits for a place in the queue.
    pub async fn room(&self) -> Result<Room, CommitFailed> {
        let permit = self.shared.room.clone().acquire_owned().await.map_err(|_| CommitFailed)?;
        Ok(Room { shared: self.shared.clone(), permit })
    }

    /// Whether everything up to the submission with this number is durable.
    pub fn is_durable(&self, number: u64) -> bool {
        self.shared.durable.load(Ordering::Acquire) >= number
    }

    /// Returns once everything that was submitted so far is durable.
    pub async fn settled(&self) -> Result<(), CommitFailed> {
        let latest = {
            let queue = self.shared.queue.lock();
            // What is refused from now on may have been changed in memory.
            if queue.closed {
                return Err(CommitFailed);
            }
            queue.submitted
        };
        if self.is_durable(latest) {
            return Ok(());
        }
        self.room().await?.submit(Vec::new(), latest).durable().await
    }

    /// Returns when the database can no longer be written.
    pub async fn failed(&self) {
        let mut failed = self.shared.failed.subscribe();
        // The sender lives as long as `self`.
        let _ = failed.wait_for(|failed| *failed).await;
    }

    pub fn has_failed(&self) -> bool {
        *self.shared.failed.borrow()
    }

    /// Begins to note which keys are written from now on, for one snapshot at a time.
    pub(super) fn record(&self) -> Result<Recording<'_>, SnapshotError> {
        self.shared.recorder.begin()
    }

    /// Keeps everything that is submitted waiting for as long as what is returned lives; `None` if the last of it could not be
    /// written.
    pub(super) fn pause(&self) -> Option<impl Sized + '_> {
        self.shared.recorder.pause()
    }

    /// Commits what is queued and stops the thread.
    pub fn stop(&self) {
        self.shared.queue.lock().closed = true;
        self.shared.arrived.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the thread has been noticed as a failure.
            let _ = thread.join();
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Room {
    /// Hands changes over, in the order of calls. `after` is the ticket number of the latest change that the answer
    /// speaks of: with no change of its own, an answer still waits for that one.
    pub fn submit(self, changes: Vec<Change>, after: u64) -> Ticket {
        if changes.is_empty() && self.shared.durable.load(Ordering::Acquire) >= after {
            return Ticket { number: after, durable: None };
        }
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            // Nobody will write it; with its sender dropped, the ticket says so.
            return Ticket { number: u64::MAX, durable: Some(receiver) };
        }
        queue.submitted += 1;
        let number = queue.submitted;
        queue.waiting.push(Submission { changes, durable: sender, _room: self.permit });
        let enough = queue.waiting.len() == queue.awaited.max(1);
        drop(queue);
        if enough {
            self.shared.arrived.notify_one();
        }
        Ticket { number, durable: Some(receiver) }
    }
}

impl Ticket {
    /// Grows from submission to submission.
    pub const fn number(&self) -> u64 {
        self.number
    }

    pub async fn durable(self) -> Result<(), CommitFailed> {
        match self.durable {
            None => Ok(()),
            Some(durable) => durable.await.map_err(|_| CommitFailed),
        }
    }
}

struct Writer {
    shared: Arc<Shared>,
    store: Arc<Store>,
    durability: Durability,
}

/// Whatever ends the thread, a panic included, nobody waits for it any longer.
impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.room.close();
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        queue.waiting.clear();
    }
}

impl Writer {
    fn run(self) {
        let fail = FailOnDrop(self.shared.failed.clone());
        let mut before = 0;
        while let Some((window, last)) = self.next_window(before) {
            before = window.len();
            if let Err(error) = self.commit(&window) {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "database cannot be written; nothing is acknowledged any more"
                );
                self.store.distrust_cache();
                return;
            }
            self.shared.durable.store(last, Ordering::Release);
            for submission in window {
                // Who no longer waits need not be told.
                let _ = submission.durable.send(());
            }
        }
        fail.disarm();
    }

    /// Everything that waits, up to the size of a window, and the number of its last submission; `None` at the end.
    /// `before` is the size of the last one.
    fn next_window(&self, before: usize) -> Option<(Vec<Submission>, u64)> {
        let mut queue = self.shared.queue.lock();
        while queue.waiting.is_empty() {
            if queue.closed {
                return None;
            }
            self.shared.arrived.wait(&mut queue);
        }
        if before >= CROWD_SUBMISSIONS && queue.waiting.len() < before && !queue.closed {
            queue.awaited = before;
            self.shared.arrived.wait_for(&mut queue, GATHER_TIMEOUT);
            queue.awaited = 1;
        }
        let taken = queue.waiting.len().min(WINDOW_SUBMISSIONS_MAX);
        let rest = queue.waiting.split_off(taken);
        let window = std::mem::replace(&mut queue.waiting, rest);
        let last = queue.submitted - queue.waiting.len() as u64;
        Some((window, last))
    }

    fn commit(&self, window: &[Submission]) -> Result<(), StoreError> {
        let changes = window.iter().flat_map(|submission| &submission.changes);
        let mut gate = self.shared.recorder.gate();
        let written = write(&self.store, changes, gate.wants_keys())?;
        self.store.make_durable(self.durability)?;
        // Noted after it was written: whoever reads a noted key reads this value, or a later one that is noted again. And after
        // it was durable: no snapshot has what was not.
        gate.note(written);
        Ok(())
    }
}

/// Tells that the writer is gone unless it ended as it should.
struct FailOnDrop(watch::Sender<bool>);

impl FailOnDrop {
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for FailOnDrop {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

#[cfg(test)]
pub mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::domain::{
        CdnPattern, Client, ClientId, ClientState, Generation, Md5Digest, Modified, Peer, PieceDigest, PieceNumber, PieceSize,
        SourceState, TaskId, TaskSpec, TaskStatus, Validators,
    };

    pub fn spec(headers: Vec<(String, String)>) -> TaskSpec {
        TaskSpec {
            id: TaskId::derive("http://h/f", "", ""),
            raw_url: "http://h/f?x=1".into(),
            task_url: "http://h/f".into(),
            md5: None,
            identifier: Some("build-42".into()),
            headers,
            insecure: true,
            root_cas: vec![vec![1; 100_000]],
            headers_left_out: false,
        }
    }

    pub fn everything(spec: &TaskSpec) -> Vec<Change> {
        let client = ClientId::parse("c-1").expect("a valid id");
        let status = TaskStatus {
            generation: Generation::FIRST,
            pattern: CdnPattern::Local,
            piece_size: PieceSize::DEFAULT,
            length: Some(5_000_000),
            validators: Validators {
                etag: Some("\"e\"".into()),
                last_modified: Some(Modified { date: "Mon, 23 Nov 2026 08:36:45 GMT".into(), is_strong: false }),
            },
            state: SourceState::Running,
        };
        let digest = PieceDigest { md5: Md5Digest([1; 16]), content_len: 7 };
        vec![
            Change::TaskDefined(Arc::new(spec.clone())),
            Change::TaskProgressed { task: spec.id, status },
            Change::PieceStored { task: spec.id, piece: PieceNumber(0), digest },
            Change::PieceStored { task: spec.id, piece: PieceNumber(1), digest },
            Change::PieceLost { task: spec.id, piece: PieceNumber(1), digest },
            Change::PeerSeen(Arc::new(Peer {
                id: client.clone(),
                ip: [10, 0, 0, 1].into(),
                port: 15001,
                host_name: "host".into(),
                version: "1.0.6".into(),
                call_system: "build".into(),
                dfdaemon: true,
                seed_host: "10.0.0.9".into(),
            })),
            Change::ClientChanged(Client {
                task: spec.id,
                id: client.clone(),
                ordinal: 3,
                generation: Generation::FIRST,
                state: ClientState::Running,
                path: "/peer/file/x".into(),
                gone: false,
                serve_errors: 1,
                download_errors: 2,
            }),
            Change::ClientProgressed { task: spec.id, client, chunk: 1, held: vec![5], servable: vec![1] },
        ]
    }

    async fn commit(committer: &Committer, changes: Vec<Change>) -> Ticket {
        committer.room().await.expect("room").submit(changes, 0)
    }

    #[tokio::test]
    async fn what_is_committed_is_read_back_by_the_next_process() {
        let dir = tempfile::tempdir().expect("a directory");
        let spec = spec(vec![("Authorization".into(), "Bearer x".into())]);
        {
            let store = Arc::new(Store::open(dir.path()).expect("a new database"));
            assert_eq!(store.boot(), 1);
            let committer = Committer::start(store, Durability::Power).expect("a thread");
            commit(&committer, everything(&spec)).await.durable().await.expect("durable");
        }
        let store = Store::open(dir.path()).expect("the same database");
        assert_eq!(store.boot(), 2);
        assert_eq!(store.task_ids().expect("readable"), [spec.id]);
        let rows = store.task(&spec.id).expect("readable").expect("there");
        assert!(rows.spec == spec, "a record larger than a chunk comes back whole");
        assert_eq!(rows.status.length, Some(5_000_000));
        let modified = rows.status.validators.last_modified.expect("a date");
        assert_eq!((modified.date.as_str(), modified.is_strong), ("Mon, 23 Nov 2026 08:36:45 GMT", false));
        assert_eq!(rows.pieces.iter().map(|(piece, _, stored)| (piece.0, *stored)).collect::<Vec<_>>(), [(0, true), (1, false)]);
        assert_eq!((rows.clients[0].ordinal, rows.clients[0].download_errors), (3, 2));
        let held: Vec<u32> = rows.progress[0].1.held.iter().map(|piece| piece.0).collect();
        assert_eq!(held, [512, 514]);
        let peers: Vec<Peer> = store.peers().expect("open").collect::<Result<_, _>>().expect("readable");
        assert_eq!(peers, [store.peer(&peers[0].id).expect("readable").expect("there")]);
    }

    #[tokio::test]
    async fn a_definition_that_is_shorter_than_before_takes_what_was_longer() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Arc::new(Store::open(dir.path()).expect("a new database"));
        let committer = Committer::start(store.clone(), Durability::Process).expect("a thread");
        let (long, short) = (spec(Vec::new()), TaskSpec { root_cas: Vec::new(), ..spec(Vec::new()) });
        let mut changes = everything(&long);
        // In one submission with the longer, and after it.
        for _ in 0..2 {
            changes.push(Change::TaskRedefined(Arc::new(short.clone())));
            commit(&committer, std::mem::take(&mut changes)).await.durable().await.expect("durable");
            assert!(store.task(&short.id).expect("readable").expect("there").spec == short);
            assert_eq!(
                store.trees().expect("open").sources.scan_prefix(short.id.as_bytes()).count(),
                1,
                "its end is the other's"
            );
            commit(&committer, vec![Change::TaskRedefined(Arc::new(long.clone()))]).await.durable().await.expect("durable");
            assert!(store.task(&long.id).expect("readable").expect("there").spec == long);
        }
    }

    #[tokio::test]
    async fn an_ended_generation_leaves_no_pieces_and_no_progress_but_its_clients() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Arc::new(Store::open(dir.path()).expect("a new database"));
        let committer = Committer::start(store.clone(), Durability::Process).expect("a thread");
        let spec = spec(Vec::new());
        // In one submission with what it ends: the order within a window counts.
        let mut changes = everything(&spec);
        changes.push(Change::GenerationEnded { task: spec.id });
        let digest = PieceDigest { md5: Md5Digest([2; 16]), content_len: 9 };
        changes.push(Change::PieceStored { task: spec.id, piece: PieceNumber(4), digest });
        commit(&committer, changes).await.durable().await.expect("durable");
        let rows = store.task(&spec.id).expect("readable").expect("there");
        assert_eq!(rows.pieces, [(PieceNumber(4), digest, true)]);
        assert!(rows.progress.is_empty());
        assert_eq!(rows.clients.len(), 1);
    }

    #[tokio::test]
    async fn what_is_forgotten_takes_its_rows_and_no_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Arc::new(Store::open(dir.path()).expect("a new database"));
        let committer = Committer::start(store.clone(), Durability::Process).expect("a thread");
        let (spec, other) = (spec(Vec::new()), TaskSpec { id: TaskId::derive("http://h/g", "", ""), ..spec(Vec::new()) });
        commit(&committer, everything(&spec)).await.durable().await.expect("durable");
        commit(&committer, everything(&other)).await.durable().await.expect("durable");
        // A client whose id begins like the other's.
        let (client, longer) = (ClientId::parse("c-1").expect("valid"), ClientId::parse("c-12").expect("valid"));
        let progress =
            Change::ClientProgressed { task: spec.id, client: longer.clone(), chunk: 0, held: vec![1], servable: vec![1] };
        let forgotten = Change::ClientForgotten { task: spec.id, client: client.clone() };
        commit(&committer, vec![progress, forgotten]).await.durable().await.expect("durable");
        let rows = store.task(&spec.id).expect("readable").expect("there");
        assert!(rows.clients.is_empty());
        assert_eq!(rows.progress.iter().map(|(id, _)| id).collect::<Vec<_>>(), [&longer]);

        let changes = vec![Change::TaskForgotten { task: spec.id }, Change::PeerForgotten(client.clone())];
        commit(&committer, changes).await.durable().await.expect("durable");
        assert!(store.task(&spec.id).expect("readable").is_none());
        assert!(store.peer(&client).expect("readable").is_none());
        let trees = store.trees().expect("open");
        for tree in [&trees.sources, &trees.pieces, &trees.clients, &trees.progress] {
            assert_eq!(tree.scan_prefix(spec.id.as_bytes()).count(), 0);
        }
        let rows = store.task(&other.id).expect("readable").expect("there");
        assert_eq!((rows.pieces.len(), rows.clients.len(), rows.progress.len()), (2, 1, 1));
    }

    #[tokio::test]
    async fn an_answer_without_changes_waits_for_the_change_it_speaks_of() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Arc::new(Store::open(dir.path()).expect("a new database"));
        let committer = Committer::start(store, Durability::Process).expect("a thread");
        let first = commit(&committer, everything(&spec(Vec::new()))).await;
        let number = first.number();
        let second = committer.room().await.expect("room").submit(Vec::new(), number);
        second.durable().await.expect("durable");
        assert!(committer.shared.durable.load(Ordering::Acquire) >= number);
        first.durable().await.expect("durable");
        let third = committer.room().await.expect("room").submit(Vec::new(), number);
        assert!(third.durable.is_none(), "nothing is left to wait for");
    }

    #[tokio::test]
    async fn all_is_settled_once_the_latest_change_is_durable() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Arc::new(Store::open(dir.path()).expect("a new database"));
        let committer = Committer::start(store, Durability::Process).expect("a thread");
        committer.settled().await.expect("nothing was ever submitted");
        // No commit comes past the gate.
        let gate = committer.shared.recorder.gate();
        let ticket = commit(&committer, everything(&spec(Vec::new()))).await;
        let mut settled = std::pin::pin!(committer.settled());
        assert!(settled.as_mut().now_or_never().is_none(), "what is not durable is settled");
        drop(gate);
        settled.await.expect("settled");
        assert!(committer.shared.durable.load(Ordering::Acquire) >= ticket.number());
        committer.stop();
        assert!(committer.settled().await.is_err(), "what is changed now is never stored");
    }

    #[tokio::test]
    async fn what_was_submitted_before_a_stop_is_committed_and_later_ones_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Arc::new(Store::open(dir.path()).expect("a new database"));
        let committer = Committer::start(store, Durability::Process).expect("a thread");
        let ticket = commit(&committer, everything(&spec(Vec::new()))).await;
        committer.stop();
        ticket.durable().await.expect("durable");
        assert!(committer.room().await.is_err());
        assert!(!*committer.shared.failed.borrow(), "an orderly stop is no failure");
    }
}
