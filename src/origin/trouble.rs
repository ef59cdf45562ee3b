//! Why a source gave no answer, or not all of it, in words for whoever asked: with the host, and what can be done.
//!
//! The HTTP client's own words name the layers of that client. What it was that failed is at the bottom of its errors.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError};
use url::Url;

/// Characters of a host that are shown: as many as a name that resolves can have.
const HOST_SHOWN_MAX: usize = 253;

tokio::task_local! {
    /// Whom a request is being sent to.
    static ASKED: RefCell<Asked>;
}

/// The hosts that one request was sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    first: String,
    /// Where redirects led, last of all.
    sent_on_to: Option<String>,
}

/// The host that was asked last, and who led there: whoever reads this knows the first one.
impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sent_on_to {
            Some(last) if *last != self.first => write!(f, "{last}, to which {} redirects,", self.first),
            _ => f.write_str(&self.first),
        }
    }
}

/// A name that the resolver does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name {name} cannot be resolved: {why}; check how it is spelt, and the name servers of the supernode's machine")]
pub struct NameUnknown {
    name: String,
    why: String,
}

impl NameUnknown {
    pub fn new(name: &str, error: &io::Error) -> Self {
        let why = error.to_string();
        let why = why.strip_prefix("failed to lookup address information: ").unwrap_or(&why).to_owned();
        Self { name: shown(name), why }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    #[error(transparent)]
    NameUnknown(NameUnknown),
    #[error("{0} refuses connections: check that host and port, and whether anything serves there")]
    Refused(String),
    #[error(
        "no connection with {0} came about in time, with TLS where it is for https: check that host and port, whether a firewall is in between, and whether what serves there speaks TLS"
    )]
    NotConnected(String),
    #[error("{0} took longer than sourceIdleTimeout for its headers")]
    Silent(String),
    #[error("the answer of {0}, with all that it redirects to, took longer than sourceIdleTimeout")]
    SilentOnTheWay(String),
    #[error("{0} closed the connection before it had answered")]
    Closed(String),
    #[error("the certificate of {0} is not accepted: {1}")]
    Certificate(String, String),
    #[error("{0} {1}")]
    NoTls(String, String),
    #[error("{0} does not speak HTTP as it should: {1}")]
    NoHttp(String, String),
    #[error("{0} cannot be asked: {1}")]
    Other(String, String),
}

/// Why an answer is not whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenOff {
    #[error("the source was silent for longer than sourceIdleTimeout")]
    Silent,
    #[error("the source broke off: {0}")]
    Closed(String),
}

/// Sends a request to this URL, and tells in the end whom it was sent to.
pub async fn asking<T>(url: &Url, sending: impl Future<Output = T>) -> (T, Asked) {
    let asked = Asked { first: host_and_port(url), sent_on_to: None };
    ASKED.scope(RefCell::new(asked), async { (sending.await, ASKED.with(|asked| asked.borrow().clone())) }).await
}

/// Whoever is asked sends on to this URL.
pub fn is_sent_on_to(url: &Url) {
    // Redirects are followed while a request is being sent.
    let _ = ASKED.try_with(|asked| asked.borrow_mut().sent_on_to = Some(host_and_port(url)));
}

/// A URL's host as it is shown: the rest may hold secrets.
pub fn host_and_port(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    shown(url.host_str().unwrap_or_default()) + &port
}

fn shown(host: &str) -> String {
    host.chars().take(HOST_SHOWN_MAX).collect()
}

impl Unanswered {
    /// Why whoever was asked did not answer.
    pub fn of(error: &reqwest::Error, asked: Asked) -> Self {
        if error.is_timeout() {
            return match asked {
                asked if error.is_connect() => Self::NotConnected(asked.to_string()),
                Asked { first, sent_on_to: Some(_) } => Self::SilentOnTheWay(first),
                Asked { first, sent_on_to: None } => Self::Silent(first),
            };
        }
        let host = asked.to_string();
        if error.is_builder() {
            return Self::Other(host, "its URL is too long or has what no request may have".to_owned());
        }
        let known = causes(error).find_map(|cause| Self::known(cause, &host));
        known.unwrap_or_else(|| Self::Other(host, innermost(error)))
    }

    fn known(cause: &(dyn Error + 'static), host: &str) -> Option<Self> {
        let host = || host.to_owned();
        if let Some(unknown) = cause.downcast_ref::<NameUnknown>() {
            return Some(Self::NameUnknown(unknown.clone()));
        }
        if let Some(error) = cause.downcast_ref::<rustls::Error>() {
            // The library's words are for those who program.
            tracing::debug!(host = host(), %error, "no TLS with a source");
            return Some(match error {
                rustls::Error::InvalidCertificate(error) => Self::Certificate(host(), why_not_accepted(error).to_owned()),
                error => Self::NoTls(host(), why_no_tls(error)),
            });
        }
        if let Some(error) = cause.downcast_ref::<hyper::Error>() {
            return match () {
                () if error.is_incomplete_message() => Some(Self::Closed(host())),
                () if error.is_parse() => Some(Self::NoHttp(host(), innermost(error))),
                () => None,
            };
        }
        // One that wraps another says no more than that one.
        match cause.downcast_ref::<io::Error>().filter(|error| error.get_ref().is_none())?.kind() {
            io::ErrorKind::ConnectionRefused => Some(Self::Refused(host())),
            io::ErrorKind::TimedOut => Some(Self::NotConnected(host())),
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                Some(Self::Closed(host()))
            }
            _ => None,
        }
    }
}

impl BrokenOff {
    pub fn of(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Silent;
        }
        if let Some(error) = causes(error).find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
            return Self::Closed(format!("it {}", why_no_tls(error)));
        }
        let why = innermost(error);
        // TLS refers those who write programs to its manual.
        Self::Closed(why.split(": https://").next().unwrap_or_default().to_owned())
    }
}

fn why_not_accepted(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::UnknownIssuer => {
            "its authority is not known here; bring that one's certificate along (rootCAs), or say insecure"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired; have it renewed, or say insecure",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; check the clock of the supernode's machine"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another host; use that one's name in the URL, or say insecure"
        }
        CertificateError::Other(other) if other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity) => {
            "it is one of an authority (CA:TRUE), not of a server; give the server a certificate of its own, or say insecure"
        }
        _ => "it is not made as those of servers have to be; give the server another one, or say insecure",
    }
}

/// Why certificates that a client brought cannot be used.
pub fn why_unusable(error: &reqwest::Error) -> String {
    if causes(error).any(|cause| cause.is::<rustls::Error>()) {
        return "one of them is damaged, or is no certificate".to_owned();
    }
    innermost(error)
}

/// What a host does instead of speaking TLS with us.
fn why_no_tls(error: &rustls::Error) -> String {
    let why = match error {
        rustls::Error::InvalidMessage(_) => "sends what is no TLS; check whether its URL is one of http",
        rustls::Error::PeerIncompatible(_) | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "speaks no TLS that the supernode does, which is 1.2 and 1.3"
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::NoCertificate) => {
            "wants a certificate of whoever asks, and the supernode has none"
        }
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity) => {
            "refuses the supernode's TLS: it takes none of the ciphers of today, or wants a certificate of whoever asks"
        }
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "refuses TLS for this name; check the host in the URL"
        }
        rustls::Error::AlertReceived(alert) => return format!("ends TLS with the alert {}", u8::from(*alert)),
        _ => "breaks the rules of TLS",
    };
    why.to_owned()
}

/// An error and all that are behind it, with what an IO error wraps.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| cause_of(*error))
}

fn cause_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

/// The cause of all others, which says what it was.
fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::{Part, Source};
    use super::*;
    use crate::domain::policy::SourcePolicy;
    use crate::domain::{TaskSpec, Validators};

    /// Answers whatever comes with this, and is silent then.
    async fn host_saying(answer: impl Into<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        let answer = answer.into();
        tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok((mut connection, _)) = listener.accept().await {
                let _ = connection.read(&mut [0; 4096]).await;
                let _ = connection.write_all(&answer).await;
                connections.push(connection);
            }
        });
        address
    }

    async fn told_of(spec: TaskSpec, idle_timeout: Duration) -> String {
        let source = Source::new(SourcePolicy::default(), idle_timeout).expect("a client can be made");
        source.ask(&spec, Part::ALL, &Validators::default(), &|_| ()).await.expect_err("it fails").to_string()
    }

    #[tokio::test]
    async fn a_host_that_refuses_our_tls_is_not_told_to_speak_http() {
        for (alert, told) in [
            (40, "refuses the supernode's TLS: it takes none of the ciphers of today, or wants a certificate of whoever asks"),
            (70, "speaks no TLS that the supernode does, which is 1.2 and 1.3"),
            (80, "ends TLS with the alert 80"),
            (112, "refuses TLS for this name; check the host in the URL"),
            (116, "wants a certificate of whoever asks, and the supernode has none"),
        ] {
            let host = host_saying([21, 3, 3, 0, 2, 2, alert]).await;
            let seen = told_of(TaskSpec::of_url(&format!("https://{host}/")), Duration::from_secs(60)).await;
            assert_eq!(seen, format!("{host} {told}"));
        }
        let host = host_saying("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let seen = told_of(TaskSpec::of_url(&format!("https://{host}/")), Duration::from_secs(60)).await;
        assert_eq!(seen, format!("{host} sends what is no TLS; check whether its URL is one of http"));
    }

    #[tokio::test]
    async fn of_a_host_that_is_silent_while_tls_begins_it_is_not_said_that_it_took_no_connection() {
        let host = host_saying("").await;
        let url = Url::parse(&format!("https://{host}/")).expect("a URL");
        let client =
            reqwest::Client::builder().connect_timeout(Duration::from_millis(100)).build().expect("a client can be made");
        let (sent, asked) = asking(&url, client.get(url.clone()).send()).await;
        let why = Unanswered::of(&sent.expect_err("nobody answers"), asked).to_string();
        assert!(why.starts_with(&format!("no connection with {host} came about in time, with TLS where")), "{why}");
    }

    #[tokio::test]
    async fn a_redirect_is_part_of_what_takes_too_long() {
        let silent = host_saying("").await;
        let host = host_saying(format!("HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://{silent}/\r\n\r\n")).await;
        let seen = told_of(TaskSpec::of_url(&format!("http://{host}/")), Duration::from_secs(1)).await;
        assert_eq!(seen, format!("the answer of {host}, with all that it redirects to, took longer than sourceIdleTimeout"));
        let seen = told_of(TaskSpec::of_url(&format!("http://{silent}/")), Duration::from_secs(1)).await;
        assert_eq!(seen, format!("{silent} took longer than sourceIdleTimeout for its headers"));
    }

    #[test]
    fn why_a_certificate_is_not_accepted_is_told_in_plain_words() {
        let other = |error| CertificateError::Other(rustls::OtherError(Arc::new(error)));
        let told = why_not_accepted(&other(webpki::Error::CaUsedAsEndEntity));
        assert!(told.starts_with("it is one of an authority (CA:TRUE), not of a server; "), "{told}");
        for error in [other(webpki::Error::BadDer), CertificateError::BadEncoding] {
            assert!(why_not_accepted(&error).starts_with("it is not made as those of servers have to be; "), "{error:?}");
        }
    }

    #[tokio::test]
    async fn certificates_that_are_damaged_are_told_in_plain_words() {
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let spec = TaskSpec { root_cas: vec![pem.as_bytes().into()], ..TaskSpec::of_url("https://127.0.0.1:1/") };
        let seen = told_of(spec, Duration::from_secs(60)).await;
        let why = "one of them is damaged, or is no certificate";
        assert_eq!(seen, format!("the certificates that came with the task cannot be used: {why}"));
    }

    #[test]
    fn a_host_is_shown_without_what_may_be_secret_and_only_so_much_of_it() {
        let shown = |url: &str| host_and_port(&Url::parse(url).expect("a URL"));
        assert_eq!(shown("https://user:secret@h:8443/path?sign=secret"), "h:8443");
        assert_eq!(shown("https://h:443/"), "h");
        assert_eq!(shown("http://[::1]:80/"), "[::1]");
        assert_eq!(shown(&format!("http://{}/", "x".repeat(1000))).len(), HOST_SHOWN_MAX);
    }

    #[test]
    fn what_an_io_error_wraps_is_a_cause() {
        let wrapped = io::Error::other(io::Error::other(rustls::Error::DecryptError));
        assert!(causes(&wrapped).any(|cause| cause.is::<rustls::Error>()));
        assert_eq!(innermost(&wrapped), rustls::Error::DecryptError.to_string());
    }
}
