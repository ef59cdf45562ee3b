//! Files of lengths at which a piece begins, ends, or is not known yet.

use std::sync::Arc;

use bytes::Bytes;

use crate::harness::client::{Client, Release, Wanted};
use crate::harness::exchange::metric;
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::{PIECE_CONTENT, random_content};
use crate::harness::service::Service;

/// Three pieces, the last not full.
const CHUNKED_BYTES: usize = 9_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_awkward_length_arrive_whole() {
    let origin = Origin::start().await;
    let service = Service::start().await;
    let mut clients = Vec::new();
    for length in [0, 1, PIECE_CONTENT, PIECE_CONTENT + 1] {
        let content = random_content(usize::try_from(length).expect("a test's file fits"));
        let url = origin.put(&format!("file-{length}"), File::new(content.clone()));
        let announced = i64::try_from(length).expect("a test's file is small");
        clients.extend(check_twice(&service, &url, &content, &[announced]).await);
    }
    // The empty file once more, now that it is nothing new.
    check_twice(&service, &origin.put("file-0", File::new(Bytes::new())), &Bytes::new(), &[0]).await;
    assert_eq!(origin.record("file-0").0.len(), 1, "an empty file that is here already was fetched again");
    let sent = metric(service.api(), "dragonfly_supernode_source_bytes_total").await;
    assert_eq!(sent, 1 + PIECE_CONTENT + PIECE_CONTENT + 1, "each byte once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_unknown_length_arrives_whole() {
    let origin = Origin::start().await;
    let service = Service::start().await;
    let content = random_content(CHUNKED_BYTES);
    let url = origin.put("chunked", File { chunked: true, ..File::new(content.clone()) });
    // It is known as soon as the source's end has come, which may be before anybody is told.
    let length = i64::try_from(CHUNKED_BYTES).expect("a test's file is small");
    check_twice(&service, &url, &content, &[-1, length]).await;
}

/// Two clients, one after the other and each of its own dialect, get the same bytes. They serve until they are dropped.
async fn check_twice(service: &Service, url: &str, content: &Bytes, lengths: &[i64]) -> [Arc<Client>; 2] {
    let clients = [Client::start(&Release::GO_1_0_6).await, Client::start(&Release::DOCUMENTED).await].map(Arc::new);
    for client in &clients {
        let downloaded = client.download(service.api(), &Wanted::url(url)).await;
        let downloaded = downloaded.unwrap_or_else(|surprise| panic!("{url}: {surprise}"));
        assert!(downloaded.content == *content, "{url} arrived with {} bytes, or other ones", downloaded.content.len());
        let told = downloaded.file_length;
        assert!(lengths.contains(&told), "{url} was announced with {told} bytes, expected {lengths:?}");
        assert_eq!(downloaded.transfers.failed, 0, "{url}: everybody who serves is there");
    }
    clients
}
