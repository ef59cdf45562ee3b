//! How far one download is, and what its bodies add to it.

use std::sync::Arc;

use md5::{Digest, Md5};

use super::body::Body;
use super::{FetchError, Fetched, Known, Ledger, Start, blocking};
use crate::domain::piece::PIECES_MAX;
use crate::domain::{Generation, Md5Digest, PieceDigest, PieceNumber, PieceSize, TaskSpec};
use crate::origin::{Answer, OriginError};
use crate::pieces::{PieceFile, PieceFileError, Slot};

/// How far one download is.
#[derive(Debug)]
pub(super) struct Download {
    pub generation: Generation,
    pub known: Option<Known>,
    /// Stored pieces, from the first on.
    pub digests: Vec<PieceDigest>,
    /// Over the content of the stored pieces.
    pub hash: Md5,
    pub file: Option<Arc<PieceFile>>,
}

impl Download {
    pub fn new(start: Start) -> Self {
        Self { generation: start.generation, known: start.known, digests: start.stored, hash: Md5::new(), file: None }
    }

    /// The first byte of the source that is not stored.
    pub fn next_byte(&self) -> u64 {
        self.digests.iter().map(|digest| u64::from(digest.content_len)).sum()
    }

    /// Whether the process before this one stored the last piece, and only did not come to say so.
    pub fn is_complete(&self) -> bool {
        let (Some(known), Some(last)) = (&self.known, self.digests.last()) else { return false };
        known.length.map_or(last.content_len < known.piece_size.content_bytes(), |length| length == self.next_byte())
    }

    /// Whether the process before this one may have stored the last byte without coming to know that it was. While a body
    /// is taken, a piece is stored as one of several only after a byte of the next has come.
    pub fn may_be_complete(&self) -> bool {
        !self.digests.is_empty() && !self.has_known_length() && self.file.is_none()
    }

    pub fn has_known_length(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.length.is_some())
    }

    pub fn fetched(&self) -> Fetched {
        Fetched { md5: Md5Digest(self.hash.clone().finalize().into()), length: self.next_byte() }
    }

    /// Takes in what the answer's headers say; an answer that contradicts an earlier one is of another content.
    pub async fn learn(&mut self, answer: &Answer, ledger: &impl Ledger) -> Result<Known, FetchError> {
        if let Some(known) = &self.known {
            let lengths_differ = matches!((known.length, answer.length), (Some(before), Some(now)) if before != now);
            if lengths_differ || known.validators.contradict(&answer.validators) {
                return Err(OriginError::Changed.into());
            }
            return Ok(known.clone());
        }
        if let Some(length) = answer.length {
            let pieces = PieceSize::for_length(Some(length)).piece_count(length);
            // Clients read lengths as signed 64 bit numbers.
            if pieces.is_none() || i64::try_from(length).is_err() {
                return Err(FetchError::TooLong(length));
            }
        }
        let piece_size = ledger.answered(answer.length, answer.validators.clone()).await?;
        Ok(self.known.insert(Known { piece_size, length: answer.length, validators: answer.validators.clone() }).clone())
    }

    /// Cuts the body into pieces and stores them. While one is being stored, the next is being filled.
    pub async fn take_body(
        &mut self,
        spec: &TaskSpec,
        mut body: Body<'_>,
        file: &Arc<PieceFile>,
        ledger: &impl Ledger,
    ) -> Result<Fetched, FetchError> {
        let mut received = body.answer.start;
        let mut next = body.next_slot().await?;
        loop {
            let (slot, last) = next;
            received += slot.content().len() as u64;
            if last && body.length.is_some_and(|length| length != received) {
                return Err(FetchError::Length { sent: received, announced: body.length.unwrap_or_default() });
            }
            if last {
                self.take_slot(spec, slot, received, true, file, ledger).await?;
                // Compared with what is stored, it ended before that does: it is another content.
                if received != self.next_byte() {
                    return Err(OriginError::Changed.into());
                }
                check_md5(spec, &self.hash)?;
                return Ok(self.fetched());
            }
            // A broken body must not cost the piece before it: store first, then look at what came.
            let (stored, following) = tokio::join!(self.take_slot(spec, slot, received, false, file, ledger), body.next_slot());
            stored?;
            next = following?;
        }
    }

    /// Stores a slot, or compares it where the body began before what is stored already.
    async fn take_slot(
        &mut self,
        spec: &TaskSpec,
        slot: Slot,
        received: u64,
        last: bool,
        file: &Arc<PieceFile>,
        ledger: &impl Ledger,
    ) -> Result<(), FetchError> {
        if received <= self.next_byte() && !self.digests.is_empty() {
            return self.compare_slot(slot, received).await;
        }
        let piece = u32::try_from(self.digests.len()).ok().filter(|piece| *piece < PIECES_MAX).map(PieceNumber);
        let piece = piece.ok_or(FetchError::TooLong(received))?;
        let slot = Arc::new(slot);
        // Two hashes over the same bytes: on two cores they cost the time of one.
        let (hashed, written) = {
            let (mut hash, slot_to_hash) = (self.hash.clone(), slot.clone());
            let hashing = blocking(move || {
                hash.update(slot_to_hash.content());
                hash
            });
            let file = file.clone();
            let writing = blocking(move || {
                let digest = slot.digest();
                file.write(piece, &slot)?;
                file.sync()?;
                Ok::<_, PieceFileError>(digest)
            });
            tokio::join!(hashing, writing)
        };
        let digest = written?;
        if last {
            check_md5(spec, &hashed)?;
        }
        ledger.stored(piece, digest).await?;
        self.hash = hashed;
        self.digests.push(digest);
        Ok(())
    }

    /// The source would not send the rest alone: what it sends again must be what is stored.
    async fn compare_slot(&self, slot: Slot, received: u64) -> Result<(), FetchError> {
        let digest = blocking(move || slot.digest()).await;
        let mut end = 0;
        let stored = self.digests.iter().find(|stored| {
            end += u64::from(stored.content_len);
            end == received
        });
        if stored == Some(&digest) { Ok(()) } else { Err(OriginError::Changed.into()) }
    }
}

/// A client that knows the content's md5 is never given the last piece of anything else.
pub(super) fn check_md5(spec: &TaskSpec, hash: &Md5) -> Result<(), FetchError> {
    let found = Md5Digest(hash.clone().finalize().into());
    match &spec.md5 {
        Some(expected) if *expected != found.to_string() => Err(FetchError::Md5 { found, expected: expected.clone() }),
        _ => Ok(()),
    }
}
