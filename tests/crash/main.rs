//! What is promised of crashes, kept by the real binary: killed at any moment and at any step of IO, cut off from power,
//! and started on homes that something has damaged.
//!
//! [`fault`] stands under the binary, which [`steps`] tries by itself. In [`cycle`], clients load the service until it dies; every answer that arrived is an
//! acknowledgement, and after the next start all of them are looked for, and nothing else may be half there. In
//! [`replacements`] one database takes the place of another; in [`corruption`] files are broken; in [`disks`] and [`room`] disks
//! fail, or have too little room; [`secrets`] and [`undurable`] look for what nobody may be told, ever or yet.
//!
//! `CRASH_SEED` brings back the choices of a failure, `CRASH_CYCLES` sets how many cycles there are, `CRASH_VERBOSE=1`
//! tells after every home how far they are. A soak:
//!
//! ```text
//! CRASH_CYCLES=2000 CRASH_VERBOSE=1 cargo test --release --test crash -- --ignored --nocapture --test-threads=1 soak
//! ```

mod actor;
mod corruption;
mod cycle;
mod disks;
#[allow(dead_code, reason = "made for all tests that need faults")]
mod fault;
mod files;
#[path = "../wire/harness/mod.rs"]
#[allow(dead_code, reason = "some of what the wire tests are made of is not needed here")]
mod harness;
mod model;
mod replacements;
mod room;
mod secrets;
#[allow(dead_code, reason = "made for all tests that need a home to break")]
mod stage;
mod steps;
mod undurable;

/// A number from the environment, for soaks and for what failed.
fn from_environment(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
