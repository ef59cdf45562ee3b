//! `supernode snapshot`: everything that is stored, in one file, of a running or a stopped service.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::Method;

use super::control_client::ask_running;
use super::home_lock::{HomeInUse, HomeLock};
use super::progress::Progress;
use crate::cli::SnapshotArgs;
use crate::cluster::snapshots::{self, Line};
use crate::config::Home;
use crate::store::Store;

/// Takes a snapshot, and says what is in it.
pub fn run(args: &SnapshotArgs) -> anyhow::Result<()> {
    let home = super::home_of(&args.home)?;
    super::require_home(&home)?;
    let output = args.output.clone().unwrap_or_else(|| snapshots::default_path(&home));
    let output = std::path::absolute(&output).with_context(|| format!("cannot tell where {} is", output.display()))?;
    if args.output.is_some() {
        require_directory_of(&output, &home)?;
    }
    let progress = Progress::rows();
    let taken = match HomeLock::take_at_once(&home) {
        Ok(_lock) => {
            let store = Store::open_to_read(&home.database())?;
            Line::from(&snapshots::take_of_stopped(&store, &output, &mut |rows| progress.at(rows))?)
        }
        Err(error) if error.is::<HomeInUse>() => take_of_running(&home, &output, &progress)?,
        Err(error) => return Err(error),
    };
    progress.finish();
    let Line::Taken { path, rows, bytes, took_ms, longest_pause_us } = taken else {
        bail!("the running service ended its answer too early: its log may say why");
    };
    let took = at_least(Duration::from_millis(took_ms), Duration::from_millis(1));
    let pause = at_least(Duration::from_micros(longest_pause_us), Duration::from_micros(1));
    println!("{path}: {rows} rows, {bytes} bytes, took {took}, longest pause of answers {pause}");
    Ok(())
}

/// A directory that a person names and that is not there is one mistyped, or a disk that is not mounted. That of the home
/// is the service's to make.
fn require_directory_of(output: &Path, home: &Home) -> anyhow::Result<()> {
    let own = std::path::absolute(home.snapshots())?;
    match output.parent() {
        Some(directory) if !directory.is_dir() && directory != own => {
            bail!("the directory {} is not there: make it, or name another with --output", directory.display())
        }
        _ => Ok(()),
    }
}

/// A time, or that it was shorter than what it is told in.
fn at_least(time: Duration, unit: Duration) -> String {
    if time < unit { format!("less than {unit:?}") } else { format!("{time:?}") }
}

fn take_of_running(home: &Home, output: &Path, progress: &Progress) -> anyhow::Result<Line> {
    let output = output.to_str().context("the path of the snapshot is not UTF-8, which a running service needs")?;
    let query: String = form_urlencoded::Serializer::new(String::new()).append_pair("output", output).finish();
    let mut last = Line::Progress { rows: 0 };
    ask_running(home, &Method::POST, &format!("/snapshot?{query}"), &mut |line| {
        last = serde_json::from_slice(line)?;
        match &last {
            Line::Progress { rows } => progress.at(*rows),
            Line::Taken { .. } => {}
            Line::Error { error } => bail!("{error}"),
        }
        Ok(true)
    })?;
    Ok(last)
}
