//! What clients are told while the swarms are rebuilt: the sockets are served from the first moment.
//!
//! A question is told to wait (602), and whatever reports something, registers or fetches waits itself, for as long as
//! its client does, and is then answered as if nothing had been. Nothing is acknowledged here.

use std::sync::Arc;

use http::Uri;
use hyper::body::Incoming;
use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;
use warp::Reply;
use warp::reply::Response;

use super::client_api;
use super::connections::Routes;
use super::late::{HELD_FOR, Late};
use super::page;
use super::params::Params;
use crate::telemetry::recovery::RECOVERY;

const RECOVERING: &str = "the supernode is recovering, ask again";
const ENDING: &str = "the supernode is stopping, ask again";

/// Routes that come to be once the recovery is over. From then on this costs a request one load.
#[derive(Debug)]
pub struct Staged<R>(Arc<Stage<R>>);

#[derive(Debug)]
struct Stage<R> {
    routes: SetOnce<R>,
    /// The service ends before its recovery did.
    ended: CancellationToken,
}

impl<R> Clone for Staged<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R> Default for Staged<R> {
    fn default() -> Self {
        Self(Arc::new(Stage { routes: SetOnce::new(), ended: CancellationToken::new() }))
    }
}

impl<R> Staged<R> {
    /// The recovery is over: these answer, those that wait included.
    pub fn open(&self, routes: R) {
        // Whoever opens twice finds it open.
        let _ = self.0.routes.set(routes);
    }

    /// The recovery is given up, because the service ends: what waits for it is answered at once, and so is whatever comes.
    pub fn end(&self) {
        self.0.ended.cancel();
    }
}

impl<R: Routes + Sync> Routes for Staged<R> {
    async fn answer(&self, request: http::Request<Incoming>) -> Response {
        if let Some(routes) = self.0.routes.get() {
            return routes.answer(request).await;
        }
        let late = match meanwhile(request.uri()) {
            Meanwhile::Answer(known) => return known.answer().await,
            Meanwhile::Hold(late) => late,
        };
        tokio::select! {
            routes = self.0.routes.wait() => routes.answer(request).await,
            () = self.0.ended.cancelled() => late.answer(ENDING).into_response(),
            () = tokio::time::sleep(HELD_FOR) => late.answer(RECOVERING).into_response(),
        }
    }
}

/// What becomes of a request before the swarms are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    /// Needs no swarm.
    Answer(Known),
    /// For the swarms; answered like this if they take too long.
    Hold(Late),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Wait,
    Live,
    Ready,
    Metrics,
    Ping,
    Version,
    Page,
}

impl Known {
    async fn answer(self) -> Response {
        match self {
            Self::Wait => Late::Wait.answer(RECOVERING).into_response(),
            Self::Live => client_api::live().await.into_response(),
            Self::Ready => client_api::unready(&RECOVERY.to_string()).into_response(),
            Self::Metrics => client_api::rendered_metrics(),
            Self::Ping => client_api::ping().await.into_response(),
            Self::Version => client_api::version().await,
            Self::Page => page::page().await,
        }
    }
}

fn meanwhile(uri: &Uri) -> Meanwhile {
    match uri.path() {
        "/peer/task" if reports(uri.query().unwrap_or_default()) => Meanwhile::Hold(Late::Wait),
        "/peer/task" => Meanwhile::Answer(Known::Wait),
        "/peer/registry" => Meanwhile::Hold(Late::WaitAuth),
        "/live" => Meanwhile::Answer(Known::Live),
        "/ready" => Meanwhile::Answer(Known::Ready),
        "/metrics" => Meanwhile::Answer(Known::Metrics),
        "/_ping" => Meanwhile::Answer(Known::Ping),
        "/version" => Meanwhile::Answer(Known::Version),
        "/" => Meanwhile::Answer(Known::Page),
        _ => Meanwhile::Hold(Late::Unavailable),
    }
}

/// Whether a question brings a report, which an answer would acknowledge.
fn reports(query: &str) -> bool {
    let params = Params::of_query(query);
    let is = |name, value: &str| params.text(name).is_ok_and(|text| text == value);
    is("status", "702") || is("status", "701") && !is("range", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(target: &str) -> Meanwhile {
        meanwhile(&target.parse().expect("a URI"))
    }

    #[test]
    fn a_bare_question_is_told_to_wait_and_a_report_waits_to_be_taken_in() {
        for bare in ["status=700&result=502&range=", "status=701&result=502&range="] {
            assert_eq!(fate(&format!("/peer/task?{bare}")), Meanwhile::Answer(Known::Wait), "{bare}");
        }
        for report in ["status=701&result=503&range=0-4194303", "status=701&result=500&range=0-1", "status=702&result=501"] {
            assert_eq!(fate(&format!("/peer/task?{report}")), Meanwhile::Hold(Late::Wait), "{report}");
        }
    }

    #[test]
    fn what_must_be_durable_waits_and_what_needs_no_swarm_is_answered() {
        assert_eq!(fate("/peer/registry"), Meanwhile::Hold(Late::WaitAuth));
        for waits in ["/peer/piece/suc?taskId=1", "/peer/heartbeat", "/qtdown/abc/abcdef", "/peers"] {
            assert_eq!(fate(waits), Meanwhile::Hold(Late::Unavailable), "{waits}");
        }
        for answered in ["/live", "/ready", "/metrics", "/_ping", "/version", "/"] {
            assert!(matches!(fate(answered), Meanwhile::Answer(_)), "{answered}");
        }
    }
}
