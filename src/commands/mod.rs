//! The commands: one `run` each.

pub mod bench;
pub mod check;
pub mod config;
mod control_client;
pub mod dump;
pub mod gc;
mod home_lock;
pub mod migrate;
mod progress;
mod reload;
pub mod restore;
pub mod serve;
pub mod snapshot;
mod sockets;
pub mod version;

use std::process::ExitCode;

use anyhow::bail;
use home_lock::HomeInUse;
use serve::SourcePattern;

use crate::cli::HomeArgs;
use crate::config::{ConfigError, Home, Sources};
use crate::store::swap;

const FAILED: u8 = 1;
/// The code that clap itself ends with on wrong usage.
const WRONG_CONFIGURATION: u8 = 2;
const HOME_IN_USE: u8 = 3;

/// The home that is named, or that the service's configuration names.
fn home_of(args: &HomeArgs) -> anyhow::Result<Home> {
    let home = match &args.home_dir {
        Some(path) => path.clone(),
        None => Sources::of_process(args.config.clone(), Vec::new()).load()?.config.home,
    };
    Ok(Home::new(home))
}

/// Commands that look at a home make none.
fn require_home(home: &Home) -> anyhow::Result<()> {
    if !home.database().is_dir() && !swap::is_interrupted(&home.database()) {
        bail!("there is no supernode home at {}: name one with --home-dir", home.path().display());
    }
    Ok(())
}

/// The exit code that goes with an error.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if error.is::<HomeInUse>() {
        HOME_IN_USE
    } else if error.is::<ConfigError>() || error.is::<SourcePattern>() {
        WRONG_CONFIGURATION
    } else {
        FAILED
    })
}
