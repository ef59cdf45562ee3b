//! How much of the places is used, for the metrics.

use super::bodies::BodiesNow;
use super::{Turns, Worker};
use crate::telemetry::metrics::METRICS;

/// How much of a limit is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub held: usize,
    pub max: usize,
}

impl Usage {
    fn show(self, of: &str) {
        show(of, "held", self.held);
        show(of, "max", self.max);
    }
}

/// What is under way, of all hosts.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlacesNow {
    pub asking: Usage,
    /// Downloads and questions that wait for a place to ask.
    pub waiting_to_ask: usize,
    /// Sources that have answered and are kept waiting for somebody to take their bodies.
    pub answered: Usage,
    pub bodies: BodiesNow,
}

impl Worker {
    /// Brings the gauges of its places up to date.
    pub fn observe(&self) {
        let now = self.places.now();
        let bodies = now.bodies;
        now.asking.show("asks");
        now.answered.show("answered");
        bodies.all.show("bodies");
        bodies.large.show("large_bodies");
        show("asks", "waiting", now.waiting_to_ask);
        show("bodies", "waiting", bodies.waiting);
        show("bodies_of_one_host", "max", bodies.per_host_max);
    }
}

impl Turns {
    /// Brings the gauges of these up to date.
    pub fn observe(&self, of: &str) {
        self.usage().show(of);
        show(of, "waiting", self.waiting());
    }
}

fn show(of: &str, count: &str, value: usize) {
    METRICS.source_places.with_label_values(&[of, count]).set(i64::try_from(value).unwrap_or(i64::MAX));
}
