//! A service under its supervisor: a copy of the binary, so that it can be replaced by another.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::eventually;
use super::service::{binary, command_of};

/// How long an orderly stop may take.
const STOPS_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A supervisor and its worker on a home of their own, which goes with them.
#[derive(Debug)]
pub struct Supervised {
    directory: TempDir,
    supervisor: Child,
    worker: Worker,
}

/// What `serve.json` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    pub pid: i32,
    pub supervisor: Option<i32>,
    pub api: SocketAddr,
    pub download: SocketAddr,
}

impl Supervised {
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// Starts with something more in its command line or environment.
    pub async fn start_with(prepare: impl FnOnce(&mut Command)) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut command = command_in(directory.path());
        prepare(&mut command);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let unknown = Worker { pid: 0, supervisor: None, api: nowhere, download: nowhere };
        let supervisor = command.spawn().expect("the binary can be run");
        // From here on it ends with this, whatever becomes of the start.
        let mut supervised = Self { directory, supervisor, worker: unknown };
        supervised.next_worker().await;
        let Worker { pid, supervisor, .. } = supervised.worker;
        assert_eq!(supervisor.unwrap_or(pid), supervised.supervisor().as_raw_pid(), "{:?}", supervised.worker);
        supervised
    }

    pub const fn api(&self) -> SocketAddr {
        self.worker.api
    }

    pub const fn download(&self) -> SocketAddr {
        self.worker.download
    }

    pub fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    pub fn configuration(&self) -> PathBuf {
        self.directory.path().join("supernode.yml")
    }

    /// The program that the service was started from.
    pub fn program(&self) -> PathBuf {
        self.directory.path().join("supernode")
    }

    pub fn supervisor(&self) -> Pid {
        Pid::from_child(&self.supervisor)
    }

    pub fn worker(&self) -> Pid {
        Pid::from_raw(self.worker.pid).expect("no process has the id 0")
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.directory.path().join("service.log")).expect("readable")).into_owned()
    }

    /// Kills the worker, with no chance to do anything more.
    pub fn kill_worker(&self) {
        kill_process(self.worker(), Signal::KILL).expect("the worker is ours to signal");
    }

    /// Kills one worker after the other as soon as its supervisor was told that it serves. The last is not followed yet.
    pub async fn kill_workers(&mut self, deaths: u32) {
        for death in 1..=deaths {
            // A worker reads its configuration again only after it has told that.
            let reloads = || self.log().matches("configuration is reloaded").count();
            let before = reloads();
            self.signal(Signal::HUP);
            eventually("the worker has heard", async || (reloads() > before).then_some(())).await;
            self.kill_worker();
            if death < deaths {
                self.next_worker().await;
            }
        }
    }

    /// Waits for a worker that follows the last one that this has seen, and serves.
    pub async fn next_worker(&mut self) {
        let before = self.worker.pid;
        self.worker = wait_for_worker(self.directory.path(), |worker| worker.pid != before).await;
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.supervisor(), signal).expect("the supervisor is ours to signal");
    }

    /// Puts another program in the place of the service's, as a package manager does.
    pub fn replace_program(&self, program: &Path) {
        install(program, &self.program());
    }

    /// Waits for the supervisor's end.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + STOPS_WITHIN;
        loop {
            if let Some(status) = self.supervisor.try_wait().expect("the supervisor is ours to wait for") {
                return status;
            }
            assert!(Instant::now() < deadline, "not ended within {STOPS_WITHIN:?}; its log:\n{}", self.log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // It may have ended already; its worker ends with it.
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
        if std::thread::panicking() {
            eprintln!("the log of the service:\n{}", self.log());
        }
    }
}

/// A command that serves under a supervisor in this directory, on ports that are free.
pub fn command_in(directory: &Path) -> Command {
    let (program, home) = (directory.join("supernode"), directory.join("home"));
    install(Path::new(binary()), &program);
    let configuration = directory.join("supernode.yml");
    std::fs::write(&configuration, "").expect("the configuration can be written");
    let mut command = command_of(&program);
    command.arg("serve").arg("--config").arg(configuration).arg("--home-dir").arg(home);
    command.args(["--advertise-ip", "127.0.0.1", "--bind", "127.0.0.1", "--port", "0", "--download-port", "0"]);
    let log: File =
        OpenOptions::new().create(true).append(true).open(directory.join("service.log")).expect("the log can be written");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log can be shared")).stderr(log);
    command
}

/// Beside and renamed: a program that runs cannot be written. Nor can one be run that is open for writing, as what this
/// process writes is for a moment in whatever other tests start meanwhile: so another process copies it.
fn install(program: &Path, place: &Path) {
    let beside = place.with_extension("new");
    let copied = Command::new("cp").arg(program).arg(&beside).status().expect("cp can be run");
    assert!(copied.success(), "the program can be copied");
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755)).expect("it can be made a program");
    std::fs::rename(&beside, place).expect("it can be put in place");
}

async fn wait_for_worker(directory: &Path, is_it: impl Fn(&Worker) -> bool) -> Worker {
    let addresses = directory.join("home/serve.json");
    eventually("a worker serves", async || read(&addresses).filter(|worker| is_it(worker))).await
}

fn read(addresses: &Path) -> Option<Worker> {
    let text = std::fs::read_to_string(addresses).ok()?;
    let told: Value = serde_json::from_str(&text).expect("serve.json is written whole or not at all");
    let address = |name: &str| told[name].as_str().and_then(|address| address.parse().ok()).expect("an address");
    let pid = |name: &str| told[name].as_i64().and_then(|pid| i32::try_from(pid).ok());
    Some(Worker { pid: pid("pid")?, supervisor: pid("supervisor"), api: address("api"), download: address("download") })
}
