//! Limits on what is fetched: how slow a source may be, and how much of it is fetched at once.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{download, places};
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, get};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

const FILE_BYTES: usize = 5_000_000;
const SOURCE_ERROR: i64 = 610;

/// A file that comes with some 30 KiB at once and then with a few bytes a second.
fn dripping(content: &Bytes) -> File {
    File { rate_bytes_per_s: Some(100), ..File::new(content.clone()) }
}

/// Registers a client; tells the task.
async fn register(service: &Service, url: &str) -> String {
    let client = Client::start(&Release::GO_1_0_6).await;
    let answer = client.register(service.api(), &Wanted::url(url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    assert_eq!(answer.code, 200, "{answer}");
    answer.data["taskId"].as_str().expect("a task id").to_owned()
}

/// What the service says of a task's source once it has failed.
async fn failure(service: &Service, task: &str) -> String {
    eventually("the task has failed", async || {
        let question = format!("/peer/task?taskId={task}&srcCid=somebody&status=700&result=502");
        let answer = exchange::ask(service.api(), get(&question)).await;
        (answer.code == SOURCE_ERROR).then(|| answer.msg.clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_drip_do_not_hold_the_places_of_others() {
    let (origin, content) = (Origin::start().await, random_content(FILE_BYTES));
    let settings = "base:\n  downloadsMax: 2\n  downloadsPerHostMax: 2\n  sourceMinRate: 1M\n  sourceMinRateWindow: 1s\n";
    let service = Service::start_configured(settings).await;
    let mut tasks = Vec::new();
    for name in ["one", "two"] {
        tasks.push(register(&service, &origin.put(name, dripping(&content))).await);
    }
    let whole = origin.put("whole", File::new(content.clone()));
    let downloaded = download(&service, &whole).await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
    for (name, task) in ["one", "two"].into_iter().zip(tasks) {
        let reason = failure(&service, &task).await;
        assert!(reason.contains("while it was waited for 1 s, which is less than sourceMinRate: 1048576"), "{reason}");
        assert_eq!(origin.record(name).0.len(), 5, "it is asked again, and not for ever");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_source_holds_its_place_only_until_others_want_it() {
    let (origin, content) = (Origin::start().await, random_content(FILE_BYTES));
    let settings = "base:\n  downloadsMax: 1\n  downloadsPerHostMax: 1\n  sourceMinRate: 1K\n  sourceMinRateWindow: 3s\n";
    let service = Service::start_configured(settings).await;
    let slow = File { rate_bytes_per_s: Some(32_000), ..File::new(random_content(3_000_000)) };
    register(&service, &origin.put("slow", slow)).await;
    // On its own it is fast enough.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(origin.record("slow").0.len(), 1, "{}", service.log());
    let downloaded = download(&service, &origin.put("whole", File::new(content.clone()))).await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
    let sentence = "while others wait for its place";
    eventually("the log tells why", async || service.log().contains(sentence).then_some(())).await;
    eventually("it is asked for the rest", async || (origin.record("slow").0.len() > 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_source_holds_its_place_only_until_others_want_it() {
    let (origin, content) = (Origin::start().await, random_content(FILE_BYTES));
    let settings = "base:\n  downloadsMax: 1\n  downloadsPerHostMax: 1\n  sourceMinRateWindow: 10m\n  sourceIdleTimeout: 10m\n";
    let service = Service::start_configured(settings).await;
    let silent = File { ending: Ending::StallsAfter(1000), ..File::new(random_content(3_000_000)) };
    register(&service, &origin.put("silent", silent)).await;
    let downloaded = download(&service, &origin.put("whole", File::new(content.clone()))).await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
    let sentence = "while others wait for its place";
    eventually("the log tells why", async || service.log().contains(sentence).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_our_own_limits_take_is_not_held_against_a_source() {
    let (origin, content) = (Origin::start().await, random_content(400_000));
    // What is left is 64 KiB a second, a hundredth of what sources must send.
    let settings = "base:\n  maxBandwidth: 1M\n  systemReservedBandwidth: 1M\n  sourceMinRate: 6M\n  sourceMinRateWindow: 1s\n";
    let service = Service::start_configured(settings).await;
    let downloaded = download(&service, &origin.put("file", File::new(content.clone()))).await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
    assert_eq!(origin.record("file").0.len(), 1, "{}", service.log());
}

/// A file that goes on and on: what comes is too much for an idle source, and too little to end within a test.
fn endless(content: &Bytes) -> File {
    File { rate_bytes_per_s: Some(2000), announced_length: Some(100_000_000), ..File::new(content.clone()) }
}

/// What nobody knows to be small.
fn of_unknown_length(content: &Bytes) -> File {
    File { chunked: true, ..File::new(content.clone()) }
}

/// Has so many endless files fetched of a source.
async fn fetch_endless(service: &Service, origin: &Origin, content: &Bytes, count: usize) {
    for number in 0..count {
        register(service, &origin.put(&format!("endless-{number}"), endless(content))).await;
    }
}

async fn check_arrives(service: &Service, url: &str, content: &Bytes) {
    let downloaded = download(service, url).await;
    assert!(downloaded.content == *content, "{url} arrived with other bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_host_leaves_places_to_others_and_more_can_be_given_under_way() {
    let (slow, other, content) = (Origin::start().await, Origin::start().await, random_content(FILE_BYTES));
    let service = Service::start_configured("base:\n  downloadsMax: 6\n  downloadsPerHostMax: 3\n  sourceMinRate: 0\n").await;
    fetch_endless(&service, &slow, &content, 6).await;
    check_arrives(&service, &other.put("other", of_unknown_length(&content)), &content).await;

    let waiting = slow.put("waiting", of_unknown_length(&content));
    let task = register(&service, &waiting).await;
    let stored = async || service.dump().await.piece_md5(&task, 0).map(|_| ());
    assert_eq!(stored().await, None, "it has no place");
    service.reconfigure("base:\n  downloadsMax: 20\n  downloadsPerHostMax: 20\n  sourceMinRate: 0\n");
    eventually("what waited is fetched", stored).await;
    check_arrives(&service, &waiting, &content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_turn_is_long_in_coming_is_not_kept_waiting_but_asked_again() {
    let (origin, content) = (Origin::start().await, random_content(FILE_BYTES));
    let service = Service::start_configured("base:\n  debug: true\n  downloadsPerHostMax: 2\n  sourceMinRate: 0\n").await;
    fetch_endless(&service, &origin, &content, 1).await;
    let waiting = origin.put("waiting", of_unknown_length(&content));
    let task = register(&service, &waiting).await;
    let line = format!("waiting for a place to fetch task={task}");
    eventually("the log names it", async || service.log().contains(&line).then_some(())).await;
    eventually("it waits", async || (places(&service, "bodies", "waiting").await == 1).then_some(())).await;
    for (of, count, expected) in [
        ("bodies", "held", 1),
        ("bodies", "max", 32),
        ("large_bodies", "held", 1),
        ("large_bodies", "max", 24),
        ("bodies_of_one_host", "max", 2),
        ("answered", "max", 256),
        ("asks", "held", 0),
        ("asks", "waiting", 0),
        ("asks", "max", 256),
    ] {
        assert_eq!(places(&service, of, count).await, expected, "{of}, {count}");
    }
    // Longer than sources are kept waiting.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(origin.record("waiting").0.len(), 1, "it is asked when it is its turn, and no sooner");
    service.reconfigure("base:\n  downloadsPerHostMax: 20\n  sourceMinRate: 0\n");
    check_arrives(&service, &waiting, &content).await;
    assert_eq!(origin.record("waiting").0.len(), 2, "its first answer may have been given up by then");
    assert_eq!(places(&service, "bodies", "waiting").await, 0);
    assert_eq!(places(&service, "bodies_of_one_host", "max").await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_that_hold_their_places_leave_some_to_a_small_one() {
    let content = random_content(FILE_BYTES);
    let origins = [Origin::start().await, Origin::start().await, Origin::start().await];
    let service = Service::start_configured("base:\n  sourceMinRate: 0\n").await;
    for origin in &origins {
        fetch_endless(&service, origin, &content, 16).await;
    }
    for origin in &origins {
        check_arrives(&service, &origin.put("small", File::new(content.clone())), &content).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_of_which_little_is_missing_is_a_small_one() {
    let content = random_content(20_000_000);
    for chunked in [false, true] {
        let origin = Origin::start().await;
        // One place for whatever comes, and one for what is small.
        let service = Service::start_configured("base:\n  downloadsPerHostMax: 2\n  sourceMinRate: 0\n").await;
        let file = File { chunked, ..File::new(content.clone()) };
        let url = origin.put("large", File { ending: Ending::StallsAfter(18_000_000), ..file.clone() });
        let task = register(&service, &url).await;
        let stored = async || service.dump().await.piece_md5(&task, 3).map(|_| ());
        eventually("four pieces of five are stored", stored).await;
        fetch_endless(&service, &origin, &content.slice(..FILE_BYTES), 1).await;
        eventually("the next waits", async || (places(&service, "bodies", "waiting").await == 1).then_some(())).await;
        // The connection breaks, and the next has its place for good.
        origin.put("large", file);
        check_arrives(&service, &url, &content).await;
        assert_eq!(origin.record("large").0.len(), 2, "it is asked for the rest, chunked: {chunked}");
        assert_eq!(places(&service, "large_bodies", "held").await, 1, "chunked: {chunked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_fetched_no_faster_than_it_may_be_until_that_is_changed() {
    let (origin, content) = (Origin::start().await, random_content(2_500_000));
    let service = Service::start_configured("base:\n  taskMaxBandwidth: 1M\n").await;
    let url = origin.put("limited", File::new(content.clone()));
    let downloaded = download(&service, &url).await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
    assert!(downloaded.took > Duration::from_secs(2), "it took {:?}", downloaded.took);

    // At this rate the test would end before it arrives.
    service.reconfigure("base:\n  taskMaxBandwidth: 1K\n");
    eventually("it is changed", async || service.log().contains("taskMaxBandwidth: 1MB → 1KB").then_some(())).await;
    let task = register(&service, &origin.put("crawling", File::new(content.clone()))).await;
    let few = download(&service, &origin.put("few", File::new(random_content(3000)))).await;
    assert!(few.took > Duration::from_secs(2), "it took {:?}", few.took);
    assert!(service.dump().await.piece_md5(&task, 0).is_none(), "what had come was not within the rate");

    service.reconfigure("base:\n  taskMaxBandwidth: 0\n");
    eventually("it is lifted", async || service.log().contains("taskMaxBandwidth: 1KB → 0").then_some(())).await;
    check_arrives(&service, &origin.put("free", File::new(content.clone())), &content).await;
}

/// Downloads two files at once; tells how long both together took.
async fn download_both(service: &Service, urls: &[String; 2], content: &Bytes) -> Duration {
    let began = Instant::now();
    tokio::join!(check_arrives(service, &urls[0], content), check_arrives(service, &urls[1], content));
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_machine_may_take_is_shared_by_all_downloads_and_follows_a_reload() {
    let origin = Origin::start().await;
    let two_files = |name: &str, content: &Bytes| {
        ["one", "two"].map(|number| origin.put(&format!("{name}-{number}"), File::new(content.clone())))
    };
    let service = Service::start_configured("base:\n  maxBandwidth: 2M\n  systemReservedBandwidth: 1M\n").await;
    // Together 3 MB at 1 MiB a second; either limit forgotten, or one for each of them, would be half of that time.
    let content = random_content(1_500_000);
    let took = download_both(&service, &two_files("limited", &content), &content).await;
    assert!(took > Duration::from_millis(2500), "it took {took:?}");

    // What is left is 64 KiB a second: three seconds for 200 kB.
    service.reconfigure("base:\n  maxBandwidth: 1M\n  systemReservedBandwidth: 1M\n");
    eventually("it is lowered", async || service.log().contains("maxBandwidth: 2MB → 1MB").then_some(())).await;
    let content = random_content(100_000);
    let took = download_both(&service, &two_files("lowered", &content), &content).await;
    assert!(took > Duration::from_millis(2500), "it took {took:?}");

    // At that rate both together would take a minute and a half.
    let content = random_content(3_000_000);
    let at_the_old_rate = Duration::from_secs(2 * 3_000_000 / (64 * 1024));
    let urls = two_files("raised", &content);
    let raise = async {
        let are_fetched =
            async || ["raised-one", "raised-two"].iter().all(|name| origin.record(name).body_bytes() > 0).then_some(());
        eventually("both are being fetched", are_fetched).await;
        service.reconfigure("base:\n  maxBandwidth: 1M\n  systemReservedBandwidth: 0\n");
        let sentence = "systemReservedBandwidth: 1MB → 0B";
        eventually("it is raised", async || service.log().contains(sentence).then_some(())).await;
    };
    let (took, ()) = tokio::join!(download_both(&service, &urls, &content), raise);
    assert!(took < at_the_old_rate / 2, "it took {took:?}, at the old rate it were {at_the_old_rate:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_hold_all_places_make_room_for_one_that_holds_none_and_go_on_later() {
    // At its rate it is worth its place, and does not end by itself within the test.
    let content = random_content(40_000_000);
    let slow = File { rate_bytes_per_s: Some(500_000), ..File::new(content.clone()) };
    let (two_files, one_file, none) = (Origin::start().await, Origin::start().await, Origin::start().await);
    // A fourth place is for small ones alone.
    let service = Service::start_configured("base:\n  downloadsMax: 4\n  downloadsPerHostMax: 4\n").await;
    let held = [(&two_files, "one"), (&two_files, "two"), (&one_file, "three")];
    for (host, name) in held {
        let task = register(&service, &host.put(name, slow.clone())).await;
        eventually("its first piece is stored", async || service.dump().await.piece_md5(&task, 0).map(|_| ())).await;
        // Whoever is asked again sends the rest at once.
        host.put(name, File::new(content.clone()));
    }
    assert_eq!(places(&service, "large_bodies", "held").await, 3);
    check_arrives(&service, &none.put("whole", File::new(content.clone())), &content).await;
    let sentence = "source gave way to others, asking again";
    eventually("the log tells why", async || service.log().contains(sentence).then_some(())).await;

    let gave_way = async || ["one", "two"].into_iter().find(|name| two_files.record(name).0.len() > 1);
    let name = eventually("it goes on", gave_way).await;
    check_arrives(&service, &format!("http://{}/{name}", two_files.address()), &content).await;
    let requests = two_files.record(name).0;
    let range =
        requests[1].range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<u64>().ok());
    assert!(range.is_some_and(|start| start > 4_000_000), "what was stored is not asked for again: {requests:?}");
    let requests = held.map(|(host, name)| host.record(name).0.len());
    assert!(requests[2] == 1 && requests[0].min(requests[1]) == 1, "no other gives way: {requests:?}");
}
