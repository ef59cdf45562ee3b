//! What members of a task ask and report.

use std::ops::RangeInclusive;

use tokio::time::Instant;

use super::cell::Cell;
use super::{CallError, Cluster};
use crate::domain::{ClientId, TaskId};
use crate::swarm::{Decision, Effects, Event, Refusal, Report, Swarm};

/// What a client tells about itself or about a range of its file.
#[derive(Clone, Debug)]
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
            let mut inner = cell.lock();
            let report = told.into_report(&inner.swarm)?;
            inner.swarm.handle(self.now(), Event::FromClient { client, report }, &mut effects)?;
            inner.submit(room, &mut effects)
        };
        ticket.durable().await?;
        cell.wake(effects.openings);
        Ok(())
    }

    /// Takes a report in and decides what the client should do. Returns once everything that the answer speaks of is
    /// durable; with nothing to do, it waits a while for something to turn up.
    pub async fn pull(&self, task: &TaskId, client: ClientId, told: Told) -> Result<Decision, CallError> {
        let cell = self.cell(task)?;
        let room = self.committer.room().await?;
        let mut effects = Effects::default();
        let (decision, ticket) = {
            let mut inner = cell.lock();
            let report = told.into_report(&inner.swarm)?;
            let now = self.now();
            inner.swarm.handle(now, Event::FromClient { client: client.clone(), report }, &mut effects)?;
            let inner = &mut *inner;
            let decision = inner.swarm.decide(now, &mut inner.rng, &client);
            (decision, inner.submit(room, &mut effects))
        };
        ticket.durable().await?;
        cell.wake(effects.openings);
        match decision {
            Decision::Wait { .. } if !self.config.hold.is_zero() => self.hold(&cell, &client, decision).await,
            _ => Ok(decision),
        }
    }

    /// Holds a request until something can be handed out, or until it has been held for long enough.
    async fn hold(&self, cell: &Cell, client: &ClientId, waiting: Decision) -> Result<Decision, CallError> {
        let deadline = Instant::now() + self.config.hold;
        let mut draining = self.draining.subscribe();
        loop {
            let mut opening = std::pin::pin!(cell.openings.notified());
            // From here on no opening is missed, whatever happens between looking and waiting.
            opening.as_mut().enable();
            if let Some(found) = self.look_again(cell, client).await? {
                return Ok(found);
            }
            tokio::select! {
                () = opening => {}
                () = tokio::time::sleep_until(deadline) => return Ok(waiting),
                _ = draining.wait_for(|draining| *draining) => return Ok(waiting),
            }
        }
    }

    /// What the client should do now, unless that is to wait.
    async fn look_again(&self, cell: &Cell, client: &ClientId) -> Result<Option<Decision>, CallError> {
        let room = self.committer.room().await?;
        let (decision, ticket) = {
            let mut inner = cell.lock();
            let inner = &mut *inner;
            let decision = inner.swarm.decide(self.now(), &mut inner.rng, client);
            if matches!(decision, Decision::Wait { .. }) {
                return Ok(None);
            }
            (decision, inner.submit(room, &mut Effects::default()))
        };
        ticket.durable().await?;
        Ok(Some(decision))
    }
}
