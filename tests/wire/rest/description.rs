//! The interface description, held against what the service answers.

use serde_json::Value;

use super::{call, fetch};
use crate::end_to_end::download;
use crate::harness::exchange::{self, Response, get, post_json};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::{random_content, range_of};
use crate::harness::service::Service;

/// The schema that the description has for an answer, with everything that it refers to.
fn schema(description: &Value, method: &str, path: &str, status: u16) -> Value {
    let response = &description["paths"][path][method]["responses"][status.to_string()];
    assert!(response.is_object(), "{method} {path}: no answer {status} is described");
    let mut schema = response["content"]["application/json"]["schema"].clone();
    assert!(schema.is_object(), "{method} {path}: the answer {status} has no schema: {response}");
    schema["components"] = description["components"].clone();
    schema
}

fn check(description: &Value, method: &str, path: &str, response: &Response) {
    let schema = schema(description, method, path, response.status);
    let body: Value = serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{path}: {error} in {response}"));
    let validator = jsonschema::validator_for(&schema).unwrap_or_else(|error| panic!("{path}: no schema: {error}"));
    let errors: Vec<String> =
        validator.iter_errors(&body).map(|error| format!("{} at {}", error, error.instance_path())).collect();
    assert!(errors.is_empty(), "{method} {path} was answered {body}, which is not as described: {errors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_they_are_described() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let url = origin.put("file", File::new(random_content(5_000_000)));
    let task = download(&service, &url).await.task;
    let description = fetch(service.api(), "/openapi.json").await;
    let cid = fetch(service.api(), "/peers").await[0]["ID"].as_str().expect("an id").to_owned();
    let preheat = exchange::call(service.api(), post_json("/preheats", &serde_json::json!({"type": "file", "url": url}))).await;
    let preheat = preheat.expect("an answer");
    check(&description, "post", "/preheats", &preheat);
    let preheat: Value = serde_json::from_slice(&preheat.body).expect("JSON");
    let preheat = preheat["ID"].as_str().expect("an id").to_owned();
    let registration = serde_json::json!({
        "rawUrl": url, "taskUrl": url, "cid": "127.0.0.1-1-1795423513.832", "ip": "127.0.0.1", "port": 0, "path": "/p", "version": "1.0.6",
    });
    let pull = format!("/peer/task?taskId={task}&srcCid=127.0.0.1-1-1795423513.832");
    let range = range_of(0);
    for (path, target) in [
        ("/peer/task", format!("{pull}&status=700&result=502")),
        ("/peer/task", format!("{pull}&status=701&result=503&range={}", range_of(1))),
        ("/peer/task", format!("{pull}&status=701&result=503&range={range}")),
        ("/peer/task", format!("{pull}&status=799")),
        ("/peer/task", format!("{pull}&status=702&result=501")),
        ("/peer/piece/suc", format!("/peer/piece/suc?taskId={task}&cid={cid}&dstCid=&pieceRange={range}")),
        (
            "/peer/piece/error",
            format!(
                "/peer/piece/error?taskId={task}&srcCid={cid}&dstCid=cdnnode:127.0.0.1~{task}&range={range}&errorType=FILE_NOT_EXIST"
            ),
        ),
        ("/peer/service/down", format!("/peer/service/down?taskId={task}&cid={cid}")),
        ("/version", "/version".into()),
        ("/peers", "/peers".into()),
        ("/peers", "/peers?pageSize=0".into()),
        ("/peers/{id}", format!("/peers/{cid}")),
        ("/peers/{id}", "/peers/nobody".into()),
        ("/cache", "/cache".into()),
        ("/cache", "/cache?pageNum=x".into()),
        ("/preheats", "/preheats".into()),
        ("/preheats/{id}", format!("/preheats/{preheat}")),
        ("/preheats/{id}", format!("/preheats/{}", "0".repeat(32))),
        ("/tasks", "/tasks".into()),
        ("/tasks/{id}", format!("/tasks/{task}")),
        ("/tasks/{id}", "/tasks/abc".into()),
        ("/tasks/{id}/pieces", format!("/tasks/{task}/pieces")),
        ("/tasks/{id}/clients", format!("/tasks/{task}/clients")),
    ] {
        if target.contains("status=700") {
            let registered = exchange::call(service.api(), post_json("/peer/registry", &registration)).await;
            check(&description, "post", "/peer/registry", &registered.expect("an answer"));
        }
        let response = exchange::call(service.api(), get(&target)).await.unwrap_or_else(|error| panic!("{target}: {error}"));
        check(&description, "get", path, &response);
    }
    for (path, body) in [
        ("/peer/heartbeat", serde_json::json!({"cID": cid, "IP": "127.0.0.1", "port": 1})),
        ("/peer/network", serde_json::json!({"urls": [url]})),
        ("/task/metrics", serde_json::json!({"success": true, "duration": 1.5, "fileLength": 5_000_000})),
        ("/peers", serde_json::json!({"IP": "127.0.0.1", "hostName": "h", "port": 1})),
    ] {
        let response =
            exchange::call(service.api(), post_json(path, &body)).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        check(&description, "post", path, &response);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_described_is_there() {
    let service = Service::start().await;
    let description = fetch(service.api(), "/openapi.json").await;
    for (path, methods) in description["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            let target = path.replace("{id}", "nobody");
            let response = call(service.api(), &method.to_uppercase(), &target).await;
            let text = String::from_utf8_lossy(&response.body).into_owned();
            assert!(
                response.status != 405 && !text.contains("no such route"),
                "{method} {path} is described and not there: {response}"
            );
        }
    }
}
