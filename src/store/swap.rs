//! Putting one database in the place of another, so that a kill anywhere leaves the old or the new one, whole.
//!
//! ```text
//! db.restoring   being built; of no use after a kill
//! db.restored    built whole and synced; becomes db
//! db.superseded  has been replaced by one with the same rows; nobody needs it
//! ```

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Where a database is built that will replace this one.
pub fn building(database: &Path) -> PathBuf {
    beside(database, "restoring")
}

/// A place beside the database, of its name and another ending.
pub fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    database.with_file_name(name)
}

/// Puts what was built in the place of the database, which goes on under the name `kept`.
pub fn replace(database: &Path, kept: &Path) -> io::Result<()> {
    let built = beside(database, "restored");
    std::fs::rename(building(database), &built)?;
    sync_parent(database)?;
    std::fs::rename(database, kept)?;
    sync_parent(database)?;
    std::fs::rename(&built, database)?;
    sync_parent(database)
}

/// Puts what was built in the place of the database, which [`finish`] removes: the other has all of it.
pub fn supersede(database: &Path) -> io::Result<()> {
    replace(database, &beside(database, "superseded"))
}

/// Whether a kill came between the old database's going and the new one's coming; [`finish`] puts that right.
pub fn is_interrupted(database: &Path) -> bool {
    !database.exists() && beside(database, "restored").exists()
}

/// Finishes or undoes what a kill interrupted. Tells whether a database was put in its place.
pub fn finish(database: &Path) -> io::Result<bool> {
    let built = beside(database, "restored");
    remove_if_there(&building(database))?;
    let is_half_done = built.exists() && !database.exists();
    if is_half_done {
        std::fs::rename(&built, database)?;
        sync_parent(database)?;
    } else {
        // The old one had not been moved away yet, so it is the one that counts.
        remove_if_there(&built)?;
    }
    if database.exists() {
        remove_if_there(&beside(database, "superseded"))?;
    }
    Ok(is_half_done)
}

fn remove_if_there(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Syncs the directory that this is in: its name there survives a loss of power.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database_of(home: &Path, name: &str, content: &str) {
        std::fs::create_dir(home.join(name)).expect("made");
        std::fs::write(home.join(name).join("db"), content).expect("written");
    }

    fn content(home: &Path) -> String {
        std::fs::read_to_string(home.join("db").join("db")).expect("readable")
    }

    #[test]
    fn a_kill_anywhere_leaves_the_old_or_the_new_database() {
        // Where a kill can leave a replacement, and what is there afterwards.
        for (old, building, built, superseded, expected) in [
            (true, true, false, false, "old"),
            (true, false, true, false, "old"),
            (false, false, true, false, "new"),
            (false, false, true, true, "new"),
            (true, false, false, true, "old"),
            (true, false, false, false, "old"),
        ] {
            let home = tempfile::tempdir().expect("a directory");
            let names = [
                (old, "db", "old"),
                (building, "db.restoring", "half"),
                (built, "db.restored", "new"),
                (superseded, "db.superseded", "older"),
            ];
            for (there, name, text) in names {
                if there {
                    database_of(home.path(), name, text);
                }
            }
            assert_eq!(is_interrupted(&home.path().join("db")), !old, "what keeps a command from saying that there is no home");
            assert_eq!(finish(&home.path().join("db")).expect("finished"), expected == "new");
            assert_eq!(content(home.path()), expected);
            assert_eq!(std::fs::read_dir(home.path()).expect("readable").count(), 1, "leftovers");
        }
    }

    #[test]
    fn a_replaced_database_is_kept() {
        let home = tempfile::tempdir().expect("a directory");
        database_of(home.path(), "db", "old");
        database_of(home.path(), "db.restoring", "new");
        replace(&home.path().join("db"), &home.path().join("db.before")).expect("replaced");
        assert_eq!(content(home.path()), "new");
        assert_eq!(std::fs::read_to_string(home.path().join("db.before/db")).expect("kept"), "old");
    }
}
