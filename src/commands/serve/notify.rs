//! Telling the service manager how the service is (`sd_notify(3)`), where there is one.

use std::convert::Infallible;

use sd_notify::NotifyState;

use crate::cluster::{Cluster, Unready};

/// A manager that does not listen is its own trouble: the service goes on.
pub fn tell(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "service manager was not told");
    }
}

/// Tells the manager's watchdog that the runtime and the committer are at work, for as long as they are.
pub async fn keep_watchdog(cluster: &Cluster) -> Infallible {
    let Some(within) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    // Twice as often as needed, as the manual says.
    let mut ticks = tokio::time::interval(within / 2);
    loop {
        ticks.tick().await;
        // A committer that has failed will not be at work again, and what the service still does should go on.
        if cluster.prove_progress().await.is_ok() || cluster.readiness() == Err(Unready::Database) {
            tell(&[NotifyState::Watchdog]);
        }
    }
}
