//! The service against a slow, obvious model of the protocol: random calls, right and wrong, over the wire.
//!
//! Black box: the real binary. The model is written from the protocol alone and knows nothing of how the service decides;
//! for every call it says which codes are allowed and what must hold of the data. In [`sequential`] one call follows the
//! other and the model is exact, across kills as well; in [`concurrent`] many clients call at once and it checks what must
//! hold in whatever order.
//!
//! `MODEL_CASES` sets how many cases are run, `MODEL_SEED` brings back those of a failure.

mod case;
mod concurrent;

#[path = "../wire/harness/mod.rs"]
#[allow(dead_code, reason = "the clients and dumps of the wire tests are not needed here")]
mod harness;
mod oracle;
mod scene;
mod sequential;
mod wire;

/// A number from the environment, for soaks and for what failed.
fn from_environment(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
