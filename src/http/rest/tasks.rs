//! `/tasks`: what is distributed, how far it is, and who has what of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use warp::Reply;
use warp::reply::Response;

use super::{json, listed, reply, task_in_path, window};
use crate::cluster::inventory::{cdn_source, client_state, source_state};
use crate::cluster::{TaskFilter, TaskView};
use crate::domain::task::redacted_url;
use crate::domain::{PieceSize, SourceState};
use crate::http::Api;
use crate::http::params::Params;
use crate::swarm::{ClientView, PieceView};

/// Stands for the value of a request header, which may be a credential.
const HIDDEN: &str = "…";

/// A task. URLs are shown without credentials and query values, headers without values.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskInfo {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "taskURL")]
    task_url: String,
    #[serde(rename = "rawURL")]
    raw_url: String,
    md5: String,
    identifier: String,
    headers: BTreeMap<String, &'static str>,
    /// WAITING, RUNNING, SUCCESS or FAILED.
    cdn_status: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Bytes of the source; -1 while unknown.
    http_file_length: i64,
    /// Bytes of what clients fetch piece by piece, with its wrapping if it has one; 0 while unknown.
    file_length: u64,
    piece_size: u32,
    /// 0 while unknown.
    piece_total: u32,
    /// `supernode`, which keeps the pieces, or `source`: clients fetch from there, and nothing is kept here.
    cdn_source: &'static str,
    /// Pieces at the supernode.
    pieces_stored: u32,
    /// MD5 of the source's bytes, once they are all here.
    real_md5: String,
    clients: usize,
    /// Its file stays, whatever is short.
    pinned: bool,
    /// How often the source has changed.
    generation: u32,
}

impl From<TaskView> for TaskInfo {
    fn from(view: TaskView) -> Self {
        let TaskView { spec, status, pieces_stored, clients, pinned } = view;
        let (reason, real_md5) = match &status.state {
            SourceState::Failed(failure) => (Some(failure.reason.clone()), String::new()),
            SourceState::Success { md5, .. } => (None, md5.map(|md5| md5.to_string()).unwrap_or_default()),
            SourceState::Waiting | SourceState::Running => (None, String::new()),
        };
        Self {
            id: spec.id.to_string(),
            task_url: redacted_url(&spec.task_url),
            raw_url: redacted_url(&spec.raw_url),
            md5: spec.md5.clone().unwrap_or_default(),
            identifier: spec.identifier.clone().unwrap_or_default(),
            headers: spec.headers.iter().map(|(name, _)| (name.clone(), HIDDEN)).collect(),
            cdn_status: source_state(&status.state),
            reason,
            http_file_length: status.length.and_then(|length| i64::try_from(length).ok()).unwrap_or(-1),
            file_length: status.file_length().unwrap_or_default(),
            piece_size: status.piece_size.bytes(),
            piece_total: status.piece_count().unwrap_or_default(),
            cdn_source: cdn_source(status.pattern),
            pieces_stored,
            real_md5,
            clients,
            pinned,
            generation: status.generation.0,
        }
    }
}

/// A piece that can be handed out.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PieceInfo {
    piece_num: u32,
    piece_range: String,
    piece_size: u32,
    #[serde(rename = "pieceMD5")]
    piece_md5: String,
    /// It is at the supernode.
    stored: bool,
    /// Clients that serve it.
    holders: u64,
}

impl PieceInfo {
    fn new(size: PieceSize, view: PieceView) -> Self {
        let range = size.slot_range(view.piece);
        Self {
            piece_num: view.piece.0,
            piece_range: format!("{}-{}", range.start(), range.end()),
            piece_size: size.bytes(),
            piece_md5: view.digest.map(|digest| digest.to_string()).unwrap_or_default(),
            stored: view.stored,
            holders: view.holders,
        }
    }
}

/// A client of a task.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientInfo {
    #[serde(rename = "cID")]
    client: String,
    #[serde(rename = "IP")]
    ip: String,
    port: u16,
    path: String,
    /// WAITING, RUNNING, SUCCESS or FAIL.
    status: &'static str,
    /// Others may be sent to it.
    serves: bool,
    /// Pieces it has.
    held: u32,
    /// Pieces it serves.
    servable: u32,
    /// Pieces on their way to it.
    in_flight: usize,
}

impl From<ClientView> for ClientInfo {
    fn from(view: ClientView) -> Self {
        let ClientView { endpoint, state, serves, held, servable, in_flight } = view;
        Self {
            client: endpoint.client.to_string(),
            ip: endpoint.ip.to_string(),
            port: endpoint.port,
            path: endpoint.path.to_string(),
            status: client_state(state),
            serves,
            held,
            servable,
            in_flight,
        }
    }
}

/// All tasks, or some, a page at a time, in the order of their ids.
#[utoipa::path(get, path = "/tasks", tag = "tasks",
    params(
        ("pageNum" = Option<usize>, Query, description = "From 0"), ("pageSize" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cdnStatus" = Option<String>, Query, description = "Only those in this state: WAITING, RUNNING, SUCCESS or FAILED"),
        ("url" = Option<String>, Query, description = "Only those whose task URL contains this"),
        ("identifier" = Option<String>, Query, description = "Only those with this identifier")),
    responses((status = 200, body = Vec<TaskInfo>, description = "X-Total-Count tells how many there are"), (status = 400, body = super::super::wire::Failure)))]
pub async fn list(api: Arc<Api>, query: String) -> Response {
    let params = Params::of_query(&query);
    let listing = || {
        let given = |name| params.text(name).map(|text| (!text.is_empty()).then(|| text.to_owned()));
        let filter = TaskFilter { state: given("cdnStatus")?, url: given("url")?, identifier: given("identifier")? };
        if let Some(state) = &filter.state
            && !STATES.iter().any(|known| known.eq_ignore_ascii_case(state))
        {
            return Err(super::BadParam::new("cdnStatus", format!("must be one of {}", STATES.join(", "))).into());
        }
        Ok(listed(api.cluster.tasks(&filter, window(&params)?), TaskInfo::from))
    };
    reply(listing())
}

/// One task.
#[utoipa::path(get, path = "/tasks/{id}", tag = "tasks", params(("id" = String, Path, description = "64 hexadecimal digits")),
    responses((status = 200, body = TaskInfo), (status = 400, body = super::super::wire::Failure), (status = 404, body = super::super::wire::Failure)))]
pub async fn get(id: String, api: Arc<Api>) -> Response {
    let getting = || Ok(json(StatusCode::OK, &TaskInfo::from(api.cluster.task(&task_in_path(&id)?)?)));
    reply(getting())
}

/// Forgets a task: its download stops and its clients meet an unknown task, which sends them to the source. Without
/// `full` its cached file stays on disk until the task is registered again or the service starts again.
#[utoipa::path(delete, path = "/tasks/{id}", tag = "tasks",
    params(("id" = String, Path, description = "64 hexadecimal digits"), ("full" = Option<bool>, Query, description = "Remove the cached file as well")),
    responses((status = 204), (status = 400, body = super::super::wire::Failure), (status = 404, body = super::super::wire::Failure)))]
pub async fn delete(id: String, api: Arc<Api>, query: String) -> Response {
    let deleting = async {
        let task = task_in_path(&id)?;
        let with_file = Params::of_query(&query).flag("full")?;
        api.cluster.forget_task(task, with_file).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    reply(deleting.await)
}

/// Pins a task: its file stays, whatever is short and however long nobody uses it, until the pin or the task is deleted.
#[utoipa::path(put, path = "/tasks/{id}/pin", tag = "tasks", params(("id" = String, Path, description = "64 hexadecimal digits")),
    responses((status = 204), (status = 400, body = super::super::wire::Failure), (status = 404, body = super::super::wire::Failure)))]
pub async fn pin(id: String, api: Arc<Api>) -> Response {
    set_pinned(&id, &api, true).await
}

/// Takes a task's pin away, if it has one.
#[utoipa::path(delete, path = "/tasks/{id}/pin", tag = "tasks", params(("id" = String, Path, description = "64 hexadecimal digits")),
    responses((status = 204), (status = 400, body = super::super::wire::Failure), (status = 404, body = super::super::wire::Failure)))]
pub async fn unpin(id: String, api: Arc<Api>) -> Response {
    set_pinned(&id, &api, false).await
}

async fn set_pinned(id: &str, api: &Api, pinned: bool) -> Response {
    let setting = async {
        api.cluster.pin_task(task_in_path(id)?, pinned).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    reply(setting.await)
}

/// The pieces of a task that can be handed out, a page at a time, by number.
#[utoipa::path(get, path = "/tasks/{id}/pieces", tag = "tasks",
    params(("id" = String, Path, description = "64 hexadecimal digits"),
        ("pageNum" = Option<usize>, Query, description = "From 0"), ("pageSize" = Option<usize>, Query, description = "1 to 1000, 100 by default")),
    responses((status = 200, body = Vec<PieceInfo>, description = "X-Total-Count tells how many there are"), (status = 400, body = super::super::wire::Failure), (status = 404, body = super::super::wire::Failure)))]
pub async fn pieces(id: String, api: Arc<Api>, query: String) -> Response {
    let listing = || {
        let (status, page) = api.cluster.task_pieces(&task_in_path(&id)?, window(&Params::of_query(&query))?)?;
        Ok(listed(page, |view| PieceInfo::new(status.piece_size, view)))
    };
    reply(listing())
}

/// The clients of a task, a page at a time, in the order in which they came.
#[utoipa::path(get, path = "/tasks/{id}/clients", tag = "tasks",
    params(("id" = String, Path, description = "64 hexadecimal digits"),
        ("pageNum" = Option<usize>, Query, description = "From 0"), ("pageSize" = Option<usize>, Query, description = "1 to 1000, 100 by default")),
    responses((status = 200, body = Vec<ClientInfo>, description = "X-Total-Count tells how many there are"), (status = 400, body = super::super::wire::Failure), (status = 404, body = super::super::wire::Failure)))]
pub async fn clients(id: String, api: Arc<Api>, query: String) -> Response {
    let listing = || {
        let window = window(&Params::of_query(&query))?;
        Ok(listed(api.cluster.task_clients(&task_in_path(&id)?, window)?, ClientInfo::from))
    };
    reply(listing())
}

/// The states of a source.
const STATES: [&str; 4] = ["WAITING", "RUNNING", "SUCCESS", "FAILED"];
