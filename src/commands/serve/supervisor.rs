//! The supervisor: a process that holds the listening sockets and runs the service in a worker, which may die.
//!
//! Connections wait in the sockets' queues while one worker follows another, so that no client is ever refused.
//! Owns: the sockets, starting workers, and passing on the signals that it gets.
//! Must not: do anything that can fail once it runs. It has one thread and no runtime, writes no log, and never touches the
//! home; what it has to tell, its next worker tells.
//!
//! The worker is this very program (`/proc/self/exe`: a file that was replaced meanwhile changes nothing until SIGUSR2),
//! says that it is ready by SIGUSR1, and is killed by the kernel when its supervisor dies. For an upgrade the worker looks
//! at the new program, drains, and ends with [`DRAINED_FOR_UPGRADE`]; the next worker is then of the new program, and once
//! it is ready the supervisor becomes the new program too. One that ends by itself before it was ready, or that hangs, has
//! had its chance, and the old one goes on; unless the database has been migrated, which the old one tells by [`NEWER_SCHEMA`].

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{Pid, WaitOptions, WaitStatus, kill_process, waitpid};

use super::handover::{Handover, News};
use super::sockets::Sockets;
use super::{signals, upgrade};
use crate::commands::{DRAINED_FOR_UPGRADE, FAILED, HOME_IN_USE, NEWER_SCHEMA, START_AGAIN, home_lock};
use crate::config::{Config, Home, Sources};

/// The program of this process, whatever has become of its file.
const OURSELVES: &str = "/proc/self/exe";
/// Workers in a row that end before they are ready: then it is not chance.
const FAILED_STARTS_MAX: u32 = 10;
/// Before the next start after a second such end, or a second quick death; doubled for each one more.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Clients bear a silent port for as long as this, and no longer than three seconds.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often a new program is tried whose worker is killed before it is ready.
const TRIALS_MAX: u32 = 3;
/// For how long the worker of a new program may give no sign of life. One that recovers gives one a second.
const TRIAL_SILENCE_MAX: Duration = Duration::from_secs(20);
/// How long it may take to get ready, whatever it says: as long as a service manager gives it.
const TRIAL_MAX: Duration = Duration::from_mins(10);
/// A worker that ends sooner because the database could not be written does not show that it can be.
const REOPENED_WITHIN: Duration = Duration::from_secs(60);
/// How long ports may be those of a service that was just killed.
const PORTS_FREE_WITHIN: Duration = Duration::from_millis(500);
const BIND_EVERY: Duration = Duration::from_millis(10);
/// A worker that dies sooner after it was ready may do so again and again, like one that never gets ready.
const LASTS_FROM: Duration = Duration::from_secs(10);
/// Between two starts: workers that die as soon as they are ready must not take the whole machine.
const START_EVERY: Duration = Duration::from_millis(100);
/// A second signal to stop that comes sooner is the first one once more: `timeout` and terminals signal a process and its group.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How a worker ended that is not started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerEnded {
    /// It said itself why.
    #[error("the service ended with exit code {0}")]
    Code(u8),
    #[error("the service was killed while it stopped; nothing that was acknowledged is lost")]
    Killed,
    #[error(
        "the service ended {FAILED_STARTS_MAX} times in a row before it was ready and is not started again; its last words are above, `supernode check` looks for damage"
    )]
    Looping,
}

impl WorkerEnded {
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Code(code) => code,
            Self::Killed | Self::Looping => FAILED,
        })
    }
}

/// Binds the sockets and runs workers until one ends on purpose.
pub fn run(sources: &Sources) -> anyhow::Result<()> {
    // Before anything is waited for: a signal that comes early is not lost.
    let signals = signals::block()?;
    let config = sources.load()?.config;
    let sockets = match bind(&config) {
        Ok(sockets) => sockets,
        // Who starts twice should read who has the home, not that a port is taken.
        Err(error) => return Err(home_lock::holder_of(&Home::new(config.home)).map_or(error, Into::into)),
    };
    Supervisor::new(sockets, SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?).run()
}

/// A supervisor that was just killed has its ports until the kernel has taken its worker apart.
fn bind(config: &Config) -> anyhow::Result<Sockets> {
    let deadline = Instant::now() + PORTS_FREE_WITHIN;
    loop {
        match Sockets::bind(config) {
            Err(error) if is_in_use(&error) && Instant::now() < deadline => std::thread::sleep(BIND_EVERY),
            bound => return bound,
        }
    }
}

fn is_in_use(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

/// Goes on where another program was the supervisor.
pub fn go_on(sockets: Sockets, worker: Option<Pid>, news: News) -> anyhow::Result<()> {
    let signals = signals::block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let worker = worker.map(|pid| Worker { ready: Some(Instant::now()), ..Worker::new(pid) });
    Supervisor { worker, news, ..Supervisor::new(sockets, signals) }.run()
}

#[derive(Debug)]
struct Worker {
    pid: Pid,
    started: Instant,
    /// When it last gave a sign of life.
    heard: Instant,
    /// Since when it serves; `None` until then.
    ready: Option<Instant>,
    /// It was killed because it did not get ready.
    hung: bool,
}

impl Worker {
    fn new(pid: Pid) -> Self {
        Self { pid, started: Instant::now(), heard: Instant::now(), ready: None, hung: false }
    }
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Stopping {
        since: Instant,
    },
    /// The first worker of a new program has to show that it gets ready.
    Trial,
}

#[derive(Debug)]
struct Supervisor {
    sockets: Sockets,
    signals: SignalFd,
    worker: Option<Worker>,
    /// When the next worker starts, while there is none.
    start_at: Instant,
    /// What the next worker is told.
    news: News,
    phase: Phase,
    /// What workers are started from.
    program: PathBuf,
    /// How often the new program was tried.
    trials: u32,
    /// Workers in a row that soon could not write the database.
    reopened: u32,
    /// Workers that died soon after they were ready, since one that lasted.
    quick_deaths: u32,
}

impl Supervisor {
    fn new(sockets: Sockets, signals: SignalFd) -> Self {
        Self {
            sockets,
            signals,
            worker: None,
            start_at: Instant::now(),
            news: News::default(),
            phase: Phase::Serving,
            program: OURSELVES.into(),
            trials: 0,
            reopened: 0,
            quick_deaths: 0,
        }
    }

    /// Runs workers until one ends on purpose.
    fn run(&mut self) -> anyhow::Result<()> {
        loop {
            // Asked each time: of several children that end together, one signal may tell.
            if let Some(ended) = self.reap()? {
                return if ended == WorkerEnded::Code(0) { Ok(()) } else { Err(ended.into()) };
            }
            if self.worker.is_none() {
                if matches!(self.phase, Phase::Stopping { .. }) {
                    return Ok(());
                }
                if Instant::now() >= self.start_at {
                    self.start()?;
                }
            }
            self.end_hung_trial();
            self.wait_for_signals();
            while let Ok(Some(signal)) = self.signals.read_signal() {
                self.take(signal.ssi_signo, signal.ssi_pid);
            }
        }
    }

    fn wait_for_signals(&self) {
        // Whole milliseconds, and one more: it is due when this is over.
        let wait = |due: Instant| due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let due = if self.worker.is_none() { Some(self.start_at) } else { self.trial_ends() };
        let timeout = due.map_or(PollTimeout::NONE, |due| PollTimeout::try_from(wait(due)).unwrap_or(PollTimeout::MAX));
        // Interrupted or not: whatever there is to do is looked for.
        let _ = poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], timeout);
    }

    /// When the worker of a new program has had its chance, unless it gives a sign of life before.
    fn trial_ends(&self) -> Option<Instant> {
        let worker = self.worker.as_ref().filter(|worker| self.phase == Phase::Trial && !worker.hung)?;
        Some((worker.heard + TRIAL_SILENCE_MAX).min(worker.started + TRIAL_MAX))
    }

    /// Kills a new program that hangs, so that the old one goes on.
    fn end_hung_trial(&mut self) {
        if self.trial_ends().is_some_and(|due| Instant::now() >= due) {
            self.tell(rustix::process::Signal::KILL);
            self.worker.iter_mut().for_each(|worker| worker.hung = true);
        }
    }

    fn take(&mut self, number: u32, sender: u32) {
        match i32::try_from(number).ok().and_then(|number| Signal::try_from(number).ok()) {
            Some(Signal::SIGTERM | Signal::SIGINT) => self.stop(),
            Some(Signal::SIGHUP) => self.tell(rustix::process::Signal::HUP),
            Some(Signal::SIGUSR2) if self.phase == Phase::Serving => self.upgrade(),
            Some(Signal::SIGUSR1) if self.is_worker(sender) => self.worker_is_ready(),
            // It lives; or it has ended, which is looked for anyway.
            Some(Signal::SIGCHLD) if self.is_worker(sender) => {
                self.worker.iter_mut().for_each(|worker| worker.heard = Instant::now());
            }
            // Another child has ended, or somebody else speaks.
            _ => {}
        }
    }

    /// Whoever asks again has waited long enough; a kill loses nothing that was acknowledged.
    fn stop(&mut self) {
        match self.phase {
            Phase::Stopping { since } if since.elapsed() < ASKED_AGAIN_AFTER => {}
            Phase::Stopping { .. } => self.tell(rustix::process::Signal::KILL),
            Phase::Serving | Phase::Trial => {
                self.phase = Phase::Stopping { since: Instant::now() };
                self.tell(rustix::process::Signal::TERM);
            }
        }
    }

    fn is_worker(&self, pid: u32) -> bool {
        self.worker.as_ref().is_some_and(|worker| u32::try_from(worker.pid.as_raw_pid()) == Ok(pid))
    }

    fn tell(&self, signal: rustix::process::Signal) {
        if let Some(worker) = &self.worker {
            // One that has ended meanwhile is reaped next.
            let _ = kill_process(worker.pid, signal);
        }
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let started = Handover::from_supervisor(&self.sockets, None, self.news.clone())
            .and_then(|handover| command(&self.program, &handover).spawn());
        match started {
            // It is waited for by its id, which stays the same when this process becomes another program.
            Ok(child) => self.worker = Some(Worker::new(Pid::from_child(&child))),
            Err(error) if self.phase == Phase::Trial => self.give_up_upgrade(&error.to_string()),
            // No memory or no process to be had: that may pass.
            Err(_) if self.news.served => self.start_at = Instant::now() + PAUSE_MAX,
            Err(error) => return Err(error).context("the service cannot be started"),
        }
        Ok(())
    }

    fn worker_is_ready(&mut self) {
        let Some(worker) = &mut self.worker else { return };
        worker.ready = Some(Instant::now());
        let pid = worker.pid;
        self.news = News { served: true, ..News::default() };
        if self.phase == Phase::Trial {
            self.phase = Phase::Serving;
            self.become_new(pid);
        }
    }

    /// Goes on as the program of which the worker is already. Where that fails, this one does: as supervisors they are alike.
    fn become_new(&self, worker: Pid) {
        if let Ok(handover) = Handover::from_supervisor(&self.sockets, Some(worker), self.news.clone()) {
            // Blocked signals stay blocked and wait for the new program.
            let _ = command(&self.program, &handover).exec();
        }
    }

    /// Looks whether the worker has ended, and decides what follows; tells how it ended if nothing does.
    fn reap(&mut self) -> anyhow::Result<Option<WorkerEnded>> {
        let Some(status) = self.ended_worker()? else { return Ok(None) };
        let Some(worker) = self.worker.take() else { return Ok(None) };
        let code = status.exit_status().and_then(|code| u8::try_from(code).ok());
        self.start_at = Instant::now();
        Ok(match (self.phase, code) {
            (Phase::Stopping { .. }, Some(DRAINED_FOR_UPGRADE)) => Some(WorkerEnded::Code(0)),
            (Phase::Stopping { .. }, _) => Some(code.map_or(WorkerEnded::Killed, WorkerEnded::Code)),
            (Phase::Trial, None) if worker.hung => {
                self.give_up_upgrade("it hung, and was killed");
                None
            }
            // Killed, which says nothing of the program; and it may have migrated the database already.
            (Phase::Trial, None) if self.trials < TRIALS_MAX => {
                self.trials += 1;
                self.start_at = Instant::now() + START_EVERY;
                None
            }
            (Phase::Trial, _) => {
                self.give_up_upgrade(&describe(status));
                None
            }
            (Phase::Serving, Some(0)) => Some(WorkerEnded::Code(0)),
            (Phase::Serving, Some(DRAINED_FOR_UPGRADE)) => {
                self.begin_upgrade();
                None
            }
            // Who starts in vain should read why, once and now.
            (Phase::Serving, Some(code)) if worker.ready.is_none() && !self.news.served => Some(WorkerEnded::Code(code)),
            (Phase::Serving, _) => {
                let ended = self.after_death(&worker, status, code);
                // A program that is there now has been at the database, and is the one that can go on.
                if ended.is_none() && code == Some(NEWER_SCHEMA) {
                    self.begin_trial();
                }
                ended
            }
        })
    }

    /// How the worker ended, if it has. As process 1 of a container this inherits what others leave behind, and buries it.
    fn ended_worker(&self) -> anyhow::Result<Option<WaitStatus>> {
        let Some(worker) = &self.worker else { return Ok(None) };
        while let Some((pid, status)) = waitpid(None, WaitOptions::NOHANG).context("cannot wait for the worker")? {
            if pid == worker.pid {
                return Ok(Some(status));
            }
        }
        Ok(None)
    }

    /// The worker drains first. Between two workers there is nothing to drain, and the next may well be of the new program.
    fn upgrade(&mut self) {
        if self.worker.is_some() {
            self.tell(rustix::process::Signal::USR2);
        } else {
            self.start_at = Instant::now();
            self.begin_upgrade();
        }
    }

    fn begin_upgrade(&mut self) {
        self.trials = 1;
        self.news.on_trial = true;
        self.begin_trial();
    }

    fn begin_trial(&mut self) {
        match upgrade::program() {
            Ok(program) => (self.phase, self.program) = (Phase::Trial, program),
            Err(error) => self.give_up_upgrade(&format!("{error:#}")),
        }
    }

    fn give_up_upgrade(&mut self, why: &str) {
        (self.phase, self.program) = (Phase::Serving, OURSELVES.into());
        self.news.on_trial = false;
        self.news.failed_upgrade = Some(why.to_owned());
    }

    fn after_death(&mut self, worker: &Worker, status: WaitStatus, code: Option<u8>) -> Option<WorkerEnded> {
        self.news.death = Some(describe(status));
        if code == Some(START_AGAIN) {
            self.reopened = if worker.started.elapsed() < REOPENED_WITHIN { self.reopened + 1 } else { 1 };
            self.news.reopened = self.reopened;
        }
        // Who has the home (a check of it, say) will let it go; it says nothing of the service.
        let waits_for_home = code == Some(HOME_IN_USE);
        self.news.failed_starts = match worker.ready {
            Some(_) => 0,
            None => self.news.failed_starts + u32::from(!waits_for_home),
        };
        let quick_deaths = quick_deaths_after(self.quick_deaths, worker.ready.map(|ready| ready.elapsed()));
        // That the database cannot be written is no such death: the next of these waits by itself.
        self.quick_deaths = if code == Some(START_AGAIN) { quick_deaths.min(self.quick_deaths) } else { quick_deaths };
        if self.news.failed_starts == FAILED_STARTS_MAX {
            return Some(WorkerEnded::Looping);
        }
        let pause = pause_after(self.news.failed_starts.max(self.quick_deaths));
        self.start_at = (Instant::now() + pause).max(worker.started + START_EVERY);
        None
    }
}

/// The same command line for another program.
fn command(program: &Path, handover: &Handover) -> Command {
    let mut arguments = std::env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments);
    handover.put_into(&mut command);
    command
}

/// Quick deaths with that of a worker that was ready for so long. One that was never ready says nothing of them.
fn quick_deaths_after(before: u32, ready_for: Option<Duration>) -> u32 {
    match ready_for {
        None => before,
        Some(ready_for) if ready_for < LASTS_FROM => before.saturating_add(1),
        Some(_) => 0,
    }
}

/// None after the first failed start or quick death, then twice as long each time.
fn pause_after(in_a_row: u32) -> Duration {
    match in_a_row {
        0 | 1 => Duration::ZERO,
        _ => PAUSE_FIRST.saturating_mul(1 << (in_a_row - 2).min(16)).min(PAUSE_MAX),
    }
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "neither exit code nor signal".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_deaths_in_a_row_cost_ever_more_time_and_a_worker_that_lasts_ends_the_row() {
        let quick = Some(Duration::from_secs(9));
        let deaths = [quick, quick, quick, None, quick, Some(LASTS_FROM), quick, quick];
        let mut count = 0;
        let pauses = deaths.map(|ready_for| {
            count = quick_deaths_after(count, ready_for);
            pause_after(count).as_millis()
        });
        assert_eq!(pauses, [0, 100, 200, 200, 400, 0, 0, 100]);
        assert_eq!(pause_after(u32::MAX), PAUSE_MAX);
    }

    #[test]
    fn the_first_failed_start_costs_no_time_and_later_ones_a_bounded_time() {
        let pauses: Vec<u128> = (0..FAILED_STARTS_MAX).map(|starts| pause_after(starts).as_millis()).collect();
        assert_eq!(pauses, [0, 0, 100, 200, 400, 800, 1600, 2000, 2000, 2000]);
    }
}
