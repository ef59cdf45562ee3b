//! A log file that makes room for itself.
//!
//! `PATH` is written; when it is full it becomes `PATH.1`, what was `PATH.1` becomes `PATH.2`, and so on. What cannot be
//! rotated is written on: a log that is too long is better than none.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Logs may tell who fetches what.
const MODE: u32 = 0o600;

/// Where a log goes, and how much of it is kept.
#[derive(Clone, Debug)]
pub struct LogFile {
    pub path: PathBuf,
    pub size_max_bytes: u64,
    /// Rotated files; 0 for all.
    pub backups_max: u32,
    /// Of rotated files; zero for any.
    pub age_max: Duration,
}

/// The configuration names a log file that there cannot be.
#[derive(Debug, thiserror::Error)]
#[error(
    "logConfig.path is {}, which cannot be opened; let it be made there, with room on its disk, or name another file with --log-path",
    path.display()
)]
pub struct NoLogFile {
    path: PathBuf,
    source: io::Error,
}

/// The file that is written.
#[derive(Debug)]
pub struct RollingFile {
    limits: LogFile,
    file: File,
    length: u64,
}

impl RollingFile {
    /// Goes on where an earlier process ended. The directory is made if it is not there.
    pub fn open(limits: LogFile) -> Result<Self, NoLogFile> {
        match make(&limits.path) {
            Ok((file, length)) => Ok(Self { limits, file, length }),
            Err(source) => Err(NoLogFile { path: limits.path, source }),
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let backups = backups(&self.limits.path)?;
        // From the oldest on, so that none is overwritten.
        for &number in backups.iter().rev() {
            let from = backup(&self.limits.path, number);
            let too_many = self.limits.backups_max != 0 && number >= self.limits.backups_max;
            if too_many || is_older(&from, self.limits.age_max) {
                fs::remove_file(from)?;
            } else {
                fs::rename(from, backup(&self.limits.path, number + 1))?;
            }
        }
        fs::rename(&self.limits.path, backup(&self.limits.path, 1))?;
        self.file = open(&self.limits.path)?;
        self.length = 0;
        Ok(())
    }
}

impl Write for RollingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let after = self.length.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if self.length > 0 && after > self.limits.size_max_bytes && self.rotate().is_err() {
            // Tried again when as much has been written as is kept in a file.
            self.length = 0;
        }
        let written = self.file.write(bytes)?;
        self.length += u64::try_from(written).unwrap_or(u64::MAX);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn make(path: &Path) -> io::Result<(File, u64)> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let file = open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).mode(MODE).open(path)?;
    // It may have been made by others, who cared less; what is not a file of ours (a terminal, /dev/null) is left as it is.
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    Ok(file)
}

fn backup(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The numbers of the rotated files, ascending.
fn backups(path: &Path) -> io::Result<Vec<u32>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        numbers.extend(name.to_string_lossy().strip_prefix(&prefix).and_then(|number| number.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    numbers.retain(|number| (1..u32::MAX).contains(number));
    Ok(numbers)
}

fn is_older(path: &Path, age_max: Duration) -> bool {
    let age = fs::metadata(path).and_then(|metadata| metadata.modified()).ok().and_then(|modified| modified.elapsed().ok());
    !age_max.is_zero() && age.is_some_and(|age| age > age_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(directory: &Path, backups_max: u32) -> LogFile {
        LogFile { path: directory.join("logs/supernode.log"), size_max_bytes: 10, backups_max, age_max: Duration::ZERO }
    }

    fn write_lines(limits: &LogFile, lines: std::ops::Range<u32>) {
        let mut file = RollingFile::open(limits.clone()).expect("it can be opened");
        for line in lines {
            writeln!(file, "line {line}").expect("it can be written");
        }
    }

    fn kept(limits: &LogFile) -> Vec<String> {
        let mut paths = vec![limits.path.clone()];
        paths.extend(backups(&limits.path).expect("a readable directory").into_iter().map(|number| backup(&limits.path, number)));
        paths.into_iter().map(|path| fs::read_to_string(path).expect("readable")).collect()
    }

    #[test]
    fn a_full_file_makes_room_and_the_oldest_go() {
        let directory = tempfile::tempdir().expect("a directory");
        let limits = limits(directory.path(), 2);
        write_lines(&limits, 0..3);
        // A second process goes on where the first one ended.
        write_lines(&limits, 3..5);
        assert_eq!(kept(&limits), ["line 4\n", "line 3\n", "line 2\n"]);
    }

    #[test]
    fn all_are_kept_where_no_number_is_given_and_old_ones_go_by_age() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut limits = limits(directory.path(), 0);
        write_lines(&limits, 0..5);
        assert_eq!(kept(&limits).len(), 5);
        limits.age_max = Duration::from_hours(24);
        let old = File::options().write(true).open(backup(&limits.path, 3)).expect("it is there");
        old.set_modified(std::time::SystemTime::now() - Duration::from_hours(48)).expect("times can be set");
        write_lines(&limits, 5..6);
        assert_eq!(kept(&limits).len(), 5, "one more, and one less");
        assert!(!kept(&limits).contains(&"line 1\n".to_owned()));
    }

    #[test]
    fn the_file_is_its_owners_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let limits = limits(directory.path(), 1);
        fs::create_dir_all(directory.path().join("logs")).expect("it can be made");
        fs::write(&limits.path, "").expect("it can be written");
        fs::set_permissions(&limits.path, Permissions::from_mode(0o644)).expect("it is ours");
        write_lines(&limits, 0..3);
        for path in [limits.path.clone(), backup(&limits.path, 1)] {
            assert_eq!(fs::metadata(path).expect("it is there").permissions().mode() & 0o777, MODE);
        }
    }
}
