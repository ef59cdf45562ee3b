//! SIGUSR2: the program that was put in the place of the old one takes over, or the old one goes on.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, test_kill_process};

use super::Callers;
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, get};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::binary;
use crate::harness::supervised::Supervised;

/// Which file a process runs, whatever has become of its name.
fn program_of(process: Pid) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{}/exe", process.as_raw_pid())).expect("it runs").ino()
}

fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).expect("it is there").ino()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_program_takes_over_and_no_call_is_refused() {
    let mut supervised = Supervised::start().await;
    let callers = Callers::start(supervised.api());
    for _ in 0..2 {
        let (old, answered) = (program_of(supervised.supervisor()), callers.answered());
        supervised.replace_program(Path::new(binary()));
        supervised.signal(Signal::USR2);
        supervised.next_worker().await;
        let new = inode(&supervised.program());
        assert_ne!(new, old);
        assert_eq!(program_of(supervised.worker()), new, "the worker is of the new program");
        eventually("the supervisor is the new program", async || (program_of(supervised.supervisor()) == new).then_some(()))
            .await;
        eventually("callers are answered", async || (callers.answered() > answered + 10).then_some(())).await;
    }
    // The new supervisor does what the old one did.
    supervised.kill_worker();
    supervised.next_worker().await;
    callers.end().await;
    supervised.signal(Signal::TERM);
    assert_eq!(supervised.ended().await.code(), Some(0), "{}", supervised.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_is_held_is_answered_before_the_old_program_ends() {
    let origin = Origin::start().await;
    let url = origin.put("file", File { ending: Ending::StallsAfter(1000), ..File::new(random_content(5_000_000)) });
    let mut supervised = Supervised::start().await;
    let client = Client::start(&Release::GO_1_0_6).await;
    let registered = client.register(supervised.api(), &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    let task = registered.data["taskId"].as_str().expect("a task id").to_owned();
    let question = format!("/peer/task?srcCid={}&dstCid=&range=&result=502&status=700&taskId={task}", client.cid());
    let held = tokio::spawn(exchange::ask(supervised.api(), get(&question)));
    supervised.replace_program(Path::new(binary()));
    supervised.signal(Signal::USR2);
    let answer = held.await.expect("asking does not panic");
    assert_eq!(answer.code, 602, "{answer}");
    supervised.next_worker().await;
    let answer = exchange::ask(supervised.api(), get(&question)).await;
    assert_eq!(answer.code, 602, "the new program knows the task: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_of_an_upgrade_is_a_stop() {
    // While the new program is asked for its version, while the old worker drains, while the new one starts.
    for after_ms in [0, 10, 30, 60, 120] {
        let mut supervised = Supervised::start().await;
        supervised.signal(Signal::USR2);
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        supervised.signal(Signal::TERM);
        assert_eq!(supervised.ended().await.code(), Some(0), "{after_ms} ms after: {}", supervised.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_asked_for_between_two_workers_is_not_forgotten() {
    /// After so many quick deaths the next worker is waited for longest.
    const QUICK_DEATHS: u32 = 7;
    let mut supervised = Supervised::start().await;
    supervised.kill_workers(QUICK_DEATHS).await;
    let (dead, old) = (supervised.worker(), program_of(supervised.supervisor()));
    eventually("the dead worker is buried", async || test_kill_process(dead).is_err().then_some(())).await;
    supervised.replace_program(Path::new(binary()));
    supervised.signal(Signal::USR2);
    supervised.next_worker().await;
    let new = inode(&supervised.program());
    assert_ne!(new, old);
    assert_eq!(program_of(supervised.worker()), new, "the old program goes on: {}", supervised.log());
    eventually("the supervisor is the new program", async || (program_of(supervised.supervisor()) == new).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_program_whose_worker_is_killed_is_tried_again() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let (tries, real) = (directory.path().join("tries"), binary());
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo supernode 9.9.9 && exit\necho $$ >> {0}\n\
         [ $(wc -l < {0}) -lt 3 ] && kill -9 $$\nexec {real} \"$@\"\n",
        tries.display()
    );
    let mut supervised = Supervised::start().await;
    let callers = Callers::start(supervised.api());
    supervised.replace_program(&script(directory.path(), "killed-twice", &text));
    supervised.signal(Signal::USR2);
    supervised.next_worker().await;
    assert_eq!(program_of(supervised.worker()), inode(Path::new(real)), "the new program serves");
    // The supervisor becomes the new program, too, sooner or later.
    let supervisor = supervised.supervisor().as_raw_pid().to_string();
    let tries = std::fs::read_to_string(&tries).expect("it was tried");
    assert_eq!(tries.lines().filter(|process| *process != supervisor).count(), 3, "{tries}");
    callers.end().await;
}

fn script(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a program");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_serve_changes_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let script = |name: &str, text: &str| script(directory.path(), name, text);
    let mut supervised = Supervised::start().await;
    let ready = async |supervised: &Supervised| exchange::ask(supervised.api(), get("/ready")).await.status == 200;

    // What does not tell its version is not tried.
    let old = program_of(supervised.supervisor());
    for (name, text) in
        [("no-program", "nothing"), ("another", "#!/bin/sh\necho another 1.0\n"), ("fails", "#!/bin/sh\nexit 1\n")]
    {
        let before = supervised.log().matches("no upgrade, serving on").count();
        supervised.replace_program(&script(name, text));
        supervised.signal(Signal::USR2);
        eventually("the log tells that it stays", async || {
            (supervised.log().matches("no upgrade, serving on").count() > before).then_some(())
        })
        .await;
        assert!(ready(&supervised).await, "{name}");
        assert_eq!(program_of(supervised.worker()), old, "{name}: the old worker serves on");
    }
    // What tells a version and then does not serve has had its chance.
    supervised.replace_program(&script("dies", "#!/bin/sh\n[ \"$1\" = --version ] && echo supernode 9.9.9 && exit\nexit 7\n"));
    let callers = Callers::start(supervised.api());
    supervised.signal(Signal::USR2);
    supervised.next_worker().await;
    assert!(ready(&supervised).await);
    assert_eq!((program_of(supervised.worker()), program_of(supervised.supervisor())), (old, old), "the old program goes on");
    let log = supervised.log();
    assert!(log.contains("the new program was not ready before it ended; the old one goes on why=\"exit code 7\""), "{log}");
    // And a good one is still taken.
    supervised.replace_program(Path::new(binary()));
    supervised.signal(Signal::USR2);
    supervised.next_worker().await;
    assert_eq!(program_of(supervised.worker()), inode(&supervised.program()));
    callers.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_program_that_hangs_is_given_up() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let mut supervised = Supervised::start().await;
    let old = program_of(supervised.supervisor());
    let text = "#!/bin/sh\n[ \"$1\" = --version ] && echo supernode 9.9.9 && exit\nexec sleep 1000\n";
    supervised.replace_program(&script(directory.path(), "hangs", text));
    supervised.signal(Signal::USR2);
    supervised.next_worker().await;
    assert_eq!((program_of(supervised.worker()), program_of(supervised.supervisor())), (old, old), "the old program goes on");
    assert_eq!(exchange::ask(supervised.api(), get("/ready")).await.status, 200);
    let log = supervised.log();
    assert!(log.contains("the old one goes on why=\"it hung, and was killed\""), "{log}");
    assert!(!log.contains("the service died"), "nothing of the old program died: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_program_that_recovers_for_long_is_waited_for() {
    let mut supervised = Supervised::start().await;
    let old = program_of(supervised.supervisor());
    let database = std::fs::File::open(supervised.home().join("db/db")).expect("sled's file");
    let waiting = database.try_clone().expect("a second handle");
    // The old worker lets go of it, and the new one must wait.
    let locked = tokio::task::spawn_blocking(move || waiting.lock());
    supervised.replace_program(Path::new(binary()));
    supervised.signal(Signal::USR2);
    locked.await.expect("locking does not panic").expect("the lock of an old worker");
    // Longer than a program may be silent.
    tokio::time::sleep(Duration::from_secs(25)).await;
    database.unlock().expect("ours to unlock");
    supervised.next_worker().await;
    assert_ne!(program_of(supervised.worker()), old, "the new program was given up: {}", supervised.log());
}
