//! The service on one home, with faults under it: started, left to die, and started again.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;
use tempfile::TempDir;

use crate::fault::Faults;
use crate::harness::dump::{Dump, output};
use crate::harness::service::{command, serve_command};
use crate::harness::supervised::Supervised;

/// How long a start, or the death of a process that was killed, may take.
const DEADLINE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(3);
const SIGKILL: i32 = 9;
/// Answers are held for a short time only: clients that wait load nothing.
const SETTINGS: [&str; 4] = ["--hold", "20ms", "--snapshot-interval", "0"];

/// Where a service can be asked.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub api: SocketAddr,
    pub download: SocketAddr,
}

/// How a start ended.
#[derive(Clone, Copy, Debug)]
pub enum Started {
    Serving(Addresses),
    Died(ExitStatus),
}

/// A home and who is on it.
#[derive(Debug)]
pub struct Stage {
    directory: TempDir,
    pub faults: Faults,
    child: Option<Child>,
    /// How much of the log is from before the last start.
    log_before: usize,
}

impl Stage {
    pub fn new(with_power: bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let real = directory.path().canonicalize().expect("it is there");
        let home = real.join("home");
        let faults = if with_power { Faults::with_power(&real, &home) } else { Faults::beside(&real, &home) };
        Self { directory, faults, child: None, log_before: 0 }
    }

    pub fn home(&self) -> PathBuf {
        self.directory.path().canonicalize().expect("it is there").join("home")
    }

    /// Starts the service, and waits until it serves or is dead.
    pub async fn start(&mut self) -> Started {
        self.start_with(&[]).await
    }

    /// The same with further arguments.
    pub async fn start_with(&mut self, arguments: &[&str]) -> Started {
        self.start_in(arguments, &[]).await
    }

    /// The same with further variables in its environment.
    pub async fn start_in(&mut self, arguments: &[&str], variables: &[(&str, &str)]) -> Started {
        assert!(self.child.is_none(), "one service at a time");
        self.log_before = self.log().len();
        let home = self.home();
        let mut command = serve_command(&home);
        command.args(["--port", "0", "--download-port", "0", "--bind", "127.0.0.1"]).args(SETTINGS).args(arguments);
        command.envs(variables.iter().copied());
        self.faults.put_under(&mut command);
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).expect("the log can be written");
        let errors = log.try_clone().expect("the log can be shared");
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().expect("the binary can be run");
        let pid = child.id();
        self.child = Some(child);
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.ended() {
                return Started::Died(status);
            }
            if let Some(addresses) = read_addresses(&home.join("serve.json"), pid) {
                return Started::Serving(addresses);
            }
            assert!(Instant::now() < deadline, "not serving after {DEADLINE:?}; its log:\n{}", self.log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Limits how large the service may make a file from now on, as `ulimit -f` would; `None` lifts the limit.
    pub fn limit_file_size(&self, bytes: Option<u64>) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().expect("a service runs"));
        let limit = Rlimit { current: bytes, maximum: getrlimit(Resource::Fsize).maximum };
        prlimit(Some(pid), Resource::Fsize, limit).expect("the service is ours to limit");
    }

    /// How the process ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("the service is ours to wait for")?;
        self.child = None;
        Some(status)
    }

    /// Waits for the process to end by itself, and kills it after this time.
    pub async fn let_die(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return status;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.kill()
    }

    pub fn kill(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a service runs");
        child.kill().expect("the service is ours to kill");
        child.wait().expect("the service is ours to wait for")
    }

    /// Asks the service to stop, and waits until it has.
    pub async fn terminate(&mut self) -> ExitStatus {
        let child = self.child.as_ref().expect("a service runs");
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the service is ours to signal");
        self.let_die(DEADLINE).await
    }

    /// What was logged since the last start.
    pub fn said(&self) -> String {
        self.log()[self.log_before..].to_owned()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("service.log")
    }

    /// A dump of the running service, over its control socket.
    pub async fn dump(&self) -> Dump {
        let text = ask_control(&self.home(), "GET", "/dump").await.expect("the control socket answers");
        Dump::parse(&text)
    }

    /// Runs one of the other commands on the home, and returns what it says.
    pub async fn run(&self, name: &str, arguments: &[&str]) -> Output {
        let mut command: Command = command();
        command.arg(name).arg("--home-dir").arg(self.home()).args(arguments);
        self.faults.put_under(&mut command);
        output(command).await
    }

    /// Keeps the directory of a stage that something was found on, and tells where it is.
    pub fn keep(&mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.directory.path().to_owned()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether a process was killed, rather than ended by itself.
pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(SIGKILL)
}

fn read_addresses(path: &Path, pid: u32) -> Option<Addresses> {
    // A file of the process before may have lost its content with the power.
    let told: Value = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
    let address = |name: &str| told[name].as_str().and_then(|text| text.parse().ok()).expect("an address");
    (told["pid"] == pid).then(|| Addresses { api: address("api"), download: address("download") })
}

/// Sends a request to the control socket of a home and returns the whole answer, or why there is none.
pub async fn ask_control(home: &Path, method: &str, target: &str) -> Result<String, String> {
    let asking = async {
        let stream = tokio::net::UnixStream::connect(home.join("control.sock")).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(target).header("host", "supernode").body(Full::new(Bytes::new()));
        let response =
            sender.send_request(request.map_err(|error| error.to_string())?).await.map_err(|error| error.to_string())?;
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        String::from_utf8(body.into()).map_err(|error| error.to_string())
    };
    tokio::time::timeout(DEADLINE, asking).await.map_err(|_| "no answer in time".to_owned())?
}

/// A supervisor and its worker, with faults under both.
pub async fn supervised() -> (Supervised, Faults) {
    let mut faults = None;
    let supervised = Supervised::start_with(|command| {
        let home = command.get_args().skip_while(|argument| *argument != "--home-dir").nth(1).map(PathBuf::from);
        let home = home.expect("a home is named");
        let under = Faults::beside(home.parent().expect("the home is in a directory"), &home);
        under.put_under(command);
        faults = Some(under);
    });
    (supervised.await, faults.expect("they were put under it"))
}
