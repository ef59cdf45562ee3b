//! How much of the places is used, for the metrics.

use super::Worker;
use super::bodies::BodiesNow;
use crate::telemetry::metrics::METRICS;

/// How much of a limit is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub held: usize,
    pub max: usize,
}

/// What is under way, of all hosts.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlacesNow {
    pub asking: Usage,
    /// Downloads and questions that wait for a place to ask.
    pub waiting_to_ask: usize,
    /// Documents that are being read.
    pub reading: Usage,
    pub waiting_to_read: usize,
    /// Sources that have answered and are kept waiting for somebody to take their bodies.
    pub answered: Usage,
    pub bodies: BodiesNow,
}

impl Worker {
    /// Brings the gauges of its places up to date.
    pub fn observe(&self) {
        let now = self.places.now();
        let set = |of, count, value| {
            METRICS.source_places.with_label_values(&[of, count]).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        let bodies = now.bodies;
        let usages = [
            ("asks", now.asking),
            ("documents", now.reading),
            ("answered", now.answered),
            ("bodies", bodies.all),
            ("large_bodies", bodies.large),
        ];
        for (of, usage) in usages {
            set(of, "held", usage.held);
            set(of, "max", usage.max);
        }
        set("asks", "waiting", now.waiting_to_ask);
        set("documents", "waiting", now.waiting_to_read);
        set("bodies", "waiting", bodies.waiting);
        set("bodies_of_one_host", "max", bodies.per_host_max);
    }
}
