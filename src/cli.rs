//! The command line: clap types only.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum, value_parser};

use crate::config::{SETTINGS, Setting, Sources};
use crate::domain::TaskId;

/// Tracker, scheduler and seed of a P2P file-distribution cluster, persistent across crashes.
///
/// Without a command it serves. Clients (dfget, dfdaemon) register a URL at the API port; the supernode fetches it once
/// from its source, cuts it into pieces, and tells every client which piece to fetch from which peer.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, args_override_self = true, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: ServeArgs,
}

const AFTER_HELP: &str = "\
Every setting can be given as a flag, as an environment variable (its name is in brackets), or in the configuration file
(the key after it), in this order of precedence. `supernode config` shows what is in effect and who decided it. SIGHUP
makes a running service read its file again. Durations are written like 3m0s or 500ms, sizes like 20M or 200MB.

Exit codes: 0 done, 1 failed (the message says why), 2 wrong usage or wrong configuration, 3 the home is in use by a
running service, 4 the home is of a newer program, 5 (dump) there is no such task, 75 (serve --no-supervise) the
database can be written again after it could not: start the service again.
Environment: SUPERNODE_CONFIG names the configuration file; SUPERNODE_LOG sets what is logged, for example \"info\" (the
default), \"debug\" or \"info,supernode::cdn=trace\".";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service (the default).
    Serve(ServeArgs),
    /// Print the effective configuration as YAML: every setting, and who decided it.
    Config(ServeArgs),
    /// Print the version.
    Version,
    /// Print what is stored: tasks, peers, clients, pieces and progress, of a running or a stopped service.
    ///
    /// Exit codes: 0 printed, 1 failed, 5 there is no such task (--task).
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
    /// Collect garbage in a running service now, and tell of every cached file why it goes or stays. (Of a database that is
    /// written anew after it, the log tells.)
    Gc(GcArgs),
    /// Measure this machine: requests per second in full client lifecycles, memory per client.
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct ServeArgs {
    /// The configuration file [default: /etc/dragonfly/supernode.yml, if it is there].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Serve in this process, for an init that starts it again and holds its sockets (`LISTEN_FDS` implies it). Otherwise this
    /// process holds the sockets and runs the service in a worker, which it starts again whenever it dies.
    #[arg(long)]
    pub no_supervise: bool,
    #[command(flatten)]
    pub settings: SettingArgs,
}

impl ServeArgs {
    pub fn into_sources(self) -> Sources {
        Sources::of_process(self.config, self.settings.0)
    }
}

/// A flag for every row of the table of settings. Values stay texts: what is allowed is decided in one place for all layers.
#[derive(Clone, Debug, Default)]
pub struct SettingArgs(pub Vec<(&'static Setting, String)>);

impl SettingArgs {
    fn arg(setting: &'static Setting) -> Arg {
        let default = Some(setting.default_text()).filter(|text| !text.is_empty());
        let default = default.map(|text| format!(" [default: {text}]")).unwrap_or_default();
        let arg = Arg::new(setting.flag)
            .long(setting.flag)
            .value_name(setting.field.value_name())
            .help(format!("{}{default} [{}, {}]", setting.note(), setting.variable(), setting.key))
            .help_heading(setting.group.title())
            .action(ArgAction::Set);
        let arg = setting.short.into_iter().fold(arg, Arg::short);
        // As in Go, a switch is on when it is named, and takes a value only behind an equals sign.
        if setting.field.is_switch() {
            arg.num_args(0..=1).require_equals(true).default_missing_value("true")
        } else {
            arg.allow_hyphen_values(true)
        }
    }
}

impl Args for SettingArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(SETTINGS.iter().map(Self::arg))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |setting: &'static Setting| Some((setting, matches.get_one::<String>(setting.flag)?.clone()));
        Ok(Self(SETTINGS.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Which home a command is about.
#[derive(Debug, Args)]
pub struct HomeArgs {
    /// The home of the service [default: what the service's configuration says].
    #[arg(long, value_name = "DIR")]
    pub home_dir: Option<PathBuf>,
    /// The configuration file of the service [default: /etc/dragonfly/supernode.yml, if it is there].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DumpArgs {
    #[command(flatten)]
    pub home: HomeArgs,
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
    #[command(flatten)]
    pub home: HomeArgs,
    /// The file to write, which must not be there yet [default: <home>/snapshots/<time in UTC>.snap].
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The snapshot.
    #[arg(value_name = "FILE")]
    pub snapshot: PathBuf,
    #[command(flatten)]
    pub home: HomeArgs,
    /// Replace a database that is there; it is kept under another name.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub home: HomeArgs,
    /// Check this snapshot alone.
    #[arg(long, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    pub home: HomeArgs,
    /// Only say which steps would run.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct GcArgs {
    #[command(flatten)]
    pub home: HomeArgs,
    /// Only tell what would go.
    #[arg(long)]
    pub dry_run: bool,
    /// One JSON object a line for programs, rather than a table for people.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Clients of each task.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u32).range(1..))]
    pub clients: u32,
    /// Connections that carry their requests.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Tasks, one after the other; each is a 50 MiB file of 13 pieces.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u32).range(1..))]
    pub tasks: u32,
    /// Instead, drive bursts of tasks and clients through for so long, and four at least, all of which expire, and print what
    /// the service is left with. Exit code 1 if memory or open files are more than 1.5 times what they were after the second
    /// burst, the database stays larger than 8 MiB (or was not larger after a burst), or a piece file is left (or there was none
    /// after a burst).
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "60", value_parser = value_parser!(u32).range(1..))]
    pub churn: Option<u32>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// What a command line gives, by key.
    fn given(line: &str) -> Result<Vec<(&'static str, String)>, clap::Error> {
        let cli = Cli::try_parse_from(line.split(' '))?;
        let args = match cli.command {
            None => cli.serve,
            Some(Command::Serve(args) | Command::Config(args)) => args,
            Some(other) => panic!("{line} is {other:?}"),
        };
        Ok(args.settings.0.into_iter().map(|(setting, text)| (setting.key, text)).collect())
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        Cli::command().debug_assert();
        let cases = [
            ("supernode", vec![]),
            ("supernode --port=8012", vec![("listenPort", "8012")]),
            ("supernode --port 8012 --up-limit 6", vec![("listenPort", "8012"), ("peerUpLimit", "6")]),
            ("supernode --port 1 --port 2", vec![("listenPort", "2")]),
            ("supernode serve --port 1 --port 2", vec![("listenPort", "2")]),
            ("supernode config -D --profiler", vec![("debug", "true"), ("enableProfiler", "true")]),
            ("supernode --debug=false", vec![("debug", "false")]),
            ("supernode --gc-meta-interval 2m0s --advertise-ip=", vec![("advertiseIP", ""), ("gcMetaInterval", "2m0s")]),
            ("supernode --down-limit -1", vec![("peerDownLimit", "-1")]),
        ];
        for (line, expected) in cases {
            let given = given(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let given: Vec<(&str, &str)> = given.iter().map(|(key, text)| (*key, text.as_str())).collect();
            assert_eq!(given, expected, "{line}");
        }
        assert!(given("supernode --prot 1").is_err());
        assert!(given("supernode --port").is_err());
    }

    #[test]
    fn nothing_cannot_be_measured() {
        for option in ["--clients", "--connections", "--tasks", "--churn"] {
            let of = |count| Cli::try_parse_from(["supernode", "bench", option, count]);
            assert!(of("1").is_ok(), "{option} 1");
            let refused = of("0").expect_err("there is nothing to measure").to_string();
            assert!(refused.contains(option) && refused.contains("1.."), "{refused}");
        }
    }

    #[test]
    fn every_flag_of_the_go_supernode_is_there() {
        let flags = [
            "config",
            "home-dir",
            "port",
            "download-port",
            "advertise-ip",
            "cdn-pattern",
            "down-limit",
            "up-limit",
            "max-bandwidth",
            "system-bandwidth",
            "fail-access-interval",
            "gc-initial-delay",
            "gc-meta-interval",
            "task-expire-time",
            "peer-gc-delay",
            "pool-size",
            "profiler",
            "debug",
        ];
        let command = Cli::command();
        for flag in flags {
            assert!(command.get_arguments().any(|arg| arg.get_long() == Some(flag)), "--{flag} is missing");
        }
    }
}
