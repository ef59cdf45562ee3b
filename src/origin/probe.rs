//! Asking a source for as little as proves that it can be fetched piece by piece: its first byte, which is not read.

use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};
use reqwest::Response;

use super::content_range::{ContentRange, parse_unsatisfied};
use super::reach::check_url;
use super::{Freshness, OriginError, Source, client_headers, parse_url, refused_by, validators_of};
use crate::domain::{TaskSpec, Validators};

const FIRST_BYTE: HeaderValue = HeaderValue::from_static("bytes=0-0");

/// What a source said that sends parts of its content when asked for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Bytes of the whole content.
    pub length: u64,
    pub validators: Validators,
}

impl Source {
    /// Asks for the first byte. An announcement that ranges are accepted proves nothing: only an answer with that byte and
    /// the whole length does; or one that there is no byte, for then none is ever asked for.
    pub async fn probe(&self, spec: &TaskSpec) -> Result<Probed, OriginError> {
        let response = self.ask_for_first_byte(spec, &Validators::default()).await?;
        read_probe(&response)
    }

    /// Asks whether the content is still the one with these validators and, where that is given, this length.
    pub async fn probe_again(&self, spec: &TaskSpec, known: &Validators, length: Option<u64>) -> Result<Freshness, OriginError> {
        let response = self.ask_for_first_byte(spec, known).await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Freshness::Unchanged);
        }
        match (read_probe(&response), length) {
            (Ok(now), length) => {
                let differs = known.contradict(&now.validators) || length.is_some_and(|length| length != now.length);
                Ok(if differs { Freshness::Changed } else { Freshness::Unchanged })
            }
            // It answers otherwise than it did to the same question.
            (Err(OriginError::RangeIgnored | OriginError::LengthUnknown), Some(_)) => Ok(Freshness::Changed),
            (Err(error), _) => Err(error),
        }
    }

    async fn ask_for_first_byte(&self, spec: &TaskSpec, known: &Validators) -> Result<Response, OriginError> {
        let url = parse_url(&spec.raw_url)?;
        check_url(&self.policy, &url)?;
        if spec.range().is_some() {
            return Err(OriginError::IsPart);
        }
        let mut headers = client_headers(spec);
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(header::RANGE, FIRST_BYTE);
        let mut insert = |name: HeaderName, value: Option<&str>| {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                headers.insert(name, value);
            }
        };
        insert(header::IF_NONE_MATCH, known.etag.as_deref());
        insert(header::IF_MODIFIED_SINCE, known.date());
        self.send(spec, url, headers).await
    }
}

fn read_probe(response: &Response) -> Result<Probed, OriginError> {
    let content_range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let length = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let sent = content_range.and_then(ContentRange::parse).ok_or(OriginError::RangeIgnored)?;
            let first_byte_alone =
                (sent.first, sent.last) == (0, 0) && response.content_length().is_none_or(|length| length == 1);
            if !first_byte_alone {
                return Err(OriginError::RangeIgnored);
            }
            sent.total.ok_or(OriginError::LengthUnknown)?
        }
        StatusCode::OK if response.content_length() == Some(0) => 0,
        StatusCode::OK => return Err(OriginError::RangeIgnored),
        StatusCode::RANGE_NOT_SATISFIABLE if content_range.and_then(parse_unsatisfied) == Some(0) => 0,
        _ => return Err(refused_by(response)),
    };
    Ok(Probed { length, validators: validators_of(response) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_busy_source_is_heard_when_it_wants_to_be_asked_again() {
        let answer = |status: u16| {
            let answer = http::Response::builder().status(status).header(header::RETRY_AFTER, "7").body("");
            read_probe(&answer.expect("an answer").into())
        };
        let busy = answer(503);
        assert!(matches!(busy, Err(OriginError::Busy { retry_after, .. }) if retry_after == Duration::from_secs(7)), "{busy:?}");
        assert!(matches!(answer(404), Err(OriginError::Status(StatusCode::NOT_FOUND))));
    }
}
