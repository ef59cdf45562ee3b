//! Places: how many bodies are taken at once, of one host and of all, and how many answered sources wait for that. How many
//! are asked is counted in `asks`.
//!
//! A slow host holds no more than its share, and large files leave some places to small ones. Whoever waits is served first
//! come first served, among those of its host and then among all. A host is what the URL names: where a redirect leads is
//! known only once it was followed.
//! Invariant: every download takes its places in one order (of the host before of all, of large ones before of any), so
//! that none waits for another that waits for it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::asks::Asks;
use super::host::HostKey;
use super::usage::{PlacesNow, Usage, Waiting};
use super::{FetchError, LedgerError};
use crate::domain::{TaskId, TaskSpec};

/// Answered sources that are kept waiting a moment for somebody to take their bodies, each with a connection. More are asked
/// again when it is their turn.
const WAITING_MAX: usize = 256;
/// Of those, of one host.
const WAITING_PER_HOST_MAX: usize = 64;
/// What takes no longer than a moment where anything does. Bytes.
const SMALL_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// How many bodies are taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodiesMax {
    pub all: usize,
    pub per_host: usize,
}

/// Large files may have so many places: a quarter is for small ones.
fn large_max(max: usize) -> usize {
    max - (max / 4).max(usize::from(max > 1))
}

/// How much of a file is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Size {
    Small,
    Large,
}

impl Size {
    /// Bytes; one that is not known may be anything.
    pub fn of(left: Option<u64>) -> Self {
        if left.is_some_and(|left| left <= SMALL_MAX_BYTES) { Self::Small } else { Self::Large }
    }
}

/// So many at once. The number can be changed; a lower one ends nothing.
#[derive(Debug)]
struct Limit {
    free: Arc<Semaphore>,
    bound: Mutex<Bound>,
}

#[derive(Debug)]
struct Bound {
    max: usize,
    /// Places that are taken and beyond it: they are gone when they are given back.
    over: usize,
}

impl Limit {
    fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { free: Arc::new(Semaphore::new(max)), bound: Mutex::new(Bound { max, over: 0 }) })
    }

    fn set_max(&self, max: usize) {
        let mut bound = self.bound.lock();
        if max < bound.max {
            let fewer = bound.max - max;
            bound.over += fewer - self.free.forget_permits(fewer);
        } else {
            let more = max - bound.max;
            let kept = more.min(bound.over);
            bound.over -= kept;
            self.free.add_permits(more - kept);
        }
        bound.max = max;
    }

    async fn take(self: &Arc<Self>) -> Result<Place, LedgerError> {
        // Nobody closes it.
        let permit = self.free.clone().acquire_owned().await.map_err(|_| LedgerError::Stopping)?;
        Ok(Place { limit: self.clone(), permit: Some(permit) })
    }

    fn usage(&self) -> Usage {
        let bound = self.bound.lock();
        Usage { held: (bound.max + bound.over).saturating_sub(self.free.available_permits()), max: bound.max }
    }

    fn is_full(&self) -> bool {
        self.free.available_permits() == 0
    }

    fn try_take(self: &Arc<Self>) -> Option<Place> {
        let permit = self.free.clone().try_acquire_owned().ok()?;
        Some(Place { limit: self.clone(), permit: Some(permit) })
    }
}

/// One of a limit, until it is dropped.
#[derive(Debug)]
struct Place {
    limit: Arc<Limit>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut bound = self.limit.bound.lock();
        if bound.over > 0 {
            bound.over -= 1;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        }
        // Given back under the lock: a limit that is lowered meanwhile must find it free or taken.
        drop(self.permit.take());
    }
}

/// Limits of one scope: a host, or all of them.
#[derive(Debug)]
struct Scope {
    waiting: Arc<Limit>,
    bodies: Arc<Limit>,
    large_bodies: Arc<Limit>,
}

impl Scope {
    fn new(waiting: usize, bodies: usize) -> Self {
        Self { waiting: Limit::new(waiting), bodies: Limit::new(bodies), large_bodies: Limit::new(large_max(bodies)) }
    }

    fn set_bodies_max(&self, max: usize) {
        self.bodies.set_max(max);
        self.large_bodies.set_max(large_max(max));
    }

    fn bodies_for(&self, size: Size) -> impl Iterator<Item = &Arc<Limit>> {
        (size == Size::Large).then_some(&self.large_bodies).into_iter().chain([&self.bodies])
    }
}

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    asks: Asks,
    all: Scope,
    hosts: Mutex<Hosts>,
    waiting: AtomicUsize,
}

/// Hosts of which something is fetched now: no more than downloads.
#[derive(Debug)]
struct Hosts {
    bodies_max: usize,
    known: HashMap<HostKey, Host>,
}

#[derive(Debug)]
struct Host {
    scope: Arc<Scope>,
    /// Downloads that have come and not left.
    visits: usize,
}

impl Places {
    pub fn new(max: BodiesMax) -> Self {
        let hosts = Mutex::new(Hosts { bodies_max: max.per_host, known: HashMap::new() });
        Self { asks: Asks::default(), all: Scope::new(WAITING_MAX, max.all), hosts, waiting: AtomicUsize::new(0) }
    }

    pub fn set_max(&self, max: BodiesMax) {
        self.all.set_bodies_max(max.all);
        let mut hosts = self.hosts.lock();
        hosts.bodies_max = max.per_host;
        for host in hosts.known.values() {
            host.scope.set_bodies_max(max.per_host);
        }
    }

    /// Whether somebody waits for a place, and there is none for large files or for any.
    pub fn are_short(&self) -> bool {
        let is_full = |usage: Usage| usage.held >= usage.max;
        self.waiting.load(Ordering::Relaxed) > 0 && (is_full(self.all.bodies.usage()) || is_full(self.all.large_bodies.usage()))
    }

    pub fn now(&self) -> PlacesNow {
        PlacesNow {
            asking: self.asks.usage(),
            waiting_to_ask: self.asks.waiting(),
            answered: self.all.waiting.usage(),
            bodies: self.all.bodies.usage(),
            large_bodies: self.all.large_bodies.usage(),
            bodies_per_host_max: self.hosts.lock().bodies_max,
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }

    /// Comes to take places for a task's source.
    pub fn visit(&self, spec: &TaskSpec) -> Visit<'_> {
        let key = HostKey::of(&spec.raw_url);
        let mut hosts = self.hosts.lock();
        let bodies_max = hosts.bodies_max;
        let new = || Host { scope: Arc::new(Scope::new(WAITING_PER_HOST_MAX, bodies_max)), visits: 0 };
        let host = hosts.known.entry(key).or_insert_with(new);
        host.visits += 1;
        Visit { places: self, task: spec.id, key, host: host.scope.clone() }
    }
}

/// One download, with the limits that hold for it.
#[derive(Debug)]
pub(super) struct Visit<'a> {
    places: &'a Places,
    task: TaskId,
    key: HostKey,
    host: Arc<Scope>,
}

/// The places of one doing, until they are dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Taken(#[expect(dead_code, reason = "held to be dropped")] Vec<Place>);

impl Visit<'_> {
    fn scopes(&self) -> [&Scope; 2] {
        [&self.host, &self.places.all]
    }

    /// Asks when it is this one's turn. No place is held while waiting for anything else, so that sources that nobody has
    /// time for do not keep others from being asked.
    pub async fn ask<T, E>(&self, asking: impl Future<Output = Result<T, E>>) -> Result<T, FetchError>
    where
        FetchError: From<E>,
    {
        if self.places.asks.is_full_for(self.key) {
            tracing::debug!(task = %self.task, "waiting for a place to ask");
        }
        let answered = self.places.asks.ask(self.key, asking).await;
        Ok(answered.map_err(|gave_way| FetchError::GaveWay { silent_s: gave_way.after.as_secs() })??)
    }

    /// A place to wait for one to take a body, with the source's answer; `None` where too many do.
    pub fn try_wait(&self) -> Option<Taken> {
        try_take(self.scopes().into_iter().map(|scope| &scope.waiting))
    }

    /// A place to take a body.
    pub async fn body(&self, size: Size) -> Result<Taken, LedgerError> {
        let is_full = |scope: &Scope| scope.bodies_for(size).any(|limit| limit.is_full());
        let (host_is_full, all_are_full) = (is_full(&self.host), is_full(&self.places.all));
        let _waiting = (host_is_full || all_are_full).then(|| Waiting::count(&self.places.waiting));
        if host_is_full || all_are_full {
            tracing::debug!(task = %self.task, ?size, host_is_full, all_are_full, "waiting for a place to fetch");
        }
        take(self.scopes().into_iter().flat_map(|scope| scope.bodies_for(size))).await
    }

    pub fn try_body(&self, size: Size) -> Option<Taken> {
        try_take(self.scopes().into_iter().flat_map(|scope| scope.bodies_for(size)))
    }
}

async fn take(limits: impl Iterator<Item = &Arc<Limit>>) -> Result<Taken, LedgerError> {
    let mut taken = Vec::new();
    for limit in limits {
        taken.push(limit.take().await?);
    }
    Ok(Taken(taken))
}

fn try_take<'l>(mut limits: impl Iterator<Item = &'l Arc<Limit>>) -> Option<Taken> {
    limits
        .try_fold(Vec::new(), |mut taken, limit| {
            taken.push(limit.try_take()?);
            Some(taken)
        })
        .map(Taken)
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let mut hosts = self.places.hosts.lock();
        if let Entry::Occupied(mut host) = hosts.known.entry(self.key) {
            host.get_mut().visits -= 1;
            if host.get().visits == 0 {
                host.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const LARGE: Size = Size::Large;
    const SMALL: Size = Size::Small;

    fn places(all: usize, per_host: usize) -> Places {
        Places::new(BodiesMax { all, per_host })
    }

    fn visit_of<'a>(places: &'a Places, url: &str) -> Visit<'a> {
        places.visit(&TaskSpec::of_url(url))
    }

    /// As many places as there are.
    fn take_all(visit: &Visit<'_>, size: Size) -> Vec<Taken> {
        std::iter::from_fn(|| visit.try_body(size)).collect()
    }

    #[test]
    fn one_host_cannot_hold_all_places_and_large_files_cannot_hold_all_of_a_host() {
        let places = places(32, 16);
        let (slow, other) = (visit_of(&places, "http://slow/a"), visit_of(&places, "http://other/a"));
        let large = take_all(&slow, LARGE);
        assert_eq!(large.len(), 12);
        assert_eq!(take_all(&visit_of(&places, "http://SLOW:80/b"), LARGE).len(), 0, "it is the same host");
        let small = take_all(&slow, SMALL);
        assert_eq!((small.len(), take_all(&other, LARGE).len()), (4, 12), "which are all of the host, and those of another");
        for different in ["https://slow/a", "http://slow:81/a"] {
            assert_eq!(take_all(&visit_of(&places, different), LARGE).len(), 12, "{different}");
        }
    }

    #[test]
    fn large_files_of_many_hosts_leave_places_to_small_ones() {
        let places = places(8, 100);
        let hosts: Vec<Visit<'_>> = (0..8).map(|number| visit_of(&places, &format!("http://h{number}/"))).collect();
        let large: Vec<Taken> = hosts.iter().flat_map(|host| take_all(host, LARGE)).collect();
        assert_eq!(large.len(), 6);
        assert_eq!(take_all(&hosts[3], SMALL).len(), 2);
        assert_eq!(super::large_max(1), 1, "one place is for whoever comes");
    }

    #[test]
    fn sizes_that_are_not_known_are_large() {
        for (left, size) in [(None, LARGE), (Some(0), SMALL), (Some(SMALL_MAX_BYTES), SMALL), (Some(u64::MAX), LARGE)] {
            assert_eq!(Size::of(left), size, "{left:?}");
        }
    }

    #[test]
    fn a_lower_limit_ends_nothing_and_grants_nothing_and_a_higher_one_lets_in_who_waits() {
        let places = places(4, 4);
        let visit = visit_of(&places, "http://h/");
        let mut taken = take_all(&visit, SMALL);
        assert_eq!(taken.len(), 4);
        places.set_max(BodiesMax { all: 2, per_host: 4 });
        assert_eq!(places.now().bodies, Usage { held: 4, max: 2 });
        taken.truncate(2);
        assert!(visit.try_body(SMALL).is_none(), "two are held, and two are allowed");
        let mut waiting = Box::pin(visit.body(SMALL));
        assert!(waiting.as_mut().now_or_never().is_none());
        places.set_max(BodiesMax { all: 3, per_host: 4 });
        assert!(waiting.now_or_never().is_some_and(|place| place.is_ok()), "there is room for a third");
        taken.clear();
        assert_eq!(take_all(&visit, SMALL).len(), 3);
        // Raised before those beyond it were given back.
        let held = take_all(&visit, SMALL);
        places.set_max(BodiesMax { all: 1, per_host: 4 });
        places.set_max(BodiesMax { all: 4, per_host: 1 });
        drop(held);
        assert_eq!(take_all(&visit, SMALL).len(), 1, "of a host");
        assert_eq!(take_all(&visit_of(&places, "http://other/"), SMALL).len(), 1);
        places.set_max(BodiesMax { all: 4, per_host: 4 });
        assert_eq!(take_all(&visit, SMALL).len(), 4);
    }

    #[test]
    fn hosts_are_known_for_as_long_as_something_is_fetched_of_them() {
        let places = places(4, 4);
        let first = visit_of(&places, "http://h/a");
        let second = visit_of(&places, "http://h/b");
        drop(first);
        assert_eq!(places.hosts.lock().known.len(), 1);
        drop(second);
        assert_eq!(places.hosts.lock().known.len(), 0);
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
        assert_eq!(places.hosts.lock().known.len(), 0);
    }

    #[test]
    fn whoever_gives_up_waiting_keeps_nothing() {
        let places = places(2, 2);
        let visit = visit_of(&places, "http://h/");
        let taken = take_all(&visit, SMALL);
        let mut waiting = Box::pin(visit.body(SMALL));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!((places.now().bodies, places.now().waiting), (Usage { held: 2, max: 2 }, 1));
        drop(waiting);
        assert_eq!(places.now().waiting, 0);
        drop(taken);
        assert_eq!(take_all(&visit, SMALL).len(), 2);
    }
}
