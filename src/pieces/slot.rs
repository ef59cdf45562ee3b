//! One slot: written part by part, or small enough to be had whole.

use std::sync::Arc;

use super::{Md5, PieceFile, PieceFileError};
use crate::domain::piece::{TAIL, WRAPPING_BYTES};
use crate::domain::{Md5Digest, PieceDigest, PieceNumber, PieceSize};

/// Bytes of header before a piece's content.
pub const HEADER_BYTES: usize = 4;
/// Read back at once. Bytes.
const READ_BYTES: usize = 512 * 1024;

/// A complete slot: header, content and tail.
#[derive(Debug)]
pub struct Slot {
    pub(super) bytes: Vec<u8>,
}

impl Slot {
    /// Wraps content, which must be no more than a slot holds.
    pub fn wrap(piece_size: PieceSize, content: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(content.len() + WRAPPING_BYTES as usize);
        bytes.extend_from_slice(&piece_size.header(length_of(content)));
        bytes.extend_from_slice(content);
        bytes.push(TAIL);
        Self { bytes }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes of the source in it.
    pub fn content(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..self.bytes.len() - 1]
    }

    pub fn digest(&self) -> PieceDigest {
        PieceDigest { md5: Md5Digest(Md5::of(&self.bytes)), content_len: length_of(self.content()) }
    }
}

/// Content that follows in one slot: the first of it with the header before, the last with the tail behind. So the parts
/// lie in memory as they lie in the file, page by page: the kernel copies what does not at half the speed.
#[derive(Debug)]
pub struct SlotPart {
    bytes: Vec<u8>,
    content_at: usize,
    content_end: usize,
}

impl SlotPart {
    /// An empty part, with memory for so much content. The first of a slot says how much will be in that.
    pub fn new(header: Option<[u8; HEADER_BYTES]>, expected_content: usize) -> Self {
        let mut bytes = Vec::with_capacity(expected_content + WRAPPING_BYTES as usize);
        bytes.extend_from_slice(header.as_ref().map_or(&[], <[u8; HEADER_BYTES]>::as_slice));
        Self { content_at: bytes.len(), content_end: bytes.len(), bytes }
    }

    pub fn content(&self) -> &[u8] {
        &self.bytes[self.content_at..self.content_end]
    }

    /// As they are in the file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn push(&mut self, content: &[u8]) {
        self.bytes.extend_from_slice(content);
        self.content_end = self.bytes.len();
    }

    /// Ends the slot.
    pub fn close(&mut self) {
        self.bytes.push(TAIL);
    }
}

/// A slot that is hashed as it comes, and written where it has a file.
///
/// Its header says how much it holds and comes first in its hash, so that has to be foreseen. Where the source ends
/// before it was expected to, what was written is read back.
#[derive(Debug)]
pub struct SlotWriter {
    file: Option<Arc<PieceFile>>,
    piece: PieceNumber,
    piece_size: PieceSize,
    expected_content: u32,
    content_len: u32,
    hash: Md5,
}

impl SlotWriter {
    /// Begins a slot that will hold so much content.
    pub fn new(file: Arc<PieceFile>, piece_size: PieceSize, piece: PieceNumber, expected_content: u32) -> Self {
        Self { file: Some(file), ..Self::unwritten(piece_size, piece, expected_content) }
    }

    /// Begins a slot that is compared with one that is stored, and written nowhere.
    pub fn unwritten(piece_size: PieceSize, piece: PieceNumber, expected_content: u32) -> Self {
        let mut hash = Md5::new();
        hash.update(&piece_size.header(expected_content));
        Self { file: None, piece, piece_size, expected_content, content_len: 0, hash }
    }

    pub const fn piece(&self) -> PieceNumber {
        self.piece
    }

    /// Where the next part goes, if it is written.
    pub fn place(&self, part: &SlotPart) -> Option<Place> {
        let file = self.file.clone()?;
        let before = if part.content_at > 0 { 0 } else { HEADER_BYTES as u64 + u64::from(self.content_len) };
        Some(Place { file, offset: self.piece_size.slot_start(self.piece) + before })
    }

    /// Takes the next part into the slot's digest and, in the same time, into that of the whole content.
    pub fn hash(&mut self, part: &SlotPart, whole: Option<&mut Md5>) {
        let of_slot = &part.bytes[part.content_at..];
        match whole {
            Some(whole) => Md5::update_both((&mut self.hash, of_slot), (whole, part.content())),
            None => self.hash.update(of_slot),
        }
        self.content_len += length_of(part.content());
    }

    /// Tells what the slot is, after its last part. It may be served once its file is synced, not before.
    pub fn finish(mut self) -> Result<PieceDigest, PieceFileError> {
        if let Some(file) = self.file.take().filter(|_| self.content_len != self.expected_content) {
            file.write_at(&self.piece_size.header(self.content_len), self.piece_size.slot_start(self.piece))?;
            self.hash = self.hash_anew(&file)?;
        }
        Ok(PieceDigest { md5: Md5Digest(self.hash.digest()), content_len: self.content_len })
    }

    fn hash_anew(&self, file: &PieceFile) -> Result<Md5, PieceFileError> {
        let mut hash = Md5::new();
        let mut at = self.piece_size.slot_start(self.piece);
        let end = at + u64::from(self.content_len + WRAPPING_BYTES);
        let mut buffer = vec![0; READ_BYTES];
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(READ_BYTES).min(READ_BYTES);
            file.read_exact_at(&mut buffer[..length], at)?;
            hash.update(&buffer[..length]);
            at += length as u64;
        }
        Ok(hash)
    }
}

/// Where a part goes.
#[derive(Debug)]
pub struct Place {
    file: Arc<PieceFile>,
    offset: u64,
}

impl Place {
    /// Writes it there.
    pub fn write(&self, part: &SlotPart) -> Result<(), PieceFileError> {
        self.file.write_at(&part.bytes, self.offset)
    }
}

fn length_of(content: &[u8]) -> u32 {
    u32::try_from(content.len()).unwrap_or(u32::MAX)
}
