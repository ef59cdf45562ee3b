//! A database that is put in the place of another, and is cut short at any step: there is the old one or the new one,
//! whole, and never neither.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use serde_json::json;

use crate::fault::{ALWAYS, CREATE, Moment, SYNC, WRITE};
use crate::files::copy;
use crate::from_environment;
use crate::harness::eventually;
use crate::harness::exchange::{self, post_json, request};
use crate::harness::origin::{File, Origin};
use crate::stage::{Addresses, Stage, Started, ask_control, was_killed};

const PEERS_BEFORE_SNAPSHOT: u32 = 30;
const PEERS_AFTER_SNAPSHOT: u32 = 5;
/// Tasks that go, with identifiers of so many bytes, leave a file that is written anew.
const TASKS_THAT_GO: u32 = 40;
const IDENTIFIER_BYTES: usize = 400_000;
const FILE_BYTES_MIN: u64 = 8 * 1024 * 1024;
const COLLECTING_AT_ONCE: [&str; 2] = ["--gc-initial-delay=0s", "--gc-meta-interval=1s"];
const COLLECTING_SOON: [&str; 1] = ["--gc-initial-delay=1s"];
const WRITTEN_ANEW: &str = "wrote the database anew";
const NOT_WRITTEN_ANEW: &str = "could not be written anew";
const START_AGAIN: i32 = 75;
/// What the hosts of peers are called that come while a database is written anew.
const ADDED: &str = "added";
/// How long a service may take to come to the step that kills it, or to find that its database can be written again.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// Of the steps so many are tried in a test; a soak tries all.
const STEPS_TRIED: u64 = 12;

/// A home that has more than its snapshot.
struct Used {
    stage: Stage,
    sound: tempfile::TempDir,
    /// The rows of its database, and of its snapshot.
    before: Vec<String>,
    in_snapshot: Vec<String>,
}

impl Used {
    async fn new() -> Self {
        let mut stage = Stage::new(true);
        let addresses = serving(&mut stage, "a new home").await;
        add_peers(addresses, PEERS_BEFORE_SNAPSHOT).await;
        let in_snapshot = stage.dump().await.sorted();
        let path = stage.home().join("snapshots/1.snap");
        let answer = ask_control(&stage.home(), "POST", &format!("/snapshot?output={}", path.display())).await;
        assert!(path.exists(), "no snapshot: {answer:?}");
        add_peers(addresses, PEERS_AFTER_SNAPSHOT).await;
        let before = stage.dump().await.sorted();
        assert_ne!(before, in_snapshot);
        stage.kill();
        let sound = tempfile::tempdir().expect("a directory");
        copy(&stage.home(), sound.path());
        Self { stage, sound, before, in_snapshot }
    }

    /// One whose database is large and holds little.
    async fn sparse() -> Self {
        let mut stage = Stage::new(true);
        let addresses = serving(&mut stage, "a new home").await;
        add_peers(addresses, PEERS_BEFORE_SNAPSHOT).await;
        let (origin, mut tasks) = (Origin::start().await, Vec::new());
        for number in 0..TASKS_THAT_GO {
            let url = origin.put(&format!("file-{number}"), File::new("content"));
            let body = json!({
                "rawUrl": url, "cid": "c-1", "ip": "127.0.0.1", "port": 1, "path": "/p", "identifier": "i".repeat(IDENTIFIER_BYTES)
            });
            let answer = exchange::ask(addresses.api, post_json("/peer/registry", &body)).await;
            assert_eq!(answer.code, 200, "{answer}");
            tasks.push(answer.data["taskId"].as_str().expect("a task").to_owned());
        }
        for task in tasks {
            let delete = request("DELETE", &format!("/api/v1/tasks/{task}?full=true"), Bytes::new());
            let response = exchange::call(addresses.api, delete).await.expect("an answer");
            assert_eq!(response.status, 204, "{response}");
        }
        let before = stage.dump().await.sorted();
        stage.kill();
        let bytes = database_bytes(&stage.home());
        assert!(bytes > FILE_BYTES_MIN, "{bytes} bytes are not large");
        let sound = tempfile::tempdir().expect("a directory");
        copy(&stage.home(), sound.path());
        Self { stage, sound, before, in_snapshot: Vec::new() }
    }

    fn renew(&self) -> PathBuf {
        let home = self.stage.home();
        std::fs::remove_dir_all(&home).expect("removed");
        copy(self.sound.path(), &home);
        self.stage.faults.forget_unsynced();
        home
    }

    /// Starts a service that collects at once, and tells what it has when its database is small, and what it said.
    async fn found_small(&mut self, what: &str) -> (Vec<String>, String) {
        let was_large = database_bytes(&self.stage.home()) >= FILE_BYTES_MIN;
        serving_with(&mut self.stage, &COLLECTING_AT_ONCE, what).await;
        let at_first = self.stage.dump().await.sorted();
        let home = self.stage.home();
        eventually("the database is small and alone", async || {
            let is_done = database_bytes(&home) < FILE_BYTES_MIN && !is_beside_another(&home);
            (is_done && (!was_large || self.stage.said().contains(WRITTEN_ANEW))).then_some(())
        })
        .await;
        let found = self.stage.dump().await.sorted();
        let said = self.stage.said();
        assert!(at_first == found, "{what}: it has other rows than before it was written anew; {said}");
        self.stage.kill();
        (found, said)
    }

    /// Starts the service and tells what it has, and what it said.
    async fn found(&mut self, what: &str) -> (Vec<String>, String) {
        serving(&mut self.stage, what).await;
        let found = self.stage.dump().await.sorted();
        let said = self.stage.said();
        self.stage.kill();
        (found, said)
    }
}

async fn serving(stage: &mut Stage, what: &str) -> Addresses {
    serving_with(stage, &[], what).await
}

async fn serving_with(stage: &mut Stage, arguments: &[&str], what: &str) -> Addresses {
    match stage.start_with(arguments).await {
        Started::Serving(addresses) => addresses,
        Started::Died(status) => panic!("{what}: {status} instead of serving; its log:\n{}", stage.log()),
    }
}

async fn add_peers(addresses: Addresses, count: u32) {
    for number in 0..count {
        let body = json!({ "IP": "10.0.0.1", "hostName": format!("host-{number}"), "port": 15001 });
        let response = exchange::call(addresses.api, post_json("/api/v1/peers", &body)).await.expect("an answer");
        assert_eq!(response.status, 201, "{response}");
    }
}

/// One after the other, until the service is dead. Tells how many were acknowledged.
async fn add_peers_until_death(addresses: Addresses, run: u64) -> usize {
    for number in 0.. {
        let body = json!({ "IP": "10.0.0.2", "hostName": format!("{ADDED}-{run}-{number}"), "port": 15001 });
        match exchange::call(addresses.api, post_json("/api/v1/peers", &body)).await {
            Ok(response) => assert_eq!(response.status, 201, "{response}"),
            Err(_) => return number,
        }
    }
    unreachable!("services die")
}

/// The steps to be tried of so many.
fn some_of(steps: u64, random: &mut fastrand::Rng) -> Vec<u64> {
    let every = if from_environment("CRASH_EVERY_STEP", 0) > 0 { 1 } else { (steps / STEPS_TRIED).max(1) };
    let mut tried: Vec<u64> = (1 + random.u64(..every)..=steps).step_by(usize::try_from(every).expect("small")).collect();
    // After which there is the new one.
    tried.extend((tried.last() != Some(&steps)).then_some(steps));
    tried
}

fn random() -> fastrand::Rng {
    let seed = from_environment("CRASH_SEED", fastrand::u64(..));
    println!("steps with CRASH_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_cut_short_leaves_the_old_or_the_restored_database() {
    let (mut random, mut used) = (random(), Used::new().await);
    let snapshot = used.sound.path().join("snapshots/1.snap").display().to_string();
    let arguments = [snapshot.as_str(), "--force"];
    used.renew();
    let first = used.stage.faults.steps();
    assert!(used.stage.run("restore", &arguments).await.status.success());
    let steps = used.stage.faults.steps() - first;
    let (found, _) = used.found("restored").await;
    assert!(found == used.in_snapshot, "a restore restores");
    let (mut old, mut new) = (0, 0);
    for step in some_of(steps, &mut random) {
        let moment = [Moment::Before, Moment::After, Moment::Half][random.usize(..3)];
        let home = used.renew();
        used.stage.faults.kill_at(used.stage.faults.steps() + step, moment);
        let output = used.stage.run("restore", &arguments).await;
        let (_, what) = used.stage.faults.spare().expect("it was killed by this");
        assert!(was_killed(output.status));
        let lost = if random.bool() { used.stage.faults.lose_power(&mut random) } else { Vec::new() };
        let case = format!("{moment:?} step {step} of {steps}, {what}; lost with the power: {lost:#?}");
        let (found, said) = used.found(&case).await;
        assert!(found == used.before || found == used.in_snapshot, "{case}: neither database is there; {said}");
        assert!(!said.contains("ERROR"), "{case}: {said}");
        let left = beside_the_database(&home);
        let is_leftover = |name: &&String| name.ends_with("restoring") || name.ends_with("restored");
        assert!(!left.iter().any(|name| is_leftover(&name)), "{case}: {left:?}");
        if found == used.before { old += 1 } else { new += 1 }
    }
    assert!(old > 0 && new > 0, "{old} old ones and {new} new ones: the steps are not tried");
}

fn beside_the_database(home: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(home).expect("readable");
    entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rescue_that_is_cut_short_is_begun_again_or_finished() {
    let (mut random, mut used) = (random(), Used::new().await);
    let damage = |home: &Path| {
        // Not a torn end, which would be the last commits; not gone, which would be nothing to set aside.
        let mut bytes = std::fs::read(home.join("db/db")).expect("readable");
        bytes[40..400].fill(0xee);
        std::fs::write(home.join("db/db"), bytes).expect("written");
    };
    damage(&used.renew());
    let first = used.stage.faults.steps();
    let (found, said) = used.found("damaged").await;
    let steps = used.stage.faults.steps() - first;
    assert!(found == used.in_snapshot && said.contains("restoring the newest snapshot"), "{said}");
    for step in some_of(steps, &mut random) {
        let moment = [Moment::Before, Moment::After, Moment::Half][random.usize(..3)];
        let home = used.renew();
        damage(&home);
        used.stage.faults.kill_at(used.stage.faults.steps() + step, moment);
        let mut said_before = String::new();
        match used.stage.start().await {
            Started::Died(status) => {
                assert!(was_killed(status), "{status}");
                said_before = used.stage.said();
            }
            // The last steps are taken when it serves already.
            Started::Serving(_) => drop(used.stage.kill()),
        }
        let what = used.stage.faults.spare().map_or_else(|| "nothing".to_owned(), |(_, what)| what);
        let lost = if random.bool() { used.stage.faults.lose_power(&mut random) } else { Vec::new() };
        let case = format!("{moment:?} step {step} of {steps}, {what}; lost with the power: {lost:#?}");
        let (found, said) = used.found(&case).await;
        assert!(found == used.in_snapshot, "{case}: another database than the snapshot's; {said_before}\nand then {said}");
        let left = beside_the_database(&home);
        assert!(left.iter().any(|name| name.starts_with("db.damaged-")), "{case}: what was damaged is not kept: {left:?}");
    }
}

/// 0 while another takes its place.
fn database_bytes(home: &Path) -> u64 {
    std::fs::metadata(home.join("db/db")).map_or(0, |metadata| metadata.len())
}

fn is_beside_another(home: &Path) -> bool {
    beside_the_database(home).iter().any(|name| name.starts_with("db."))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_that_is_cut_short_leaves_every_row() {
    let (mut random, mut used) = (random(), Used::sparse().await);
    used.renew();
    let (found, said) = used.found("sparse").await;
    assert!(found == used.before && !said.contains(WRITTEN_ANEW), "{said}");
    used.renew();
    let first = used.stage.faults.steps();
    serving(&mut used.stage, "only a start").await;
    used.stage.kill();
    let of_start = used.stage.faults.steps() - first;
    used.renew();
    let first = used.stage.faults.steps();
    let (found, said) = used.found_small("sparse").await;
    let steps = used.stage.faults.steps() - first;
    assert!(found == used.before && said.contains(WRITTEN_ANEW), "{said}");
    assert!(steps > of_start + 10, "{steps} steps, {of_start} of them of the start");
    let (mut again, mut over, mut total) = (0, 0, 0);
    for step in some_of(steps - of_start, &mut random).into_iter().map(|step| of_start + step) {
        let moment = [Moment::Before, Moment::After, Moment::Half][random.usize(..3)];
        let home = used.renew();
        used.stage.faults.kill_at(used.stage.faults.steps() + step, moment);
        let (acknowledged, status) = match used.stage.start_with(&COLLECTING_AT_ONCE).await {
            Started::Died(status) => (0, status),
            Started::Serving(addresses) => {
                tokio::join!(add_peers_until_death(addresses, step), used.stage.let_die(ENDS_WITHIN))
            }
        };
        assert!(was_killed(status), "{status}");
        let what = used.stage.faults.spare().map_or_else(|| "nothing".to_owned(), |(_, what)| what);
        let lost = if random.bool() { used.stage.faults.lose_power(&mut random) } else { Vec::new() };
        let case = format!("{moment:?} step {step} of {steps}, {what}; lost with the power: {lost:#?}");
        let is_large = database_bytes(&home) >= FILE_BYTES_MIN;
        let (found, said) = used.found_small(&case).await;
        let (added, before): (Vec<String>, Vec<String>) = found.into_iter().partition(|row| row.contains(ADDED));
        assert!(before == used.before, "{case}: other rows than before; {said}");
        // The last one may be there without anybody having been told.
        let is_right = added.len() == acknowledged || added.len() == acknowledged + 1;
        assert!(is_right, "{case}: {acknowledged} were acknowledged, and there are {}; {said}", added.len());
        total += acknowledged;
        assert!(!said.contains("ERROR"), "{case}: {said}");
        if is_large { again += 1 } else { over += 1 }
    }
    assert!(again > 0 && over > 0, "{again} begun again and {over} finished: the steps are not tried");
    assert!(total > 0, "nothing was acknowledged meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_for_which_there_is_no_room_leaves_the_database_as_it_is() {
    let mut used = Used::sparse().await;
    for operations in [WRITE, SYNC, CREATE] {
        let home = used.renew();
        let large = database_bytes(&home);
        used.stage.faults.fail(operations, "/home/db.restoring/", Errno::NOSPC, ALWAYS);
        let addresses = serving_with(&mut used.stage, &COLLECTING_AT_ONCE, "sparse").await;
        eventually("it is tried", async || used.stage.said().contains(NOT_WRITTEN_ANEW).then_some(())).await;
        eventually("what was built is gone", async || (!is_beside_another(&home)).then_some(())).await;
        // sled cuts off what is free at the end of its file; one that is written anew is less than a third.
        assert!(database_bytes(&home) > large / 2, "{operations}: it is another: {}", used.stage.said());
        assert!(!used.stage.said().contains(WRITTEN_ANEW), "{operations}: {}", used.stage.said());
        assert!(used.stage.dump().await.sorted() == used.before, "{operations}: {}", used.stage.said());
        add_peers(addresses, 1).await;
        used.stage.faults.heal();
        eventually("it is tried again", async || used.stage.said().contains(WRITTEN_ANEW).then_some(())).await;
        assert_eq!(used.stage.dump().await.sorted().len(), used.before.len() + 1, "what was added is there");
        used.stage.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_looks_too_small_for_a_rewrite_has_none() {
    let mut used = Used::sparse().await;
    let home = used.renew();
    used.stage.faults.leave_free(Some(FILE_BYTES_MIN / 4));
    serving_with(&mut used.stage, &COLLECTING_AT_ONCE, "sparse").await;
    eventually("it is told", async || used.stage.said().contains(NOT_WRITTEN_ANEW).then_some(())).await;
    let told = format!("and the disk has {} bytes left", FILE_BYTES_MIN / 4);
    assert!(used.stage.said().contains(&told), "{}", used.stage.said());
    assert!(database_bytes(&home) >= FILE_BYTES_MIN && !is_beside_another(&home));
}

/// sled panics where it cannot sync what it closes; and of what was opened anew nothing is known to be on the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_could_not_be_closed_to_be_written_anew_is_written_no_more_until_it_can_be() {
    let mut used = Used::sparse().await;
    let home = used.renew();
    serving_with(&mut used.stage, &COLLECTING_SOON, "sparse").await;
    used.stage.faults.fail(SYNC, "/home/db/", Errno::IO, ALWAYS);
    eventually("it is tried", async || used.stage.said().contains(NOT_WRITTEN_ANEW).then_some(())).await;
    let degraded = "degraded: pieces are still served";
    eventually("nobody waits for a commit", async || used.stage.said().contains(degraded).then_some(())).await;
    used.stage.faults.heal();
    let status = used.stage.let_die(ENDS_WITHIN).await;
    assert_eq!(status.code(), Some(START_AGAIN), "{}", used.stage.said());
    let (found, said) = used.found_small("healed").await;
    assert!(found == used.before && !said.contains("ERROR"), "{said}");
    assert!(database_bytes(&home) < FILE_BYTES_MIN);
}
