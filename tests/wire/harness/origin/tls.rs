//! Certificates of sources: made for one test, good or bad.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The host that good certificates are for.
pub const HOST: &str = "127.0.0.1";

/// An authority that no system trusts.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, key()).expect("a certificate can be signed"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Serves with a certificate of this authority for a host.
    pub fn acceptor(&self, host: &str) -> TlsAcceptor {
        self.sign(params(host))
    }

    /// Serves with one that was good once.
    pub fn expired_acceptor(&self) -> TlsAcceptor {
        let mut params = params(HOST);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.sign(params)
    }

    /// Serves with the authority's own certificate, as if it were one of a server.
    pub fn own_acceptor(&self) -> TlsAcceptor {
        acceptor(self.0.der(), self.0.key())
    }

    fn sign(&self, params: CertificateParams) -> TlsAcceptor {
        let key = key();
        let certificate = params.signed_by(&key, &self.0).expect("a certificate can be signed");
        acceptor(certificate.der(), &key)
    }
}

/// Serves with a certificate that vouches for itself.
pub fn self_signed_acceptor() -> TlsAcceptor {
    let key = key();
    let certificate = params(HOST).self_signed(&key).expect("a certificate can be signed");
    acceptor(certificate.der(), &key)
}

fn params(host: &str) -> CertificateParams {
    CertificateParams::new([host.to_owned()]).expect("a test's host is one")
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key can be made")
}

fn acceptor(certificate: &CertificateDer<'static>, key: &KeyPair) -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key that was made a moment ago");
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.clone()], key);
    TlsAcceptor::from(Arc::new(config.expect("key and certificate fit")))
}
