//! `supernode version`: which release this is.

use std::io::{Write, stdout};

/// Prints one line, in the words of the published supernode.
pub fn run() -> anyhow::Result<()> {
    writeln!(stdout(), "supernode, version {} ({}/{})", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH)?;
    Ok(())
}
