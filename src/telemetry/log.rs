//! The log.

use std::fmt;
use std::io::{BufWriter, IsTerminal};

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use super::rolling::RollingFile;

/// Names the environment variable that sets what is logged.
const LOG_VARIABLE: &str = "SUPERNODE_LOG";

/// The environment asks for a log that there cannot be.
#[derive(Debug, thiserror::Error)]
#[error(
    "the environment variable {LOG_VARIABLE} is {directives:?}; allowed is a log filter like info or info,supernode=debug: {why}"
)]
pub struct WrongLogFilter {
    directives: String,
    /// It tells its own cause, and is none that would be told again.
    why: tracing_subscriber::filter::ParseError,
}

/// Lines that may wait to be written.
const LINES_WAITING_MAX: usize = 16_384;
/// Bytes of lines that are written at once: what a pipe takes whole (`PIPE_BUF`), which the supervisor writes to as well.
const WRITTEN_TOGETHER_BYTES: usize = 4096;

/// The log of the process, whose level can change.
pub struct Log {
    /// `None` where the environment decides.
    set_filter: Option<SetFilter>,
    /// Writes what waits when it goes.
    _written: WorkerGuard,
}

type SetFilter = Box<dyn Fn(EnvFilter) + Send + Sync>;

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("can_change", &self.set_filter.is_some()).finish()
    }
}

impl Log {
    /// Sends the log to a file, or to standard error.
    pub fn set_up(debug: bool, file: Option<RollingFile>) -> Result<Self, WrongLogFilter> {
        let directives = std::env::var(LOG_VARIABLE).ok().filter(|directives| !directives.is_empty());
        let filter = match &directives {
            Some(directives) => {
                EnvFilter::try_new(directives).map_err(|why| WrongLogFilter { directives: directives.clone(), why })?
            }
            None => filter(debug),
        };
        let colours = file.is_none() && std::io::stderr().is_terminal();
        let (writer, written) = match file {
            Some(file) => behind_a_thread(file),
            None => behind_a_thread(std::io::stderr()),
        };
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(writer)
            .with_ansi(colours)
            // Told where a log cannot be written, that would panic.
            .log_internal_errors(false)
            .with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        // It fails only once the subscriber is gone, which is never.
        let set_filter: SetFilter = Box::new(move |filter| drop(handle.reload(filter)));
        Ok(Self { set_filter: directives.is_none().then_some(set_filter), _written: written })
    }

    /// Logs at level debug from now on, or no longer, unless the environment decides.
    pub fn set_debug(&self, debug: bool) {
        if let Some(set_filter) = &self.set_filter {
            set_filter(filter(debug));
        }
    }
}

/// Writes on a thread of its own: a pipe that nobody reads, or a disk that hangs, must hold up no request. Lines that find
/// too many before them are dropped. Those that wait are written together, and none is kept back once none waits.
fn behind_a_thread(writer: impl std::io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    let together = BufWriter::with_capacity(WRITTEN_TOGETHER_BYTES, writer);
    NonBlockingBuilder::default().buffered_lines_limit(LINES_WAITING_MAX).lossy(true).finish(together)
}

/// What libraries have to say at level debug helps nobody who asked this program.
fn filter(debug: bool) -> EnvFilter {
    EnvFilter::new(if debug { "info,supernode=debug" } else { "info" })
}
