//! The command line: clap types only.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Config;
use crate::domain::TaskId;

/// Tracker, scheduler and seed of a P2P file-distribution cluster, persistent across crashes.
///
/// Without a command it serves. Clients (dfget, dfdaemon) register a URL at the API port; the supernode fetches it once
/// from its source, cuts it into pieces, and tells every client which piece to fetch from which peer.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: ServeArgs,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed (the message says why), 2 wrong usage, 3 the home is in use by a running service.
Environment: SUPERNODE_LOG sets what is logged, for example \"info\" (the default), \"debug\" or \"supernode::cdn=trace\".";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service (the default).
    Serve(ServeArgs),
    /// Print what is stored: tasks, peers, clients, pieces and progress, of a running or a stopped service.
    Dump(DumpArgs),
    /// Write everything that is stored into one file, of a running service (which goes on meanwhile) or a stopped one.
    Snapshot(SnapshotArgs),
    /// Make a home of a snapshot. Verifies all of it first; keeps what was there under another name.
    Restore(RestoreArgs),
    /// Look whether a stopped home (database, piece files, snapshots), or one snapshot, is sound; says what mends it.
    ///
    /// Exit codes: 0 everything is sound, 1 something was found, or the check failed, 3 a service runs on the home.
    Check(CheckArgs),
    /// Bring a stopped home to this program's schema, as its first start would; takes a snapshot before.
    Migrate(MigrateArgs),
    /// Measure this machine: requests per second in full client lifecycles, memory per client.
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where all state is kept; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = "./data", env = "SUPERNODE_HOME_DIR")]
    pub home_dir: PathBuf,
    /// Listen on this address only [default: all addresses, IPv4 and IPv6].
    #[arg(long, value_name = "IP")]
    pub bind: Option<IpAddr>,
    /// Port of the API; 0 picks a free one.
    #[arg(long, value_name = "PORT", default_value_t = 8002)]
    pub port: u16,
    /// Port from which clients fetch pieces; 0 picks a free one.
    #[arg(long, value_name = "PORT", default_value_t = 8001)]
    pub download_port: u16,
    /// Send clients to this address for pieces, unless they say how they reach the supernode.
    #[arg(long, value_name = "IP")]
    pub advertise_ip: Option<IpAddr>,
}

impl ServeArgs {
    pub fn into_config(self) -> Config {
        let Self { home_dir, bind, port, download_port, advertise_ip } = self;
        Config { home: home_dir, bind, port, download_port, advertise_ip, ..Config::default() }
    }
}

#[derive(Debug, Args)]
pub struct DumpArgs {
    /// The home of the service.
    #[arg(long, value_name = "DIR", default_value = "./data", env = "SUPERNODE_HOME_DIR")]
    pub home_dir: PathBuf,
    /// A table for people, or one JSON object a line for programs.
    #[arg(long, value_enum, default_value_t = DumpFormat::Table)]
    pub format: DumpFormat,
    /// Only this task and what belongs to it: 64 hexadecimal digits.
    #[arg(long, value_name = "ID", value_parser = TaskId::parse)]
    pub task: Option<TaskId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DumpFormat {
    Table,
    Jsonl,
}

#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// The home of the service.
    #[arg(long, value_name = "DIR", default_value = "./data", env = "SUPERNODE_HOME_DIR")]
    pub home_dir: PathBuf,
    /// The file to write, which must not be there yet [default: <home>/snapshots/<time in UTC>.snap].
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The snapshot.
    #[arg(value_name = "FILE")]
    pub snapshot: PathBuf,
    /// The home to make; piece files that are there are compared and used.
    #[arg(long, value_name = "DIR", default_value = "./data", env = "SUPERNODE_HOME_DIR")]
    pub home_dir: PathBuf,
    /// Replace a database that is there; it is kept under another name.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The home to check; no service may run on it.
    #[arg(long, value_name = "DIR", default_value = "./data", env = "SUPERNODE_HOME_DIR")]
    pub home_dir: PathBuf,
    /// Check this snapshot alone.
    #[arg(long, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The home to migrate; no service may run on it.
    #[arg(long, value_name = "DIR", default_value = "./data", env = "SUPERNODE_HOME_DIR")]
    pub home_dir: PathBuf,
    /// Only say which steps would run.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Clients of each task.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub clients: u32,
    /// Connections that carry their requests.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub connections: u32,
    /// Tasks, one after the other; each is a 50 MiB file of 13 pieces.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub tasks: u32,
}
