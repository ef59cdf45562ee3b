//! Schema 3: there are preheats.
//!
//! A tree of its own, which a program of schema 2 would neither put into its snapshots nor restore.

pub fn run(db: &sled::Db) -> Result<(), sled::Error> {
    db.open_tree("preheats").map(drop)
}
