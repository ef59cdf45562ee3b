//! The clients of every release in the field, with the rules of their releases, alone and together.

mod columns;
mod faults;
mod reports;
mod waiting;

use std::sync::Arc;

use bytes::Bytes;

use crate::harness::client::{Client, Downloaded, Wanted};
use crate::harness::service::Service;

/// Lets a client download a URL. Anything that would send it to the source, panic it or hang it is a failure.
async fn download(service: &Service, client: &Arc<Client>, url: &str) -> Downloaded {
    let downloaded = client.download(service.api(), &Wanted::url(url)).await;
    downloaded.unwrap_or_else(|surprise| panic!("{surprise}"))
}

fn check_content(downloaded: &Downloaded, content: &Bytes, whose: &str) {
    assert!(downloaded.content == *content, "{whose} ended with other bytes than the source has");
}
