//! How long an acknowledgement takes at a given rate of changes, and what durability costs: figures, not judgements.
//!
//! `cargo bench --bench commits` offers changes to a real committer on a real database at fixed rates, whether or not the
//! ones before are durable yet (an open loop: a slow commit does not make its own load lighter), and prints for each what
//! waited how long. Changes are what clients' reports of pieces become: one chunk of one client's progress each. The time
//! of an acknowledgement begins when the change was due, so waiting for a place in the queue counts.
//!
//! `COMMITS_SECONDS` sets how long each rate is offered, `COMMITS_DIRECTORY` where the databases are made.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the numbers are small, and figures are rounded"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use supernode::domain::{Change, ClientId, Durability, TaskId};
use supernode::store::{Committer, Store};
use tokio::sync::mpsc;

const RATES_PER_S: [u64; 3] = [1_000, 10_000, 50_000];
const SECONDS: u64 = 5;
/// Clients that report, and pieces of each that it reports one after the other: two chunks of 512.
const CLIENTS: u64 = 2_000;
const PIECES: u64 = 1_024;
const CHUNK_PIECES: u64 = 512;
/// How often what is due is offered. Finer than a commit, coarser than a timer's error.
const OFFERED_EVERY: Duration = Duration::from_micros(250);
/// What is offered and not acknowledged stays in memory: beyond that the rate is too much, and the cell ends.
const WAITING_MAX: u64 = 1_000_000;

#[tokio::main]
async fn main() {
    let directory = std::env::var("COMMITS_DIRECTORY").unwrap_or_else(|_| ".".to_owned());
    let seconds = std::env::var("COMMITS_SECONDS").map_or(SECONDS, |text| text.parse().expect("a number of seconds"));
    println!("durability  offered/s  acknowledged/s   p50 ms   p99 ms   max ms  most waiting  left waiting");
    for durability in [Durability::Process, Durability::Power] {
        for rate_per_s in RATES_PER_S {
            let cell = Cell::measure(Path::new(&directory), durability, rate_per_s, Duration::from_secs(seconds)).await;
            let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| cell.quantile_ms(part));
            println!(
                "{:<10}  {rate_per_s:>9}  {:>14.0}  {p50:>7.2}  {p99:>7.2}  {max:>7.2}  {:>12}  {:>12}",
                format!("{durability:?}").to_lowercase(),
                cell.acknowledged_per_s,
                cell.waiting_most,
                cell.waiting_left,
            );
        }
    }
}

/// What was seen at one rate.
struct Cell {
    /// Ascending.
    took: Vec<Duration>,
    acknowledged_per_s: f64,
    /// Changes that were due and not acknowledged.
    waiting_most: u64,
    /// Those when the last was offered.
    waiting_left: u64,
}

impl Cell {
    async fn measure(directory: &Path, durability: Durability, rate_per_s: u64, offered_for: Duration) -> Self {
        let directory = tempfile::tempdir_in(directory).expect("a directory");
        let store = Arc::new(Store::open(directory.path()).expect("a new database"));
        let committer = Committer::start(store, durability).expect("a thread");
        let changes = Changes::new();
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (tickets, acknowledging) = mpsc::unbounded_channel();
        let acknowledging = tokio::spawn(acknowledge(acknowledging, acknowledged.clone()));

        let (began, mut offered, mut waiting_most) = (Instant::now(), 0_u64, 0);
        let mut ticks = tokio::time::interval(OFFERED_EVERY);
        let waiting = |due: u64| due - acknowledged.load(Ordering::Relaxed);
        while began.elapsed() < offered_for {
            ticks.tick().await;
            let due = due_after(began.elapsed().min(offered_for), rate_per_s);
            waiting_most = waiting_most.max(waiting(due));
            while offered < due {
                let since = began + Duration::from_secs_f64(offered as f64 / rate_per_s as f64);
                let room = committer.room().await.expect("the database can be written");
                let ticket = room.submit(vec![changes.of_report(offered)], 0);
                tickets.send((since, ticket)).expect("they are waited for");
                offered += 1;
            }
            if waiting(due) > WAITING_MAX {
                break;
            }
        }
        let waiting_left = waiting(offered);
        drop(tickets);
        let mut took: Vec<Duration> = acknowledging.await.expect("no panic");
        let acknowledged_per_s = took.len() as f64 / began.elapsed().as_secs_f64();
        took.sort_unstable();
        Self { took, acknowledged_per_s, waiting_most, waiting_left }
    }

    fn quantile_ms(&self, part: f64) -> f64 {
        let place = ((self.took.len() - 1) as f64 * part) as usize;
        self.took[place].as_secs_f64() * 1000.0
    }
}

fn due_after(time: Duration, rate_per_s: u64) -> u64 {
    (time.as_secs_f64() * rate_per_s as f64) as u64
}

/// Waits for each in the order in which they were submitted, which is the order in which they become durable.
async fn acknowledge(
    mut tickets: mpsc::UnboundedReceiver<(Instant, supernode::store::Ticket)>,
    acknowledged: Arc<AtomicU64>,
) -> Vec<Duration> {
    let mut took = Vec::new();
    while let Some((since, ticket)) = tickets.recv().await {
        ticket.durable().await.expect("the database can be written");
        took.push(since.elapsed());
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    took
}

/// What reports of clients become, each client reporting its pieces one after the other.
struct Changes {
    task: TaskId,
    clients: Vec<ClientId>,
}

impl Changes {
    fn new() -> Self {
        let client = |number| ClientId::parse(&format!("10.0.{}.{}-{number}-1795423513.832", number / 256, number % 256));
        let clients = (0..CLIENTS).map(|number| client(number).expect("a client id")).collect();
        Self { task: TaskId::derive("http://source/file", "", ""), clients }
    }

    fn of_report(&self, report: u64) -> Change {
        let (client, piece) = (report % CLIENTS, report / CLIENTS % PIECES);
        let bits = bits_up_to(piece % CHUNK_PIECES);
        Change::ClientProgressed {
            task: self.task,
            client: self.clients[client as usize].clone(),
            chunk: (piece / CHUNK_PIECES) as u32,
            held: bits.clone(),
            servable: bits,
        }
    }
}

/// Little-endian bits of all pieces up to this one.
fn bits_up_to(piece: u64) -> Vec<u8> {
    let mut bits = vec![u8::MAX; (piece / 8) as usize];
    bits.push(u8::MAX >> (7 - piece % 8));
    bits
}
