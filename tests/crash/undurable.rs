//! What is not durable is not told, and nothing is removed on the strength of it: the database is no longer written while
//! things happen, and whoever looks must not see what the next start would not know of.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use serde_json::json;

use crate::fault::{ALWAYS, SYNC, UNLINK};
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, get, post_json};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::stage::{Stage, Started, ask_control};

const UNAVAILABLE: u16 = 503;
/// Longer than the longest wait between two looks at whether the database can be written.
const PASSES_WITHIN: Duration = Duration::from_secs(40);
const WAIT_AUTH: i64 = 609;
/// Of no file here.
const WRONG_MD5: &str = "00000000000000000000000000000001";
/// Whoever comes when nothing can be stored any more.
const LATE: &str = "late-comer";

async fn serving(stage: &mut Stage) -> SocketAddr {
    match stage.start().await {
        Started::Serving(addresses) => addresses.api,
        Started::Died(status) => panic!("it ended with {status}; its log:\n{}", stage.log()),
    }
}

async fn text_of(api: SocketAddr, target: &str) -> (u16, String) {
    let response = exchange::call(api, get(target)).await.unwrap_or_else(|error| panic!("{target}: {error}"));
    (response.status, String::from_utf8_lossy(&response.body).into_owned())
}

fn registration(url: &str) -> serde_json::Value {
    json!({
        "rawUrl": url, "taskUrl": url, "cid": LATE, "ip": "127.0.0.1", "port": 15001, "path": "/p", "version": "1.0.6",
        "superNodeIp": "127.0.0.1",
    })
}

/// Has the database fail with the first thing that is to be stored from now on, and somebody register.
async fn register_in_vain(stage: &Stage, api: SocketAddr, url: &str) {
    stage.faults.fail(SYNC, "/home/db/", Errno::IO, ALWAYS);
    tokio::spawn(exchange::call(api, post_json("/peer/registry", &registration(url))));
    eventually("the database is known to fail", async || {
        let ready = exchange::ask(api, get("/ready")).await;
        (ready.status == UNAVAILABLE && ready.msg.contains("database")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_what_the_database_did_not_take() {
    let (mut stage, origin) = (Stage::new(false), Origin::start().await);
    let api = serving(&mut stage).await;
    let url = origin.put("file", File::new(random_content(5_000)));
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
    let downloaded = client.download(api, &Wanted::url(&url)).await;
    let task = downloaded.unwrap_or_else(|surprise| panic!("{surprise}")).task;
    let (one, lists) = (format!("/api/v1/tasks/{task}"), ["/api/v1/tasks", "/api/v1/peers", "/api/v1/cache", "/api/v1/preheats"]);
    let of_one = ["", "/pieces", "/clients"].map(|part| format!("{one}{part}"));
    let others = [format!("/api/v1/peers/{LATE}"), format!("/api/v1/tasks/{}", "0".repeat(64))];
    let targets: Vec<String> = lists.into_iter().map(str::to_owned).chain(of_one).chain(others).collect();
    for target in &targets {
        let (status, text) = text_of(api, target).await;
        assert!(status < 500, "before anything fails, {target} is answered {status}: {text}");
    }
    let dump = ask_control(&stage.home(), "GET", "/dump").await.expect("answered");
    assert!(dump.contains(&task), "{dump}");

    register_in_vain(&stage, api, &url).await;
    for target in &targets {
        let (status, text) = text_of(api, target).await;
        assert!(status == UNAVAILABLE && !text.contains(LATE), "{target} tells with {status}: {text}");
    }
    let network = exchange::call(api, post_json("/peer/network", &json!({ "urls": [url] }))).await.expect("answered");
    assert_eq!(network.status, UNAVAILABLE, "{network}");
    let (status, text) = text_of(api, "/api/v1/tasks/no-id").await;
    assert_eq!(status, 400, "what is wrong is told all the same: {text}");
    let (status, text) = text_of(api, "/metrics").await;
    assert!(status == 200 && text.contains("dragonfly_supernode_tasks"), "whoever watches it sees it: {text}");
    for (method, target) in [("GET", "/dump"), ("POST", "/gc?dryRun=true")] {
        let told = ask_control(&stage.home(), method, target).await.expect("answered");
        assert!(told.contains(r#""kind":"error""#) && !told.contains(&task), "{target} tells: {told}");
    }
    let dumped = stage.run("dump", &[]).await;
    let error = String::from_utf8_lossy(&dumped.stderr);
    assert!(dumped.status.code() == Some(1) && error.contains("the database can no longer be written"), "{error}");

    stage.faults.heal();
    stage.let_die(PASSES_WITHIN).await;
    let api = serving(&mut stage).await;
    let (status, text) = text_of(api, &of_one_clients(&task)).await;
    assert!(status == 200 && text.contains(client.cid()), "{text}");
}

fn of_one_clients(task: &str) -> String {
    format!("/api/v1/tasks/{task}/clients")
}

/// A file of a task that was fetched with other bytes than its client wants: the next registration begins it anew.
async fn failed_for_good(stage: &Stage, origin: &Origin, api: SocketAddr) -> (String, PathBuf) {
    let url = origin.put("file", File::new(random_content(5_000_000)));
    let wanted = Wanted { md5: Some(WRONG_MD5.to_owned()), ..Wanted::url(&url) };
    let client = Client::start(&Release::GO_1_0_6).await;
    let registered = client.register(api, &wanted).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    let task = supernode::domain::TaskId::derive(&url, WRONG_MD5, "").to_string();
    assert_eq!(registered.data["taskId"], task.as_str(), "{registered}");
    eventually("its digest is found to be another", async || {
        let (_, text) = text_of(api, &format!("/api/v1/tasks/{task}")).await;
        text.contains("FAILED").then_some(())
    })
    .await;
    let file = stage.home().join(format!("pieces/{}/{task}.0", &task[..3]));
    assert!(file.exists(), "the pieces that came are there");
    (url, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_stays_until_its_end_is_stored() {
    let (mut stage, origin) = (Stage::new(false), Origin::start().await);
    let api = serving(&mut stage).await;
    let (url, file) = failed_for_good(&stage, &origin, api).await;
    stage.faults.fail(SYNC, "/home/db/", Errno::IO, ALWAYS);
    let body = json!({ "md5": WRONG_MD5 }).as_object().cloned();
    let mut again = registration(&url);
    again.as_object_mut().expect("an object").extend(body.expect("an object"));
    // Refused for as long as the failure is remembered; taken, it is held until the client would give up.
    eventually("the task is begun anew, in vain", async || {
        let answer = exchange::ask(api, post_json("/peer/registry", &again)).await;
        (answer.code == WAIT_AUTH).then_some(())
    })
    .await;
    assert!(file.exists(), "the database names it, and it is gone");
    stage.kill();
    stage.faults.heal();
    serving(&mut stage).await;
    assert!(!stage.said().contains("are not on disk"), "{}", stage.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_end_was_stored_goes_with_the_next_start_at_the_latest() {
    let (mut stage, origin) = (Stage::new(false), Origin::start().await);
    let api = serving(&mut stage).await;
    let (url, file) = failed_for_good(&stage, &origin, api).await;
    // As if it died just before the file went.
    stage.faults.fail(UNLINK, "/pieces/", Errno::IO, ALWAYS);
    let wanted = Wanted { md5: Some(WRONG_MD5.to_owned()), ..Wanted::url(&url) };
    let client = Client::start(&Release::GO_1_0_6).await;
    eventually("the task is begun anew", async || {
        let answer = client.register(api, &wanted).await.unwrap_or_else(|surprise| panic!("{surprise}"));
        (answer.code == 200 && stage.said().contains("stays behind")).then_some(())
    })
    .await;
    stage.kill();
    assert!(file.exists(), "it could not be removed");
    stage.faults.heal();
    serving(&mut stage).await;
    assert!(!file.exists(), "nothing names it, and it is kept");
    assert!(!stage.said().contains("are not on disk"), "{}", stage.said());
}
