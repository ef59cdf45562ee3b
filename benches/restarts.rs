//! What clients notice of a service that dies again and again, and is upgraded once: a figure, not a judgement.
//!
//! `cargo bench --bench restarts` lets a swarm of the releases in the field download 300 MiB from a service that nobody
//! disturbs, and then from one whose worker is killed ten times and whose program is replaced once, and compares the times.
//! A client that gave up, or that ended with other bytes, would end the benchmark.

#[allow(dead_code, reason = "the benchmark uses a part of what the tests do")]
#[path = "../tests/wire/harness/mod.rs"]
mod harness;

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use harness::client::Release;
use harness::origin::{File, Origin};
use harness::pieces::random_content;
use harness::service::binary;
use harness::supervised::Supervised;
use harness::swarm::Swarm;

const FILE_BYTES: usize = 300 * 1024 * 1024;
/// Of 5 MiB, as files of this length have them.
const PIECES: u32 = 61;
const ROUNDS: usize = 3;
const KILLS: u32 = 10;
/// After this many kills.
const UPGRADE_AFTER: u32 = 5;
const RELEASES: [&Release; 6] =
    [&Release::GO_1_0_6, &Release::GO_0_3_0, &Release::PYTHON_0_2, &Release::GO_1_0_6, &Release::GO_0_3_0, &Release::PYTHON_0_2];

#[tokio::main]
async fn main() {
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let quiet = download(0).await;
        let disturbed = download(KILLS).await;
        let ratio = disturbed.as_secs_f64() / quiet.as_secs_f64();
        let (quiet, disturbed) = (quiet.as_secs_f64(), disturbed.as_secs_f64());
        println!("round {round}: undisturbed {quiet:.2} s; with {KILLS} kills and an upgrade {disturbed:.2} s; ratio {ratio:.2}");
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    println!("{} clients, {} MiB: ratio {:.2} (median)", RELEASES.len(), FILE_BYTES >> 20, ratios[ROUNDS / 2]);
}

/// Until every client has the whole file.
async fn download(kills: u32) -> Duration {
    let (origin, content) = (Origin::start().await, random_content(FILE_BYTES));
    let url = origin.put("file", File::new(content.clone()));
    let mut service = Supervised::start().await;
    let began = Instant::now();
    let mut swarm = Swarm::start(service.api(), &url, &RELEASES).await;
    let pieces = swarm.size() * PIECES;
    for kill in 1..=kills {
        // The last of them while every client has something to fetch.
        swarm.wait_for(pieces * kill / (kills + 2)).await;
        service.kill_worker();
        service.next_worker().await;
        if kill == UPGRADE_AFTER {
            service.replace_program(Path::new(binary()));
            service.signal(Signal::USR2);
            service.next_worker().await;
        }
    }
    let downloads = swarm.finish().await;
    let took = began.elapsed();
    assert!(downloads.iter().all(|downloaded| downloaded.content == content), "a client ended with other bytes");
    took
}
