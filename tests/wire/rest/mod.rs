//! What operators call: tasks, peers, and the description of it all.

mod deletion;
mod description;
mod lists;
mod page;
mod preheats;

use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::Value;

use crate::harness::exchange::{self, Response, request};

/// Calls a route of the REST API, whose answers are not in an envelope.
async fn call(api: SocketAddr, method: &str, target: &str) -> Response {
    let answered = exchange::call(api, request(method, target, Bytes::new())).await;
    answered.unwrap_or_else(|error| panic!("{method} {target}: {error}"))
}

/// The body of an answer with status 200.
async fn fetch(api: SocketAddr, target: &str) -> Value {
    let response = call(api, "GET", target).await;
    assert_eq!(response.status, 200, "{target}: {response}");
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{target}: {error} in {response}"))
}

/// An error: its status, repeated in the envelope, and a message that names what is wrong.
async fn refused(api: SocketAddr, method: &str, target: &str, status: u16, names: &str) {
    let response = call(api, method, target).await;
    let answer = response.answer().unwrap_or_else(|error| panic!("{method} {target}: {error}"));
    assert_eq!((answer.status, answer.code), (status, i64::from(status)), "{method} {target}: {answer}");
    assert!(answer.msg.contains(names), "{method} {target}: the message does not name {names:?}: {answer}");
}
