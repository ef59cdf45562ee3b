//! A source's body, cut into parts of slots.

use bytes::Bytes;

use super::{FetchError, Throttle};
use crate::domain::PieceSize;
use crate::origin::Answer;

/// Bytes of a part: enough to be worth a thread's attention. A download has three at most in memory: one that is being
/// filled, one that waits, and one that is being written.
const PART_BYTES: u64 = 512 * 1024;

/// What ends with a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    Nothing,
    Slot,
    /// The last slot, and the body.
    Body,
}

/// Bytes that follow each other in one slot.
#[derive(Debug)]
pub(super) struct Part {
    pub content: Vec<u8>,
    pub ends: Ends,
}

/// A body as a run of parts.
pub(super) struct Body<'a> {
    answer: &'a mut Answer,
    throttle: &'a Throttle,
    pub piece_size: PieceSize,
    pub length: Option<u64>,
    /// The byte of the content up to which it was handed out.
    pub received: u64,
    /// Bytes that came with the last part and belong to the next.
    rest: Bytes,
}

impl<'a> Body<'a> {
    pub fn new(answer: &'a mut Answer, throttle: &'a Throttle, piece_size: PieceSize, length: Option<u64>) -> Self {
        Self { received: answer.start, answer, throttle, piece_size, length, rest: Bytes::new() }
    }

    /// The next part. Where the length is unknown, a slot is known not to be the last only when a byte after it has come.
    pub async fn next_part(&mut self) -> Result<Part, FetchError> {
        let slot = u64::from(self.piece_size.content_bytes());
        let slot_rest = slot - self.received % slot;
        let end = self.received + slot_rest.min(PART_BYTES);
        let foreseen = self.length.map_or(0, |length| length.min(end).saturating_sub(self.received));
        let mut content = Vec::with_capacity(usize::try_from(foreseen).unwrap_or(0));
        loop {
            let taken = usize::try_from(end - self.received).unwrap_or(usize::MAX).min(self.rest.len());
            content.extend_from_slice(&self.rest.split_to(taken));
            self.received += taken as u64;
            match self.length {
                Some(length) if self.received > length || (self.received == length && !self.rest.is_empty()) => {
                    return Err(FetchError::Length { sent: self.received + self.rest.len() as u64, announced: length });
                }
                Some(length) if self.received == length => return Ok(Part { content, ends: Ends::Body }),
                Some(_) | None => {}
            }
            let is_slot_end = self.received.is_multiple_of(slot);
            if self.received == end && !is_slot_end {
                return Ok(Part { content, ends: Ends::Nothing });
            }
            if self.received == end && (self.length.is_some() || !self.rest.is_empty()) {
                return Ok(Part { content, ends: Ends::Slot });
            }
            match self.answer.chunk().await? {
                Some(chunk) => {
                    self.throttle.take(chunk.len() as u64).await;
                    self.rest = chunk;
                }
                None => match self.length {
                    Some(announced) => return Err(FetchError::Length { sent: self.received, announced }),
                    None => return Ok(Part { content, ends: Ends::Body }),
                },
            }
        }
    }
}
