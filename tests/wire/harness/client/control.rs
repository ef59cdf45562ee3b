//! Control calls: one pool of connections, the published clients' timeout, and their way with connections that break.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use tokio::sync::watch;

use super::{Release, Surprise};
use crate::harness::exchange::{self, Answer, CallError, Response};

/// How long a report of a written piece waits until it is sent once more.
const WRITTEN_WAIT: Duration = Duration::from_millis(300);

/// Connections to the API of one supernode, used as a release does.
#[derive(Debug)]
pub struct Control {
    api: SocketAddr,
    release: &'static Release,
    /// Whether a test has taken the service away.
    service_away: watch::Receiver<bool>,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    questions: AtomicU32,
}

impl Control {
    pub fn new(api: SocketAddr, release: &'static Release, service_away: watch::Receiver<bool>) -> Self {
        Self { api, release, service_away, idle: Mutex::default(), questions: AtomicU32::new(0) }
    }

    pub const fn api(&self) -> SocketAddr {
        self.api
    }

    /// How often [`Self::ask`] was called.
    pub fn questions(&self) -> u32 {
        self.questions.load(Ordering::Relaxed)
    }

    /// Asks what to do next.
    pub async fn ask(&self, target: &str) -> Result<Answer, Surprise> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        self.get(target).await
    }

    /// Asks for an answer with status 200 and an envelope.
    pub async fn get(&self, target: &str) -> Result<Answer, Surprise> {
        let (asked, response) = self.call(self.release.task_timeout, || exchange::get(target)).await?;
        envelope(&asked, &response)
    }

    /// Sends a body; a registration may be repeated, so a broken connection is met as with a GET.
    pub async fn post(&self, request: impl Fn() -> Request<Full<Bytes>>) -> Result<Answer, Surprise> {
        let (asked, response) = self.call(self.release.registry_timeout, request).await?;
        envelope(&asked, &response)
    }

    /// Reports a piece as written, the one call that some releases repeat on a status.
    pub async fn report_written(&self, target: &str) -> Result<Answer, Surprise> {
        let mut attempts = 1;
        loop {
            let (asked, response) = self.call(self.release.task_timeout, || exchange::get(target)).await?;
            if response.status == 200 || attempts == self.release.written_attempts_max {
                return envelope(&asked, &response);
            }
            attempts += 1;
            tokio::time::sleep(WRITTEN_WAIT).await;
        }
    }

    async fn call(&self, timeout: Duration, request: impl Fn() -> Request<Full<Bytes>>) -> Result<(String, Response), Surprise> {
        let example = request();
        let asked = format!("{} {}", example.method(), example.uri());
        let attempts = async {
            let mut attempts = 1;
            loop {
                match self.attempt(request()).await {
                    Err(CallError::Broken(_)) if attempts < self.release.attempts_max => attempts += 1,
                    outcome => return outcome,
                }
            }
        };
        let outcome = tokio::select! {
            outcome = attempts => outcome,
            () = self.served_for(timeout) => Err(CallError::Late(timeout)),
        };
        match outcome {
            Ok(response) => Ok((asked, response)),
            Err(error) => Err(Surprise::new(format!("{asked}: {error}"))),
        }
    }

    /// Returns once there has been a service for so long. While a test has taken it away the clients' clocks stand: how long
    /// a busy machine needs to start another process says nothing of the service.
    async fn served_for(&self, time: Duration) {
        let (mut service_away, mut left) = (self.service_away.clone(), time);
        loop {
            // Whoever took it away may have gone: then it is there.
            let _ = service_away.wait_for(|away| !away).await;
            let began = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(left) => return,
                Ok(_) = service_away.wait_for(|away| *away) => left = left.saturating_sub(began.elapsed()),
            }
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
