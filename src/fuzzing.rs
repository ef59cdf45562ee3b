//! What the fuzz targets assert: one function for each, which panics where a property does not hold.
//!
//! Compiled for fuzzing and for tests only. Each stands beside the private parsers that it is about; here they have the
//! names of their corpora in `fuzz/corpus`, which the test below replays on the ordinary toolchain.

pub use crate::domain::fuzzing::task_id;
pub use crate::http::fuzzing::{bodies, query, range, registration, url};
pub use crate::origin::fuzzing::content_range;
pub use crate::store::fuzzing::record;

/// The name of a target, and what it asserts of an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 8] = [
    ("bodies", bodies),
    ("content_range", content_range),
    ("query", query),
    ("range", range),
    ("record", record),
    ("registration", registration),
    ("task_id", task_id),
    ("url", url),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::TARGETS;

    /// Names of a directory's entries.
    fn names_in(directory: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        entries.map(|entry| entry.expect("a readable entry").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn every_input_of_every_corpus_passes() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        assert_eq!(names_in(&corpora), TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect(), "a corpus has no target");
        for (target, run) in TARGETS {
            let inputs = names_in(&corpora.join(target));
            assert!(!inputs.is_empty(), "{target} has no corpus");
            for input in inputs {
                let data = fs::read(corpora.join(target).join(&input)).expect("a readable input");
                println!("{target} {input}");
                run(&data);
            }
        }
    }

    #[test]
    fn every_target_is_a_program_of_its_own() {
        let programs = names_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/targets"));
        assert_eq!(programs, TARGETS.iter().map(|(name, _)| format!("{name}.rs")).collect());
    }
}
