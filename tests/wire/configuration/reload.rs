//! SIGHUP: what can change under way is seen on the wire, and a file that is not valid changes nothing.

use std::time::{Duration, Instant};

use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, Answer};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

/// Six pieces.
const FILE_BYTES: usize = 25_000_000;
const PIECES: usize = 6;
/// Shorter than [`HOLD`], and longer than any answer that is not held.
const AT_ONCE: Duration = Duration::from_millis(2300);
const HOLD: &str = "2500ms";
const WAIT: i64 = 602;

/// Registers a client; tells the task.
async fn register(service: &Service, client: &Client, url: &str) -> String {
    let registered = client.register(service.api(), &Wanted::url(url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    registered.data["taskId"].as_str().unwrap_or_else(|| panic!("no task in {registered}")).to_owned()
}

async fn pull(service: &Service, task: &str, cid: &str) -> Answer {
    let target = format!("/peer/task?srcCid={cid}&dstCid=&range=&result=502&status=700&taskId={task}");
    exchange::ask(service.api(), exchange::get(&target)).await
}

/// How many pieces are in flight, and at which rate they are to be fetched. KiB per second.
async fn in_flight(service: &Service, task: &str, cid: &str) -> (usize, u64) {
    let answer = pull(service, task, cid).await;
    let pieces = answer.data.as_array().unwrap_or_else(|| panic!("no pieces in {answer}"));
    (pieces.len(), pieces[0]["downLink"].as_u64().unwrap_or_else(|| panic!("no rate in {answer}")))
}

/// Waits for a text in the log, this often.
async fn logged(service: &Service, text: &str, times: usize) {
    eventually(text, async || (service.log().matches(text).count() >= times).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_limits_on_the_wire_and_a_wrong_file_changes_nothing() {
    let origin = Origin::start().await;
    let url = origin.put("file", File::new(random_content(FILE_BYTES)));
    let service = Service::start_configured("base:\n  peerDownLimit: 2\n  linkLimit: 10M\n").await;
    let client = Client::start(&Release::GO_1_0_6).await;
    let task = register(&service, &client, &url).await;
    let all_stored = async || (service.dump().await.of_kind("piece").count() == PIECES).then_some(());
    eventually("every piece is stored", all_stored).await;
    assert_eq!(in_flight(&service, &task, client.cid()).await, (2, 10 * 1024));

    service.reconfigure(
        "base:\n  peerDownLimit: 5\n  linkLimit: 30M\n  downloadsMax: 7\n  snapshotKeep: 7\n  advertiseIP: 192.0.2.1\n",
    );
    logged(&service, "configuration is reloaded", 1).await;
    assert_eq!(in_flight(&service, &task, client.cid()).await, (5, 30 * 1024));
    let log = service.log();
    for line in
        ["peerDownLimit: 2 → 5", "linkLimit: 10MB → 30MB", "downloadsMax: 32 → 7"].map(|line| format!("setting changed: {line}"))
    {
        assert_eq!(log.matches(&line).count(), 1, "{line:?} is not told once");
    }
    assert!(!log.contains("setting changed: advertiseIP"), "what a flag says, the file does not change");
    assert_eq!(log.matches("setting needs a restart to change: snapshotKeep: 24 → 7").count(), 1);

    service.reconfigure("base:\n  linkLimit: 40M\n  peerDownLimit: none\n");
    logged(&service, "configuration is not valid and changes nothing", 1).await;
    logged(&service, "supernode.yml:3: peerDownLimit is \"none\"; allowed is a whole number", 1).await;
    assert_eq!(in_flight(&service, &task, client.cid()).await, (5, 30 * 1024));

    service.reconfigure("source:\n  deny: ['*']\n");
    logged(&service, "configuration is not valid and changes nothing: ", 2).await;
    logged(&service, "supernode.yml:1: source is unknown; allowed is base.source", 1).await;
    assert_eq!(in_flight(&service, &task, client.cid()).await, (5, 30 * 1024));

    // What is no longer said is the default again; what runs under a higher limit runs on.
    service.reconfigure("# nothing\n");
    logged(&service, "configuration is reloaded", 2).await;
    let log = service.log();
    let warned = log.lines().filter(|line| line.contains("WARN") && line.contains("nothing gives it")).count();
    assert_eq!(warned, 4, "a file that says nothing any more changes four limits, and a warning tells of each");
    assert_eq!(in_flight(&service, &task, client.cid()).await, (5, 20 * 1024));
    let another = Client::start(&Release::GO_1_0_6).await;
    register(&service, &another, &url).await;
    let (few, _) = in_flight(&service, &task, another.cid()).await;
    assert!(few <= 4, "a client is given {few} pieces at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_how_long_requests_are_held() {
    let origin = Origin::start().await;
    let url = origin.put("file", File { ending: Ending::StallsAfter(1000), ..File::new(random_content(5_000_000)) });
    let service = Service::start_configured(&format!("base:\n  hold: {HOLD}\n")).await;
    let client = Client::start(&Release::GO_1_0_6).await;
    let task = register(&service, &client, &url).await;
    let held = async || {
        let began = Instant::now();
        assert_eq!(pull(&service, &task, client.cid()).await.code, WAIT);
        began.elapsed()
    };
    assert!(held().await > AT_ONCE, "the request is not held");
    service.reconfigure("base:\n  hold: 0s\n");
    logged(&service, "setting changed: hold: 2.5s → 0s", 1).await;
    logged(&service, "configuration is reloaded", 1).await;
    assert!(held().await < AT_ONCE, "the request is held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_the_level_of_the_log() {
    let service = Service::start_configured("").await;
    service.reconfigure("base:\n  hold: 0s\n");
    logged(&service, "configuration is reloaded", 1).await;
    assert!(!service.log().contains(" DEBUG "));
    service.reconfigure("base:\n  debug: true\n");
    logged(&service, "configuration is reloaded", 2).await;
    service.reconfigure("base:\n  debug: true\n  hold: 0s\n");
    logged(&service, "configuration is reloaded", 3).await;
    assert!(service.log().contains(" DEBUG "), "nothing is said at level debug");
}
