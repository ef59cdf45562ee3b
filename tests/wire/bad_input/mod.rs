//! What nobody should send: every request is refused with its own code, by name, and changes nothing.

mod bodies;
mod calls;
mod downloads;
mod registrations;
mod reports;
mod requests;

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use crate::harness::client::{Client, Downloaded, Release, Wanted};
use crate::harness::exchange::{self, Answer};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

/// Two pieces.
const FILE_BYTES: usize = 5_000_000;

/// A service that knows one task, whole, and its one client.
struct Scene {
    origin: Origin,
    service: Service,
    url: String,
    downloaded: Downloaded,
    cid: String,
}

impl Scene {
    async fn set() -> Self {
        let (origin, service) = (Origin::start().await, Service::start().await);
        let url = origin.put("file", File::new(random_content(FILE_BYTES)));
        let client = std::sync::Arc::new(Client::start(&Release::GO_1_0_6).await);
        let downloaded = client.download(service.api(), &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
        Self { origin, service, url, downloaded, cid: client.cid().to_owned() }
    }

    fn api(&self) -> SocketAddr {
        self.service.api()
    }

    fn task(&self) -> &str {
        &self.downloaded.task
    }

    /// Runs a table. Nothing that is stored may change, and the service must serve on.
    async fn refuses(&self, table: Vec<Refused>) {
        let before = self.service.dump().await.sorted();
        for refused in table {
            refused.check(self.api()).await;
        }
        assert_eq!(self.service.dump().await.sorted(), before, "requests that were refused changed what is stored");
        self.still_serves().await;
    }

    async fn still_serves(&self) {
        let content = random_content(1000);
        let url = self.origin.put("another", File::new(content.clone()));
        let client = std::sync::Arc::new(Client::start(&Release::GO_1_0_6).await);
        let downloaded = client.download(self.api(), &Wanted::url(&url)).await;
        let downloaded =
            downloaded.unwrap_or_else(|surprise| panic!("after what it refused, the service serves no more: {surprise}"));
        assert!(downloaded.content == content, "the file arrived with other bytes");
    }
}

/// A request and how it is refused.
struct Refused {
    /// What is wrong with it.
    why: String,
    request: Request<Full<Bytes>>,
    status: u16,
    code: i64,
    /// What the message names, in whatever case.
    names: String,
}

impl Refused {
    /// With status 200 and a code in the envelope, as clients want it.
    fn with_code(why: impl Into<String>, request: Request<Full<Bytes>>, code: i64, names: impl Into<String>) -> Self {
        Self { why: why.into(), request, status: 200, code, names: names.into() }
    }

    /// With an HTTP status of its own, which is also the code.
    fn with_status(why: impl Into<String>, request: Request<Full<Bytes>>, status: u16) -> Self {
        Self { why: why.into(), request, status, code: status.into(), names: String::new() }
    }

    async fn check(self, api: SocketAddr) {
        let Self { why, request, status, code, names } = self;
        let asked = format!("{} {}", request.method(), request.uri());
        let answer: Answer = exchange::ask(api, request).await;
        assert_eq!((answer.status, answer.code), (status, code), "{why}: {asked} was answered {answer}");
        let named = answer.msg.to_lowercase().contains(&names.to_lowercase());
        assert!(named, "{why}: the message does not name {names:?}: {answer}");
    }
}
