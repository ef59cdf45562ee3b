//! How much of the places is used, for the metrics.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Worker;
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
    /// Sources that have answered and are kept waiting for somebody to take their bodies.
    pub answered: Usage,
    pub bodies: Usage,
    /// Those of them that are of large files.
    pub large_bodies: Usage,
    pub bodies_per_host_max: usize,
    /// Downloads that wait for a place to take a body.
    pub waiting: usize,
}

/// One that waits, until it is dropped.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    pub fn count(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    /// Brings the gauges of its places up to date.
    pub fn observe(&self) {
        let now = self.places.now();
        let set = |of, count, value| {
            METRICS.source_places.with_label_values(&[of, count]).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        let usages =
            [("asks", now.asking), ("answered", now.answered), ("bodies", now.bodies), ("large_bodies", now.large_bodies)];
        for (of, usage) in usages {
            set(of, "held", usage.held);
            set(of, "max", usage.max);
        }
        set("asks", "waiting", now.waiting_to_ask);
        set("bodies", "waiting", now.waiting);
        set("bodies_of_one_host", "max", now.bodies_per_host_max);
    }
}
