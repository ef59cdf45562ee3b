//! How far one download is, and what its bodies add to it.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::body::{Body, Ends, Part};
use super::cutter::{Cut, Cutter, UNDURABLE_MAX, Undurable};
use super::{FetchError, Fetched, Known, Ledger, Start, blocking};
use crate::domain::piece::PIECES_MAX;
use crate::domain::{Generation, Md5Digest, PieceDigest, PieceSize, TaskSpec};
use crate::origin::{Answer, OriginError};
use crate::pieces::{Md5, PieceFile, Slot};

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
    /// Where the first answer did not tell the length, what a later one told of a part.
    pub told_length: Option<u64>,
    recovered: bool,
}

impl Download {
    pub fn new(start: Start) -> Self {
        Self {
            generation: start.generation,
            known: start.known,
            digests: start.stored,
            hash: Md5::new(),
            file: None,
            told_length: None,
            recovered: start.recovered,
        }
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
        self.recovered && !self.digests.is_empty() && !self.has_known_length() && self.file.is_none()
    }

    pub fn has_known_length(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.length.is_some())
    }

    pub fn fetched(&self) -> Fetched {
        Fetched { md5: Md5Digest(self.hash.digest()), length: self.next_byte() }
    }

    /// Takes in what the answer's headers say; an answer that contradicts an earlier one is of another content.
    pub async fn learn(&mut self, answer: &Answer, ledger: &impl Ledger) -> Result<Known, FetchError> {
        if let Some(known) = &self.known {
            let before = known.length.or(self.told_length);
            let lengths_differ = matches!((before, answer.length), (Some(before), Some(now)) if before != now);
            if lengths_differ || known.validators.contradict(&answer.validators) {
                return Err(OriginError::Changed.into());
            }
            self.told_length = before.or(answer.length);
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

    /// Stores the body, piece by piece, or compares it where it begins before what is stored already. While a part is
    /// being received, the one before it is hashed and written, and the piece before that is synced and recorded.
    pub async fn take_body(
        &mut self,
        spec: &TaskSpec,
        mut body: Body<'_>,
        file: &Arc<PieceFile>,
        ledger: &impl Ledger,
    ) -> Result<Fetched, FetchError> {
        // Nothing says that it belongs to what is stored, except that it is the same.
        let compared = if body.received == self.next_byte() { Vec::new() } else { self.digests.clone() };
        let first = u32::try_from(if compared.is_empty() { self.digests.len() } else { 0 }).unwrap_or(PIECES_MAX);
        let cutter = Cutter { file, piece_size: body.piece_size, length: body.length, compared, hash: self.hash.clone() };
        let undurable = Semaphore::new(UNDURABLE_MAX);
        let (to_cut, parts) = mpsc::channel(1);
        let (to_record, written) = mpsc::channel(1);
        let (received, cut, recorded) = tokio::join!(
            receive(&mut body, to_cut),
            cutter.cut(first, &undurable, parts, to_record, ledger),
            self.record(spec, written, file, ledger)
        );
        ledger.settled();
        // What went wrong last in the line stopped those before it.
        recorded?;
        cut?;
        received?;
        // Compared with what is stored, it ended before that does: it is another content.
        if body.received != self.next_byte() {
            return Err(OriginError::Changed.into());
        }
        check_md5(spec, &self.hash)?;
        Ok(self.fetched())
    }

    /// Takes a whole body that is too small to have a file.
    pub async fn take_small(
        &mut self,
        spec: &TaskSpec,
        piece_size: PieceSize,
        part: &Part,
        ledger: &impl Ledger,
    ) -> Result<Fetched, FetchError> {
        let mut hash = self.hash.clone();
        hash.update(part.slot.content());
        check_md5(spec, &hash)?;
        let slot = Slot::wrap(piece_size, part.slot.content());
        let digest = slot.digest();
        ledger.stored_small(slot).await?;
        self.hash = hash;
        self.digests.push(digest);
        Ok(self.fetched())
    }

    /// Makes pieces durable, one after the other.
    async fn record(
        &mut self,
        spec: &TaskSpec,
        mut written: mpsc::Receiver<Undurable<'_>>,
        file: &Arc<PieceFile>,
        ledger: &impl Ledger,
    ) -> Result<(), FetchError> {
        while let Some(written) = written.recv().await {
            let file = file.clone();
            blocking(move || file.sync()).await?;
            let Undurable::Piece(Cut { piece, digest, hash, last, undurable: _undurable }) = written else { continue };
            if last {
                check_md5(spec, &hash)?;
            }
            ledger.stored(piece, digest).await?;
            self.hash = hash;
            self.digests.push(digest);
        }
        Ok(())
    }
}

/// Hands the parts of a body on until it ends, or until nobody takes them.
async fn receive(body: &mut Body<'_>, to_cut: mpsc::Sender<Part>) -> Result<(), FetchError> {
    loop {
        let part = tokio::select! {
            part = body.next_part() => part?,
            () = to_cut.closed() => return Ok(()),
        };
        let last = part.ends == Ends::Body;
        if to_cut.send(part).await.is_err() || last {
            return Ok(());
        }
    }
}

/// A client that knows the content's md5 is never given the last piece of anything else.
pub(super) fn check_md5(spec: &TaskSpec, hash: &Md5) -> Result<Md5Digest, FetchError> {
    let found = Md5Digest(hash.digest());
    match &spec.md5 {
        Some(expected) if *expected != found.to_string() => Err(FetchError::Md5 { found, expected: expected.clone() }),
        _ => Ok(found),
    }
}
