//! `cdnPattern: source`: the supernode keeps no bytes, and clients fetch from the source what no other client has.

mod changes;
mod keeping;
mod refusals;
mod sharing;
mod switching;

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::client::{Client, Release, Wanted};
use crate::harness::exchange::{self, Answer, get};
use crate::harness::service::Service;

const SOURCE: &str = "base: {cdnPattern: source}\n";
const CONTINUE: i64 = 601;
const URL_NOT_REACHABLE: i64 = 607;
const NEED_AUTH: i64 = 608;
const SOURCE_ERROR: i64 = 610;

async fn register_as(service: &Service, release: &'static Release, wanted: &Wanted) -> (Client, Answer) {
    let client = Client::start(release).await;
    let answer = client.register(service.api(), wanted).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    (client, answer)
}

/// Registers a client that goes no further, and tells its task.
async fn register(service: &Service, wanted: &Wanted) -> (Client, String) {
    let (client, answer) = register_as(service, &Release::GO_1_0_6, wanted).await;
    assert_eq!((answer.code, &answer.data["cdnSource"]), (200, &Value::from("source")), "{answer}");
    let task = answer.data["taskId"].as_str().unwrap_or_else(|| panic!("no task in {answer}")).to_owned();
    (client, task)
}

/// Says that it begins, and asks what to do.
async fn begin(service: &Service, task: &str, client: &Client) -> Answer {
    let target = format!("/peer/task?srcCid={}&dstCid=&range=&result=502&status=700&taskId={task}", client.cid());
    exchange::ask(service.api(), get(&target)).await
}

/// Tells that a piece of a 601 could not be fetched, and asks what to do.
async fn fail(service: &Service, task: &str, client: &Client, piece: &Value) -> Answer {
    let text = |name: &str| piece[name].as_str().unwrap_or_else(|| panic!("no {name} in {piece}")).to_owned();
    let (server, range) = (text("cid"), text("range"));
    let target = format!("/peer/task?srcCid={}&dstCid={server}&range={range}&result=500&status=701&taskId={task}", client.cid());
    exchange::ask(service.api(), get(&target)).await
}

/// Every file below the directory of the pieces.
fn piece_files(service: &Service) -> Vec<PathBuf> {
    let directories = std::fs::read_dir(service.home().join("pieces")).expect("a home has pieces");
    let files = directories.flat_map(|entry| std::fs::read_dir(entry.expect("a readable entry").path()).into_iter().flatten());
    files.map(|entry| entry.expect("a readable entry").path()).collect()
}
