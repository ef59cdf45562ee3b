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
pub mod restore;
pub mod serve;
pub mod snapshot;
mod table;
pub mod version;

use std::process::ExitCode;

use anyhow::bail;
use home_lock::HomeInUse;
use serve::supervisor::WorkerEnded;
use serve::{DrainedForUpgrade, WritableAgain};

use crate::cli::HomeArgs;
use crate::cluster::StartError;
use crate::config::{ConfigError, Home, Sources};
use crate::store::{StoreError, swap};
use crate::telemetry::{NoLogFile, WrongLogFilter};

const FAILED: u8 = 1;
/// The code that clap itself ends with on wrong usage.
const WRONG_CONFIGURATION: u8 = 2;
const HOME_IN_USE: u8 = 3;
/// Whoever supervises the service should start it again at once (`EX_TEMPFAIL`).
const START_AGAIN: u8 = 75;
/// The database was written by a newer program.
const NEWER_SCHEMA: u8 = 4;
/// What was asked for is not stored.
const NO_SUCH_TASK: u8 = 5;
/// What a worker tells its supervisor, and nobody else.
const DRAINED_FOR_UPGRADE: u8 = 80;

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
    home_lock::require_no_file(home)?;
    if let Err(error) = std::fs::read_dir(home.path())
        && error.kind() == std::io::ErrorKind::PermissionDenied
    {
        bail!("cannot read the home {}: {error}; run this as its owner", home.path().display());
    }
    if !home.database().is_dir() && !swap::is_interrupted(&home.database()) {
        bail!("there is no supernode home at {}: name one with --home-dir", home.path().display());
    }
    Ok(())
}

/// What to tell the user of an error; nothing where a worker told it already.
pub fn message(error: &anyhow::Error) -> Option<String> {
    let told = matches!(error.downcast_ref(), Some(WorkerEnded::Code(_))) || error.is::<DrainedForUpgrade>();
    (!told).then(|| format!("{error:#}"))
}

/// The exit code that goes with an error.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if let Some(ended) = error.downcast_ref::<WorkerEnded>() {
        return ended.exit_code();
    }
    ExitCode::from(if error.is::<HomeInUse>() {
        HOME_IN_USE
    } else if error.is::<ConfigError>() || error.is::<WrongLogFilter>() || error.is::<NoLogFile>() {
        WRONG_CONFIGURATION
    } else if is_newer_schema(error) {
        NEWER_SCHEMA
    } else if error.is::<dump::NoSuchTask>() {
        NO_SUCH_TASK
    } else if error.is::<WritableAgain>() {
        START_AGAIN
    } else if error.is::<DrainedForUpgrade>() {
        DRAINED_FOR_UPGRADE
    } else {
        FAILED
    })
}

fn is_newer_schema(error: &anyhow::Error) -> bool {
    let store = match error.downcast_ref() {
        Some(StartError::Store(store)) => Some(store),
        _ => error.downcast_ref(),
    };
    matches!(store, Some(StoreError::NewerSchema { .. }))
}
