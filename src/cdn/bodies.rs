//! Bodies: how many are taken at once, of one host and of all, whose turn it is, and who gives way.
//!
//! A free place goes to the host that holds fewest, and among those to whoever came first. Large files leave a quarter of the
//! places, of each host and of all, to small ones, which go on where a large one has to wait. Where somebody waits whose host
//! holds none, a body of the host that holds most gives way, if that has others; between hosts that hold some, none does.
//! A body gives way by itself, when it looks: what it was told to write is over before its place is another's.
//! Invariant: no place is free that somebody who waits could have.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::host::HostKey;
use super::usage::Usage;

/// How long a body keeps its place in any case: long enough for some of it to be stored, which is kept.
pub(super) const GRACE: Duration = Duration::from_secs(10);
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
    const ALL: [Self; 2] = [Self::Small, Self::Large];

    /// Bytes; one that is not known may be anything.
    pub fn of(left: Option<u64>) -> Self {
        if left.is_some_and(|left| left <= SMALL_MAX_BYTES) { Self::Small } else { Self::Large }
    }
}

/// What a place is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub size: Size,
    /// Whether the source can be asked for the rest, so that giving way costs nothing.
    pub resumes: bool,
}

/// What others make of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    Nobody,
    /// There are none left for large ones or for any, and somebody waits.
    Others,
    /// It is to be given up.
    GiveWay {
        held_for: Duration,
    },
}

/// One for each size.
#[derive(Debug, Default)]
struct BySize<T> {
    small: T,
    large: T,
}

impl<T> BySize<T> {
    const fn of(&self, size: Size) -> &T {
        match size {
            Size::Small => &self.small,
            Size::Large => &self.large,
        }
    }

    const fn of_mut(&mut self, size: Size) -> &mut T {
        match size {
            Size::Small => &mut self.small,
            Size::Large => &mut self.large,
        }
    }
}

/// Places that are taken, of a host or of all.
impl BySize<usize> {
    const fn all(&self) -> usize {
        self.small + self.large
    }

    fn has_room(&self, size: Size, max: usize) -> bool {
        self.all() < max && (size == Size::Small || self.large < large_max(max))
    }
}

/// All bodies.
#[derive(Debug)]
pub(super) struct Bodies(Mutex<State>);

/// By the places that the host holds, and by when the body came.
type Turn = (usize, u64, HostKey);
/// By the places that the host holds, by whether the body resumes, and by when it came.
type WayOut = (usize, bool, u64, HostKey);

#[derive(Debug)]
struct State {
    max: BodiesMax,
    held: BySize<usize>,
    waiting: usize,
    /// Bodies so far, each of which has a number.
    came: u64,
    /// Hosts of which bodies are taken, or wait to be.
    hosts: HashMap<HostKey, Host>,
    /// Hosts whose next body may have a place, as far as they are concerned.
    next: BySize<BTreeSet<Turn>>,
    /// Hosts of which a body may give way, with the one that would.
    lasting: BySize<BTreeSet<WayOut>>,
    /// The one that is giving way. One at a time: who waits may have another place by then.
    giving_way: Option<u64>,
}

#[derive(Debug, Default)]
struct Host {
    held: BySize<usize>,
    /// Who waits for a place, and how it is told that it has one.
    waiting: BySize<BTreeMap<u64, oneshot::Sender<()>>>,
    /// Who has held one for longer than the grace, and whether it resumes.
    lasting: BySize<BTreeSet<(bool, u64)>>,
}

impl Host {
    fn next(&self, key: HostKey, size: Size, max: usize) -> Option<Turn> {
        let first = self.waiting.of(size).keys().next().filter(|_| self.held.has_room(size, max));
        first.map(|number| (self.held.all(), *number, key))
    }

    /// The last that came: the others are nearer to their ends. One that would have to begin anew only where no other is.
    fn first_to_give_way(&self, key: HostKey, size: Size) -> Option<WayOut> {
        self.lasting.of(size).last().map(|&(resumes, number)| (self.held.all(), resumes, number, key))
    }

    fn is_gone(&self) -> bool {
        self.held.all() == 0 && self.waiting.small.is_empty() && self.waiting.large.is_empty()
    }
}

/// What is taken, of all hosts.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodiesNow {
    pub all: Usage,
    /// Those of them that are of large files.
    pub large: Usage,
    pub per_host_max: usize,
    /// Downloads that wait for a place.
    pub waiting: usize,
}

impl Bodies {
    pub fn new(max: BodiesMax) -> Self {
        Self(Mutex::new(State {
            max,
            held: BySize::default(),
            waiting: 0,
            came: 0,
            hosts: HashMap::new(),
            next: BySize::default(),
            lasting: BySize::default(),
            giving_way: None,
        }))
    }

    /// A lower limit ends nothing.
    pub fn set_max(&self, max: BodiesMax) {
        let mut state = self.0.lock();
        let State { hosts, next, .. } = &mut *state;
        for size in Size::ALL {
            *next.of_mut(size) = hosts.iter().filter_map(|(key, host)| host.next(*key, size, max.per_host)).collect();
        }
        state.max = max;
        state.go_on();
    }

    /// A place, when it is its turn.
    pub async fn take(&self, host: HostKey, kind: Kind) -> Taken<'_> {
        let (mut taken, turn) = self.come(host, kind);
        // It is told before it is forgotten.
        let _ = turn.await;
        taken.since = Instant::now();
        taken
    }

    /// A place that nobody waits for.
    pub fn try_take(&self, host: HostKey, kind: Kind) -> Option<Taken<'_>> {
        let (taken, mut turn) = self.come(host, kind);
        turn.try_recv().is_ok().then_some(taken)
    }

    /// Whether one of this host would have to wait: because of the host, and because of all.
    pub fn is_full_for(&self, host: HostKey, size: Size) -> (bool, bool) {
        let state = self.0.lock();
        let of_host = state.hosts.get(&host).is_some_and(|host| !host.held.has_room(size, state.max.per_host));
        (of_host, !state.held.has_room(size, state.max.all))
    }

    pub fn now(&self) -> BodiesNow {
        let state = self.0.lock();
        BodiesNow {
            all: Usage { held: state.held.all(), max: state.max.all },
            large: Usage { held: state.held.large, max: large_max(state.max.all) },
            per_host_max: state.max.per_host,
            waiting: state.waiting,
        }
    }

    fn come(&self, host: HostKey, kind: Kind) -> (Taken<'_>, oneshot::Receiver<()>) {
        let (tell, told) = oneshot::channel();
        let mut state = self.0.lock();
        state.came += 1;
        let number = state.came;
        state.waiting += 1;
        state.change(host, |host| host.waiting.of_mut(kind.size).insert(number, tell));
        state.go_on();
        (Taken { bodies: self, host, kind, number, since: Instant::now(), lasts: false }, told)
    }
}

impl State {
    /// Keeps the order of hosts in step with what changes of one.
    fn change<T>(&mut self, key: HostKey, change: impl FnOnce(&mut Host) -> T) -> T {
        let max = self.max.per_host;
        let host = self.hosts.entry(key).or_default();
        for size in Size::ALL {
            host.next(key, size, max).map(|turn| self.next.of_mut(size).remove(&turn));
            host.first_to_give_way(key, size).map(|way_out| self.lasting.of_mut(size).remove(&way_out));
        }
        let changed = change(host);
        for size in Size::ALL {
            self.next.of_mut(size).extend(host.next(key, size, max));
            self.lasting.of_mut(size).extend(host.first_to_give_way(key, size));
        }
        if host.is_gone() {
            self.hosts.remove(&key);
        }
        changed
    }

    fn next(&self) -> Option<(Turn, Size)> {
        let sizes = Size::ALL.into_iter().filter(|size| self.held.has_room(*size, self.max.all));
        sizes.filter_map(|size| Some((*self.next.of(size).first()?, size))).min()
    }

    /// Gives free places to whoever waits.
    fn go_on(&mut self) {
        while let Some(((_, number, key), size)) = self.next() {
            *self.held.of_mut(size) += 1;
            self.waiting -= 1;
            let waiter = self.change(key, |host| {
                *host.held.of_mut(size) += 1;
                host.waiting.of_mut(size).remove(&number)
            });
            // Whoever has gone in between gives its place back.
            let _ = waiter.map(|waiter| waiter.send(()));
        }
    }

    /// Whose place is to be one's of this size whose host holds none, if such a one waits.
    fn gives_way_to(&self, size: Size) -> Option<u64> {
        let (0, ..) = self.next.of(size).first()? else { return None };
        let last = |size| self.lasting.of(size).last().copied();
        let lacks_only_large = size == Size::Large && self.held.large >= large_max(self.max.all);
        let (held, _, number, _) = if lacks_only_large { last(Size::Large) } else { last(Size::Small).max(last(Size::Large)) }?;
        (held > 1).then_some(number)
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Taken<'a> {
    bodies: &'a Bodies,
    host: HostKey,
    kind: Kind,
    number: u64,
    since: Instant,
    /// Whether it has told that its grace is over.
    lasts: bool,
}

impl Taken<'_> {
    pub const fn size(&self) -> Size {
        self.kind.size
    }

    /// To be asked at least every second or so: only one that looks gives way.
    pub fn demand(&mut self) -> Demand {
        let held_for = self.since.elapsed();
        let mut state = self.bodies.0.lock();
        if !self.lasts && held_for >= GRACE {
            self.lasts = true;
            state.change(self.host, |host| host.lasting.of_mut(self.kind.size).insert((self.kind.resumes, self.number)));
        }
        if state.waiting == 0 {
            return Demand::Nobody;
        }
        let is_next = || Size::ALL.into_iter().any(|size| state.gives_way_to(size) == Some(self.number));
        if state.giving_way.is_none() && is_next() {
            state.giving_way = Some(self.number);
        }
        if state.giving_way == Some(self.number) {
            Demand::GiveWay { held_for }
        } else if state.held.has_room(Size::Large, state.max.all) {
            Demand::Nobody
        } else {
            Demand::Others
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let (size, number) = (self.kind.size, self.number);
        let mut state = self.bodies.0.lock();
        let waited = state.change(self.host, |host| {
            let waited = host.waiting.of_mut(size).remove(&number).is_some();
            if !waited {
                host.lasting.of_mut(size).remove(&(self.kind.resumes, number));
                *host.held.of_mut(size) -= 1;
            }
            waited
        });
        if waited {
            state.waiting -= 1;
        } else {
            *state.held.of_mut(size) -= 1;
        }
        if state.giving_way == Some(number) {
            state.giving_way = None;
        }
        state.go_on();
    }
}

#[cfg(test)]
mod tests;
