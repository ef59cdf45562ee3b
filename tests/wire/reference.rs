//! Every example of the published API reference: sent as it documents, answered as it documents, keys and types alike.

use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::eventually;
use crate::harness::exchange::{self, Answer, get};
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::{piece_md5, random_content, range_of, slot_of};
use crate::harness::service::Service;

/// The length of the reference's file.
const FILE_BYTES: usize = 687_481;
const CID: &str = "10.148.177.2-1024-1795423513.832";

const REGISTERED: &str = r#"{
  "code": 200,
  "data": {
    "fileLength": 687481,
    "pieceSize": 4194304,
    "taskId": "ba270626349198840d0255de8358b6c93fe6d57d922d036fbf40bcf3499f44a8"
  }
}"#;
const WAIT: &str = r#"{
  "code": 602,
  "msg": "client sucCount:0,cdn status:Running,cdn sucCount: 0"
}"#;
const CONTINUE: &str = r#"{
  "code": 601,
  "data": [
    {
      "cid": "cdnnode:10.148.177.242~ba270626349198840d0255de8358b6c93fe6d57d922d036fbf40bcf3499f44a8",
      "downLink": "20480",
      "path": "/qtdown/ba2/ba270626349198840d0255de8358b6c93fe6d57d922d036fbf40bcf3499f44a8",
      "peerIp": "10.148.177.242",
      "peerPort": 8001,
      "pieceMd5": "d78ef0af9e95e880fa583b41cf5ad791:687486",
      "pieceNum": 0,
      "pieceSize": 4194304,
      "range": "0-4194303"
    }
  ]
}"#;
const REPORTED: &str = r#"{
  "code": 200,
  "msg": "success"
}"#;
/// What the protocol adds to a registration's answer ("and some more"). The envelope has a `msg` at will.
const MORE: [&str; 4] = ["msg", "cdnSource", "asSeed", "seedTaskID"];

/// The documented values, with those of this run in the place of what no two runs share.
fn documented(example: &str, task: &str, service: &Service) -> Value {
    let example = example
        .replace("ba270626349198840d0255de8358b6c93fe6d57d922d036fbf40bcf3499f44a8", task)
        .replace("/qtdown/ba2/", &format!("/qtdown/{}/", &task[..3]))
        .replace("10.148.177.242", "127.0.0.1")
        .replace("8001", &service.download().port().to_string());
    serde_json::from_str(&example).expect("the examples are JSON")
}

/// Compares an answer with the documented one: every key, type and value, and nothing more but what is allowed.
fn check(documented: &Value, answer: &Value) {
    match (documented, answer) {
        (Value::Object(expected), Value::Object(found)) => {
            for (key, expected) in expected {
                check(expected, found.get(key).unwrap_or_else(|| panic!("{key} is missing in {answer}")));
            }
            let undocumented = found.keys().find(|key| !expected.contains_key(*key) && !MORE.contains(&key.as_str()));
            assert_eq!(undocumented, None, "{answer} has more than {documented}");
        }
        (Value::Array(expected), Value::Array(found)) => {
            assert_eq!(found.len(), expected.len(), "{answer}, documented as {documented}");
            expected.iter().zip(found).for_each(|(expected, found)| check(expected, found));
        }
        _ => assert_eq!(answer, documented),
    }
}

fn registration(raw_url: &str) -> Vec<(&'static str, String)> {
    let pairs = [
        ("cid", CID),
        ("ip", "127.0.0.1"),
        ("hostName", "host"),
        ("superNodeIp", "127.0.0.1"),
        ("port", "15001"),
        ("callSystem", "reference"),
        ("version", "0.1.0"),
        ("dfdaemon", "false"),
        ("path", "/peer/file/a-file"),
        ("rawUrl", raw_url),
        ("taskUrl", raw_url),
        ("md5", ""),
        ("identifier", ""),
        ("headers", "Accept: */*"),
    ];
    pairs.map(|(name, value)| (name, value.to_owned())).into()
}

async fn register(api: SocketAddr, pairs: &[(&str, String)]) -> (Answer, Value) {
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    let request = exchange::request("POST", "/peer/registry", form.into());
    told(api, exchange::with_header(request, "content-type", "application/x-www-form-urlencoded")).await
}

async fn ask(api: SocketAddr, target: &str) -> Value {
    told(api, get(target)).await.1
}

async fn told(api: SocketAddr, request: http::Request<http_body_util::Full<Bytes>>) -> (Answer, Value) {
    let response = exchange::call(api, request).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(response.status, 200, "{response}");
    assert_eq!(response.header("content-type"), Some("application/json"), "{response}");
    let answer = response.answer().unwrap_or_else(|error| panic!("{error}"));
    (answer, serde_json::from_slice(&response.body).expect("it was an envelope"))
}

/// The documented question of a client, in the reference's order.
fn question(task: &str, status: u16, result: &str, range: &str, dst: &str) -> String {
    format!(
        "/peer/task?superNode=127.0.0.1&dstCID={dst}&range={range}&status={status}&result={result}&taskId={task}&srcCID={CID}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_reference_are_answered_as_it_documents() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let content = random_content(FILE_BYTES);
    let url = origin.put("file", File { ending: Ending::StallsAfter(0), ..File::new(content.clone()) });

    let (registered, whole) = register(service.api(), &registration(&url)).await;
    let task = registered.data["taskId"].as_str().expect("a task id").to_owned();
    assert!(task.len() == 64 && task.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{task}");
    check(&documented(REGISTERED, &task, &service), &whole);

    // The source stalls before the first byte.
    let waiting = ask(service.api(), &question(&task, 700, "", "", "")).await;
    assert_eq!(waiting, documented(WAIT, &task, &service), "to the letter");

    origin.put("file", File::new(content.clone()));
    let pieces = eventually("there is a piece", async || {
        let answer = ask(service.api(), &question(&task, 701, "502", "", "")).await;
        (answer["code"] == 601).then_some(answer)
    })
    .await;
    let mut expected = documented(CONTINUE, &task, &service);
    expected["data"][0]["pieceMd5"] = json!(piece_md5(&slot_of(&content, 0)));
    check(&expected, &pieces);
    let digest = expected["data"][0]["pieceMd5"].as_str().expect("a string").to_owned();
    assert!(digest.ends_with(":687486"), "the length of the wrapped piece goes with its digest: {digest}");

    let seed = pieces["data"][0]["cid"].as_str().expect("a string").to_owned();
    let report = format!("/peer/piece/suc?dstCID={seed}&pieceRange={}&taskId={task}&cID={CID}", range_of(0));
    assert_eq!(ask(service.api(), &report).await, documented(REPORTED, &task, &service), "to the letter");

    let finished = ask(service.api(), &question(&task, 701, "503", &range_of(0), &seed)).await;
    assert_eq!(finished["code"], 600, "{finished}");
    let goodbye = ask(service.api(), &question(&task, 702, "501", "", "")).await;
    assert_eq!(goodbye["code"], 200, "{goodbye}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_codes_of_the_reference_are_given_for_what_it_says() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let url = origin.put("file", File::new(random_content(FILE_BYTES)));
    let md5 = "0123456789abcdef0123456789abcdef";
    let with = |changes: &[(&str, &str)]| {
        let mut pairs = registration(&url);
        for (name, value) in changes {
            pairs.iter_mut().find(|pair| pair.0 == *name).expect("a documented parameter").1 = (*value).to_owned();
        }
        pairs
    };
    let (identified, _) = register(service.api(), &with(&[("identifier", md5)])).await;
    assert_eq!(identified.code, 200, "{identified}");
    // The md5 hashes to the same id as that identifier.
    let (conflict, _) = register(service.api(), &with(&[("md5", md5)])).await;
    assert_eq!(conflict.code, 606, "{conflict}");
    for invalid in ["nonsense", "ftp://127.0.0.1/file", "http://"] {
        let (refused, _) = register(service.api(), &with(&[("rawUrl", invalid)])).await;
        assert_eq!(refused.code, 607, "{invalid}: {refused}");
    }
    let guarded = origin.put("guarded", File { authorization: Some("Bearer x".into()), ..File::new(random_content(3)) });
    let (refused, _) = register(service.api(), &registration(&guarded)).await;
    assert_eq!(refused.code, 608, "{refused}");
}
