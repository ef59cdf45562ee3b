//! How long clients wait, told by what they ask rather than by a clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{check_content, download};
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, Answer, get, post_json};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::{other_content, random_content, range_of};
use crate::harness::service::Service;

/// One piece that takes the source a moment, longer than a question takes and shorter than one is held.
const FILE_BYTES: usize = 64 * 1024;
const SOURCE_BYTES_PER_S: u64 = 200_000;
/// Asking for the piece and reporting it.
const QUESTIONS: u32 = 2;
const GONE: usize = 8;
/// How long the service holds a question by default.
const HOLD: Duration = Duration::from_secs(1);
/// As long as it may be made, nearly.
const LONG_HOLD: Duration = Duration::from_millis(2900);
/// Within which a registration must have an answer.
const REGISTRATION_WAITS: Duration = Duration::from_secs(5);
const SOURCE_FAIL: i64 = 604;
const NOT_REACHABLE: i64 = 607;
const WAIT_AUTH: i64 = 609;
const SOURCE_ERROR: i64 = 610;

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_the_first_piece_costs_a_round_trip() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    for release in Release::PUBLISHED {
        let content = random_content(FILE_BYTES);
        let file = File { rate_bytes_per_s: Some(SOURCE_BYTES_PER_S), ..File::new(content.clone()) };
        let url = origin.put(&release.name.replace(' ', "-"), file);
        let downloaded = download(&service, &Arc::new(Client::start(release).await), &url).await;
        check_content(&downloaded, &content, release.name);
        assert_eq!(downloaded.questions, QUESTIONS, "{} was put off where it could have been held", release.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn held_requests_whose_clients_hang_up_are_dropped_and_take_nobodys_place() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let content = random_content(FILE_BYTES);
    let url = origin.put("file", File { ending: Ending::StallsAfter(1000), ..File::new(content.clone()) });
    let mut gone = Vec::new();
    for _ in 0..GONE {
        gone.push(Client::start(&Release::GO_1_0_6).await);
    }
    let mut task = String::new();
    for client in &gone {
        let registered = client.register(service.api(), &Wanted::url(&url)).await;
        let registered = registered.unwrap_or_else(|surprise| panic!("{surprise}"));
        task = registered.data["taskId"].as_str().unwrap_or_else(|| panic!("{registered}")).to_owned();
    }
    // Each asks, with a report by which the list of clients shows that the question has been taken in; then it hangs up.
    let mut dropped_after = Vec::new();
    for client in &gone {
        let asked = Instant::now();
        let held = ask_and_leave_open(&service, &task, client.cid()).await;
        taken_in(&service, &task, client.cid()).await;
        let port = held.local_addr().expect("it is connected").port();
        drop(held);
        eventually("the service hangs up too", async || (!is_open(service.api().port(), port)).then_some(())).await;
        dropped_after.push(asked.elapsed());
    }
    // A machine that is busy may be slow with some of them, but not with all.
    assert!(dropped_after.iter().any(|after| *after < HOLD), "each was held to the end: {dropped_after:?}");

    // A place that was kept for somebody who is gone would be told of the piece in the place of this client.
    let client = Arc::new(Client::start(&Release::GO_0_3_0).await);
    let downloading = {
        let (client, api, wanted) = (client.clone(), service.api(), Wanted::url(&url));
        tokio::spawn(async move { client.download(api, &wanted).await })
    };
    eventually("the client has registered", async || service.dump().await.has_client(&task, client.cid()).then_some(())).await;
    origin.put("file", File::new(content.clone()));
    let downloaded = downloading.await.expect("a client does not panic").unwrap_or_else(|surprise| panic!("{surprise}"));
    check_content(&downloaded, &content, "a client after others that hung up");
    assert_eq!(downloaded.transfers.from_supernode, 1, "those who are gone serve nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_question_is_answered_as_soon_as_the_source_has_failed() {
    let settings = format!("base:\n  hold: {}ms\n", LONG_HOLD.as_millis());
    let (origin, service) = (Origin::start().await, Service::start_configured(&settings).await);
    let whole = File::new(random_content(FILE_BYTES));
    let changed = File { revision: 2, ..File::new(other_content(&whole.content)) };
    // The one is the source's fault; the other has not the MD5 that the client knows.
    let no_md5_of_it = Some("0123456789abcdef0123456789abcdef".to_owned());
    for (name, file, md5, code) in
        [("changed", changed, None, SOURCE_ERROR), ("another", whole.clone(), no_md5_of_it, SOURCE_FAIL)]
    {
        let mut answered_after = Vec::new();
        for number in 0..3 {
            let name = format!("{name}-{number}");
            let url = origin.put(&name, File { ending: Ending::StallsAfter(1000), ..whole.clone() });
            let client = Client::start(&Release::GO_1_0_6).await;
            let wanted = Wanted { md5: md5.clone(), ..Wanted::url(&url) };
            let registered = client.register(service.api(), &wanted).await;
            let registered = registered.unwrap_or_else(|surprise| panic!("{surprise}"));
            let task = registered.data["taskId"].as_str().unwrap_or_else(|| panic!("{registered}")).to_owned();
            let (api, target, asked) = (service.api(), question(&task, client.cid()), Instant::now());
            let held = tokio::spawn(async move { exchange::ask(api, get(&target)).await });
            taken_in(&service, &task, client.cid()).await;
            // The connection breaks, and the source is asked again.
            origin.put(&name, file.clone());
            let answer = held.await.expect("asking does not panic");
            assert_eq!(answer.code, code, "{answer}");
            answered_after.push(asked.elapsed());
        }
        // A machine that is busy may be slow with some of them, but not with all.
        assert!(answered_after.iter().any(|after| *after < LONG_HOLD), "each was held to the end: {answered_after:?}");
    }
}

/// Registers once, whatever the answer; tells that and after how long it came.
async fn register_once(service: &Service, client: &Client, url: &str) -> (Answer, Duration) {
    let body = json!({
        "rawUrl": url, "taskUrl": url, "cid": client.cid(), "ip": "127.0.0.1", "port": 15001, "path": "/p", "version": "1.0.6",
    });
    let asked = Instant::now();
    let answer = exchange::ask(service.api(), post_json("/peer/registry", &body)).await;
    (answer, asked.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_source_puts_a_registration_off_three_times_and_is_then_of_unknown_length() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let url = origin.put("silent", File { delay: Duration::from_secs(600), ..File::new(random_content(1000)) });
    let client = Client::start(&Release::GO_1_0_6).await;
    for time in 1..=3 {
        let (answer, after) = register_once(&service, &client, &url).await;
        assert_eq!(answer.code, WAIT_AUTH, "registration {time}: {answer}");
        assert!(after < REGISTRATION_WAITS, "registration {time} was answered after {after:?}");
    }
    let (answer, after) = register_once(&service, &client, &url).await;
    assert_eq!((answer.code, answer.data["fileLength"].as_i64()), (200, Some(-1)), "{answer}");
    assert!(after < REGISTRATION_WAITS, "it was answered after {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_waits_is_answered_as_soon_as_the_source_has_failed() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    // Sooner than it would be told to ask again.
    let url = origin.put("missing", File { delay: Duration::from_secs(2), ..File::missing() });
    let client = Client::start(&Release::GO_1_0_6).await;
    let (answer, _) = register_once(&service, &client, &url).await;
    assert!(answer.code == NOT_REACHABLE && answer.msg.contains("the source answered 404"), "{answer}");
}

/// Waits until a client's question shows, by what it reported with it.
async fn taken_in(service: &Service, task: &str, cid: &str) {
    eventually("the question is taken in", async || {
        let clients = exchange::call(service.api(), get(&format!("/tasks/{task}/clients"))).await.ok()?;
        let clients: serde_json::Value = serde_json::from_slice(&clients.body).ok()?;
        clients.as_array()?.iter().any(|client| client["cID"] == cid && client["held"] == 1).then_some(())
    })
    .await;
}

/// What to do, of a client that has the first piece and asks for others.
fn question(task: &str, cid: &str) -> String {
    format!("/peer/task?srcCid={cid}&dstCid=&range={}&result=503&status=701&taskId={task}", range_of(0))
}

/// Sends a question that is held, and returns the connection that waits for the answer.
async fn ask_and_leave_open(service: &Service, task: &str, cid: &str) -> TcpStream {
    let mut connection = TcpStream::connect(service.api()).await.expect("the service listens");
    let request = format!("GET {} HTTP/1.1\r\nHost: supernode\r\n\r\n", question(task, cid));
    connection.write_all(request.as_bytes()).await.expect("the service reads");
    connection
}

/// Whether the service has a connection on one port to the other: its state is "established" or "the other has closed".
fn is_open(service: u16, client: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel tells of its connections");
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap_or_default(), 16).ok();
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        port(fields[1]) == Some(service) && port(fields[2]) == Some(client) && matches!(fields[3], "01" | "08")
    })
}
