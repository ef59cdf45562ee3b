//! How long a killed service takes until it is ready again: a figure, not a judgement.
//!
//! `cargo bench --bench recovery` fills a home with 1000 tasks of 100 clients, and one with 1000 tasks of 1000 clients, each
//! client with a record of its own, a peer, and its progress, and starts the real binary there. For scale, the same rows
//! are read once by a program that does nothing else.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use supernode::domain::{
    CdnPattern, Change, Client, ClientId, ClientState, Generation, Md5Digest, Peer, PieceDigest, PieceNumber, PieceSize,
    SourceState, TaskId, TaskSpec, TaskStatus, Validators,
};
use supernode::store::Store;

const TASKS: u32 = 1000;
const PIECES: u32 = 13;
const ROUNDS: usize = 5;
const LOOK_EVERY: Duration = Duration::from_millis(1);
const READY_WITHIN: Duration = Duration::from_secs(120);

fn main() {
    for clients_per_task in [100, 1000] {
        let home = tempfile::tempdir().expect("a directory");
        fill(home.path(), clients_per_task);
        let mut read = Vec::new();
        let mut ready = Vec::new();
        for _ in 0..ROUNDS {
            read.push(read_everything(home.path()));
            ready.push(start(home.path()));
        }
        let (read, ready) = (median(read).as_secs_f64(), median(ready).as_secs_f64());
        println!(
            "{TASKS} tasks, {} clients: ready after {ready:.3} s (median of {ROUNDS}); opening and reading all rows {read:.3} s; ratio {:.2}",
            TASKS * clients_per_task,
            ready / read
        );
    }
}

fn fill(home: &Path, clients_per_task: u32) {
    let database = home.join("db");
    std::fs::create_dir(&database).expect("made");
    let store = Store::open(&database).expect("a new database");
    for number in 0..TASKS {
        let mut digits = [0; 32];
        digits[..4].copy_from_slice(&number.to_be_bytes());
        store.write(&task(TaskId::from_bytes(digits), number, clients_per_task)).expect("written");
    }
}

fn task(id: TaskId, number: u32, clients: u32) -> Vec<Change> {
    let url = format!("http://127.0.0.1:1/file-{number}");
    let spec = TaskSpec {
        id,
        raw_url: url.clone(),
        task_url: url,
        md5: None,
        identifier: None,
        headers: Vec::new(),
        insecure: false,
        root_cas: Vec::new(),
        headers_left_out: false,
    };
    let status = TaskStatus {
        generation: Generation::FIRST,
        pattern: CdnPattern::Local,
        piece_size: PieceSize::DEFAULT,
        length: Some(50_000_000),
        validators: Validators { etag: Some("\"one\"".into()), last_modified: None },
        state: SourceState::Running,
    };
    let mut changes = vec![Change::TaskDefined(Arc::new(spec)), Change::TaskProgressed { task: id, status }];
    // Known by their digest, and on nobody's disk: the service must not find a file that is not there.
    let digest = PieceDigest { md5: Md5Digest([1; 16]), content_len: 4_194_299 };
    changes.extend((0..PIECES - 1).map(|piece| Change::PieceLost { task: id, piece: PieceNumber(piece), digest }));
    for ordinal in 0..clients {
        let client = ClientId::parse(&format!("10.0.{}.{}-{number}-{ordinal}.000", number % 250, ordinal % 250)).expect("valid");
        changes.push(Change::PeerSeen(Arc::new(Peer {
            id: client.clone(),
            ip: [10, 0, (number % 250) as u8, (ordinal % 250) as u8].into(),
            port: 15001,
            host_name: format!("host-{ordinal}"),
            version: "1.0.6".into(),
            call_system: "dfdaemon".into(),
            dfdaemon: true,
            seed_host: "10.0.0.9".into(),
        })));
        changes.push(Change::ClientChanged(Client {
            task: id,
            id: client.clone(),
            ordinal,
            generation: Generation::FIRST,
            state: ClientState::Running,
            path: format!("/peer/file/{number}-{ordinal}").into(),
            gone: false,
            serve_errors: 0,
            download_errors: 0,
        }));
        let (held, servable) = (vec![0xff, 0x0f], vec![0x7f, 0x0f]);
        changes.push(Change::ClientProgressed { task: id, client, chunk: 0, held, servable });
    }
    changes
}

/// Every row once, by one thread that keeps nothing.
fn read_everything(home: &Path) -> Duration {
    let began = Instant::now();
    let store = Store::open(&home.join("db")).expect("it opens");
    let peers = store.peers().expect("readable").filter(|peer| peer.is_ok()).count();
    let tasks = store.task_ids().expect("readable");
    let clients: usize = tasks.iter().map(|task| store.task(task).expect("readable").expect("there").clients.len()).sum();
    assert_eq!(peers, clients);
    began.elapsed()
}

/// From the start of the process to the moment when it says that it serves.
fn start(home: &Path) -> Duration {
    let _ = std::fs::remove_file(home.join("serve.json"));
    let began = Instant::now();
    let mut service = Service(
        Command::new(env!("CARGO_BIN_EXE_supernode"))
            .args([
                "--no-supervise",
                "--config",
                "/dev/null",
                "--bind",
                "127.0.0.1",
                "--port",
                "0",
                "--download-port",
                "0",
                "--home-dir",
            ])
            .arg(home)
            .env("SUPERNODE_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()
            .expect("the binary can be run"),
    );
    while address(home).is_none() {
        assert!(began.elapsed() < READY_WITHIN, "not ready after {READY_WITHIN:?}");
        assert!(service.0.try_wait().expect("ours").is_none(), "the service ended");
        std::thread::sleep(LOOK_EVERY);
    }
    began.elapsed()
}

fn address(home: &Path) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(home.join("serve.json")).ok()?;
    serde_json::from_str::<Value>(&text).ok()?["api"].as_str()?.parse().ok()
}

/// Killed, not stopped: what follows is a recovery.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values[values.len() / 2]
}
