//! SIGHUP: the configuration is read again, and what can change under way changes.

use std::sync::Arc;

use tokio::signal::unix::Signal;

use crate::cluster::Cluster;
use crate::config::{ConfigError, Difference, Loaded, Origin, SETTINGS, Sources, reload};
use crate::telemetry::Log;

/// Reads the configuration again at every SIGHUP. One that is not valid changes nothing.
pub async fn reload_on(hangup: &mut Signal, sources: Arc<Sources>, cluster: &Cluster, log: &Log) -> anyhow::Result<()> {
    while hangup.recv().await.is_some() {
        let sources = sources.clone();
        let read = match tokio::task::spawn_blocking(move || sources.load()).await? {
            Ok(read) => read,
            Err(ConfigError::Wrong { values, warnings }) => {
                for wrong in values {
                    tracing::error!("configuration is not valid and changes nothing: {wrong}");
                }
                log_warnings(&warnings);
                continue;
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "configuration is not valid and changes nothing");
                continue;
            }
        };
        log_loaded(&read);
        let reloaded = reload(&cluster.config(), &read);
        log.set_debug(reloaded.config.debug);
        cluster.reconfigure(reloaded.config);
        for Difference { key, old, new, unsaid } in &reloaded.applied {
            // A file that was emptied by mistake is as valid as any.
            if *unsaid {
                tracing::warn!("setting changed: {key}: {old} → {new}, the default, because nothing gives it");
            } else {
                tracing::info!("setting changed: {key}: {old} → {new}");
            }
        }
        for Difference { key, old, new, .. } in &reloaded.waiting {
            tracing::warn!("setting needs a restart to change: {key}: {old} → {new}");
        }
        tracing::info!(changed = reloaded.applied.len(), waiting = reloaded.waiting.len(), "configuration is reloaded");
    }
    anyhow::bail!("signals no longer arrive")
}

/// Tells what is ignored, and at level debug who decided what.
pub fn log_loaded(loaded: &Loaded) {
    log_warnings(&loaded.warnings);
    for (setting, origin) in SETTINGS.iter().zip(&loaded.origins).filter(|(_, origin)| **origin != Origin::Default) {
        let value = setting.field.show(&loaded.config);
        tracing::debug!(key = setting.key, value = value.as_deref(), %origin, "setting is decided");
    }
}

fn log_warnings(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}
