//! The service under test: the real binary, started, killed and started again on one home.

use std::fs::{File, OpenOptions};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::dump::Dump;

/// How long a start or an orderly stop may take.
const DEADLINE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Where inherited descriptors begin (`sd_listen_fds(3)`).
const LISTEN_FDS_START: RawFd = 3;
/// Descriptors that are parked here cannot be in the way of those that are handed over.
const PARKING_START: RawFd = 64;
/// What would send the service's requests elsewhere than to a source on loopback, or change what it takes for given.
const ENVIRONMENT_REMOVED: [&str; 13] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "_SUPERNODE_HANDOVER",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
];

pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_supernode")
}

/// A service on a home of its own, which goes with it.
#[derive(Debug)]
pub struct Service {
    directory: TempDir,
    sockets: Option<Sockets>,
    child: Child,
    addresses: Addresses,
}

/// Listening sockets that outlive the process which accepts from them: a client meets silence or a reset, never a refusal.
#[derive(Debug)]
struct Sockets {
    api: TcpListener,
    download: TcpListener,
}

impl Sockets {
    fn bind() -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        Self { api: bind(), download: bind() }
    }
}

#[derive(Clone, Copy, Debug)]
struct Addresses {
    api: SocketAddr,
    download: SocketAddr,
}

impl Service {
    /// Starts on ports that the service picks itself; a restart picks others.
    pub async fn start() -> Self {
        Self::start_with(None, "").await
    }

    /// Starts with this text as its configuration file.
    pub async fn start_configured(configuration: &str) -> Self {
        Self::start_with(None, configuration).await
    }

    /// Starts on sockets that stay open across kills.
    pub async fn start_on_held_sockets() -> Self {
        Self::start_configured_on_held_sockets("").await
    }

    /// Starts with this text as its configuration file, on sockets that stay open across kills.
    pub async fn start_configured_on_held_sockets(configuration: &str) -> Self {
        Self::start_with(Some(Sockets::bind()), configuration).await
    }

    async fn start_with(sockets: Option<Sockets>, configuration: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        configure(directory.path(), configuration);
        let (child, addresses) = spawn(directory.path(), sockets.as_ref()).await;
        Self { directory, sockets, child, addresses }
    }

    pub const fn api(&self) -> SocketAddr {
        self.addresses.api
    }

    pub const fn download(&self) -> SocketAddr {
        self.addresses.download
    }

    pub fn home(&self) -> PathBuf {
        home_in(self.directory.path())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that the service and its predecessors printed.
    pub fn log(&self) -> String {
        read_log(self.directory.path())
    }

    pub async fn dump(&self) -> Dump {
        Dump::of(&self.home()).await
    }

    /// Changes the configuration file, and tells the service.
    pub fn reconfigure(&self, configuration: &str) {
        configure(self.directory.path(), configuration);
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("the service is ours to signal");
    }

    /// Changes the configuration file, for the next start.
    pub fn configure(&self, configuration: &str) {
        configure(self.directory.path(), configuration);
    }

    /// Ends the process with no chance to do anything more. It is gone when this returns.
    pub fn kill9(&mut self) {
        self.child.kill().expect("the service is ours to kill");
        self.child.wait().expect("the service is ours to wait for");
    }

    /// Asks the service to stop, and waits until it has.
    pub async fn terminate(&mut self) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("the service is ours to signal");
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the service is ours to wait for") {
                return status;
            }
            assert!(Instant::now() < deadline, "not stopped within {DEADLINE:?} of SIGTERM; its log:\n{}", self.log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Starts again after the end of the process before, on the same home and, if they are held, the same sockets.
    pub async fn restart(&mut self) {
        assert!(self.child.try_wait().is_ok_and(|ended| ended.is_some()), "a service that runs is started again");
        (self.child, self.addresses) = spawn(self.directory.path(), self.sockets.as_ref()).await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the log of the service:\n{}", self.log());
        }
    }
}

/// What to run on a home, without sockets that are handed over.
pub fn serve_command(home: &Path) -> Command {
    let mut command = command();
    // Whatever is configured for a service of this machine is not for this one.
    command.args(["serve", "--no-supervise", "--config", "/dev/null", "--advertise-ip", "127.0.0.1", "--home-dir"]).arg(home);
    command
}

/// The binary, in an environment that says nothing to it.
pub fn command() -> Command {
    command_of(Path::new(binary()))
}

/// A copy of the binary, in such an environment.
pub fn command_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    let settings = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("SUPERNODE_"));
    for name in settings.chain(ENVIRONMENT_REMOVED.map(Into::into)) {
        command.env_remove(name);
    }
    command
}

fn configure(directory: &Path, configuration: &str) {
    std::fs::write(configuration_in(directory), configuration).expect("the configuration can be written");
}

async fn spawn(directory: &Path, sockets: Option<&Sockets>) -> (Child, Addresses) {
    let home = home_in(directory);
    let mut command = serve_command(&home);
    command.arg("--config").arg(configuration_in(directory));
    let configuration = std::fs::read_to_string(configuration_in(directory)).expect("it was written a moment ago");
    if !configuration.contains("GCThreshold") {
        // How full the disk of this machine is must not decide what a test sees.
        command.env("SUPERNODE_YOUNG_GC_THRESHOLD", "0").env("SUPERNODE_FULL_GC_THRESHOLD", "0");
    }
    match sockets {
        Some(sockets) => hand_over(&mut command, sockets),
        None => {
            command.args(["--port", "0", "--download-port", "0", "--bind", "127.0.0.1"]);
        }
    }
    let log = open_log(directory);
    let errors = log.try_clone().expect("the log can be shared");
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    let mut child = command.spawn().expect("the binary can be run");
    let addresses = wait_until_ready(directory, &home, &mut child).await;
    (child, addresses)
}

/// Makes the sockets descriptors 3 and 4 of the child, as a service manager would.
fn hand_over(command: &mut Command, sockets: &Sockets) {
    for (option, listener) in [("--port", &sockets.api), ("--download-port", &sockets.download)] {
        let address = listener.local_addr().expect("a bound socket has an address");
        command.arg(option).arg(address.port().to_string());
    }
    command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "api:download");
    let (api, download) = (sockets.api.as_raw_fd(), sockets.download.as_raw_fd());
    // SAFETY: the closure makes system calls only, which is all that is allowed between fork and exec.
    unsafe {
        command.pre_exec(move || install_descriptors([api, download]));
    }
}

/// Runs in the child. Both are parked first: either may itself be descriptor 3 or 4.
fn install_descriptors(descriptors: [RawFd; 2]) -> std::io::Result<()> {
    let park = |fd: RawFd| {
        // SAFETY: the parent holds the socket open, and the child has what the parent had.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        rustix::io::fcntl_dupfd_cloexec(socket, PARKING_START)
    };
    let parked = [park(descriptors[0])?, park(descriptors[1])?];
    for (target, socket) in (LISTEN_FDS_START..).zip(&parked) {
        // SAFETY: whatever the number stood for in the parent, in this child nobody uses it before exec.
        let mut target = unsafe { OwnedFd::from_raw_fd(target) };
        // The copy does not close on exec, unlike what it is a copy of.
        let copied = rustix::io::dup2(socket, &mut target);
        std::mem::forget(target);
        copied?;
    }
    Ok(())
}

/// Waits for the file that the service writes once it can be asked. One that a killed predecessor left has another pid.
async fn wait_until_ready(directory: &Path, home: &Path, child: &mut Child) -> Addresses {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(addresses) = read_addresses(&home.join("serve.json"), child.id()) {
            return addresses;
        }
        if let Some(status) = child.try_wait().expect("the service is ours to wait for") {
            panic!("the service ended with {status} instead of serving; its log:\n{}", read_log(directory));
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the service is not ready after {DEADLINE:?}; its log:\n{}", read_log(directory));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn read_addresses(path: &Path, pid: u32) -> Option<Addresses> {
    let text = std::fs::read_to_string(path).ok()?;
    let told: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("serve.json is written whole or not at all: {error}"));
    let address = |name: &str| {
        let address = told[name].as_str().and_then(|address| address.parse().ok());
        address.unwrap_or_else(|| panic!("serve.json has no address {name:?}: {told}"))
    };
    (told["pid"] == pid).then(|| Addresses { api: address("api"), download: address("download") })
}

fn home_in(directory: &Path) -> PathBuf {
    directory.join("home")
}

fn configuration_in(directory: &Path) -> PathBuf {
    directory.join("supernode.yml")
}

fn log_in(directory: &Path) -> PathBuf {
    directory.join("service.log")
}

fn open_log(directory: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(log_in(directory)).expect("the log can be written")
}

fn read_log(directory: &Path) -> String {
    let log = std::fs::read(log_in(directory)).expect("the log can be read");
    String::from_utf8_lossy(&log).into_owned()
}
