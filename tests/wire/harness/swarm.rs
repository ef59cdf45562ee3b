//! Many clients of one file at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::client::{Acknowledged, Client, Downloaded, Release, Surprise, Wanted};

/// How long the next piece may be in coming, whatever else the machine has to do.
const NEXT_PIECE_TIMEOUT: Duration = Duration::from_secs(60);

/// The clients, each downloading.
pub struct Swarm {
    clients: Vec<Arc<Client>>,
    downloading: JoinSet<Result<Downloaded, Surprise>>,
    arrived: watch::Receiver<u32>,
    service_away: watch::Sender<bool>,
}

/// A time without a service, which no client's timeout counts. It ends when this is dropped.
pub struct Outage(watch::Sender<bool>);

impl Drop for Outage {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

impl Swarm {
    /// One client of each of these releases.
    pub async fn start(api: SocketAddr, url: &str, releases: &[&'static Release]) -> Self {
        let (progress, arrived) = watch::channel(0);
        let service_away = watch::Sender::new(false);
        let mut swarm = Self { clients: Vec::new(), downloading: JoinSet::new(), arrived, service_away };
        for release in releases {
            let client = Client::start(release).await.with_progress(progress.clone());
            let client = Arc::new(client.with_outages(swarm.service_away.subscribe()));
            swarm.clients.push(client.clone());
            let wanted = Wanted::url(url);
            swarm.downloading.spawn(async move { client.download(api, &wanted).await });
        }
        swarm
    }

    pub fn clients(&self) -> &[Arc<Client>] {
        &self.clients
    }

    pub fn size(&self) -> u32 {
        u32::try_from(self.clients.len()).expect("a swarm that fits into a test")
    }

    /// Pieces that the clients have together.
    pub fn arrived(&self) -> u32 {
        *self.arrived.borrow()
    }

    /// Waits until the clients have this many pieces together.
    pub async fn wait_for(&mut self, pieces: u32) {
        while *self.arrived.borrow_and_update() < pieces {
            tokio::select! {
                changed = self.arrived.changed() => changed.expect("the clients count while they live"),
                Some(ended) = self.downloading.join_next() => panic!("a download ended before {pieces} pieces were there: {:?}", told(ended)),
                () = tokio::time::sleep(NEXT_PIECE_TIMEOUT) => panic!("{} pieces, and none in {NEXT_PIECE_TIMEOUT:?}", self.arrived()),
            }
        }
    }

    /// Said by whoever takes the service away, until it is there again.
    pub fn outage(&self) -> Outage {
        self.service_away.send_replace(true);
        Outage(self.service_away.clone())
    }

    pub fn acknowledged(&self) -> Vec<(String, Acknowledged)> {
        self.clients.iter().map(|client| (client.cid().to_owned(), client.acknowledged())).collect()
    }

    pub async fn finish(&mut self) -> Vec<Downloaded> {
        let mut downloads = Vec::new();
        while let Some(ended) = self.downloading.join_next().await {
            downloads.push(told(ended).unwrap_or_else(|surprise| panic!("a client: {surprise}")));
        }
        downloads
    }
}

pub fn told(ended: Result<Result<Downloaded, Surprise>, JoinError>) -> Result<Downloaded, Surprise> {
    ended.expect("a client does not panic")
}
