//! Schema 1: the first one. Its trees exist from now on, empty.

/// Named here and not taken from the program: a released step never changes, whatever the program's trees become.
const TREES: [&str; 6] = ["sources", "tasks", "pieces", "peers", "clients", "progress"];

pub fn run(db: &sled::Db) -> Result<(), sled::Error> {
    for name in TREES {
        db.open_tree(name)?;
    }
    Ok(())
}
