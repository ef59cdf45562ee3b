//! From a source to pieces that clients can have: how fast, how sparingly, and in how much memory. Figures, not judgements.
//!
//! `cargo bench --bench origin` runs the real binary against a source of its own on loopback, everything durable:
//! - one file of 1 GiB until its last piece is recorded, beside `curl` piped through `tee` into a file and two `md5sum`s and
//!   then synced, in turn (`ORIGIN_MIB` sets the size);
//! - 200 clients that register one file at once: what the source sends, in lengths of the file;
//! - 10,000 files of 3 bytes, registered over 16 connections, by clients that cost the machine as little as they can.
//!
//! `-- large`, `-- crowd` or `-- small` runs one of them alone.

#[allow(dead_code, reason = "the benchmark uses a part of what the tests do")]
#[path = "../tests/wire/harness/mod.rs"]
mod harness;

#[allow(dead_code, reason = "the benchmark uses a part of what `supernode bench` does")]
#[path = "../src/commands/bench/connection.rs"]
mod connection;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use bytes::Bytes;
use connection::{Connection, code};
use harness::exchange::{self, get, post_json, request};
use harness::pieces::random_content;
use harness::service::Service;

const ROUNDS: usize = 3;
const SMALL_FILES: usize = 10_000;
const CONNECTIONS: usize = 16;
const CROWD: usize = 200;
const CROWD_FILE_MIB: usize = 64;
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How much of a content the source sends together with its head.
const WITH_HEAD_BYTES: usize = 4096;

#[tokio::main]
async fn main() {
    let mib = std::env::var("ORIGIN_MIB").map_or(1024, |text| text.parse().expect("a number of MiB"));
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if wanted("large") {
        large_file(mib).await;
    }
    if wanted("crowd") {
        crowd().await;
    }
    if wanted("small") {
        small_files().await;
    }
}

async fn large_file(mib: usize) {
    let source = Source::start(random_content(mib << 20).to_vec());
    // What the tools are compared with has no limit either.
    let service = Service::start_configured("base: {maxBandwidth: 100G}\n").await;
    let directory = tempfile::tempdir().expect("a directory");
    let mut ratios = Vec::new();
    // Each leaves the memory that its file had to the next, and the first to touch it pays for it: a round that does not
    // count comes before, and no file stays.
    for round in 0..=ROUNDS {
        let piped = piped(&source.url(&format!("piped-{round}")), &directory.path().join("file"));
        let (task, fetched) = fetched(&service, &source.url(&format!("fetched-{round}"))).await;
        let last = source.ended.lock().expect("nobody panics with it").elapsed();
        let deletion = exchange::call(service.api(), request("DELETE", &format!("/tasks/{task}?full=true"), Bytes::new())).await;
        assert!(deletion.is_ok_and(|response| response.status == 204), "the task was not deleted");
        if round == 0 {
            continue;
        }
        let (piped, fetched) = (piped.as_secs_f64(), fetched.as_secs_f64());
        println!(
            "{mib} MiB, round {round}: {:.0} MiB/s, the last piece {:.0} ms after its last byte; curl, tee and two md5sums \
             {:.0} MiB/s; ratio {:.2}",
            mib as f64 / fetched,
            last.as_secs_f64() * 1000.0,
            mib as f64 / piped,
            piped / fetched
        );
        ratios.push(piped / fetched);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "{mib} MiB: {:.2} of the speed of curl, tee and two md5sums (median of {ROUNDS}); peak memory {} MiB",
        ratios[ROUNDS / 2],
        peak_mib(&service)
    );
}

/// The same work by tools that everybody has.
fn piped(url: &str, file: &std::path::Path) -> Duration {
    let script = "set -e; curl -sf \"$1\" | tee >(md5sum > \"$2.a\") >(md5sum > \"$2.b\") > \"$2\"; sync \"$2\"";
    let began = Instant::now();
    let status = Command::new("bash").args(["-c", script, "piped", url]).arg(file).stdin(Stdio::null()).status();
    assert!(status.expect("bash can be run").success(), "the pipe failed");
    let took = began.elapsed();
    std::fs::remove_file(file).expect("it is there");
    took
}

async fn fetched(service: &Service, url: &str) -> (String, Duration) {
    let began = Instant::now();
    let task = register(service.api(), url, 0).await;
    loop {
        let response =
            exchange::call(service.api(), get(&format!("/tasks/{task}"))).await.unwrap_or_else(|error| panic!("{error}"));
        let told: Value = serde_json::from_slice(&response.body).expect("a task");
        match told["cdnStatus"].as_str() {
            Some("SUCCESS") => return (task, began.elapsed()),
            Some("FAILED") => panic!("{told}"),
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

async fn crowd() {
    let bytes = CROWD_FILE_MIB << 20;
    let source = Source::start(random_content(bytes).to_vec());
    let service = Service::start().await;
    let url = source.url("crowd");
    let mut registering = JoinSet::new();
    for number in 0..CROWD {
        let (api, url) = (service.api(), url.clone());
        registering.spawn(async move { register(api, &url, number).await });
    }
    registering.join_all().await;
    fetched(&service, &url).await;
    let sent = source.sent.load(Ordering::Relaxed);
    println!("{CROWD} clients at once, {CROWD_FILE_MIB} MiB: the source sent {:.3} of the file", sent as f64 / bytes as f64);
}

async fn small_files() {
    let source = Source::start(b"abc".to_vec());
    let service = Service::start().await;
    let before = resident_mib(&service);
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut registering = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (api, next, source) = (service.api(), next.clone(), source.url(""));
        registering.spawn(async move {
            let mut connection = Connection::open(&api.to_string()).await.expect("the service takes connections");
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= SMALL_FILES as u64 {
                    return;
                }
                let registration = registration(&format!("{source}{number}"), usize::try_from(number).expect("few"));
                let answer = connection.post("/peer/registry", &registration.to_string()).await.expect("an answer");
                assert_eq!(code(answer), 200, "{}", String::from_utf8_lossy(answer));
            }
        });
    }
    registering.join_all().await;
    let took = began.elapsed().as_secs_f64();
    println!(
        "{SMALL_FILES} files of 3 bytes over {CONNECTIONS} connections: {:.0} registrations/s; resident {} MiB, before {before} MiB",
        SMALL_FILES as f64 / took,
        resident_mib(&service)
    );
}

fn registration(url: &str, number: usize) -> Value {
    json!({
        "rawUrl": url, "taskUrl": url, "cid": format!("127.0.0.1-{number}-1795423513.832"), "ip": "127.0.0.1", "port": 15001,
        "path": "/peer/file/x", "version": "1.0.6", "superNodeIp": "127.0.0.1",
    })
}

async fn register(api: SocketAddr, url: &str, number: usize) -> String {
    let answer = exchange::ask(api, post_json("/peer/registry", &registration(url, number))).await;
    assert_eq!(answer.code, 200, "{answer}");
    answer.data["taskId"].as_str().expect("a task id").to_owned()
}

fn status_mib(service: &Service, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

fn resident_mib(service: &Service) -> u64 {
    status_mib(service, "VmRSS")
}

fn peak_mib(service: &Service) -> u64 {
    status_mib(service, "VmHWM")
}

/// A source that sends one content under every name as fast as it is taken, a thread for each connection.
struct Source {
    address: SocketAddr,
    sent: Arc<AtomicU64>,
    /// When the last byte of a body was handed to the socket.
    ended: Arc<Mutex<Instant>>,
}

impl Source {
    fn start(content: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let (address, content, sent) = (listener.local_addr().expect("bound"), Arc::new(content), Arc::new(AtomicU64::new(0)));
        let ended = Arc::new(Mutex::new(Instant::now()));
        let (counter, end) = (sent.clone(), ended.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (content, counter, end) = (content.clone(), counter.clone(), end.clone());
                std::thread::spawn(move || serve(&stream, &content, &counter, &end));
            }
        });
        Self { address, sent, ended }
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }
}

/// Whole files only: nobody asks for a part of what it gets whole.
fn serve(mut stream: &TcpStream, content: &[u8], sent: &AtomicU64, ended: &Mutex<Instant>) {
    let _ = stream.set_nodelay(true);
    let mut requests = BufReader::new(stream);
    loop {
        let mut line = String::from("x");
        while line.trim() != "" {
            line.clear();
            if requests.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\netag: \"one\"\r\n\r\n", content.len());
        // As servers do, which gather what they send: a small content goes with its head.
        let with_head = content.len().min(WITH_HEAD_BYTES);
        if stream.write_all(&[head.as_bytes(), &content[..with_head]].concat()).is_err() {
            return;
        }
        sent.fetch_add(with_head as u64, Ordering::Relaxed);
        for part in content[with_head..].chunks(256 * 1024) {
            if stream.write_all(part).is_err() {
                return;
            }
            sent.fetch_add(part.len() as u64, Ordering::Relaxed);
        }
        *ended.lock().expect("nobody panics with it") = Instant::now();
    }
}
