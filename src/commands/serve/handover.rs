//! What a supervisor hands to its worker, and in an upgrade to the program that it becomes: one variable of the environment.
//!
//! The variable names the process id of the supervisor: whoever has that id is the supervisor, whoever has it for a parent
//! is its worker.

use std::os::fd::{AsRawFd, RawFd};
use std::process::Command;

use anyhow::{Context, bail};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::sockets::Sockets;

/// Not among the `SUPERNODE_` variables: it is no setting, and nobody else's business.
const VARIABLE: &str = "_SUPERNODE_HANDOVER";

/// From a supervisor to its worker or to its successor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Handover {
    /// The process id of the supervisor.
    supervisor: i32,
    api: RawFd,
    download: RawFd,
    /// The worker that a successor of the supervisor finds at work.
    worker: Option<i32>,
    pub news: News,
}

/// What the supervisor has seen. It writes no log: its worker tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// Whether clients were served before: then this is a restart, which should not give up for what may pass.
    pub served: bool,
    /// How the last worker ended, unless it was on purpose.
    pub death: Option<String>,
    /// Workers in a row that ended before they served.
    pub failed_starts: u32,
    /// Workers in a row that soon could not write the database.
    pub reopened: u32,
    /// The worker is the first of a new program, in whose place the old one would go on. Supervisors did not always say so.
    #[serde(default)]
    pub on_trial: bool,
    /// Why the program that should have taken over did not.
    pub failed_upgrade: Option<String>,
}

/// What this process is to the service.
#[derive(Debug)]
pub enum Part {
    /// Somebody started it, who knows nothing of this.
    First,
    Worker {
        handover: Handover,
        sockets: Sockets,
    },
    /// A supervisor that was another program until now.
    Successor {
        sockets: Sockets,
        worker: Option<Pid>,
        news: News,
    },
}

impl Part {
    /// Which part this process has.
    ///
    /// # Safety
    ///
    /// Must be called once, before anything else in the process opens or closes descriptors.
    pub unsafe fn of_process() -> anyhow::Result<Self> {
        let Ok(text) = std::env::var(VARIABLE) else { return Ok(Self::First) };
        let handover: Handover = serde_json::from_str(&text).with_context(|| format!("{VARIABLE}={text} is not a handover"))?;
        let numbers = handover.api >= 3 && handover.download >= 3 && handover.api != handover.download;
        if !numbers || handover.worker.is_some_and(|pid| pid < 1) {
            bail!("{VARIABLE}={text} is not a handover");
        }
        // SAFETY: the supervisor left both open for us, and nobody else in this process knows of them.
        let sockets = |handover: &Handover| unsafe { Sockets::from_descriptors(handover.api, handover.download) };
        if getpid().as_raw_pid() == handover.supervisor {
            let worker = handover.worker.and_then(Pid::from_raw);
            return Ok(Self::Successor { sockets: sockets(&handover)?, worker, news: handover.news });
        }
        // Without its supervisor nobody can stop a worker, and the next service would find its home in use.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid().map(Pid::as_raw_pid) != Some(handover.supervisor) {
            bail!("the supervisor with process id {}, for which this is a worker, is gone", handover.supervisor);
        }
        Ok(Self::Worker { sockets: sockets(&handover)?, handover })
    }
}

impl Handover {
    /// From this process, whose sockets stay open in whatever it starts or becomes from now on.
    pub fn from_supervisor(sockets: &Sockets, worker: Option<Pid>, news: News) -> std::io::Result<Self> {
        for socket in [&sockets.api, &sockets.download] {
            fcntl_setfd(socket, FdFlags::empty())?;
        }
        let (api, download) = (sockets.api.as_raw_fd(), sockets.download.as_raw_fd());
        Ok(Self { supervisor: getpid().as_raw_pid(), api, download, worker: worker.map(Pid::as_raw_pid), news })
    }

    pub fn put_into(&self, command: &mut Command) {
        // A struct of numbers and texts always serializes.
        command.env(VARIABLE, serde_json::to_string(self).unwrap_or_default());
        // These name the process that the service manager started, for which the worker speaks.
        command.env_remove("WATCHDOG_PID").env_remove("LISTEN_PID").env_remove("LISTEN_FDS");
    }

    pub const fn supervisor(&self) -> i32 {
        self.supervisor
    }

    /// Whether clients were served before: then this is a restart.
    pub const fn has_served(&self) -> bool {
        self.news.served
    }

    /// Tells the supervisor that clients are served.
    pub fn tell_ready(&self) {
        if let Err(error) = self.tell(Signal::USR1) {
            tracing::warn!(%error, "supervisor cannot be told that the service is ready");
        }
    }

    /// Tells the supervisor that there is life in this process. To one that is older it is a signal like that of a child that
    /// ended, which it looks for and does not find.
    pub fn tell_alive(&self) {
        // One that cannot be told this is told no better that it cannot.
        let _ = self.tell(Signal::CHILD);
    }

    fn tell(&self, signal: Signal) -> rustix::io::Result<()> {
        let supervisor = getppid().filter(|parent| parent.as_raw_pid() == self.supervisor);
        supervisor.map_or(Ok(()), |supervisor| kill_process(supervisor, signal))
    }
}

/// Something that is started for its output, and no part of the service.
pub fn start_apart(command: &mut Command) -> &mut Command {
    command.env_remove(VARIABLE)
}
