//! Pins: what an operator wants kept stays, until the operator wants it no more.

use super::{fetch, files, register};
use crate::end_to_end::download;
use crate::harness::eventually;
use crate::harness::exchange::{self, request};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

const MIB: usize = 1024 * 1024;

async fn set_pin(service: &Service, method: &str, task: &str) -> u16 {
    let target = format!("/api/v1/tasks/{task}/pin");
    let answer = exchange::call(service.api(), request(method, &target, bytes::Bytes::new())).await;
    answer.unwrap_or_else(|error| panic!("{error}")).status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_file_outlasts_expiry_quota_and_a_kill_until_it_is_released() {
    let short = "base: {repositoryQuota: 8M, gcInitialDelay: 1s, gcMetaInterval: 1s, gcDiskInterval: 1s, taskExpireTime: 1s, \
                 cacheExpireTime: 1s, peerGCDelay: 1s}\n";
    let (origin, mut service) = (Origin::start().await, Service::start_configured(short).await);
    let content = random_content(3 * MIB);
    let url = origin.put("pinned", File::new(content.clone()));
    let pinned = download(&service, &url).await.task;
    assert_eq!(set_pin(&service, "PUT", &pinned).await, 204);
    let other = download(&service, &origin.put("other", File::new(random_content(3 * MIB)))).await.task;
    service.kill9();
    service.restart().await;
    assert_eq!(fetch(service.api(), &format!("/api/v1/tasks/{pinned}")).await["pinned"], true);
    let only_pinned =
        async || matches!(files(&service).as_slice(), [file] if file.to_string_lossy().contains(&pinned)).then_some(());
    eventually("the other one expires", only_pinned).await;
    let cache = fetch(service.api(), "/api/v1/cache").await;
    let told = cache["files"].as_array().expect("files").iter().find(|file| file["ID"] == pinned.as_str()).expect("it is listed");
    assert_eq!((&told["goes"], told["why"].as_str()), (&false.into(), Some("it is pinned")), "{told}");
    // It holds room that others cannot have.
    let refused = register(&service, &origin.put("large", File::new(random_content(6 * MIB)))).await.expect_err("no room");
    assert!(refused.msg.contains("repositoryQuota"), "{refused}");
    assert!(download(&service, &url).await.content == content);
    assert_eq!(origin.record("pinned").0.len(), 1, "it was fetched again");

    assert_eq!(set_pin(&service, "DELETE", &pinned).await, 204);
    eventually("it expires", async || files(&service).is_empty().then_some(())).await;
    assert_eq!(set_pin(&service, "PUT", &pinned).await, 404, "what is gone cannot be pinned");
    assert_eq!(set_pin(&service, "PUT", &other).await, 404);
    assert_eq!(set_pin(&service, "PUT", "no-id").await, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_goes_with_its_task_and_stays_with_a_source_that_changes() {
    let (origin, service) = (Origin::start().await, Service::start_configured("base: {revalidateAfter: 1s}\n").await);
    let url = origin.put("file", File::new(random_content(2000)));
    let task = download(&service, &url).await.task;
    assert_eq!(set_pin(&service, "PUT", &task).await, 204);
    let target = format!("/api/v1/tasks/{task}");
    let after = random_content(3000);
    origin.put("file", File { revision: 2, ..File::new(after.clone()) });
    eventually("the new one is told", async || (download(&service, &url).await.content == after).then_some(())).await;
    assert_eq!(fetch(service.api(), &target).await["pinned"], true);
    let deleted = exchange::call(service.api(), request("DELETE", &target, bytes::Bytes::new())).await.expect("an answer");
    assert_eq!(deleted.status, 204);
    download(&service, &url).await;
    assert_eq!(fetch(service.api(), &target).await["pinned"], false);
}
