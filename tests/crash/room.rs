//! Disks with little room: what is not begun on them, and what makes room for the database.

use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;
use serde_json::json;

use crate::fault::{ALWAYS, WRITE};
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, Answer, get, post_json, request, with_header};
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
