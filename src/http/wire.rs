//! What clients get back: codes, the envelope, and the bodies in it.

use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;
use warp::Reply;
use warp::reply::Response;

use super::dialect::DownLink;
use crate::cluster::{Node, Share};

/// The code of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Success = 200,
    SystemError = 500,
    ParamIllegal = 501,
    TargetNotFound = 502,
    Finished = 600,
    Continue = 601,
    Wait = 602,
    SourceFail = 604,
    TaskConflict = 606,
    UrlNotReachable = 607,
    NeedAuth = 608,
    WaitAuth = 609,
    SourceError = 610,
    PieceAccepted = 611,
    DownAccepted = 612,
}

impl Code {
    const fn number(self) -> u16 {
        self as u16
    }

    /// The message that goes with the code where there is nothing more to say.
    const fn default_message(self) -> &'static str {
        match self {
            Self::Success | Self::PieceAccepted | Self::DownAccepted => "success",
            Self::SystemError => "system error",
            Self::ParamIllegal => "param is illegal",
            Self::TargetNotFound => "target not found",
            Self::Finished => "peer task end",
            Self::Continue => "peer task go on",
            Self::Wait => "peer task wait",
            Self::SourceFail => "super node sync source fail",
            Self::TaskConflict => "task conflict",
            Self::UrlNotReachable => "url is not reachable",
            Self::NeedAuth => "need auth",
            Self::WaitAuth => "wait auth",
            Self::SourceError => "source error",
        }
    }
}

/// An answer: always HTTP 200 to a request that a route took, because a client that sees another status gives us up.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    body: Vec<u8>,
}

#[derive(Serialize)]
struct Envelope<'a, T: Serialize> {
    code: u16,
    msg: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<T>,
}

impl Answer {
    fn new(status: StatusCode, code: u16, msg: &str, data: Option<impl Serialize>) -> Self {
        // These types always serialize: they hold numbers, strings and lists.
        let body = serde_json::to_vec(&Envelope { code, msg, data }).unwrap_or_default();
        Self { status, body }
    }

    pub fn code(code: Code) -> Self {
        Self::message(code, code.default_message())
    }

    pub fn message(code: Code, msg: &str) -> Self {
        Self::new(StatusCode::OK, code.number(), msg, None::<()>)
    }

    /// The code's own message, and what it is about: `param is illegal: port …`.
    pub fn because(code: Code, reason: &str) -> Self {
        Self::message(code, &format!("{}: {reason}", code.default_message()))
    }

    pub fn data(code: Code, data: impl Serialize) -> Self {
        Self::new(StatusCode::OK, code.number(), code.default_message(), Some(data))
    }

    /// A request that no route took.
    pub fn transport(status: StatusCode, msg: &str) -> Self {
        Self::new(status, status.as_u16(), msg, None::<()>)
    }

    /// The same answer with a status by which a client knows to repeat its report.
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

impl Reply for Answer {
    fn into_response(self) -> Response {
        let mut response = self.body.into_response();
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// An answer with data, as it is described: in the envelope.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes what Envelope writes")]
pub struct Enveloped<T: ToSchema> {
    code: u16,
    msg: Option<String>,
    /// What goes with the code; other codes come without.
    data: Option<T>,
}

/// An answer that is a code and a message.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes what Envelope writes")]
pub struct Failure {
    code: u16,
    msg: String,
}

/// Answers a registration.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegisteredData {
    pub task_id: String,
    /// Bytes of the source; -1 when the source does not say.
    pub file_length: i64,
    pub piece_size: u32,
    pub cdn_source: &'static str,
    pub as_seed: bool,
    #[serde(rename = "seedTaskID")]
    pub seed_task_id: &'static str,
}

/// A piece to fetch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PieceData {
    pub range: String,
    pub piece_num: u32,
    pub piece_size: u32,
    /// Empty where the piece comes from the source, or from a peer that got it there.
    pub piece_md5: String,
    pub cid: String,
    pub peer_ip: String,
    pub peer_port: u16,
    pub path: String,
    pub down_link: DownLink,
}

/// What a pull brings: pieces with 601, the end with 600.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum PullData {
    Pieces(Vec<PieceData>),
    Finished(FinishedData),
}

/// Ends a download.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FinishedData {
    /// Of the source's bytes; empty where clients fetched from there, because nobody here knows it.
    pub md5: String,
    /// Bytes of what was fetched piece by piece, with its wrapping if it has one.
    pub file_length: u64,
}

/// Who serves what.
#[derive(Debug, Serialize, ToSchema)]
pub struct NetworkData {
    pub nodes: Vec<NodeData>,
}

/// A client that serves something, with the field names of the published types.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeData {
    basic: PeerData,
    load: u32,
    tasks: Vec<ShareData>,
}

#[derive(Debug, Serialize, ToSchema)]
struct PeerData {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "IP")]
    ip: String,
    port: u16,
}

#[derive(Debug, Serialize, ToSchema)]
struct ShareData {
    task: TaskData,
    pieces: Vec<SharedPieceData>,
}

/// A task as those are told of it who named its URL: without headers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TaskData {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "taskURL")]
    task_url: String,
    #[serde(rename = "httpFileLength")]
    http_file_length: i64,
    piece_size: u32,
    piece_total: u32,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SharedPieceData {
    #[serde(rename = "pID")]
    peer_id: String,
    #[serde(rename = "peerIP")]
    peer_ip: String,
    peer_port: u16,
    path: String,
    piece_range: String,
    piece_size: u32,
}

impl From<&Node> for NodeData {
    fn from(node: &Node) -> Self {
        let endpoint = node.shares.first().map(|share| share.endpoint.clone());
        let (ip, port) = endpoint.map(|endpoint| (endpoint.ip.to_string(), endpoint.port)).unwrap_or_default();
        let basic = PeerData { id: node.client.to_string(), ip, port };
        Self { basic, load: node.load, tasks: node.shares.iter().map(ShareData::from).collect() }
    }
}

impl From<&Share> for ShareData {
    fn from(share: &Share) -> Self {
        let size = share.piece_size();
        let piece = |piece| {
            let range = size.slot_range(piece);
            SharedPieceData {
                peer_id: share.endpoint.client.to_string(),
                peer_ip: share.endpoint.ip.to_string(),
                peer_port: share.endpoint.port,
                path: share.endpoint.path.to_string(),
                piece_range: format!("{}-{}", range.start(), range.end()),
                piece_size: size.bytes(),
            }
        };
        let task = TaskData {
            id: share.spec.id.to_string(),
            task_url: share.spec.task_url.clone(),
            http_file_length: share.status.length.and_then(|length| i64::try_from(length).ok()).unwrap_or(-1),
            piece_size: size.bytes(),
            piece_total: share.status.piece_count().unwrap_or_default(),
        };
        Self { task, pieces: share.pieces.iter().copied().map(piece).collect() }
    }
}
