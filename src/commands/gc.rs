//! `supernode gc`: what garbage collection takes of a running service, and why; or, dry, what it would take.

use std::io::{self, Write};

use anyhow::{Context, bail};
use reqwest::Method;
use serde_json::Value;

use super::control_client::ask_running;
use super::home_lock::{HomeInUse, HomeLock};
use super::table::Listing;
use crate::cli::GcArgs;
use crate::config::units::format_size;

/// Has the service collect, and prints what it says of every file.
pub fn run(args: &GcArgs) -> anyhow::Result<()> {
    let home = super::home_of(&args.home)?;
    super::require_home(&home)?;
    match HomeLock::take(&home) {
        Ok(_lock) => bail!("no service runs on {}: start it; supernode dump tells what is stored", home.path().display()),
        Err(error) if error.is::<HomeInUse>() => {}
        Err(error) => return Err(error),
    }
    let mut out = io::BufWriter::new(io::stdout());
    let mut tables = Tables::default();
    let mut last = None;
    let path = if args.dry_run { "/gc?dryRun=true" } else { "/gc" };
    let asked = ask_running(&home, &Method::POST, path, &mut |line| {
        let line: Value = serde_json::from_slice(line)?;
        if line["kind"] == "error" {
            bail!("{}", line["error"].as_str().unwrap_or_default());
        }
        if args.json {
            writeln!(out, "{line}")?;
        } else {
            tables.add(&line);
        }
        last = Some(line);
        Ok(true)
    });
    match asked {
        // Whoever reads has read enough.
        Err(error) if is_broken_pipe(&error) => return Ok(()),
        asked => asked?,
    }
    // Dry, the repository itself comes last; otherwise what was collected does.
    let ending = if args.dry_run { "cache" } else { "collected" };
    if last.is_none_or(|last| last["kind"] != ending) {
        bail!("the running service ended its answer too early: its log may say why");
    }
    if !args.json {
        tables.write(&mut out, args.dry_run)?;
    }
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write the table"),
        _ => Ok(()),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(broken)
}

struct Tables {
    going: Listing,
    staying: Listing,
    cache: Value,
    collected: Value,
}

impl Default for Tables {
    fn default() -> Self {
        let table = || Listing::new(&["TASK", "STATE", "SIZE", "CLIENTS", "UNUSED FOR", "WHY", "URL"]);
        Self { going: table(), staying: table(), cache: Value::Null, collected: Value::Null }
    }
}

impl Tables {
    fn add(&mut self, line: &Value) {
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| line[name].as_u64().unwrap_or_default();
        match line["kind"].as_str() {
            Some("file") => {
                let table = if line["goes"] == true { &mut self.going } else { &mut self.staying };
                let id: String = text("ID").chars().take(12).collect();
                let (size, unused) = (readable_size(number("storedBytes")), format!("{} s", number("idleSeconds")));
                table.add([id, text("cdnStatus"), size, number("clients").to_string(), unused, text("why"), text("taskURL")]);
            }
            Some("cache") => self.cache = line.clone(),
            Some("collected") => self.collected = line.clone(),
            _ => {}
        }
    }

    fn write(&self, out: &mut impl Write, dry: bool) -> io::Result<()> {
        for (name, table) in [(if dry { "would go" } else { "goes" }, &self.going), ("stays", &self.staying)] {
            table.write(name, out)?;
        }
        let number = |name: &str| self.cache[name].as_u64().unwrap_or_default();
        let size = |name: &str| readable_size(number(name));
        let quota =
            if number("quotaBytes") == 0 { "no quota".to_owned() } else { format!("of a quota of {}", size("quotaBytes")) };
        writeln!(
            out,
            "cached: {}, and {} to come ({quota}); free on the disk: {}",
            size("storedBytes"),
            size("comingBytes"),
            size("freeBytes")
        )?;
        writeln!(
            out,
            "youngGCThreshold {}, fullGCThreshold {}, taskExpireTime {} s",
            size("youngGCThreshold"),
            size("fullGCThreshold"),
            number("taskExpireSeconds")
        )?;
        if dry {
            return writeln!(out, "silent clients that would leave: {}", number("silentClients"));
        }
        let number = |name: &str| self.collected[name].as_u64().unwrap_or_default();
        writeln!(
            out,
            "collected: {} expired and {} evicted files ({}), {} silent clients, {} peers without a task",
            number("expired"),
            number("evicted"),
            readable_size(number("bytes")),
            number("clients"),
            number("peers")
        )
    }
}

/// Rounded to what people read.
fn readable_size(bytes: u64) -> String {
    const UNITS: [u64; 3] = [1 << 30, 1 << 20, 1 << 10];
    let unit = UNITS.into_iter().find(|unit| bytes >= 10 * unit).unwrap_or(1);
    format_size(bytes / unit * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_to_what_people_read() {
        for (bytes, text) in
            [(0, "0B"), (10_239, "10239B"), (10_241, "10KB"), (123_456_789, "117MB"), (u64::MAX, "17179869183GB")]
        {
            assert_eq!(readable_size(bytes), text);
        }
    }
}
