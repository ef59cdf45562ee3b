//! Parts of a body become pieces: hashed and written as they come.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use super::body::{Ends, Part};
use super::{FetchError, Ledger, LedgerError, blocking};
use crate::domain::piece::PIECES_MAX;
use crate::domain::{PieceDigest, PieceNumber, PieceSize};
use crate::origin::OriginError;
use crate::pieces::{Md5, PieceFile, PieceFileError, SlotPart, SlotWriter};

/// Pieces that may be written and not durable: one that is being written, and one that is being synced and recorded.
pub(super) const UNDURABLE_MAX: usize = 2;

/// Bytes of a slot after which they are put on the disk, though more are to come: so the last of a large one, for which
/// everybody waits, has little left to do.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// What was written, and may not be on the disk yet.
pub(super) enum Undurable<'a> {
    Part,
    Piece(Cut<'a>),
}

/// A piece that is written whole.
pub(super) struct Cut<'a> {
    pub piece: PieceNumber,
    pub digest: PieceDigest,
    /// Over the content up to the end of it.
    pub hash: Md5,
    pub last: bool,
    /// Given back once it is durable.
    pub undurable: SemaphorePermit<'a>,
}

/// Where the pieces of a body go.
pub(super) struct Cutter<'a> {
    pub file: &'a Arc<PieceFile>,
    pub piece_size: PieceSize,
    pub length: Option<u64>,
    /// Pieces that are stored: those of the body must be the same, and are not written.
    pub compared: Vec<PieceDigest>,
    /// Over the content before the first piece that is not compared.
    pub hash: Md5,
}

/// A slot with another part.
pub(super) enum Written {
    Open(SlotWriter),
    Whole(PieceDigest),
}

/// Adds a part to a slot, which is whole if it `ends` with that: hashes it, there and in the `whole` content, and writes
/// it at the same time.
pub(super) async fn add(
    mut writer: SlotWriter,
    part: SlotPart,
    ends: bool,
    whole: Option<&mut Md5>,
) -> Result<Written, PieceFileError> {
    let part = Arc::new(part);
    let writing = writer.place(&part).map(|place| {
        let part = part.clone();
        blocking(move || place.write(&part))
    });
    let writing = async { if let Some(writing) = writing { writing.await } else { Ok(()) } };
    let (part, mut hash) = (part.clone(), whole.as_deref().cloned());
    let hashing = blocking(move || {
        writer.hash(&part, hash.as_mut());
        (writer, hash)
    });
    let (written, (writer, hash)) = tokio::join!(writing, hashing);
    written?;
    if let (Some(whole), Some(hash)) = (whole, hash) {
        *whole = hash;
    }
    Ok(if ends { Written::Whole(blocking(move || writer.finish()).await?) } else { Written::Open(writer) })
}

impl Cutter<'_> {
    /// Cuts until the body ends. `undurable` bounds how far the disk may be behind.
    pub async fn cut<'s>(
        mut self,
        first: u32,
        undurable: &'s Semaphore,
        mut parts: mpsc::Receiver<Part>,
        to_record: mpsc::Sender<Undurable<'s>>,
        ledger: &impl Ledger,
    ) -> Result<(), FetchError> {
        let mut piece = first;
        let (mut open, mut unsynced) = (None, 0);
        loop {
            let part = tokio::select! {
                part = parts.recv() => part,
                // Whoever records them has failed, and says so.
                () = to_record.closed() => None,
            };
            let Some(Part { slot, ends }) = part else { return Ok(()) };
            let (writer, permit) = match open.take() {
                Some(begun) => begun,
                None => (self.begin(piece, slot.content())?, undurable.acquire().await.map_err(|_| LedgerError::Stopping)?),
            };
            let bytes = slot.bytes().len() as u64;
            let compares = (piece as usize) < self.compared.len();
            if !compares {
                ledger.storing(slot.bytes().len()).await?;
            }
            let whole = (!compares).then_some(&mut self.hash);
            match add(writer, slot, ends != Ends::Nothing, whole).await? {
                Written::Open(writer) => {
                    open = Some((writer, permit));
                    unsynced += bytes;
                    if unsynced >= SYNC_BYTES && to_record.try_send(Undurable::Part).is_ok() {
                        unsynced = 0;
                    }
                }
                Written::Whole(digest) if compares => {
                    if self.compared.get(piece as usize) != Some(&digest) {
                        return Err(OriginError::Changed.into());
                    }
                    piece += 1;
                }
                Written::Whole(digest) => {
                    let (hash, last) = (self.hash.clone(), ends == Ends::Body);
                    let cut = Cut { piece: PieceNumber(piece), digest, hash, last, undurable: permit };
                    unsynced = 0;
                    if to_record.send(Undurable::Piece(cut)).await.is_err() {
                        // Whoever records them has failed, and says so.
                        return Ok(());
                    }
                    piece += 1;
                }
            }
        }
    }

    fn begin(&self, piece: u32, content: &[u8]) -> Result<SlotWriter, FetchError> {
        let number = PieceNumber(piece);
        let start = self.piece_size.content_start(number);
        if piece >= PIECES_MAX {
            return Err(FetchError::TooLong(start));
        }
        if let Some(stored) = self.compared.get(piece as usize) {
            return Ok(SlotWriter::unwritten(self.piece_size, number, stored.content_len));
        }
        // A body that goes on where the stored pieces end, and has nothing, is of a source that ends elsewhere.
        if content.is_empty() && piece > 0 {
            return Err(OriginError::Changed.into());
        }
        let full = self.piece_size.content_bytes();
        let rest = self.length.map_or(u64::MAX, |length| length.saturating_sub(start));
        let expected = u32::try_from(rest).unwrap_or(full).min(full);
        Ok(SlotWriter::new(self.file.clone(), self.piece_size, number, expected))
    }
}
