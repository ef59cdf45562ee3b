//! Whole stories: clients, a source and a service that is killed, stopped, or given a source that misbehaves.

mod damage;
mod dumps;
mod durability;
mod lengths;
mod lifecycle;
mod snapshots;
mod sources;
mod swarm;

use std::sync::Arc;

use crate::harness::client::{Client, Dialect, Downloaded, Wanted};
use crate::harness::service::Service;

/// Lets a new client download a URL, which must go well.
async fn download(service: &Service, url: &str) -> Downloaded {
    download_wanted(service, &Wanted::url(url)).await
}

async fn download_wanted(service: &Service, wanted: &Wanted) -> Downloaded {
    let client = Arc::new(Client::start(Dialect::Go).await);
    client.download(service.api(), wanted).await.unwrap_or_else(|surprise| panic!("{}: {surprise}", client.cid()))
}
