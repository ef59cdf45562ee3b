//! What operators do and see where nothing is kept.

use std::path::Path;

use serde_json::{Value, json};

use super::{SOURCE, begin, piece_files, register};
use crate::end_to_end::download;
use crate::end_to_end::snapshots::done;
use crate::harness::client::{Client, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, Response, get, post_json};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

const FILE_BYTES: usize = 9_000_000;

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

async fn fetch(service: &Service, target: &str) -> Value {
    let response = exchange::call(service.api(), get(target)).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(response.status, 200, "{target}: {response}");
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{target}: {error}"))
}

async fn fetch_piece(service: &Service, task: &str, range: Option<&str>) -> Response {
    let request = get(&format!("/qtdown/{}/{task}", &task[..3]));
    let request = match range {
        Some(range) => exchange::with_header(request, "range", range),
        None => request,
    };
    exchange::call(service.download(), request).await.unwrap_or_else(|error| panic!("{error}"))
}

/// A file that one client has, and one that has only begun.
async fn stage(configuration: &str) -> (Origin, Service, Client, String) {
    let (origin, service) = (Origin::start().await, Service::start_configured(configuration).await);
    let url = origin.put("file", File::new(random_content(FILE_BYTES)));
    download(&service, &url).await;
    let (client, task) = register(&service, &Wanted::url(&url)).await;
    (origin, service, client, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_are_told_where_the_pieces_are() {
    let (_origin, service, client, task) = stage(SOURCE).await;
    let told = fetch(&service, &format!("/api/v1/tasks/{task}")).await;
    let expected = json!({
        "cdnStatus": "SUCCESS", "cdnSource": "source", "pieceTotal": 3, "piecesStored": 0, "realMd5": "",
        "httpFileLength": FILE_BYTES, "fileLength": FILE_BYTES, "clients": 2,
    });
    for (name, value) in expected.as_object().expect("an object") {
        assert_eq!(&told[name], value, "{name} in {told}");
    }
    let pieces = fetch(&service, &format!("/api/v1/tasks/{task}/pieces")).await;
    let pieces = pieces.as_array().expect("a list");
    assert_eq!(pieces.len(), 3);
    for piece in pieces {
        assert_eq!((&piece["pieceMD5"], &piece["stored"], &piece["holders"]), (&json!(""), &json!(false), &json!(1)), "{piece}");
    }
    let cache = fetch(&service, "/api/v1/cache").await;
    assert_eq!(cache["storedBytes"], 0, "{cache}");
    for range in [None, Some("bytes=0-4194303"), Some("bytes=-1"), Some("bytes=x")] {
        assert_eq!(fetch_piece(&service, &task, range).await.status, 404, "{range:?}");
    }
    let wait = begin(&service, &task, &client).await;
    assert_eq!(wait.code, 601, "{wait}");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_nothing_to_preheat() {
    let (origin, mut service) = (Origin::start().await, Service::start().await);
    // It is under way when the supernode stops to keep bytes.
    let slow = File { rate_bytes_per_s: Some(100_000), ..File::new(random_content(FILE_BYTES)) };
    let body = json!({"type": "file", "url": origin.put("file", slow)});
    let taken =
        exchange::call(service.api(), post_json("/api/v1/preheats", &body)).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(taken.status, 201, "{taken}");
    service.terminate().await;
    service.configure(SOURCE);
    service.restart().await;
    let refused =
        exchange::call(service.api(), post_json("/api/v1/preheats", &body)).await.unwrap_or_else(|error| panic!("{error}"));
    let told = refused.answer().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((told.status, told.code), (400, 400), "{told}");
    assert!(told.msg.contains("cdnPattern is source"), "{told}");
    let ended = eventually("the preheat ends", async || {
        let preheats = fetch(&service, "/api/v1/preheats").await;
        (preheats[0]["finishTime"] != 0).then_some(preheats)
    })
    .await;
    assert_eq!(ended[0]["status"], "FAILED", "{ended}");
    assert!(ended[0]["reason"].as_str().is_some_and(|reason| reason.contains("cdnPattern is source")), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_is_sound_restored_and_collected_like_any_other() {
    let (origin, mut service, _, task) = stage("base: {cdnPattern: source, repositoryQuota: 1M}\n").await;
    let (home, other) = (service.home(), tempfile::tempdir().expect("a directory"));
    let snapshot = other.path().join("s.snap");
    done(&["snapshot", "--home-dir", text(&home), "--output", text(&snapshot)]).await;
    done(&["check", "--snapshot", text(&snapshot)]).await;
    done(&["gc", "--home-dir", text(&home)]).await;
    assert_eq!(service.dump().await.of_kind("task").count(), 1, "room is no reason for what takes none to go");
    service.terminate().await;
    let said = done(&["check", "--home-dir", text(&home)]).await;
    assert!(said.contains("everything is sound"), "{said}");
    let before = service.dump().await.sorted();
    done(&["restore", text(&snapshot), "--home-dir", text(&home), "--force"]).await;
    assert_eq!(service.dump().await.sorted(), before);
    let asked = origin.record("file").0.len();
    service.restart().await;
    let downloaded = download(&service, &format!("http://{}/file", origin.address())).await;
    assert_eq!(downloaded.task, task);
    let probes = origin.record("file").0[asked..].iter().filter(|seen| seen.range.as_deref() == Some("bytes=0-0")).count();
    assert_eq!(probes, 0, "what the source has is known");
    assert_eq!(piece_files(&service).len(), 0);
    let deleted = exchange::call(
        service.api(),
        exchange::request("DELETE", &format!("/api/v1/tasks/{task}?full=true"), bytes::Bytes::new()),
    )
    .await;
    assert_eq!(deleted.expect("answered").status, 204);
    assert_eq!(service.dump().await.of_kind("task").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_uses_expires() {
    let (origin, service) = (
        Origin::start().await,
        Service::start_configured("base: {cdnPattern: source, taskExpireTime: 2s, gcMetaInterval: 1s, gcInitialDelay: 1s}\n")
            .await,
    );
    download(&service, &origin.put("file", File::new(random_content(1000)))).await;
    eventually("the task is gone", async || (service.dump().await.of_kind("task").count() == 0).then_some(())).await;
}
