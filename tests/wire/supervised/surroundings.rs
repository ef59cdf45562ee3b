//! What is around a service: logs that nobody reads, homes that somebody holds, programs that leave others behind.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, get};
use crate::harness::supervised::Supervised;

/// More lines than a pipe holds.
const LINES: usize = 1500;

async fn is_ready(service: &Supervised) -> bool {
    exchange::ask(service.api(), get("/ready")).await.status == 200
}

/// Registrations of what is not there: each is told of in the log.
async fn make_lines(service: &Supervised, count: usize) {
    let client = Client::start(&Release::GO_1_0_6).await;
    for number in 0..count {
        let registered = client.register(service.api(), &Wanted::url(&format!("http://127.0.0.1:1/{number}"))).await;
        registered.unwrap_or_else(|surprise| panic!("{surprise}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_nobody_up() {
    let (reading, writing) = std::io::pipe().expect("a pipe");
    let mut service = Supervised::start_with(|command| {
        command.stderr(Stdio::from(writing)).args(["--debug", "--fail-access-interval", "1s"]);
    })
    .await;
    let worker = service.worker();
    make_lines(&service, LINES).await;
    assert!(is_ready(&service).await);
    // And one whose reader has gone.
    drop(reading);
    make_lines(&service, 20).await;
    assert!(is_ready(&service).await);
    assert_eq!(service.worker(), worker, "the worker died");
    service.signal(Signal::TERM);
    assert_eq!(service.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_log_file_can_no_longer_be_made_goes_on_with_standard_error() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let logs = directory.path().join("logs");
    let path = logs.join("supernode.log");
    let mut service = Supervised::start_with(|command| {
        command.arg("--log-path").arg(&path);
    })
    .await;
    assert_eq!(service.log(), "", "standard error is silent where there is a log file");
    std::fs::rename(&logs, directory.path().join("aside")).expect("moved");
    std::fs::write(&logs, "no directory").expect("written");
    service.kill_worker();
    service.next_worker().await;
    let log = service.log();
    for part in ["logging to standard error", "logConfig.path is", "the service died and is started again", "serving"] {
        assert!(log.contains(part), "{part:?} is not in {log}");
    }
    assert!(is_ready(&service).await);

    std::fs::remove_file(&logs).expect("removed");
    service.kill_worker();
    service.next_worker().await;
    assert_eq!(service.log(), log, "the next worker logs to the file again");
    let text = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually("the file has what it says", async || text().contains("serving").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_twice_does_not_wait_for_a_worker_that_hangs() {
    let mut service = Supervised::start().await;
    kill_process(service.worker(), Signal::STOP).expect("the worker is ours to signal");
    let supervisor = service.supervisor();
    let asking = async {
        loop {
            kill_process(supervisor, Signal::TERM).expect("the supervisor is ours to signal");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let ended = tokio::select! {
        () = asking => unreachable!("it asks for ever"),
        ended = service.ended() => ended,
    };
    assert_eq!(ended.code(), Some(1), "it was killed while it stopped: {}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_comes_twice_at_once_is_one() {
    // As from `timeout`, which signals its child and then their group.
    let mut service = Supervised::start().await;
    kill_process(service.worker(), Signal::STOP).expect("the worker is ours to signal");
    for _ in 0..2 {
        service.signal(Signal::TERM);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    kill_process(service.worker(), Signal::CONT).expect("the worker is ours to signal");
    assert_eq!(service.ended().await.code(), Some(0), "{}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_somebody_holds_for_a_while_ends_nothing() {
    let mut service = Supervised::start().await;
    let lock = File::open(service.home().join("lock")).expect("there");
    let waiting = lock.try_clone().expect("a second handle");
    let locked = tokio::task::spawn_blocking(move || waiting.lock());
    service.kill_worker();
    locked.await.expect("locking does not panic").expect("the lock of a dead worker");
    // More than as many tries as a service that fails by itself has.
    eventually("it was tried often", async || (service.log().matches("is in use by").count() > 10).then_some(())).await;
    lock.unlock().expect("ours to unlock");
    service.next_worker().await;
    assert!(is_ready(&service).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_leaves_its_output_open_holds_up_no_stop() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let program = directory.path().join("program");
    // What it leaves behind ends by itself.
    std::fs::write(&program, "#!/bin/sh\nsleep 20 &\necho another 1.0\n").expect("written");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("a program");
    let mut service = Supervised::start().await;
    service.replace_program(&program);
    service.signal(Signal::USR2);
    eventually("the log tells that it stays", async || service.log().contains("no upgrade, serving on").then_some(())).await;
    service.signal(Signal::TERM);
    assert_eq!(service.ended().await.code(), Some(0), "{}", service.log());
}
