//! REST for operators: peers, tasks, preheats and the cache, with HTTP statuses that mean something.
//!
//! Names and shapes are those of the published server's interface description where it has them. Lists come a page at a
//! time; how many there are in all is in the header `X-Total-Count`. Errors are in the envelope that all routes use.

pub mod cache;
pub mod peers;
pub mod preheats;
pub mod tasks;

use std::sync::Arc;

use http::header::HeaderName;
use http::{HeaderValue, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, Reply};

use super::params::{BadParam, Params};
use super::settled::settled;
use super::wire::Answer;
use super::{Api, limited_body, query};
use crate::cluster::{CallError, Page, Window};
use crate::domain::{ClientId, TaskId};

/// Items of a page: unless another number is asked for, and at most.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;
/// How many there are in all.
const TOTAL_COUNT: HeaderName = HeaderName::from_static("x-total-count");

/// Everything below `/peers`, `/tasks`, `/preheats` and `/cache`.
pub fn routes(api: &Arc<Api>) -> BoxedFilter<(Response,)> {
    let with_api = {
        let api = api.clone();
        warp::any().map(move || api.clone())
    };
    let peer_list = warp::path::end().and(warp::get()).and(with_api.clone()).and(query()).then(peers::list);
    let peer_add = warp::path::end().and(warp::post()).and(with_api.clone()).and(limited_body()).then(peers::add);
    let peer = warp::path!(String).and(warp::get()).and(with_api.clone()).then(peers::get);
    let peer_delete = warp::path!(String).and(warp::delete()).and(with_api.clone()).then(peers::delete);
    let peers = peer_list.or(peer_add).unify().or(peer).unify().or(peer_delete).unify();

    let list = warp::path::end().and(warp::get()).and(with_api.clone()).and(query()).then(tasks::list);
    let task = warp::path!(String).and(warp::get()).and(with_api.clone()).then(tasks::get);
    let delete = warp::path!(String).and(warp::delete()).and(with_api.clone()).and(query()).then(tasks::delete);
    let pin = warp::path!(String / "pin").and(warp::put()).and(with_api.clone()).then(tasks::pin);
    let unpin = warp::path!(String / "pin").and(warp::delete()).and(with_api.clone()).then(tasks::unpin);
    let pieces = warp::path!(String / "pieces").and(warp::get()).and(with_api.clone()).and(query()).then(tasks::pieces);
    let clients = warp::path!(String / "clients").and(warp::get()).and(with_api.clone()).and(query()).then(tasks::clients);
    let tasks = list.or(task).unify().or(delete).unify().or(pieces).unify().or(clients).unify();
    let tasks = tasks.or(pin).unify().or(unpin).unify();

    let list = warp::path::end().and(warp::get()).and(with_api.clone()).and(query()).then(preheats::list);
    let add = warp::path::end().and(warp::post()).and(with_api.clone()).and(limited_body()).then(preheats::add);
    let preheat = warp::path!(String).and(warp::get()).and(with_api.clone()).then(preheats::get);
    let delete = warp::path!(String).and(warp::delete()).and(with_api.clone()).then(preheats::delete);
    let preheats = list.or(add).unify().or(preheat).unify().or(delete).unify();

    let cache = warp::path!("cache").and(warp::get()).and(with_api.clone()).and(query()).then(cache::get);

    let rest = warp::path("peers").and(peers).or(warp::path("tasks").and(tasks)).unify();
    let rest = rest.or(warp::path("preheats").and(preheats)).unify().or(cache).unify();
    rest.and(with_api).then(once_settled).boxed()
}

/// Lets an answer go once what it tells is durable, that something is not there included.
async fn once_settled(answer: Response, api: Arc<Api>) -> Response {
    let tells = answer.status().is_success() || answer.status() == StatusCode::NOT_FOUND;
    match tells {
        true => settled(&api.cluster).await.map_or_else(Reply::into_response, |()| answer),
        // It was refused for what it asks, or cannot be done.
        false => answer,
    }
}

/// Why a request is refused.
#[derive(Debug)]
enum Refused {
    Param(BadParam),
    NotFound(&'static str),
    Call(CallError),
}

impl From<BadParam> for Refused {
    fn from(bad: BadParam) -> Self {
        Self::Param(bad)
    }
}

impl From<CallError> for Refused {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl Reply for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Param(bad) => Answer::transport(StatusCode::BAD_REQUEST, &format!("{} {}", bad.name, bad.why)).into_response(),
            Self::NotFound(what) => Answer::transport(StatusCode::NOT_FOUND, what).into_response(),
            Self::Call(CallError::UnknownTask(_)) => Self::NotFound("there is no such task").into_response(),
            Self::Call(CallError::UnknownPreheat(_)) => Self::NotFound("there is no such preheat").into_response(),
            Self::Call(error @ CallError::NothingKept) => {
                Answer::transport(StatusCode::BAD_REQUEST, &error.to_string()).into_response()
            }
            Self::Call(error @ (CallError::TooManyPreheats(_) | CallError::TooManyParts(_))) => {
                Answer::transport(StatusCode::TOO_MANY_REQUESTS, &error.to_string()).into_response()
            }
            Self::Call(CallError::AskAgain) => {
                Answer::transport(StatusCode::SERVICE_UNAVAILABLE, "the service is stopping, ask again").into_response()
            }
            Self::Call(CallError::Commit(error)) => super::client_api::unready(&error.to_string()).into_response(),
            Self::Call(error) => super::peer_api::refusal(&error).with_status(StatusCode::INTERNAL_SERVER_ERROR).into_response(),
        }
    }
}

/// The answer to a request that was taken, or why it was not.
fn reply(outcome: Result<Response, Refused>) -> Response {
    outcome.unwrap_or_else(Reply::into_response)
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    // These types always serialize: they hold numbers, strings and lists.
    let mut response = serde_json::to_vec(body).unwrap_or_default().into_response();
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A page of a list.
fn listed<T, W: Serialize>(page: Page<T>, write: impl Fn(T) -> W) -> Response {
    let items: Vec<W> = page.items.into_iter().map(write).collect();
    let mut response = json(StatusCode::OK, &items);
    response.headers_mut().insert(TOTAL_COUNT, HeaderValue::from(page.total));
    response
}

/// `pageNum`, from 0, and `pageSize`.
fn window(params: &Params<'_>) -> Result<Window, BadParam> {
    let number = if params.text("pageNum")?.is_empty() { 0 } else { params.number("pageNum", "a number from 0")? };
    let take = match params.text("pageSize")? {
        "" => PAGE_DEFAULT,
        _ => params.number("pageSize", "a number from 1 to 1000")?,
    };
    if !(1..=PAGE_MAX).contains(&take) {
        return Err(BadParam::new("pageSize", "must be a number from 1 to 1000"));
    }
    Ok(Window { skip: take.saturating_mul(number), take })
}

/// A task by the id in a path. What is no id names no task.
fn task_in_path(segment: &str) -> Result<TaskId, Refused> {
    TaskId::parse(segment).map_err(|_| BadParam::new("id", "must be 64 hexadecimal digits").into())
}

/// A client by the id in a path, which may hold any character in its percent-encoded form.
fn client_in_path(segment: &str) -> Result<ClientId, Refused> {
    let decoded = percent_decode_str(segment).decode_utf8().map_err(|_| BadParam::new("id", "must be UTF-8"))?;
    ClientId::parse(&decoded).map_err(|error| BadParam::new("id", error.to_string()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_brings_too_many_preheats_is_told_how_many_may_be_and_what_makes_room() {
        for error in [CallError::TooManyPreheats(10_000), CallError::TooManyParts(131_072)] {
            let why = error.to_string();
            assert!(why.contains("delete some that have ended"), "{why}");
            let response = Refused::from(error).into_response();
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
            assert!(String::from_utf8_lossy(&body).contains(&why), "{body:?}");
        }
    }
}
