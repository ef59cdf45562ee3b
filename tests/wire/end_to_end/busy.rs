//! Sources that are busy, and say when they want to be asked again.

use std::time::{Duration, Instant};

use http::StatusCode;

use super::download;
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, Answer, get};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

const NOT_REACHABLE: i64 = 607;
const SOURCE_ERROR: i64 = 610;
/// Four pieces.
const FILE_BYTES: usize = 15_000_000;
const INTERRUPTED_AFTER: u64 = 10_000_000;

fn busy(status: StatusCode, retry_after: &'static str) -> File {
    File { status: Some(status), retry_after: Some(retry_after), ..File::new("") }
}

async fn register(service: &Service, url: &str) -> Answer {
    let client = Client::start(&Release::GO_1_0_6).await;
    client.register(service.api(), &Wanted::url(url)).await.unwrap_or_else(|surprise| panic!("{surprise}"))
}

async fn asked(origin: &Origin, name: &str, times: usize) {
    eventually("the source is asked", async || (origin.record(name).0.len() >= times).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_busy_for_a_moment_is_asked_when_it_says() {
    let (origin, service, content) = (Origin::start().await, Service::start().await, random_content(FILE_BYTES));
    let url = origin.put("file", busy(StatusCode::SERVICE_UNAVAILABLE, "2"));
    let (began, registering) = (Instant::now(), register(&service, &url));
    let free = async {
        asked(&origin, "file", 1).await;
        origin.put("file", File { ending: Ending::StallsAfter(INTERRUPTED_AFTER), ..File::new(content.clone()) });
    };
    let (registered, ()) = tokio::join!(registering, free);
    assert_eq!(registered.code, 200, "{registered}");
    assert!(began.elapsed() >= Duration::from_secs(2), "it was asked after {:?}", began.elapsed());

    // Also in the middle of a download, which may wait for longer.
    let task = registered.data["taskId"].as_str().expect("a task id");
    eventually("two pieces are stored", async || service.dump().await.piece_md5(task, 1).map(|_| ())).await;
    let began = Instant::now();
    origin.put("file", busy(StatusCode::TOO_MANY_REQUESTS, "3"));
    asked(&origin, "file", 3).await;
    origin.put("file", File::new(content.clone()));
    asked(&origin, "file", 4).await;
    assert!(began.elapsed() >= Duration::from_secs(3), "it was asked after {:?}", began.elapsed());
    assert!(download(&service, &url).await.content == content, "the file arrived with other bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_busy_for_long_is_left_alone_for_that_long_within_bounds() {
    let origin = Origin::start().await;
    let service = Service::start_configured("base: {failAccessInterval: 5s}\n").await;
    let content = random_content(FILE_BYTES);
    let url = origin.put("file", busy(StatusCode::SERVICE_UNAVAILABLE, "3600"));
    let began = Instant::now();
    let refused = register(&service, &url).await;
    assert_eq!(refused.code, NOT_REACHABLE, "{refused}");
    assert!(refused.msg.contains("wants to be asked again in 3600 s"), "{refused}");
    let stalling = File { ending: Ending::StallsAfter(INTERRUPTED_AFTER), ..File::new(content) };
    origin.put("file", stalling);
    let registered = eventually("it is asked again", async || {
        let answer = register(&service, &url).await;
        (answer.code != NOT_REACHABLE).then_some(answer)
    })
    .await;
    assert_eq!(registered.code, 200, "{registered}");
    assert!(began.elapsed() >= Duration::from_secs(5), "it was asked after {:?}", began.elapsed());
    assert_eq!(origin.record("file").0.len(), 2, "it was asked while it wanted to be left alone");

    let task = registered.data["taskId"].as_str().expect("a task id");
    eventually("two pieces are stored", async || service.dump().await.piece_md5(task, 1).map(|_| ())).await;
    origin.put("file", busy(StatusCode::TOO_MANY_REQUESTS, "3600"));
    let failed = eventually("the task has failed", async || {
        let question = format!("/peer/task?taskId={task}&srcCid=somebody&status=700&result=502");
        let answer = exchange::ask(service.api(), get(&question)).await;
        (answer.code == SOURCE_ERROR).then_some(answer)
    })
    .await;
    assert!(failed.msg.contains("wants to be asked again in 3600 s"), "{failed}");
    assert_eq!(origin.record("file").0.len(), 3, "it was asked again and again");
}
