//! The repository kept within bounds: what nobody uses goes, what is short of room makes room, and what is in use stays.
//!
//! Times are seconds here and minutes in the field; what is waited for is the state after it, never a moment.

mod churn;
mod expiry;
mod explained;
mod pins;
mod quota;
mod revalidation;

use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use serde_json::Value;

use crate::harness::client::{Client, Release, Wanted};
use crate::harness::exchange::{self, Answer, request};
use crate::harness::service::Service;

/// The body of an answer with status 200.
async fn fetch(api: SocketAddr, target: &str) -> Value {
    let response = exchange::call(api, request("GET", target, Bytes::new())).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(response.status, 200, "{target}: {response}");
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{target}: {error} in {response}"))
}

/// Registers a client that goes no further; tells the task, or what was answered instead.
async fn register(service: &Service, url: &str) -> Result<(Client, String), Answer> {
    let client = Client::start(&Release::GO_1_0_6).await;
    let answer = client.register(service.api(), &Wanted::url(url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    if answer.code != 200 {
        return Err(answer);
    }
    let task = answer.data["taskId"].as_str().unwrap_or_else(|| panic!("no task in {answer}")).to_owned();
    Ok((client, task))
}

/// Asks what to do, as a client with nothing to report.
async fn pull(service: &Service, task: &str, cid: &str) -> Answer {
    let target = format!("/peer/task?srcCid={cid}&dstCid=&range=&result=502&status=700&taskId={task}");
    exchange::ask(service.api(), exchange::get(&target)).await
}

/// Every piece file of the repository.
fn files(service: &Service) -> Vec<PathBuf> {
    let directories = std::fs::read_dir(service.home().join("pieces")).expect("a home has pieces");
    let files = directories.flat_map(|entry| std::fs::read_dir(entry.expect("a readable entry").path()).into_iter().flatten());
    files.map(|entry| entry.expect("a readable entry").path()).collect()
}

/// Whether anything of a task is stored, or there is a file of it.
async fn is_stored(service: &Service, task: &str) -> bool {
    let rows = service.dump().await.0.iter().any(|line| line["task"] == task);
    rows || files(service).iter().any(|file| file.to_string_lossy().contains(task))
}
