//! Documents that are read whole, such as manifests, from sources that may be busy.

use tokio::time::{Instant, sleep};

use super::patience::Patience;
use super::{FetchError, Worker};
use crate::domain::TaskSpec;

impl Worker {
    /// Reads a document with what came with the task. It is asked for again as a file would be, and not beyond `deadline`:
    /// what the last attempt met is told in time.
    pub async fn read(&self, spec: &TaskSpec, url: &str, accept: &'static str, deadline: Instant) -> Result<Vec<u8>, FetchError> {
        let visit = self.places.visit(spec);
        let mut attempts = 0;
        loop {
            let reading = async { self.source.read(spec, url, accept).await?.into_body() };
            let error = match visit.ask(reading).await {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            // One that made room for others has not failed, and is asked again for as long as there is time.
            attempts += u32::from(!matches!(error, FetchError::GaveWay { .. }));
            let in_time =
                |wait: std::time::Duration| deadline.checked_duration_since(Instant::now()).is_some_and(|left| wait < left);
            let Some(wait) = Patience::LATER.wait(&error, attempts.max(1)).filter(|wait| in_time(*wait)) else {
                return Err(error);
            };
            let url = crate::domain::task::redacted_url(url);
            tracing::info!(
                url,
                attempts,
                wait_ms = wait.as_millis(),
                error = &error as &dyn std::error::Error,
                "document cannot be read, asking again"
            );
            sleep(wait).await;
        }
    }
}
