//! The fault layer itself, and a kill at every step of a first start.

use rustix::io::Errno;

use crate::fault::{ALWAYS, Moment, WRITE};
use crate::stage::{Stage, Started, was_killed};

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
