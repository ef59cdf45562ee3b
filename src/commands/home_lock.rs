//! One process per home: a lock file that names its holder.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError, set_permissions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::Mode;

use crate::config::Home;
use crate::store::swap;

/// A killed process holds its home until the kernel has taken it apart, which takes a moment.
const HOLDER_DIES_WITHIN: Duration = Duration::from_secs(1);
const TRY_EVERY: Duration = Duration::from_millis(5);

/// Another process has the home.
#[derive(Debug, thiserror::Error)]
#[error("the home {home} is in use by the supernode with process id {pid}: stop that one, or choose another with --home-dir")]
pub struct HomeInUse {
    home: String,
    pid: String,
}

impl HomeInUse {
    fn by(home: &Home, lock: &mut File) -> Self {
        let mut pid = String::new();
        let _ = lock.read_to_string(&mut pid);
        let pid = if pid.trim().is_empty() { "(unknown)".to_owned() } else { pid.trim().to_owned() };
        Self { home: home.path().display().to_string(), pid }
    }
}

/// Says what a home is where something else is in its place.
pub fn require_no_file(home: &Home) -> anyhow::Result<()> {
    match home.path().metadata() {
        Ok(found) if !found.is_dir() => {
            bail!("the home {} is not a directory: name another with --home-dir", home.path().display())
        }
        _ => Ok(()),
    }
}

/// Who has the home, if anybody has; changes nothing.
pub fn holder_of(home: &Home) -> Option<HomeInUse> {
    let mut file = File::open(home.lock()).ok()?;
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)).then(|| HomeInUse::by(home, &mut file))
}

/// Holds a home for as long as it lives; the kernel lets go of it when the process dies, however it dies.
#[derive(Debug)]
pub struct HomeLock {
    _file: File,
}

impl HomeLock {
    /// Takes a home, which is made if it is not there. Waits a moment for a holder that is dying.
    pub fn take(home: &Home) -> anyhow::Result<Self> {
        Self::take_within(home, HOLDER_DIES_WITHIN)
    }

    /// The same without waiting: for commands that ask whoever has the home.
    pub fn take_at_once(home: &Home) -> anyhow::Result<Self> {
        Self::take_within(home, Duration::ZERO)
    }

    fn take_within(home: &Home, wait: Duration) -> anyhow::Result<Self> {
        // Whatever is made from here on is this user's alone: the database has credentials.
        rustix::process::umask(Mode::RWXG | Mode::RWXO);
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700);
        require_no_file(home)?;
        let is_new = !home.path().exists();
        private.create(home.path()).with_context(|| format!("cannot make the directory {}", home.path().display()))?;
        if is_new {
            // What is synced in a home whose own name is lost with the power is lost with it.
            swap::sync_parent(home.path()).context("cannot sync the directory that the home is in")?;
        }
        let path = home.lock();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let deadline = Instant::now() + wait;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(TRY_EVERY),
                Err(TryLockError::WouldBlock) => return Err(HomeInUse::by(home, &mut file).into()),
                Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
            }
        }
        if swap::finish(&home.database())
            .context("cannot finish putting one database in the place of another, which was interrupted")?
        {
            tracing::warn!("finished putting one database in the place of another, which was interrupted");
        }
        private.create(home.database()).with_context(|| format!("cannot make {}", home.database().display()))?;
        // The database holds credentials; it may have been made by hand, or by a program that cared less.
        let mode = Permissions::from_mode(0o700);
        set_permissions(home.database(), mode).with_context(|| format!("cannot protect {}", home.database().display()))?;
        // Who holds it is told to those who ask; on a full disk it cannot be, and the home is held all the same.
        if let Err(error) = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id())) {
            tracing::warn!(%error, path = %path.display(), "the home's lock does not name this process");
        }
        Ok(Self { _file: file })
    }
}
