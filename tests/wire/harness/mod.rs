//! What the tests are made of: a service to kill, a source that misbehaves on request, and clients.

pub mod client;
pub mod dump;
pub mod exchange;
pub mod origin;
pub mod pieces;
pub mod service;
pub mod supervised;
pub mod swarm;

use std::future::Future;
use std::time::{Duration, Instant};

/// How long anything may take that the service does by itself. Generous: two cores may run several tests at once.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that tells nobody when it changes.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until there is something to see, and panics with `what` if there never is.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
