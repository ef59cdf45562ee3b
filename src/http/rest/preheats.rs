//! `/preheats`: files and images that are fetched before anybody asks for them.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use warp::Reply;
use warp::reply::Response;

use super::{Refused, json, listed, reply, window};
use crate::cluster::inventory::source_state;
use crate::cluster::preheat::image::repository_of;
use crate::cluster::preheat::{ChildView, PreheatView, Wanted};
use crate::domain::task::redacted_url;
use crate::domain::{Platform, PreheatId, PreheatKind, PreheatState, SourceState, TaskSpec};
use crate::http::Api;
use crate::http::client_api::read_object;
use crate::http::params::{BadParam, Params};
use crate::http::registration::{BadRegistration, source};

/// What is stored of a preheat is no larger. Bytes. It is one value, of which some twenty become one of the database's leaves;
/// those must stay below 128 KiB.
const SOURCE_MAX_BYTES: usize = 5 * 1024;

/// What is to be fetched ahead.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[allow(dead_code, reason = "describes a body that is read by parameter")]
pub struct PreheatCreateRequest {
    /// `file` or `image`.
    #[schema(rename = "type")]
    kind: String,
    /// Of an image, that of its manifest: `<registry>/v2/<name>/manifests/<tag or digest>`.
    url: String,
    /// Query parameters that are no part of a task's identity, as the clients will name them: `a&b`.
    filter: Option<String>,
    /// As the clients will give it.
    identifier: Option<String>,
    /// Request headers for the source: an object, or `Name: value`.
    headers: Option<serde_json::Value>,
    /// Which of an image's manifests, like `linux/arm64`, or `all`; this machine's where it is not given.
    platform: Option<String>,
    /// Do not verify the source's certificate.
    insecure: Option<bool>,
    /// Certificates to trust: PEM in base64.
    #[schema(rename = "rootCAs")]
    root_cas: Option<Vec<String>>,
}

#[derive(Serialize, ToSchema)]
pub struct PreheatCreateResponse {
    #[serde(rename = "ID")]
    id: String,
}

/// A preheat.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreheatInfo {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// Without user, password and query values.
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    /// WAITING, RUNNING, SUCCESS or FAILED.
    status: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// When it was taken. Milliseconds since 1970.
    start_time: u64,
    /// When it ended. Milliseconds since 1970; 0 before.
    finish_time: u64,
    /// What it fetches.
    children: Vec<PreheatChildInfo>,
}

/// One task of a preheat.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreheatChildInfo {
    task_id: String,
    url: String,
    /// WAITING, RUNNING, SUCCESS or FAILED; GONE where the task is no more: it was deleted or has expired.
    status: &'static str,
    /// Bytes; `null` while unknown.
    length: Option<u64>,
    /// Pieces that are here.
    pieces: u32,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<PreheatView> for PreheatInfo {
    fn from(view: PreheatView) -> Self {
        let PreheatView { preheat, children } = view;
        let (kind, platform) = match &preheat.kind {
            PreheatKind::File => ("file", None),
            PreheatKind::Image { platform } => ("image", Some(platform.to_string())),
        };
        let (status, reason) = match &preheat.state {
            PreheatState::Waiting => ("WAITING", None),
            PreheatState::Running => ("RUNNING", None),
            PreheatState::Success => ("SUCCESS", None),
            PreheatState::Failed(reason) => ("FAILED", Some(reason.clone())),
        };
        Self {
            id: preheat.id.to_string(),
            kind,
            url: redacted_url(&preheat.source.raw_url),
            platform,
            status,
            reason,
            start_time: preheat.created_ms,
            finish_time: preheat.ended_ms.unwrap_or(0),
            children: children.into_iter().map(PreheatChildInfo::from).collect(),
        }
    }
}

impl From<ChildView> for PreheatChildInfo {
    fn from(view: ChildView) -> Self {
        let ChildView { child, state, length, pieces } = view;
        let gone = if child.failure.is_some() { "FAILED" } else { "GONE" };
        Self {
            task_id: child.task.to_string(),
            url: redacted_url(&child.url.to_string()),
            status: state.as_ref().map_or(gone, source_state),
            length,
            pieces,
            reason: match state {
                Some(SourceState::Failed(failure)) => Some(failure.reason),
                Some(SourceState::Waiting | SourceState::Running | SourceState::Success { .. }) => None,
                None => child.failure.map(|reason| reason.to_string()),
            },
        }
    }
}

/// Takes a preheat: a file, or every layer of an image, is fetched now, so that clients find it here.
#[utoipa::path(post, path = "/preheats", tag = "preheats", request_body = PreheatCreateRequest,
    responses((status = 201, body = PreheatCreateResponse), (status = 400, body = super::super::wire::Failure), (status = 429, body = super::super::wire::Failure, description = "Too many are remembered, or too many parts of all of them")))]
pub async fn add(api: Arc<Api>, body: Bytes) -> Response {
    let params = match read_object(&body) {
        Ok(params) => params,
        Err(answer) => return answer.into_response(),
    };
    let adding = async {
        let id = api.cluster.preheat(wanted(&params)?).await?;
        Ok(json(StatusCode::CREATED, &PreheatCreateResponse { id: id.to_string() }))
    };
    reply(adding.await)
}

fn wanted(params: &Params<'_>) -> Result<Wanted, Refused> {
    let platform = params.text("platform")?;
    let kind = match params.required("type")? {
        "file" if platform.is_empty() => PreheatKind::File,
        "file" => return Err(BadParam::new("platform", "is for images").into()),
        "image" if platform.is_empty() => PreheatKind::Image { platform: of_this_machine() },
        "image" => {
            let platform = Platform::parse(platform).map_err(|error| BadParam::new("platform", error.to_string()))?;
            PreheatKind::Image { platform }
        }
        _ => return Err(BadParam::new("type", "must be file or image").into()),
    };
    let source = match source(params, params.required("url")?) {
        Ok(source) => source,
        Err(BadRegistration::Param(bad)) => return Err(bad.into()),
        Err(BadRegistration::Url(why)) => return Err(BadParam::new("url", why).into()),
        // Said of bodies that are no object, which this one is.
        Err(BadRegistration::Body(_, why)) => return Err(BadParam::new("body", why).into()),
    };
    let filter = params.list("filter")?;
    let named = platform.len() + filter.iter().map(|name| name.len() + 8).sum::<usize>();
    if size_of(&source) + named > SOURCE_MAX_BYTES {
        return Err(BadParam::new(
            "url",
            format!("with headers, filter and certificates is larger than {SOURCE_MAX_BYTES} bytes"),
        )
        .into());
    }
    if matches!(kind, PreheatKind::Image { .. }) && source.range().is_some() {
        return Err(BadParam::new("headers", "have a Range, which is for files").into());
    }
    if matches!(kind, PreheatKind::Image { .. }) {
        repository_of(&source.raw_url).map_err(|error| BadParam::new("url", error.to_string()))?;
    }
    Ok(Wanted { kind, source, filter })
}

fn size_of(source: &TaskSpec) -> usize {
    let headers: usize = source.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let certificates: usize = source.root_cas.iter().map(Vec::len).sum();
    source.raw_url.len() + source.task_url.len() + source.identifier.as_ref().map_or(0, String::len) + headers + certificates
}

/// Registries name architectures as Go does.
fn of_this_machine() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    Platform::One { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
}

/// Preheats, the latest first, a page at a time. Ended ones are remembered for a day.
#[utoipa::path(get, path = "/preheats", tag = "preheats",
    params(("pageNum" = Option<usize>, Query, description = "From 0"), ("pageSize" = Option<usize>, Query, description = "1 to 1000, 100 by default")),
    responses((status = 200, body = Vec<PreheatInfo>, description = "X-Total-Count tells how many there are"), (status = 400, body = super::super::wire::Failure)))]
pub async fn list(api: Arc<Api>, query: String) -> Response {
    let listing = || Ok(listed(api.cluster.preheats(window(&Params::of_query(&query))?), PreheatInfo::from));
    reply(listing())
}

/// One preheat.
#[utoipa::path(get, path = "/preheats/{id}", tag = "preheats", params(("id" = String, Path, description = "32 hexadecimal digits")),
    responses((status = 200, body = PreheatInfo), (status = 400, body = super::super::wire::Failure), (status = 404, body = super::super::wire::Failure)))]
pub async fn get(id: String, api: Arc<Api>) -> Response {
    let getting = || Ok(json(StatusCode::OK, &PreheatInfo::from(api.cluster.preheat_view(&preheat_in_path(&id)?)?)));
    reply(getting())
}

/// Forgets a preheat; one that runs ends. What it fetched stays.
#[utoipa::path(delete, path = "/preheats/{id}", tag = "preheats", params(("id" = String, Path, description = "32 hexadecimal digits")),
    responses((status = 204), (status = 400, body = super::super::wire::Failure), (status = 404, body = super::super::wire::Failure)))]
pub async fn delete(id: String, api: Arc<Api>) -> Response {
    let deleting = async {
        api.cluster.forget_preheat(&preheat_in_path(&id)?).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    reply(deleting.await)
}

fn preheat_in_path(segment: &str) -> Result<PreheatId, Refused> {
    PreheatId::parse(segment).map_err(|error| BadParam::new("id", error.to_string()).into())
}
