//! Why a source gave no answer, or not all of it, in words for whoever asked: with the host, and what can be done.
//!
//! The HTTP client's own words name the layers of that client. What it was that failed is at the bottom of its errors.

use std::cell::RefCell;
use std::error::Error;
use std::io;

use rustls::CertificateError;
use url::Url;

/// Characters of a host that are shown: as many as a name that resolves can have.
const HOST_SHOWN_MAX: usize = 253;

tokio::task_local! {
    /// The host that a request is being sent to: another one than at first where that redirects.
    static ASKED: RefCell<String>;
}

/// A name that the resolver does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name {name} cannot be resolved: {why}; check the URL, and the name servers of the supernode's machine")]
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
    #[error("{0} refuses connections: check the host and port of the URL, and whether anything serves there")]
    Refused(String),
    #[error("{0} did not take a connection in time: check the URL, and whether a firewall is in between")]
    NotConnected(String),
    #[error("{0} took longer than sourceIdleTimeout for its headers")]
    Silent(String),
    #[error("{0} closed the connection before it had answered")]
    Closed(String),
    #[error("the certificate of {0} is not accepted: {1}")]
    Certificate(String, String),
    #[error("{0} does not speak TLS as it should: {1}; check whether its URL is one of http")]
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

/// Sends a request to this URL, and tells in the end which host was asked last.
pub async fn asking<T>(url: &Url, sending: impl Future<Output = T>) -> (T, String) {
    ASKED.scope(RefCell::new(host_and_port(url)), async { (sending.await, ASKED.with(|asked| asked.borrow().clone())) }).await
}

/// Whoever is asked sends on to this URL.
pub fn is_sent_on_to(url: &Url) {
    // Redirects are followed while a request is being sent.
    let _ = ASKED.try_with(|asked| *asked.borrow_mut() = host_and_port(url));
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
    /// Why this host did not answer.
    pub fn of(error: &reqwest::Error, host: String) -> Self {
        if error.is_timeout() {
            return if error.is_connect() { Self::NotConnected(host) } else { Self::Silent(host) };
        }
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
            return Some(match error {
                rustls::Error::InvalidCertificate(error) => Self::Certificate(host(), why_not_accepted(error)),
                rustls::Error::InvalidMessage(_) => Self::NoTls(host(), "what it sends is no TLS".to_owned()),
                error => Self::NoTls(host(), error.to_string()),
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
        let why = innermost(error);
        // TLS refers those who write programs to its manual.
        Self::Closed(why.split(": https://").next().unwrap_or_default().to_owned())
    }
}

fn why_not_accepted(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "its authority is not known here; bring that one's certificate along (rootCAs), or say insecure".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired; have it renewed, or say insecure".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; check the clock of the supernode's machine".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another host; use that one's name in the URL, or say insecure".to_owned()
        }
        other => other.to_string(),
    }
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
pub fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

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
