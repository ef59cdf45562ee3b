//! What clients are told while the swarms are rebuilt.
//!
//! The test holds the lock of the database's file, so that the new worker cannot open it until the test lets it.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::client::{Client, Release, Wanted};
use crate::harness::dump::Dump;
use crate::harness::eventually;
use crate::harness::exchange::{self, Response, get, post_json};
use crate::harness::origin::{self, Origin};
use crate::harness::pieces::{random_content, range_of};
use crate::harness::supervised::Supervised;

/// Within which clients must have an answer.
const CLIENTS_WAIT: Duration = Duration::from_secs(5);

/// A service whose worker has died, and whose next one waits for the database.
struct Stage {
    supervised: Supervised,
    database: File,
    client: Client,
    task: String,
    _origin: Origin,
}

impl Stage {
    async fn set() -> Self {
        let origin = Origin::start().await;
        let url = origin.put("file", origin::File::new(random_content(15_000_000)));
        let supervised = Supervised::start().await;
        let client = Client::start(&Release::GO_1_0_6).await;
        let registered =
            client.register(supervised.api(), &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
        let task = registered.data["taskId"].as_str().expect("a task id").to_owned();
        let database = File::open(supervised.home().join("db/db")).expect("sled's file");
        // Waiting for the lock when the worker dies, this has it before the next worker has begun.
        let waiting = database.try_clone().expect("a second handle");
        let locked = tokio::task::spawn_blocking(move || waiting.lock());
        supervised.kill_worker();
        locked.await.expect("locking does not panic").expect("the lock of a dead worker");
        eventually("the next worker answers", async || {
            (exchange::ask(supervised.api(), get("/ready")).await.status == 503).then_some(())
        })
        .await;
        Self { supervised, database, client, task, _origin: origin }
    }

    fn call(&self, path: &str, rest: &str) -> String {
        format!("{path}?taskId={}&{rest}", self.task).replace("CLIENT", self.client.cid())
    }

    fn question(&self) -> String {
        self.call("/peer/task", "srcCid=CLIENT&dstCid=&range=&result=502&status=700")
    }

    fn report(&self) -> String {
        self.call("/peer/piece/suc", &format!("cid=CLIENT&dstCid=&pieceRange={}", range_of(0)))
    }
}

fn registration() -> serde_json::Value {
    json!({
        "cId": "127.0.0.1-1-1.000", "ip": "127.0.0.1", "port": 1, "path": "/peer/file/x", "rawUrl": "http://127.0.0.1:1/x",
        "version": "1.0.6", "superNodeIp": "127.0.0.1",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_told_to_wait_and_what_must_be_durable_waits_itself() {
    let mut stage = Stage::set().await;
    let (api, download) = (stage.supervised.api(), stage.supervised.download());
    let began = Instant::now();
    let question = exchange::ask(api, get(&stage.question())).await;
    assert_eq!((question.status, question.code), (200, 602), "{question}");
    for (path, status) in [("/live", 200), ("/ready", 503)] {
        assert_eq!(exchange::ask(api, get(path)).await.status, status, "{path}");
    }
    for path in ["/", "/metrics", "/_ping", "/version"] {
        assert_eq!(exchange::call(api, get(path)).await.expect("answered").status, 200, "{path}");
    }
    let at_once = began.elapsed();

    let piece = format!("/qtdown/{}/{}", &stage.task[..3], stage.task);
    let (suc, registered, fetched) = tokio::join!(
        exchange::ask(api, get(&stage.report())),
        exchange::ask(api, post_json("/peer/registry", &registration())),
        exchange::ask(download, exchange::with_header(get(&piece), "range", &format!("bytes={}", range_of(0)))),
    );
    let waited = began.elapsed() - at_once;
    assert_eq!(suc.status, 503, "clients repeat this report on a status alone: {suc}");
    assert_eq!((registered.status, registered.code), (200, 609), "{registered}");
    assert_eq!(fetched.status, 503, "{fetched}");
    assert!(at_once < waited && waited < CLIENTS_WAIT, "answered after {at_once:?}, and what waited after {waited:?}");

    // What still waits when the recovery is over is taken in.
    let report = tokio::spawn(exchange::ask(api, get(&stage.report())));
    stage.database.unlock().expect("ours to unlock");
    stage.supervised.next_worker().await;
    let report = report.await.expect("asking does not panic");
    let report = if report.status == 503 { exchange::ask(api, get(&stage.report())).await } else { report };
    assert_eq!((report.status, report.code), (200, 611), "{report}");
    assert!(Dump::of(&stage.supervised.home()).await.servable(&stage.task, stage.client.cid()).contains(&0));
    assert_eq!(exchange::ask(api, get("/ready")).await.status, 200);
}

/// What waits for the end of a recovery that never comes, because the service is told to end before.
async fn answers_of_a_service_that_is_told(stage: &Stage, signal: Signal) -> [Response; 3] {
    let (api, download) = (stage.supervised.api(), stage.supervised.download());
    let piece = format!("/qtdown/{}/{}", &stage.task[..3], stage.task);
    let waiting = [
        (api, get(&stage.report())),
        (api, post_json("/peer/registry", &registration())),
        (download, exchange::with_header(get(&piece), "range", &format!("bytes={}", range_of(0)))),
    ];
    let waiting = waiting.map(|(address, request)| tokio::spawn(exchange::call(address, request)));
    // Until they have come, and long before they are answered anyway.
    for _ in 0..20 {
        exchange::ask(api, get(&stage.question())).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.supervised.signal(signal);
    let mut answers = Vec::new();
    for waiting in waiting {
        answers.push(waiting.await.expect("asking does not panic").unwrap_or_else(|error| panic!("{signal:?}: {error}")));
    }
    answers.try_into().expect("as many as were asked")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_the_recovery_is_answered_by_a_service_that_ends_before() {
    for signal in [Signal::TERM, Signal::USR2] {
        let mut stage = Stage::set().await;
        let [report, registered, fetched] = answers_of_a_service_that_is_told(&stage, signal).await;
        assert_eq!((report.status, fetched.status), (503, 503), "{signal:?}: {report}, {fetched}");
        let registered = registered.answer().expect("an envelope");
        assert_eq!((registered.status, registered.code), (200, 609), "{signal:?}: {registered}");
        assert!(registered.msg.contains("stopping"), "{signal:?}: it waited until it was late: {registered}");
        stage.database.unlock().expect("ours to unlock");
        if signal == Signal::TERM {
            assert_eq!(stage.supervised.ended().await.code(), Some(0), "{}", stage.supervised.log());
        } else {
            stage.supervised.next_worker().await;
            let question = exchange::ask(stage.supervised.api(), get(&stage.question())).await;
            assert_eq!(question.code, 601, "the client goes on where it was: {question}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_cannot_be_opened_for_now_does_not_end_a_service_that_served() {
    let mut stage = Stage::set().await;
    eventually("the log says that it is tried again", async || {
        stage.supervised.log().contains("the home cannot be opened now").then_some(())
    })
    .await;
    let ready = exchange::ask(stage.supervised.api(), get("/ready")).await;
    assert!(ready.status == 503 && ready.msg.contains("the home cannot be opened now"), "{ready}");
    let question = exchange::ask(stage.supervised.api(), get(&stage.question())).await;
    assert_eq!((question.status, question.code), (200, 602), "{question}");
    stage.database.unlock().expect("ours to unlock");
    stage.supervised.next_worker().await;
    let question = exchange::ask(stage.supervised.api(), get(&stage.question())).await;
    assert_eq!(question.code, 601, "the client goes on where it was: {question}");
    let quarantined = std::fs::read_dir(stage.supervised.home()).expect("readable").flatten();
    let names: Vec<_> = quarantined.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert!(names.iter().all(|name| !name.contains("damaged")), "a lock is no damage: {names:?}");
}
