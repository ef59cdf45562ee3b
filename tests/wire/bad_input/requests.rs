//! Requests that are wrong before any parameter is looked at: routes, methods, bodies.

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::{Value, json};

use super::{Refused, Scene};
use crate::harness::exchange::{self, get, request, with_header};

const BODY_MAX_BYTES: usize = 1024 * 1024;
const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_no_route_takes_keep_their_status() {
    let scene = Scene::set().await;
    let unknown =
        ["//", "/nothing", "/peer", "/peer/nothing", "/peer/registry/more", "/peer/piece", "/peer//task", "/%2e%2e/peer/task"];
    let mut table: Vec<Refused> = unknown.map(|path| Refused::with_status("unknown route", get(path), 404)).into();
    for (method, path) in [
        ("GET", "/peer/registry"),
        ("PUT", "/peer/registry"),
        ("DELETE", "/peer/registry"),
        ("POST", "/peer/task"),
        ("PUT", "/peer/task"),
        ("POST", "/peer/piece/suc"),
        ("DELETE", "/peer/piece/suc"),
    ] {
        table.push(Refused::with_status("wrong method", request(method, path, Bytes::new()), 405));
    }
    scene.refuses(table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_cannot_be_read_keep_their_status() {
    let scene = Scene::set().await;
    let form = "cid=c&ip=127.0.0.1&port=15001&path=/p&rawUrl=http://127.0.0.1/f";
    let table = [
        ("JSON that breaks off", Some(JSON), "{\"cid\": \"c\"", 400),
        ("JSON that is no object", Some(JSON), "[1, 2]", 400),
        ("JSON that is a string", Some(JSON), "\"cid\"", 400),
        ("JSON with something after it", Some(JSON), "{} {}", 400),
        ("a form that is called JSON", Some(JSON), form, 400),
        ("broken JSON that is called a form", Some(FORM), "{broken", 400),
        ("broken JSON that is called nothing", None, "{broken", 400),
        ("words that are called a form", Some(FORM), "hello there", 400),
        ("words that are called nothing", None, "hello there", 400),
        ("a form that is called text", Some("text/plain"), form, 415),
        ("a form that is called XML", Some("application/xml"), form, 415),
        ("a form in parts", Some("multipart/form-data; boundary=x"), "--x\r\n\r\n--x--\r\n", 415),
    ];
    let table = table.map(|(why, content_type, body, status)| Refused::with_status(why, post(content_type, body.into()), status));
    scene.refuses(table.into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_text_is_refused_with_400() {
    let scene = Scene::set().await;
    let table = [&b"\xff\xfe=\xfd"[..], b"{\"cid\": \"\xff\"}", b"\x00\x01\x02"];
    let table = table.map(|body| Refused::with_status("no text", post(Some(FORM), Bytes::from_static(body)), 400));
    scene.refuses(table.into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_one_mebibyte_is_taken_and_one_byte_more_refused() {
    let scene = Scene::set().await;
    let taken = exchange::ask(scene.api(), post(Some(JSON), body_of(&scene, BODY_MAX_BYTES))).await;
    assert_eq!(taken.code, 200, "a body of 1 MiB: {taken}");
    let too_large = body_of(&scene, BODY_MAX_BYTES + 1);
    scene.refuses(vec![Refused::with_status("a body of 1 MiB and a byte", post(Some(JSON), too_large), 413)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_announce_its_length_is_counted() {
    let scene = Scene::set().await;
    for (length, status, code) in [(BODY_MAX_BYTES, 200, 200), (BODY_MAX_BYTES + 1, 413, 413)] {
        let request = in_chunks(&body_of(&scene, length));
        let response = exchange::call(scene.api(), request).await.unwrap_or_else(|error| panic!("{length} bytes: {error}"));
        let answer = response.answer().unwrap_or_else(|error| panic!("{length} bytes: {error}"));
        assert_eq!((answer.status, answer.code), (status, code), "{length} bytes: {answer}");
    }
    scene.still_serves().await;
}

fn post(content_type: Option<&str>, body: Bytes) -> Request<http_body_util::Full<Bytes>> {
    let request = request("POST", "/peer/registry", body);
    match content_type {
        Some(content_type) => with_header(request, "content-type", content_type),
        None => request,
    }
}

/// The same request without a `Content-Length`.
fn in_chunks(body: &Bytes) -> Request<impl http_body::Body<Data = Bytes, Error = std::io::Error> + Send + 'static> {
    let chunks: Vec<_> = body.chunks(64 * 1024).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect();
    let body = StreamBody::new(stream::iter(chunks));
    Request::builder().method("POST").uri("/peer/registry").body(body).expect("this is a request")
}

/// A valid registration of exactly this length: a client of 1.0.x may bring certificates without end.
fn body_of(scene: &Scene, length: usize) -> Bytes {
    let mut body = scene.registration();
    body["padding"] = json!("");
    let padding = length - body.to_string().len();
    body["padding"] = Value::String("x".repeat(padding));
    let body = Bytes::from(body.to_string());
    assert_eq!(body.len(), length);
    body
}
