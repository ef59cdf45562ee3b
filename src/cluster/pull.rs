//! What members of a task ask and report.

use std::ops::RangeInclusive;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::cell::{Cell, Woken};
use super::{CallError, Cluster};
use crate::domain::{ClientId, TaskId};
use crate::swarm::{Decision, Effects, Event, Refusal, Report, Swarm};
use crate::telemetry::metrics::METRICS;

/// What a client tells about itself or about a range of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Started,
    /// Nothing: it only asks.
    Nothing,
    Held(RangeInclusive<u64>),
    Servable(RangeInclusive<u64>),
    Failed {
        range: RangeInclusive<u64>,
        server: Option<ClientId>,
    },
    Finished {
        success: bool,
    },
    ServiceDown,
}

impl Told {
    /// The report it is, now that the size of the task's pieces is at hand.
    fn into_report(self, swarm: &Swarm) -> Result<Report, Refusal> {
        Ok(match self {
            Self::Started => Report::Started,
            Self::Nothing => Report::Asked,
            Self::Held(range) => Report::PieceHeld(swarm.piece_of_range(&range)?),
            Self::Servable(range) => Report::PieceServable(swarm.piece_of_range(&range)?),
            Self::Failed { range, server } => Report::PieceFailed { piece: swarm.piece_of_range(&range)?, server },
            Self::Finished { success } => Report::Finished { success },
            Self::ServiceDown => Report::ServiceDown,
        })
    }
}

impl Cluster {
    /// Takes a report in. Returns once it is durable.
    pub async fn report(&self, task: &TaskId, client: ClientId, told: Told) -> Result<(), CallError> {
        let cell = self.cell(task)?;
        let room = self.committer.room().await?;
        let mut effects = Effects::default();
        let ticket = {
            let mut inner = cell.live()?;
            let report = told.into_report(&inner.swarm)?;
            inner.heard_from(&client);
            let now = self.now();
            inner.touch(now);
            inner.swarm.handle(now, Event::FromClient { client, report }, &mut effects)?;
            inner.submit(room, &mut effects)
        };
        // Whoever is woken waits for the same ticket before it is answered; and if this client hangs up, it is woken still.
        cell.wake(effects.openings);
        ticket.durable().await?;
        Ok(())
    }

    /// Takes a report in and decides what the client should do. Returns once everything that the answer speaks of is
    /// durable; with nothing to do, it waits a while for something to turn up.
    pub async fn pull(self: &Arc<Self>, task: &TaskId, client: ClientId, told: Told) -> Result<Decision, CallError> {
        let cell = self.cell(task)?;
        let room = self.committer.room().await?;
        let mut effects = Effects::default();
        let (decision, ticket) = {
            let mut inner = cell.live()?;
            let report = told.into_report(&inner.swarm)?;
            let now = self.now();
            inner.touch(now);
            inner.swarm.handle(now, Event::FromClient { client: client.clone(), report }, &mut effects)?;
            let deciding = Instant::now();
            let decision = inner.decide(now, &client, &mut effects);
            METRICS.schedule_duration.observe(deciding.elapsed().as_secs_f64() * 1000.0);
            (decision, inner.submit(room, &mut effects))
        };
        cell.wake(effects.openings);
        if let Some(piece) = effects.suspect {
            self.look_at_piece(&cell, piece);
        }
        ticket.durable().await?;
        match decision {
            // A client with pieces on their way is answered at once: while it waits for us, it may be unable to report.
            Decision::Wait { .. } => self.hold(&cell, &client, decision).await,
            decision => Ok(decision),
        }
    }

    /// Holds a request until there is something to do, or until it has been held for long enough.
    async fn hold(&self, cell: &Cell, client: &ClientId, wait: Decision) -> Result<Decision, CallError> {
        let hold = self.config().hold;
        if hold.is_zero() {
            return Ok(wait);
        }
        let deadline = Instant::now() + hold;
        let mut draining = self.draining.subscribe();
        let held = Held::enter(cell, client);
        let mut woken = Woken::default();
        loop {
            let mut opening = std::pin::pin!(cell.openings.notified());
            // From here on no opening is missed, whatever happens between looking and waiting.
            opening.as_mut().enable();
            let now = self.look_again(cell, client).await?;
            if !matches!(now, Decision::Wait { .. }) {
                woken.used();
                return Ok(now);
            }
            // It found nothing, but another may.
            woken = Woken::default();
            tokio::select! {
                () = opening => woken = Woken::by(cell),
                () = held.waiting.notified() => {}
                () = tokio::time::sleep_until(deadline) => return Ok(now),
                _ = draining.wait_for(|draining| *draining) => return Ok(now),
            }
        }
    }

    /// What the client should do now.
    async fn look_again(&self, cell: &Cell, client: &ClientId) -> Result<Decision, CallError> {
        let room = self.committer.room().await?;
        let (decision, ticket) = {
            let mut inner = cell.live()?;
            let mut effects = Effects::default();
            let decision = inner.decide(self.now(), client, &mut effects);
            (decision, inner.submit(room, &mut effects))
        };
        ticket.durable().await?;
        Ok(decision)
    }
}

/// A client whose request is being held.
struct Held<'a> {
    cell: &'a Cell,
    client: &'a ClientId,
    /// Woken by the client's own reports.
    waiting: Arc<Notify>,
}

impl<'a> Held<'a> {
    fn enter(cell: &'a Cell, client: &'a ClientId) -> Self {
        let waiting = Arc::new(Notify::new());
        cell.lock().held.insert(client.clone(), waiting.clone());
        Self { cell, client, waiting }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut inner = self.cell.lock();
        // A later request of the same client may have taken its place.
        if inner.held.get(self.client).is_some_and(|waiting| Arc::ptr_eq(waiting, &self.waiting)) {
            inner.held.remove(self.client);
        }
    }
}
