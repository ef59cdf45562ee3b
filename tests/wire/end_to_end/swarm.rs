//! Many clients of one file, and a service that is killed in their midst.

use std::sync::Arc;
use std::time::Instant;

use crate::harness::client::{Acknowledged, Client, Downloaded, Release, Transfers, Wanted};
use crate::harness::dump::Dump;
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::{PIECE_SIZE, piece_count, random_content};
use crate::harness::service::Service;
use crate::harness::swarm::{Swarm, told};

const CLIENTS: usize = 8;
const KILLS: u32 = 2;
const FILE_BYTES: usize = 64 * 1024 * 1024;
/// The source takes about 4 s, so that both kills find it at work.
const SOURCE_BYTES_PER_S: u64 = 16 * 1024 * 1024;
/// What one kill may cost of what the source has sent: two pieces that were not durable, and what lay in socket buffers.
const LOST_PER_KILL_BYTES: u64 = 2 * PIECE_SIZE + 8 * 1024 * 1024;
/// Four pieces, the last not full.
const SMALL_FILE_BYTES: usize = 15_000_000;
/// More than 10 s for a piece.
const SLOW_LINK_BYTES_PER_S: u64 = 400_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_spreads_through_a_swarm_and_two_kills_change_nothing() {
    let content = random_content(FILE_BYTES);
    let origin = Origin::start().await;
    let url = origin.put("file", File { rate_bytes_per_s: Some(SOURCE_BYTES_PER_S), ..File::new(content.clone()) });
    let mut service = Service::start_on_held_sockets().await;
    let pieces = piece_count(FILE_BYTES as u64);
    let began = Instant::now();
    let mut swarm = Swarm::start(service.api(), &url, &[&Release::GO_1_0_6; CLIENTS]).await;

    for kill in 1..=KILLS {
        swarm.wait_for(swarm.size() * pieces * kill / (KILLS + 1)).await;
        kill_and_restart(&swarm, &mut service).await;
    }
    let downloads = swarm.finish().await;
    println!("{CLIENTS} clients and {KILLS} kills took {:.1} s", began.elapsed().as_secs_f64());

    for downloaded in &downloads {
        assert!(downloaded.content == content, "a client ended with other bytes than the source has");
    }
    check_source(&origin, KILLS);
    check_transfers(&downloads);
    check_complete(&swarm, &service.dump().await, &downloads[0].task, pieces);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_holds_nobody_up_and_gets_everything() {
    let content = random_content(SMALL_FILE_BYTES);
    let origin = Origin::start().await;
    let wanted = Wanted::url(&origin.put("file", File::new(content.clone())));
    let service = Service::start().await;
    let slow = Arc::new(Client::start(&Release::GO_1_0_6).await.with_link(SLOW_LINK_BYTES_PER_S));
    let slow = {
        let (api, wanted) = (service.api(), wanted.clone());
        tokio::spawn(async move { slow.download(api, &wanted).await })
    };
    let mut fast_clients = Vec::new();
    for _ in 0..3 {
        let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
        fast_clients.push(client.clone());
        let fast = client.download(service.api(), &wanted).await;
        let fast = fast.unwrap_or_else(|surprise| panic!("a fast client: {surprise}"));
        assert!(fast.content == content, "a fast client ended with other bytes");
    }
    assert!(!slow.is_finished(), "the slow client was not slow, or the fast ones waited for it");
    let slow = told(slow.await).unwrap_or_else(|surprise| panic!("the slow client: {surprise}"));
    assert!(slow.content == content, "the slow client ended with other bytes");
}

/// Kills the service and starts it again; nothing that was acknowledged before may be missing after.
async fn kill_and_restart(swarm: &Swarm, service: &mut Service) {
    check_kept(&swarm.acknowledged(), &service.dump().await, "while the service runs");
    let outage = swarm.outage();
    service.kill9();
    let at_the_kill = swarm.acknowledged();
    let arrived = swarm.arrived();
    let kept =
        at_the_kill.iter().map(|(_, acknowledged)| acknowledged.servable.len().min(acknowledged.held.len())).sum::<usize>();
    assert!(kept > 0, "{arrived} pieces arrived and none was acknowledged: this kill would prove nothing");
    let began = Instant::now();
    service.restart().await;
    drop(outage);
    println!("killed after {arrived} pieces, serving again after {:?}", began.elapsed());
    check_kept(&at_the_kill, &service.dump().await, "after the kill");
}

fn check_complete(swarm: &Swarm, dump: &Dump, task: &str, pieces: u32) {
    check_kept(&swarm.acknowledged(), dump, "at the end");
    for client in swarm.clients() {
        let all = (0..pieces).collect();
        assert_eq!(dump.held(task, client.cid()), all, "{} holds every piece", client.cid());
        assert_eq!(dump.servable(task, client.cid()), all, "{} serves every piece", client.cid());
        assert_eq!(client.asked_in_vain(), 0, "{} was asked for a piece that it never said to serve", client.cid());
    }
    let served: Vec<u32> = swarm.clients().iter().map(|client| client.served()).collect();
    println!("pieces that each client served: {served:?}");
}

/// Looks for everything that clients were acknowledged in a dump that was taken later.
fn check_kept(acknowledged: &[(String, Acknowledged)], dump: &Dump, when: &str) {
    for (client, acknowledged) in acknowledged {
        let Some(task) = &acknowledged.task else { continue };
        assert!(dump.has_client(task, client), "{when}: the registration of {client} was acknowledged and is gone");
        let (held, servable) = (dump.held(task, client), dump.servable(task, client));
        assert!(
            held.is_superset(&acknowledged.held),
            "{when}: {client} was acknowledged {:?}, kept is {held:?}",
            acknowledged.held
        );
        assert!(
            servable.is_superset(&acknowledged.servable),
            "{when}: {client} was acknowledged to serve {:?}, kept is {servable:?}",
            acknowledged.servable
        );
        for (piece, md5) in &acknowledged.digests {
            assert_eq!(dump.piece_md5(task, *piece), Some(md5.as_str()), "{when}: piece {piece} was handed out to {client}");
        }
    }
}

/// Every byte was fetched, and hardly any twice.
fn check_source(origin: &Origin, kills: u32) {
    let record = origin.record("file");
    let (length, sent) = (FILE_BYTES as u64, record.body_bytes());
    println!("the source was asked {} times and sent {sent} bytes of {length}", record.0.len());
    assert_eq!(record.covered(), length, "a byte was never sent: {record:?}");
    let bound = length + u64::from(kills) * LOST_PER_KILL_BYTES;
    assert!(sent <= bound, "the source sent {sent} bytes, more than {bound}: {record:?}");
}

/// The swarm fed itself.
fn check_transfers(downloads: &[Downloaded]) {
    let count = |of: fn(&Transfers) -> u32| downloads.iter().map(|downloaded| of(&downloaded.transfers)).sum::<u32>();
    let (from_supernode, from_peers) = (count(|transfers| transfers.from_supernode), count(|transfers| transfers.from_peers));
    let failed = count(|transfers| transfers.failed);
    println!("pieces: {from_supernode} from the supernode, {from_peers} from peers, {failed} failed");
    assert!(from_peers > from_supernode, "{from_peers} pieces from peers, {from_supernode} from the supernode");
}
