//! A burst of tasks and clients, and nothing left of it: no row, no file, nothing in memory that is counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;
use tokio::task::JoinSet;

use super::files;
use crate::harness::dump::output;
use crate::harness::eventually;
use crate::harness::exchange::{self, get, post_json};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::{random_content, random_seed, range_of};
use crate::harness::service::{Service, command};

const CONFIGURATION: &str = "base: {gcInitialDelay: 0s, gcMetaInterval: 1s, taskExpireTime: 2s, cacheExpireTime: 2s, peerGCDelay: 2s, snapshotInterval: 0s}\n";
const TASKS: u32 = 1_500;
const CLIENTS_OF_EACH: u32 = 2;
/// Clients of one task more, so that one goes in many steps.
const CLIENTS_OF_ONE: u32 = 1_000;
const CONNECTIONS: u32 = 16;
/// Every so many tasks, one is too large for the database and has a piece file.
const FILE_EVERY: usize = 8;

/// Every gauge of what is remembered, by its label, and the sums of tasks and peers.
async fn counted(service: &Service) -> BTreeMap<String, u64> {
    let response = exchange::call(service.api(), get("/metrics")).await.unwrap_or_else(|error| panic!("{error}"));
    let text = String::from_utf8(response.body.to_vec()).expect("metrics are UTF-8");
    let mut counted = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let interesting = ["supernode_remembered{", "supernode_tasks{", "supernode_peers", "supernode_repository_bytes"];
        if interesting.iter().any(|part| name.contains(part)) {
            counted.insert(name.to_owned(), value.parse().expect("a whole number"));
        }
    }
    counted
}

/// Files that lie in the database, and some that do not.
fn put_files(origin: &Origin, count: u32) -> Vec<String> {
    let contents = [random_content(100), random_content(2_000)];
    let of = |number: usize| contents[usize::from(number.is_multiple_of(FILE_EVERY))].clone();
    (0..count as usize).map(|number| origin.put(&format!("file-{number}"), File::new(of(number)))).collect()
}

/// One client's short life: it registers, has the one piece, and is heard of no more.
async fn live(api: std::net::SocketAddr, url: &str, number: u32) {
    let cid = format!("10.0.0.1-{number}-1795423513.832");
    let registration = json!({
        "superNodeIp": "127.0.0.1", "rawUrl": url, "taskUrl": url, "cid": cid, "ip": "127.0.0.1", "hostName": "host",
        "port": 10_000 + number % 40_000, "path": "/p", "version": "1.0.6",
    });
    let registered = exchange::ask(api, post_json("/peer/registry", &registration)).await;
    assert_eq!(registered.code, 200, "{registered}");
    let task = registered.data["taskId"].as_str().expect("a task").to_owned();
    let range = range_of(0);
    let target = format!("/peer/piece/suc?taskId={task}&cid={cid}&dstCid=cdnnode:127.0.0.1~{task}&pieceRange={range}");
    let told = exchange::ask(api, get(&target)).await;
    // It may have expired already, so slow may this machine be.
    assert!(matches!(told.code, 611 | 200 | 502), "{told}");
}

async fn burst(service: &Service, urls: Arc<Vec<String>>) {
    let mut workers = JoinSet::new();
    for worker in 0..CONNECTIONS {
        let (api, urls) = (service.api(), urls.clone());
        workers.spawn(async move {
            for number in (worker..TASKS * CLIENTS_OF_EACH).step_by(CONNECTIONS as usize) {
                live(api, &urls[(number / CLIENTS_OF_EACH) as usize], number).await;
            }
            for number in (worker..CLIENTS_OF_ONE).step_by(CONNECTIONS as usize) {
                live(api, &urls[0], 1_000_000 + number).await;
            }
        });
    }
    while let Some(lived) = workers.join_next().await {
        lived.expect("no client is surprised");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_thousands_of_tasks_and_clients_nothing_is_left() {
    let (origin, mut service) = (Origin::start().await, Service::start_configured(CONFIGURATION).await);
    let urls = Arc::new(put_files(&origin, TASKS));
    let before = counted(&service).await;
    for _ in 0..2 {
        let some_there = eventually("a task has a piece file", async || (!files(&service).is_empty()).then_some(()));
        tokio::join!(burst(&service, urls.clone()), some_there);
        let nothing_left = async || {
            let left = service.dump().await.0.len() + files(&service).len();
            let counted = counted(&service).await;
            let sum: u64 = counted.values().sum();
            (left == 0 && sum == 0).then_some(counted)
        };
        let after = eventually("nothing is left in the database, on disk or in memory", nothing_left).await;
        assert!(
            before.keys().all(|name| after.contains_key(name) || name.contains("tasks{")),
            "{after:?} lacks some of {before:?}"
        );
    }
    assert!(before.keys().any(|name| name.contains("peers_without_task")), "nothing was counted: {before:?}");
    let response = exchange::call(service.api(), get("/metrics")).await.unwrap_or_else(|error| panic!("{error}"));
    let text = String::from_utf8(response.body.to_vec()).expect("metrics are UTF-8");
    let total = |name: &str| -> Option<u32> { text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()) };
    assert!(total("dragonfly_supernode_gc_tasks_total").is_some_and(|gone| gone >= 2 * TASKS), "{text}");
    assert!(total("dragonfly_supernode_gc_peers_total").is_some_and(|gone| gone > 0), "{text}");
    service.kill9();
    service.restart().await;
    assert_eq!((service.dump().await.0.len(), files(&service).len()), (0, 0), "a start brought something back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_amid_expiry_and_eviction_leaves_a_sound_home() {
    let mut random = fastrand::Rng::with_seed(random_seed("moments of the kills"));
    let configuration = "base: {gcInitialDelay: 0s, gcMetaInterval: 1s, gcDiskInterval: 1s, taskExpireTime: 1s, cacheExpireTime: 1s, peerGCDelay: 1s, \
                         repositoryQuota: 20K, snapshotInterval: 0s}\n";
    let (origin, mut service) = (Origin::start().await, Service::start_configured(configuration).await);
    let urls = put_files(&origin, 600);
    for round in 0..3 {
        let api = service.api();
        let registered = Arc::new(AtomicU32::new(0));
        let mut clients = JoinSet::new();
        for worker in 0..8 {
            let (urls, registered) = (urls.clone(), registered.clone());
            clients.spawn(async move {
                for (number, url) in (0..).zip(&urls).skip(worker).step_by(8) {
                    let cid = format!("10.0.0.1-{round}{number}-1.1");
                    let registration = json!({"rawUrl": url, "cid": cid, "ip": "127.0.0.1", "port": 1, "path": "/p"});
                    let Ok(answer) = exchange::call(api, post_json("/peer/registry", &registration)).await else { return };
                    let answer = answer.answer().expect("an envelope");
                    // It says that it has done, so that its file may go for the next.
                    let task = answer.data["taskId"].as_str().unwrap_or_default();
                    let done = format!("/peer/task?srcCid={cid}&taskId={task}&status=702&result=501");
                    if exchange::call(api, get(&done)).await.is_err() {
                        return;
                    }
                    registered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // The quota holds fewer than two hundred.
        let enough = random.u32(250..550);
        eventually("many have registered", async || (registered.load(Ordering::Relaxed) >= enough).then_some(())).await;
        service.kill9();
        while clients.join_next().await.is_some() {}
        // The start removes files whose task was gone before them; nothing else may be amiss.
        service.restart().await;
        service.terminate().await;
        let mut check = command();
        check.arg("check").arg("--home-dir").arg(service.home());
        let checked = output(check).await;
        assert!(checked.status.success(), "round {round}: {}", String::from_utf8_lossy(&checked.stdout));
        service.restart().await;
    }
    assert!(service.log().contains("eviction: evicted"), "nothing was evicted before a kill");
}
