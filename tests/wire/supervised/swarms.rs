//! A swarm of every release, whose service dies and is upgraded under it.

use std::path::Path;

use rustix::process::Signal;

use crate::harness::client::Release;
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::{piece_count, random_content};
use crate::harness::service::binary;
use crate::harness::supervised::Supervised;
use crate::harness::swarm::Swarm;

const FILE_BYTES: usize = 64 * 1024 * 1024;
/// The source takes about 4 s, so that every disturbance finds it at work.
const SOURCE_BYTES_PER_S: u64 = 16 * 1024 * 1024;
/// Two clients of each release.
const RELEASES: [&Release; 8] = [
    &Release::GO_1_0_6,
    &Release::GO_0_3_0,
    &Release::PYTHON_0_2,
    &Release::GO_0_4_3,
    &Release::GO_1_0_6,
    &Release::GO_0_3_0,
    &Release::PYTHON_0_2,
    &Release::GO_0_4_3,
];
/// The third of them is an upgrade, the others are deaths of the worker.
const DISTURBANCES: u32 = 4;
const UPGRADE: u32 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_swarm_of_every_release_notices_neither_deaths_nor_an_upgrade() {
    let (origin, content) = (Origin::start().await, random_content(FILE_BYTES));
    let url = origin.put("file", File { rate_bytes_per_s: Some(SOURCE_BYTES_PER_S), ..File::new(content.clone()) });
    let mut service = Supervised::start().await;
    let mut swarm = Swarm::start(service.api(), &url, &RELEASES).await;
    let pieces = swarm.size() * piece_count(FILE_BYTES as u64);
    for disturbance in 1..=DISTURBANCES {
        swarm.wait_for(pieces * disturbance / (DISTURBANCES + 1)).await;
        if disturbance == UPGRADE {
            service.replace_program(Path::new(binary()));
            service.signal(Signal::USR2);
        } else {
            service.kill_worker();
        }
        service.next_worker().await;
    }
    for downloaded in swarm.finish().await {
        assert!(downloaded.content == content, "a client ended with other bytes than the source has");
    }
}
