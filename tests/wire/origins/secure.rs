//! TLS: which certificates are believed, and for whom.

use std::sync::Arc;

use super::answers::{answer, last_answer, small_file};
use super::case::{Group, case, small};
use crate::harness::client::Wanted;
use crate::harness::origin::scripted::Act;
use crate::harness::origin::tls::{Authority, HOST, self_signed_acceptor};

pub fn group() -> Group {
    let authority = Arc::new(Authority::new("an authority"));
    let trusting = {
        let pem = authority.pem();
        move |wanted: Wanted| Wanted { root_cas: vec![pem.clone()], ..wanted }
    };
    let elsewhere = |wanted: &Wanted| Wanted::url(&format!("{}-of-another", wanted.raw_url));
    let lenient = |wanted: Wanted| Wanted { insecure: true, ..wanted };
    let file = |what: &str| case(what, |_| small_file());
    let cases = vec![
        file("has a certificate of its own making").tls(self_signed_acceptor()),
        file("has a certificate of its own making, and the client says insecure").tls(self_signed_acceptor()).asked(lenient),
        file("has one of its own making, after another task of this host said insecure")
            .tls(self_signed_acceptor())
            .asked_before(move |wanted| lenient(elsewhere(&wanted))),
        file("has a certificate of an authority that nobody knows").tls(authority.acceptor(HOST)),
        file("has a certificate of an authority that the client brings (rootCAs)")
            .tls(authority.acceptor(HOST))
            .asked(trusting.clone()),
        file("has one of an authority that another task of this host brought").tls(authority.acceptor(HOST)).asked_before({
            let trusting = trusting.clone();
            move |wanted| trusting(elsewhere(&wanted))
        }),
        file("has one of another authority than the client brings")
            .tls(Authority::new("another authority").acceptor(HOST))
            .asked(trusting.clone()),
        file("has for its certificate that of the authority itself, which the client brings")
            .tls(authority.own_acceptor())
            .asked(trusting.clone()),
        file("has an expired certificate of an authority that the client brings")
            .tls(authority.expired_acceptor())
            .asked(trusting.clone()),
        file("has a certificate for another host, of an authority that the client brings")
            .tls(authority.acceptor("example.com"))
            .asked(trusting.clone()),
        file("has an expired certificate, and the client says insecure").tls(authority.expired_acceptor()).asked(lenient),
        file("has a certificate for another host, and the client says insecure")
            .tls(authority.acceptor("example.com"))
            .asked(lenient),
        file("has a certificate, and the client brings what is none (rootCAs)")
            .tls(authority.acceptor(HOST))
            .asked(|wanted| Wanted { root_cas: vec!["no certificate".to_owned()], ..wanted }),
        case("tells no length, and ends the connection as TLS ends", |_| last_answer("HTTP/1.1 200 OK\r\n", small()))
            .tls(self_signed_acceptor())
            .asked(lenient),
        case("tells no length, and the connection ends otherwise: it may have been cut", |_| {
            [answer("HTTP/1.1 200 OK\r\n", small()), vec![Act::Vanish]].concat()
        })
        .tls(self_signed_acceptor())
        .asked(lenient),
        file("speaks HTTP at an https URL").at(|address| format!("https://{address}/file")),
        file("speaks TLS at an http URL").tls(self_signed_acceptor()).at(|address| format!("http://{address}/file")),
    ];
    Group { title: "TLS", cases }
}
