//! How long clients wait, told by what they ask rather than by a clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{check_content, download};
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, get};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::{random_content, range_of};
use crate::harness::service::Service;

/// One piece that takes the source a moment, longer than a question takes and shorter than one is held.
const FILE_BYTES: usize = 64 * 1024;
const SOURCE_BYTES_PER_S: u64 = 200_000;
/// Asking for the piece and reporting it.
const QUESTIONS: u32 = 2;
const GONE: usize = 8;
/// How long the service holds a question by default.
const HOLD: Duration = Duration::from_secs(1);

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
        eventually("the question is taken in", async || {
            let clients = exchange::call(service.api(), get(&format!("/tasks/{task}/clients"))).await.ok()?;
            let clients: serde_json::Value = serde_json::from_slice(&clients.body).ok()?;
            let asks = |client: &serde_json::Value, cid: &str| client["cID"] == cid && client["held"] == 1;
            clients.as_array()?.iter().any(|one| asks(one, client.cid())).then_some(())
        })
        .await;
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

/// Sends a question that is held, and returns the connection that waits for the answer.
async fn ask_and_leave_open(service: &Service, task: &str, cid: &str) -> TcpStream {
    let mut connection = TcpStream::connect(service.api()).await.expect("the service listens");
    let range = range_of(0);
    let request = format!(
        "GET /peer/task?srcCid={cid}&dstCid=&range={range}&result=503&status=701&taskId={task} HTTP/1.1\r\nHost: supernode\r\n\r\n"
    );
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
