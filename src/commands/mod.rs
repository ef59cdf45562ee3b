//! The commands: one `run` each.

pub mod bench;
pub mod config;
pub mod dump;
mod home_lock;
mod reload;
pub mod serve;
mod sockets;
pub mod version;

use std::process::ExitCode;

use home_lock::HomeInUse;
use serve::SourcePattern;

use crate::config::ConfigError;

const FAILED: u8 = 1;
/// The code that clap itself ends with on wrong usage.
const WRONG_CONFIGURATION: u8 = 2;
const HOME_IN_USE: u8 = 3;

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
