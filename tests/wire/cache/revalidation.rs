//! A cached file is compared with its source before it is served after a while.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{files, pull, register};
use crate::end_to_end::{download, download_wanted};
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::origin::{File, Origin, Seen};
use crate::harness::pieces::{other_content, random_content};
use crate::harness::service::Service;

const SOON: &str = "base: {revalidateAfter: 3s}\n";
/// After this long it is asked again.
const A_WHILE: Duration = Duration::from_millis(3200);
const URL_NOT_REACHABLE: i64 = 607;
const SOURCE_ERROR: i64 = 610;

fn asked(origin: &Origin) -> Vec<Seen> {
    origin.record("file").0
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_source_is_asked_once_for_all_and_sends_nothing() {
    let (origin, service) = (Origin::start().await, Service::start_configured(SOON).await);
    let content = random_content(5_000_000);
    let file = File { delay: Duration::from_millis(300), ..File::new(content.clone()) };
    let url = origin.put("file", file.clone());
    download(&service, &url).await;
    download(&service, &url).await;
    assert_eq!(asked(&origin).len(), 1, "it is fresh");
    for round in 1..=2 {
        tokio::time::sleep(A_WHILE).await;
        let downloads: Vec<_> = (0..8)
            .map(|_| {
                let (api, url) = (service.api(), url.clone());
                tokio::spawn(async move {
                    let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
                    client.download(api, &Wanted::url(&url)).await.map_err(|surprise| surprise.to_string())
                })
            })
            .collect();
        for downloaded in downloads {
            let downloaded = downloaded.await.expect("no panic").unwrap_or_else(|surprise| panic!("{surprise}"));
            assert!(downloaded.content == content);
        }
        let asked = asked(&origin);
        assert_eq!(asked.len(), 1 + round, "the source is asked once: {asked:?}");
        assert_eq!(asked[round].if_none_match.as_deref(), Some(file.etag().as_str()));
        assert_eq!(asked[round].body_bytes, 0, "it had to send the file again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_source_is_fetched_anew_and_clients_of_the_old_one_are_told() {
    let (origin, mut service) = (Origin::start().await, Service::start_configured(SOON).await);
    let old = random_content(9_000_000);
    let url = origin.put("file", File::new(old.clone()));
    let (client, task) = register(&service, &url).await.expect("it is accepted");
    eventually("pieces are in flight", async || (pull(&service, &task, client.cid()).await.code == 601).then_some(())).await;
    download(&service, &url).await;
    let new = other_content(&old);
    // One source answers conditions, the other sends all of it whatever is asked.
    for (content, revision, ignores_conditions) in [(new, 2, false), (old, 3, true)] {
        origin.put("file", File { revision, ignores_conditions, ..File::new(content.clone()) });
        tokio::time::sleep(A_WHILE).await;
        let downloaded = download(&service, &url).await;
        assert!(downloaded.content == content, "revision {revision}: the old content was served");
        assert_eq!(downloaded.task, task);
    }
    let told = pull(&service, &task, client.cid()).await;
    assert_eq!(told.code, SOURCE_ERROR, "a client of the old content: {told}");
    let again = client.register(service.api(), &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    assert_eq!(again.code, URL_NOT_REACHABLE, "it would mix both: {again}");
    eventually("the files of the old contents are gone", async || (files(&service).len() == 1).then_some(())).await;
    service.kill9();
    service.restart().await;
    assert_eq!(pull(&service, &task, client.cid()).await.code, SOURCE_ERROR, "a restart forgot who began with the old content");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_be_asked_leaves_what_is_cached_in_service() {
    let (origin, service) = (Origin::start().await, Service::start_configured(SOON).await);
    let content = random_content(1_000_000);
    let url = origin.put("file", File::new(content.clone()));
    download(&service, &url).await;
    let unavailable = http::StatusCode::SERVICE_UNAVAILABLE;
    origin.put("file", File { status: Some(unavailable), ..File::new(content.clone()) });
    tokio::time::sleep(A_WHILE).await;
    assert!(download(&service, &url).await.content == content);
    let sentence = "source does not say whether it changed";
    eventually("it is told", async || service.log().contains(sentence).then_some(())).await;
    // One that says nothing at all keeps nobody waiting for long: a registration is given 5 s.
    origin.put("file", File { delay: Duration::from_secs(60), ..File::new(content.clone()) });
    tokio::time::sleep(A_WHILE).await;
    assert!(download(&service, &url).await.content == content);
    assert_eq!(asked(&origin).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_replaces_no_cached_file_and_a_change_is_fetched_where_the_file_came_from() {
    let (origin, service) = (Origin::start().await, Service::start_configured(SOON).await);
    let secret = |content: Bytes, revision| File {
        revision,
        authorization: Some("Bearer secret".to_owned()),
        // Strangers are shown another page, as if it were the file.
        denial: http::StatusCode::OK,
        ..File::new(content)
    };
    let content = random_content(5_000_000);
    let url = origin.put("file", secret(content.clone(), 1));
    let elsewhere = origin.put("elsewhere", File { revision: 7, ..File::new(other_content(&content)) });
    let bringing = |raw_url: &str, header: &str| Wanted {
        raw_url: raw_url.to_owned(),
        headers: vec![header.to_owned()],
        ..Wanted::url(&url)
    };
    let member = bringing(&url, "Authorization: Bearer secret");
    assert!(download_wanted(&service, &member).await.content == content);
    for stranger in [bringing(&elsewhere, "x: y"), bringing(&elsewhere, "Authorization: Bearer secret"), bringing(&url, "x: y")] {
        tokio::time::sleep(A_WHILE).await;
        let asked_before = asked(&origin).len();
        let told = download_wanted(&service, &stranger).await;
        assert!(told.content == content, "{stranger:?} replaced the file");
        assert_eq!(asked(&origin).len(), asked_before + 1, "{stranger:?}: the source was not asked");
    }
    assert!(origin.record("elsewhere").0.is_empty(), "a stranger chose the source");

    let new = other_content(&content);
    origin.put("file", secret(new.clone(), 2));
    tokio::time::sleep(A_WHILE).await;
    let changed = download_wanted(&service, &bringing(&elsewhere, "Authorization: Bearer secret")).await;
    assert!(changed.content == new, "the change was not noticed");
    assert!(origin.record("elsewhere").0.is_empty(), "a stranger chose the next source");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cached_long_before_a_start_is_asked_for_again_after_it() {
    let (origin, mut service) = (Origin::start().await, Service::start_configured("base: {revalidateAfter: 1h}\n").await);
    let content = random_content(1_000_000);
    let url = origin.put("file", File::new(content.clone()));
    download(&service, &url).await;
    service.kill9();
    service.restart().await;
    download(&service, &url).await;
    assert_eq!(asked(&origin).len(), 1, "a restart alone is no reason");
    service.kill9();
    let long_ago = std::time::SystemTime::now() - Duration::from_hours(2);
    for file in files(&service) {
        std::fs::File::open(file).and_then(|file| file.set_modified(long_ago)).expect("the file is ours");
    }
    service.restart().await;
    assert!(download(&service, &url).await.content == content);
    assert_eq!(asked(&origin).len(), 2, "two hours are long");
    download(&service, &url).await;
    assert_eq!(asked(&origin).len(), 2, "once is enough");
}
