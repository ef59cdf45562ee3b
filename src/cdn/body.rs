//! A source's body, cut into parts of slots.

use bytes::Bytes;

use super::FetchError;
use super::bodies::Taken;
use super::limits::Flow;
use super::pace::Pace;
use super::throttle::Account;
use crate::domain::PieceSize;
use crate::origin::Answer;
use crate::pieces::{HEADER_BYTES, SlotPart};

/// Bytes of a part in the file: whole pages, and enough to be worth a thread's attention. A download has three at most in memory: one that is being
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
    pub slot: SlotPart,
    pub ends: Ends,
}

/// A body as a run of parts.
pub(super) struct Body<'a> {
    answer: &'a mut Answer,
    flow: &'a Flow,
    /// Free again once the body is dropped, which is when nothing of it is being written any more.
    place: Taken<'a>,
    pace: Pace,
    taken: Account,
    pub piece_size: PieceSize,
    pub length: Option<u64>,
    /// The byte of the content up to which it was handed out.
    pub received: u64,
    /// Bytes that came with the last part and belong to the next.
    rest: Bytes,
}

impl<'a> Body<'a> {
    pub fn new(answer: &'a mut Answer, flow: &'a Flow, place: Taken<'a>, piece_size: PieceSize, length: Option<u64>) -> Self {
        Self {
            received: answer.start,
            answer,
            flow,
            place,
            pace: Pace::default(),
            taken: Account::new(),
            piece_size,
            length,
            rest: Bytes::new(),
        }
    }

    /// The next part. Where the length is unknown, a slot is known not to be the last only when a byte after it has come.
    pub async fn next_part(&mut self) -> Result<Part, FetchError> {
        let (mut part, end) = self.begin_part();
        loop {
            let taken = usize::try_from(end - self.received).unwrap_or(usize::MAX).min(self.rest.len());
            part.push(&self.rest.split_to(taken));
            self.received += taken as u64;
            if let Some(ends) = self.ends(end)? {
                return Ok(finish(part, ends));
            }
            let rate_min = self.flow.limits().source_rate_min;
            match self.pace.chunk(self.answer, rate_min, || self.place.demand()).await? {
                Some(chunk) => {
                    let task_rate = || self.flow.limits().task_rate_bytes_per_s;
                    self.flow.throttle.take(chunk.len() as u64, &mut self.taken, task_rate).await;
                    self.rest = chunk;
                }
                None => match self.length {
                    Some(announced) => return Err(FetchError::Length { sent: self.received, announced }),
                    None => return Ok(finish(part, Ends::Body)),
                },
            }
        }
    }

    /// An empty part, and the byte of the content at which it ends at the latest.
    fn begin_part(&self) -> (SlotPart, u64) {
        let slot = u64::from(self.piece_size.content_bytes());
        let in_slot = self.received % slot;
        let slot_end = self.received - in_slot + slot;
        // In the file, the first part of a slot begins with the header.
        let end = if in_slot == 0 { self.received + PART_BYTES - HEADER_BYTES as u64 } else { self.received + PART_BYTES };
        let end = end.min(slot_end);
        let length = |end: u64| self.length.map(|length| length.min(end).saturating_sub(self.received));
        let expected = u32::try_from(length(slot_end).unwrap_or(slot)).unwrap_or(u32::MAX);
        let header = (in_slot == 0).then(|| self.piece_size.header(expected));
        (SlotPart::new(header, usize::try_from(length(end).unwrap_or(0)).unwrap_or(0)), end)
    }

    /// What has ended with the bytes received so far, if anything has.
    fn ends(&self, part_end: u64) -> Result<Option<Ends>, FetchError> {
        match self.length {
            Some(length) if self.received > length || (self.received == length && !self.rest.is_empty()) => {
                return Err(FetchError::Length { sent: self.received + self.rest.len() as u64, announced: length });
            }
            Some(length) if self.received == length => return Ok(Some(Ends::Body)),
            Some(_) | None => {}
        }
        if self.received < part_end {
            return Ok(None);
        }
        if !self.received.is_multiple_of(self.piece_size.content_bytes().into()) {
            return Ok(Some(Ends::Nothing));
        }
        Ok((self.length.is_some() || !self.rest.is_empty()).then_some(Ends::Slot))
    }
}

fn finish(mut slot: SlotPart, ends: Ends) -> Part {
    if ends != Ends::Nothing {
        slot.close();
    }
    Part { slot, ends }
}
