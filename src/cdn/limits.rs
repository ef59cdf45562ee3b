//! What the worker keeps to. All of it can be changed while it works.

use parking_lot::RwLock;

use super::{BodiesMax, RateMin, Throttle};

/// How much is fetched at once, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub bodies_max: BodiesMax,
    /// All bodies together. Bytes per second; 0 for no limit.
    pub rate_bytes_per_s: u64,
    /// Each body. Bytes per second; 0 for no limit of its own.
    pub task_rate_bytes_per_s: u64,
    pub source_rate_min: RateMin,
}

/// How bodies flow: what holds for the chunk that comes next.
#[derive(Debug)]
pub(super) struct Flow {
    limits: RwLock<Limits>,
    /// Shared by all bodies.
    pub throttle: Throttle,
}

impl Flow {
    pub fn new(limits: Limits) -> Self {
        Self { limits: RwLock::new(limits), throttle: Throttle::new(limits.rate_bytes_per_s) }
    }

    pub fn limits(&self) -> Limits {
        *self.limits.read()
    }

    pub fn set_limits(&self, limits: Limits) {
        self.throttle.set_rate(limits.rate_bytes_per_s);
        *self.limits.write() = limits;
    }
}
