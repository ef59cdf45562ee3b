//! Fast motion: bursts of tasks and clients that expire within seconds, and what the service is left with after each.
//!
//! What it is left with after the last burst is judged by what it was left with after the second: the first one fills what
//! stays filled (caches, the allocator's arenas). The database has to become small again each time.

use std::fmt;
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
/// Every so many of them, one is large enough for a piece file; the others lie in the database. The connections, which take
/// turns, share no divisor with it, so that each gets some.
const FILE_EVERY: u32 = 7;
/// Clients of each of them.
const CLIENTS: u32 = 5;
const CONNECTIONS: u32 = 16;
/// How long everything may take to expire after a burst.
const EXPIRES_WITHIN: Duration = Duration::from_secs(60);
/// How long the files of what has expired may be there yet, and the room that the database had for it.
const REMOVED_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Bursts that it takes to judge.
const BURSTS_MIN: u32 = 4;
/// How many times what it was after the second burst each of these may be.
const MEMORY_MAX: f64 = 1.5;
const FILES_MAX: f64 = 1.5;
/// How large the database may be with nothing in it. MiB.
const DATABASE_EMPTY_MAX_MIB: f64 = 8.0;

/// Bursts until the time is over, a line before and after each, and the judgement, which may be an error.
pub async fn run(service: &Service, source: SocketAddr, duration: Duration) -> anyhow::Result<()> {
    println!(
        "{TASKS} tasks with {CLIENTS} clients each in every burst, {} of them with a piece file; then all of it expires",
        TASKS.div_ceil(FILE_EVERY)
    );
    println!(
        "{:>6} {:>14} {:>7} {:>8} {:>9} {:>6} {:>8} {:>8} {:>10}",
        "s", "", "tasks", "clients", "RSS MiB", "files", "db MiB", "pieces", "pieces MiB"
    );
    let began = Instant::now();
    print_line(service, began, "start").await?;
    let (mut bursts, mut left) = (Vec::new(), Vec::new());
    while began.elapsed() < duration || left.len() < BURSTS_MIN as usize {
        burst(service, source, u32::try_from(left.len())? * TASKS).await?;
        bursts.push(print_line(service, began, "after a burst").await?);
        wait_until_expired(service).await?;
        left.push(print_line(service, began, "expired").await?);
    }
    let judged = judge(&bursts[bursts.len() - 1], &left[1], &left[left.len() - 1]);
    judged.iter().for_each(|(_, line)| println!("{line}"));
    if judged.iter().all(|(is_good, _)| *is_good) { Ok(()) } else { bail!("the service does not stay as it was") }
}

/// What the service has, or is left with.
#[derive(Clone, Copy, Debug)]
struct Left {
    memory_mib: f64,
    files: usize,
    database_mib: f64,
    pieces: Found,
}

/// Whether each figure is good, and in words why; the last burst's tells that there was something to go.
fn judge(burst: &Left, second: &Left, last: &Left) -> Vec<(bool, String)> {
    let within = |what: &str, unit: &str, is: f64, was: f64, factor: f64| {
        let is_good = is <= was * factor;
        let word = if is_good { "returned" } else { "DID NOT RETURN" };
        (is_good, format!("{what} {word}: {is:.0}{unit}; {was:.0}{unit} after the second burst, and at most {factor} times that"))
    };
    vec![
        within("resident memory", " MiB", last.memory_mib, second.memory_mib, MEMORY_MAX),
        within("open files", "", last.files as f64, second.files as f64, FILES_MAX),
        judge_database(burst.database_mib, last.database_mib),
        judge_pieces(burst.pieces, last.pieces),
    ]
}

fn judge_database(burst_mib: f64, left_mib: f64) -> (bool, String) {
    let (was_large, is_small) = (burst_mib > DATABASE_EMPTY_MAX_MIB, left_mib <= DATABASE_EMPTY_MAX_MIB);
    let was = if was_large { "" } else { ", WHICH IS NO BURST" };
    let word = if is_small { "gave its room back" } else { "DID NOT GIVE ITS ROOM BACK" };
    let line = format!(
        "database {word}: {left_mib:.1} MiB, at most {DATABASE_EMPTY_MAX_MIB} MiB; {burst_mib:.1} MiB after the last burst{was}"
    );
    (was_large && is_small, line)
}

fn judge_pieces(burst: Found, left: Found) -> (bool, String) {
    let (there_were, none_left) = (burst.files > 0 && burst.bytes > 0, left.files == 0 && left.bytes == 0);
    let were = if there_were { burst.to_string() } else { "THERE WERE NONE".into() };
    let are = if none_left { "none is left".into() } else { format!("{left} ARE LEFT") };
    (there_were && none_left, format!("piece files: {were} after the last burst; {are}"))
}

async fn burst(service: &Service, source: SocketAddr, first: u32) -> anyhow::Result<()> {
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..CONNECTIONS {
        let mut connection = Connection::open(&service.api).await?;
        workers.spawn(async move {
            for number in (worker..TASKS).step_by(CONNECTIONS as usize) {
                let size = if number.is_multiple_of(FILE_EVERY) { "small" } else { "tiny" };
                let url = format!("http://{source}/{size}-{}", first + number);
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
            return wait_until_removed(service).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("what was unused has not expired within {EXPIRES_WITHIN:?}")
}

/// A file goes just after its task, and the database's room with the next collection. What stays for longer is judged.
async fn wait_until_removed(service: &Service) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < REMOVED_WITHIN && (pieces(service)?.files > 0 || database_mib(service)? > DATABASE_EMPTY_MAX_MIB) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
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
    let left = Left {
        memory_mib: mib(service.resident_bytes()?),
        files: service.open_files()?,
        database_mib: database_mib(service)?,
        pieces: pieces(service)?,
    };
    println!(
        "{:>6.1} {when:>14} {tasks:>7} {clients:>8} {:>9.1} {:>6} {:>8.1} {:>8} {:>10.1}",
        began.elapsed().as_secs_f64(),
        left.memory_mib,
        left.files,
        left.database_mib,
        left.pieces.files,
        mib(left.pieces.bytes),
    );
    Ok(left)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// With what stands beside it for a moment while it is written anew.
fn database_mib(service: &Service) -> anyhow::Result<f64> {
    let mut bytes = 0;
    for name in ["db", "db.restoring", "db.restored", "db.superseded"] {
        let directory = service.home().join(name);
        bytes += if directory.exists() { walk(&directory).map_or(0, |found| found.bytes) } else { 0 };
    }
    Ok(mib(bytes))
}

fn pieces(service: &Service) -> anyhow::Result<Found> {
    walk(&service.home().join("pieces"))
}

#[derive(Clone, Copy, Debug, Default)]
struct Found {
    files: u64,
    bytes: u64,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {:.1} MiB", self.files, mib(self.bytes))
    }
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

    const NONE: Found = Found { files: 0, bytes: 0 };
    const SOME: Found = Found { files: 3, bytes: 3 << 19 };
    const BURST: Left = Left { memory_mib: 60.0, files: 90, database_mib: 40.0, pieces: SOME };
    const SECOND: Left = Left { memory_mib: 50.0, files: 30, database_mib: 1.0, pieces: NONE };

    fn bad(burst: Left, last: Left) -> Vec<String> {
        judge(&burst, &SECOND, &last).into_iter().filter(|(is_good, _)| !is_good).map(|(_, line)| line).collect()
    }

    #[test]
    fn what_returns_within_its_factor_is_good() {
        assert_eq!(bad(BURST, SECOND), [""; 0]);
        assert_eq!(bad(BURST, Left { memory_mib: 75.0, files: 45, database_mib: 8.0, pieces: NONE }), [""; 0]);
    }

    #[test]
    fn each_figure_that_does_not_return_is_told() {
        for (burst, last, line) in [
            (
                BURST,
                Left { memory_mib: 76.0, ..SECOND },
                "resident memory DID NOT RETURN: 76 MiB; 50 MiB after the second burst, and at most 1.5 times that",
            ),
            (
                BURST,
                Left { files: 46, ..SECOND },
                "open files DID NOT RETURN: 46; 30 after the second burst, and at most 1.5 times that",
            ),
            (
                BURST,
                Left { database_mib: 30.0, ..SECOND },
                "database DID NOT GIVE ITS ROOM BACK: 30.0 MiB, at most 8 MiB; 40.0 MiB after the last burst",
            ),
            (
                Left { database_mib: 7.0, ..BURST },
                SECOND,
                "database gave its room back: 1.0 MiB, at most 8 MiB; 7.0 MiB after the last burst, WHICH IS NO BURST",
            ),
            (BURST, Left { pieces: SOME, ..SECOND }, "piece files: 3 with 1.5 MiB after the last burst; 3 with 1.5 MiB ARE LEFT"),
            (Left { pieces: NONE, ..BURST }, SECOND, "piece files: THERE WERE NONE after the last burst; none is left"),
        ] {
            assert_eq!(bad(burst, last), [line]);
        }
    }
}
