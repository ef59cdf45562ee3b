//! The gate between the committer and a snapshot.
//!
//! A snapshot walks the trees while they are written. Beside it, the committer notes the key of everything it writes; the
//! snapshot reads each noted key again. What it has at the end, when it holds the gate and reads the last of them, is
//! exactly what is committed at that moment.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use sled::IVec;

use super::schema::Table;
use super::snapshot::SnapshotError;

/// Keys that may wait to be read again: some hundred bytes each. A snapshot that falls behind further gives up, for it
/// must cost neither answers nor memory.
const KEYS_MAX: usize = 500_000;
/// Keys that may be left for the end, when the gate is held while they are read.
const KEYS_AT_END_MAX: usize = 2_000;
/// How often the noted keys are read before the gate is taken, however many are left.
const ROUNDS_MAX: usize = 32;

/// Keys as the committer notes them.
pub type Keys = HashSet<(Table, IVec)>;

/// What the gate guards: the noted keys, while there is a snapshot.
#[derive(Debug, Default)]
pub struct Recorder {
    keys: Mutex<Option<Keys>>,
    /// A window was not written whole. Changes under the gate alone.
    torn: AtomicBool,
}

/// The gate, held.
pub struct Gate<'a> {
    keys: MutexGuard<'a, Option<Keys>>,
    torn: &'a AtomicBool,
    noted: bool,
}

/// A window that was not written whole must not become part of a snapshot, or of another database: without this note it ends
/// the recording, and there is no pause any more.
impl Drop for Gate<'_> {
    fn drop(&mut self) {
        if !self.noted {
            *self.keys = None;
            self.torn.store(true, Ordering::Relaxed);
        }
    }
}

impl Gate<'_> {
    pub fn wants_keys(&self) -> bool {
        self.keys.is_some()
    }

    pub fn note(&mut self, written: Vec<(Table, IVec)>) {
        self.noted = true;
        let Some(keys) = &mut *self.keys else { return };
        keys.extend(written);
        if keys.len() > KEYS_MAX {
            // The snapshot finds no keys where its recording was, and gives up.
            *self.keys = None;
        }
    }
}

impl Recorder {
    /// Held by the committer while it writes a window.
    pub fn gate(&self) -> Gate<'_> {
        Gate { keys: self.keys.lock(), torn: &self.torn, noted: false }
    }

    /// Keeps the committer from writing for as long as what is returned lives; `None` once it has failed to.
    pub fn pause(&self) -> Option<MutexGuard<'_, Option<Keys>>> {
        let paused = self.keys.lock();
        (!self.torn.load(Ordering::Relaxed)).then_some(paused)
    }

    pub fn begin(&self) -> Result<Recording<'_>, SnapshotError> {
        let mut keys = self.keys.lock();
        if keys.is_some() {
            return Err(SnapshotError::Underway);
        }
        // Between two windows: every window is either wholly in the trees now, or will be noted.
        *keys = Some(Keys::new());
        Ok(Recording { recorder: self })
    }
}

/// Notes keys for as long as it lives.
#[derive(Debug)]
pub struct Recording<'a> {
    recorder: &'a Recorder,
}

impl Recording<'_> {
    /// What was noted since the last time.
    pub fn take(&self) -> Result<Keys, SnapshotError> {
        let mut keys = self.recorder.keys.lock();
        keys.as_mut().map(std::mem::take).ok_or(SnapshotError::FellBehind)
    }

    /// Reads what is noted until hardly anything is left, and the rest while nothing can be written. Tells for how long.
    pub fn finish(self, mut read: impl FnMut(Keys) -> Result<(), SnapshotError>) -> Result<Duration, SnapshotError> {
        for _ in 0..ROUNDS_MAX {
            let keys = self.take()?;
            let enough = keys.len() <= KEYS_AT_END_MAX;
            read(keys)?;
            if enough {
                break;
            }
        }
        let mut keys = self.recorder.keys.lock();
        let began = Instant::now();
        let rest = keys.take().ok_or(SnapshotError::FellBehind)?;
        // Reads, and what it puts out goes to memory and the page cache alone: nobody waits here for a disk.
        read(rest)?;
        Ok(began.elapsed())
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        *self.recorder.keys.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_window_that_was_not_written_whole_nothing_is_copied() {
        let recorder = Recorder::default();
        recorder.gate().note(Vec::new());
        assert!(recorder.pause().is_some());
        // The committer tells that it has failed only after this.
        drop(recorder.gate());
        assert!(recorder.pause().is_none());
    }
}
