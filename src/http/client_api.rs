//! The rest of what clients call: going away, bad pieces, heartbeats, the network, and how their downloads went.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use warp::Reply;
use warp::reply::Response;

use super::Api;
use super::described::{HeartbeatBody, MetricsBody, NetworkBody};
use super::dialect::Dialect;
use super::late::Late;
use super::params::{BadParam, Params};
use super::peer_api::{illegal, refusal};
use super::range::parse_piece_range;
use super::registration::{client_id, task_id};
use super::settled::settled;
use super::wire::{Answer, Code, Enveloped, Failure, NetworkData, NodeData};
use crate::cluster::{Accused, CallError};
use crate::domain::{ClientId, TaskId};
use crate::telemetry::metrics::METRICS;

/// The supernode's own client ids begin like this.
const SEED_PREFIX: &str = "cdnnode:";
/// The longest download that is counted. Seconds. One report must not drown the sum of all others.
const DURATION_MAX_SECONDS: f64 = 30.0 * 24.0 * 3600.0;
/// The largest download that is counted. Bytes. More than the largest file has.
const FILE_MAX_BYTES: i64 = 16 * 1024 * 1024 * 1024 * 1024;
/// Task URLs of one question for the network.
const URLS_MAX: usize = 1000;
/// Nodes of one answer.
pub const NODES_MAX: usize = 1000;

/// Takes in that a client's upload server goes away: nobody is sent there any more.
#[utoipa::path(get, path = "/peer/service/down", tag = "peer", params(("taskId" = String, Query), ("cid" = String, Query)),
    responses((status = 200, body = Failure, description = "200 or 612, by the client's release; 501, 502")))]
pub async fn service_down(api: Arc<Api>, query: String) -> Answer {
    let params = Params::of_query(&query);
    let (task, client) = match read_going_down(&params) {
        Ok(call) => call,
        Err(bad) => return illegal(&bad),
    };
    // Asked before it goes: a client that leaves takes its version with it.
    let version = api.cluster.introduction(&task, &client).map(|(version, _)| version).unwrap_or_default();
    match api.cluster.take_down(&task, client).await {
        Ok(()) => Answer::code(Dialect::of(&params, version).going_down_accepted()),
        Err(CallError::Commit(_)) => Late::Unavailable.unwritable().await,
        Err(error) => refusal(&error),
    }
}

pub fn read_going_down(params: &Params<'_>) -> Result<(TaskId, ClientId), BadParam> {
    Ok((task_id(params)?, client_id(params, "cid")?))
}

/// Takes in that a piece was bad: counted against a peer, looked at where the supernode served it.
#[utoipa::path(get, path = "/peer/piece/error", tag = "peer",
    params(
        ("taskId" = String, Query), ("srcCid" = String, Query), ("dstCid" = String, Query, description = "Who served it"),
        ("range" = Option<String>, Query, description = "Like 0-4194303"),
        ("errorType" = String, Query, description = "FILE_NOT_EXIST or FILE_MD5_NOT_MATCH")),
    responses((status = 200, body = Failure, description = "200; 501, 502")))]
pub async fn piece_error(api: Arc<Api>, query: String) -> Answer {
    let params = Params::of_query(&query);
    let (task, client, accused, range) = match read_piece_error(&params) {
        Ok(report) => report,
        Err(bad) => return illegal(&bad),
    };
    match api.cluster.report_damage(&task, client, accused, range).await {
        Ok(()) => Answer::code(Code::Success),
        Err(CallError::Commit(_)) => Late::Unavailable.unwritable().await,
        Err(error) => refusal(&error),
    }
}

pub type PieceError = (TaskId, ClientId, Accused, Option<std::ops::RangeInclusive<u64>>);

pub fn read_piece_error(params: &Params<'_>) -> Result<PieceError, BadParam> {
    let task = task_id(params)?;
    let client = client_id(params, "srcCid")?;
    let server = client_id(params, "dstCid")?;
    let accused = if server.as_str().starts_with(SEED_PREFIX) { Accused::Seed } else { Accused::Peer(server) };
    if !matches!(params.required("errorType")?, "FILE_NOT_EXIST" | "FILE_MD5_NOT_MATCH") {
        return Err(BadParam::new("errorType", "must be FILE_NOT_EXIST or FILE_MD5_NOT_MATCH"));
    }
    let range = match params.text("range")? {
        "" => None,
        text => Some(parse_piece_range(text).ok_or_else(|| BadParam::new("range", "must be like 0-4194303"))?),
    };
    Ok((task, client, accused, range))
}

/// The answer to a heartbeat: in the envelope, and once more at the top, where the published server has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Heartbeat<'a> {
    code: u16,
    msg: &'static str,
    data: &'a HeartbeatData,
    #[serde(flatten)]
    bare: &'a HeartbeatData,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct HeartbeatData {
    need_register: bool,
    #[serde(rename = "seedTaskIDs")]
    seed_task_ids: [String; 0],
    version: String,
}

/// Tells a client whether it should register again.
#[utoipa::path(post, path = "/peer/heartbeat", tag = "peer", request_body = HeartbeatBody,
    responses((status = 200, body = Enveloped<HeartbeatData>, description = "The fields of data stand at the top as well; 501"), (status = 400, body = Failure)))]
pub async fn heartbeat(api: Arc<Api>, body: Bytes) -> Response {
    let params = match read_object(&body) {
        Ok(params) => params,
        Err(answer) => return answer.into_response(),
    };
    let (client, ip, port) = match read_address(&params) {
        Ok(address) => address,
        Err(bad) => return illegal(&bad).into_response(),
    };
    let known = match api.cluster.knows_peer(client, ip, port).await {
        Ok(known) => known,
        Err(error) => return refusal(&error).into_response(),
    };
    let data = HeartbeatData { need_register: !known, seed_task_ids: [], version: api.cluster.state_version() };
    warp::reply::json(&Heartbeat { code: 200, msg: "success", data: &data, bare: &data }).into_response()
}

pub fn read_address(params: &Params<'_>) -> Result<(ClientId, std::net::IpAddr, u16), BadParam> {
    let client = client_id(params, "cID")?;
    let ip = params.required("IP")?.parse().map_err(|_| BadParam::new("IP", "must be an IP address"))?;
    Ok((client, ip, params.number("port", "a number from 0 to 65535")?))
}

/// Tells who serves what of some task URLs.
#[utoipa::path(post, path = "/peer/network", tag = "peer", request_body = NetworkBody,
    params(("start" = Option<usize>, Query), ("limit" = Option<usize>, Query, description = "At most 1000")),
    responses((status = 200, body = Enveloped<NetworkData>, description = "200; 501"), (status = 400, body = Failure)))]
pub async fn network(api: Arc<Api>, query: String, body: Bytes) -> Answer {
    let (page, params) = (Params::of_query(&query), read_object(&body));
    let params = match params {
        Ok(params) => params,
        Err(answer) => return answer,
    };
    let Page { urls, start, limit } = match read_page(&page, &params) {
        Ok(page) => page,
        Err(bad) => return illegal(&bad),
    };
    let nodes = api.cluster.network(&urls, start, limit).iter().map(NodeData::from).collect();
    match settled(&api.cluster).await {
        Ok(()) => Answer::data(Code::Success, NetworkData { nodes }),
        Err(answer) => answer,
    }
}

/// Which nodes are asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    pub urls: HashSet<String>,
    pub start: usize,
    pub limit: usize,
}

pub fn read_page(query: &Params<'_>, body: &Params<'_>) -> Result<Page, BadParam> {
    let start = optional_number(query, "start", 0)?;
    let limit = optional_number(query, "limit", NODES_MAX)?.min(NODES_MAX);
    let urls = body.list("urls")?;
    if urls.len() > URLS_MAX {
        return Err(BadParam::new("urls", format!("must be at most {URLS_MAX}")));
    }
    Ok(Page { urls: urls.into_iter().collect(), start, limit })
}

fn optional_number(params: &Params<'_>, name: &'static str, default: usize) -> Result<usize, BadParam> {
    if params.text(name)?.is_empty() { Ok(default) } else { params.number(name, "a whole number") }
}

/// Takes in how a client's download went.
#[utoipa::path(post, path = "/task/metrics", tag = "peer", request_body = MetricsBody,
    responses((status = 200, body = Failure, description = "200; 501"), (status = 400, body = Failure)))]
pub async fn task_metrics(body: Bytes) -> Answer {
    match read_object(&body).map(|params| read_metrics(&params)) {
        Ok(Ok(told)) => {
            told.count();
            Answer::code(Code::Success)
        }
        Ok(Err(bad)) => illegal(&bad),
        Err(answer) => answer,
    }
}

/// How a client says that its download went.
#[derive(Debug, PartialEq)]
pub struct DownloadTold {
    pub seconds: f64,
    /// Bytes that arrived; `None` for a download that failed.
    pub bytes: Option<u64>,
    pub call_system: String,
    pub backsource_reason: String,
}

pub fn read_metrics(params: &Params<'_>) -> Result<DownloadTold, BadParam> {
    let success = params.flag("success")?;
    let seconds: f64 =
        params.text("duration")?.parse().unwrap_or(if params.text("duration")?.is_empty() { 0.0 } else { f64::NAN });
    if !(0.0..=DURATION_MAX_SECONDS).contains(&seconds) {
        return Err(BadParam::new("duration", "must be a number of seconds, at most 30 days"));
    }
    // Unknown lengths are reported as -1.
    let length: i64 = match params.text("fileLength")? {
        "" => -1,
        text => text
            .parse()
            .ok()
            .filter(|length| *length <= FILE_MAX_BYTES)
            .ok_or_else(|| BadParam::new("fileLength", "must be a number of bytes, at most 16 TiB"))?,
    };
    Ok(DownloadTold {
        seconds,
        bytes: success.then(|| u64::try_from(length).unwrap_or(0)),
        call_system: params.text("callSystem")?.to_owned(),
        backsource_reason: params.text("backsourceReason")?.to_owned(),
    })
}

impl DownloadTold {
    fn count(&self) {
        let call_system = METRICS.call_system(&self.call_system);
        METRICS.dfget_download.with_label_values(&[&*call_system]).inc();
        METRICS.dfget_download_duration.with_label_values(&[&*call_system]).observe(self.seconds);
        match self.bytes {
            Some(bytes) => METRICS.dfget_download_bytes.with_label_values(&[&*call_system]).inc_by(bytes),
            None => {
                let reason = METRICS.reason(&self.backsource_reason);
                METRICS.dfget_download_failed.with_label_values(&[&*call_system, &*reason]).inc();
            }
        }
    }
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "service", responses((status = 200, body = String, content_type = "text/plain")))]
pub async fn metrics(api: Arc<Api>) -> Response {
    api.cluster.observe();
    let rendered = rendered_metrics();
    // Whoever watches a service must see it also while it cannot write: then these are what it has in memory.
    let _ = settled(&api.cluster).await;
    rendered
}

/// As they are, without looking at tasks and clients.
pub fn rendered_metrics() -> Response {
    let mut response = METRICS.render().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    response
}

/// Whether the process can answer at all: one that does not should be started again.
#[utoipa::path(get, path = "/live", tag = "service", responses((status = 200, body = Failure)))]
pub async fn live() -> Answer {
    Answer::code(Code::Success)
}

/// Whether new clients should be sent here; if not, why.
#[utoipa::path(get, path = "/ready", tag = "service",
    responses((status = 200, body = Failure), (status = 503, body = Failure, description = "Recovering, draining, or the database cannot be written; `msg` says which")))]
pub async fn ready(api: Arc<Api>) -> Answer {
    match api.cluster.readiness() {
        Ok(()) => Answer::code(Code::Success),
        Err(why) => unready(&why.to_string()),
    }
}

/// An answer while something cannot be done.
pub fn unready(why: &str) -> Answer {
    Answer::transport(StatusCode::SERVICE_UNAVAILABLE, why)
}

/// Answers `OK`.
#[utoipa::path(get, path = "/_ping", tag = "service", responses((status = 200, body = String, content_type = "text/plain")))]
pub async fn ping() -> &'static str {
    "OK"
}

/// The version, with the fields of the published server's answer.
#[utoipa::path(get, path = "/version", tag = "service", responses((status = 200, body = VersionData)))]
pub async fn version() -> Response {
    let version = VersionData {
        version: env!("CARGO_PKG_VERSION"),
        revision: "",
        build_date: "",
        go_version: "",
        os: std::env::consts::OS,
        arch: std::env::consts::ARCH,
    };
    warp::reply::json(&version).into_response()
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct VersionData {
    version: &'static str,
    revision: &'static str,
    build_date: &'static str,
    go_version: &'static str,
    #[serde(rename = "OS")]
    os: &'static str,
    arch: &'static str,
}

pub fn read_object(body: &Bytes) -> Result<Params<'static>, Answer> {
    object_in(body).map(Params::of_object).map_err(|why| Answer::transport(StatusCode::BAD_REQUEST, &why))
}

fn object_in(body: &Bytes) -> Result<Map<String, Value>, String> {
    let not_an_object = "the body is not a JSON object";
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(not_an_object.to_owned()),
        // It names the place and what was expected there, and quotes nothing of the body.
        Err(error) => Err(format!("{not_an_object}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_is_no_json_object_is_told_where_it_goes_wrong() {
        let refused = |body: &'static str| object_in(&Bytes::from_static(body.as_bytes())).expect_err("it is none");
        assert_eq!(refused("{\"a\": 1,\n \"b\" 2}"), "the body is not a JSON object: expected `:` at line 2 column 6");
        assert_eq!(refused(""), "the body is not a JSON object: EOF while parsing a value at line 1 column 0");
        for sound in ["[1]", "3"] {
            assert_eq!(refused(sound), "the body is not a JSON object", "{sound} is JSON");
        }
    }

    #[test]
    fn one_report_does_not_drown_the_others() {
        let read = |body: &'static str| read_metrics(&read_object(&Bytes::from_static(body.as_bytes())).expect("an object"));
        let told = read(r#"{"duration": 1.5, "success": true, "fileLength": 3}"#).expect("valid");
        assert_eq!((told.seconds, told.bytes), (1.5, Some(3)));
        for (body, name) in [
            (r#"{"duration": 1e300}"#, "duration"),
            (r#"{"duration": "NaN"}"#, "duration"),
            (r#"{"duration": -1}"#, "duration"),
            (r#"{"success": true, "fileLength": 9223372036854775807}"#, "fileLength"),
        ] {
            assert_eq!(read(body).map_err(|bad| bad.name).err(), Some(name), "{body}");
        }
    }
}
