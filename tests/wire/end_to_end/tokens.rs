//! Sources that want a token: the supernode asks for one, as registries have it, in the name of whoever registers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use super::download_wanted;
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, Answer, post_json};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

const CREDENTIALS: &str = "Basic dXNlcjpzZWNyZXQ=";
const NEED_AUTH: i64 = 608;
const WAIT_AUTH: i64 = 609;
const NOT_REACHABLE: i64 = 607;
/// Four pieces.
const FILE_BYTES: usize = 15_000_000;
const INTERRUPTED_AFTER: u64 = 10_000_000;

/// A file that takes this token, and names the realm where there is one.
fn guarded(content: &Bytes, token: &str, realm: &str) -> File {
    let challenge = format!("Bearer realm=\"{realm}\",service=\"registry\",scope=\"repository:a/b:pull\"");
    File { authorization: Some(format!("Bearer {token}")), challenge: Some(challenge), ..File::new(content.clone()) }
}

fn token_answer(token: &str) -> File {
    File::new(json!({ "token": token, "expires_in": 60 }).to_string())
}

fn wanted(url: &str, authorization: Option<&str>) -> Wanted {
    let headers = authorization.map(|value| format!("Authorization: {value}")).into_iter().collect();
    Wanted { headers, ..Wanted::url(url) }
}

async fn register(service: &Service, wanted: &Wanted) -> Answer {
    let client = Client::start(&Release::GO_1_0_6).await;
    client.register(service.api(), wanted).await.unwrap_or_else(|surprise| panic!("{surprise}"))
}

/// Whether any file below the directory has this text in it.
fn is_in_files(directory: &Path, text: &str) -> bool {
    std::fs::read_dir(directory).expect("readable").any(|entry| {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            return is_in_files(&path, text);
        }
        // A socket has no bytes, and what goes meanwhile has none left.
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_with_the_clients_password_or_with_nothing_and_is_not_kept() {
    let (origin, service, content) = (Origin::start().await, Service::start().await, random_content(FILE_BYTES));
    for (name, authorization) in [("open", None), ("closed", Some(CREDENTIALS))] {
        let token = format!("planted-{name}-token");
        let service_file = File { authorization: authorization.map(str::to_owned), ..token_answer(&token) };
        let realm = origin.put(&format!("token-{name}"), service_file);
        let stalling = File { ending: Ending::StallsAfter(INTERRUPTED_AFTER), ..guarded(&content, &token, &realm) };
        let url = origin.put(name, stalling.clone());
        let registered = register(&service, &wanted(&url, authorization)).await;
        assert_eq!(registered.code, 200, "{registered}");
        let task = registered.data["taskId"].as_str().expect("a task id").to_owned();
        eventually("two pieces are stored", async || service.dump().await.piece_md5(&task, 1).map(|_| ())).await;
        assert!(!is_in_files(&service.home(), &token), "the token is stored");
        assert_eq!(
            is_in_files(&service.home(), CREDENTIALS),
            authorization.is_some(),
            "only what is needed to ask again is stored"
        );
        let asked = origin.record(&format!("token-{name}")).0;
        assert_eq!(asked.last().and_then(|seen| seen.authorization.as_deref()), authorization, "{asked:?}");

        origin.put(name, File { ending: Ending::Whole, ..stalling });
        let downloaded = download_wanted(&service, &wanted(&url, authorization)).await;
        assert!(downloaded.content == content, "the file arrived with other bytes");
        assert!(!service.log().contains(&token), "the token is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_amid_a_download_is_replaced_for_the_next_request() {
    let (origin, service, content) = (Origin::start().await, Service::start().await, random_content(FILE_BYTES));
    let realm = origin.put("token", token_answer("first"));
    let first = File { ending: Ending::StallsAfter(INTERRUPTED_AFTER), ..guarded(&content, "first", &realm) };
    let url = origin.put("file", first);
    let (progress, mut arrived) = tokio::sync::watch::channel(0);
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await.with_progress(progress));
    let downloading = {
        let (client, api, wanted) = (client.clone(), service.api(), Wanted::url(&url));
        tokio::spawn(async move { client.download(api, &wanted).await })
    };
    arrived.wait_for(|pieces| *pieces == 2).await.expect("the client counts while it lives");
    origin.put("token", token_answer("second"));
    origin.put("file", guarded(&content, "second", &realm));
    let downloaded = downloading.await.expect("a client does not panic").unwrap_or_else(|surprise| panic!("{surprise}"));
    assert!(downloaded.content == content, "the file arrived with other bytes");
    let last = origin.record("file").0.pop().expect("it was asked for");
    assert_eq!(last.authorization.as_deref(), Some("Bearer second"));
    assert!(last.start > 0, "the download began anew: {last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_asks_again_while_a_token_service_takes_its_time() {
    let (origin, service, content) = (Origin::start().await, Service::start().await, random_content(1000));
    let realm = origin.put("token", File { delay: Duration::from_secs(7), ..token_answer("late") });
    let url = origin.put("file", guarded(&content, "late", &realm));
    // Of no known release, it would be told after 4 s that the length is unknown.
    let body = json!({"rawUrl": url, "taskUrl": url, "cid": "a-client", "ip": "127.0.0.1", "port": 15001, "path": "/p"});
    let waiting = exchange::ask(service.api(), post_json("/peer/registry", &body)).await;
    assert_eq!(waiting.code, WAIT_AUTH, "{waiting}");
    let registered = eventually("it may be fetched", async || {
        let answer = exchange::ask(service.api(), post_json("/peer/registry", &body)).await;
        (answer.code != WAIT_AUTH).then_some(answer)
    })
    .await;
    assert_eq!((registered.code, registered.data["fileLength"].as_i64()), (200, Some(1000)), "{registered}");
    assert_eq!(origin.record("token").0.len(), 1, "one token is enough for all who ask");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_token_the_client_is_told_why() {
    let (origin, service, content) = (Origin::start().await, Service::start().await, random_content(1000));
    let here = |name: &str, file: File| origin.put(name, file);
    let status = |status| File { status: Some(status), ..File::new("") };
    let outside = "http://169.254.169.254/latest/meta-data";
    let redirecting = File { location: Some(outside.to_owned()), ..File::new("") };
    let cases = [
        ("denied", here("t1", status(StatusCode::UNAUTHORIZED)), NEED_AUTH, "the token service answered 401"),
        ("failing", here("t2", status(StatusCode::BAD_GATEWAY)), NOT_REACHABLE, "the token service answered 502"),
        (
            "named",
            here("t0", status(StatusCode::NOT_FOUND)).replace("//", "//user:planted-password@") + "?key=planted-key#planted",
            NOT_REACHABLE,
            &format!("no token of {} for", origin.address()),
        ),
        ("outside", outside.to_owned(), NOT_REACHABLE, "does not let it fetch"),
        ("redirected", here("t3", redirecting), NOT_REACHABLE, "does not let it fetch"),
        ("nowhere", "http://127.0.0.1:1/token".to_owned(), NOT_REACHABLE, "127.0.0.1:1 refuses connections: check that host"),
        ("no-url", "file:///etc/passwd".to_owned(), NEED_AUTH, "the source answered 401"),
        ("no-service", "files of a team".to_owned(), NEED_AUTH, "the source answered 401"),
        ("garbage", here("t4", File::new("<html>")), NEED_AUTH, "gave no token"),
        ("no-token", here("t5", File::new(r#"{"token":7}"#)), NEED_AUTH, "gave no token"),
        ("no-header", here("t6", File::new(r#"{"token":"a\nb"}"#)), NEED_AUTH, "gave no token"),
        ("long", here("t7", token_answer(&"x".repeat(9000))), NOT_REACHABLE, "the token is longer than 8192 bytes"),
        ("huge", here("t8", File::new(vec![b' '; 10 * 1024 * 1024])), NOT_REACHABLE, "larger than"),
        ("useless", here("t9", token_answer("wrong")), NEED_AUTH, "the source answered 401"),
    ];
    for (name, realm, code, why) in cases {
        let url = origin.put(name, guarded(&content, "right", &realm));
        let refused = register(&service, &wanted(&url, None)).await;
        assert!(refused.code == code && refused.msg.contains(why), "{name}: {refused}");
        assert!(!refused.msg.contains("planted") && !refused.msg.contains("scope"), "{name}: {refused}");
        // Once without and once with a token, or thrice without one that may come yet.
        let asked_max = if name == "failing" { 3 } else { 2 };
        assert!(origin.record(name).0.len() <= asked_max, "{name} is asked {} times", origin.record(name).0.len());
    }
    assert!(!service.log().contains("planted"), "a secret of the token service's URL is in the log");
    // A token of the client's own is the one that it means.
    let realm = here("t10", token_answer("right"));
    let url = origin.put("own", guarded(&content, "right", &realm));
    let refused = register(&service, &wanted(&url, Some("Bearer own"))).await;
    assert_eq!(refused.code, NEED_AUTH, "{refused}");
    assert!(origin.record("t10").0.is_empty(), "the client's token was overridden");
    assert_eq!(register(&service, &wanted(&url, Some("Bearer right"))).await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_whatever_else_the_source_would_take() {
    let (origin, service, content) = (Origin::start().await, Service::start().await, random_content(1000));
    origin.put("token", token_answer("one-of-several"));
    let challenge = r#"Negotiate TlRMTVNTUAAC==, Basic realm="files, Bearer realm=x", bearer	Scope = "a \"b\"" ,realm="/token""#;
    let file = File { challenge: Some(challenge.into()), ..guarded(&content, "one-of-several", "") };
    let url = origin.put("file", file);
    let downloaded = download_wanted(&service, &Wanted::url(&url)).await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
    assert!(!origin.record("file").0.is_empty() && !origin.record("token").0.is_empty(), "the client went by itself");
}
