//! Whole stories: clients, a source and a service that is killed, stopped, or given a source that misbehaves.

mod busy;
mod credentials;
mod damage;
mod damaged_home;
mod dumps;
mod durability;
mod lengths;
mod lifecycle;
mod limits;
mod machine;
mod reach;
mod silence;
mod small;
pub mod snapshots;
mod sources;
mod swarm;
mod tokens;

use std::sync::Arc;

use crate::harness::client::{Client, Downloaded, Release, Wanted};
use crate::harness::exchange::metric;
use crate::harness::service::Service;

/// Lets a new client download a URL, which must go well.
pub async fn download(service: &Service, url: &str) -> Downloaded {
    download_wanted(service, &Wanted::url(url)).await
}

pub async fn download_wanted(service: &Service, wanted: &Wanted) -> Downloaded {
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
    client.download(service.api(), wanted).await.unwrap_or_else(|surprise| panic!("{}: {surprise}", client.cid()))
}

/// What the metrics tell of places: how many are held, waited for, or there at most.
async fn places(service: &Service, of: &str, count: &str) -> usize {
    let held = metric(service.api(), &format!("dragonfly_supernode_source_places{{count=\"{count}\",of=\"{of}\"}}")).await;
    usize::try_from(held).expect("few")
}
