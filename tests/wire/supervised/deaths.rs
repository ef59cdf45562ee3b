//! Workers that die, supervisors that die, and signals that are passed on.

use std::time::{Duration, Instant};

use rustix::process::{Signal, test_kill_process};

use super::Callers;
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::dump::Dump;
use crate::harness::eventually;
use crate::harness::exchange::{self, get};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::supervised::Supervised;

const DEATHS: u32 = 5;
/// Soon after workers were ready, one after the other.
const QUICK_DEATHS: u32 = 6;
/// Before the worker that follows the last of them: nothing, 0.1, 0.2, 0.4, 0.8 and then so many seconds.
const PAUSE_AFTER_THEM: Duration = Duration::from_millis(1600);

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_is_followed_by_another_and_no_call_is_refused() {
    let origin = Origin::start().await;
    let url = origin.put("file", File::new(random_content(1000)));
    let mut supervised = Supervised::start().await;
    let client = Client::start(&Release::GO_1_0_6).await;
    let registered = client.register(supervised.api(), &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    let task = registered.data["taskId"].as_str().expect("a task id").to_owned();
    let callers = Callers::start(supervised.api());
    for death in 1..=DEATHS {
        let answered = callers.answered();
        supervised.kill_worker();
        supervised.next_worker().await;
        eventually("callers are answered again", async || (callers.answered() > answered + 10).then_some(())).await;
        let dump = Dump::of(&supervised.home()).await;
        assert!(dump.has_client(&task, client.cid()), "after death {death}: an acknowledged registration is gone");
    }
    callers.end().await;
    let told = || supervised.log().matches("the service died and is started again death=\"signal 9\"").count();
    eventually("every death is told of", async || (told() >= DEATHS as usize).then_some(())).await;
    assert_eq!(told(), DEATHS as usize, "every death is told of once; the log:\n{}", supervised.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_again_and_again_is_started_ever_later_and_never_given_up() {
    let mut supervised = Supervised::start().await;
    let callers = Callers::start(supervised.api());
    supervised.kill_workers(QUICK_DEATHS).await;
    let died = Instant::now();
    supervised.next_worker().await;
    let paused = died.elapsed();
    assert!(paused >= PAUSE_AFTER_THEM, "started again {paused:?} after the last of {QUICK_DEATHS} quick deaths");
    callers.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_dies_with_its_supervisor_and_leaves_the_home_to_the_next() {
    let mut supervised = Supervised::start().await;
    let worker = supervised.worker();
    supervised.signal(Signal::KILL);
    supervised.ended().await;
    eventually("the worker is gone", async || test_kill_process(worker).is_err().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_the_supervisor_stops_all_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut supervised = Supervised::start().await;
        supervised.signal(signal);
        let status = supervised.ended().await;
        assert_eq!(status.code(), Some(0), "{signal:?}: {status}\n{}", supervised.log());
        assert!(supervised.log().contains("stopped"), "{}", supervised.log());
        assert!(test_kill_process(supervised.worker()).is_err(), "the worker outlives its supervisor");
        assert!(!supervised.home().join("serve.json").exists(), "a service that has stopped has no address");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_stop_is_not_started_again() {
    let mut supervised = Supervised::start().await;
    rustix::process::kill_process(supervised.worker(), Signal::TERM).expect("the worker is ours to signal");
    assert_eq!(supervised.ended().await.code(), Some(0), "{}", supervised.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_reaches_the_worker() {
    let supervised = Supervised::start().await;
    std::fs::write(supervised.configuration(), "base:\n  peerUpLimit: 7\n").expect("written");
    supervised.signal(Signal::HUP);
    eventually("the worker has read it", async || supervised.log().contains("setting changed: peerUpLimit").then_some(())).await;
    assert_eq!(exchange::ask(supervised.api(), get("/ready")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_can_no_longer_start_is_given_up_after_some_tries() {
    let mut supervised = Supervised::start().await;
    std::fs::write(supervised.configuration(), "base:\n  peerUpLimit: none\n").expect("written");
    supervised.kill_worker();
    let ended = tokio::time::timeout(Duration::from_secs(60), supervised.ended()).await.expect("it gives up");
    assert_eq!(ended.code(), Some(1), "{}", supervised.log());
    let log = supervised.log();
    assert!(log.contains("supernode: the service ended 10 times in a row before it was ready"), "{log}");
    assert_eq!(log.matches("peerUpLimit is \"none\"").count(), 10, "each says why: {log}");
}
