//! Documents that are read whole, such as manifests, from sources that may be busy.

use tokio::time::{Instant, sleep};

use super::{ATTEMPTS_MAX, FetchError, Worker, backoff};
use crate::domain::TaskSpec;

impl Worker {
    /// Reads a document with what came with the task. It is asked for again as a file would be, and not beyond `deadline`:
    /// what the last attempt met is told in time.
    pub async fn read(&self, spec: &TaskSpec, url: &str, accept: &'static str, deadline: Instant) -> Result<Vec<u8>, FetchError> {
        let mut attempts = 0;
        loop {
            let asked = self.source.read(spec, url, accept).await;
            let error = match asked.and_then(|document| document.into_body()) {
                Ok(body) => return Ok(body),
                Err(error) => FetchError::from(error),
            };
            attempts += 1;
            let wait = backoff(attempts).max(error.retry_after().unwrap_or_default());
            let is_late = deadline.checked_duration_since(Instant::now()).is_none_or(|left| wait >= left);
            if !error.is_passing() || attempts == ATTEMPTS_MAX || is_late {
                return Err(error);
            }
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
