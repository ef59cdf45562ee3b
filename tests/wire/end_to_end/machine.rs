//! Failures of the machine under the service: they are told, they end, and nothing is taken for lost because of them.

use std::path::PathBuf;

use bytes::Bytes;
use serde_json::json;
use supernode::domain::TaskId;

use super::download;
use super::snapshots::done;
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, get, post_json, with_header};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::{random_content, range_of, slot_of};
use crate::harness::service::Service;

/// Four pieces, the last not full.
const FILE_BYTES: usize = 15_000_000;
const PIECES: usize = 4;
const SOURCE_FAIL: i64 = 604;
const CONTINUE: i64 = 601;
const FINISHED: i64 = 600;

fn piece_file(service: &Service, task: &str) -> PathBuf {
    service.home().join("pieces").join(&task[..3]).join(format!("{task}.0"))
}

/// A piece file that cannot be opened, though it is not gone: its name leads in a circle.
struct Unreadable {
    path: PathBuf,
    aside: tempfile::TempDir,
}

impl Unreadable {
    fn make(service: &Service, task: &str) -> Self {
        let path = piece_file(service, task);
        // On the file system of the home, or it could not be moved.
        let aside = tempfile::tempdir_in(service.home().parent().expect("a parent")).expect("a directory");
        std::fs::rename(&path, aside.path().join("file")).expect("moved");
        std::os::unix::fs::symlink(&path, &path).expect("linked");
        Self { path, aside }
    }

    fn undo(self) {
        std::fs::remove_file(&self.path).expect("removed");
        std::fs::rename(self.aside.path().join("file"), &self.path).expect("moved back");
    }
}

async fn stored(service: &Service) -> usize {
    service.dump().await.of_kind("piece").filter(|line| line["stored"] == true).count()
}

async fn served(service: &Service, task: &str, piece: u32) -> Bytes {
    let request = with_header(get(&format!("/qtdown/{}/{task}", &task[..3])), "range", &format!("bytes={}", range_of(piece)));
    exchange::call(service.download(), request).await.unwrap_or_else(|error| panic!("{error}")).body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_file_that_cannot_be_read_just_now_is_not_taken_for_lost() {
    let (origin, mut service, content) = (Origin::start().await, Service::start().await, random_content(FILE_BYTES));
    let url = origin.put("file", File::new(content.clone()));
    let task = download(&service, &url).await.task;
    let broken = Unreadable::make(&service, &task);
    let accusation = format!(
        "/peer/piece/error?errorType=FILE_MD5_NOT_MATCH&srcCid=reporter&dstCid=cdnnode:127.0.0.1~{task}&dstIp=127.0.0.1\
         &taskId={task}&range={}&realMd5={m}&expectedMd5={m}",
        range_of(1),
        m = "0".repeat(32)
    );
    assert_eq!(exchange::ask(service.api(), get(&accusation)).await.code, 200);
    eventually("the failed look is told", async || service.log().contains("stored pieces cannot be looked at").then_some(()))
        .await;
    assert_eq!(stored(&service).await, PIECES, "a look that failed took pieces for lost");

    service.kill9();
    service.restart().await;
    assert!(service.log().contains("piece file cannot be looked at"), "{}", service.log());
    assert_eq!(stored(&service).await, PIECES, "a start took pieces for lost that it could not look at");
    broken.undo();
    assert!(served(&service, &task, 1).await == slot_of(&content, 1), "what can be read again is served again");
    assert_eq!(origin.record("file").0.len(), 1, "the source was asked for what is here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_cannot_read_what_it_has_fails_and_goes_on_from_there_later() {
    let (origin, mut service, content) = (Origin::start().await, Service::start().await, random_content(FILE_BYTES));
    let url = origin.put("file", File { ending: Ending::StallsAfter(10_000_000), ..File::new(content.clone()) });
    let client = Client::start(&Release::GO_1_0_6).await;
    let registered = client.register(service.api(), &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    let task = registered.data["taskId"].as_str().expect("a task id").to_owned();
    eventually("two pieces are stored", async || (stored(&service).await == 2).then_some(())).await;
    service.kill9();
    origin.put("file", File::new(content.clone()));
    let broken = Unreadable::make(&service, &task);
    service.restart().await;
    let question = format!("/peer/task?taskId={task}&srcCid={}&status=700&result=502", client.cid());
    let answer = eventually("the client is told", async || {
        let answer = exchange::ask(service.api(), get(&question)).await;
        (answer.code == SOURCE_FAIL).then_some(answer)
    })
    .await;
    let home = service.home();
    assert!(!answer.msg.contains(home.to_str().expect("UTF-8")), "a client is told where files are: {answer}");
    assert_eq!(stored(&service).await, 2, "what could not be read was taken for lost");
    broken.undo();
    // After the wait that a failure is given, a registration has it go on.
    eventually("the download goes on", async || {
        let again = Client::start(&Release::GO_1_0_6).await;
        let registered = again.register(service.api(), &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
        (registered.code != SOURCE_FAIL).then_some(())
    })
    .await;
    assert!(download(&service, &url).await.content == content, "the file arrived with other bytes");
    let starts: Vec<u64> = origin.record("file").0.iter().map(|seen| seen.start).collect();
    assert!(starts.len() == 2 && starts[1] > 0, "the download did not go on where it was: {starts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_was_lost_of_a_source_without_validators_is_mended_by_reading_it_once() {
    let (origin, mut service, content) = (Origin::start().await, Service::start().await, random_content(FILE_BYTES));
    let url = origin.put("file", File { unvalidated: true, ..File::new(content.clone()) });
    let task = download(&service, &url).await.task;
    let (home, snapshot) = (service.home(), service.home().join("s.snap"));
    let (home, snapshot) = (home.to_str().expect("UTF-8"), snapshot.to_str().expect("UTF-8"));
    done(&["snapshot", "--home-dir", home, "--output", snapshot]).await;
    assert!(service.terminate().await.success(), "an orderly stop");
    let path = piece_file(&service, &task);
    let mut bytes = std::fs::read(&path).expect("readable");
    for piece in [0, 2] {
        bytes[piece * 4 * 1024 * 1024 + 100] ^= 1;
    }
    std::fs::write(&path, bytes).expect("written");
    // A restore compares every piece with its digest.
    done(&["restore", snapshot, "--home-dir", home, "--force"]).await;
    let asked_before = origin.record("file").0.len();
    service.restart().await;
    eventually("the file is whole", async || (stored(&service).await == PIECES).then_some(())).await;
    assert_eq!(origin.record("file").0.len(), asked_before + 1, "one pass mends two pieces");
    for piece in 0..4 {
        assert!(served(&service, &task, piece).await == slot_of(&content, piece), "piece {piece} is damaged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_whole_but_for_a_record_of_a_piece_fetches_that_piece() {
    for missing in [1_u32, 3] {
        let (origin, mut service, content) = (Origin::start().await, Service::start().await, random_content(FILE_BYTES));
        let url = origin.put("file", File::new(content.clone()));
        let task = download(&service, &url).await.task;
        assert!(service.terminate().await.success(), "an orderly stop");
        {
            let database = sled::open(service.home().join("db")).expect("the database can be opened");
            let key = [TaskId::parse(&task).expect("a task id").as_bytes().as_slice(), &missing.to_be_bytes()].concat();
            let removed = database.open_tree("pieces").expect("a tree").remove(key).expect("removed");
            assert!(removed.is_some(), "the record was there");
            database.flush().expect("flushed");
        }
        service.restart().await;
        let state = async || service.dump().await.of_kind("task").next().expect("a task")["state"].clone();
        eventually("the file is whole again", async || {
            (stored(&service).await == PIECES && state().await == "SUCCESS").then_some(())
        })
        .await;
        assert_eq!(origin.record("file").0.len(), 2, "one request brings it: {:?}", origin.record("file"));
        assert!(download(&service, &url).await.content == content, "the file arrived with other bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_wait_for_their_turn_do_not_keep_others_from_being_asked() {
    // More than are asked at once and wait with an open connection, together.
    const SOURCES: usize = 530;
    let origin = Origin::start().await;
    let first = origin.put("first", File { ending: Ending::StallsAfter(1000), ..File::new(random_content(5_000_000)) });
    let service = Service::start_configured("base:\n  downloadsMax: 1\n").await;
    let register = async |url: &str, cid: &str| {
        let body = json!({
            "rawUrl": url, "taskUrl": url, "cid": cid, "ip": "127.0.0.1", "port": 15001, "path": "/p", "version": "1.0.6",
        });
        exchange::ask(service.api(), post_json("/peer/registry", &body)).await
    };
    assert_eq!(register(&first, "c").await.code, 200);
    for number in 0..SOURCES {
        let name = format!("file-{number}");
        let url = origin.put(&name, File::new(Bytes::from(name.clone())));
        let answer = register(&url, "c").await;
        let length = i64::try_from(name.len()).expect("short");
        assert_eq!((answer.code, answer.data["fileLength"].as_i64()), (200, Some(length)), "{name}: {answer}");
    }
    // The one that was in the way breaks off and comes; then all others do.
    origin.put("first", File::new(random_content(5_000_000)));
    eventually("every source is here", async || {
        let dump = service.dump().await;
        let whole = dump.of_kind("task").filter(|line| line["state"] == "SUCCESS").count();
        (whole >= SOURCES).then_some(())
    })
    .await;
    let asked_most = (0..SOURCES).map(|number| origin.record(&format!("file-{number}")).0.len()).max();
    assert!(asked_most <= Some(2), "a source was asked {asked_most:?} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_snapshot_left_is_removed_by_a_start_that_takes_none() {
    let mut service = Service::start_configured("base:\n  snapshotInterval: 0\n").await;
    service.kill9();
    let snapshots = service.home().join("snapshots");
    std::fs::create_dir_all(&snapshots).expect("made");
    std::fs::write(snapshots.join("1.snap.partial"), "half").expect("written");
    service.restart().await;
    assert_eq!(std::fs::read_dir(&snapshots).expect("readable").count(), 0, "half a snapshot is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_told_it_has_everything_is_done_for_good() {
    let (origin, mut service) = (Origin::start().await, Service::start().await);
    let url = origin.put("file", File::new(random_content(2000)));
    let client = std::sync::Arc::new(Client::start(&Release::GO_1_0_6).await);
    let task = client.download(service.api(), &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}")).task;
    service.kill9();
    service.restart().await;
    let dump = service.dump().await;
    let states: Vec<_> = dump.of_kind("client").map(|line| line["state"].clone()).collect();
    assert_eq!(states, ["SUCCESS"]);
    // One that comes again is running again, and done again.
    let question = format!("/peer/task?taskId={task}&srcCid={}&status=700&result=502", client.cid());
    let answer = exchange::ask(service.api(), get(&question)).await;
    assert_eq!(answer.code, FINISHED, "{answer}");
    let metrics = exchange::call(service.api(), get("/metrics")).await.expect("answered");
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("dfgettasks{callsystem=\"\",status=\"SUCCESS\"} 1"), "{metrics}");
    assert_ne!(answer.code, CONTINUE);
}
