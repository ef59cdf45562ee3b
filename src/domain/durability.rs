//! What an acknowledgement survives.

/// What is promised of everything that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It survives the death of the process.
    Process,
    /// It survives a loss of power as well: the database file is synced.
    Power,
}
