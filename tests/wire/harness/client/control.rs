//! Control calls: one pool of connections, the published clients' timeout, and their way with connections that break.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;

use super::Surprise;
use crate::harness::exchange::{self, Answer, CallError, Response};

/// What a published client gives a call, with all its repetitions.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a call is sent whose connection breaks.
const ATTEMPTS_MAX: u32 = 5;
/// How often a report of a written piece is sent that got another status than 200, and the wait in between.
const SUC_ATTEMPTS_MAX: u32 = 3;
const SUC_WAIT: Duration = Duration::from_millis(300);

/// Connections to the API of one supernode.
#[derive(Debug)]
pub struct Control {
    api: SocketAddr,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Control {
    pub fn new(api: SocketAddr) -> Self {
        Self { api, idle: Mutex::default() }
    }

    pub const fn api(&self) -> SocketAddr {
        self.api
    }

    /// Asks for an answer with status 200 and an envelope.
    pub async fn get(&self, target: &str) -> Result<Answer, Surprise> {
        self.expect_ok(|| exchange::get(target)).await
    }

    /// Sends a body; a registration may be repeated, so a broken connection is met as with a GET.
    pub async fn post(&self, request: impl Fn() -> Request<Full<Bytes>>) -> Result<Answer, Surprise> {
        self.expect_ok(request).await
    }

    /// Reports a piece as written, the one call that is repeated on a status.
    pub async fn report_written(&self, target: &str) -> Result<Answer, Surprise> {
        let mut attempts = 1;
        loop {
            let (asked, response) = self.call(|| exchange::get(target)).await?;
            if response.status == 200 || attempts == SUC_ATTEMPTS_MAX {
                return envelope(&asked, &response);
            }
            attempts += 1;
            tokio::time::sleep(SUC_WAIT).await;
        }
    }

    async fn expect_ok(&self, request: impl Fn() -> Request<Full<Bytes>>) -> Result<Answer, Surprise> {
        let (asked, response) = self.call(request).await?;
        envelope(&asked, &response)
    }

    async fn call(&self, request: impl Fn() -> Request<Full<Bytes>>) -> Result<(String, Response), Surprise> {
        let example = request();
        let asked = format!("{} {}", example.method(), example.uri());
        let attempts = async {
            let mut attempts = 1;
            loop {
                match self.attempt(request()).await {
                    Err(CallError::Broken(_)) if attempts < ATTEMPTS_MAX => attempts += 1,
                    outcome => return outcome,
                }
            }
        };
        let outcome = tokio::time::timeout(CALL_TIMEOUT, attempts).await.unwrap_or(Err(CallError::Late(CALL_TIMEOUT)));
        match outcome {
            Ok(response) => Ok((asked, response)),
            Err(error) => Err(Surprise::new(format!("{asked}: {error}"))),
        }
    }

    async fn attempt(&self, request: Request<Full<Bytes>>) -> Result<Response, CallError> {
        let idle = self.take_idle();
        let mut connection = match idle {
            Some(connection) => connection,
            None => exchange::connect(self.api).await?,
        };
        let response = exchange::collect(exchange::send(&mut connection, self.api, request).await?).await?;
        self.lock().push(connection);
        Ok(response)
    }

    /// A connection that is open as far as anybody knows.
    fn take_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.lock();
        idle.retain(|connection| !connection.is_closed());
        idle.pop()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SendRequest<Full<Bytes>>>> {
        self.idle.lock().expect("nobody panics while they hold this")
    }
}

fn envelope(asked: &str, response: &Response) -> Result<Answer, Surprise> {
    if response.status != 200 {
        return Err(Surprise::new(format!("{asked} was answered {response}")));
    }
    response.answer().map_err(|error| Surprise::new(format!("{asked}: {error}")))
}
