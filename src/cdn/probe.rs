//! Sources that clients fetch from by themselves: only asked, never fetched.

use super::patience::Patience;
use super::{FetchError, Worker};
use crate::domain::{TaskSpec, Validators};
use crate::origin::{Freshness, OriginError, Probed};

/// What would do for a file that is fetched here may not for one that clients fetch there.
fn unfit(error: OriginError) -> FetchError {
    match error {
        OriginError::RangeIgnored | OriginError::LengthUnknown | OriginError::IsPart => FetchError::Unfit(error),
        error => error.into(),
    }
}

impl Worker {
    /// Asks what the source has and whether it sends parts of that; again where it failed in a way that may pass.
    pub async fn probe(&self, spec: &TaskSpec) -> Result<Probed, FetchError> {
        let visit = self.places.visit(spec);
        let mut attempts = 0;
        loop {
            let asked = visit.ask(async { self.source.probe(spec).await.map_err(unfit) }).await;
            let Err(error) = asked else { return asked };
            attempts += 1;
            let Some(wait) = Patience::FIRST.wait(&error, attempts) else { return Err(error) };
            tracing::info!(task = %spec.id, url = %crate::domain::task::redacted_url(&spec.raw_url), attempts, wait_ms = wait.as_millis(), error = &error as &dyn std::error::Error, "source failed, asking again");
            tokio::time::sleep(wait).await;
        }
    }

    /// Asks whether a source is still what it was when it was probed.
    pub async fn probe_again(
        &self,
        spec: &TaskSpec,
        validators: &Validators,
        length: Option<u64>,
    ) -> Result<Freshness, FetchError> {
        self.places.visit(spec).ask(self.source.probe_again(spec, validators, length)).await
    }
}
