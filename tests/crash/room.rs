//! Disks with little room: what is not begun on them, where files without end are given up, and what makes room for the
//! database.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::fault::{ALWAYS, WRITE};
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, Answer, get, post_json, request, with_header};
use crate::harness::origin::scripted::{Act, Scripted};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::{PIECE_CONTENT, random_content, range_of, slot_of};
use crate::stage::{Addresses, Stage, Started};

/// Six pieces: more than is fetched again without a look at the disk's room, and so are five of them.
const FILE_BYTES: usize = 24_000_000;
/// Room for those pieces, but not for what a database needs beside them.
const LITTLE_BYTES: u64 = 24 * 1024 * 1024;
const PLENTY_BYTES: u64 = 1024 * 1024 * 1024;
/// The first piece and some of the second.
const BEGUN_BYTES: u64 = 5_000_000;
const MIB: u64 = 1024 * 1024;
/// Rounds of garbage collection are as the tests want them, and take what nobody used for a second.
const ROUNDS: [&str; 6] = ["--gc-initial-delay", "1h", "--gc-disk-interval", "1h", "--task-expire-time", "1s"];
/// Where nothing goes, and where everything does. Bytes.
const THRESHOLDS: [&str; 4] = ["--young-gc-threshold", "1000M", "--full-gc-threshold", "100M"];
const ROOM_BYTES: u64 = 1100 * MIB;
/// No room for another part of 512 KiB above that.
const ENDS_AT_BYTES: u64 = 100 * MIB + MIB / 4;
/// What comes of a file without end before it waits.
const WAITS_AFTER_BYTES: usize = 22 * 1024 * 1024;
/// What a source tells that tells no length, and what is stored of it then: slots of 4 MiB, of which the last is open.
const NOTHING: Told = Told { head: "HTTP/1.0 200 OK\r\n\r\n", length: -1, pieces: 5, piece_bytes: 4 * MIB };
/// The same of one that announces more than any disk of these tests has.
const TOO_MUCH: Told = Told {
    head: "HTTP/1.1 200 OK\r\nContent-Length: 10000000000000\r\n\r\n",
    length: 10_000_000_000_000,
    pieces: 1,
    piece_bytes: 15 * MIB,
};
/// What is in buffers and on its way when a download ends. Bytes.
const BUFFERED_MAX_BYTES: u64 = 6 * MIB;
/// With that, what may come before the disk is looked at again. Bytes.
const STEP_MAX_BYTES: u64 = 16 * MIB + BUFFERED_MAX_BYTES;
/// More than that: what clients were told of its pieces stays true. Bytes.
const FINITE_BYTES: usize = 48 * 1024 * 1024;
/// What clients are told of a source that tells none.
const NO_LENGTH: &str = "its source does not tell its length";
const OK: i64 = 200;
const SOURCE_FAIL: i64 = 604;

async fn serving(stage: &mut Stage) -> Addresses {
    match stage.start().await {
        Started::Serving(addresses) => addresses,
        Started::Died(status) => panic!("it ended with {status}; its log:\n{}", stage.log()),
    }
}

/// Somebody registers who serves nothing, and is never heard of again.
async fn register(addresses: Addresses, url: &str, cid: &str) -> Answer {
    let body = json!({
        "rawUrl": url, "taskUrl": url, "cid": cid, "ip": "127.0.0.1", "port": 15001, "path": "/p", "version": "1.0.6",
    });
    exchange::ask(addresses.api, post_json("/peer/registry", &body)).await
}

async fn told(addresses: Addresses, task: &str, cid: &str) -> Answer {
    exchange::ask(addresses.api, get(&format!("/peer/task?taskId={task}&srcCid={cid}&status=700&result=502"))).await
}

async fn state_of(stage: &Stage, task: &str) -> String {
    let dump = stage.dump().await;
    let line = dump.of_kind("task").find(|line| line["task"] == task).unwrap_or_else(|| panic!("no task {task}"));
    line["state"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned()
}

async fn is_served(addresses: Addresses, task: &str, piece: u32, content: &Bytes) -> bool {
    let asked = with_header(get(&format!("/qtdown/{}/{task}", &task[..3])), "range", &format!("bytes={}", range_of(piece)));
    let response = exchange::call(addresses.download, asked).await.unwrap_or_else(|error| panic!("{error}"));
    response.status == 206 && response.body == slot_of(content, piece)
}

/// A file is fetched for somebody who takes nothing of it, and whole.
async fn fetched(stage: &Stage, addresses: Addresses, url: &str) -> String {
    let registered = register(addresses, url, "first").await;
    assert_eq!(registered.code, OK, "{registered}");
    let task = registered.data["taskId"].as_str().expect("a task id").to_owned();
    eventually("the file is here", async || (state_of(stage, &task).await == "SUCCESS").then_some(())).await;
    task
}

/// The service starts without its piece files, on a disk that has little room.
async fn start_without_pieces(stage: &mut Stage) -> Addresses {
    stage.kill();
    std::fs::remove_dir_all(stage.home().join("pieces")).expect("pieces can be removed");
    stage.faults.leave_free(Some(LITTLE_BYTES));
    serving(stage).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_for_whose_rest_there_is_no_room_goes_on_where_it_was_once_there_is() {
    let (mut stage, origin, content) = (Stage::new(false), Origin::start().await, random_content(FILE_BYTES));
    let addresses = serving(&mut stage).await;
    let url = origin.put("file", File { ending: Ending::StallsAfter(BEGUN_BYTES), ..File::new(content.clone()) });
    let task = register(addresses, &url, "first").await.data["taskId"].as_str().expect("a task id").to_owned();
    eventually("a piece is stored", async || is_served(addresses, &task, 0, &content).await.then_some(())).await;
    stage.kill();
    origin.put("file", File::new(content.clone()));
    stage.faults.leave_free(Some(LITTLE_BYTES));

    let addresses = serving(&mut stage).await;
    let answer = eventually("its client is told", async || {
        Some(told(addresses, &task, "first").await).filter(|answer| answer.code == SOURCE_FAIL)
    })
    .await;
    assert!(answer.msg.contains("the supernode has no room for this file"), "{answer}");
    assert!(is_served(addresses, &task, 0, &content).await, "what is here is served on");
    assert_eq!(origin.record("file").0.len(), 1, "the source was asked for what there is no room for");

    stage.faults.leave_free(None);
    eventually("a registration is taken", async || (register(addresses, &url, "second").await.code == OK).then_some(())).await;
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
    let downloaded = client.download(addresses.api, &Wanted::url(&url)).await;
    assert!(downloaded.unwrap_or_else(|surprise| panic!("{surprise}")).content == content, "the file came with other bytes");
    let starts: Vec<u64> = origin.record("file").0.iter().map(|seen| seen.start).collect();
    assert_eq!(starts, [0, PIECE_CONTENT], "it goes on where it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_pieces_that_nobody_has_and_for_which_there_is_no_room_fail_their_task_until_there_is() {
    let (mut stage, origin, content) = (Stage::new(false), Origin::start().await, random_content(FILE_BYTES));
    let addresses = serving(&mut stage).await;
    let url = origin.put("file", File::new(content.clone()));
    let task = fetched(&stage, addresses, &url).await;

    let addresses = start_without_pieces(&mut stage).await;
    let answer = eventually("its client is told", async || {
        Some(told(addresses, &task, "first").await).filter(|answer| answer.code == SOURCE_FAIL)
    })
    .await;
    let sentence = format!("and its disk has {LITTLE_BYTES} bytes left");
    assert!(answer.msg.contains("the supernode has no room for this file") && answer.msg.contains(&sentence), "{answer}");
    let registered = register(addresses, &url, "second").await;
    assert_eq!(registered.code, SOURCE_FAIL, "{registered}");
    assert_eq!(state_of(&stage, &task).await, "FAILED");
    assert_eq!(origin.record("file").0.len(), 1, "the source was asked for what there is no room for");

    stage.faults.leave_free(None);
    eventually("a registration is taken", async || (register(addresses, &url, "second").await.code == OK).then_some(())).await;
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
    let downloaded = client.download(addresses.api, &Wanted::url(&url)).await;
    let downloaded = downloaded.unwrap_or_else(|surprise| panic!("{surprise}"));
    assert!(downloaded.content == content, "the file came with other bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_pieces_that_peers_have_are_theirs_to_serve_while_there_is_no_room() {
    let (mut stage, origin, content) = (Stage::new(false), Origin::start().await, random_content(FILE_BYTES));
    let addresses = serving(&mut stage).await;
    let url = origin.put("file", File::new(content.clone()));
    let wanted = Wanted::url(&url);
    let peer = Arc::new(Client::start(&Release::GO_1_0_6).await);
    let downloaded = peer.download(addresses.api, &wanted).await.unwrap_or_else(|surprise| panic!("{surprise}"));

    let addresses = start_without_pieces(&mut stage).await;
    let why = "the supernode has no room for this file";
    eventually("it is tried in vain", async || stage.said().contains(why).then_some(())).await;
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
    let second = client.download(addresses.api, &wanted).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    assert!(second.content == content, "the file came with other bytes");
    assert_eq!(second.transfers.from_supernode, 0, "{:?}", second.transfers);
    assert_eq!(state_of(&stage, &downloaded.task).await, "SUCCESS", "its peers serve it on");
    assert_eq!(origin.record("file").0.len(), 1, "the source was asked for what there is no room for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_room_is_given_that_of_files_that_can_be_fetched_again_whenever_it_is_wanting() {
    let (mut stage, origin, content) = (Stage::new(false), Origin::start().await, random_content(FILE_BYTES));
    let addresses = serving(&mut stage).await;
    stage.faults.leave_free(Some(PLENTY_BYTES));
    let used = fetched(&stage, addresses, &origin.put("used", File::new(content.clone()))).await;
    let pinned = exchange::call(addresses.api, request("PUT", &format!("/api/v1/tasks/{used}/pin"), Bytes::new())).await;
    assert_eq!(pinned.unwrap_or_else(|error| panic!("{error}")).status, 204);
    let unused_url = origin.put("unused", File::new(content.clone()));
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
    let unused = client.download(addresses.api, &Wanted::url(&unused_url)).await;
    let unused = unused.unwrap_or_else(|surprise| panic!("{surprise}")).task;
    let begun = File { ending: Ending::StallsAfter(BEGUN_BYTES), ..File::new(content.clone()) };
    let begun = register(addresses, &origin.put("begun", begun), "first").await.data["taskId"].as_str().expect("one").to_owned();
    eventually("a piece is stored", async || is_served(addresses, &begun, 0, &content).await.then_some(())).await;

    stage.faults.fail(WRITE, "/home/db/", Errno::NOSPC, ALWAYS);
    register(addresses, &unused_url, "in vain").await;
    let in_vain = "database still cannot be written";
    eventually("it is tried, in vain", async || stage.said().contains(in_vain).then_some(())).await;
    let removing = "removing a cached file: the disk has no room for the database";
    assert!(!stage.said().contains(removing), "the disk says that it has room: {}", stage.said());
    for task in [&used, &unused, &begun] {
        assert!(is_served(addresses, task, 0, &content).await, "{task} is gone");
    }

    stage.faults.leave_free(Some(0));
    eventually("what nobody uses goes", async || (stage.said().matches(removing).count() == 2).then_some(())).await;
    let said = stage.said();
    let places = [&begun, &unused].map(|task| said.find(&format!("{removing} task={task}")).expect("both are told of"));
    assert!(places[0] < places[1], "what is not here whole goes first: {said}");
    let files = |task: &str| stage.home().join(format!("pieces/{}/{task}.0", &task[..3])).exists();
    assert_eq!([files(&used), files(&unused), files(&begun)], [true, false, false]);
    assert!(is_served(addresses, &used, 0, &content).await, "what is in use is served on");

    stage.faults.heal();
    stage.faults.leave_free(None);
    stage.kill();
    let addresses = serving(&mut stage).await;
    let downloaded = client.download(addresses.api, &Wanted::url(&unused_url)).await;
    assert!(downloaded.unwrap_or_else(|surprise| panic!("{surprise}")).content == content, "it is fetched again");
}

/// What a source says before its body, and what comes of that.
#[derive(Clone, Copy)]
struct Told {
    head: &'static str,
    /// As clients are told it.
    length: i64,
    /// What is stored when it waits.
    pieces: u64,
    piece_bytes: u64,
}

/// A source that always sends the same bytes: without end, until that is told; then of [`FINITE_BYTES`].
struct Endless {
    told: Told,
    source: Scripted,
    ends: Arc<AtomicBool>,
}

impl Endless {
    async fn start(told: Told) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let ending = ends.clone();
        let script = move |_: &_| {
            let head = Act::say(told.head);
            if ending.load(Ordering::Relaxed) {
                return vec![head, Act::Send(sevens(FINITE_BYTES)), Act::Close];
            }
            vec![head, Act::Send(sevens(WAITS_AFTER_BYTES)), Act::Wait, Act::SendForever(sevens(64 * 1024))]
        };
        Self { told, source: Scripted::start(Arc::new(script), Ipv4Addr::LOCALHOST.into(), None, None).await, ends }
    }

    fn url(&self) -> String {
        format!("http://{}/file", self.source.address())
    }

    fn ends_from_now_on(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

fn sevens(length: usize) -> Bytes {
    vec![7; length].into()
}

/// Somebody registers for it, and all is stored that comes before it waits.
async fn begun(addresses: Addresses, url: &str, told: Told) -> String {
    let registered = register(addresses, url, "first").await;
    assert_eq!((registered.code, registered.data["fileLength"].as_i64()), (OK, Some(told.length)), "{registered}");
    let task = registered.data["taskId"].as_str().expect("a task id").to_owned();
    eventually("it waits", async || {
        let response = exchange::call(addresses.api, get(&format!("/tasks/{task}"))).await.ok()?;
        let known: Value = serde_json::from_slice(&response.body).ok()?;
        (known["piecesStored"] == told.pieces).then_some(())
    })
    .await;
    task
}

/// Its clients are told that the disk has no room for it, and why, and its file goes.
async fn is_given_up(stage: &Stage, addresses: Addresses, task: &str, why: &str) {
    let answer = eventually("its client is told", async || {
        Some(told(addresses, task, "first").await).filter(|answer| answer.code == SOURCE_FAIL)
    })
    .await;
    let sentence = format!("{ENDS_AT_BYTES} bytes left, where {} are to stay free (fullGCThreshold", 100 * MIB);
    for part in [why, "bytes of it are here", &sentence, "lower the threshold"] {
        assert!(answer.msg.contains(part), "{part:?} is not in {answer}");
    }
    assert!(!file_of(stage, task).exists(), "its file is left");
}

fn file_of(stage: &Stage, task: &str) -> std::path::PathBuf {
    stage.home().join(format!("pieces/{}/{task}.0", &task[..3]))
}

async fn is_downloaded_whole(addresses: Addresses, url: &str) {
    eventually("a registration is taken", async || (register(addresses, url, "second").await.code == OK).then_some(())).await;
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
    let downloaded = client.download(addresses.api, &Wanted::url(url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    assert!(downloaded.content == sevens(FINITE_BYTES), "the file came with other bytes");
}

/// Such a file begins on a disk with room for it, and meets its threshold. Tells where the service is.
async fn meets_the_threshold(stage: &mut Stage, endless: &Endless, why: &str) -> Addresses {
    let origin = Origin::start().await;
    stage.faults.leave_free(Some(ROOM_BYTES));
    let Started::Serving(addresses) = stage.start_with(&[&ROUNDS[..], &THRESHOLDS[..]].concat()).await else {
        panic!("it serves")
    };
    let content = random_content(FILE_BYTES);
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
    let unused = client.download(addresses.api, &Wanted::url(&origin.put("unused", File::new(content.clone())))).await;
    let unused = unused.unwrap_or_else(|surprise| panic!("{surprise}")).task;
    let task = begun(addresses, &endless.url(), endless.told).await;

    let young_bytes = 1000 * MIB;
    stage.faults.leave_free(Some(young_bytes - endless.told.pieces * endless.told.piece_bytes));
    let stays = "the disk has little room only because of files that are being fetched";
    eventually("nobody used the other for long enough", async || {
        collected(stage, &["--dry-run"]).await.contains(stays).then_some(())
    })
    .await;
    collected(stage, &[]).await;
    assert!(file_of(stage, &unused).exists(), "it went for a file without end");

    stage.faults.leave_free(Some(ENDS_AT_BYTES));
    endless.source.go_on();
    is_given_up(stage, addresses, &task, why).await;
    let sent = endless.source.sent_at_rest().await;
    assert!(sent.body_bytes <= WAITS_AFTER_BYTES as u64 + STEP_MAX_BYTES, "{sent:?}");
    // What its file held is free again.
    stage.faults.leave_free(Some(ROOM_BYTES));
    collected(stage, &[]).await;
    assert!(file_of(stage, &unused).exists(), "it went for a file without end");
    assert!(is_served(addresses, &unused, 0, &content).await, "it is served on");
    addresses
}

/// What downloads under way may yet add to what is stored.
async fn coming_bytes(addresses: Addresses) -> u64 {
    let response = exchange::call(addresses.api, get("/api/v1/cache")).await.unwrap_or_else(|error| panic!("{error}"));
    let cache: Value = serde_json::from_slice(&response.body).expect("the repository in JSON");
    cache["comingBytes"].as_u64().expect("a number")
}

/// A round of garbage collection, or what it would do.
async fn collected(stage: &Stage, arguments: &[&str]) -> String {
    let output = stage.run("gc", arguments).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_end_takes_what_the_disk_has_to_spare_and_nothing_goes_for_it() {
    let (mut stage, endless) = (Stage::new(false), Endless::start(NOTHING).await);
    let addresses = meets_the_threshold(&mut stage, &endless, NO_LENGTH).await;
    endless.ends_from_now_on();
    is_downloaded_whole(addresses, &endless.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_announced_larger_than_the_disk_takes_no_more_than_one_without_end() {
    let (mut stage, endless) = (Stage::new(false), Endless::start(TOO_MUCH).await);
    let why = "its source announced 10000000000000 bytes, which the disk cannot hold";
    meets_the_threshold(&mut stage, &endless, why).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_files_without_end_were_granted_is_not_granted_to_another() {
    let (mut stage, endless, another) = (Stage::new(false), Endless::start(NOTHING).await, Endless::start(NOTHING).await);
    stage.faults.leave_free(Some(ROOM_BYTES));
    let Started::Serving(addresses) = stage.start_with(&[&ROUNDS[..], &THRESHOLDS[..]].concat()).await else {
        panic!("it serves")
    };
    // What is left of a step when a source waits is chance; of several, something is.
    let urls: Vec<String> = (0..3).map(|number| format!("{}/{number}", endless.url())).collect();
    let mut tasks = Vec::new();
    for url in &urls {
        tasks.push(begun(addresses, url, NOTHING).await);
    }

    // A part more would fit, if nothing of this were theirs.
    stage.faults.leave_free(Some(ENDS_AT_BYTES + MIB / 2));
    let task = register(addresses, &another.url(), "first").await.data["taskId"].as_str().expect("a task id").to_owned();
    let answer = eventually("its client is told", async || {
        Some(told(addresses, &task, "first").await).filter(|answer| answer.code == SOURCE_FAIL)
    })
    .await;
    assert!(answer.msg.contains("are for others of that kind"), "{answer}");
    assert!(!file_of(&stage, &task).exists(), "its file is left");
    for task in &tasks {
        assert!(file_of(&stage, task).exists(), "one went that takes nothing more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_files_without_end_have_not_written_is_taken_back_where_the_disk_is_at_its_threshold() {
    let (mut stage, endless) = (Stage::new(false), Endless::start(NOTHING).await);
    stage.faults.leave_free(Some(ROOM_BYTES));
    let Started::Serving(addresses) = stage.start_with(&[&ROUNDS[..], &THRESHOLDS[..]].concat()).await else {
        panic!("it serves")
    };
    // What is left of a step when a source waits is chance; of several, something is.
    let mut tasks = Vec::new();
    for number in 0..3 {
        tasks.push(begun(addresses, &format!("{}/{number}", endless.url()), NOTHING).await);
    }
    let granted_bytes = coming_bytes(addresses).await;

    stage.faults.leave_free(Some(100 * MIB));
    collected(&stage, &[]).await;
    let left_bytes = coming_bytes(addresses).await;
    assert!(left_bytes < granted_bytes, "{left_bytes} of {granted_bytes} are left to them");

    endless.source.go_on();
    for task in &tasks {
        let answer = eventually("its client is told", async || {
            Some(told(addresses, task, "first").await).filter(|answer| answer.code == SOURCE_FAIL)
        })
        .await;
        assert!(answer.msg.contains(NO_LENGTH), "{answer}");
        assert!(!file_of(&stage, task).exists(), "its file is left");
    }
    let sent = endless.source.sent_at_rest().await;
    assert!(sent.body_bytes <= 3 * (WAITS_AFTER_BYTES as u64 + BUFFERED_MAX_BYTES), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_end_that_a_restart_interrupts_ends_there_as_well() {
    let (mut stage, endless) = (Stage::new(false), Endless::start(NOTHING).await);
    let arguments = [&ROUNDS[..], &THRESHOLDS[..]].concat();
    stage.faults.leave_free(Some(ROOM_BYTES));
    let Started::Serving(addresses) = stage.start_with(&arguments).await else { panic!("it serves") };
    let task = begun(addresses, &endless.url(), NOTHING).await;
    stage.kill();
    assert!(file_of(&stage, &task).exists(), "what is stored is there");

    stage.faults.leave_free(Some(ENDS_AT_BYTES));
    let Started::Serving(addresses) = stage.start_with(&arguments).await else { panic!("it serves") };
    endless.source.go_on();
    is_given_up(&stage, addresses, &task, NO_LENGTH).await;

    stage.faults.leave_free(Some(ROOM_BYTES));
    endless.ends_from_now_on();
    is_downloaded_whole(addresses, &endless.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_unknown_length_that_is_not_large_needs_no_room_to_spare() {
    let (mut stage, origin, content) = (Stage::new(false), Origin::start().await, random_content(10_000_000));
    stage.faults.leave_free(Some(ENDS_AT_BYTES));
    let Started::Serving(addresses) = stage.start_with(&[&ROUNDS[..], &THRESHOLDS[..]].concat()).await else {
        panic!("it serves")
    };
    let url = origin.put("file", File { chunked: true, ..File::new(content.clone()) });
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
    let downloaded = client.download(addresses.api, &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    assert!(downloaded.content == content, "the file came with other bytes");
}
