//! Disks that are full or fail, under a service that runs and under one that starts.
//!
//! What fails is told, ends where it is, and passes: nothing that was acknowledged is lost, nothing is acknowledged that is
//! not durable, and what is on disk is served all the while.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use rustix::process::Signal;
use serde_json::json;
use supernode::domain::TaskId;

use crate::fault::{ALWAYS, CREATE, OPEN, READ, RENAME, SYNC, WRITE};
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::dump::Dump;
use crate::harness::eventually;
use crate::harness::exchange::{self, Answer, get, post_json, with_header};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::{random_content, range_of, slot_of};
use crate::stage::{Addresses, Stage, Started, supervised};

/// Two pieces.
const FILE_BYTES: usize = 6_000_000;
/// Of these, the first piece and some of the second.
const BEGUN_BYTES: u64 = 5_000_000;
/// A file may have the first piece and some of the second.
const FILE_LIMIT_BYTES: u64 = 5 * 1024 * 1024;
const GO_ON: i64 = 601;
const WAIT: i64 = 602;
const SOURCE_FAIL: i64 = 604;
const WAIT_AUTH: i64 = 609;
const WRITTEN: i64 = 611;
const UNAVAILABLE: u16 = 503;
const START_AGAIN: i32 = 75;
/// Longer than the longest wait between two looks at whether the database can be written.
const PASSES_WITHIN: Duration = Duration::from_secs(40);

/// A source, a service, and a file that has come from the one to the other.
struct Scene {
    stage: Stage,
    origin: Origin,
    addresses: Addresses,
    content: Bytes,
    url: String,
    task: String,
    client: Arc<Client>,
}

impl Scene {
    async fn set() -> Self {
        let (mut stage, origin, content) = (Stage::new(false), Origin::start().await, random_content(FILE_BYTES));
        let addresses = serving(&mut stage).await;
        let url = origin.put("here", File::new(content.clone()));
        let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
        let downloaded = client.download(addresses.api, &Wanted::url(&url)).await;
        let task = downloaded.unwrap_or_else(|surprise| panic!("{surprise}")).task;
        Self { stage, origin, addresses, content, url, task, client }
    }

    async fn ask(&self, target: &str) -> Answer {
        exchange::ask(self.addresses.api, get(target)).await
    }

    async fn register(&self, url: &str) -> Answer {
        let client = Client::start(&Release::GO_1_0_6).await;
        let registered = client.register(self.addresses.api, &Wanted::url(url)).await;
        registered.unwrap_or_else(|surprise| panic!("{surprise}"))
    }

    async fn download(&self, url: &str) -> Bytes {
        let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
        let downloaded = client.download(self.addresses.api, &Wanted::url(url)).await;
        downloaded.unwrap_or_else(|surprise| panic!("{surprise}")).content
    }

    /// Clients are told to wait or to repeat, each in the words that keep it here. All at once: each is held for seconds.
    async fn check_nothing_is_acknowledged(&self, context: &str) {
        let (task, cid) = (&self.task, self.client.cid());
        let registering = async {
            let registered = exchange::ask(self.addresses.api, registration(&self.url, "new")).await;
            assert_eq!(registered.code, WAIT_AUTH, "{context}: {registered}");
        };
        let asking = async |status: &str| {
            let answer = self.ask(&format!("/peer/task?taskId={task}&srcCid=new&status={status}")).await;
            assert_eq!(answer.code, WAIT, "{context}, {status}: {answer}");
        };
        let reporting = async |report: &str| {
            let answer = self.ask(&format!("/peer/{report}taskId={task}&cid={cid}")).await;
            assert_eq!(answer.status, UNAVAILABLE, "{context}: {report} is acknowledged: {answer}");
        };
        // First what must write: what a client reports again is durable already, and right to acknowledge until a write fails.
        registering.await;
        tokio::join!(
            asking("700&result=502"),
            asking("701&result=503&range=0-4194303"),
            asking("702&result=501"),
            reporting("piece/suc?pieceRange=0-4194303&"),
            reporting("service/down?"),
        );
    }

    /// What is here of the first file is served, whatever fails.
    async fn check_served(&self) {
        for piece in 0..2 {
            let (status, body) = piece_of(self.addresses.download, &self.task, piece).await;
            assert!(status == 206 && body == slot_of(&self.content, piece), "piece {piece} is served with {status}");
        }
    }

    /// A file of which the service has the first piece, and waits for more; and its task.
    async fn begin(&self, file: &File) -> (String, String) {
        let url = self.origin.put("coming", File { ending: Ending::StallsAfter(BEGUN_BYTES), ..file.clone() });
        let task = TaskId::derive(&url, "", "").to_string();
        assert_eq!(exchange::ask(self.addresses.api, registration(&url, "first")).await.code, 200);
        eventually("a piece is stored", async || (self.stored_pieces(&task).await == 1).then_some(())).await;
        (url, task)
    }

    async fn stored_pieces(&self, task: &str) -> usize {
        let dump = self.stage.dump().await;
        dump.of_kind("piece").filter(|line| line["task"] == task && line["stored"] == true).count()
    }

    /// What the client that began is told.
    async fn told(&self, task: &str) -> Answer {
        self.ask(&format!("/peer/task?taskId={task}&srcCid=first&status=700&result=502")).await
    }

    fn check_still_runs(&mut self) {
        let ended = self.stage.ended();
        assert!(ended.is_none(), "the service ended with {ended:?}; its log:\n{}", self.stage.log());
    }
}

fn registration(url: &str, cid: &str) -> http::Request<http_body_util::Full<Bytes>> {
    let body = json!({
        "rawUrl": url, "taskUrl": url, "cid": cid, "ip": "127.0.0.1", "port": 15001, "path": "/p", "version": "1.0.6",
    });
    post_json("/peer/registry", &body)
}

async fn serving(stage: &mut Stage) -> Addresses {
    match stage.start().await {
        Started::Serving(addresses) => addresses,
        Started::Died(status) => panic!("it ended with {status}; its log:\n{}", stage.log()),
    }
}

async fn piece_of(download: SocketAddr, task: &str, piece: u32) -> (u16, Bytes) {
    let request = with_header(get(&format!("/qtdown/{}/{task}", &task[..3])), "range", &format!("bytes={}", range_of(piece)));
    let response = exchange::call(download, request).await.unwrap_or_else(|error| panic!("{error}"));
    (response.status, response.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_cannot_be_written_fails_its_task_alone_and_until_there_is_room() {
    for (operations, error) in [(WRITE, Errno::NOSPC), (WRITE, Errno::IO), (SYNC, Errno::IO), (CREATE, Errno::NOSPC)] {
        let mut scene = Scene::set().await;
        let content = random_content(FILE_BYTES);
        let url = scene.origin.put("coming", File::new(content.clone()));
        scene.stage.faults.fail(operations, "/pieces/", error, ALWAYS);
        let registered = scene.register(&url).await;
        // The source answers before the disk does, or just after it.
        assert!([200, SOURCE_FAIL].contains(&registered.code), "{error:?}: {registered}");
        let task = TaskId::derive(&url, "", "").to_string();
        let told = eventually("whoever asks is told", async || {
            let answer = scene.ask(&format!("/peer/task?taskId={task}&srcCid=somebody&status=700&result=502")).await;
            (answer.code == SOURCE_FAIL).then_some(answer)
        })
        .await;
        assert!(!told.msg.contains(scene.stage.home().to_str().expect("UTF-8")), "{error:?}: {told}");
        assert!(scene.stage.faults.failed() > 0, "{error:?}: nothing failed");
        let sentence = "what the source sends cannot be kept";
        eventually("the log tells why", async || scene.stage.said().contains(sentence).then_some(())).await;
        assert_eq!(scene.stage.said().matches(sentence).count(), 1, "{error:?}: told more or less than once");
        let (status, _) = piece_of(scene.addresses.download, &task, 0).await;
        assert!([404, 416].contains(&status), "{error:?}: a piece that is not on disk is served with {status}");
        let dump = scene.stage.dump().await;
        assert_eq!(dump.of_kind("piece").filter(|line| line["task"] == task.as_str()).count(), 0, "{error:?}");
        // Others go on.
        scene.check_served().await;
        assert!(scene.download(&scene.url).await == scene.content, "{error:?}: another file is not served");
        scene.check_still_runs();

        scene.stage.faults.heal();
        eventually("a registration is taken again", async || (scene.register(&url).await.code == 200).then_some(())).await;
        assert!(scene.download(&url).await == content, "{error:?}: the file came with other bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_under_a_download_has_nothing_of_it_and_its_clients_go_on_once_there_is_room() {
    // Without its length, too.
    for (error, chunked) in [(Errno::NOSPC, false), (Errno::DQUOT, true)] {
        let mut scene = Scene::set().await;
        let content = random_content(FILE_BYTES);
        let file = File { chunked, ..File::new(content.clone()) };
        let (url, task) = scene.begin(&file).await;
        scene.stage.faults.fail(WRITE, "/pieces/", error, ALWAYS);
        scene.origin.put("coming", file);
        let told = eventually("its client is told", async || {
            Some(scene.told(&task).await).filter(|answer| ![GO_ON, WAIT].contains(&answer.code))
        })
        .await;
        assert_eq!(told.code, SOURCE_FAIL, "{error:?}: {told}");
        assert!(told.msg.contains("the supernode has no room for this file"), "{error:?}: {told}");
        let registered = exchange::ask(scene.addresses.api, registration(&url, "second")).await;
        assert_eq!(registered.code, SOURCE_FAIL, "{error:?}: {registered}");
        assert_eq!(scene.stored_pieces(&task).await, 0, "{error:?}: pieces are recorded that are not there");
        let (status, _) = piece_of(scene.addresses.download, &task, 0).await;
        assert!([404, 416].contains(&status), "{error:?}: a piece that is not there is served with {status}");
        let files = scene.stage.home().join("pieces").join(&task[..3]);
        let left = std::fs::read_dir(&files).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{error:?}: the file is in the way");
        scene.check_served().await;
        scene.check_still_runs();

        scene.stage.faults.heal();
        eventually("a registration is taken again", async || (scene.register(&url).await.code == 200).then_some(())).await;
        let told = eventually("the client that began goes on", async || {
            Some(scene.told(&task).await).filter(|answer| answer.code != WAIT)
        })
        .await;
        assert_eq!(told.code, GO_ON, "{error:?}: {told}");
        let registered = exchange::ask(scene.addresses.api, registration(&url, "first")).await;
        assert_eq!(registered.code, 200, "{error:?}: {registered}");
        assert!(scene.download(&url).await == content, "{error:?}: the file came with other bytes");
        assert!(scene.stage.terminate().await.success(), "an orderly stop");
        let checked = scene.stage.run("check", &[]).await;
        assert!(checked.status.success(), "{error:?}: {}", String::from_utf8_lossy(&checked.stdout));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_beyond_the_limit_of_a_files_size_fails_its_task_alone_and_goes_on_once_it_may() {
    let mut scene = Scene::set().await;
    let content = random_content(FILE_BYTES);
    scene.stage.limit_file_size(Some(FILE_LIMIT_BYTES));
    let url = scene.origin.put("coming", File::new(content.clone()));
    let task = TaskId::derive(&url, "", "").to_string();
    let registered = scene.register(&url).await;
    assert!([200, SOURCE_FAIL].contains(&registered.code), "{registered}");
    let told =
        eventually("whoever asks is told", async || Some(scene.told(&task).await).filter(|told| told.code == SOURCE_FAIL)).await;
    assert!(told.msg.contains("this file is larger than the supernode may make one"), "{told}");
    scene.check_still_runs();
    scene.check_served().await;
    assert!(scene.download(&scene.url).await == scene.content, "another file is not served");

    // No room is wanted, so that what is there may stay.
    assert_eq!(scene.stored_pieces(&task).await, 1);
    scene.stage.limit_file_size(None);
    eventually("a registration is taken again", async || (scene.register(&url).await.code == 200).then_some(())).await;
    assert!(scene.download(&url).await == content, "the file came with other bytes");
    let asked = scene.origin.record("coming").0;
    assert!(asked.iter().skip(1).all(|seen| seen.start > 0), "what was there is fetched again: {asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_onto_a_full_disk_is_put_off_and_what_is_here_is_served_on() {
    let (origin, content) = (Origin::start().await, random_content(FILE_BYTES));
    let url = origin.put("here", File::new(content.clone()));
    let (mut service, faults) = supervised().await;
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
    let downloaded = client.download(service.api(), &Wanted::url(&url)).await;
    let task = downloaded.unwrap_or_else(|surprise| panic!("{surprise}")).task;
    let (worker, download) = (service.worker(), service.download());
    let served = async |when: &str| {
        let (status, body) = piece_of(download, &task, 1).await;
        assert!(status == 206 && body == slot_of(&content, 1), "{when}: a piece is served with {status}");
    };
    faults.fail(WRITE | CREATE, "/home/", Errno::NOSPC, ALWAYS);
    service.signal(Signal::USR2);
    let put_off = "no upgrade, serving on: the new program could not open the home";
    eventually("the log tells that it stays", async || service.log().contains(put_off).then_some(())).await;
    served("on a full disk").await;
    rustix::process::test_kill_process(worker).expect("the worker serves on");

    faults.heal();
    service.signal(Signal::USR2);
    service.next_worker().await;
    served("after the upgrade").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_program_for_which_there_is_no_room_leaves_the_service_to_the_old_one() {
    let (mut service, faults) = supervised().await;
    // As a full disk does to one that has to migrate; the old one has nothing to write.
    faults.fail(OPEN, "/home/db/db", Errno::NOSPC, 1);
    service.signal(Signal::USR2);
    service.next_worker().await;
    assert_eq!(exchange::ask(service.api(), get("/ready")).await.status, 200);
    let log = service.log();
    for part in ["no room for the new program to open the home", "the old one goes on why=\"exit code 1\""] {
        assert!(log.contains(part), "{part:?} is not in {log}");
    }
    service.signal(Signal::USR2);
    service.next_worker().await;
    assert_eq!(service.log().matches("the old one goes on").count(), 1, "the next upgrade succeeds: {}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_written_is_served_from_until_it_can_be_again() {
    for (operations, error) in [(WRITE, Errno::NOSPC), (SYNC, Errno::IO), (WRITE | SYNC, Errno::IO)] {
        let mut scene = Scene::set().await;
        let before = scene.stage.dump().await;
        scene.stage.faults.fail(operations, "/home/db/", error, ALWAYS);
        let (task, cid) = (scene.task.clone(), scene.client.cid().to_owned());
        scene.check_nothing_is_acknowledged(&format!("{error:?}")).await;
        assert_eq!(scene.ask("/ready").await.status, UNAVAILABLE, "{error:?}");
        assert_eq!(scene.ask("/live").await.status, 200, "{error:?}");
        scene.check_served().await;
        eventually("it is tried, in vain", async || {
            scene.stage.said().contains("database still cannot be written").then_some(())
        })
        .await;
        scene.check_served().await;
        scene.check_still_runs();

        scene.stage.faults.heal();
        let ended = scene.stage.let_die(PASSES_WITHIN).await;
        assert_eq!(ended.code(), Some(START_AGAIN), "{error:?}: {ended}; its log:\n{}", scene.stage.log());
        scene.addresses = serving(&mut scene.stage).await;
        let said = scene.stage.said();
        assert!(!said.contains("ERROR"), "{error:?}: the start after it is no rescue: {said}");
        let after = scene.stage.dump().await;
        // Beside what was acknowledged there may be what was under way, wholly.
        let pieces = |dump: &Dump| dump.of_kind("piece").map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(pieces(&after), pieces(&before), "{error:?}");
        assert!(after.has_client(&task, &cid), "{error:?}: a client that registered is gone");
        assert_eq!(after.servable(&task, &cid), before.servable(&task, &cid), "{error:?}: what was acknowledged is gone");
        let report = format!("/peer/piece/suc?pieceRange=0-4194303&taskId={task}&cid={cid}");
        assert_eq!(scene.ask(&report).await.code, WRITTEN, "{error:?}");
        assert!(scene.download(&scene.url).await == scene.content, "{error:?}");
        assert_eq!(scene.origin.record("here").0.len(), 1, "{error:?}: the source was asked for what is here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervised_service_outlives_a_full_disk_and_a_death_in_the_middle_of_it() {
    let (origin, content) = (Origin::start().await, random_content(FILE_BYTES));
    let url = origin.put("here", File::new(content.clone()));
    let (mut service, faults) = supervised().await;
    let api = service.api();
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
    let task = client.download(api, &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}")).task;
    let question = format!("/peer/task?taskId={task}&srcCid={}&status=701&result=502&range=", client.cid());
    let waits = async |when: &str| {
        let answer = exchange::ask(api, get(&question)).await;
        assert_eq!((answer.status, answer.code), (200, WAIT), "{when}: {answer}");
    };
    faults.fail(WRITE | CREATE, "/home/", Errno::NOSPC, ALWAYS);
    let registering = async || exchange::ask(api, registration(&url, "new")).await;
    let registered = registering().await;
    assert_eq!(registered.code, WAIT_AUTH, "a registration that is not durable is put off: {registered}");
    waits("degraded").await;
    // The next worker finds a home in which nothing can be made.
    service.kill_worker();
    eventually("the next one tries to open the home", async || {
        service.log().contains("the home cannot be opened now").then_some(())
    })
    .await;
    waits("recovering, on a full disk").await;
    let ready = exchange::ask(api, get("/ready")).await;
    assert_eq!(ready.status, UNAVAILABLE, "{ready}");
    faults.heal();
    service.next_worker().await;
    let servable = Dump::of(&service.home()).await.servable(&task, client.cid());
    assert_eq!(servable.len(), 2, "what was acknowledged is gone");
    assert_eq!(registering().await.code, 200);
    assert_eq!(origin.record("here").0.len(), 1, "the source was asked for what is here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_written_leaves_nothing_and_troubles_nobody() {
    let mut scene = Scene::set().await;
    let snapshots = scene.stage.home().join("snapshots");
    let cases = [(WRITE, Errno::NOSPC), (SYNC, Errno::IO), (RENAME, Errno::IO), (CREATE, Errno::NOSPC)];
    for (failures, (operations, error)) in (1..).zip(cases) {
        scene.stage.faults.fail(operations, "/snapshots", error, ALWAYS);
        let output = scene.stage.run("snapshot", &[]).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("snapshots"), "{error:?}: {} {said}", output.status);
        scene.stage.faults.heal();
        let left = std::fs::read_dir(&snapshots).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{error:?}: something is left of it");
        let told = || scene.stage.said().matches("snapshot could not be taken").count();
        eventually("it is told", async || (told() >= failures).then_some(())).await;
        assert_eq!(told(), failures, "{}", scene.stage.said());
        let metrics = exchange::call(scene.addresses.api, get("/metrics")).await.expect("answered").body;
        let metrics = String::from_utf8_lossy(&metrics).into_owned();
        let counted = format!("dragonfly_supernode_snapshots_failed_total {failures}");
        assert!(metrics.lines().any(|line| line == counted), "{counted} is not in the metrics");
        scene.check_served().await;
        scene.check_still_runs();
    }
    let output = scene.stage.run("snapshot", &[]).await;
    assert!(output.status.success(), "healed, one can be taken: {}", String::from_utf8_lossy(&output.stderr));
    assert!(scene.download(&scene.url).await == scene.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_disk_that_fails_changes_nothing_and_says_what_to_do() {
    let mut scene = Scene::set().await;
    let before = scene.stage.dump().await.sorted();
    assert!(scene.stage.terminate().await.success(), "an orderly stop");
    // A snapshot to restore would be a temptation.
    assert!(scene.stage.run("snapshot", &[]).await.status.success());
    for (operations, path, error) in [
        (READ, "/home/db/db", Errno::IO),
        (WRITE, "/home/db/", Errno::NOSPC),
        (WRITE, "/home/db/", Errno::IO),
        (SYNC, "/home/db/", Errno::IO),
        (OPEN, "/home/db/db", Errno::ACCESS),
        (OPEN, "/home/db", Errno::MFILE),
        (READ, "/home/db/conf", Errno::IO),
    ] {
        let failed_before = scene.stage.faults.failed();
        scene.stage.faults.fail(operations, path, error, ALWAYS);
        match scene.stage.start().await {
            Started::Died(status) => assert_eq!(status.code(), Some(1), "{path} {error:?}: {}", scene.stage.said()),
            Started::Serving(_) => panic!("{path} {error:?}: it serves; its log:\n{}", scene.stage.said()),
        }
        assert!(scene.stage.faults.failed() > failed_before, "{path} {error:?}: nothing failed");
        let (said, home) = (scene.stage.said(), scene.stage.home());
        let told = said.lines().find(|line| line.starts_with("supernode: ")).unwrap_or_else(|| panic!("not a word: {said}"));
        println!("{path} {error:?}: {told}");
        for part in [home.to_str().expect("UTF-8"), "left as it is", "start again"] {
            assert!(told.contains(part), "{path} {error:?}: {part:?} is not in {told}");
        }
        let names: Vec<_> =
            std::fs::read_dir(&home).expect("readable").filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        assert!(!names.iter().any(|name| name.starts_with("db.")), "{path} {error:?}: the database was set aside: {names:?}");
        scene.stage.faults.heal();
        serving(&mut scene.stage).await;
        assert_eq!(scene.stage.dump().await.sorted(), before, "{path} {error:?}");
        assert!(!scene.stage.said().contains("ERROR"), "{path} {error:?}: {}", scene.stage.said());
        assert!(scene.stage.terminate().await.success(), "an orderly stop");
    }
}
