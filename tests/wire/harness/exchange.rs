//! A thin HTTP client: sends exactly what it is told to, and tells a broken connection from a late answer.
//!
//! Not a ready-made one, because those tidy up the paths that a rude client sends, and retry by themselves.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// The status of an answer that is a part.
pub const PARTIAL: u16 = 206;
/// Long enough for anything that is no control call.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a call has no answer.
#[derive(Debug)]
pub enum CallError {
    /// Refused, reset, or closed before the answer was whole.
    Broken(String),
    Late(Duration),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(why) => write!(f, "the connection broke: {why}"),
            Self::Late(timeout) => write!(f, "no answer within {timeout:?}"),
        }
    }
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The envelope that every answer of the API is in.
    pub fn answer(&self) -> Result<Answer, String> {
        let body: Value = serde_json::from_slice(&self.body).map_err(|error| format!("{error}, in {self}"))?;
        let code = body["code"].as_i64().ok_or_else(|| format!("no integer code in {self}"))?;
        let msg = body["msg"].as_str().unwrap_or_default().to_owned();
        Ok(Answer { status: self.status, code, msg, data: body["data"].clone() })
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = &self.body[..self.body.len().min(300)];
        write!(f, "HTTP {} with {} bytes: {}", self.status, self.body.len(), String::from_utf8_lossy(start))
    }
}

/// An answer of the API.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub code: i64,
    pub msg: String,
    pub data: Value,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP {} code {} msg {:?} data {}", self.status, self.code, self.msg, self.data)
    }
}

pub fn get(target: &str) -> Request<Full<Bytes>> {
    request("GET", target, Bytes::new())
}

pub fn post_json(target: &str, body: &Value) -> Request<Full<Bytes>> {
    with_header(request("POST", target, body.to_string().into()), "content-type", "application/json;charset=utf-8")
}

pub fn request(method: &str, target: &str, body: Bytes) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(target).body(Full::new(body));
    request.unwrap_or_else(|error| panic!("{method} {target:?} is no request that can be sent: {error}"))
}

pub fn with_header<B>(mut request: Request<B>, name: &'static str, value: &str) -> Request<B> {
    let value = value.parse().unwrap_or_else(|_| panic!("{value:?} is no header value"));
    request.headers_mut().insert(name, value);
    request
}

/// Sends a request over a connection of its own and returns the whole answer.
pub async fn call<B>(address: SocketAddr, request: Request<B>) -> Result<Response, CallError>
where
    B: Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let whole = async {
        let mut connection = connect(address).await?;
        collect(send(&mut connection, address, request).await?).await
    };
    tokio::time::timeout(CALL_TIMEOUT, whole).await.unwrap_or(Err(CallError::Late(CALL_TIMEOUT)))
}

/// Calls the API and panics if that gives no envelope: for tests to which no answer is the failure.
pub async fn ask(address: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let asked = format!("{} {}", request.method(), request.uri());
    let response = call(address, request).await.unwrap_or_else(|error| panic!("{asked}: {error}"));
    response.answer().unwrap_or_else(|error| panic!("{asked}: {error}"))
}

/// What a series of the metrics stands at, named with its labels as they are written.
pub async fn metric(api: SocketAddr, series: &str) -> u64 {
    let response = call(api, get("/metrics")).await.unwrap_or_else(|error| panic!("{error}"));
    let text = String::from_utf8_lossy(&response.body);
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {series} in {text}"))
}

/// Opens a connection that carries one request after the other.
pub async fn connect<B>(address: SocketAddr) -> Result<SendRequest<B>, CallError>
where
    B: Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let stream = TcpStream::connect(address).await.map_err(|error| broken(&error))?;
    stream.set_nodelay(true).map_err(|error| broken(&error))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    // It ends with the sender, or with the other side; whoever waits for an answer hears of it there.
    tokio::spawn(connection);
    Ok(sender)
}

pub async fn send<B>(
    connection: &mut SendRequest<B>,
    address: SocketAddr,
    request: Request<B>,
) -> Result<http::Response<Incoming>, CallError>
where
    B: Body + 'static,
{
    let request = with_header(request, "host", &address.to_string());
    connection.ready().await.map_err(|error| broken(&error))?;
    connection.send_request(request).await.map_err(|error| broken(&error))
}

pub async fn collect(response: http::Response<Incoming>) -> Result<Response, CallError> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| broken(&error))?.to_bytes();
    Ok(Response { status: head.status.as_u16(), headers: head.headers, body })
}

pub fn broken(error: &dyn std::error::Error) -> CallError {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    CallError::Broken(format!("{error}{cause}"))
}
