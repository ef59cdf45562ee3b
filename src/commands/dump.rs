//! `supernode dump`: what is stored, of a running or a stopped service.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use reqwest::Method;
use serde::Deserialize;

use super::control_client::ask_running;
use super::home_lock::{HomeInUse, HomeLock};
use super::table::Listing;
use crate::cli::{DumpArgs, DumpFormat};
use crate::cluster::inventory::{self, Row};
use crate::config::Home;
use crate::domain::TaskId;
use crate::store::Store;

/// The task that was asked for is not stored.
#[derive(Debug, thiserror::Error)]
#[error("there is no task {task} in {}", home.display())]
pub struct NoSuchTask {
    task: TaskId,
    home: PathBuf,
}

/// Prints every stored row.
pub fn run(args: &DumpArgs) -> anyhow::Result<()> {
    let home = super::home_of(&args.home)?;
    super::require_home(&home)?;
    let mut printer = Printer::new(args.format);
    let mut print = |row| printer.print(row);
    let found = match HomeLock::take_at_once(&home) {
        Ok(_lock) => {
            let store = Store::open_to_read(&home.database())?;
            inventory::walk(&store, args.task.as_ref(), &mut |row| print(row))?;
            Ok(())
        }
        Err(error) if error.is::<HomeInUse>() => read_running(&home, args.task.as_ref(), &mut print),
        Err(error) => Err(error),
    };
    found?;
    match args.task {
        Some(task) if printer.rows == 0 => Err(NoSuchTask { task, home: home.path().to_owned() }.into()),
        _ => printer.finish(),
    }
}

/// Reads the rows from the service that has the home.
fn read_running(home: &Home, task: Option<&TaskId>, print: &mut dyn FnMut(Row) -> bool) -> anyhow::Result<()> {
    let path = task.map_or_else(|| "/dump".to_owned(), |task| format!("/dump?taskId={task}"));
    ask_running(home, &Method::GET, &path, &mut |line| Ok(print(row_of(line)?)))
}

/// The last line may say why there are no more rows.
fn row_of(line: &[u8]) -> anyhow::Result<Row> {
    #[derive(Deserialize)]
    struct Broken {
        error: String,
    }
    serde_json::from_slice(line).or_else(|unreadable| match serde_json::from_slice(line) {
        Ok(Broken { error }) => bail!("{error}"),
        Err(_) => Err(unreadable.into()),
    })
}

/// Prints rows as they come, or gathers them into tables.
struct Printer {
    format: DumpFormat,
    out: BufWriter<io::Stdout>,
    rows: usize,
    failed: Option<io::Error>,
    tables: Tables,
}

impl Printer {
    fn new(format: DumpFormat) -> Self {
        Self { format, out: BufWriter::new(io::stdout()), rows: 0, failed: None, tables: Tables::default() }
    }

    /// Tells whether more is wanted.
    fn print(&mut self, row: Row) -> bool {
        self.rows += 1;
        match self.format {
            DumpFormat::Table => self.tables.add(row),
            DumpFormat::Jsonl => {
                let line = serde_json::to_string(&row).unwrap_or_default();
                self.failed = writeln!(self.out, "{line}").err();
            }
        }
        self.failed.is_none()
    }

    fn finish(mut self) -> anyhow::Result<()> {
        if self.format == DumpFormat::Table && self.failed.is_none() {
            self.failed = self.tables.write(&mut self.out).err();
        }
        match self.failed.or(self.out.flush().err()) {
            // Whoever reads has read enough.
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Some(error) => Err(error).context("cannot write the dump"),
            None => Ok(()),
        }
    }
}

/// One table a kind of row.
struct Tables {
    tasks: Listing,
    clients: Listing,
    progress: Listing,
    pieces: Listing,
    peers: Listing,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            tasks: Listing::new(&["TASK", "STATE", "LENGTH", "PIECES", "STORED", "CLIENTS", "URL", "REASON"]),
            clients: Listing::new(&["TASK", "CLIENT", "STATE", "SERVES", "ERRORS AS SERVER", "AS RECEIVER", "PATH"]),
            progress: Listing::new(&["TASK", "CLIENT", "HELD", "SERVABLE"]),
            pieces: Listing::new(&["TASK", "PIECE", "MD5:LENGTH", "STORED"]),
            peers: Listing::new(&["CLIENT", "ADDRESS", "HOST", "VERSION"]),
        }
    }
}

impl Tables {
    fn add(&mut self, row: Row) {
        let number = |number: Option<u64>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
        let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
        match row {
            Row::Task { task, url, state, reason, length, pieces, pieces_stored, clients, .. } => {
                let pieces = number(pieces.map(u64::from));
                let (stored, clients) = (pieces_stored.to_string(), clients.to_string());
                self.tasks.add([task, state, number(length), pieces, stored, clients, url, reason.unwrap_or_default()]);
            }
            Row::Client { task, client, state, path, gone, serve_errors, download_errors, .. } => {
                let errors = [serve_errors, download_errors].map(|count| count.to_string());
                let [as_server, as_receiver] = errors;
                self.clients.add([short(&task), client, state, yes(!gone), as_server, as_receiver, path]);
            }
            Row::Progress { task, client, held, servable } => {
                self.progress.add([short(&task), client, ranges(&held), ranges(&servable)]);
            }
            Row::Piece { task, piece, piece_md5, stored } => {
                self.pieces.add([short(&task), piece.to_string(), piece_md5, yes(stored)]);
            }
            Row::Peer { client, ip, port, host_name, version } => {
                let address = if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
                self.peers.add([client, address, host_name, version]);
            }
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let named = [
            ("tasks", &self.tasks),
            ("pieces", &self.pieces),
            ("clients", &self.clients),
            ("progress", &self.progress),
            ("peers", &self.peers),
        ];
        for (name, table) in named {
            table.write(name, out)?;
        }
        Ok(())
    }
}

/// Enough of a task's id to tell it from the others on a screen.
fn short(task: &str) -> String {
    task.chars().take(12).collect()
}

/// `0-3,7`: numbers that follow each other as one range.
fn ranges(numbers: &[u32]) -> String {
    let runs = numbers.chunk_by(|before, after| before + 1 == *after);
    let text: Vec<String> = runs
        .map(|run| match run {
            [one] => one.to_string(),
            [first, .., last] => format!("{first}-{last}"),
            [] => String::new(),
        })
        .collect();
    if text.is_empty() { "none".to_owned() } else { text.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_follow_each_other_are_one_range() {
        assert_eq!(ranges(&[]), "none");
        assert_eq!(ranges(&[0, 1, 2, 3, 7, 9, 10]), "0-3,7,9-10");
    }
}
