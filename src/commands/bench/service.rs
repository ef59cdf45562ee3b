//! The service that is measured: this executable, as a process of its own.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};

use crate::config::SETTINGS;

/// How long it may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A running service; stopped and its home removed when dropped.
#[derive(Debug)]
pub struct Service {
    process: Child,
    home: PathBuf,
    flags: Vec<String>,
    pub api: String,
    pub download: String,
}

impl Service {
    pub async fn start(flags: &[&str]) -> anyhow::Result<Self> {
        let home = std::env::temp_dir().join(format!("supernode-bench-{}", std::process::id()));
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let process = spawn(&home, &flags)?;
        let mut service = Self { process, home, flags, api: String::new(), download: String::new() };
        service.wait_until_serving().await?;
        Ok(service)
    }

    /// Ends it as a restart does, and starts it again on the same home.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        rustix::process::kill_process(Pid::from_child(&self.process), Signal::TERM)?;
        let deadline = Instant::now() + ENDS_WITHIN;
        while self.process.try_wait()?.is_none() {
            anyhow::ensure!(Instant::now() < deadline, "the service did not end within {ENDS_WITHIN:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // That of the process before says where nobody is any more.
        std::fs::remove_file(self.addresses_path()).or_else(|error| match error.kind() {
            ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        self.process = spawn(&self.home, &self.flags)?;
        self.wait_until_serving().await
    }

    async fn wait_until_serving(&mut self) -> anyhow::Result<()> {
        for _ in 0..200 {
            if let Ok(text) = std::fs::read_to_string(self.addresses_path()) {
                let addresses: serde_json::Value = serde_json::from_str(&text)?;
                let text =
                    |key: &str| addresses[key].as_str().map(str::to_owned).with_context(|| format!("serve.json has no {key}"));
                (self.api, self.download) = (text("api")?, text("download")?);
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        bail!("the service did not come up in 10 s")
    }

    fn addresses_path(&self) -> PathBuf {
        self.home.join("serve.json")
    }

    /// Processor time used so far.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = self.proc_file("stat")?;
        // The command's name is in parentheses and may hold spaces: fields are counted after it.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| {
            fields.get(index).and_then(|field| field.parse::<u64>().ok()).context("cannot read the processor time")
        };
        let ticks_per_s = rustix::param::clock_ticks_per_second();
        Ok(Duration::from_secs_f64((ticks(11)? + ticks(12)?) as f64 / ticks_per_s as f64))
    }

    /// Memory that is resident now.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = self.proc_file("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("cannot read the resident memory")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// Descriptors that are open now.
    pub fn open_files(&self) -> anyhow::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.process.id()))?.count())
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    fn proc_file(&self, name: &str) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(format!("/proc/{}/{name}", self.process.id()))?)
    }
}

fn spawn(home: &Path, flags: &[String]) -> anyhow::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    // What is configured for a service of this machine is not for this one.
    for setting in SETTINGS {
        command.env_remove(setting.variable());
    }
    let fixed =
        ["serve", "--no-supervise", "--config", "/dev/null", "--bind", "127.0.0.1", "--port", "0", "--download-port", "0"];
    command.args(fixed).arg("--home-dir").arg(home).args(flags);
    Ok(command.env("SUPERNODE_LOG", "warn").stdin(Stdio::null()).spawn()?)
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.home);
    }
}
