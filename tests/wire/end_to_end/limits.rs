//! Limits on what is fetched: how slow a source may be, and how much of it is fetched at once.

use bytes::Bytes;

use super::download;
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, get};
use crate::harness::origin::{File, Origin};
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
    let settings = "base:\n  downloadsMax: 2\n  sourceMinRate: 1M\n  sourceMinRateWindow: 1s\n";
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
async fn what_our_own_limits_take_is_not_held_against_a_source() {
    let (origin, content) = (Origin::start().await, random_content(400_000));
    // What is left is 64 KiB a second, a hundredth of what sources must send.
    let settings = "base:\n  maxBandwidth: 1M\n  systemReservedBandwidth: 1M\n  sourceMinRate: 6M\n  sourceMinRateWindow: 1s\n";
    let service = Service::start_configured(settings).await;
    let downloaded = download(&service, &origin.put("file", File::new(content.clone()))).await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
    assert_eq!(origin.record("file").0.len(), 1, "{}", service.log());
}
