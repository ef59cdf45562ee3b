//! Fast motion: bursts of tasks and clients that expire within seconds, and what the service is left with after each.
//!
//! Flat is what every column should be from one burst to the next, and close to where it began in its troughs.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::connection::{Connection, code};
use super::lifecycle::registration;
use super::service::Service;

/// What expires in minutes in the field does so in seconds here.
pub const SETTINGS: [&str; 8] = [
    "--gc-initial-delay=1s",
    "--gc-meta-interval=1s",
    "--task-expire-time=3s",
    "--cache-expire-time=3s",
    "--peer-gc-delay=3s",
    "--snapshot-interval=0s",
    "--young-gc-threshold=0",
    "--full-gc-threshold=0",
];
/// Tasks of a burst.
const TASKS: u32 = 2_000;
/// Clients of each of them.
const CLIENTS: u32 = 5;
const CONNECTIONS: u32 = 16;
/// How long everything may take to expire after a burst.
const EXPIRES_WITHIN: Duration = Duration::from_secs(60);

/// Bursts until the time is over; a line before and after each.
pub async fn run(service: &Service, source: SocketAddr, duration: Duration) -> anyhow::Result<()> {
    println!("{TASKS} tasks with {CLIENTS} clients each in every burst; then all of it expires");
    println!(
        "{:>6} {:>14} {:>7} {:>8} {:>9} {:>6} {:>8} {:>8}",
        "s", "", "tasks", "clients", "RSS MiB", "files", "db MiB", "pieces"
    );
    let began = Instant::now();
    print_line(service, began, "start").await?;
    let mut first = 0;
    while began.elapsed() < duration {
        burst(service, source, first).await?;
        first += TASKS;
        print_line(service, began, "after a burst").await?;
        wait_until_expired(service).await?;
        print_line(service, began, "expired").await?;
    }
    Ok(())
}

async fn burst(service: &Service, source: SocketAddr, first: u32) -> anyhow::Result<()> {
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..CONNECTIONS {
        let mut connection = Connection::open(&service.api).await?;
        workers.spawn(async move {
            for number in (worker..TASKS).step_by(CONNECTIONS as usize) {
                let url = format!("http://{source}/tiny-{}", first + number);
                for client in 0..CLIENTS {
                    let cid = format!("127.0.0.1-{}-1795423514.{client:03}", first + number);
                    let answer = connection.post("/peer/registry", &registration(&cid, 15_001, &url)).await?;
                    if code(answer) != 200 {
                        bail!("a registration was answered {}", String::from_utf8_lossy(answer));
                    }
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    Ok(())
}

async fn wait_until_expired(service: &Service) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < EXPIRES_WITHIN {
        let (tasks, clients) = counts(service).await?;
        if tasks == 0 && clients == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!("what was unused has not expired within {EXPIRES_WITHIN:?}")
}

/// Tasks and clients in memory.
async fn counts(service: &Service) -> anyhow::Result<(u64, u64)> {
    let metrics = reqwest::get(format!("http://{}/metrics", service.api)).await?.text().await?;
    let sum = |name: &str| {
        let values = metrics.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
        values.filter_map(|value| value.parse::<u64>().ok()).sum()
    };
    Ok((sum("dragonfly_supernode_tasks{"), sum("dragonfly_supernode_peers ")))
}

async fn print_line(service: &Service, began: Instant, when: &str) -> anyhow::Result<()> {
    let (tasks, clients) = counts(service).await?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{:>6.1} {when:>14} {tasks:>7} {clients:>8} {:>9.1} {:>6} {:>8.1} {:>8}",
        began.elapsed().as_secs_f64(),
        mib(service.resident_bytes()?),
        service.open_files()?,
        mib(walk(&service.home().join("db"))?.bytes),
        walk(&service.home().join("pieces"))?.files,
    );
    Ok(())
}

#[derive(Default)]
struct Found {
    files: u64,
    bytes: u64,
}

/// The files below a directory; those that go meanwhile are not counted.
fn walk(directory: &Path) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
            let Ok(metadata) = entry.as_ref().map_err(drop).and_then(|entry| entry.metadata().map_err(drop)) else { continue };
            if metadata.is_dir() {
                directories.push(entry?.path());
            } else {
                found.files += 1;
                found.bytes += metadata.len();
            }
        }
    }
    Ok(found)
}
