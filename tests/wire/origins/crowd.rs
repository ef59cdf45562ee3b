//! Many clients, and what they cost the source.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::harness::client::{Client, Release, Wanted};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

const CLIENTS: usize = 200;
/// One piece. Bytes.
const FILE_BYTES: usize = 500_000;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_at_once_cost_the_source_one_request_and_every_byte_once() {
    let (origin, service, content) = (Origin::start().await, Service::start().await, random_content(FILE_BYTES));
    let wanted = Wanted::url(&origin.put("file", File::new(content.clone())));
    let mut downloads = JoinSet::new();
    for _ in 0..CLIENTS {
        let (api, wanted) = (service.api(), wanted.clone());
        downloads.spawn(async move {
            let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
            // It serves until all have what they want.
            let downloaded = client.download(api, &wanted).await.unwrap_or_else(|surprise| panic!("{surprise}"));
            (client, downloaded)
        });
    }
    let downloaded = downloads.join_all().await;
    assert_eq!(downloaded.len(), CLIENTS);
    assert!(downloaded.iter().all(|(_, downloaded)| downloaded.content == content), "the file arrived with other bytes");
    let record = origin.record("file");
    assert_eq!((record.0.len(), record.body_bytes()), (1, content.len() as u64), "{record:?}");
}
