use std::sync::Arc;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::*;

const SMALL: Size = Size::Small;
const LARGE: Size = Size::Large;
/// How often bodies look.
const LOOK_EVERY: Duration = Duration::from_secs(1);

fn bodies(all: usize, per_host: usize) -> Arc<Bodies> {
    Arc::new(Bodies::new(BodiesMax { all, per_host }))
}

fn host(number: usize) -> HostKey {
    HostKey::of(&format!("http://h{number}/"))
}

const fn kind(size: Size) -> Kind {
    Kind { size, resumes: true }
}

/// As many places as there are.
fn take_all(bodies: &Bodies, host: HostKey, size: Size) -> Vec<Taken<'_>> {
    std::iter::from_fn(|| bodies.try_take(host, kind(size))).collect()
}

/// A body that goes on and on, until it has to give way: tells how long it was held.
fn endless(bodies: &Arc<Bodies>, host: HostKey, kind: Kind) -> JoinHandle<Duration> {
    let bodies = bodies.clone();
    tokio::spawn(async move {
        let mut taken = bodies.take(host, kind).await;
        loop {
            if let Demand::GiveWay { held_for } = taken.demand() {
                return held_for;
            }
            sleep(LOOK_EVERY).await;
        }
    })
}

/// So many endless ones of one host, which have had their grace.
async fn endless_ones(bodies: &Arc<Bodies>, number: usize, size: Size, count: usize) -> Vec<JoinHandle<Duration>> {
    let endless = (0..count).map(|_| endless(bodies, host(number), kind(size))).collect();
    sleep(GRACE * 2).await;
    endless
}

fn finished(endless: &[JoinHandle<Duration>]) -> Vec<usize> {
    (0..).zip(endless).filter(|(_, body)| body.is_finished()).map(|(number, _)| number).collect()
}

/// How long one waits for its place.
async fn waits(bodies: &Bodies, number: usize, size: Size) -> Option<Duration> {
    let began = Instant::now();
    timeout(GRACE * 100, bodies.take(host(number), kind(size))).await.ok().map(|_| began.elapsed())
}

fn held(bodies: &Bodies) -> Usage {
    bodies.now().all
}

fn check_empty(bodies: &Bodies) {
    let state = bodies.0.lock();
    assert_eq!((state.held.small, state.held.large, state.waiting, state.giving_way), (0, 0, 0, None));
    let orders = [state.next.small.len(), state.next.large.len(), state.lasting.small.len(), state.lasting.large.len()];
    assert!(state.hosts.is_empty() && orders == [0; 4], "{state:?}");
}

#[test]
fn one_host_cannot_hold_all_places_and_large_files_cannot_hold_all_of_a_host() {
    let bodies = bodies(32, 16);
    let large = take_all(&bodies, host(1), LARGE);
    assert_eq!(large.len(), 12);
    let small = take_all(&bodies, host(1), SMALL);
    assert_eq!(
        (small.len(), take_all(&bodies, host(2), LARGE).len()),
        (4, 12),
        "which are all of the host, and those of another"
    );
    assert_eq!(bodies.is_full_for(host(1), SMALL), (true, false));
}

#[test]
fn large_files_of_many_hosts_leave_places_to_small_ones() {
    let bodies = bodies(8, 100);
    let large: Vec<Taken<'_>> = (0..8).flat_map(|number| take_all(&bodies, host(number), LARGE)).collect();
    assert_eq!(large.len(), 6);
    assert_eq!(bodies.is_full_for(host(3), LARGE), (false, true));
    // One that has to wait for its place is no reason for a small one to.
    let mut waiting = Box::pin(bodies.take(host(3), kind(LARGE)));
    assert!(waiting.as_mut().now_or_never().is_none());
    assert_eq!(take_all(&bodies, host(3), SMALL).len(), 2);
    assert_eq!(large_max(1), 1, "one place is for whoever comes");
}

#[test]
fn sizes_that_are_not_known_are_large() {
    for (left, size) in [(None, LARGE), (Some(0), SMALL), (Some(SMALL_MAX_BYTES), SMALL), (Some(u64::MAX), LARGE)] {
        assert_eq!(Size::of(left), size, "{left:?}");
    }
}

#[test]
fn a_lower_limit_ends_nothing_and_grants_nothing_and_a_higher_one_lets_in_who_waits() {
    let bodies = bodies(4, 4);
    let mut taken = take_all(&bodies, host(1), SMALL);
    assert_eq!(taken.len(), 4);
    bodies.set_max(BodiesMax { all: 2, per_host: 4 });
    assert_eq!(held(&bodies), Usage { held: 4, max: 2 });
    taken.truncate(2);
    assert!(bodies.try_take(host(1), kind(SMALL)).is_none(), "two are held, and two are allowed");
    let mut waiting = Box::pin(bodies.take(host(1), kind(SMALL)));
    assert!(waiting.as_mut().now_or_never().is_none());
    bodies.set_max(BodiesMax { all: 3, per_host: 2 });
    assert!(waiting.as_mut().now_or_never().is_none(), "two are allowed of a host");
    bodies.set_max(BodiesMax { all: 3, per_host: 3 });
    assert!(waiting.now_or_never().is_some(), "there is room for a third");
    drop(taken);
    check_empty(&bodies);
}

#[test]
fn a_free_place_goes_to_the_host_that_holds_fewest_and_then_to_whoever_came_first() {
    let bodies = bodies(4, 3);
    let mut first = take_all(&bodies, host(1), SMALL);
    let second = take_all(&bodies, host(2), SMALL);
    assert_eq!((first.len(), second.len()), (3, 1));
    let mut waiting: Vec<_> =
        [1, 2, 3, 3].into_iter().map(|number| (number, Box::pin(bodies.take(host(number), kind(SMALL))))).collect();
    let mut order = Vec::new();
    let mut taken = Vec::new();
    for (_, waiting) in &mut waiting {
        assert!(waiting.as_mut().now_or_never().is_none());
    }
    while let Some(one) = first.pop() {
        drop(one);
        for index in 0..waiting.len() {
            if let Some(place) = waiting[index].1.as_mut().now_or_never() {
                order.push(waiting.remove(index).0);
                taken.push(place);
                break;
            }
        }
    }
    assert_eq!(order, [3, 1, 2], "that of the host with none, and then, of hosts with one each, those that came first");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_holds_none_has_a_place_of_the_host_that_holds_most() {
    let bodies = bodies(8, 4);
    let most = endless_ones(&bodies, 1, SMALL, 4).await;
    let some = endless_ones(&bodies, 2, SMALL, 3).await;
    let other = endless_ones(&bodies, 3, SMALL, 1).await;
    assert_eq!(held(&bodies), Usage { held: 8, max: 8 });
    let waited = waits(&bodies, 9, SMALL).await;
    assert!(waited.is_some_and(|waited| waited <= LOOK_EVERY), "{waited:?}");
    assert_eq!(
        (finished(&most), finished(&some), finished(&other)),
        (vec![3], vec![], vec![]),
        "the last that came, and no other"
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_gives_way_to_a_host_that_holds_some_or_where_each_has_one() {
    let bodies = bodies(4, 3);
    let most = endless_ones(&bodies, 1, SMALL, 3).await;
    let one = endless_ones(&bodies, 2, SMALL, 1).await;
    assert_eq!(waits(&bodies, 2, SMALL).await, None);
    assert_eq!((finished(&most), finished(&one)), (vec![], vec![]));
    let bodies = self::bodies(4, 3);
    let mut each = Vec::new();
    for number in 0..4 {
        each.extend(endless_ones(&bodies, number, SMALL, 1).await);
    }
    assert_eq!(waits(&bodies, 9, SMALL).await, None);
    assert_eq!(finished(&each), Vec::<usize>::new());
}

#[tokio::test(start_paused = true)]
async fn nobody_gives_way_within_the_grace() {
    let bodies = bodies(2, 2);
    let young = [SMALL; 2].map(|size| endless(&bodies, host(1), kind(size)));
    sleep(LOOK_EVERY * 2).await;
    let waited = waits(&bodies, 9, SMALL).await.expect("it has its place");
    assert!(waited >= GRACE - LOOK_EVERY * 3 && waited <= GRACE, "{waited:?}");
    assert_eq!(finished(&young).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_small_one_does_not_give_way_to_a_large_one_that_could_not_have_its_place() {
    let bodies = bodies(8, 8);
    let large = endless_ones(&bodies, 1, LARGE, 6).await;
    assert_eq!(bodies.now().large, Usage { held: 6, max: 6 });
    let small = endless_ones(&bodies, 1, SMALL, 2).await;
    assert!(waits(&bodies, 9, LARGE).await.is_some());
    assert_eq!((finished(&large), finished(&small)), (vec![5], vec![]), "though the small ones came later");
}

#[tokio::test(start_paused = true)]
async fn one_that_would_begin_anew_gives_way_only_where_no_other_can() {
    for (resume, gives_way) in [([true, false], 0), ([false, false], 1)] {
        let bodies = bodies(2, 2);
        let both = resume.map(|resumes| endless(&bodies, host(1), Kind { size: SMALL, resumes }));
        sleep(GRACE * 2).await;
        assert!(waits(&bodies, 9, SMALL).await.is_some());
        assert_eq!(finished(&both), [gives_way], "{resume:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn hosts_that_hold_all_places_keep_one_that_holds_none_waiting_for_no_longer_than_a_moment() {
    let bodies = bodies(32, 16);
    let mut hostile = Vec::new();
    for number in 0..4 {
        hostile.extend((0..8).map(|file| endless(&bodies, host(number), kind(if file < 6 { LARGE } else { SMALL }))));
    }
    sleep(GRACE * 2).await;
    assert_eq!((held(&bodies).held, bodies.now().large.held), (32, 24));
    for size in [SMALL, LARGE, SMALL] {
        let waited = waits(&bodies, 9, size).await;
        assert!(waited.is_some_and(|waited| waited <= LOOK_EVERY), "{waited:?}");
        let again = endless(&bodies, host(0), kind(size));
        sleep(GRACE).await;
        hostile.push(again);
    }
    for body in &hostile {
        body.abort();
    }
    sleep(GRACE).await;
    check_empty(&bodies);
}

#[tokio::test(start_paused = true)]
async fn those_that_leave_at_any_moment_leave_nothing_behind() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let bodies = bodies(12, 5);
    let mut running = Vec::new();
    let mut most = 12;
    for _ in 0..2000 {
        let (number, lasts_s) = (random.usize(..8), random.u64(..30));
        let kind = Kind { size: if random.bool() { SMALL } else { LARGE }, resumes: random.bool() };
        let theirs = bodies.clone();
        running.push(tokio::spawn(async move {
            let mut taken = theirs.take(host(number), kind).await;
            for _ in 0..lasts_s {
                if matches!(taken.demand(), Demand::GiveWay { .. }) {
                    break;
                }
                sleep(LOOK_EVERY).await;
            }
        }));
        if random.u8(..) < 100 {
            running.swap_remove(random.usize(..running.len())).abort();
        }
        if random.u8(..) < 10 {
            let all = random.usize(1..=12);
            most = held(&bodies).held.max(all);
            bodies.set_max(BodiesMax { all, per_host: random.usize(1..=6) });
        }
        if random.u8(..) < 60 {
            sleep(Duration::from_millis(random.u64(..3000))).await;
        }
        assert!(held(&bodies).held <= most);
        let state = bodies.0.lock();
        assert!(state.next().is_none(), "a place is free that somebody could have");
        assert_eq!(state.held.all(), state.hosts.values().map(|host| host.held.all()).sum::<usize>());
    }
    for run in running {
        let _ = run.await;
    }
    check_empty(&bodies);
}
