//! Places: what a download asks, waits and takes a body with. How many are asked is counted in `turns`, how many bodies are
//! taken in `bodies`, and here how many answered sources wait for somebody to take theirs.
//!
//! A host is what the URL names: where a redirect leads is known only once it was followed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::FetchError;
use super::bodies::{Bodies, BodiesMax, Kind, Taken};
use super::host::HostKey;
use super::turns::{GaveWay, Turns, TurnsMax};
use super::usage::{PlacesNow, Usage};
use crate::domain::{TaskId, TaskSpec};

/// Sources asked at once. Of those, of one host: a host that takes its time to answer must not keep others from being asked.
const ASKS_MAX: TurnsMax = TurnsMax { all: 256, per_host: 64 };
/// How long a source may take in any case: for a connection, some redirects and a token, and well within the time that a
/// registration waits for it.
const GRACE: Duration = Duration::from_secs(2);
/// Answered sources that are kept waiting a moment for somebody to take their bodies, each with a connection. More are asked
/// again when it is their turn.
const WAITING_MAX: usize = 256;
/// Of those, of one host.
const WAITING_PER_HOST_MAX: usize = 64;

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    asks: Turns,
    bodies: Bodies,
    answered: Semaphore,
    /// Hosts of which something is fetched now: no more than downloads.
    hosts: Mutex<HashMap<HostKey, Host>>,
}

#[derive(Debug)]
struct Host {
    answered: Arc<Semaphore>,
    /// Downloads that have come and not left.
    visits: usize,
}

impl Places {
    pub fn new(max: BodiesMax) -> Self {
        Self {
            asks: Turns::new(ASKS_MAX),
            bodies: Bodies::new(max),
            answered: Semaphore::new(WAITING_MAX),
            hosts: Mutex::default(),
        }
    }

    pub fn set_max(&self, max: BodiesMax) {
        self.bodies.set_max(max);
    }

    pub fn now(&self) -> PlacesNow {
        PlacesNow {
            asking: self.asks.usage(),
            waiting_to_ask: self.asks.waiting(),
            answered: Usage { held: WAITING_MAX.saturating_sub(self.answered.available_permits()), max: WAITING_MAX },
            bodies: self.bodies.now(),
        }
    }

    /// Comes to take places for a task's source.
    pub fn visit(&self, spec: &TaskSpec) -> Visit<'_> {
        let key = HostKey::of(&spec.raw_url);
        let mut hosts = self.hosts.lock();
        let new = || Host { answered: Arc::new(Semaphore::new(WAITING_PER_HOST_MAX)), visits: 0 };
        let host = hosts.entry(key).or_insert_with(new);
        host.visits += 1;
        Visit { places: self, task: spec.id, key, answered: host.answered.clone() }
    }
}

/// One download, with the limits that hold for it.
#[derive(Debug)]
pub(super) struct Visit<'a> {
    places: &'a Places,
    task: TaskId,
    key: HostKey,
    /// Of its host.
    answered: Arc<Semaphore>,
}

impl<'a> Visit<'a> {
    /// Asks when it is this one's turn. No place is held while waiting for anything else, so that sources that nobody has
    /// time for do not keep others from being asked.
    pub async fn ask<T, E>(&self, asking: impl Future<Output = Result<T, E>>) -> Result<T, FetchError>
    where
        FetchError: From<E>,
    {
        if self.places.asks.is_full_for(self.key) {
            tracing::debug!(task = %self.task, "waiting for a place to ask");
        }
        let answered = self.places.asks.take(self.key, GRACE, asking).await;
        Ok(answered.map_err(|GaveWay { after }| FetchError::GaveWay { after_s: after.as_secs() })??)
    }

    /// A place to wait for one to take a body, with the source's answer; `None` where too many do.
    pub fn try_wait(&self) -> Option<[SemaphorePermit<'_>; 2]> {
        Some([self.answered.try_acquire().ok()?, self.places.answered.try_acquire().ok()?])
    }

    /// A place to take a body.
    pub async fn body(&self, kind: Kind) -> Taken<'a> {
        let (host_is_full, all_are_full) = self.places.bodies.is_full_for(self.key, kind.size);
        if host_is_full || all_are_full {
            tracing::debug!(task = %self.task, size = ?kind.size, host_is_full, all_are_full, "waiting for a place to fetch");
        }
        self.places.bodies.take(self.key, kind).await
    }

    pub fn try_body(&self, kind: Kind) -> Option<Taken<'a>> {
        self.places.bodies.try_take(self.key, kind)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let mut hosts = self.places.hosts.lock();
        if let Entry::Occupied(mut host) = hosts.entry(self.key) {
            host.get_mut().visits -= 1;
            if host.get().visits == 0 {
                host.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(all: usize, per_host: usize) -> Places {
        Places::new(BodiesMax { all, per_host })
    }

    fn visit_of<'a>(places: &'a Places, url: &str) -> Visit<'a> {
        places.visit(&TaskSpec::of_url(url))
    }

    #[test]
    fn hosts_are_known_for_as_long_as_something_is_fetched_of_them() {
        let places = places(4, 4);
        let first = visit_of(&places, "http://h/a");
        let second = visit_of(&places, "http://h/b");
        drop(first);
        assert_eq!(places.hosts.lock().len(), 1);
        drop(second);
        assert_eq!(places.hosts.lock().len(), 0);
    }

    #[test]
    fn hosts_that_many_leave_at_once_are_forgotten() {
        const VISITORS: usize = 4;
        let places = places(4, 4);
        let together = std::sync::Barrier::new(VISITORS);
        std::thread::scope(|scope| {
            for _ in 0..VISITORS {
                scope.spawn(|| {
                    for round in 0..20_000 {
                        let visit = visit_of(&places, &format!("http://h{round}/"));
                        together.wait();
                        drop(visit);
                    }
                });
            }
        });
        assert_eq!(places.hosts.lock().len(), 0);
    }
}
