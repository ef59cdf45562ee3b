//! Signals: blocked until somebody listens, so that none that comes early ends a process or is lost.

use std::path::PathBuf;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{SignalKind, signal};

use super::upgrade;
use crate::config::Home;

/// What a supervisor waits for. Its worker inherits that these are blocked.
fn supervised() -> SigSet {
    let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGCHLD];
    signals.into_iter().collect()
}

/// Blocks what a supervisor waits for, and tells what that is.
pub fn block() -> anyhow::Result<SigSet> {
    let signals = supervised();
    signals.thread_block().context("cannot block signals")?;
    Ok(signals)
}

/// Why a service ends well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Stop,
    /// The program that is now where this one was started from should go on.
    Upgrade,
}

/// The signals that end a service, and the one that makes it read its configuration again.
#[derive(Debug)]
pub struct Signals {
    ending: EndingSignals,
    hangup: tokio::signal::unix::Signal,
}

#[derive(Debug)]
struct EndingSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    upgrade: tokio::signal::unix::Signal,
    supervised: bool,
    /// Which the next program has to be able to write.
    database: PathBuf,
}

impl Signals {
    /// Listens from now on, on the thread that runs the service.
    pub fn listen(supervised_by_us: bool, home: &Home) -> anyhow::Result<Self> {
        let signals = Self {
            ending: EndingSignals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                upgrade: signal(SignalKind::user_defined2())?,
                supervised: supervised_by_us,
                database: home.database(),
            },
            hangup: signal(SignalKind::hangup())?,
        };
        // What came before was kept back, and is heard now. SIGUSR1 is for supervisors alone.
        let mut heard = supervised();
        heard.remove(Signal::SIGUSR1);
        heard.thread_unblock().context("cannot unblock signals")?;
        Ok(signals)
    }

    /// Waits for the end of the service; the second part waits for the signal to reload.
    pub fn split(&mut self) -> (impl Future<Output = Ending> + '_, &mut tokio::signal::unix::Signal) {
        (self.ending.ending(), &mut self.hangup)
    }
}

impl EndingSignals {
    async fn ending(&mut self) -> Ending {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Ending::Stop,
                _ = self.interrupt.recv() => return Ending::Stop,
                _ = self.upgrade.recv() => {}
            }
            if !self.supervised {
                tracing::warn!("SIGUSR2 upgrades a supervised service; this one is started again by whoever holds its sockets");
                continue;
            }
            let database = self.database.clone();
            match tokio::task::spawn_blocking(move || upgrade::check(&database)).await {
                Ok(Ok(version)) => {
                    tracing::info!(version, "upgrading: finishing what is open, then the new program takes over");
                    return Ending::Upgrade;
                }
                Ok(Err(error)) => tracing::error!("no upgrade, serving on: {error:#}"),
                Err(error) => tracing::error!(%error, "no upgrade, serving on"),
            }
        }
    }
}
