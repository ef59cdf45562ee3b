//! How long clients of published releases take, and how much of it the supernode sends: figures, not judgements.
//!
//! `cargo bench --bench clients` runs the clients of the tests against the real binary on loopback. They keep to their
//! releases' rules, fixed waits and rate limits included: a 1.0.x client takes at most 20 MiB/s, which alone is 2.5 s for
//! 50 MiB. For scale, the Go supernode on one machine: 83 ms and 2 s for a file of 3 bytes; 4.4 s and 42 of 104 transfers
//! for 8 clients of 50 MiB.

#[allow(dead_code, reason = "the benchmark uses a part of what the tests do")]
#[path = "../tests/wire/harness/mod.rs"]
mod harness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use harness::client::{Client, Release, Wanted};
use harness::origin::{File, Origin};
use harness::pieces::random_content;
use harness::service::Service;

const SMALL_ROUNDS: usize = 41;
const LARGE_ROUNDS: usize = 7;
const LARGE_BYTES: usize = 50 * 1024 * 1024;
const CLIENTS: usize = 8;

#[tokio::main]
async fn main() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    for release in Release::PUBLISHED {
        let mut took = Vec::new();
        for round in 0..SMALL_ROUNDS {
            let url = origin.put(&format!("{}-{round}", release.name.replace(' ', "-")), File::new(Bytes::from("abc")));
            took.push(small_file(&service, release, &url).await);
        }
        println!("3 bytes, {}: {:.1} ms", release.name, median(took).as_secs_f64() * 1000.0);
    }
    let (mut took, mut from_supernode) = (Vec::new(), Vec::new());
    for round in 0..LARGE_ROUNDS {
        let url = origin.put(&format!("large-{round}"), File::new(random_content(LARGE_BYTES)));
        let (round_took, transfers) = large_file(&service, &url).await;
        println!("8 clients, 50 MiB, round {round}: {:.2} s, {transfers} from the supernode", round_took.as_secs_f64());
        took.push(round_took);
        from_supernode.push(transfers);
    }
    let (seconds, transfers) = (median(took).as_secs_f64(), median(from_supernode));
    println!("8 clients, 50 MiB: {seconds:.2} s, {transfers} of {} transfers from the supernode", CLIENTS * 13);
}

/// From registration to the last acknowledgement.
async fn small_file(service: &Service, release: &'static Release, url: &str) -> Duration {
    let client = Arc::new(Client::start(release).await);
    let downloaded = client.download(service.api(), &Wanted::url(url)).await;
    let downloaded = downloaded.unwrap_or_else(|surprise| panic!("{surprise}"));
    assert_eq!(downloaded.content, "abc", "{} ended with other bytes", release.name);
    downloaded.took
}

/// Until the last of eight clients has everything, and how many transfers came from the supernode.
async fn large_file(service: &Service, url: &str) -> (Duration, u32) {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Arc::new(Client::start(&Release::GO_1_0_6).await));
    }
    let (began, mut downloading) = (Instant::now(), JoinSet::new());
    for client in clients.clone() {
        let (api, wanted) = (service.api(), Wanted::url(url));
        downloading.spawn(async move { client.download(api, &wanted).await });
    }
    let mut from_supernode = 0;
    while let Some(ended) = downloading.join_next().await {
        let downloaded = ended.expect("a client does not panic").unwrap_or_else(|surprise| panic!("{surprise}"));
        from_supernode += downloaded.transfers.from_supernode;
    }
    (began.elapsed(), from_supernode)
}

fn median<T: Ord>(mut values: Vec<T>) -> T {
    values.sort();
    let middle = values.len() / 2;
    values.into_iter().nth(middle).expect("there are rounds")
}
