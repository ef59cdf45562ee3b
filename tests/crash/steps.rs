//! The fault layer itself, and a kill at every step of a first start.

use std::collections::BTreeSet;

use rustix::io::Errno;
use serde_json::{Value, json};

use crate::fault::{ALWAYS, Moment, WRITE};
use crate::harness::dump::Dump;
use crate::harness::exchange::{self, post_json};
use crate::stage::{Stage, Started, supervised, was_killed};

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_is_killed_at_any_step_is_begun_again() {
    let mut whole = Stage::new(false);
    let Started::Serving(_) = whole.start().await else { panic!("it starts when nothing kills it") };
    let steps = whole.faults.steps();
    assert!(steps > 10, "only {steps} steps were seen");
    println!("a first start takes {steps} steps");
    // Each step in one of three ways; over several runs, in all.
    let first = fastrand::u64(..3);
    for step in 1..=steps {
        let moment = [Moment::Before, Moment::Half, Moment::After][usize::try_from((first + step) % 3).expect("small")];
        let mut stage = Stage::new(false);
        stage.faults.kill_at(step, moment);
        match stage.start().await {
            Started::Died(status) => assert!(was_killed(status), "{moment:?} step {step}: {status}; its log:\n{}", stage.log()),
            // The last steps are taken when it serves already.
            Started::Serving(_) => assert!(was_killed(stage.let_die(std::time::Duration::from_secs(5)).await)),
        }
        let (fired, what) = stage.faults.fired().expect("it was killed by this");
        assert_eq!(fired, step);
        let _ = stage.faults.spare();
        let Started::Serving(_) = stage.start().await else {
            panic!("killed {moment:?} step {step}, {what}: it does not start again; its log:\n{}", stage.log());
        };
        let said = stage.said();
        assert!(!said.contains("ERROR") && !said.contains("WARN"), "killed {moment:?} step {step}, {what}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chosen_calls_fail_for_as_long_as_they_are_to() {
    let mut stage = Stage::new(false);
    stage.faults.fail(WRITE, "/db/", Errno::NOSPC, ALWAYS);
    let Started::Died(status) = stage.start().await else { panic!("it cannot serve without a database") };
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    assert!(stage.faults.failed() > 0);
    let said = stage.said();
    assert!(said.contains("No space left on device"), "{said}");
    stage.faults.heal();
    let failed = stage.faults.failed();
    let Started::Serving(_) = stage.start().await else { panic!("healed, it serves; its log:\n{}", stage.log()) };
    assert_eq!(stage.faults.failed(), failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_at_a_step_is_started_again_with_what_was_acknowledged() {
    let (mut supervised, faults) = supervised().await;
    assert!(faults.steps() > 10, "whichever process it is that serves, its steps are seen");
    let mut acknowledged = BTreeSet::new();
    for (steps, moment) in [(1, Moment::Before), (4, Moment::After), (6, Moment::Half), (11, Moment::Half), (12, Moment::After)] {
        faults.kill_at(faults.steps() + steps, moment);
        let body = json!({ "IP": "10.0.0.1", "hostName": "host", "port": 15001 });
        while let Ok(response) = exchange::call(supervised.api(), post_json("/api/v1/peers", &body)).await {
            let told: Value = serde_json::from_slice(&response.body).expect("an object");
            acknowledged.insert(told["ID"].as_str().unwrap_or_else(|| panic!("no id: {response}")).to_owned());
        }
        let (_, what) = faults.spare().expect("it was killed by this");
        supervised.next_worker().await;
        let there = Dump::of(&supervised.home()).await;
        let there: BTreeSet<String> =
            there.of_kind("peer").filter_map(|peer| peer["client"].as_str()).map(str::to_owned).collect();
        let lost: Vec<&String> = acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "killed {moment:?} {what}: lost {lost:?}");
    }
    assert!(!acknowledged.is_empty(), "nothing was acknowledged");
}
