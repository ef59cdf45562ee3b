//! What a file without end leaves behind.

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;

use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::origin::scripted::{Act, Scripted};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

const NO_ROOM: i64 = 604;
/// Of a quota of 20 MiB. Bytes.
const FILE_BYTES: usize = 15_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_end_is_not_in_the_way_of_the_next() {
    let (origin, service) = (Origin::start().await, Service::start_configured("base: {repositoryQuota: 20M}\n").await);
    let script = |_: &_| vec![Act::say("HTTP/1.0 200 OK\r\n\r\n"), Act::SendForever(Bytes::from(vec![7; 64 * 1024]))];
    let endless = Scripted::start(Arc::new(script), Ipv4Addr::LOCALHOST.into(), None, None).await;
    // It registers and no more: a client with a piece on its way is waited for.
    let registered =
        new_client().await.register(service.api(), &Wanted::url(&format!("http://{}/file", endless.address()))).await;
    assert_eq!(registered.expect("answered").code, 200);
    eventually("there was no room for all of it", async || {
        service.dump().await.of_kind("task").any(|task| task["state"] == "FAILED").then_some(())
    })
    .await;

    let content = random_content(FILE_BYTES);
    let wanted = Wanted::url(&origin.put("file", File::new(content.clone())));
    let downloaded =
        eventually("there is room for another", async || match new_client().await.download(service.api(), &wanted).await {
            Err(surprise) if surprise.code == Some(NO_ROOM) => None,
            downloaded => Some(downloaded.unwrap_or_else(|surprise| panic!("{surprise}"))),
        })
        .await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
}

async fn new_client() -> Arc<Client> {
    Arc::new(Client::start(&Release::GO_1_0_6).await)
}
