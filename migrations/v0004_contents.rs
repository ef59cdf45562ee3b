//! Schema 4: small sources lie in the database.
//!
//! A tree of its own, which a program of schema 3 would neither read, put into its snapshots nor remove.

pub fn run(db: &sled::Db) -> Result<(), sled::Error> {
    db.open_tree("contents").map(drop)
}
