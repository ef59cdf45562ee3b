//! The commands: one `run` each.

pub mod bench;
pub mod dump;
mod home_lock;
pub mod serve;
mod sockets;

use std::process::ExitCode;

use home_lock::HomeInUse;

/// Wrong usage is clap's own 2.
const FAILED: u8 = 1;
const HOME_IN_USE: u8 = 3;

/// The exit code that goes with an error.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if error.is::<HomeInUse>() { HOME_IN_USE } else { FAILED })
}
