//! Sources that accept a connection and say nothing, and what they cost those that answer.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::{download, places};
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::origin::scripted::{Act, Scripted};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

/// Silent for longer than any of these tests, unless they are made to give way.
const PATIENT: &str = "base:\n  sourceIdleTimeout: 10m\n";
/// More than may be asked at once of one host.
const FILES_OF_A_HOST: usize = 70;
/// What may be asked at once, of all.
const ASKS_MAX: usize = 256;

/// Hosts that never answer, and somebody who registers files of theirs.
struct Silence {
    hosts: Vec<Scripted>,
    _registering: JoinSet<()>,
}

impl Silence {
    async fn start(service: &Service, hosts_count: u8) -> Self {
        let (mut hosts, mut registering) = (Vec::new(), JoinSet::new());
        let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
        for number in 1..=hosts_count {
            let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, number));
            let host = Scripted::start(Arc::new(|_| vec![Act::FallSilent]), address, None, None).await;
            for file in 0..FILES_OF_A_HOST {
                let (client, api) = (client.clone(), service.api());
                let wanted = Wanted::url(&format!("http://{}/{file}", host.address()));
                registering.spawn(async move {
                    // Whatever it is told.
                    let _ = client.register(api, &wanted).await;
                });
            }
            hosts.push(host);
        }
        Self { hosts, _registering: registering }
    }

    fn requests(&self) -> usize {
        self.hosts.iter().map(|host| host.sent().requests).sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_never_answer_do_not_keep_others_from_being_asked() {
    let (origin, content) = (Origin::start().await, random_content(100_000));
    let service = Service::start_configured(PATIENT).await;
    let silence = Silence::start(&service, 9).await;
    let all_are_held =
        async || (silence.requests() >= ASKS_MAX && places(&service, "asks", "held").await == ASKS_MAX).then_some(());
    eventually("they hold all that they can get", all_are_held).await;
    for name in ["one", "two", "three"] {
        let downloaded = download(&service, &origin.put(name, File::new(content.clone()))).await;
        assert!(downloaded.content == content, "the file arrived with other bytes");
        assert!(places(&service, "asks", "held").await <= ASKS_MAX);
        assert_eq!(origin.record(name).0.len(), 1, "it is asked once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_takes_its_time_is_waited_for_where_nobody_else_is_kept_from_anything() {
    let (origin, content) = (Origin::start().await, random_content(1000));
    let service = Service::start_configured(PATIENT).await;
    let silence = Silence::start(&service, 3).await;
    let all_wait = async || (places(&service, "asks", "held").await == 192 && silence.requests() == 192).then_some(());
    eventually("each holds what one host may", all_wait).await;
    // Longer than any of them might be silent if others had to wait.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let downloaded = download(&service, &origin.put("one", File::new(content.clone()))).await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
    assert_eq!(silence.requests(), 192, "nobody had to give way");
}
