//! The steps from one schema version to the next, in order. See the README beside this file.

mod v0001_first_schema;
mod v0002_headers_left_out;
mod v0003_preheats;
mod v0004_pattern_and_contents;

/// What a step does. It may run again after a kill in its middle, and must then end in the same state.
pub type Step = fn(&sled::Db) -> Result<(), sled::Error>;

/// Step n makes schema version n of version n - 1; version 0 is an empty database.
pub const STEPS: [Step; 4] =
    [v0001_first_schema::run, v0002_headers_left_out::run, v0003_preheats::run, v0004_pattern_and_contents::run];

/// What each step does, for those who are asked whether it may.
pub const NAMES: [&str; 4] = [
    "the first schema",
    "a source's record says whether headers of it were left out",
    "there are preheats",
    "a task's record says whom clients fetch from, small sources lie in the database, and tasks can be pinned",
];
