//! Upgrading: the program that now stands where this one was started from.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::handover::start_apart;
use crate::store;

/// How long a new program may take to tell its version.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(10);
const VERSION_MAX_BYTES: u64 = 1024;

/// Where this program was started from, and where its successor is therefore looked for. A link is followed anew.
pub fn program() -> anyhow::Result<PathBuf> {
    let called = std::env::args_os().next().map(PathBuf::from).filter(|called| called.components().count() > 1);
    if let Some(called) = called {
        return Ok(std::env::current_dir().context("cannot tell the working directory")?.join(called));
    }
    let path = std::env::current_exe().context("cannot tell which program this is")?;
    // So the kernel marks a program whose file was replaced.
    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes).to_vec();
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

/// Looks whether a new program could take over now, and tells its version. On a disk that is full it could not open the
/// home, and would serve nothing where the old one serves what it has.
pub fn check(database: &Path) -> anyhow::Result<String> {
    store::try_write(database).context("the new program could not open the home")?;
    version()
}

/// Lets the new program tell its version, which one that cannot run here does not.
fn version() -> anyhow::Result<String> {
    let program = program()?;
    let shown = program.display();
    let mut command = Command::new(&program);
    start_apart(&mut command).arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("{shown} cannot be run"))?;
    // The first line, and no more: something that it started may hold its output open for ever.
    let (said, heard) = mpsc::channel();
    let output = child.stdout.take().context("it has no output")?;
    std::thread::spawn(move || {
        let mut line = Vec::new();
        let _ = BufReader::new(output.take(VERSION_MAX_BYTES)).read_until(b'\n', &mut line);
        // Whoever waits no longer has decided.
        let _ = said.send(line);
    });
    let deadline = Instant::now() + CHECK_TIMEOUT;
    let line = heard.recv_timeout(CHECK_TIMEOUT);
    let status = loop {
        match child.try_wait()? {
            Some(status) if line.is_ok() => break status,
            _ if Instant::now() > deadline => {
                child.kill().and_then(|()| child.wait().map(drop))?;
                bail!("{shown} does not tell its version within {} s", CHECK_TIMEOUT.as_secs());
            }
            _ => std::thread::sleep(LOOK_EVERY),
        }
    };
    let version = String::from_utf8_lossy(&line.unwrap_or_default()).trim().to_owned();
    if !status.success() || !version.starts_with(env!("CARGO_PKG_NAME")) {
        bail!("{shown} is no supernode that runs here: asked for its version it ended with {status} and said {version:?}");
    }
    Ok(version)
}
