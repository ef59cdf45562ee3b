//! The source of a task: one request at a time, and what its answer means.
//!
//! Owns how a source is asked (headers, range, validators, TLS) and what counts as an answer. A range is believed only
//! where the answer proves it.
//! Must not: retry, wait between requests, or keep bytes. That is `cdn`'s.

mod challenge;
mod content_range;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod head;
mod probe;
mod reach;
pub mod registry;
mod retry_after;
mod token;
mod trouble;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response};
use url::Url;

use crate::domain::policy::{Forbidden, SourcePolicy};
use crate::domain::{Modified, TaskSpec, Validators};
use crate::telemetry::metrics::METRICS;
pub use content_range::Part;
use content_range::{ContentRange, RequestedRange, parse_unsatisfied};
pub use probe::Probed;
use reach::{CheckedResolver, check_url, checked_redirects, forbidden_by};
pub use token::TokenError;
use token::TokenService;
use trouble::{Asked, BrokenOff, Unanswered, asking, host_and_port, why_unusable};

/// How long a source may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections kept per host, and for how long: enough for a burst of small files from one host, not one for every task.
const IDLE_CONNECTIONS_PER_HOST: usize = 16;
const IDLE_CONNECTION_LIFE: Duration = Duration::from_secs(10);

/// A validator that is longer is as good as none. Bytes. It is stored and sent back.
const VALIDATOR_MAX_BYTES: usize = 1024;
/// What is read whole is no larger. Bytes. Registries limit manifests to 4 MiB.
const DOCUMENT_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Request headers that are ours to set, or that speak of a connection or body that is not there.
const OWN_HEADERS: [HeaderName; 12] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::ACCEPT_ENCODING,
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::UPGRADE,
];

/// Why a source gave no bytes.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    #[error("the URL is not a valid http or https URL")]
    Url,
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    #[error("the certificates that came with the task cannot be used: {0}")]
    Certificates(String),
    #[error("what came with the task as certificates holds none")]
    NoCertificate,
    /// Not asked at all: what it says to a request without them may be another file.
    #[error(
        "headers for the source were left out of the snapshot that this task was restored from, or dropped when it needed them no more; registering with them brings them again"
    )]
    HeadersLeftOut,
    #[error(transparent)]
    Unreachable(Unanswered),
    #[error("the head of the source's answer is larger than {HEAD_MAX_BYTES} bytes or 100 headers", HEAD_MAX_BYTES = head::HEAD_MAX_BYTES)]
    HeadTooLarge,
    #[error("the source answered {0}")]
    Status(StatusCode),
    #[error("the source answered {status} and wants to be asked again in {} s", retry_after.as_secs())]
    Busy { status: StatusCode, retry_after: Duration },
    /// The service is named by its host and port: the rest of its URL may hold secrets.
    #[error("there is no token of {service} for the source, which wants one")]
    Token {
        service: String,
        #[source]
        error: TokenError,
    },
    #[error("the source sent its bytes in a transfer coding that nobody asked for")]
    Coded,
    #[error("the source did not honour the range that was asked for")]
    RangeIgnored,
    #[error("the source does not say how long it is")]
    LengthUnknown,
    /// A part of it can be asked for, and a part of that part would have to be.
    #[error("the task is a part of a file (it has a Range header)")]
    IsPart,
    #[error("the source has changed")]
    Changed,
    #[error("the source has nothing after what was asked for already")]
    AtEnd,
    #[error("the source sent {sent} bytes of a part that has {announced}")]
    Part { sent: u64, announced: u64 },
    #[error(transparent)]
    Broken(BrokenOff),
    #[error("the answer is larger than {DOCUMENT_MAX_BYTES} bytes")]
    TooLarge,
}

/// A source that was asked for everything from some byte on.
#[derive(Debug)]
pub struct Answer {
    /// Bytes of the whole content, if the source says.
    pub length: Option<u64>,
    /// The byte of the content at which the body starts: as asked, or 0.
    pub start: u64,
    /// Whether the body runs to the end of the content, though perhaps less was asked for.
    pub to_the_end: bool,
    pub validators: Validators,
    body: Response,
    /// What was received and nobody has taken.
    ahead: Option<Result<Option<Bytes>, OriginError>>,
    /// Bytes that the part has, by its own word, and those that came of it.
    part_bytes: Option<u64>,
    part_received: u64,
}

impl Answer {
    /// The next bytes of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, OriginError> {
        match self.ahead.take() {
            Some(ahead) => ahead,
            None => self.receive().await,
        }
    }

    /// The same, which stays the next; `None` also where something went wrong, of which [`Self::chunk`] tells.
    pub async fn peek(&mut self) -> Option<&Bytes> {
        if self.ahead.is_none() {
            self.ahead = Some(self.receive().await);
        }
        self.ahead.as_ref()?.as_ref().ok()?.as_ref()
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, OriginError> {
        let chunk = self.body.chunk().await.map_err(|error| OriginError::Broken(BrokenOff::of(&error)))?;
        let bytes = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        METRICS.source_bytes.inc_by(bytes);
        let Some(announced) = self.part_bytes else { return Ok(chunk) };
        let sent = self.part_received + bytes;
        self.part_received = sent;
        // Chunks and ends of connections do not say how long the part was to be, but its range does.
        if sent > announced || (chunk.is_none() && sent < announced) {
            return Err(OriginError::Part { sent, announced });
        }
        Ok(chunk)
    }
}

/// Something small that was read whole.
#[derive(Debug)]
pub struct Document {
    pub status: StatusCode,
    pub body: Vec<u8>,
    /// How long the source wants to be left alone, if it said so.
    retry_after: Option<Duration>,
}

impl Document {
    /// What was asked for, and not what the source says instead.
    pub fn into_body(self) -> Result<Vec<u8>, OriginError> {
        match (self.status, self.retry_after) {
            (StatusCode::OK, _) => Ok(self.body),
            (status, Some(retry_after)) => Err(OriginError::Busy { status, retry_after }),
            (status, None) => Err(OriginError::Status(status)),
        }
    }
}

/// Whether a source is still what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    Unchanged,
    Changed,
}

/// A token is being asked for; also over where whoever asks gives up.
struct Exchange<'a>(&'a (dyn Fn(bool) + Send + Sync));

impl<'a> Exchange<'a> {
    fn begin(told: &'a (dyn Fn(bool) + Send + Sync)) -> Self {
        told(true);
        Self(told)
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        (self.0)(false);
    }
}

/// Asks sources.
#[derive(Debug)]
pub struct Source {
    client: Client,
    policy: Arc<SourcePolicy>,
    /// How long a source may take for its headers, and how long it may be silent then.
    idle_timeout: Duration,
}

/// Checks that a text is a URL that can be fetched at all.
pub fn parse_url(text: &str) -> Result<Url, OriginError> {
    // The parser mends what is no URL by the letter: `http:host`, `http:///host`, surrounding spaces.
    let by_the_letter = text.split_once("://").is_some_and(|(scheme, rest)| {
        let known = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
        known && !rest.starts_with(['/', '?', '#', '\\'])
    });
    if !by_the_letter || text.trim() != text || text.contains(char::is_control) {
        return Err(OriginError::Url);
    }
    let url = Url::parse(text).map_err(|_| OriginError::Url)?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url).ok_or(OriginError::Url)
}

impl Source {
    /// Asks only what the policy allows, and gives a request up when the headers take longer, or the source is silent for so long.
    pub fn new(policy: SourcePolicy, idle_timeout: Duration) -> Result<Self, reqwest::Error> {
        let policy = Arc::new(policy);
        Ok(Self { client: builder(&policy, idle_timeout).build()?, policy, idle_timeout })
    }

    /// Asks for a part of the task's content. Unless that is all of it, `known` guards against mixing two contents; the
    /// body then starts where the part does or, where the source will not or must not be asked for a range, at 0.
    ///
    /// A source that wants a token is given one; `authenticating` is told when that begins and when it ends.
    pub async fn ask(
        &self,
        spec: &TaskSpec,
        part: Part,
        known: &Validators,
        authenticating: &(dyn Fn(bool) + Send + Sync),
    ) -> Result<Answer, OriginError> {
        let url = parse_url(&spec.raw_url)?;
        check_url(&self.policy, &url)?;
        let asked = RequestedRange::of_task(spec.range());
        let resumable = guard_of_parts(&asked, known).filter(|_| part != Part::ALL);
        let asked_part = if resumable.is_some() { part } else { Part::ALL };
        let range = asked.header(asked_part);
        let mut headers = client_headers(spec);
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(range) = range.as_deref().and_then(|range| HeaderValue::from_str(range).ok()) {
            headers.insert(header::RANGE, range);
        }
        if let Some(validator) = resumable.and_then(|validator| HeaderValue::from_str(validator).ok()) {
            headers.insert(header::IF_RANGE, validator);
        }
        let response = self.send_with_token(spec, url, headers, authenticating).await?;
        read_answer(response, &asked, range.is_some(), known, asked_part)
    }

    /// Asks whether the content is still the one with these validators and this length. A body that comes is not read.
    pub async fn revalidate(
        &self,
        spec: &TaskSpec,
        known: &Validators,
        known_length: Option<u64>,
    ) -> Result<Freshness, OriginError> {
        let url = parse_url(&spec.raw_url)?;
        check_url(&self.policy, &url)?;
        let asked = RequestedRange::of_task(spec.range());
        let range = asked.header(Part::ALL);
        let mut headers = client_headers(spec);
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut insert = |name: HeaderName, value: Option<&str>| {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                headers.insert(name, value);
            }
        };
        insert(header::RANGE, range.as_deref());
        insert(header::IF_NONE_MATCH, known.etag.as_deref());
        insert(header::IF_MODIFIED_SINCE, known.date());
        let response = self.send_with_token(spec, url, headers, &|_| ()).await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Freshness::Unchanged);
        }
        // A source that knows no conditions sends all of it, with what tells whether it is the same.
        match read_answer(response, &asked, range.is_some(), known, Part::ALL) {
            Ok(answer) => {
                let lengths_differ = matches!((known_length, answer.length), (Some(before), Some(now)) if before != now);
                Ok(if lengths_differ { Freshness::Changed } else { Freshness::Unchanged })
            }
            Err(OriginError::Changed) => Ok(Freshness::Changed),
            Err(error) => Err(error),
        }
    }

    /// Asks again with a token where the source wants one, and whoever is asked for brings no other.
    async fn send_with_token(
        &self,
        spec: &TaskSpec,
        url: Url,
        mut headers: HeaderMap,
        authenticating: &(dyn Fn(bool) + Send + Sync),
    ) -> Result<Response, OriginError> {
        let response = self.send(spec, url.clone(), headers.clone()).await?;
        let service = TokenService::in_answer(&response, &url).filter(|_| token::may_be_exchanged(spec));
        let Some(service) = service else { return Ok(response) };
        // Its connection is not needed meanwhile.
        drop(response);
        let token = {
            let _exchange = Exchange::begin(authenticating);
            self.token(spec, &service).await
        };
        let token = token.map_err(|error| OriginError::Token { service: host_and_port(service.url()), error })?;
        headers.insert(header::AUTHORIZATION, token);
        self.send(spec, url, headers).await
    }

    async fn send(&self, spec: &TaskSpec, url: Url, headers: HeaderMap) -> Result<Response, OriginError> {
        let sending = self.client_for(spec)?.get(url.clone()).headers(headers).send();
        let (sent, asked) = asking(&url, sending).await;
        let response = sent.map_err(|error| why_unanswered(&error, asked))?;
        if head::is_too_large(response.headers()) { Err(OriginError::HeadTooLarge) } else { Ok(response) }
    }

    /// Reads something small whole, with the headers, certificates and leniency of this source, and with a token where it
    /// wants one.
    pub async fn read(&self, spec: &TaskSpec, url: &str, accept: &'static str) -> Result<Document, OriginError> {
        let (url, headers) = self.prepare(spec, url, accept)?;
        Self::read_body(self.send_with_token(spec, url, headers, &|_| ()).await?).await
    }

    /// The same of whom a token is asked for.
    async fn read_without_token(&self, spec: &TaskSpec, url: &str, accept: &'static str) -> Result<Document, OriginError> {
        let (url, headers) = self.prepare(spec, url, accept)?;
        Self::read_body(self.send(spec, url, headers).await?).await
    }

    fn prepare(&self, spec: &TaskSpec, url: &str, accept: &'static str) -> Result<(Url, HeaderMap), OriginError> {
        let url = parse_url(url)?;
        check_url(&self.policy, &url)?;
        let mut headers = client_headers(spec);
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Ok((url, headers))
    }

    async fn read_body(mut response: Response) -> Result<Document, OriginError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| OriginError::Broken(BrokenOff::of(&error)))? {
            if body.len() + chunk.len() > DOCUMENT_MAX_BYTES {
                return Err(OriginError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        let status = response.status();
        Ok(Document { status, body, retry_after: retry_after::retry_after(status, response.headers()) })
    }

    /// Certificates and leniency hold for the task that brought them and for no other.
    fn client_for(&self, spec: &TaskSpec) -> Result<Client, OriginError> {
        if !spec.insecure && spec.root_cas.is_empty() {
            return Ok(self.client.clone());
        }
        let mut builder = builder(&self.policy, self.idle_timeout).tls_danger_accept_invalid_certs(spec.insecure);
        for pem in &spec.root_cas {
            let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(|error| unusable(&error))?;
            if certificates.is_empty() {
                return Err(OriginError::NoCertificate);
            }
            for certificate in certificates {
                builder = builder.add_root_certificate(certificate);
            }
        }
        builder.build().map_err(|error| unusable(&error))
    }
}

/// Whether less can be asked for than all of the task's content. The source may send all of it nevertheless.
pub fn has_parts(spec: &TaskSpec, known: &Validators) -> bool {
    guard_of_parts(&RequestedRange::of_task(spec.range()), known).is_some()
}

/// What guards against a part of another content. Without a validator nothing says that the rest belongs to what is here:
/// the whole is asked for and compared. Nor can a part be asked for of a range whose place only the source knows.
fn guard_of_parts<'v>(asked: &RequestedRange, known: &'v Validators) -> Option<&'v str> {
    if asked.has_place() { known.if_range() } else { None }
}

fn why_unanswered(error: &reqwest::Error, asked: Asked) -> OriginError {
    if head::was_too_large(error) {
        return OriginError::HeadTooLarge;
    }
    match forbidden_by(error) {
        Some(forbidden) => OriginError::Forbidden(forbidden),
        None => OriginError::Unreachable(Unanswered::of(error, asked)),
    }
}

fn unusable(error: &reqwest::Error) -> OriginError {
    OriginError::Certificates(why_unusable(error))
}

fn builder(policy: &Arc<SourcePolicy>, idle_timeout: Duration) -> reqwest::ClientBuilder {
    Client::builder()
        .user_agent(concat!("supernode/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(idle_timeout)
        .dns_resolver(Arc::new(CheckedResolver::new(policy.clone())))
        .redirect(checked_redirects(policy.clone()))
        // It would show a signed URL to wherever that redirects.
        .referer(false)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_HOST)
        .pool_idle_timeout(IDLE_CONNECTION_LIFE)
        .http1_only()
}

/// Whether a source that says this may say otherwise in a while.
pub fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429)
}

/// The client's headers without those that are ours. A pair that is no valid header is left out: it cannot be sent.
fn client_headers(spec: &TaskSpec) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &spec.headers {
        if let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name.as_str()), HeaderValue::from_str(value))
            && !OWN_HEADERS.contains(&name)
        {
            value.set_sensitive(true);
            headers.append(name, value);
        }
    }
    headers
}

/// The value of a header, if it is no longer than any that is worth keeping.
fn short_text(response: &Response, name: HeaderName) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned()).filter(|text| text.len() <= VALIDATOR_MAX_BYTES)
}

fn validators_of(response: &Response) -> Validators {
    let last_modified = short_text(response, header::LAST_MODIFIED).map(|date| {
        let asked = short_text(response, header::DATE);
        Modified { is_strong: asked.is_some_and(|asked| is_over(&date, &asked)), date }
    });
    Validators { etag: short_text(response, header::ETAG), last_modified }
}

/// Whether the second that one date names was over at the other, by the source's own clock.
fn is_over(date: &str, at: &str) -> bool {
    let (Ok(date), Ok(at)) = (httpdate::parse_http_date(date), httpdate::parse_http_date(at)) else { return false };
    at.duration_since(date).is_ok_and(|since| since >= Duration::from_secs(1))
}

/// Whether what is sent is not the content itself but a coding of it, which nobody undoes: all but chunks. What a file is
/// kept in (`Content-Encoding`) is its own affair.
fn is_coded(headers: &HeaderMap) -> bool {
    let codings =
        headers.get_all(header::TRANSFER_ENCODING).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut codings = codings.map(<[u8]>::trim_ascii).filter(|coding| !coding.is_empty());
    codings.any(|coding| !coding.eq_ignore_ascii_case(b"chunked") && !coding.eq_ignore_ascii_case(b"identity"))
}

/// What a status says that comes instead of the content.
fn refused_by(response: &Response) -> OriginError {
    let status = response.status();
    match retry_after::retry_after(status, response.headers()) {
        Some(retry_after) => OriginError::Busy { status, retry_after },
        None => OriginError::Status(status),
    }
}

fn read_answer(
    response: Response,
    asked: &RequestedRange,
    ranged: bool,
    known: &Validators,
    part: Part,
) -> Result<Answer, OriginError> {
    let text = |name| short_text(&response, name);
    let validators = validators_of(&response);
    let content_range = text(header::CONTENT_RANGE).and_then(|value| ContentRange::parse(&value));
    let (length, start) = match response.status() {
        StatusCode::OK if asked.is_part() => return Err(OriginError::RangeIgnored),
        StatusCode::OK => (response.content_length(), 0),
        StatusCode::PARTIAL_CONTENT if ranged => {
            let range = content_range.ok_or(OriginError::RangeIgnored)?;
            asked.place(&range, part).filter(|(_, start)| *start == part.first).ok_or(OriginError::RangeIgnored)?
        }
        StatusCode::RANGE_NOT_SATISFIABLE if part != Part::ALL => {
            let at_end =
                !asked.is_part() && text(header::CONTENT_RANGE).and_then(|value| parse_unsatisfied(&value)) == Some(part.first);
            return Err(if at_end && !known.contradict(&validators) { OriginError::AtEnd } else { OriginError::Changed });
        }
        _ => return Err(refused_by(&response)),
    };
    if known.contradict(&validators) {
        return Err(OriginError::Changed);
    }
    if is_coded(response.headers()) {
        return Err(OriginError::Coded);
    }
    let to_the_end = part.last.is_none() || response.status() == StatusCode::OK;
    let part_bytes = content_range.filter(|_| response.status() == StatusCode::PARTIAL_CONTENT);
    let part_bytes = part_bytes.map(|part| (part.last - part.first).saturating_add(1));
    Ok(Answer { length, start, to_the_end, validators, body: response, ahead: None, part_bytes, part_received: 0 })
}
