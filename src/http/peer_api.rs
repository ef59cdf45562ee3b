//! The endpoints that clients call: registration, pulling pieces, reporting them.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::Api;
use super::described::RegistrationBody;
use super::dialect::Dialect;
use super::late::{HELD_FOR, Late};
use super::params::{BadParam, Params};
use super::range::parse_piece_range;
use super::registration::{self, BadRegistration, client_id, task_id};
use super::wire::{Answer, Code, Enveloped, Failure, FinishedData, PieceData, PullData, RegisteredData};
use crate::cluster::inventory::cdn_source;
use crate::cluster::{CallError, Refused, Told};
use crate::domain::{ClientId, Fault, TaskId};
use crate::swarm::{Assignment, Decision, Refusal, Server};

/// How long a report may take to become durable. Clients give it 5 s.
const REPORT_TIMEOUT: Duration = Duration::from_secs(4);

/// Makes a client a member of a task, which is created if it is new.
#[utoipa::path(post, path = "/peer/registry", tag = "peer",
    request_body(content((RegistrationBody = "application/json"), (RegistrationBody = "application/x-www-form-urlencoded"))),
    responses(
        (status = 200, body = Enveloped<RegisteredData>, description = "200 registered; 501 a parameter is wrong, 604 disk or policy, 606 another task has this id, 607 the URL cannot be fetched, 608 the source wants credentials, 609 ask again"),
        (status = 400, body = Failure), (status = 413, body = Failure), (status = 415, body = Failure)))]
pub async fn registry(api: Arc<Api>, content_type: Option<String>, body: Bytes) -> Answer {
    let registration = match registration::parse(content_type.as_deref(), &body) {
        Ok(registration) => registration,
        Err(BadRegistration::Body(status, message)) => return Answer::transport(status, message),
        Err(BadRegistration::Param(bad)) => return illegal(&bad),
        Err(BadRegistration::Url(why)) => return Answer::because(Code::UrlNotReachable, &format!("rawUrl {why}")),
    };
    match api.cluster.register(registration).await {
        Ok(registered) => Answer::data(
            Code::Success,
            RegisteredData {
                task_id: registered.task.to_string(),
                file_length: registered.length.and_then(|length| i64::try_from(length).ok()).unwrap_or(-1),
                piece_size: registered.piece_size.bytes(),
                cdn_source: cdn_source(registered.pattern),
                as_seed: false,
                seed_task_id: "",
            },
        ),
        Err(CallError::Swarm(Refusal::EarlierGeneration)) => {
            Answer::because(Code::UrlNotReachable, &Refusal::EarlierGeneration.to_string())
        }
        Err(CallError::Commit(_)) => Late::WaitAuth.unwritable().await,
        Err(error) => refusal(&error),
    }
}

/// Takes a client's report and tells what to fetch next; held a while where there is nothing yet.
#[utoipa::path(get, path = "/peer/task", tag = "peer",
    params(
        ("taskId" = String, Query, description = "64 hexadecimal digits"), ("srcCid" = String, Query, description = "The asking client"),
        ("dstCid" = Option<String>, Query, description = "Whom the reported piece came from"),
        ("range" = Option<String>, Query, description = "The reported piece, like 0-4194303"),
        ("status" = u16, Query, description = "700 started, 701 running, 702 finished"),
        ("result" = Option<u16>, Query, description = "500 failed, 501 success, 502 no report, 503 held in memory")),
    responses((status = 200, body = Enveloped<PullData>, description = "600 finished, 601 pieces to fetch, 602 wait; 200 to a 702; 501, 502 unknown task, 604 or 610 the source failed")))]
pub async fn task(api: Arc<Api>, query: String, local: Option<SocketAddr>) -> Answer {
    let params = Params::of_query(&query);
    let (task, client, told) = match read_task_call(&params) {
        Ok(call) => call,
        Err(bad) => return illegal(&bad),
    };
    if let Told::Finished { .. } = told {
        return match api.cluster.report(&task, client, told).await {
            Ok(()) => Answer::code(Code::Success),
            Err(CallError::Commit(_)) => Late::Wait.unwritable().await,
            Err(error) => refusal(&error),
        };
    }
    // Who reports nothing loses nothing by an answer, and asks again at once.
    let held_for = if matches!(told, Told::Started | Told::Nothing) { api.cluster.config().hold } else { HELD_FOR };
    match api.cluster.pull(&task, client.clone(), told).await {
        Ok(Decision::Finished { md5, file_length }) => {
            let finished = FinishedData { md5: md5.map(|md5| md5.to_string()).unwrap_or_default(), file_length };
            Answer::data(Code::Finished, PullData::Finished(finished))
        }
        Ok(Decision::Continue(assignments)) => {
            let reader = Reader::new(&api, &params, &task, &client, local);
            let pieces = assignments.iter().map(|assignment| reader.piece(assignment)).collect();
            Answer::data(Code::Continue, PullData::Pieces(pieces))
        }
        Ok(Decision::Wait { held, at_seed, source }) => {
            Answer::message(Code::Wait, &format!("client sucCount:{held},cdn status:{source},cdn sucCount: {at_seed}"))
        }
        Ok(Decision::Failed(failure)) => {
            let code = match failure.fault {
                Fault::Source => Code::SourceError,
                Fault::Supernode => Code::SourceFail,
            };
            Answer::because(code, &failure.reason)
        }
        // Another code would have it leave for the source.
        Err(CallError::Commit(_)) => Late::Wait.unwritable_after(held_for).await,
        Err(error) => refusal(&error),
    }
}

/// Takes in that a client has written a piece and serves it.
#[utoipa::path(get, path = "/peer/piece/suc", tag = "peer",
    params(
        ("taskId" = String, Query), ("cid" = String, Query), ("dstCid" = Option<String>, Query, description = "Whom it came from"),
        ("pieceRange" = String, Query, description = "Like 0-4194303")),
    responses((status = 200, body = Failure, description = "200 or 611, by the client's release; 501, 502"), (status = 503, body = Failure, description = "Cannot be made durable now: repeat it")))]
pub async fn piece_suc(api: Arc<Api>, query: String) -> Answer {
    let params = Params::of_query(&query);
    let (task, client, range) = match read_piece_call(&params) {
        Ok(call) => call,
        Err(bad) => return illegal(&bad),
    };
    let reporting = api.cluster.report(&task, client.clone(), Told::Servable(range));
    match tokio::time::timeout(REPORT_TIMEOUT, reporting).await {
        Ok(Ok(())) => {
            let version = api.cluster.introduction(&task, &client).map(|(version, _)| version).unwrap_or_default();
            Answer::code(Dialect::of(&params, version).piece_accepted())
        }
        // Clients repeat this report on a status alone, and it must not be lost.
        Ok(Err(CallError::Commit(_))) => Late::Unavailable.unwritable().await,
        Ok(Err(CallError::Swarm(Refusal::PieceOutOfRange))) => illegal(&out_of_range("pieceRange")),
        Ok(Err(error)) => refusal(&error),
        Err(_) => Answer::because(Code::SystemError, "the report cannot be made durable now, repeat it")
            .with_status(StatusCode::SERVICE_UNAVAILABLE),
    }
}

pub type TaskCall = (TaskId, ClientId, Told);

pub fn read_task_call(params: &Params<'_>) -> Result<TaskCall, BadParam> {
    let task = task_id(params)?;
    let client = client_id(params, "srcCid")?;
    let told = match params.number("status", "700, 701 or 702")? {
        700_u16 => Told::Started,
        701 => read_running(params)?,
        702 => match result(params)? {
            Some(501) => Told::Finished { success: true },
            Some(500) => Told::Finished { success: false },
            _ => return Err(BadParam::new("result", "must be 500 or 501 with status 702")),
        },
        _ => return Err(BadParam::new("status", "must be 700, 701 or 702")),
    };
    Ok((task, client, told))
}

fn read_running(params: &Params<'_>) -> Result<Told, BadParam> {
    let result = result(params)?;
    let range = match params.text("range")? {
        "" => None,
        text => Some(parse_piece_range(text).ok_or_else(|| BadParam::new("range", "must be like 0-4194303"))?),
    };
    match (result, range) {
        (Some(502), _) | (Some(500 | 501 | 503) | None, None) => Ok(Told::Nothing),
        (Some(501 | 503), Some(range)) => Ok(Told::Held(range)),
        (Some(500), Some(range)) => Ok(Told::Failed { range, server: ClientId::parse(params.text("dstCid")?).ok() }),
        (_, _) => Err(BadParam::new("result", "must be 500, 501, 502 or 503 with status 701")),
    }
}

fn result(params: &Params<'_>) -> Result<Option<u16>, BadParam> {
    if params.text("result")?.is_empty() {
        return Ok(None);
    }
    params.number("result", "500, 501, 502 or 503").map(Some)
}

pub fn read_piece_call(params: &Params<'_>) -> Result<(TaskId, ClientId, RangeInclusive<u64>), BadParam> {
    let task = task_id(params)?;
    let client = client_id(params, "cid")?;
    let range =
        parse_piece_range(params.required("pieceRange")?).ok_or_else(|| BadParam::new("pieceRange", "must be like 0-4194303"))?;
    Ok((task, client, range))
}

/// Writes pieces out for one client.
struct Reader<'a> {
    dialect: Dialect,
    task: TaskId,
    seed_host: String,
    /// Where pieces are that no peer has, unless they are here.
    source_url: Option<Arc<str>>,
    link_limit_kib: u32,
    api: &'a Api,
}

impl<'a> Reader<'a> {
    fn new(api: &'a Api, params: &Params<'_>, task: &TaskId, client: &ClientId, local: Option<SocketAddr>) -> Self {
        let (version, seed_host) = api.cluster.introduction(task, client).unwrap_or_default();
        let config = api.cluster.config();
        // The name by which the client reaches us works behind NAT; else what the operator says; else where it came in.
        let seed_host = if seed_host.is_empty() {
            config.advertise_ip.or(local.map(|local| local.ip())).map(|ip| ip.to_canonical().to_string()).unwrap_or_default()
        } else {
            seed_host.to_string()
        };
        let (source_url, link_limit_kib) = (api.cluster.source_url(task, client), config.link_limit_kib());
        Self { dialect: Dialect::of(params, version), task: *task, seed_host, source_url, link_limit_kib, api }
    }

    fn piece(&self, assignment: &Assignment) -> PieceData {
        let size = assignment.piece_size;
        let range = size.slot_range(assignment.piece);
        let (cid, peer_ip, peer_port, path) = match &assignment.server {
            Server::Seed => {
                let task = self.task.to_string();
                let path = match &self.source_url {
                    // Address and port stay ours: clients look whether they are open before they go to the source.
                    Some(url) => url.to_string(),
                    None => format!("/qtdown/{}/{task}", &task[..3]),
                };
                (format!("cdnnode:{}~{task}", self.seed_host), self.seed_host.clone(), self.api.download_port, path)
            }
            Server::Peer(endpoint) => {
                (endpoint.client.to_string(), endpoint.ip.to_string(), endpoint.port, endpoint.path.to_string())
            }
        };
        PieceData {
            range: format!("{}-{}", range.start(), range.end()),
            piece_num: assignment.piece.0,
            piece_size: size.bytes(),
            piece_md5: assignment.digest.map(|digest| digest.to_string()).unwrap_or_default(),
            cid,
            peer_ip,
            peer_port,
            path,
            down_link: self.dialect.down_link(self.link_limit_kib),
        }
    }
}

pub fn illegal(bad: &BadParam) -> Answer {
    Answer::because(Code::ParamIllegal, &format!("{} {}", bad.name, bad.why))
}

fn out_of_range(name: &'static str) -> BadParam {
    BadParam::new(name, "names a piece that the file does not have")
}

/// The one place where errors become codes.
pub fn refusal(error: &CallError) -> Answer {
    let code = match error {
        CallError::UnknownTask(_) | CallError::UnknownPreheat(_) => Code::TargetNotFound,
        CallError::TooManyPreheats(_) | CallError::TooManyParts(_) | CallError::NothingKept => Code::SystemError,
        CallError::Conflict(_) => Code::TaskConflict,
        CallError::Refused(Refused::Unreachable(_) | Refused::Denied(_)) => Code::UrlNotReachable,
        CallError::Refused(Refused::NeedsAuth(_)) => Code::NeedAuth,
        CallError::Refused(Refused::Ours(_)) => Code::SourceFail,
        CallError::Swarm(Refusal::PieceOutOfRange) => {
            return illegal(&out_of_range("range"));
        }
        CallError::Swarm(Refusal::EarlierGeneration) => Code::SourceError,
        CallError::Swarm(Refusal::TooManyClients) => Code::SourceFail,
        CallError::AskAgain => Code::WaitAuth,
        CallError::Commit(_) | CallError::Store(_) | CallError::Panicked => {
            let request = format!("{:016x}", fastrand::u64(..));
            tracing::error!(request, error = error as &dyn std::error::Error, "request failed");
            // The log says what; where things are on this machine is nothing for clients.
            return Answer::because(Code::SystemError, &format!("the log says more of the request {request}"));
        }
    };
    Answer::because(code, &error.to_string())
}
