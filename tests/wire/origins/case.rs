//! One kind of source: what it does, and how clients ask for it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio_rustls::TlsAcceptor;

use crate::harness::client::Wanted;
use crate::harness::origin::scripted::{Act, Asked, Script};
use crate::harness::pieces::golden_content;

/// The length of most files here. One piece. Bytes.
const SMALL_BYTES: usize = 1000;
/// The length of files that are resumed. Two pieces. Bytes.
const LONG_BYTES: usize = 6_000_000;
/// What most sources send in all before they are refused: a few heads and small bodies. Bytes.
const REFUSED_BYTES_MAX: u64 = 4 * KIB;
/// The same where bytes are sent until the connection is closed: what its buffers hold. Bytes.
pub const BUFFERED_MAX: u64 = MIB;
pub const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * KIB;

/// Gives sources up that are silent for two seconds.
pub const IMPATIENT: &str = "base: {sourceIdleTimeout: 2s}\n";

type Asking = Arc<dyn Fn(Wanted) -> Wanted + Send + Sync>;

/// Sources of one kind.
pub struct Group {
    pub title: &'static str,
    pub cases: Vec<Case>,
}

pub struct Case {
    /// Completes "a source that …".
    pub what: String,
    pub script: Script,
    /// What a second source does, to which the first may lead.
    pub elsewhere: Option<Script>,
    /// What clients should get; what is sent is measured by it.
    pub content: Bytes,
    pub on: IpAddr,
    pub tls: Option<TlsAcceptor>,
    pub url: Arc<dyn Fn(SocketAddr) -> String + Send + Sync>,
    pub asking: Asking,
    /// What somebody else fetched from this source before.
    pub before: Option<Asking>,
    /// Of the service. Those with the same share one.
    pub configuration: &'static str,
    /// How many times the content may be sent, where buffers decide how much is.
    pub sent_at_most: Option<f64>,
    /// How much may be sent, heads and all, where that is refused. Bytes; `None` where it goes on until the timeout.
    pub refused_within: Option<u64>,
}

/// A source of a small file.
pub fn case(what: impl Into<String>, script: impl Fn(&Asked) -> Vec<Act> + Send + Sync + 'static) -> Case {
    Case {
        what: what.into(),
        script: Arc::new(script),
        elsewhere: None,
        content: small(),
        on: Ipv4Addr::LOCALHOST.into(),
        tls: None,
        url: Arc::new(|address| format!("http://{address}/file")),
        asking: Arc::new(|wanted| wanted),
        before: None,
        configuration: "",
        sent_at_most: None,
        refused_within: Some(REFUSED_BYTES_MAX),
    }
}

impl Case {
    pub fn elsewhere(self, script: impl Fn(&Asked) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self { elsewhere: Some(Arc::new(script)), ..self }
    }

    pub fn of(self, content: impl Into<Bytes>) -> Self {
        Self { content: content.into(), ..self }
    }

    pub fn on(self, on: impl Into<IpAddr>) -> Self {
        Self { on: on.into(), ..self }
    }

    /// Speaks TLS, at an https URL.
    pub fn tls(self, acceptor: TlsAcceptor) -> Self {
        Self { tls: Some(acceptor), ..self }.at(|address| format!("https://{address}/file"))
    }

    pub fn at(self, url: impl Fn(SocketAddr) -> String + Send + Sync + 'static) -> Self {
        Self { url: Arc::new(url), ..self }
    }

    pub fn asked(self, asking: impl Fn(Wanted) -> Wanted + Send + Sync + 'static) -> Self {
        Self { asking: Arc::new(asking), ..self }
    }

    pub fn asked_before(self, asking: impl Fn(Wanted) -> Wanted + Send + Sync + 'static) -> Self {
        Self { before: Some(Arc::new(asking)), ..self }
    }

    pub fn under(self, configuration: &'static str) -> Self {
        Self { configuration, ..self }
    }

    pub fn sending_at_most(self, times: f64) -> Self {
        Self { sent_at_most: Some(times), ..self }
    }

    pub fn refused_within(self, bytes: u64) -> Self {
        Self { refused_within: Some(bytes), ..self }
    }

    pub fn refused_by_timeout(self) -> Self {
        Self { refused_within: None, ..self }
    }
}

pub fn small() -> Bytes {
    static CONTENT: OnceLock<Bytes> = OnceLock::new();
    CONTENT.get_or_init(|| golden_content(SMALL_BYTES)).clone()
}

pub fn long() -> Bytes {
    static CONTENT: OnceLock<Bytes> = OnceLock::new();
    CONTENT.get_or_init(|| golden_content(LONG_BYTES)).clone()
}
