//! The files of a home directory.

use std::path::{Path, PathBuf};

/// The files of a home directory.
#[derive(Clone, Debug)]
pub struct Home(PathBuf);

impl Home {
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn database(&self) -> PathBuf {
        self.0.join("db")
    }

    /// Snapshots, unless they are asked for elsewhere.
    pub fn snapshots(&self) -> PathBuf {
        self.0.join("snapshots")
    }

    pub fn pieces(&self) -> PathBuf {
        self.0.join("pieces")
    }

    /// Held by the service that runs here; names its process.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Where scripts find the addresses of a running service.
    pub fn addresses(&self) -> PathBuf {
        self.0.join("serve.json")
    }

    /// Where commands reach a running service.
    pub fn control_socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }
}
