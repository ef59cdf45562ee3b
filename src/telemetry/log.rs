//! The log.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Names the environment variable that sets what is logged.
const LOG_VARIABLE: &str = "SUPERNODE_LOG";

/// Sends the log to standard error.
pub fn set_up() -> anyhow::Result<()> {
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(directives) => EnvFilter::try_new(&directives)
            .map_err(|error| anyhow::anyhow!("{LOG_VARIABLE}={directives} is not a log filter: {error}"))?,
        Err(_) => EnvFilter::new("info"),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}
