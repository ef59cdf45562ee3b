//! `supernode dump`, and what its lines say.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::service::binary;

/// The lines of a dump, one JSON object each.
#[derive(Clone, Debug)]
pub struct Dump(pub Vec<Value>);

impl Dump {
    /// Dumps a home, whether or not a service runs on it.
    pub async fn of(home: &Path) -> Self {
        Self::with(home, &[]).await
    }

    /// The same with further arguments.
    pub async fn with(home: &Path, args: &[&str]) -> Self {
        Self::parse(&dump_text(home, "jsonl", args).await)
    }

    pub fn parse(text: &str) -> Self {
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("a dump has the line {line:?}: {error}"));
        Self(text.lines().map(parse).collect())
    }

    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |line| line["kind"] == kind)
    }

    /// The lines in an order of their own, for dumps whose order does not matter.
    pub fn sorted(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.0.iter().map(Value::to_string).collect();
        lines.sort();
        lines
    }

    /// Pieces whose digest is known, and that digest.
    pub fn piece_md5<'a>(&'a self, task: &str, piece: u32) -> Option<&'a str> {
        let line = self.of_kind("piece").find(|line| line["task"] == task && line["piece"] == piece)?;
        line["pieceMd5"].as_str()
    }

    pub fn has_client(&self, task: &str, client: &str) -> bool {
        self.of_kind("client").any(|line| line["task"] == task && line["client"] == client)
    }

    pub fn held(&self, task: &str, client: &str) -> BTreeSet<u32> {
        self.progress(task, client, "held")
    }

    pub fn servable(&self, task: &str, client: &str) -> BTreeSet<u32> {
        self.progress(task, client, "servable")
    }

    fn progress(&self, task: &str, client: &str, what: &str) -> BTreeSet<u32> {
        let lines = self.of_kind("progress").filter(|line| line["task"] == task && line["client"] == client);
        let pieces = lines.flat_map(|line| line[what].as_array().unwrap_or_else(|| panic!("no list {what:?} in {line}")));
        let number = |piece: &Value| piece.as_u64().and_then(|piece| u32::try_from(piece).ok());
        pieces.map(|piece| number(piece).unwrap_or_else(|| panic!("{piece} is no piece number"))).collect()
    }
}

/// What a dump prints.
pub async fn dump_text(home: &Path, format: &str, args: &[&str]) -> String {
    let mut command = Command::new(binary());
    command.arg("dump").arg("--home-dir").arg(home).args(["--format", format]).args(args);
    let Output { status, stdout, stderr } = output(command).await;
    assert!(status.success(), "dump of {} ended with {status}: {}", home.display(), String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("a dump is UTF-8")
}

/// Runs a command to its end without holding up the clients that run beside it.
pub async fn output(mut command: Command) -> Output {
    let run = tokio::task::spawn_blocking(move || command.output()).await;
    run.expect("running a command does not panic").expect("the binary can be run")
}
