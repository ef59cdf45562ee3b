//! Keeps the walls of the house where `src/lib.rs` says they are.
//!
//! Each module may use only the modules that the table lists for it. What is not listed is forbidden: an import that
//! seems to be needed all the same is a sign that something stands in the wrong room.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules of the crate a module may use, beside itself.
const MAY_USE: [(&str, &[&str]); 12] = [
    ("domain", &[]),
    ("swarm", &["domain"]),
    ("retention", &["domain"]),
    ("store", &["domain", "telemetry"]),
    ("pieces", &["domain", "telemetry"]),
    ("origin", &["domain", "telemetry"]),
    ("cdn", &["domain", "pieces", "origin", "telemetry"]),
    // The values that it configures are the domain's.
    ("config", &["domain"]),
    // The worker's errors are the sources' errors and the piece files'; the cluster tells clients what they mean.
    ("cluster", &["domain", "swarm", "retention", "store", "pieces", "origin", "cdn", "config", "telemetry", "memory"]),
    // Decisions are the swarm's; the wire writes them out.
    ("http", &["domain", "swarm", "retention", "cluster", "telemetry"]),
    ("telemetry", &[]),
    ("memory", &[]),
];

/// May use everything: they only compose.
const FREE: [&str; 5] = ["commands", "cli", "main", "lib", "fuzzing"];

/// Names that bring IO, time or randomness into a pure module.
const IMPURE: [&str; 12] = [
    "std::fs",
    "std::io",
    "std::net::Tcp",
    "std::thread",
    "std::process",
    "std::env",
    "Instant::now",
    "SystemTime",
    "tokio",
    "tracing",
    "fastrand::Rng::new",
    "parking_lot",
];

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The source files of the crate with the module that each belongs to.
fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let module = |path: &Path| {
        let inside = path.strip_prefix(&root).expect("below src");
        let first = inside.components().next().expect("a name").as_os_str().to_string_lossy();
        first.trim_end_matches(".rs").to_owned()
    };
    let read = |path: PathBuf| (module(&path), fs::read_to_string(&path).expect("readable"), path);
    rust_files(&root).into_iter().map(read).map(|(module, text, path)| (module, path, text)).collect()
}

/// The code of a file: without comments, and without what is compiled for tests alone.
fn code(text: &str) -> String {
    let tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..tests].lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The modules that a file names with `crate::`.
fn used(code: &str) -> Vec<String> {
    let names = code.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|next: char| !next.is_ascii_alphanumeric() && next != '_').unwrap_or(rest.len());
        rest[..end].to_owned()
    });
    names.filter(|name| !name.is_empty()).collect()
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let may_use = BTreeMap::from(MAY_USE);
    let mut wrong = Vec::new();
    for (module, path, text) in sources() {
        if FREE.contains(&module.as_str()) {
            continue;
        }
        let allowed = may_use.get(module.as_str()).unwrap_or_else(|| panic!("{} is in no row of the table", path.display()));
        for name in used(&code(&text)) {
            if name != module && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{}: {module} uses {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "forbidden imports:\n{}", wrong.join("\n"));
}

#[test]
fn every_row_of_the_table_is_a_module() {
    let sources = sources();
    for (module, _) in MAY_USE {
        assert!(sources.iter().any(|(name, _, _)| name == module), "there is no module {module}");
    }
}

#[test]
fn the_pure_modules_do_no_io_and_read_no_clock() {
    let mut wrong = Vec::new();
    for (_, path, text) in
        sources().into_iter().filter(|(module, _, _)| matches!(module.as_str(), "domain" | "swarm" | "retention"))
    {
        if path.ends_with("swarm/tests.rs") {
            continue;
        }
        let code = code(&text);
        wrong.extend(IMPURE.iter().filter(|name| code.contains(**name)).map(|name| format!("{}: {name}", path.display())));
    }
    assert!(wrong.is_empty(), "impure names in pure modules:\n{}", wrong.join("\n"));
}

/// Bytes of the largest file that a clone should carry.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

#[test]
fn nothing_large_and_no_build_of_others_is_kept() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = std::process::Command::new("git").arg("ls-files").current_dir(root).output();
    // An archive of the sources has no list.
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else { return };
    let listed = String::from_utf8(listed.stdout).expect("names are UTF-8");
    let large = |name: &&str| fs::metadata(root.join(name)).is_ok_and(|file| file.len() > FILE_MAX_BYTES);
    let wrong: Vec<&str> = listed.lines().filter(large).collect();
    assert!(wrong.is_empty(), "files of more than {FILE_MAX_BYTES} bytes: {wrong:?}");
}

#[test]
fn the_checks_notice_what_they_look_for() {
    assert_eq!(used("use crate::store::Store; crate::http::x()"), ["store", "http"]);
    let text = "use crate::a; // crate::b\n#[cfg(test)]\nmod tests {\n    use crate::c;\n}\n";
    assert_eq!(used(&code(text)), ["a"]);
}
