//! How far a starting service is: counted where swarms are rebuilt, told by the log, `/ready` and the service manager.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The recovery of this process: there is one, before it serves.
pub static RECOVERY: Recovery =
    Recovery { tasks: AtomicUsize::new(0), of: AtomicUsize::new(0), hindered: AtomicBool::new(false) };

/// Tasks that are rebuilt, of all that are stored.
#[derive(Debug)]
pub struct Recovery {
    tasks: AtomicUsize,
    /// 0 while the database is being opened.
    of: AtomicUsize,
    /// The home could not be opened, and is tried again.
    hindered: AtomicBool,
}

impl Recovery {
    pub fn begin(&self, of: usize) {
        self.tasks.store(0, Ordering::Relaxed);
        self.of.store(of, Ordering::Relaxed);
        self.hindered.store(false, Ordering::Relaxed);
    }

    pub fn count(&self) {
        self.tasks.fetch_add(1, Ordering::Relaxed);
    }

    pub fn hinder(&self) {
        self.hindered.store(true, Ordering::Relaxed);
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.hindered.load(Ordering::Relaxed) {
            return f.write_str("recovering: the home cannot be opened now (the log says why), trying again");
        }
        match self.of.load(Ordering::Relaxed) {
            0 => f.write_str("recovering: opening the database"),
            of => write!(f, "recovering: {} of {of} tasks", self.tasks.load(Ordering::Relaxed)),
        }
    }
}
