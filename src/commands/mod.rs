//! The commands: one `run` each.

pub mod bench;
pub mod check;
mod control_client;
pub mod dump;
mod home_lock;
pub mod migrate;
mod progress;
pub mod restore;
pub mod serve;
pub mod snapshot;
mod sockets;

use std::process::ExitCode;

use anyhow::bail;
use home_lock::HomeInUse;

use crate::config::Home;
use crate::store::swap;

/// Wrong usage is clap's own 2.
const FAILED: u8 = 1;
const HOME_IN_USE: u8 = 3;

/// Commands that look at a home make none.
fn require_home(home: &Home) -> anyhow::Result<()> {
    if !home.database().is_dir() && !swap::is_interrupted(&home.database()) {
        bail!("there is no supernode home at {}: name one with --home-dir", home.path().display());
    }
    Ok(())
}

/// The exit code that goes with an error.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if error.is::<HomeInUse>() { HOME_IN_USE } else { FAILED })
}
