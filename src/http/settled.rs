//! What is told of tasks, clients, peers and preheats leaves once it is durable: no loss of power takes back what somebody
//! was told.

use super::client_api::unready;
use super::late::HELD_FOR;
use super::wire::Answer;
use crate::cluster::Cluster;

/// Returns once everything that can be seen by now is durable; where that does not come to be in time, or will not at all,
/// with the answer for whoever asked.
pub async fn settled(cluster: &Cluster) -> Result<(), Answer> {
    match tokio::time::timeout(HELD_FOR, cluster.settled()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failed)) => Err(unready(&failed.to_string())),
        Err(_) => Err(unready("what is asked for is not durable yet, ask again")),
    }
}
