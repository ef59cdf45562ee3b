//! Turns: how many do something at once, of one host and of all, whose turn it is, and who gives way.
//!
//! A free place goes to the host that holds fewest, and among those to whoever came first: one host with many files is one
//! among others. Work may take as long as it likes while nobody waits; where somebody does whose host holds fewer, one that has
//! taken longer than its grace gives way, of the host that holds most.
//! Invariant: a place is free again only once its work is done, or is over and its connection with it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::host::HostKey;
use super::usage::Usage;

/// Work was not done yet while others waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GaveWay {
    pub after: Duration,
}

/// How many have a place at once.
#[derive(Clone, Copy, Debug)]
pub struct TurnsMax {
    pub all: usize,
    pub per_host: usize,
}

/// All turns of one kind.
#[derive(Debug)]
pub struct Turns(Mutex<State>);

#[derive(Debug)]
struct State {
    max: TurnsMax,
    held: usize,
    waiting: usize,
    /// Turns so far, each of which has a number.
    came: u64,
    /// Hosts that hold places, or that somebody waits for.
    hosts: HashMap<HostKey, Host>,
    /// Hosts whose next turn may have a place: by the places that they hold, and by when it came.
    next: BTreeSet<(usize, u64, HostKey)>,
    /// Hosts of which one turn may give way: by the places that they hold, and of two alike the one whose turn came first is the
    /// last: it had longer than the others, and ever new hosts do not make one another's time short.
    lasting: BTreeSet<(usize, Reverse<u64>, HostKey)>,
    /// The one that is giving way. One at a time: who waits may have another place by then.
    giving_way: Option<u64>,
}

#[derive(Debug, Default)]
struct Host {
    held: usize,
    /// Who waits for a place, and how it is told that it has one.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
    /// Who holds one for longer than its grace, and how it is told to give way.
    lasting: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Host {
    fn next(&self, max: usize) -> Option<u64> {
        self.waiting.keys().next().copied().filter(|_| self.held < max)
    }

    /// Of those that last the last that came: the others have waited for longer in vain, and are nearer to an answer.
    fn first_to_give_way(&self) -> Option<u64> {
        self.lasting.keys().next_back().copied()
    }
}

impl Turns {
    pub fn new(max: TurnsMax) -> Self {
        Self(Mutex::new(State {
            max,
            held: 0,
            waiting: 0,
            came: 0,
            hosts: HashMap::new(),
            next: BTreeSet::new(),
            lasting: BTreeSet::new(),
            giving_way: None,
        }))
    }

    /// Does this when it is its turn; it has so long in any case. What is over is dropped before its place is another's.
    pub async fn take<T>(&self, host: HostKey, grace: Duration, work: impl Future<Output = T>) -> Result<T, GaveWay> {
        let (turn, has_come) = self.come(host);
        // It is told before it is forgotten.
        let _ = has_come.await;
        let began = Instant::now();
        let mut work = std::pin::pin!(work);
        if let Ok(done) = tokio::time::timeout(grace, &mut work).await {
            return Ok(done);
        }
        let told = turn.outlast_its_grace();
        tokio::select! {
            biased;
            done = work => Ok(done),
            Ok(()) = told => Err(GaveWay { after: began.elapsed() }),
        }
    }

    /// Whether one of this host would have to wait.
    pub fn is_full_for(&self, host: HostKey) -> bool {
        let state = self.0.lock();
        state.held >= state.max.all || state.hosts.get(&host).is_some_and(|host| host.held >= state.max.per_host)
    }

    pub(super) fn usage(&self) -> Usage {
        let state = self.0.lock();
        Usage { held: state.held, max: state.max.all }
    }

    /// How many wait for a place.
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting
    }

    fn come(&self, host: HostKey) -> (Turn<'_>, oneshot::Receiver<()>) {
        let (tell, told) = oneshot::channel();
        let mut state = self.0.lock();
        state.came += 1;
        let number = state.came;
        state.waiting += 1;
        state.change(host, |host| host.waiting.insert(number, tell));
        state.go_on();
        (Turn { turns: self, host, number }, told)
    }
}

impl State {
    /// Keeps the order of hosts in step with what changes of one.
    fn change<T>(&mut self, key: HostKey, change: impl FnOnce(&mut Host) -> T) -> T {
        let max = self.max.per_host;
        let host = self.hosts.entry(key).or_default();
        if let Some(number) = host.next(max) {
            self.next.remove(&(host.held, number, key));
        }
        if let Some(number) = host.first_to_give_way() {
            self.lasting.remove(&(host.held, Reverse(number), key));
        }
        let changed = change(host);
        if let Some(number) = host.next(max) {
            self.next.insert((host.held, number, key));
        }
        if let Some(number) = host.first_to_give_way() {
            self.lasting.insert((host.held, Reverse(number), key));
        }
        if host.held == 0 && host.waiting.is_empty() {
            self.hosts.remove(&key);
        }
        changed
    }

    /// Gives free places to whoever waits, or has one given up.
    fn go_on(&mut self) {
        while self.held < self.max.all
            && let Some(&(_, number, key)) = self.next.first()
        {
            self.held += 1;
            self.waiting -= 1;
            let waiter = self.change(key, |host| {
                host.held += 1;
                host.waiting.remove(&number)
            });
            // Whoever has gone in between gives its place back.
            let _ = waiter.map(|waiter| waiter.send(()));
        }
        if let (None, Some(&(fewest, ..)), Some(&(most, Reverse(number), key))) =
            (self.giving_way, self.next.first(), self.lasting.last())
            && is_fairer(fewest, most)
            && let Some(tell) = self.change(key, |host| host.lasting.remove(&number))
        {
            self.giving_way = Some(number);
            let _ = tell.send(());
        }
    }
}

/// Whether a place of a host that holds most would better be one of the host that holds fewest. Equal shares are left alone,
/// but one that holds nothing comes first.
const fn is_fairer(fewest: usize, most: usize) -> bool {
    fewest == 0 || fewest + 1 < most
}

/// One that waits or holds a place, until it is dropped.
struct Turn<'a> {
    turns: &'a Turns,
    host: HostKey,
    number: u64,
}

impl Turn<'_> {
    /// It may have to give way from now on, of which it is told.
    fn outlast_its_grace(&self) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        let mut state = self.turns.0.lock();
        state.change(self.host, |host| host.lasting.insert(self.number, tell));
        state.go_on();
        told
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.0.lock();
        let number = self.number;
        let waited = state.change(self.host, |host| {
            let waited = host.waiting.remove(&number).is_some();
            if !waited {
                host.lasting.remove(&number);
                host.held -= 1;
            }
            waited
        });
        if waited {
            state.waiting -= 1;
        } else {
            state.held -= 1;
        }
        if state.giving_way == Some(number) {
            state.giving_way = None;
        }
        state.go_on();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::{JoinHandle, JoinSet};
    use tokio::time::sleep;

    use super::*;

    const MAX: TurnsMax = TurnsMax { all: 256, per_host: 64 };
    const GRACE: Duration = Duration::from_secs(2);

    /// Never ends by itself, and tells how it ended.
    type Silence = JoinHandle<Result<(), GaveWay>>;

    fn host(number: usize) -> HostKey {
        HostKey::of(&format!("http://h{number}/"))
    }

    fn silent(turns: &Arc<Turns>, host: HostKey) -> Silence {
        let turns = turns.clone();
        tokio::spawn(async move { turns.take(host, GRACE, std::future::pending()).await })
    }

    /// So many silent sources of each of so many hosts, which have had their grace.
    async fn silence(turns: &Arc<Turns>, hosts: std::ops::Range<usize>, of_each: usize) -> Vec<(usize, Silence)> {
        let mut silences = Vec::new();
        for number in hosts {
            silences.extend((0..of_each).map(|_| (number, silent(turns, host(number)))));
        }
        sleep(GRACE * 2).await;
        silences
    }

    /// How long one takes that answers at once.
    async fn takes(turns: &Turns, host: HostKey) -> Duration {
        let began = Instant::now();
        let asked = tokio::time::timeout(GRACE * 1000, turns.take(host, GRACE, async {})).await;
        asked.expect("it has its turn").expect("it is not silent");
        began.elapsed()
    }

    fn held(turns: &Turns) -> usize {
        turns.usage().held
    }

    fn check_empty(turns: &Turns) {
        let state = turns.0.lock();
        assert_eq!((state.held, state.waiting, state.giving_way), (0, 0, None));
        assert!(state.hosts.is_empty() && state.next.is_empty() && state.lasting.is_empty(), "{state:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_silent_gives_way_to_a_host_that_holds_fewer_and_to_no_other() {
        let turns = Arc::new(Turns::new(MAX));
        let silences = silence(&turns, 0..4, 70).await;
        assert_eq!((held(&turns), turns.waiting()), (MAX.all, 4 * 70 - MAX.all));
        assert!(
            silences.iter().all(|(_, silence)| !silence.is_finished()),
            "four hosts with equal shares leave each other alone"
        );
        assert_eq!(takes(&turns, host(9)).await, Duration::ZERO);
        assert_eq!(silences.iter().filter(|(_, silence)| silence.is_finished()).count(), 1);
        let (number, _) = silences.iter().find(|(_, silence)| silence.is_finished()).expect("it is there");
        let of_it: Vec<bool> = silences.iter().filter(|(other, _)| other == number).map(|(_, it)| it.is_finished()).collect();
        assert!(of_it[MAX.per_host - 1], "the last that was asked gives way, not those that have waited for longer");
        // Six more hosts end up with as many as they had.
        let more = silence(&turns, 10..16, 70).await;
        sleep(GRACE * 100).await;
        assert_eq!(held(&turns), MAX.all);
        for number in (0..4).chain(10..16) {
            let held = turns.0.lock().hosts.get(&host(number)).map_or(0, |host| host.held);
            assert!((25..=26).contains(&held), "host {number} holds {held}");
        }
        for (_, silence) in silences.into_iter().chain(more) {
            silence.abort();
        }
        sleep(GRACE).await;
        check_empty(&turns);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_gives_way_within_the_grace_or_while_there_is_room() {
        let turns = Arc::new(Turns::new(MAX));
        let silences = silence(&turns, 0..3, 64).await;
        assert_eq!(takes(&turns, host(9)).await, Duration::ZERO);
        assert!(silences.iter().all(|(_, silence)| !silence.is_finished()));
        let young: Vec<Silence> = (0..64).map(|_| silent(&turns, host(4))).collect();
        sleep(GRACE / 2).await;
        assert_eq!(takes(&turns, host(9)).await, Duration::ZERO);
        assert!(young.iter().all(|silence| !silence.is_finished()), "the others have had theirs");
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_without_number_hold_nobody_up_for_longer_than_the_grace() {
        let turns = Arc::new(Turns::new(MAX));
        let mut silences = silence(&turns, 0..1000, 1).await;
        for round in 1..10 {
            silences.extend((0..100).map(|number| (number, silent(&turns, host(1000 * round + number)))));
            let took = takes(&turns, host(1000 * round + 999)).await;
            assert!(took <= GRACE * 2, "{took:?}");
            assert!(held(&turns) <= MAX.all);
        }
        let gave_way = silences.into_iter().filter(|(_, silence)| silence.is_finished());
        for (_, silence) in gave_way {
            let word = silence.await.expect("it does not panic").expect_err("nothing was answered");
            assert!(word.after >= GRACE, "{word:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_hosts_with_equal_shares_the_one_that_had_longest_gives_way() {
        let turns = Arc::new(Turns::new(MAX));
        let mut silences = Vec::new();
        for number in 0..MAX.all {
            silences.push(silent(&turns, host(number)));
            sleep(Duration::from_millis(10)).await;
        }
        for number in 0..3 {
            sleep(GRACE).await;
            takes(&turns, host(MAX.all + number)).await;
            silences.push(silent(&turns, host(2 * MAX.all + number)));
            let gone: Vec<usize> = (0..).zip(&silences).filter(|(_, silence)| silence.is_finished()).map(|(at, _)| at).collect();
            assert_eq!(gone, (0..=number).collect::<Vec<_>>());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_is_asked_for_much_comes_after_one_that_is_asked_for_little() {
        const ANSWER: Duration = Duration::from_secs(1);
        let turns = Arc::new(Turns::new(MAX));
        let mut many = JoinSet::new();
        for number in 0..20 {
            for _ in 0..1000 {
                let turns = turns.clone();
                many.spawn(async move { turns.take(host(number), GRACE, sleep(ANSWER)).await });
            }
        }
        sleep(ANSWER / 2).await;
        let took = takes(&turns, host(99)).await;
        assert_eq!(took, ANSWER / 2, "the first place that is free is its own");
        while let Some(answered) = many.join_next().await {
            assert_eq!(answered.expect("it does not panic"), Ok(()));
        }
        check_empty(&turns);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_leave_at_any_moment_leave_nothing_behind() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let turns = Arc::new(Turns::new(MAX));
        let mut running = Vec::new();
        for _ in 0..3000 {
            let (number, takes) = (random.usize(..8), GRACE.mul_f64(random.f64() * 3.0));
            let theirs = turns.clone();
            running.push(tokio::spawn(async move { theirs.take(host(number), GRACE, sleep(takes)).await }));
            if random.u8(..) < 100 {
                running.swap_remove(random.usize(..running.len())).abort();
            }
            if random.u8(..) < 20 {
                sleep(Duration::from_millis(random.u64(..300))).await;
            }
            assert!(held(&turns) <= MAX.all);
        }
        for run in running {
            let _ = run.await.expect("it does not panic");
        }
        check_empty(&turns);
    }
}
