//! A source's body, cut into slots.

use bytes::Bytes;

use super::FetchError;
use super::limits::Flow;
use super::pace::Pace;
use super::throttle::Account;
use crate::domain::PieceSize;
use crate::origin::Answer;
use crate::pieces::{Slot, SlotBuilder};

/// A body as a run of slots.
pub(super) struct Body<'a> {
    pub answer: &'a mut Answer,
    flow: &'a Flow,
    pace: Pace,
    taken: Account,
    piece_size: PieceSize,
    pub length: Option<u64>,
    pub received: u64,
    /// Bytes that came with the last slot and belong to the next.
    rest: Bytes,
}

impl<'a> Body<'a> {
    pub fn new(answer: &'a mut Answer, flow: &'a Flow, piece_size: PieceSize, length: Option<u64>) -> Self {
        Self {
            received: answer.start,
            answer,
            flow,
            pace: Pace::default(),
            taken: Account::new(),
            piece_size,
            length,
            rest: Bytes::new(),
        }
    }

    /// The next slot, and whether it is the last. Where the length is unknown, a slot is known not to be the last only
    /// when a byte after it has come.
    pub async fn next_slot(&mut self) -> Result<(Slot, bool), FetchError> {
        let expected = self.length.map_or(u64::MAX, |length| length.saturating_sub(self.received));
        let mut slot = SlotBuilder::new(self.piece_size, expected);
        loop {
            let taken = slot.fill(&self.rest);
            self.received += taken as u64;
            self.rest = self.rest.slice(taken..);
            match self.length {
                Some(length) if self.received > length || (self.received == length && !self.rest.is_empty()) => {
                    return Err(FetchError::Length { sent: self.received + self.rest.len() as u64, announced: length });
                }
                Some(length) if self.received == length => return Ok((slot.finish(), true)),
                Some(_) | None => {}
            }
            if slot.free() == 0 && (self.length.is_some() || !self.rest.is_empty()) {
                return Ok((slot.finish(), false));
            }
            let limits = self.flow.limits();
            match self.pace.chunk(self.answer, limits.source_rate_min).await? {
                Some(chunk) => {
                    self.flow.throttle.take(chunk.len() as u64, &mut self.taken, limits.task_rate_bytes_per_s).await;
                    self.rest = chunk;
                }
                None => return Ok((slot.finish(), true)),
            }
        }
    }
}
