//! Lists of tasks, pieces, clients and peers: complete, stable, bounded, and without secrets.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{call, fetch, refused};
use crate::end_to_end::{download, download_wanted};
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::exchange::{self, post_json, request, with_header};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::{PIECE_SIZE, md5_hex, random_content};
use crate::harness::service::Service;

const SECRET: &str = "planted-secret-token";

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_listed_whole_page_by_page_and_filtered() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let mut tasks = BTreeSet::new();
    for number in 0..7 {
        let url = origin.put(&format!("file-{number}"), File::new(random_content(100))) + "?token=hidden";
        tasks.insert(download(&service, &url).await.task);
    }
    let mut listed = Vec::new();
    for page in 0..4 {
        // Bare and under the published prefix alike.
        let prefix = if page % 2 == 0 { "" } else { "/api/v1" };
        let items = fetch(service.api(), &format!("{prefix}/tasks?pageNum={page}&pageSize=3")).await;
        listed.extend(items.as_array().expect("a list").iter().map(|task| task["ID"].as_str().expect("an id").to_owned()));
    }
    assert_eq!(listed, tasks.iter().cloned().collect::<Vec<_>>(), "every task once, in the order of their ids");
    let response = call(service.api(), "GET", "/tasks?pageSize=3").await;
    assert_eq!(response.header("x-total-count"), Some("7"));

    for (filter, count) in [
        ("cdnStatus=SUCCESS", 7),
        ("cdnStatus=success", 7),
        ("cdnStatus=FAILED", 0),
        ("url=file-3", 1),
        ("url=nothing-like-it", 0),
        ("identifier=x", 0),
        ("unknown=parameter", 7),
        // A part of what is not shown finds nothing.
        ("url=hidden", 0),
    ] {
        let found = fetch(service.api(), &format!("/tasks?{filter}")).await;
        assert_eq!(found.as_array().map(Vec::len), Some(count), "{filter}: {found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_tells_its_pieces_and_its_clients() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let content = random_content(5_000_000);
    let url = origin.put("file", File::new(content.clone()));
    let client = std::sync::Arc::new(Client::start(&Release::GO_1_0_6).await);
    let downloaded = client.download(service.api(), &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    let path = format!("/tasks/{}", downloaded.task);

    let task = fetch(service.api(), &path).await;
    for (field, expected) in [
        ("ID", json!(downloaded.task)),
        ("taskURL", json!(url)),
        ("cdnStatus", json!("SUCCESS")),
        ("httpFileLength", json!(5_000_000)),
        ("fileLength", json!(5_000_010)),
        ("pieceSize", json!(PIECE_SIZE)),
        ("pieceTotal", json!(2)),
        ("piecesStored", json!(2)),
        ("realMd5", json!(md5_hex(&content))),
        ("clients", json!(1)),
    ] {
        assert_eq!(task[field], expected, "{field} of {task}");
    }
    let pieces = fetch(service.api(), &format!("{path}/pieces")).await;
    let expected = |piece: &Value| (piece["pieceNum"].clone(), piece["stored"].clone(), piece["holders"].clone());
    let seen: Vec<_> = pieces.as_array().expect("a list").iter().map(expected).collect();
    assert_eq!(seen, [(json!(0), json!(true), json!(1)), (json!(1), json!(true), json!(1))], "{pieces}");
    let clients = fetch(service.api(), &format!("{path}/clients")).await;
    assert_eq!((&clients[0]["cID"], &clients[0]["held"]), (&json!(client.cid()), &json!(2)), "{clients}");
    let peer = fetch(service.api(), &format!("/peers/{}", client.cid())).await;
    assert_eq!((&peer["ID"], &peer["version"]), (&json!(client.cid()), &json!("1.0.6")), "{peer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_registers_for_itself_is_listed() {
    let service = Service::start().await;
    let body = json!({"IP": "10.1.2.3", "hostName": "a host/with ünusual characters", "port": 15001, "version": "1.0.6"});
    let response = exchange::call(service.api(), post_json("/peers", &body)).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(response.status, 201, "{response}");
    let created: Value = serde_json::from_slice(&response.body).expect("JSON");
    let id = created["ID"].as_str().expect("an id").to_owned();
    let listed = fetch(service.api(), "/api/v1/peers").await;
    assert_eq!((&listed[0]["ID"], &listed[0]["IP"]), (&json!(id), &json!("10.1.2.3")), "{listed}");

    let encoded: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
    assert_eq!(fetch(service.api(), &format!("/peers/{encoded}")).await["hostName"], body["hostName"]);
    assert_eq!(call(service.api(), "DELETE", &format!("/peers/{encoded}")).await.status, 204);
    refused(service.api(), "GET", &format!("/peers/{encoded}"), 404, "no such peer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused_with_a_status_and_a_name() {
    let service = Service::start().await;
    let unknown = "0123456789abcdef".repeat(4);
    for (method, target, status, names) in [
        ("GET", "/tasks?pageNum=x", 400, "pageNum"),
        ("GET", "/tasks?pageNum=-1", 400, "pageNum"),
        ("GET", "/tasks?pageSize=0", 400, "pageSize"),
        ("GET", "/tasks?pageSize=1001", 400, "pageSize"),
        ("GET", "/tasks?cdnStatus=RIPE", 400, "cdnStatus"),
        ("GET", "/peers?pageSize=many", 400, "pageSize"),
        ("GET", "/tasks/abc", 400, "id"),
        ("GET", "/tasks/..%2f..%2fetc", 400, "id"),
        ("DELETE", "/tasks/abc", 400, "id"),
        ("GET", "/peers/%ff", 400, "id"),
        ("GET", "/peers/%00", 400, "id"),
        ("GET", "/peers/nobody", 404, "no such peer"),
        ("DELETE", "/peers/nobody", 404, "no such peer"),
        ("PUT", "/peers", 405, "method"),
        ("DELETE", "/tasks", 405, "method"),
        ("PATCH", "/peers/nobody", 405, "method"),
        ("GET", "/tasks/a/b/c", 404, "route"),
        ("GET", "/api/v2/tasks", 404, "route"),
    ] {
        refused(service.api(), method, target, status, names).await;
    }
    for list in ["", "/pieces", "/clients"] {
        refused(service.api(), "GET", &format!("/tasks/{unknown}{list}"), 404, "no such task").await;
    }
    refused(service.api(), "DELETE", &format!("/tasks/{unknown}"), 404, "no such task").await;
    refused(service.api(), "DELETE", &format!("/tasks/{unknown}?full=perhaps"), 400, "full").await;
    for (body, names) in [
        (json!({}), "IP"),
        (json!({"IP": "nowhere", "hostName": "h", "port": 1}), "IP"),
        (json!({"IP": "10.0.0.1", "port": 1}), "hostName"),
        (json!({"IP": "10.0.0.1", "hostName": "h"}), "port"),
        (json!({"IP": "10.0.0.1", "hostName": "h", "port": 65536}), "port"),
    ] {
        let answer = exchange::ask(service.api(), post_json("/peers", &body)).await;
        assert_eq!((answer.status, answer.code), (400, 400), "{body}: {answer}");
        assert!(answer.msg.contains(names), "{body}: {answer}");
    }
    let answer = exchange::ask(service.api(), post_json("/peers", &json!([1]))).await;
    assert_eq!(answer.status, 400, "{answer}");
    assert_eq!(fetch(service.api(), "/peers").await, json!([]), "what was refused left nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_that_of_the_get_without_a_body_and_reports_nothing() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let url = origin.put("file", File::new(random_content(1000)));
    let task = download(&service, &url).await.task;
    for target in ["/", "/openapi.json", "/live", "/ready", "/_ping", "/version", "/peers", "/tasks", "/nothing", "/tasks/abc"]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("/api/v1/tasks/{task}/pieces")])
    {
        let (got, head) = (call(service.api(), "GET", &target).await, call(service.api(), "HEAD", &target).await);
        assert_eq!((head.status, head.body.len()), (got.status, 0), "{target}: {head}");
        assert!(!got.body.is_empty(), "{target} has nothing to leave out");
        for name in ["content-type", "content-length", "x-total-count"] {
            assert_eq!(head.header(name), got.header(name), "{target}: {name}");
        }
    }
    for target in ["/metrics", "/cache", "/preheats"] {
        let head = call(service.api(), "HEAD", target).await;
        assert!(head.status == 200 && head.header("content-length").is_some() && head.body.is_empty(), "{target}: {head}");
    }
    for path in ["qtdown", "download"] {
        let target = format!("/{path}/{}/{task}", &task[..3]);
        for (range, status, length) in [(None, 200, "1005"), (Some("bytes=5-9"), 206, "5"), (Some("bytes=2000-"), 416, "")] {
            let asking = |method| match range {
                Some(range) => with_header(request(method, &target, Bytes::new()), "range", range),
                None => request(method, &target, Bytes::new()),
            };
            let got = exchange::call(service.download(), asking("GET")).await.unwrap_or_else(|error| panic!("{error}"));
            let head = exchange::call(service.download(), asking("HEAD")).await.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((got.status, head.status, head.body.len()), (status, status, 0), "{target} {range:?}: {head}");
            assert!(length.is_empty() || head.header("content-length") == Some(length), "{target} {range:?}: {:?}", head.headers);
            for name in ["content-length", "content-range", "etag", "accept-ranges"] {
                assert_eq!(head.header(name), got.header(name), "{target} {range:?}: {name}");
            }
        }
    }
    let clients = format!("/tasks/{task}/clients");
    let (before, cid) = (fetch(service.api(), &clients).await, fetch(service.api(), "/peers").await[0]["ID"].clone());
    let cid = cid.as_str().expect("an id");
    for target in [
        format!("/peer/service/down?taskId={task}&cid={cid}"),
        format!("/peer/task?taskId={task}&srcCid={cid}&status=700&result=502"),
        "/peer/piece/suc".to_owned(),
        "/peer/piece/error".to_owned(),
        "/peer/registry".to_owned(),
    ] {
        let head = call(service.api(), "HEAD", &target).await;
        assert!(head.status == 405 && head.header("allow").is_some_and(|allowed| !allowed.contains("HEAD")), "{target}: {head}");
    }
    assert_eq!(fetch(service.api(), &clients).await, before, "a head has taken a client away");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_shows_a_secret() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let credentials = format!("Bearer {SECRET}");
    let file = File { authorization: Some(credentials.clone()), ..File::new(random_content(1000)) };
    let url = origin.put("file", file).replace("http://", &format!("http://user:{SECRET}@"));
    let wanted =
        Wanted { headers: vec![format!("Authorization: {credentials}")], ..Wanted::url(&format!("{url}?sign={SECRET}")) };
    let task = download_wanted(&service, &wanted).await.task;
    let lists =
        ["/tasks", "/peers", &format!("/tasks/{task}"), &format!("/tasks/{task}/pieces"), &format!("/tasks/{task}/clients")];
    for target in lists {
        let shown = fetch(service.api(), target).await.to_string();
        assert!(shown.len() > 50, "{target} shows nothing at all: {shown}");
        assert!(!shown.contains(SECRET), "{target} shows a secret: {shown}");
    }
    let metrics = call(service.api(), "GET", "/metrics").await;
    assert!(!String::from_utf8_lossy(&metrics.body).contains(SECRET), "the metrics show a secret");
    assert!(!service.log().contains(SECRET), "the log shows a secret");
}
