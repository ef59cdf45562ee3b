//! Tokens for sources that ask for one: Docker's token authentication, as registries have it.
//!
//! A token is asked for when the source wants one, used for the request that wanted it, and kept nowhere: one that has
//! expired by the next request is replaced by then. It is asked for with the credentials that came with the task, or with
//! none. The service that gives it is named by the source, a stranger: the policy holds for it, and all that it says has a
//! limit.

use std::time::Duration;

use http::header;
use http::{HeaderName, HeaderValue, StatusCode};
use reqwest::Response;
use serde::Deserialize;
use url::Url;

use super::challenge::{Challenge, challenges};
use super::{OriginError, Source, parse_url};
use crate::domain::TaskSpec;

/// How long a token service may take, with all that it says.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
/// A token is a header of a request, and servers take no longer ones. Bytes.
const TOKEN_MAX_BYTES: usize = 8 * 1024;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the token service answered {0}")]
    Status(StatusCode),
    #[error("the token service answered {status} and wants to be asked again in {} s", retry_after.as_secs())]
    Busy { status: StatusCode, retry_after: Duration },
    #[error("the token service gave no token")]
    NoToken,
    #[error("the token is longer than {TOKEN_MAX_BYTES} bytes")]
    TooLong,
    #[error("the token service took longer than {} s", TOKEN_TIMEOUT.as_secs())]
    Late,
    #[error("the token service cannot be asked")]
    NotAsked(#[source] Box<OriginError>),
}

impl TokenError {
    /// Whether it is the service that is in trouble, and not whoever asked.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Status(status) => super::is_passing(*status),
            Self::Late | Self::Busy { .. } => true,
            Self::NotAsked(error) => matches!(**error, OriginError::Unreachable(_) | OriginError::Broken(_)),
            Self::NoToken | Self::TooLong => false,
        }
    }

    /// Whether the service gives none to whoever asked, and may give one to others.
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::Status(status) => matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN),
            Self::NoToken => true,
            Self::Busy { .. } | Self::TooLong | Self::Late | Self::NotAsked(_) => false,
        }
    }

    /// Whether the service is not there, rather than in trouble.
    pub const fn is_silence(&self) -> bool {
        matches!(self, Self::Late | Self::NotAsked(_))
    }
}

impl Source {
    /// A token for this source, which asked for one.
    pub(super) async fn token(&self, spec: &TaskSpec, service: &TokenService) -> Result<HeaderValue, TokenError> {
        let asking = with_credentials_for(spec, service);
        let asked =
            tokio::time::timeout(TOKEN_TIMEOUT, self.read_without_token(&asking, service.url.as_str(), "application/json")).await;
        let document = asked.map_err(|_| TokenError::Late)?.map_err(|error| TokenError::NotAsked(Box::new(error)))?;
        let body = document.into_body().map_err(|error| match error {
            OriginError::Status(status) => TokenError::Status(status),
            OriginError::Busy { status, retry_after } => TokenError::Busy { status, retry_after },
            error => TokenError::NotAsked(Box::new(error)),
        })?;
        let token = token_in(&body).ok_or(TokenError::NoToken)?;
        if token.len() > TOKEN_MAX_BYTES {
            return Err(TokenError::TooLong);
        }
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| TokenError::NoToken)?;
        bearer.set_sensitive(true);
        Ok(bearer)
    }
}

/// Whether a token may be asked for in the name of whoever brings these headers: with a password, or with nothing. Whoever
/// brings a token of its own means that one.
pub(super) fn may_be_exchanged(spec: &TaskSpec) -> bool {
    authorizations(spec).all(|value| is_of_scheme(value, "basic"))
}

fn authorizations(spec: &TaskSpec) -> impl Iterator<Item = &str> {
    spec.headers.iter().filter(|(name, _)| is(name, &header::AUTHORIZATION)).map(|(_, value)| value.as_str())
}

fn is(name: &str, header: &HeaderName) -> bool {
    name.eq_ignore_ascii_case(header.as_str())
}

fn is_of_scheme(value: &str, scheme: &str) -> bool {
    value.split_ascii_whitespace().next().is_some_and(|found| found.eq_ignore_ascii_case(scheme))
}

/// The source's password is for its token service, which is how the protocol has it; over plain HTTP only where the source
/// itself is asked like that, for a challenge must not be able to lower that. Other headers are for its own host and port
/// alone.
fn with_credentials_for(spec: &TaskSpec, service: &TokenService) -> TaskSpec {
    let source = parse_url(&spec.raw_url).ok();
    let is_lowered = service.url.scheme() != "https" && source.as_ref().is_none_or(|source| source.scheme() == "https");
    let is_its_own = source.is_some_and(|source| source.origin() == service.url.origin());
    let mut asking = spec.clone();
    asking.headers.retain(|(name, value)| {
        // An old token is no credential.
        let is_sent = if is(name, &header::AUTHORIZATION) { is_of_scheme(value, "basic") } else { is_its_own };
        is_sent && !is_lowered
    });
    asking
}

/// Where a source sends for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenService {
    /// With what the source wants it to be told, and without a fragment.
    url: Url,
}

impl TokenService {
    /// What an answer asks for, if it is for a token. Whoever a redirect led to is not the one whose credentials these are.
    pub fn in_answer(response: &Response, asked: &Url) -> Option<Self> {
        let is_challenge = response.status() == StatusCode::UNAUTHORIZED && response.url().origin() == asked.origin();
        let mut challenges = challenges(response.headers()).into_iter().filter(|_| is_challenge);
        challenges.find_map(|challenge| Self::named_by(&challenge, asked))
    }

    pub(super) const fn url(&self) -> &Url {
        &self.url
    }

    /// Understands `Bearer realm="…",service="…",scope="…"`; `None` for any other challenge.
    fn named_by(challenge: &Challenge, asked: &Url) -> Option<Self> {
        let realm = challenge.param("realm").filter(|_| challenge.is_of_scheme("bearer"))?;
        // A realm need not be a service: where it is a mere name, no token can be had.
        let mut url = if realm.starts_with('/') { asked.join(realm).ok()? } else { parse_url(realm).ok()? };
        url.set_fragment(None);
        for (name, value) in challenge.params.iter().filter(|(name, _)| matches!(name.as_str(), "service" | "scope")) {
            url.query_pairs_mut().append_pair(name, value);
        }
        Some(Self { url })
    }
}

/// The token in a token service's answer.
fn token_in(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(bytes).ok()?;
    answer.token.or(answer.access_token).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(url: &str) -> TokenService {
        TokenService { url: Url::parse(url).expect("a URL") }
    }

    #[test]
    fn a_challenge_says_where_the_token_is() {
        let asked = Url::parse("https://r:8443/v2/a/blobs/b?x").expect("a URL");
        let named = |scheme: &str, params: &[(&str, &str)]| {
            let params = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let service = TokenService::named_by(&Challenge { scheme: scheme.to_owned(), params }, &asked);
            service.map(|service| String::from(service.url))
        };
        let (service, scope) = (("service", "registry.h"), ("scope", "repository:a/b:pull,push"));
        for (realm, expected) in [
            ("https://auth.h/token", "https://auth.h/token?service=registry.h&scope=repository%3Aa%2Fb%3Apull%2Cpush"),
            ("http://h/t?a=1#f", "http://h/t?a=1&service=registry.h&scope=repository%3Aa%2Fb%3Apull%2Cpush"),
            ("/token", "https://r:8443/token?service=registry.h&scope=repository%3Aa%2Fb%3Apull%2Cpush"),
            ("//auth.h", "https://auth.h/?service=registry.h&scope=repository%3Aa%2Fb%3Apull%2Cpush"),
        ] {
            let params = [service, ("realm", realm), ("error", "x"), scope];
            assert_eq!(named("bearer", &params).as_deref(), Some(expected), "{realm}");
        }
        assert_eq!(named("Bearer", &[("realm", "http://h/t?")]).as_deref(), Some("http://h/t?"));
        assert_eq!(named("Basic", &[("realm", "http://h/t")]), None);
        assert_eq!(named("Bearer", &[service]), None);
        for name in ["", "files of r", "token", "ftp://h/t", "http:h", "//", "file:///etc/passwd"] {
            assert_eq!(named("Bearer", &[("realm", name)]), None, "{name:?}");
        }
        assert_eq!(token_in(br#"{"token":"a","access_token":"b"}"#).as_deref(), Some("a"));
        assert_eq!(token_in(br#"{"access_token":"b"}"#).as_deref(), Some("b"));
        assert_eq!(token_in(br#"{"token":""}"#), None);
    }

    fn spec(url: &str, headers: &[(&str, &str)]) -> TaskSpec {
        TaskSpec {
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..TaskSpec::of_url(url)
        }
    }

    #[test]
    fn a_password_goes_to_the_token_service_and_nothing_else_does_unless_it_is_the_same_host() {
        let headers = [("authorization", "BASIC x"), ("Authorization", "Bearer old"), ("Cookie", "y")];
        let sent = |source: &str, url: &str| {
            let asking = with_credentials_for(&spec(source, &headers), &service(url));
            asking.headers.into_iter().map(|(_, value)| value).collect::<Vec<_>>().join(",")
        };
        assert_eq!(sent("https://r/v2/b", "https://r/token"), "BASIC x,y");
        assert_eq!(sent("https://r/v2/b", "https://auth/token"), "BASIC x");
        assert_eq!(sent("http://r/v2/b", "http://auth/token"), "BASIC x");
        assert_eq!(sent("https://r/v2/b", "http://r/token"), "", "a challenge does not lower what protects them");
    }

    #[test]
    fn another_port_is_another_host() {
        let sent = |url: &str| with_credentials_for(&spec("https://r/v2/b", &[("Cookie", "y")]), &service(url)).headers.len();
        assert_eq!(["https://r:443/token", "https://R/token", "https://r:8443/token", "http://r/token"].map(sent), [1, 1, 0, 0]);
    }

    #[test]
    fn a_token_of_ones_own_is_not_overridden() {
        assert!(may_be_exchanged(&spec("http://h/", &[("Cookie", "Bearer")])));
        assert!(may_be_exchanged(&spec("http://h/", &[("authorization", "basic x")])));
        for own in ["Bearer x", "bearer", "", "AWS4-HMAC-SHA256 x", "Basically x"] {
            assert!(!may_be_exchanged(&spec("http://h/", &[("AUTHORIZATION", own)])), "{own:?}");
        }
    }
}
