//! What a registration brings to be shown to the source is shown to nobody else: not by commands, answers, metrics and
//! logs, however much they tell, nor by a snapshot.

use std::path::Path;
use std::process::Output;

use serde_json::json;

use crate::harness::eventually;
use crate::harness::exchange::{self, get, post_json};
use crate::harness::origin::{File, Origin};
use crate::stage::{Addresses, Stage, Started, ask_control};

const IN_AUTHORIZATION: &str = "Zq8authorization";
const IN_COOKIE: &str = "Zq8cookie";
const IN_HEADER: &str = "Zq8header";
const IN_USERINFO: &str = "Zq8userinfo";
const IN_QUERY: &str = "Zq8query";
/// What all of them begin with.
const ANY: &str = "Zq8";

/// What every log of every crate has to say.
const EVERYTHING: &str = "trace";

async fn register(addresses: Addresses, url: &str, cid: &str) -> i64 {
    let body = json!({
        "superNodeIp": "127.0.0.1", "rawUrl": url, "taskUrl": url, "cid": cid, "ip": "127.0.0.1", "hostName": "host",
        "port": 15001, "path": "/peer/file/a-file", "version": "1.0.6",
        "headers": [
            format!("Authorization: Bearer {IN_AUTHORIZATION}"),
            format!("Cookie: session={IN_COOKIE}"),
            format!("X-Token: {IN_HEADER}"),
        ],
    });
    exchange::ask(addresses.api, post_json("/peer/registry", &body)).await.code
}

fn shows(text: &str, what: &str) -> Option<String> {
    let line = text.lines().find(|line| line.contains(what))?;
    let at = line.find(what).unwrap_or_default();
    let start = (0..=at.saturating_sub(200)).rev().find(|start| line.is_char_boundary(*start)).unwrap_or_default();
    Some(line[start..].chars().take(400).collect())
}

/// The rows of a snapshot as its format says, without their compression.
fn unpacked(snapshot: &Path) -> Vec<u8> {
    const HEAD_BYTES: usize = 18;
    let bytes = std::fs::read(snapshot).expect("readable");
    let (mut plain, mut rest) = (Vec::new(), &bytes[12..]);
    while !rest.is_empty() {
        let number = |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().expect("four bytes")) as usize;
        let (plain_length, packed_length) = (number(6), number(10));
        let packed = &rest[HEAD_BYTES..HEAD_BYTES + packed_length];
        plain.extend(zstd::bulk::decompress(packed, plain_length).expect("a frame of zstd"));
        rest = &rest[HEAD_BYTES + packed_length..];
    }
    plain
}

fn contains(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

fn text_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_shown_to_the_source_alone() {
    let origin = Origin::start().await;
    let guarded = File { authorization: Some(format!("Bearer {IN_AUTHORIZATION}")), ..File::new(vec![7; 5000]) };
    let url = origin.put("guarded", guarded);
    let with_userinfo = |url: &str| url.replace("http://", &format!("http://user:{IN_USERINFO}@"));
    let query = format!("?signature={IN_QUERY}&x=1");
    let whole = format!("{}{query}", with_userinfo(&url));
    // Sources that fail, each in its way, and are complained of.
    let nobody = format!("http://user:{IN_USERINFO}@127.0.0.1:9/nobody{query}");
    let missing = format!("{}{query}", with_userinfo(&format!("http://{}/never-put", origin.address())));
    let elsewhere = File { location: Some(format!("http://127.0.0.1:9/elsewhere{query}")), ..File::new(vec![1; 10]) };
    let redirected = format!("{}{query}", with_userinfo(&origin.put("redirected", elsewhere)));
    let broken = File { ending: crate::harness::origin::Ending::StallsAfter(100), ..File::new(vec![1; 5_000_000]) };
    let broken_url = format!("{}{query}", with_userinfo(&origin.put("broken", broken.clone())));

    let mut stage = Stage::new(false);
    let Started::Serving(addresses) = stage.start_in(&[], &[("SUPERNODE_LOG", EVERYTHING)]).await else {
        panic!("it serves; its log:\n{}", stage.log())
    };
    let cid = "127.0.0.1-1-1795423513.832";
    assert_eq!(register(addresses, &whole, cid).await, 200, "the source wants the credentials, and gets them");
    assert_eq!(register(addresses, &broken_url, cid).await, 200);
    for url in [&nobody, &missing, &redirected] {
        assert_eq!(register(addresses, url, cid).await, 607, "{url}");
    }
    // Fails for good, amid the file.
    origin.put("broken", File { status: Some(http::StatusCode::FORBIDDEN), ..broken });
    eventually("the source fails", async || stage.dump().await.0.iter().any(|line| line["state"] == "FAILED").then_some(()))
        .await;
    let seen = origin.record("guarded").0.remove(0);
    let session = format!("session={IN_COOKIE}");
    assert_eq!(seen.cookie.as_deref(), Some(session.as_str()), "what is to be hidden is there");

    let id = supernode::domain::TaskId::derive(&whole, "", "").to_string();
    let mut told: Vec<(String, String)> = Vec::new();
    for path in [
        "/metrics",
        "/version",
        "/_ping",
        "/live",
        "/ready",
        "/",
        "/status",
        "/openapi.json",
        "/peers",
        &format!("/peers/{cid}"),
        "/tasks",
        &format!("/tasks/{id}"),
        &format!("/tasks/{id}/pieces"),
        &format!("/tasks/{id}/clients"),
    ] {
        let response = exchange::call(addresses.api, get(path)).await.expect("an answer");
        told.push((path.to_owned(), String::from_utf8_lossy(&response.body).into_owned()));
    }
    assert!(told.iter().any(|(path, text)| path.as_str() == format!("/tasks/{id}") && text.contains(&id)), "{told:?}");
    let network = post_json("/peer/network?start=0&limit=10", &json!({ "urls": [whole] }));
    told.push((
        "/peer/network".into(),
        String::from_utf8_lossy(&exchange::call(addresses.api, network).await.expect("an answer").body).into(),
    ));
    told.push(("/dump".into(), ask_control(&stage.home(), "GET", "/dump").await.expect("an answer")));
    for format in ["table", "jsonl"] {
        told.push((format!("dump as {format}"), text_of(&stage.run("dump", &["--format", format]).await)));
    }
    let snapshot = stage.home().join("snapshots/1.snap");
    let place = snapshot.display().to_string();
    told.push(("snapshot".into(), text_of(&stage.run("snapshot", &["--output", &place]).await)));
    assert!(stage.terminate().await.success(), "an orderly stop; its log:\n{}", stage.log());
    told.push(("dump of a stopped one".into(), text_of(&stage.run("dump", &["--format", "jsonl"]).await)));
    told.push(("check".into(), text_of(&stage.run("check", &[]).await)));
    told.push(("log".into(), stage.log()));
    let dump = told.iter().find(|(name, _)| name == "/dump").expect("it was taken");
    assert!(dump.1.contains("guarded") && dump.1.contains("FAILED"), "a dump has the tasks: {}", dump.1);
    let log = stage.log();
    assert!(log.contains("TRACE") && log.contains("guarded"), "the log tells everything");
    let shown: Vec<String> =
        told.iter().filter_map(|(name, text)| shows(text, ANY).map(|line| format!("{name}: {line}"))).collect();
    assert!(shown.is_empty(), "secrets are shown:\n{}", shown.join("\n"));

    // A snapshot must have the URLs, which are what is to be fetched; headers it leaves out.
    let rows = unpacked(&snapshot);
    assert!(contains(&rows, "guarded"), "the snapshot has the task");
    for secret in [IN_AUTHORIZATION, IN_COOKIE, IN_HEADER] {
        assert!(!contains(&rows, secret), "the snapshot has {secret}");
    }
    let database = std::fs::read(stage.home().join("db/db")).expect("readable");
    assert!(contains(&database, IN_AUTHORIZATION), "the database has the credentials, which its modes protect");
}
