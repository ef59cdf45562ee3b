//! What is promised of crashes, kept by the real binary: killed at any moment and at any step of IO, cut off from power,
//! and started on homes that something has damaged.
//!
//! [`fault`] stands under the binary. In [`cycle`], clients load the service until it dies; every answer that arrived is an
//! acknowledgement, and after the next start all of them are looked for, and nothing else may be half there.
//!
//! `CRASH_SEED` brings back the choices of a failure, `CRASH_CYCLES` sets how many cycles there are. A soak:
//!
//! ```text
//! CRASH_CYCLES=2000 cargo test --release --test crash -- --ignored --nocapture soak
//! ```

#[allow(dead_code, reason = "made for all tests that need faults")]
mod fault;
#[path = "../wire/harness/mod.rs"]
#[allow(dead_code, reason = "some of what the wire tests are made of is not needed here")]
mod harness;
#[allow(dead_code, reason = "made for all tests that need a home to break")]
mod stage;
mod steps;
