//! Fast motion: bursts of tasks and clients that expire within seconds, and what the service is left with after each.
//!
//! What it is left with after the last burst is judged by what it was left with after the second: the first one fills what
//! stays filled (caches, the allocator's arenas, the room in the database's file that is used again).

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

/// Bursts that it takes to judge.
const BURSTS_MIN: u32 = 4;
/// How many times what it was after the second burst each of these may be.
const MEMORY_MAX: f64 = 1.5;
const FILES_MAX: f64 = 1.5;
const DATABASE_MAX: f64 = 2.0;
/// How large the database may be after a start with nothing in it. MiB.
const DATABASE_EMPTY_MAX_MIB: f64 = 8.0;

/// Bursts until the time is over, a line before and after each, a start, and the judgement, which may be an error.
pub async fn run(service: &mut Service, source: SocketAddr, duration: Duration) -> anyhow::Result<()> {
    println!("{TASKS} tasks with {CLIENTS} clients each in every burst; then all of it expires");
    println!(
        "{:>6} {:>14} {:>7} {:>8} {:>9} {:>6} {:>8} {:>8}",
        "s", "", "tasks", "clients", "RSS MiB", "files", "db MiB", "pieces"
    );
    let began = Instant::now();
    print_line(service, began, "start").await?;
    let mut left = Vec::new();
    while began.elapsed() < duration || left.len() < BURSTS_MIN as usize {
        burst(service, source, u32::try_from(left.len())? * TASKS).await?;
        print_line(service, began, "after a burst").await?;
        wait_until_expired(service).await?;
        left.push(print_line(service, began, "expired").await?);
    }
    service.restart().await?;
    let restarted = print_line(service, began, "restarted").await?;
    let (second, last) = (left[1], left[left.len() - 1]);
    let judged = judge(&second, &last, &restarted);
    judged.iter().for_each(|(_, line)| println!("{line}"));
    if judged.iter().all(|(is_good, _)| *is_good) { Ok(()) } else { bail!("the service does not stay as it was") }
}

/// What the service is left with.
#[derive(Clone, Copy, Debug)]
struct Left {
    memory_mib: f64,
    files: usize,
    database_mib: f64,
    pieces: u64,
}

/// Whether each figure is good, and in words why.
fn judge(second: &Left, last: &Left, restarted: &Left) -> Vec<(bool, String)> {
    let within = |what: &str, unit: &str, is: f64, was: f64, factor: f64| {
        let is_good = is <= was * factor;
        let word = if is_good { "returned" } else { "DID NOT RETURN" };
        (is_good, format!("{what} {word}: {is:.0}{unit}; {was:.0}{unit} after the second burst, and at most {factor} times that"))
    };
    let (none_left, emptied) = (last.pieces == 0, restarted.database_mib <= DATABASE_EMPTY_MAX_MIB);
    vec![
        within("resident memory", " MiB", last.memory_mib, second.memory_mib, MEMORY_MAX),
        within("open files", "", last.files as f64, second.files as f64, FILES_MAX),
        within("database", " MiB", last.database_mib, second.database_mib, DATABASE_MAX),
        (
            emptied,
            format!(
                "database {} by a restart: {:.1} MiB; at most {DATABASE_EMPTY_MAX_MIB} MiB",
                if emptied { "emptied" } else { "NOT EMPTIED" },
                restarted.database_mib
            ),
        ),
        (
            none_left,
            format!("piece files: {}", if none_left { "none is left".into() } else { format!("{} ARE LEFT", last.pieces) }),
        ),
    ]
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

/// Tasks and clients, those that have no task any more among them: the database has rows of all of them.
async fn counts(service: &Service) -> anyhow::Result<(u64, u64)> {
    let metrics = reqwest::get(format!("http://{}/metrics", service.api)).await?.text().await?;
    let sum = |name: &str| {
        let values = metrics.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
        values.filter_map(|value| value.parse::<u64>().ok()).sum::<u64>()
    };
    let clients = sum("dragonfly_supernode_peers ") + sum("dragonfly_supernode_remembered{what=\"peers_without_task\"}");
    Ok((sum("dragonfly_supernode_tasks{"), clients))
}

async fn print_line(service: &Service, began: Instant, when: &str) -> anyhow::Result<Left> {
    let (tasks, clients) = counts(service).await?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let left = Left {
        memory_mib: mib(service.resident_bytes()?),
        files: service.open_files()?,
        database_mib: mib(walk(&service.home().join("db"))?.bytes),
        pieces: walk(&service.home().join("pieces"))?.files,
    };
    println!(
        "{:>6.1} {when:>14} {tasks:>7} {clients:>8} {:>9.1} {:>6} {:>8.1} {:>8}",
        began.elapsed().as_secs_f64(),
        left.memory_mib,
        left.files,
        left.database_mib,
        left.pieces,
    );
    Ok(left)
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Left = Left { memory_mib: 50.0, files: 30, database_mib: 30.0, pieces: 0 };
    const RESTARTED: Left = Left { memory_mib: 20.0, files: 20, database_mib: 1.0, pieces: 0 };

    fn bad(last: Left, restarted: Left) -> Vec<String> {
        let judged = judge(&SECOND, &last, &restarted);
        judged.into_iter().filter(|(is_good, _)| !is_good).map(|(_, line)| line).collect()
    }

    #[test]
    fn what_returns_within_its_factor_is_good() {
        assert_eq!(bad(SECOND, RESTARTED), [""; 0]);
        let more = Left { memory_mib: 75.0, files: 45, database_mib: 60.0, pieces: 0 };
        assert_eq!(bad(more, Left { database_mib: 8.0, ..RESTARTED }), [""; 0]);
    }

    #[test]
    fn each_figure_that_does_not_return_is_told() {
        for (last, restarted, line) in [
            (
                Left { memory_mib: 76.0, ..SECOND },
                RESTARTED,
                "resident memory DID NOT RETURN: 76 MiB; 50 MiB after the second burst, and at most 1.5 times that",
            ),
            (
                Left { files: 46, ..SECOND },
                RESTARTED,
                "open files DID NOT RETURN: 46; 30 after the second burst, and at most 1.5 times that",
            ),
            (
                Left { database_mib: 61.0, ..SECOND },
                RESTARTED,
                "database DID NOT RETURN: 61 MiB; 30 MiB after the second burst, and at most 2 times that",
            ),
            (SECOND, Left { database_mib: 30.0, ..RESTARTED }, "database NOT EMPTIED by a restart: 30.0 MiB; at most 8 MiB"),
            (Left { pieces: 3, ..SECOND }, RESTARTED, "piece files: 3 ARE LEFT"),
        ] {
            assert_eq!(bad(last, restarted), [line]);
        }
    }
}
