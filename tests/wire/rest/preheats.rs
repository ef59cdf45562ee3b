//! Preheats: files and images that are here before the first client asks, also across kills.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use super::{call, fetch, refused};
use crate::end_to_end::download;
use crate::harness::eventually;
use crate::harness::exchange::{self, post_json};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

const TOKEN: &str = "Bearer registry-token";
const CREDENTIALS: &str = "Basic dXNlcjpzZWNyZXQ=";

async fn preheat(api: SocketAddr, body: &Value) -> String {
    let response = exchange::call(api, post_json("/api/v1/preheats", body)).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(response.status, 201, "{body}: {response}");
    let told: Value = serde_json::from_slice(&response.body).expect("JSON");
    told["ID"].as_str().expect("an id").to_owned()
}

async fn ended(api: SocketAddr, id: &str) -> Value {
    eventually(&format!("the preheat {id} ends"), async || {
        let preheat = fetch(api, &format!("/api/v1/preheats/{id}")).await;
        (preheat["finishTime"] != 0).then_some(preheat)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_here_before_the_first_client_asks() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let content = random_content(9_000_000);
    let url = origin.put("file", File { authorization: Some(CREDENTIALS.into()), ..File::new(content.clone()) });
    let body = json!({
        "type": "file", "url": format!("{url}?sign=1"), "filter": "sign", "headers": {"Authorization": CREDENTIALS},
    });
    let preheat = ended(service.api(), &preheat(service.api(), &body).await).await;
    assert_eq!((&preheat["status"], &preheat["type"]), (&json!("SUCCESS"), &json!("file")), "{preheat}");
    let child = &preheat["children"][0];
    assert_eq!(
        (&child["status"], &child["pieces"], &child["length"]),
        (&json!("SUCCESS"), &json!(3), &json!(9_000_000)),
        "{preheat}"
    );
    assert!(!preheat.to_string().contains("sign=1"), "a query value is shown: {preheat}");
    let asked = origin.record("file").0.len();

    // The client names no query: what is filtered is no part of a task. Its source is not asked.
    let downloaded = download(&service, &url).await;
    assert!(downloaded.content == content, "the client ended with other bytes");
    assert_eq!((downloaded.task.as_str(), origin.record("file").0.len()), (child["taskId"].as_str().expect("an id"), asked));
}

/// An image for two platforms in a registry that wants a token.
fn put_image(origin: &Origin, layer: &[u8]) -> String {
    let digest = |number: u8| format!("sha256:{}", format!("{number:02x}").repeat(32));
    let challenge =
        format!("Bearer realm=\"http://{}/token\",service=\"registry\",scope=\"repository:team/app:pull\"", origin.address());
    let guarded =
        |content: Vec<u8>| File { authorization: Some(TOKEN.into()), challenge: Some(challenge.clone()), ..File::new(content) };
    let json_file = |value: Value| guarded(value.to_string().into_bytes());
    origin.put("token", File { authorization: Some(CREDENTIALS.into()), ..File::new(r#"{"token":"registry-token"}"#) });
    let index = json!({ "schemaVersion": 2, "manifests": [
        { "digest": digest(1), "platform": { "os": "linux", "architecture": "amd64" } },
        { "digest": digest(2), "platform": { "os": "linux", "architecture": "arm64" } },
    ]});
    let manifest = |config: u8, layers: &[u8]| {
        let layers: Vec<Value> = layers.iter().map(|number| json!({ "digest": digest(*number) })).collect();
        json!({ "schemaVersion": 2, "config": { "digest": digest(config) }, "layers": layers })
    };
    origin.put(&format!("v2/team/app/manifests/{}", digest(1)), json_file(manifest(3, &[5, 6])));
    origin.put(&format!("v2/team/app/manifests/{}", digest(2)), json_file(manifest(4, &[5, 7])));
    for number in 3..=7 {
        origin.put(&format!("v2/team/app/blobs/{}", digest(number)), guarded([&[number], layer].concat()));
    }
    origin.put("v2/team/app/manifests/latest", json_file(index))
}

/// The identifiers of all preheats in this state.
async fn in_state(api: SocketAddr, state: &str) -> Vec<String> {
    let list = fetch(api, "/preheats?pageSize=1000").await;
    let all = list.as_array().expect("a list").iter().filter(|preheat| preheat["status"] == state);
    all.map(|preheat| preheat["ID"].as_str().expect("an id").to_owned()).collect()
}

async fn so_many_run(api: SocketAddr, count: usize) {
    eventually(&format!("{count} run"), async || (in_state(api, "RUNNING").await.len() == count).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_preheats_of_one_host_hold_none_of_another_and_have_a_part_of_the_places() {
    // Files that are fetched, and images of which it is found out what they are.
    const OF_ONE_HOST: usize = 16 + 8;
    let mut service = Service::start_configured("base: {sourceIdleTimeout: 10m}\n").await;
    let (silent, quick) = (Origin::start().await, Origin::start().await);
    for number in 0..40 {
        let kind = if number % 2 == 0 { "file" } else { "image" };
        let file = File { delay: Duration::from_hours(1), ..File::new("{}") };
        let url = silent.put(&format!("v2/a/manifests/{number}"), file);
        preheat(service.api(), &json!({"type": kind, "url": url})).await;
    }
    so_many_run(service.api(), OF_ONE_HOST).await;
    let quick_preheat = async |api, name: &str| {
        let url = quick.put(name, File::new("abc"));
        let quick = ended(api, &preheat(api, &json!({"type": "file", "url": url})).await).await;
        assert_eq!(quick["status"], "SUCCESS", "{quick}");
    };
    quick_preheat(service.api(), "first").await;

    // One that waits goes, and one that runs leaves its place to the next.
    let (waiting, running) = (in_state(service.api(), "WAITING").await, in_state(service.api(), "RUNNING").await);
    assert_eq!((waiting.len(), running.len()), (40 - OF_ONE_HOST, OF_ONE_HOST));
    for id in [&waiting[0], &running[0]] {
        assert_eq!(call(service.api(), "DELETE", &format!("/preheats/{id}")).await.status, 204);
        refused(service.api(), "GET", &format!("/preheats/{id}"), 404, "no such preheat").await;
    }
    so_many_run(service.api(), OF_ONE_HOST).await;
    assert_eq!(in_state(service.api(), "WAITING").await.len(), 38 - OF_ONE_HOST);

    // Nor do they all begin at once after a restart.
    service.kill9();
    let asked = |silent: &Origin| (0..40).map(|n| silent.record(&format!("v2/a/manifests/{n}")).0.len()).sum::<usize>();
    let before = asked(&silent);
    service.restart().await;
    quick_preheat(service.api(), "second").await;
    assert_eq!(in_state(service.api(), "SUCCESS").await.len(), 2);
    assert!(asked(&silent) - before <= OF_ONE_HOST, "{} were asked at once", asked(&silent) - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_silent_hosts_have_all_places_one_gives_way_to_another_host_and_goes_on_later() {
    let service = Service::start().await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        let origin = Origin::start().await;
        for number in 0..16 {
            let file = File { delay: Duration::from_secs(25), ..File::new("abc") };
            let url = origin.put(&number.to_string(), file);
            preheat(service.api(), &json!({"type": "file", "url": url})).await;
        }
        silent.push(origin);
    }
    so_many_run(service.api(), 64).await;
    let quick = Origin::start().await;
    let url = quick.put("quick", File::new("abc"));
    ended(service.api(), &preheat(service.api(), &json!({"type": "file", "url": url})).await).await;
    assert_eq!(in_state(service.api(), "SUCCESS").await.len(), 1, "it did not wait until one of them was done");
    so_many_run(service.api(), 64).await;
    eventually("all have ended well", async || (in_state(service.api(), "SUCCESS").await.len() == 65).then_some(())).await;
    let asked: Vec<usize> =
        silent.iter().flat_map(|origin| (0..16).map(|number| origin.record(&number.to_string()).0.len())).collect();
    assert!(asked.iter().all(|times| *times == 1), "one that gave way was fetched anew: {asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_registries_lose_nothing_by_the_number_of_images_and_are_asked_once() {
    const IMAGES: usize = 24;
    let service = Service::start().await;
    let mut origins = vec![Origin::start().await];
    for _ in 0..IMAGES {
        origins.push(Origin::start().await);
    }
    let slow = |content: String| File { delay: Duration::from_secs(3), ..File::new(content) };
    let manifest = json!({ "schemaVersion": 2, "config": { "digest": format!("sha256:{}", "01".repeat(32)) }, "layers": [] });
    let mut asked = Vec::new();
    // As many images of one registry as there are registries with one.
    for (number, origin) in (0..IMAGES).map(|number| (number, &origins[0])).chain(origins[1..].iter().map(|origin| (0, origin))) {
        let name = format!("v2/a/manifests/{number}");
        origin.put(&format!("v2/a/blobs/sha256:{}", "01".repeat(32)), File::new("abc"));
        let url = origin.put(&name, slow(manifest.to_string()));
        asked.push((origin, name, preheat(service.api(), &json!({"type": "image", "url": url})).await));
    }
    for (origin, name, id) in asked {
        let preheat = ended(service.api(), &id).await;
        assert_eq!(preheat["status"], "SUCCESS", "{preheat}");
        assert_eq!(origin.record(&name).0.len(), 1, "{preheat}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layers_of_an_image_are_fetched_with_a_token_and_for_a_platform() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let layer = random_content(100_000);
    let url = put_image(&origin, &layer);
    let request = |platform: &str| json!({ "type": "image", "url": url, "platform": platform, "headers": [format!("Authorization: {CREDENTIALS}")] });
    for (platform, blobs) in [("linux/arm64", 3), ("all", 5)] {
        let preheat = ended(service.api(), &preheat(service.api(), &request(platform)).await).await;
        assert_eq!((&preheat["status"], &preheat["platform"]), (&json!("SUCCESS"), &json!(platform)), "{preheat}");
        let children = preheat["children"].as_array().expect("children");
        assert_eq!(children.len(), blobs, "{preheat}");
        assert!(children.iter().all(|child| child["status"] == "SUCCESS" && child["length"] == 100_001), "{preheat}");
    }
    let blob = format!("v2/team/app/blobs/sha256:{}", "05".repeat(32));
    let bodies = origin.record(&blob).0.iter().filter(|seen| seen.body_bytes > 0).count();
    assert_eq!(bodies, 1, "a layer of both platforms was fetched twice");
    let client = download(&service, &format!("http://{}/{blob}", origin.address())).await;
    assert!(client.content[1..] == layer[..], "the client ended with other bytes");

    let refused = ended(service.api(), &preheat(service.api(), &request("windows/amd64")).await).await;
    assert_eq!(refused["status"], "FAILED", "{refused}");
    let reason = refused["reason"].as_str().expect("a reason");
    assert!(reason.contains("no manifest for windows/amd64, only for linux/amd64, linux/arm64"), "{reason}");
    let text = format!("{}{}", fetch(service.api(), "/preheats").await, service.log());
    assert!(!text.contains("registry-token") && !text.contains("dXNlcjpzZWNyZXQ"), "a credential is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preheat_that_a_kill_interrupts_goes_on_and_one_that_ended_is_remembered() {
    let (origin, mut service) = (Origin::start().await, Service::start().await);
    let content = random_content(13_000_000);
    let stalling = File { authorization: Some(CREDENTIALS.into()), ending: Ending::StallsAfter(9_000_000), ..File::new(content) };
    let url = origin.put("file", stalling.clone());
    let small = origin.put("small", File::new("abc"));
    let first = preheat(service.api(), &json!({"type": "file", "url": small})).await;
    ended(service.api(), &first).await;
    let body = json!({"type": "file", "url": url, "headers": {"Authorization": CREDENTIALS}});
    let second = preheat(service.api(), &body).await;
    eventually("two pieces are here", async || {
        let preheat = fetch(service.api(), &format!("/preheats/{second}")).await;
        (preheat["children"][0]["pieces"] == 2).then_some(())
    })
    .await;
    // What it told was in memory; what is acknowledged after it is durable, and so is that.
    download(&service, &small).await;
    service.kill9();
    origin.put("file", File { ending: Ending::Whole, ..stalling });
    service.restart().await;
    let list = fetch(service.api(), "/preheats").await;
    let ids: Vec<&str> = list.as_array().expect("a list").iter().map(|preheat| preheat["ID"].as_str().expect("an id")).collect();
    assert_eq!(ids, [&second, &first], "the latest first");
    let preheat = ended(service.api(), &second).await;
    assert_eq!((&preheat["status"], &preheat["children"][0]["pieces"]), (&json!("SUCCESS"), &json!(4)), "{preheat}");
    let record = origin.record("file");
    assert_eq!(record.0.last().and_then(|seen| seen.range.clone()), Some("bytes=8388598-".to_owned()), "{record:?}");

    assert_eq!(call(service.api(), "DELETE", &format!("/preheats/{first}")).await.status, 204);
    service.kill9();
    service.restart().await;
    refused(service.api(), "GET", &format!("/preheats/{first}"), 404, "no such preheat").await;
    assert_eq!(fetch(service.api(), "/preheats").await.as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_and_a_token_service_that_are_busy_are_asked_again() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let url = put_image(&origin, &random_content(1000));
    let put = |name: &str, status, retry_after, body: &str| {
        let file = File { status, retry_after, challenge: None, ..File::new(body.to_owned()) };
        origin.put(name, file)
    };
    let token = r#"{"token":"registry-token"}"#;
    let body = json!({ "type": "image", "url": url, "platform": "linux/amd64" });
    for (status, retry_after) in [(StatusCode::TOO_MANY_REQUESTS, Some("1")), (StatusCode::INTERNAL_SERVER_ERROR, None)] {
        put("token", Some(status), retry_after, "");
        let asked = origin.record("token").0.len();
        let id = preheat(service.api(), &body).await;
        eventually("the token service was asked", async || (origin.record("token").0.len() > asked).then_some(())).await;
        put("token", None, None, token);
        let preheat = ended(service.api(), &id).await;
        assert_eq!(preheat["status"], "SUCCESS", "{status}: {preheat}");
    }
    let manifest = "v2/team/app/manifests/busy";
    let url = put(manifest, Some(StatusCode::SERVICE_UNAVAILABLE), None, "");
    let busy = json!({ "type": "image", "url": url });
    let failed = ended(service.api(), &preheat(service.api(), &busy).await).await;
    let reason = failed["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("the manifest cannot be read: the source answered 503"), "{failed}");
    assert_eq!(origin.record(manifest).0.len(), 5, "it is asked again, and not for ever");
    put(manifest, Some(StatusCode::TOO_MANY_REQUESTS), Some("3600"), "");
    let asked = origin.record(manifest).0.len();
    let failed = ended(service.api(), &preheat(service.api(), &busy).await).await;
    let reason = failed["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("429") && reason.contains("in 3600 s"), "{failed}");
    assert_eq!(origin.record(manifest).0.len(), asked + 1, "it said when to ask again, which is too late");
}

/// Documents that a registry should not send, each with what is said of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_registry_costs_its_own_preheat_and_nothing_else() {
    let (origin, mut service) = (Origin::start().await, Service::start().await);
    let digest = |number: usize| format!("sha256:{number:064x}");
    let index = |manifests: Vec<Value>| json!({ "manifests": manifests }).to_string().into_bytes();
    let long = "x".repeat(2_000_000);
    let foreign = vec![json!({ "digest": digest(1), "platform": { "os": long, "architecture": long.clone() + "é" } })];
    let many = (0..70).map(|number| json!({ "digest": digest(number), "platform": { "os": "linux", "architecture": "amd64" } }));
    let itself = vec![json!({ "digest": digest(100), "platform": { "os": "linux", "architecture": "amd64" } })];
    origin.put(&format!("v2/a/manifests/{}", digest(100)), File::new(index(itself.clone())));
    let challenge = format!("Bearer realm=\"http://{}/token\"", origin.address());
    origin.put("token", File::new(json!({ "token": long }).to_string()));
    let guarded = File { authorization: Some(TOKEN.into()), challenge: Some(challenge), ..File::new("{}") };
    let cases = [
        ("foreign", File::new(index(foreign)), "no manifest for linux/amd64"),
        ("many", File::new(index(many.collect())), "more than 64"),
        ("itself", File::new(index(itself)), "too deep"),
        ("huge", File::new(vec![b' '; 5_000_000]), "larger than"),
        ("token", guarded, "token is longer"),
    ];
    for (tag, file, why) in cases {
        let url = origin.put(&format!("v2/a/manifests/{tag}"), file);
        let body = json!({"type": "image", "url": url, "platform": "linux/amd64"});
        let preheat = ended(service.api(), &preheat(service.api(), &body).await).await;
        let reason = preheat["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(why) && reason.len() < 2048, "{tag}: {} bytes: {reason:.300}", reason.len());
    }
    // What is stored of them does no harm to a start.
    service.kill9();
    service.restart().await;
    assert_eq!(fetch(service.api(), "/preheats").await.as_array().map(Vec::len), Some(5));
    let url = origin.put("file", File::new("abc"));
    assert_eq!(download(&service, &url).await.content, "abc");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_preheated_says_why() {
    let (origin, mut service) = (Origin::start().await, Service::start().await);
    let missing = origin.put("missing", File::missing());
    let page = origin.put("v2/a/manifests/page", File::new("<html>"));
    for (kind, url, why) in [
        ("file", missing.as_str(), "404"),
        ("file", "http://169.254.169.254/latest/meta-data", "does not let it fetch"),
        ("file", "http://registry.invalid/f", "the name registry.invalid cannot be resolved: "),
        ("image", "http://registry.invalid/v2/a/manifests/b", "cannot be read: the name registry.invalid cannot be resolved: "),
        ("image", &page, "no manifest"),
        ("image", "http://169.254.169.254/v2/a/manifests/b", "does not let it fetch"),
    ] {
        let preheat = ended(service.api(), &preheat(service.api(), &json!({"type": kind, "url": url})).await).await;
        let reason = preheat["reason"].as_str().unwrap_or_default();
        assert!(preheat["status"] == "FAILED" && reason.contains(why), "{kind} {url}: {preheat}");
        assert!(!reason.contains("client error") && !reason.contains("error sending"), "the library's words: {reason}");
        if kind == "file" {
            let child = &preheat["children"][0];
            let reason = child["reason"].as_str().unwrap_or_default();
            assert!(child["status"] == "FAILED" && reason.contains(why), "{kind} {url}: {preheat}");
        }
    }
    // Their tasks are no more, and why is remembered.
    let ended_before = fetch(service.api(), "/preheats").await;
    service.kill9();
    service.restart().await;
    assert_eq!(fetch(service.api(), "/preheats").await, ended_before);
    for (body, names) in [
        (json!({}), "type"),
        (json!({"type": "folder", "url": missing}), "type"),
        (json!({"type": "file"}), "url"),
        (json!({"type": "file", "url": "ftp://h/f"}), "url"),
        (json!({"type": "file", "url": missing, "platform": "linux/amd64"}), "platform"),
        (json!({"type": "image", "url": missing, "platform": "linux"}), "platform"),
        (json!({"type": "image", "url": missing, "headers": {"Range": "bytes=0-9"}}), "Range"),
        (json!({"type": "image", "url": missing}), "/v2/<name>/manifests/<tag or digest>"),
        (json!({"type": "file", "url": missing, "filter": "x".repeat(5_200)}), "filter"),
        (json!({"type": "file", "url": missing, "headers": {"A": "x".repeat(5_200)}}), "larger"),
        (json!({"type": "file", "url": missing, "headers": {"A": "x\r\nB: y"}}), "headers"),
    ] {
        let response =
            exchange::call(service.api(), post_json("/preheats", &body)).await.unwrap_or_else(|error| panic!("{error}"));
        let answer = response.answer().unwrap_or_else(|error| panic!("{error}"));
        assert!(answer.status == 400 && answer.msg.contains(names), "{names}: {answer}");
    }
    refused(service.api(), "GET", "/preheats/abc", 400, "id").await;
    refused(service.api(), "DELETE", &format!("/preheats/{}", "0".repeat(32)), 404, "no such preheat").await;
}
