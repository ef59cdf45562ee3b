//! The download port, asked for what is not there or not to be had.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::Scene;
use crate::harness::exchange::{self, Response, get, request, with_header};

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_name_no_task_are_answered_404() {
    let scene = Scene::set().await;
    let task = scene.task();
    let (prefix, unknown) = (&task[..3], "0".repeat(64));
    let paths = [
        "/".to_owned(),
        "/qtdown".to_owned(),
        format!("/qtdown/{prefix}"),
        format!("/qtdown/{prefix}/"),
        format!("/qtdown/{prefix}/{task}/more"),
        format!("/qtdown/{task}"),
        format!("/other/{prefix}/{task}"),
        format!("/qtdown/000/{unknown}"),
        format!("/download/000/{unknown}"),
        // The first characters must be the task's own.
        format!("/qtdown/zzz/{task}"),
        format!("/qtdown//{task}"),
        format!("/qtdown/{prefix}/{}", &task[1..]),
        format!("/qtdown/{prefix}/{task}0"),
        format!("/qtdown/{prefix}/{task}%00"),
        "/qtdown/../../../../../../etc/passwd".to_owned(),
        "/qtdown/../lock".to_owned(),
        "/qtdown/%2e%2e%2f/%2e%2e%2f%2e%2e%2fetc%2fpasswd".to_owned(),
        "/qtdown/..%2f/..%2f..%2flock".to_owned(),
        format!("/qtdown/{prefix}/..%2f{prefix}%2f{task}"),
        format!("/qtdown/{prefix}/%2e%2e/{prefix}/{task}"),
        format!("/qtdown/{prefix}/../{prefix}/{task}"),
        format!("/qtdown/..%2/{}", "../".repeat(21) + "x"),
        "/peer/task".to_owned(),
    ];
    for path in paths {
        let response = fetch(&scene, get(&path)).await;
        assert_eq!(response.status, 404, "{path}: {response}");
    }
    check_serves_on(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_that_cannot_be_had_are_answered_416() {
    let scene = Scene::set().await;
    let ranges = [
        // Past the end of the file, however far.
        "bytes=12582912-16777215",
        "bytes=8388608-12582911",
        "bytes=18446744073709551615-",
        "bytes=18446744073709551615-18446744073709551615",
        // None that can be read.
        "bytes=18446744073709551616-18446744073709551617",
        "bytes=9-5",
        "bytes=-",
        "bytes=-0",
        "bytes=abc",
        "bytes=1-x",
        "bytes=%30-1",
        "bytes=+0-1",
        "bytes=0-1,3-4",
        "bytes=",
    ];
    for range in ranges {
        let response = fetch(&scene, with_header(get(&path_of(&scene)), "range", range)).await;
        assert_eq!(response.status, 416, "{range}: {response}");
    }
    check_serves_on(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_that_the_download_port_does_not_have_are_answered_405() {
    let scene = Scene::set().await;
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let response = fetch(&scene, request(method, &path_of(&scene), Bytes::new())).await;
        assert_eq!(response.status, 405, "{method}: {response}");
    }
    check_serves_on(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_ranges_that_can_be_had_are_clipped() {
    let scene = Scene::set().await;
    let whole = fetch(&scene, get(&path_of(&scene))).await;
    assert_eq!(whole.status, 200, "{whole}");
    let length = whole.body.len();
    for (range, first, end) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=0-18446744073709551615".to_owned(), 0, length),
        (format!("bytes={}-{}", length - 1, length + 1000), length - 1, length),
        ("bytes=-7".to_owned(), length - 7, length),
        (format!("bytes=-{}", length + 1000), 0, length),
        ("bytes=4194303-4194305".to_owned(), 4_194_303, 4_194_306),
    ] {
        let response = fetch(&scene, with_header(get(&path_of(&scene)), "range", &range)).await;
        assert_eq!(response.status, 206, "{range}: {response}");
        assert!(response.body == whole.body[first..end], "{range}: not bytes {first} to {end}: {response}");
        let content_range = format!("bytes {first}-{}/{length}", end - 1);
        assert_eq!(response.header("content-range"), Some(content_range.as_str()), "{range}: {response}");
    }
}

async fn check_serves_on(scene: &Scene) {
    let response = fetch(scene, with_header(get(&path_of(scene)), "range", "bytes=0-4194303")).await;
    assert_eq!((response.status, response.body.len()), (206, 4_194_304), "{response}");
}

fn path_of(scene: &Scene) -> String {
    let task = scene.task();
    format!("/qtdown/{}/{task}", &task[..3])
}

async fn fetch(scene: &Scene, request: Request<Full<Bytes>>) -> Response {
    let (asked, address): (String, SocketAddr) = (request.uri().to_string(), scene.service.download());
    exchange::call(address, request).await.unwrap_or_else(|error| panic!("{asked}: {error}"))
}
