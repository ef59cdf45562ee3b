//! What was committed is in a snapshot, whatever was written meanwhile; what is damaged is not taken for one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{SnapshotError, build, verify};
use crate::domain::Durability;
use crate::domain::{Change, Client, ClientId, ClientState, Generation, Md5Digest, PieceDigest, PieceNumber, TaskId, TaskSpec};
use crate::store::commit::tests::{everything, spec};
use crate::store::{Committer, Store};

const SECRET: &str = "Bearer planted-secret-token";

struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A snapshot of a database with these changes.
    fn snapshot_of(&self, changes: &[Change]) -> PathBuf {
        let store = Store::open(&self.at("db")).expect("a new database");
        store.write(changes).expect("written");
        store.snapshot(None, &self.at("s.snap"), &mut |_| ()).expect("taken").path
    }
}

fn with_headers() -> TaskSpec {
    spec(vec![("Authorization".into(), SECRET.into()), ("range".into(), "bytes=0-9".into())])
}

#[test]
fn a_restored_database_has_everything_but_headers() {
    let home = Home::new();
    let spec = with_headers();
    let snapshot = home.snapshot_of(&everything(&spec));
    let contents = verify(&snapshot).expect("sound");
    assert_eq!((contents.rows, contents.commits, contents.header.boot), (7, 1, 1));
    build(&snapshot, &home.at("restored")).expect("restored");
    let (old, new) = (Store::open(&home.at("db")).expect("open"), Store::open(&home.at("restored")).expect("open"));
    assert_ne!(old.node(), new.node(), "clients must notice that state may be lost");
    let rows = |store: &Store| store.task(&spec.id).expect("readable").expect("there");
    let (old, new) = (rows(&old), rows(&new));
    assert_eq!(new.spec.headers, [("range".into(), "bytes=0-9".into())]);
    assert!(new.spec.headers_left_out);
    assert!(TaskSpec { headers: old.spec.headers.clone(), headers_left_out: false, ..new.spec } == old.spec);
    assert_eq!((new.status, new.pieces, new.clients), (old.status, old.pieces, old.clients));
    assert_eq!(new.progress[0].1.held, old.progress[0].1.held);
}

#[test]
fn a_snapshot_shows_no_secret_and_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let snapshot = home.snapshot_of(&everything(&with_headers()));
    assert_eq!(snapshot.metadata().expect("there").permissions().mode() & 0o777, 0o600);
    // Unpacked, for in a compressed file nothing would be found that is there.
    let bytes = std::fs::read(&snapshot).expect("readable");
    let mut rest = &bytes[12..];
    let mut plain = Vec::new();
    while !rest.is_empty() {
        plain.extend(super::format::Frame::read(&mut rest).expect("a frame").0.plain);
    }
    let has = |text: &str| plain.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("http://h/f"), "the URL is there, so that a secret would be seen");
    assert!(!has("planted-secret-token"));
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let home = Home::new();
    let mut changes = everything(&TaskSpec { root_cas: Vec::new(), ..with_headers() });
    changes.truncate(5);
    let snapshot = home.snapshot_of(&changes);
    let sound = std::fs::read(&snapshot).expect("readable");
    let damaged = home.at("damaged.snap");
    let check = |bytes: &[u8]| {
        std::fs::write(&damaged, bytes).expect("written");
        verify(&damaged)
    };
    assert!(check(&sound).is_ok());
    for at in 0..sound.len() {
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << (at % 8);
        assert!(check(&bytes).is_err(), "a flipped bit in byte {at} of {} goes unnoticed", sound.len());
        assert!(check(&sound[..at]).is_err(), "cut after {at} of {} bytes, and nobody notices", sound.len());
    }
    assert!(check(&[sound.as_slice(), b"x"].concat()).is_err(), "something follows, and nobody notices");
}

#[test]
fn a_snapshot_never_replaces_a_file() {
    let home = Home::new();
    let snapshot = home.snapshot_of(&everything(&with_headers()));
    let store = Store::open(&home.at("db")).expect("open");
    assert!(matches!(store.snapshot(None, &snapshot, &mut |_| ()), Err(SnapshotError::Exists { .. })));
    assert_eq!(std::fs::read_dir(home.directory.path()).expect("readable").count(), 2, "nothing is left of the second");
}

const WRITERS: u32 = 4;
/// More than are read in one go.
const PAIRS: u32 = 2_500;
/// Tasks with a large definition, which make a database that is large without them.
const TASKS_THAT_GO: u32 = 150;
/// What a snapshot may hold up answers for.
const PAUSE_MAX: Duration = Duration::from_millis(100);

fn client_id(number: u32) -> ClientId {
    ClientId::parse(&format!("client-{number:07}")).expect("a valid id")
}

/// Two rows, of two trees, that must tell the same number wherever they are read together.
pub fn pair(task: TaskId, number: u32, told: u32) -> Vec<Change> {
    let client = Client {
        task,
        id: client_id(number),
        ordinal: told,
        generation: Generation::FIRST,
        state: ClientState::Running,
        path: "/p".into(),
        gone: false,
        serve_errors: 0,
        download_errors: 0,
    };
    let digest = PieceDigest { md5: Md5Digest([0; 16]), content_len: told };
    vec![Change::ClientChanged(client), Change::PieceStored { task, piece: PieceNumber(number), digest }]
}

/// What the restored database tells of every pair.
fn told(restored: &Path, task: &TaskId) -> Vec<(u32, u32)> {
    let rows = Store::open(restored).expect("open").task(task).expect("readable").expect("there");
    let clients = rows.clients.iter().map(|client| client.ordinal);
    clients.zip(rows.pieces.iter().map(|(_, digest, _)| digest.content_len)).collect()
}

#[test]
fn a_snapshot_goes_on_in_the_database_that_was_written_anew_under_it() {
    let home = Home::new();
    let spec = TaskSpec { root_cas: Vec::new(), ..with_headers() };
    let store = Arc::new(Store::open(&home.at("db")).expect("a new database"));
    store.write(&everything(&spec)[..2]).expect("written");
    let all: Vec<Change> = (0..PAIRS).flat_map(|number| pair(spec.id, number, 0)).collect();
    store.write(&all).expect("written");
    for number in 0..TASKS_THAT_GO {
        let goes = TaskSpec { id: TaskId::derive(&format!("http://h/{number}"), "", ""), ..with_headers() };
        store.write(&everything(&goes)).expect("written");
        store.write(&[Change::TaskForgotten { task: goes.id }]).expect("written");
    }
    let committer = Committer::start(store.clone(), Durability::Power).expect("a thread");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let commit = |changes| {
        runtime.block_on(async { committer.room().await.expect("room").submit(changes, 0).durable().await.expect("durable") });
    };
    // One row before the place where it is written anew, and one behind; each once before that and once after it.
    let (mut rewritten, mut runs) = (None, 0);
    let mut between_runs = |_| {
        runs += 1;
        // After what is fetched and how far it is: in the midst of the pieces.
        if runs == 3 {
            commit(pair(spec.id, 0, 1));
            commit(pair(spec.id, PAIRS - 1, 1));
            rewritten = store.give_room_back(&committer).expect("written anew");
            commit(pair(spec.id, 1, 2));
            commit(pair(spec.id, PAIRS - 2, 2));
        }
    };
    let taken = store.snapshot(Some(&committer), &home.at("s.snap"), &mut between_runs).expect("taken");
    assert!(runs > 3 && rewritten.is_some(), "{rewritten:?} after the third of {runs} runs");
    let contents = verify(&taken.path).expect("sound");
    assert_eq!(contents.commits, store.commits());
    build(&taken.path, &home.at("restored")).expect("restored");
    let told = told(&home.at("restored"), &spec.id);
    let expected = (0..PAIRS).map(|number| match number {
        0 => (1, 1),
        1 => (2, 2),
        _ if number == PAIRS - 1 => (1, 1),
        _ if number == PAIRS - 2 => (2, 2),
        _ => (0, 0),
    });
    assert!(told.into_iter().eq(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_under_load_is_what_was_committed_when_it_ended() {
    snapshots_under_load(3_000, 5).await;
}

/// Prints what a snapshot costs; two million rows. `cargo test --release --lib -- --ignored --nocapture a_million`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
async fn a_snapshot_of_a_million_clients_holds_nobody_up() {
    snapshots_under_load(1_000_000, 1).await;
}

async fn snapshots_under_load(clients: u32, count: u32) {
    let home = Home::new();
    let spec = TaskSpec { root_cas: Vec::new(), ..with_headers() };
    let store = Arc::new(Store::open(&home.at("db")).expect("a new database"));
    store.write(&everything(&spec)[..2]).expect("written");
    for first in (0..clients).step_by(10_000) {
        let some: Vec<Change> = (first..clients.min(first + 10_000)).flat_map(|number| pair(spec.id, number, 0)).collect();
        store.write(&some).expect("written");
    }
    let committer = Arc::new(Committer::start(store.clone(), Durability::Process).expect("a thread"));
    let acknowledged: Arc<Vec<AtomicU32>> = Arc::new((0..clients).map(|_| AtomicU32::new(0)).collect());
    let over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (committer, acknowledged, over) = (committer.clone(), acknowledged.clone(), over.clone());
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(u64::from(writer));
                let (mut written, mut longest) = (0_u32, Duration::ZERO);
                while !over.load(Ordering::Acquire) {
                    written += 1;
                    // Each pair has one writer, so that its numbers only grow.
                    let number = random.u32(0..clients / WRITERS) * WRITERS + writer;
                    let room = committer.room().await.expect("room");
                    let asked = Instant::now();
                    room.submit(pair(spec.id, number, written), 0).durable().await.expect("durable");
                    longest = longest.max(asked.elapsed());
                    acknowledged[number as usize].store(written, Ordering::Release);
                }
                (written, longest)
            })
        })
        .collect();
    let mut snapshots = Vec::new();
    for number in 0..count {
        let (store, committer, path) = (store.clone(), committer.clone(), home.at(&format!("{number}.snap")));
        let before: Vec<u32> = acknowledged.iter().map(|told| told.load(Ordering::Acquire)).collect();
        let taking = tokio::task::spawn_blocking(move || store.snapshot(Some(&committer), &path, &mut |_| ()));
        let taken = taking.await.expect("no panic").expect("taken");
        println!("{taken:?}");
        assert!(taken.longest_pause < PAUSE_MAX, "answers were held up for {:?}", taken.longest_pause);
        snapshots.push((taken, before));
    }
    over.store(true, Ordering::Release);
    for writer in writers {
        let (written, longest) = writer.await.expect("no panic");
        println!("a writer wrote {written} pairs meanwhile, the slowest in {longest:?}");
    }
    for (number, (taken, before)) in snapshots.into_iter().enumerate() {
        let began = Instant::now();
        verify(&taken.path).expect("sound");
        let verified = began.elapsed();
        let restored = home.at(&format!("restored-{number}"));
        build(&taken.path, &restored).expect("restored");
        println!("verified in {verified:?}, built in {:?}", began.elapsed() - verified);
        let told = told(&restored, &spec.id);
        assert_eq!(told.len(), before.len());
        for ((client, piece), before) in told.into_iter().zip(before) {
            assert_eq!(client, piece, "two rows of one submission, of two moments");
            assert!(client >= before, "{before} was acknowledged before the snapshot, which has {client}");
        }
    }
}
