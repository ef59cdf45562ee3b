//! `supernode bench`: what this machine's supernode does per second.
//!
//! Starts a service of its own (this executable, with a home of its own in the temporary directory, everything durable)
//! and a source, and drives full client lifecycles over loopback: one registration, one start, thirteen times a report
//! of a piece (503, which asks for more) and of its being servable (`piece/suc`), the last of which is answered 600.
//! With `--churn`, bursts of tasks and clients that expire at once ([`churn`]).
//! Pieces are not transferred: this measures the tracker. The load runs on the same cores and takes its share of them.

mod churn;
mod connection;
mod lifecycle;
mod service;
mod source;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::cli::BenchArgs;
use lifecycle::Task;
use service::Service;

/// What was counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests of `GET /peer/task` by the code of their answer.
    pub pulls: BTreeMap<u64, u64>,
    /// All other requests by the code of their answer.
    pub others: BTreeMap<u64, u64>,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        for (sum, counts) in [(&mut self.pulls, &other.pulls), (&mut self.others, &other.others)] {
            for (code, count) in counts {
                *sum.entry(*code).or_default() += count;
            }
        }
    }
}

/// An answer of 602 is a wait, not work.
const WAIT: u64 = 602;

/// Runs the benchmark and prints its figures.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(args))
}

async fn measure(args: &BenchArgs) -> anyhow::Result<()> {
    let source = source::start().await?;
    if let Some(seconds) = args.churn {
        let service = Service::start(&churn::SETTINGS).await.context("cannot start a service to measure")?;
        return churn::run(&service, source, Duration::from_secs(seconds.into())).await;
    }
    let service = Service::start(&[]).await.context("cannot start a service to measure")?;
    let mut counts = Counts::default();
    let mut took = Duration::ZERO;
    let mut cpu = Duration::ZERO;
    let mut bytes_per_client = Vec::new();
    for number in 0..args.tasks {
        let task = Task::prepare(&service, source, number).await?;
        let resident_before = service.resident_bytes()?;
        let cpu_before = service.cpu()?;
        let started = Instant::now();
        let ran = lifecycle::run(&service, &task, args.clients, args.connections).await?;
        took += started.elapsed();
        cpu += service.cpu()?.saturating_sub(cpu_before);
        counts.add(&ran);
        bytes_per_client.push(service.resident_bytes()?.saturating_sub(resident_before) / u64::from(args.clients.max(1)));
        eprintln!("task {} of {}: {:.2} s", number + 1, args.tasks, started.elapsed().as_secs_f64());
    }
    report(args, &counts, took, cpu, &mut bytes_per_client);
    Ok(())
}

fn report(args: &BenchArgs, counts: &Counts, took: Duration, cpu: Duration, bytes_per_client: &mut [u64]) {
    let all: u64 = counts.pulls.values().chain(counts.others.values()).sum();
    let waits = counts.pulls.get(&WAIT).copied().unwrap_or_default();
    let work = counts.pulls.values().sum::<u64>() - waits;
    let seconds = took.as_secs_f64().max(f64::MIN_POSITIVE);
    bytes_per_client.sort_unstable();
    let median = bytes_per_client.get(bytes_per_client.len() / 2).copied().unwrap_or_default();
    println!(
        "{} tasks, {} clients each, {} connections, everything durable (flush and sync)",
        args.tasks, args.clients, args.connections
    );
    println!("GET /peer/task      {:>10.0} /s  ({work} in {seconds:.2} s, without {waits} waits)", work as f64 / seconds);
    println!("all requests        {:>10.0} /s  ({all})", all as f64 / seconds);
    println!("service CPU         {:>10.1} µs per request", cpu.as_secs_f64() * 1e6 / (all.max(1)) as f64);
    println!("resident memory     {median:>10} bytes more per client (median over tasks)");
    println!("answers to GET /peer/task by code: {:?}; to all else: {:?}", counts.pulls, counts.others);
}
