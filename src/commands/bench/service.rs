//! The service that is measured: this executable, as a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::config::SETTINGS;

/// A running service; stopped and its home removed when dropped.
#[derive(Debug)]
pub struct Service {
    process: Child,
    home: PathBuf,
    pub api: String,
    pub download: String,
}

impl Service {
    pub async fn start(flags: &[&str]) -> anyhow::Result<Self> {
        let home = std::env::temp_dir().join(format!("supernode-bench-{}", std::process::id()));
        let mut command = Command::new(std::env::current_exe()?);
        // What is configured for a service of this machine is not for this one.
        for setting in SETTINGS {
            command.env_remove(setting.variable());
        }
        let process = command
            .args([
                "serve",
                "--no-supervise",
                "--config",
                "/dev/null",
                "--bind",
                "127.0.0.1",
                "--port",
                "0",
                "--download-port",
                "0",
                "--home-dir",
            ])
            .arg(&home)
            .args(flags)
            .env("SUPERNODE_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()?;
        let mut service = Self { process, home, api: String::new(), download: String::new() };
        for _ in 0..200 {
            if let Ok(text) = std::fs::read_to_string(service.home.join("serve.json")) {
                let addresses: serde_json::Value = serde_json::from_str(&text)?;
                let text =
                    |key: &str| addresses[key].as_str().map(str::to_owned).with_context(|| format!("serve.json has no {key}"));
                (service.api, service.download) = (text("api")?, text("download")?);
                return Ok(service);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the service did not come up in 10 s")
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

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.home);
    }
}
