//! The supervisor: workers that die, programs that are replaced, and clients that notice neither.

mod deaths;
mod manager;
mod recovering;
mod starts;
mod surroundings;
mod swarms;
mod upgrades;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::harness::exchange::{self, CallError, get};

/// How many ask at once, each over a new connection for every question.
const CALLERS: usize = 4;
/// Between two questions of one caller: a loop that spins would take the machine from the service.
const ASK_EVERY: Duration = Duration::from_millis(2);

/// Callers that ask a service without end, over a new connection each time. Not one may be refused.
struct Callers {
    calls: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Vec<String>>>,
}

impl Callers {
    fn start(api: SocketAddr) -> Self {
        let (calls, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let call = |calls: Arc<AtomicU64>, ended: Arc<AtomicBool>| async move {
            let mut refused = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                match exchange::call(api, get("/_ping")).await {
                    Ok(_) => drop(calls.fetch_add(1, Ordering::Relaxed)),
                    // A worker that dies takes the connections with it that it had accepted. They were not refused.
                    Err(CallError::Broken(why)) if why.contains("refused") => refused.push(why),
                    Err(CallError::Broken(_)) => {}
                    Err(late @ CallError::Late(_)) => refused.push(late.to_string()),
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
            refused
        };
        let callers = (0..CALLERS).map(|_| tokio::spawn(call(calls.clone(), ended.clone()))).collect();
        Self { calls, ended, callers }
    }

    fn answered(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Ends, and fails if anybody was refused.
    async fn end(self) {
        self.ended.store(true, Ordering::Relaxed);
        for caller in self.callers {
            let refused = caller.await.expect("a caller does not panic");
            assert!(refused.is_empty(), "{} calls were refused, the first: {}", refused.len(), refused[0]);
        }
    }
}
