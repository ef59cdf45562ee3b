//! Faults under the real binary: kills at any step of IO, errors of chosen calls, and losses of power.
//!
//! A library in C (`shim.c`, built here when it is first needed) stands between the binary and libc. It sees every call
//! that changes a file below one home. What it does is said in a file that both have mapped, so it can be changed while the
//! service runs:
//!
//! ```ignore
//! let faults = Faults::beside(directory, &home);      // the home's path, without symbolic links
//! let mut command = serve_command(&home);
//! faults.put_under(&mut command);
//! // … start, wait until it serves, then:
//! faults.fail(WRITE | SYNC, "/pieces/", Errno::NOSPC, ALWAYS);
//! // … look at what the service makes of that; `faults.failed()` tells how many calls failed
//! faults.heal();
//! faults.kill_at(faults.steps() + 7, Moment::Half);   // the seventh step from now on is half a write, and the last
//! ```
//!
//! A [`power`] loss is made of a dead process: with a journal, the library notes what was not synced, and some of that is
//! taken back. This module stands alone, for any test that needs faults.

pub mod power;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::io::Errno;

/// Opens of files and directories.
pub const OPEN: u32 = 1;
pub const READ: u32 = 2;
pub const WRITE: u32 = 4;
pub const TRUNCATE: u32 = 8;
/// `fsync`, `fdatasync`, `sync_file_range`.
pub const SYNC: u32 = 16;
pub const RENAME: u32 = 32;
pub const UNLINK: u32 = 64;
pub const MKDIR: u32 = 128;
/// Opens that make a file.
pub const CREATE: u32 = 256;
pub const LINK: u32 = 512;

/// As often as the call is made.
pub const ALWAYS: i64 = -1;

const CONTROL_BYTES: usize = 4096;
const STEPS_AT: u64 = 8;
const KILL_AT: u64 = 16;
const MOMENT_AT: u64 = 24;
const SEED_AT: u64 = 32;
const FIRED_AT: u64 = 40;
const FAILED_AT: u64 = 48;
const JOURNAL_BYTES_AT: u64 = 56;
const FREE_AND_ONE_AT: u64 = 72;
const LAST_AT: u64 = 256;
const LAST_BYTES: usize = 256;
const RULES_AT: u64 = 512;
const RULE_BYTES: usize = 128;
const RULES: u64 = 8;
const PART_MAX_BYTES: usize = 111;

/// How the process dies at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The call is not made.
    Before = 1,
    /// It is made, and does not return.
    After = 2,
    /// Some bytes of a write, of any number; any other call is not made.
    Half = 3,
}

/// What is under the binary on one home, across all its processes.
#[derive(Debug)]
pub struct Faults {
    home: PathBuf,
    control_path: PathBuf,
    control: File,
    journal: Option<PathBuf>,
}

impl Faults {
    /// Kills and errors. The directory is not below the home.
    pub fn beside(directory: &Path, home: &Path) -> Self {
        let control_path = directory.join("faults");
        let mut options = OpenOptions::new();
        let control = options.read(true).write(true).create(true).truncate(true).open(&control_path);
        let control = control.expect("the control file can be made");
        control.set_len(CONTROL_BYTES as u64).expect("the control file can grow");
        Self { home: home.to_owned(), control_path, control, journal: None }
    }

    /// The same, with what losses of power need: much slower.
    pub fn with_power(directory: &Path, home: &Path) -> Self {
        let journal = directory.join("journal");
        std::fs::create_dir_all(journal.join("saved")).expect("the journal's directory can be made");
        Self { journal: Some(journal), ..Self::beside(directory, home) }
    }

    /// Puts this under a process that is to be started.
    pub fn put_under(&self, command: &mut Command) {
        command.env("LD_PRELOAD", library()).env("FAULT_HOME", &self.home).env("FAULT_CONTROL", &self.control_path);
        if let Some(journal) = &self.journal {
            command.env("FAULT_JOURNAL", journal);
        }
    }

    /// Calls so far that change something.
    pub fn steps(&self) -> u64 {
        self.number(STEPS_AT)
    }

    /// Kills whoever takes this step, or the first one after it.
    pub fn kill_at(&self, step: u64, moment: Moment) {
        self.set(MOMENT_AT, moment as u64);
        self.set(SEED_AT, step);
        self.set(FIRED_AT, 0);
        self.set(KILL_AT, step);
    }

    /// Kills nobody from now on. Tells whom it killed before.
    pub fn spare(&self) -> Option<(u64, String)> {
        self.set(KILL_AT, 0);
        let fired = self.fired();
        self.set(FIRED_AT, 0);
        fired
    }

    /// The step at which a process was killed, and what it was.
    pub fn fired(&self) -> Option<(u64, String)> {
        let step = self.number(FIRED_AT);
        let mut last = [0; LAST_BYTES];
        self.control.read_exact_at(&mut last, LAST_AT).expect("the control file can be read");
        let text = last.split(|byte| *byte == 0).next().unwrap_or_default();
        (step > 0).then(|| (step, String::from_utf8_lossy(text).into_owned()))
    }

    /// Has these calls fail on files whose path has this part, so many times, until [`Self::heal`].
    pub fn fail(&self, operations: u32, path_part: &str, error: Errno, times: i64) {
        assert!(path_part.len() <= PART_MAX_BYTES, "{path_part} is too long");
        let places = (0..RULES).map(|rule| RULES_AT + rule * RULE_BYTES as u64);
        let free = places.into_iter().find(|place| self.number(*place) & u64::from(u32::MAX) == 0);
        let place = free.unwrap_or_else(|| panic!("no more than {RULES} rules at once"));
        let mut rule = [0; RULE_BYTES];
        rule[4..8].copy_from_slice(&operations.to_ne_bytes());
        rule[8..16].copy_from_slice(&times.to_ne_bytes());
        rule[16..16 + path_part.len()].copy_from_slice(path_part.as_bytes());
        self.write(place, &rule);
        // The error last: with it, the rule is in use.
        let error = u32::try_from(error.raw_os_error()).expect("errors are positive");
        self.write(place, &error.to_ne_bytes());
    }

    /// Nothing fails from now on.
    pub fn heal(&self) {
        (0..RULES).for_each(|rule| self.write(RULES_AT + rule * RULE_BYTES as u64, &0_u32.to_ne_bytes()));
    }

    /// Has the disk say that it has so many bytes left, whatever is written and removed; `None`: what it has.
    pub fn leave_free(&self, bytes: Option<u64>) {
        self.set(FREE_AND_ONE_AT, bytes.map_or(0, |bytes| bytes + 1));
    }

    /// Calls that failed so far because they were to.
    pub fn failed(&self) -> u64 {
        self.number(FAILED_AT)
    }

    fn number(&self, place: u64) -> u64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, place).expect("the control file can be read");
        u64::from_ne_bytes(bytes)
    }

    fn set(&self, place: u64, number: u64) {
        self.write(place, &number.to_ne_bytes());
    }

    fn write(&self, place: u64, bytes: &[u8]) {
        self.control.write_all_at(bytes, place).expect("the control file can be written");
    }
}

/// The library, built once by each test program that needs it.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/fault/shim.c");
        let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fault-shim-{}.so", env!("CARGO_CRATE_NAME")));
        // Another run of the same tests may have it loaded.
        let building = built.with_extension(format!("{}.so", std::process::id()));
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O2", "-Wall", "-fvisibility=hidden", "-o"]).arg(&building).arg(&source);
        let output = compiler.args(["-ldl", "-pthread"]).output().expect("a C compiler is there, as it is to build the crate");
        assert!(output.status.success(), "the fault library does not build:\n{}", String::from_utf8_lossy(&output.stderr));
        std::fs::rename(&building, &built).expect("the library can be put in its place");
        built
    })
}
