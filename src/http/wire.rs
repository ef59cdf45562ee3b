//! What clients get back: codes, the envelope, and the bodies in it.

use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use warp::Reply;
use warp::reply::Response;

use super::dialect::DownLink;

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
}

impl Code {
    const fn number(self) -> u16 {
        self as u16
    }

    /// The message that goes with the code where there is nothing more to say.
    const fn default_message(self) -> &'static str {
        match self {
            Self::Success | Self::PieceAccepted => "success",
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

/// Answers a registration.
#[derive(Debug, Serialize)]
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
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PieceData {
    pub range: String,
    pub piece_num: u32,
    pub piece_size: u32,
    pub piece_md5: String,
    pub cid: String,
    pub peer_ip: String,
    pub peer_port: u16,
    pub path: String,
    pub down_link: DownLink,
}

/// Ends a download.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FinishedData {
    pub md5: String,
    /// Bytes of the cached (wrapped) file.
    pub file_length: u64,
}
