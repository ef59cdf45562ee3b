//! Acknowledgements by the thousand, and kills among them.
//!
//! The swarm's kills come while a handful of reports are under way, which a service that answers a moment too early
//! mostly survives. Here every moment has reports that were answered just now.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::exchange::{self, CallError, get, post_json};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::random_seed;
use crate::harness::service::Service;

const KILLS: u32 = 5;
/// Each reports over a connection of its own, so this many reports are under way.
const CLIENTS: usize = 32;
/// Announced by a source that sends none of it: reports need pieces, not their bytes. 614 pieces of 15 MiB.
const FILE_BYTES: u64 = 9 * 1024 * 1024 * 1024;
/// Reports that are acknowledged between two kills. Spread over the clients, far fewer than there are pieces.
const ACKNOWLEDGED_PER_KILL: std::ops::Range<u32> = 100..1000;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_just_before_a_kill_is_there_after_it() {
    let mut random = fastrand::Rng::with_seed(random_seed("moments of the kills"));
    let origin = Origin::start().await;
    let file = File { announced_length: Some(FILE_BYTES), ending: Ending::StallsAfter(0), ..File::new(Bytes::new()) };
    let url = origin.put("file", file);
    let mut service = Service::start_on_held_sockets().await;
    let mut reporters = Vec::new();
    for number in 0..CLIENTS {
        reporters.push(Reporter::register(service.api(), &url, number).await);
    }
    for kill in 1..=KILLS {
        reporters = report_until_killed(&mut service, reporters, random.u32(ACKNOWLEDGED_PER_KILL)).await;
        service.restart().await;
        let dump = service.dump().await;
        for reporter in &reporters {
            let (kept, acknowledged) = (dump.servable(&reporter.task, &reporter.cid), &reporter.acknowledged);
            let lost: Vec<_> = acknowledged.difference(&kept).collect();
            assert!(lost.is_empty(), "kill {kill}: {} was acknowledged {lost:?}, which is gone", reporter.cid);
        }
        let acknowledged: usize = reporters.iter().map(|reporter| reporter.acknowledged.len()).sum();
        println!("kill {kill}: all of {acknowledged} acknowledged reports are there");
    }
}

/// Lets all report at once, and kills the service amid that. Returns when everybody knows what they were told.
async fn report_until_killed(service: &mut Service, reporters: Vec<Reporter>, acknowledged: u32) -> Vec<Reporter> {
    let (counter, mut count) = watch::channel(0);
    let mut reporting = JoinSet::new();
    for reporter in reporters {
        reporting.spawn(reporter.report_until_broken(service.api(), counter.clone()));
    }
    drop(counter);
    count.wait_for(|count| *count >= acknowledged).await.expect("reporters report until the service is killed");
    service.kill9();
    reporting.join_all().await
}

/// A client that says of one piece after the other that it serves it.
#[derive(Debug)]
struct Reporter {
    task: String,
    cid: String,
    piece_size: u64,
    next: u32,
    acknowledged: BTreeSet<u32>,
}

impl Reporter {
    async fn register(api: SocketAddr, url: &str, number: usize) -> Self {
        let cid = format!("127.0.0.1-{number}-1795423513.832");
        let body = json!({
            "superNodeIp": "127.0.0.1", "rawUrl": url, "taskUrl": url, "cid": cid, "ip": "127.0.0.1", "hostName": "host",
            "port": 15001, "path": "/peer/file/a-file", "version": "1.0.6",
        });
        let answer = exchange::ask(api, post_json("/peer/registry", &body)).await;
        let (task, piece_size) = (answer.data["taskId"].as_str(), answer.data["pieceSize"].as_u64());
        let (Some(task), Some(piece_size)) = (task, piece_size) else { panic!("{body} was answered {answer}") };
        Self { task: task.to_owned(), cid, piece_size, next: 0, acknowledged: BTreeSet::new() }
    }

    async fn report_until_broken(mut self, api: SocketAddr, counter: watch::Sender<u32>) -> Self {
        let Err(_broken) = self.report(api, &counter).await;
        self
    }

    /// Reports for as long as the connection holds.
    async fn report(&mut self, api: SocketAddr, counter: &watch::Sender<u32>) -> Result<Infallible, CallError> {
        let mut connection = exchange::connect(api).await?;
        loop {
            let asked = self.report_of(self.next);
            let response = exchange::collect(exchange::send(&mut connection, api, get(&asked)).await?).await?;
            let answer = response.answer().unwrap_or_else(|error| panic!("{asked}: {error}"));
            assert_eq!((answer.status, answer.code), (200, 611), "{asked} was answered {answer}");
            self.acknowledged.insert(self.next);
            self.next += 1;
            counter.send_modify(|count| *count += 1);
        }
    }

    fn report_of(&self, piece: u32) -> String {
        let start = u64::from(piece) * self.piece_size;
        let range = format!("{start}-{}", start + self.piece_size - 1);
        format!("/peer/piece/suc?taskId={}&cid={}&dstCid=&pieceRange={range}", self.task, self.cid)
    }
}
