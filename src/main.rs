//! Parses the command line, dispatches, and maps the outcome to an exit code.

#![warn(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use nix::sys::signal::{SigSet, Signal};
use supernode::cli::{Cli, Command};
use supernode::commands;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages, and then every corner of its memory that is touched costs 2 MiB: an idle service
    // had 52 MiB resident instead of 13, and was no faster. Where the kernel does not know of this, it stays as it was.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // A write beyond the limit of a file's size (`ulimit -f`) is to fail like any other, not to end the process. Blocked is as
    // good as ignored: the write fails all the same. Every thread and every worker inherits it, because it comes first.
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
    let cli = Cli::parse();
    let outcome = match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => commands::serve::run(args),
        Command::Config(args) => commands::config::run(&args.into_sources()),
        Command::Version => commands::version::run(),
        Command::Dump(args) => commands::dump::run(&args),
        Command::Snapshot(args) => commands::snapshot::run(&args),
        Command::Restore(args) => commands::restore::run(&args),
        Command::Check(args) => commands::check::run(&args),
        Command::Migrate(args) => commands::migrate::run(&args),
        Command::Gc(args) => commands::gc::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(message) = commands::message(&error) {
                // Whoever read it may have gone.
                let _ = writeln!(std::io::stderr(), "supernode: {message}");
            }
            commands::exit_code(&error)
        }
    }
}
