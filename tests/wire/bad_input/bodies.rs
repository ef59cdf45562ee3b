//! The rarer calls with a body: `/peer/heartbeat`, `/peer/network` and `/task/metrics`.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Refused, Scene};
use crate::harness::exchange::{self, Answer, get, post_json, request};

const PATHS: [&str; 3] = ["/peer/heartbeat", "/peer/network", "/task/metrics"];
const BODY_MAX_BYTES: usize = 1024 * 1024;

/// An object with one of its fields made another.
fn with(object: &Value, name: &str, value: Value) -> Value {
    let mut object = object.clone();
    object[name] = value;
    object
}

async fn ask(scene: &Scene, target: &str, body: &Value) -> Answer {
    exchange::ask(scene.api(), post_json(target, body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_the_rarer_calls_that_cannot_be_read_keep_their_status() {
    let scene = Scene::set().await;
    let mut table = Vec::new();
    for path in PATHS {
        for body in ["", "{", "[]", "\"a\"", "7", "null", "{} {}", "cid=a&IP=b", "{\"a\": }", "\u{0}", "{\"a\": 1e999999}"] {
            let request = request("POST", path, Bytes::from_static(body.as_bytes()));
            table.push(Refused::with_status(format!("{body:?} is no JSON object"), request, 400));
        }
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        table.push(Refused::with_status("nested without end", request("POST", path, deep.into()), 400));
        let large = json!({ "padding": "x".repeat(BODY_MAX_BYTES) });
        table.push(Refused::with_status("more than 1 MiB", post_json(path, &large), 413));
        table.push(Refused::with_status("wrong method", get(path), 405));
        table.push(Refused::with_status("unknown route", request("POST", &format!("{path}/more"), Bytes::new()), 404));
    }
    scene.refuses(table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_with_wrong_fields_are_refused_by_name() {
    let scene = Scene::set().await;
    let beat = json!({ "IP": "127.0.0.1", "port": 15001, "cID": scene.cid });
    let wrong = [
        ("IP", vec![json!(""), json!("localhost"), json!("1.2.3"), json!("127.0.0.1:80"), json!(7), json!(null), json!([])]),
        ("port", vec![json!(""), json!("x"), json!(-1), json!(65536), json!(1.5), json!(true), json!(null), json!({})]),
        ("cID", vec![json!(""), json!("c".repeat(5000)), json!("a\nb"), json!(null), json!(["a"])]),
    ];
    let refused = |name: &'static str, value: Value| {
        Refused::with_code(format!("{name} is {value}"), post_json("/peer/heartbeat", &with(&beat, name, value)), 501, name)
    };
    let table = wrong.into_iter().flat_map(|(name, values)| values.into_iter().map(move |value| (name, value)));
    scene.refuses(table.map(|(name, value)| refused(name, value)).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_is_answered_in_an_envelope_and_bare() {
    let scene = Scene::set().await;
    let stranger = json!({ "IP": "127.0.0.1", "port": 15001, "cID": "127.0.0.1-3-1795423513.000" });
    let response = exchange::call(scene.api(), post_json("/peer/heartbeat", &stranger)).await;
    let response = response.unwrap_or_else(|error| panic!("{error}"));
    let told: Value = serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error}: {response}"));
    assert_eq!((response.status, &told["code"], &told["msg"]), (200, &json!(200), &json!("success")), "{response}");
    for place in [&told, &told["data"]] {
        assert_eq!((&place["needRegister"], &place["seedTaskIDs"]), (&json!(true), &json!([])), "{response}");
        assert!(place["version"].is_string(), "{response}");
    }

    let dump = scene.service.dump().await;
    let peer = dump.of_kind("peer").next().expect("the client of the scene is a peer").clone();
    let known = json!({ "IP": peer["ip"], "port": peer["port"], "cID": scene.cid });
    let answer = ask(&scene, "/peer/heartbeat", &known).await;
    assert_eq!(answer.data["needRegister"], false, "{known}: {answer}");
    let moved = with(&known, "port", json!("1"));
    let answer = ask(&scene, "/peer/heartbeat", &moved).await;
    assert_eq!(answer.data["needRegister"], true, "{moved}: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_for_the_network_with_wrong_fields_are_refused_by_name() {
    let scene = Scene::set().await;
    let urls = json!({ "urls": [scene.url] });
    let mut table = Vec::new();
    for wrong in [json!([7]), json!([null]), json!([["a"]]), json!({"a": "b"})] {
        let request = post_json("/peer/network", &json!({ "urls": wrong }));
        table.push(Refused::with_code(format!("urls is {wrong}"), request, 501, "urls"));
    }
    for name in ["start", "limit"] {
        for value in ["x", "-1", "1.5", "%2B1", "99999999999999999999999"] {
            let request = post_json(&format!("/peer/network?{name}={value}"), &urls);
            table.push(Refused::with_code(format!("{name} is {value}"), request, 501, name));
        }
    }
    scene.refuses(table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_tells_who_serves_what() {
    let scene = Scene::set().await;
    let urls = json!({ "urls": [scene.url, "http://127.0.0.1/another"] });
    for (page, nodes) in [("", 1), ("?start=0&limit=1", 1), ("?start=1", 0), ("?limit=0", 0), ("?start=18446744073709551615", 0)]
    {
        let answer = ask(&scene, &format!("/peer/network{page}"), &urls).await;
        assert_eq!((answer.status, answer.code), (200, 200), "{page}: {answer}");
        assert_eq!(answer.data["nodes"].as_array().map(Vec::len), Some(nodes), "{page}: {answer}");
    }
    for nobody in [json!({ "urls": [] }), json!({}), json!({ "urls": null }), json!({ "urls": ["http://127.0.0.1/another"] })] {
        let answer = ask(&scene, "/peer/network", &nobody).await;
        assert_eq!(answer.data["nodes"], json!([]), "{nobody}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_with_wrong_fields_are_refused_by_name() {
    let scene = Scene::set().await;
    let told = json!({
        "IP": "127.0.0.1", "port": 15001, "cID": scene.cid, "taskId": scene.task(), "callSystem": "test", "duration": 0.1,
        "success": true, "backsourceReason": "0", "fileLength": 3,
    });
    let wrong = [
        ("success", vec![json!("maybe"), json!(2), json!([])]),
        ("duration", vec![json!("x"), json!(-1), json!("NaN"), json!("inf"), json!({})]),
        ("fileLength", vec![json!("x"), json!(1.5), json!("99999999999999999999"), json!([])]),
        ("callSystem", vec![json!([]), json!({})]),
    ];
    let refused = |name: &'static str, value: Value| {
        Refused::with_code(format!("{name} is {value}"), post_json("/task/metrics", &with(&told, name, value)), 501, name)
    };
    let table = wrong.into_iter().flat_map(|(name, values)| values.into_iter().map(move |value| (name, value)));
    scene.refuses(table.map(|(name, value)| refused(name, value)).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_taken_as_every_client_writes_them() {
    let scene = Scene::set().await;
    for told in [
        json!({}),
        json!({ "success": true, "duration": 0.138419737, "fileLength": 3, "unknown": [{}] }),
        json!({ "success": "false", "duration": "2", "fileLength": -1, "backsourceReason": 3 }),
        json!({ "callSystem": "x".repeat(100_000), "success": false, "backsourceReason": "y".repeat(100_000) }),
    ] {
        let answer = ask(&scene, "/task/metrics", &told).await;
        assert_eq!((answer.status, answer.code), (200, 200), "{answer}");
    }
    scene.still_serves().await;
}
