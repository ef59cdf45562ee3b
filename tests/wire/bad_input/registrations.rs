//! `POST /peer/registry` with parameters that are missing or wrong.

use serde_json::{Value, json};

use super::{Refused, Scene};
use crate::harness::exchange::{post_json, request, with_header};

/// Longer than any client calls itself, or anything else.
const TOO_LONG: usize = 5000;

impl Scene {
    /// A registration with nothing wrong, of the task that is known already.
    pub fn registration(&self) -> Value {
        let url = &self.url;
        json!({
            "superNodeIp": "127.0.0.1", "rawUrl": url, "taskUrl": url, "cid": self.cid, "ip": "127.0.0.1", "hostName": "host",
            "port": 15001, "path": "/peer/file/a-file", "version": "1.0.6",
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_with_wrong_parameters_are_refused_by_name() {
    let scene = Scene::set().await;
    let long = "x".repeat(TOO_LONG);
    let wrong: [(&str, Vec<Value>); 11] = [
        ("cid", vec![json!(""), json!(long), json!("a\nb"), json!(["c"]), json!({})]),
        ("ip", vec![json!(""), json!("host"), json!("300.1.1.1"), json!("127.0.0.1:80"), json!("1.2.3"), json!(7), json!([])]),
        (
            "port",
            vec![
                json!(""),
                json!("x"),
                json!(-1),
                json!(65536),
                json!(1.5),
                json!("+1"),
                json!(true),
                json!([1]),
                json!("99999999999999999999"),
            ],
        ),
        ("path", vec![json!(""), json!("peer/file"), json!("file"), json!(7), json!(format!("/{long}")), json!("/a\r\nb")]),
        ("rawUrl", vec![json!(""), json!([]), json!({"a": 1})]),
        ("headers", vec![json!(7), json!("no colon"), json!(["no colon"]), json!([7]), json!({"Name": 7})]),
        ("md5", vec![json!("x"), json!("d41d8cd98f00b204e9800998ecf8427"), json!(["d41d8cd98f00b204e9800998ecf8427e"])]),
        ("hostName", vec![json!(long), json!([])]),
        ("version", vec![json!(long), json!([])]),
        ("insecure", vec![json!("perhaps"), json!([])]),
        ("rootCAs", vec![json!(["not base64!"]), json!([7]), json!({"a": "b"})]),
    ];
    let mut table = Vec::new();
    for (name, values) in wrong {
        for value in values {
            let mut body = scene.registration();
            body[name] = value;
            let shown: String = body[name].to_string().chars().take(40).collect();
            table.push(Refused::with_code(format!("{name} is {shown}"), post_json("/peer/registry", &body), 501, name));
        }
    }
    scene.refuses(table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_without_what_they_need_are_refused_by_name() {
    let scene = Scene::set().await;
    let mut table = Vec::new();
    for name in ["cid", "ip", "port", "path", "rawUrl"] {
        let mut body = scene.registration();
        body.as_object_mut().expect("an object").remove(name);
        table.push(Refused::with_code(format!("JSON without {name}"), post_json("/peer/registry", &body), 501, name));
        table.push(Refused::with_code(format!("a form without {name}"), form(&body), 501, name));
        body[name] = Value::Null;
        table.push(Refused::with_code(format!("JSON with {name} null"), post_json("/peer/registry", &body), 501, name));
    }
    for (name, value) in [("port", "x"), ("port", "65536"), ("ip", "nowhere"), ("path", "file"), ("headers", "no colon")] {
        let mut body = scene.registration();
        body[name] = json!(value);
        table.push(Refused::with_code(format!("a form with {name}={value}"), form(&body), 501, name));
    }
    scene.refuses(table).await;
}

fn form(body: &Value) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    for (name, value) in body.as_object().expect("an object") {
        form.append_pair(name, &value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    with_header(request("POST", "/peer/registry", form.finish().into()), "content-type", "application/x-www-form-urlencoded")
}
