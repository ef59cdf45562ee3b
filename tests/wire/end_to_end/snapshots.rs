//! `supernode snapshot`, `restore`, `check` and `migrate`.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use super::{download, download_wanted};
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::dump::{Dump, output};
use crate::harness::eventually;
use crate::harness::exchange::{self, get};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::{Service, binary};

const IN_USE: i32 = 3;
const CONTINUE: i64 = 601;

async fn run(args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(args);
    output(command).await
}

/// Runs what must go well, and tells what it printed.
pub async fn done(args: &[&str]) -> String {
    let output = run(args).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?} ended with {}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs what must be refused, and tells why it said it was.
async fn refused(args: &[&str], code: i32) -> String {
    let output = run(args).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    said
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_running_service_becomes_a_home_that_serves_the_same() {
    let origin = Origin::start().await;
    let mut service = Service::start().await;
    let content = random_content(9_000_000);
    let url = origin.put("file", File::new(content.clone()));
    let task = download(&service, &url).await.task;
    let (home, other) = (service.home(), tempfile::tempdir().expect("a directory"));
    let snapshot = other.path().join("s.snap");
    let said = done(&["snapshot", "--home-dir", text(&home), "--output", text(&snapshot)]).await;
    assert!(said.contains("took ") && !said.contains("0ns"), "nothing takes no time: {said}");
    done(&["check", "--snapshot", text(&snapshot)]).await;
    eventually("it is told", async || service.log().contains("made a new database").then_some(())).await;
    let log = service.log();
    assert!(!log.contains("migrated"), "a new database is no old one: {log}");
    let before = service.dump().await;

    // Another home, without the piece files: everything is known, and the pieces will be fetched again.
    let new = other.path().join("home");
    done(&["restore", text(&snapshot), "--home-dir", text(&new)]).await;
    let kinds =
        |dump: &Dump| Dump(dump.0.iter().filter(|line| line["kind"] != "piece" && line["kind"] != "task").cloned().collect());
    let restored = Dump::of(&new).await;
    assert_eq!(kinds(&restored).sorted(), kinds(&before).sorted());
    assert!(restored.of_kind("piece").all(|line| line["stored"] == false), "pieces without files are lost");
    assert_eq!(restored.piece_md5(&task, 1), before.piece_md5(&task, 1), "their digests are known");

    // The same home: the pieces are there.
    let said = refused(&["restore", text(&snapshot), "--home-dir", text(&home), "--force"], IN_USE).await;
    assert!(said.contains("in use"), "{said}");
    assert!(service.terminate().await.success(), "an orderly stop");
    let said = refused(&["restore", text(&snapshot), "--home-dir", text(&home)], 1).await;
    assert!(said.contains("--force"), "{said}");
    done(&["restore", text(&snapshot), "--home-dir", text(&home), "--force"]).await;
    assert_eq!(Dump::of(&home).await.sorted(), before.sorted());
    done(&["check", "--home-dir", text(&home)]).await;
    let fetched_before = origin.record("file").body_bytes();
    service.restart().await;
    assert!(download(&service, &url).await.content == content);
    assert_eq!(origin.record("file").body_bytes(), fetched_before, "what is here is not fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_anywhere_leaves_the_old_or_the_new_home() {
    const KILLS: u32 = 30;
    let origin = Origin::start().await;
    let mut service = Service::start().await;
    let (home, directory) = (service.home(), tempfile::tempdir().expect("a directory"));
    let snapshot = directory.path().join("s.snap");
    download(&service, &origin.put("first", File::new(random_content(2000)))).await;
    let new = service.dump().await.sorted();
    done(&["snapshot", "--home-dir", text(&home), "--output", text(&snapshot)]).await;
    download(&service, &origin.put("second", File::new(random_content(2000)))).await;
    let mut here = service.dump().await.sorted();
    assert!(service.terminate().await.success(), "an orderly stop");
    let began = Instant::now();
    done(&["restore", text(&snapshot), "--home-dir", text(&directory.path().join("timed"))]).await;
    let whole = began.elapsed();
    for kill in 0..KILLS {
        let mut command = Command::new(binary());
        command.args(["restore", text(&snapshot), "--force", "--home-dir", text(&home)]).stdout(Stdio::null());
        let mut restoring = command.spawn().expect("the binary can be run");
        // The moments of the kills are spread over the time of a restore, and some are after it.
        tokio::time::sleep(whole * kill * 2 / KILLS).await;
        restoring.kill().expect("ours to kill");
        restoring.wait().expect("ours to wait for");
        let found = Dump::of(&home).await.sorted();
        assert!(found == here || found == new, "kill {kill} leaves a home that is neither the old nor the new one");
        here = found;
    }
    done(&["restore", text(&snapshot), "--force", "--home-dir", text(&home)]).await;
    assert!(Dump::of(&home).await.sorted() == new, "a restore that nobody kills ends in the new home");
    let names = std::fs::read_dir(&home).expect("readable").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let left: Vec<String> = names.filter(|name| matches!(name.as_str(), "db.restoring" | "db.restored")).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_changes_nothing() {
    let origin = Origin::start().await;
    let mut service = Service::start().await;
    download(&service, &origin.put("file", File::new(random_content(2000)))).await;
    let (home, before) = (service.home(), service.dump().await);
    let snapshot = home.join("s.snap");
    done(&["snapshot", "--home-dir", text(&home), "--output", text(&snapshot)]).await;
    assert!(service.terminate().await.success(), "an orderly stop");
    let mut bytes = std::fs::read(&snapshot).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&snapshot, bytes).expect("written");
    let said = refused(&["restore", text(&snapshot), "--home-dir", text(&home), "--force"], 1).await;
    assert!(said.contains("damaged"), "{said}");
    let said = refused(&["check", "--snapshot", text(&snapshot)], 1).await;
    assert!(said.contains("damaged") && said.contains("remove this one"), "{said}");
    assert_eq!(Dump::of(&home).await.sorted(), before.sorted());
    let beside = std::fs::read_dir(&home).expect("readable").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    assert!(beside.into_iter().all(|name| !name.starts_with("db.")), "something is left of the attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_what_a_file_is_that_is_no_sound_snapshot() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("s.snap");
    let said = refused(&["check", "--snapshot", text(&file)], 1).await;
    assert!(said.contains("cannot open") && !said.contains("PROBLEM"), "nothing was checked: {said}");
    std::fs::write(&file, "anything, and more of it").expect("written");
    let said = refused(&["check", "--snapshot", text(&file)], 1).await;
    assert!(said.contains("is this the right file?") && !said.contains("remove"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_goes_into_no_directory_that_is_not_there() {
    let mut service = Service::start().await;
    let home = service.home();
    let output = home.join("absent").join("s.snap");
    for running in [true, false] {
        if !running {
            assert!(service.terminate().await.success(), "an orderly stop");
        }
        let said = refused(&["snapshot", "--home-dir", text(&home), "--output", text(&output)], 1).await;
        let remedy = format!("the directory {} is not there: make it", home.join("absent").display());
        assert!(said.contains(&remedy) && !home.join("absent").exists(), "{said}");
        done(&["snapshot", "--home-dir", text(&home)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_with_credentials_waits_after_a_restore_for_the_next_registration() {
    let origin = Origin::start().await;
    let content = random_content(9_000_000);
    let authorization = "Bearer planted-secret-token".to_owned();
    let file = File { authorization: Some(authorization.clone()), ..File::new(content.clone()) };
    let stalling = File { ending: Ending::StallsAfter(5_000_000), ..file.clone() };
    let wanted =
        Wanted { headers: vec![format!("Authorization: {authorization}")], ..Wanted::url(&origin.put("file", stalling)) };
    let mut service = Service::start().await;
    let first = Client::start(&Release::GO_1_0_6).await;
    let registered = first.register(service.api(), &wanted).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    let task = registered.data["taskId"].as_str().expect("a task id").to_owned();
    eventually("the first piece is stored", async || service.dump().await.piece_md5(&task, 0).map(|_| ())).await;
    let home = service.home();
    let snapshot = home.join("s.snap");
    done(&["snapshot", "--home-dir", text(&home), "--output", text(&snapshot)]).await;
    assert!(service.terminate().await.success(), "an orderly stop");
    done(&["restore", text(&snapshot), "--home-dir", text(&home), "--force"]).await;
    let asked_before = origin.record("file").0.len();
    origin.put("file", file);
    service.restart().await;

    // The source is not asked without the headers, and whoever waits is told so.
    let question = format!("/peer/task?taskId={task}&srcCid={}&status=700&result=502", first.cid());
    eventually("the client is told to leave", async || {
        let answer = exchange::ask(service.api(), get(&question)).await;
        (answer.code != CONTINUE && answer.msg.contains("snapshot")).then_some(())
    })
    .await;
    assert_eq!(origin.record("file").0.len(), asked_before, "the source was asked without its headers");

    // The next registration brings them, and the download goes on where it was.
    let got = download_wanted(&service, &wanted).await;
    assert!(got.content == content);
    let resumed = origin.record("file").0.last().map(|seen| seen.start);
    assert!(resumed.is_some_and(|start| start > 0), "the download began anew: {resumed:?}");
    assert!(service.terminate().await.success(), "an orderly stop");
    let dump = service.dump().await;
    let names = dump.of_kind("task").next().map(|line| line["headerNames"].to_string());
    assert_eq!(names.as_deref(), Some("[]"), "headers are kept no longer than the source may be asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_what_is_wrong_with_piece_files() {
    let origin = Origin::start().await;
    let mut service = Service::start().await;
    let task = download(&service, &origin.put("file", File::new(random_content(9_000_000)))).await.task;
    let home = service.home();
    let said = refused(&["check", "--home-dir", text(&home)], IN_USE).await;
    assert!(said.contains("--snapshot"), "{said}");
    assert!(service.terminate().await.success(), "an orderly stop");
    done(&["check", "--home-dir", text(&home)]).await;

    let directory = home.join("pieces").join(&task[..3]);
    let file = directory.join(format!("{task}.0"));
    let mut bytes = std::fs::read(&file).expect("readable");
    bytes[4_194_304 + 100] ^= 1;
    bytes.truncate(8_388_608 + 10);
    std::fs::write(&file, bytes).expect("written");
    std::fs::write(directory.join("stranger"), "x").expect("written");
    let said = refused(&["check", "--home-dir", text(&home)], 1).await;
    for expected in ["piece 1 of", "other bytes", "piece 2 of", "not on disk", "stranger belongs to no task"] {
        assert!(said.contains(expected), "nothing about {expected:?}: {said}");
    }
    assert!(!said.contains("piece 0 of"), "{said}");
}

/// Every schema that was released, the steps that bring it up to date, and how many clients its fixture has.
const RELEASED: [(u32, &[u32], usize); 3] = [(1, &[2, 3, 4], 4), (2, &[3, 4], 3), (3, &[4], 3)];

#[tokio::test(flavor = "multi_thread")]
async fn a_home_of_every_released_schema_is_migrated_with_a_snapshot_before() {
    for (schema, steps, clients) in RELEASED {
        let directory = tempfile::tempdir().expect("a directory");
        let home = directory.path().join("home");
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/schema-{schema}"));
        std::fs::create_dir_all(home.join("db")).expect("made");
        std::fs::copy(fixture.join("conf"), home.join("db/conf")).expect("copied");
        let packed = std::fs::File::open(fixture.join("db.zst")).expect("the fixture is there");
        std::fs::write(home.join("db/db"), zstd::decode_all(packed).expect("unpacked")).expect("written");
        let expected = Dump::parse(&std::fs::read_to_string(fixture.join("dump.jsonl")).expect("readable")).sorted();
        assert_eq!(Dump::of(&home).await.sorted(), expected, "schema {schema}, before");

        // Only the piece files are not there, and an older schema is no damage.
        let said = refused(&["check", "--home-dir", text(&home)], 1).await;
        assert!(said.lines().filter(|line| line.starts_with("PROBLEM")).all(|line| line.contains("not on disk")), "{said}");

        let said = done(&["migrate", "--dry-run", "--home-dir", text(&home)]).await;
        for step in steps {
            assert!(said.contains(&format!("would run step {step}")), "{said}");
        }
        let said = done(&["migrate", "--home-dir", text(&home)]).await;
        assert!(said.contains(&format!("step {}", steps[0])) && said.contains(".snap"), "{said}");
        assert_eq!(Dump::of(&home).await.sorted(), expected, "schema {schema}, after");
        let said = done(&["migrate", "--home-dir", text(&home)]).await;
        assert!(said.contains("nothing to do"), "{said}");

        // The snapshot that was taken before is of the old schema, and restoring it migrates.
        let snapshot = std::fs::read_dir(home.join("snapshots")).expect("there").next().expect("one").expect("readable").path();
        let other = directory.path().join("other");
        done(&["restore", text(&snapshot), "--home-dir", text(&other)]).await;
        let said = done(&["migrate", "--home-dir", text(&other)]).await;
        assert!(said.contains("nothing to do"), "{said}");
        assert_eq!(Dump::of(&other).await.of_kind("client").count(), clients);
        let said = refused(&["check", "--home-dir", text(&home)], 1).await;
        assert!(said.lines().filter(|line| line.starts_with("PROBLEM")).all(|line| line.contains("not on disk")), "{said}");
    }
}
