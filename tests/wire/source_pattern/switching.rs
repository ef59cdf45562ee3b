//! `cdnPattern` is changed, and the service started again: clients that are in the midst of a task finish as they began, and
//! tasks that nobody is in the midst of begin anew.

use std::time::Duration;

use serde_json::json;

use super::{CONTINUE, SOURCE, SOURCE_ERROR, begin, piece_files, register, register_as};
use crate::end_to_end::{download, download_wanted};
use crate::harness::client::{Downloaded, Release, Wanted};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;
use crate::harness::swarm::Swarm;

const FILE_BYTES: usize = 30_000_000;
const PIECES: u32 = 8;
const SLOW_BYTES_PER_S: u64 = 4 * 1024 * 1024;
const CREDENTIALS: &str = "Basic dXNlcjpzZWNyZXQ=";

async fn switch(service: &mut Service, configuration: &str) {
    service.terminate().await;
    service.configure(configuration);
    service.restart().await;
}

fn is_from_source(downloaded: &Downloaded) -> bool {
    downloaded.transfers.from_source > 0
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_under_way_finish_as_they_began_whichever_way_the_setting_changes() {
    for (before, after) in [("", SOURCE), (SOURCE, "")] {
        let (origin, content) = (Origin::start().await, random_content(FILE_BYTES));
        let file = File { rate_bytes_per_s: Some(SLOW_BYTES_PER_S), ..File::new(content.clone()) };
        let url = origin.put("file", file);
        let mut service = Service::start_configured_on_held_sockets(before).await;
        let mut swarm = Swarm::start(service.api(), &url, &[&Release::GO_1_0_6; 2]).await;
        swarm.wait_for(PIECES / 2).await;
        switch(&mut service, after).await;
        // Whoever comes in their midst shares what they have.
        let joined = download(&service, &url).await;
        assert!(joined.content == content, "a client that came later ended with other bytes");
        let downloads = swarm.finish().await;
        for downloaded in downloads.iter().chain([&joined]) {
            assert!(downloaded.content == content, "a client ended with other bytes");
            assert_eq!(is_from_source(&downloads[0]), before == SOURCE, "{:?}", downloaded.transfers);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_file_is_given_up_for_the_source_and_its_room_with_it() {
    let (origin, content) = (Origin::start().await, random_content(FILE_BYTES));
    let url = origin.put("file", File { authorization: Some(CREDENTIALS.into()), ..File::new(content.clone()) });
    let wanted = Wanted { headers: vec![format!("Authorization: {CREDENTIALS}")], ..Wanted::url(&url) };
    let mut service = Service::start().await;
    let cached = download_wanted(&service, &wanted).await;
    assert_eq!(piece_files(&service).len(), 1);
    switch(&mut service, SOURCE).await;
    let referred = download_wanted(&service, &wanted).await;
    assert!(referred.content == content && referred.task == cached.task);
    assert_eq!(referred.transfers.from_source, PIECES, "{:?}", referred.transfers);
    assert_eq!(piece_files(&service).len(), 0, "bytes are kept that nobody is given");
    let told = service.dump().await;
    let task = told.of_kind("task").next().expect("the task");
    assert_eq!((&task["cdnSource"], &task["generation"], &task["piecesStored"]), (&json!("source"), &json!(1), &json!(0)));
    assert_eq!(told.of_kind("piece").count(), 0, "records of pieces are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_kept_again_and_clients_of_all_releases_are_served() {
    let (origin, content) = (Origin::start().await, random_content(FILE_BYTES));
    let url = origin.put("file", File::new(content.clone()));
    let mut service = Service::start_configured(SOURCE).await;
    let referred = download(&service, &url).await;
    let (midway, task) = register(&service, &Wanted::url(&url)).await;
    assert_eq!(begin(&service, &task, &midway).await.code, CONTINUE);
    switch(&mut service, "base: {failAccessInterval: 1s}\n").await;
    // Somebody is in the midst of it; the old client cannot join that one.
    let (_, refused) = register_as(&service, &Release::GO_0_4_3, &Wanted::url(&url)).await;
    assert_eq!(refused.code, 607, "{refused}");
    assert_eq!(begin(&service, &task, &midway).await.code, CONTINUE);
    let done = format!("/peer/task?srcCid={}&dstCid=&range=&result=500&status=702&taskId={task}", midway.cid());
    crate::harness::exchange::ask(service.api(), crate::harness::exchange::get(&done)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    let (_, taken) = register_as(&service, &Release::GO_0_4_3, &Wanted::url(&url)).await;
    assert_eq!((taken.code, &taken.data["cdnSource"]), (200, &json!("supernode")), "{taken}");
    let kept = download(&service, &url).await;
    assert!(kept.content == content && kept.task == referred.task);
    assert_eq!(kept.transfers.from_supernode, PIECES, "pieces without wrapping are nobody's who unwraps: {:?}", kept.transfers);
    assert_eq!(begin(&service, &task, &midway).await.code, SOURCE_ERROR, "it would mix both");
}
