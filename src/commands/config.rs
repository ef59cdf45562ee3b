//! `supernode config`: what is in effect, and who decided it.

use std::io::{Write, stdout};

use crate::config::{Sources, effective};

/// Prints the effective configuration as YAML, and to standard error what is ignored in it.
pub fn run(sources: &Sources) -> anyhow::Result<()> {
    let loaded = sources.load()?;
    for warning in &loaded.warnings {
        eprintln!("supernode: warning: {warning}");
    }
    stdout().write_all(effective(&loaded).as_bytes())?;
    Ok(())
}
