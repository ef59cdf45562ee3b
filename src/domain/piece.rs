//! A piece: a slot of the cached file, its size, range and digest.
//!
//! The cached file is a run of slots. Slot i starts at `i * piece_size` and holds a 4-byte big-endian header
//! `content_len | piece_size << 4`, at most `piece_size - 5` bytes of content, and one byte 0x7f. All slots but the
//! last are full, and there is always at least one: an empty source has one slot of 5 bytes.

use std::fmt;
use std::ops::RangeInclusive;

use super::{Md5Digest, PieceNumber};

/// Bytes of a slot that are not content: 4 of header and 1 of tail.
pub const WRAPPING_BYTES: u32 = 5;
/// The byte that ends every slot.
pub const TAIL: u8 = 0x7f;

/// The longest source whose content has no file of its own. Bytes.
pub const SMALL_CONTENT_MAX_BYTES: u64 = 1024;
/// The slot of such a source. Bytes.
pub const SMALL_SLOT_MAX_BYTES: u64 = SMALL_CONTENT_MAX_BYTES + WRAPPING_BYTES as u64;

/// Pieces of the largest file: 15 TiB. A source's word for its length must not cost more memory than this many entries.
pub const PIECES_MAX: u32 = 1024 * 1024;

/// Pieces of the largest file that stays at its source: 960 GiB. All of them are there, and take memory, from the moment in
/// which the source tells its length, which costs a liar nothing.
pub const BARE_PIECES_MAX: u32 = 64 * 1024;

const MIB: u32 = 1024 * 1024;
const HUNDRED_MIB: u64 = 100 * MIB as u64;

/// Bytes from one slot's start to the next one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceSize(u32);

/// A number of bytes that no file has for its piece size.
#[derive(Debug, thiserror::Error)]
#[error("{0} bytes is not a piece size: it lies between 1 and 15 MiB")]
pub struct NotAPieceSize(pub u32);

impl PieceSize {
    /// The size for files up to 200 MiB and for those whose length is unknown.
    pub const DEFAULT: Self = Self(4 * MIB);

    /// The size for a file of this many bytes: a rule that clients do not compute themselves but fleets rely on.
    pub fn for_length(length: Option<u64>) -> Self {
        match length {
            Some(length) if length > 2 * HUNDRED_MIB => {
                let mib = u32::try_from(length / HUNDRED_MIB + 2).unwrap_or(u32::MAX);
                Self(mib.min(15) * MIB)
            }
            _ => Self::DEFAULT,
        }
    }

    /// A size that was stored or is configured.
    pub const fn new(bytes: u32) -> Result<Self, NotAPieceSize> {
        if bytes < MIB || bytes > 15 * MIB {
            return Err(NotAPieceSize(bytes));
        }
        Ok(Self(bytes))
    }

    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// Bytes of the source that a full slot holds.
    pub const fn content_bytes(self) -> u32 {
        self.0 - WRAPPING_BYTES
    }

    /// How many slots a source of this many bytes fills; `None` where they are more than [`PIECES_MAX`].
    pub fn piece_count(self, length: u64) -> Option<u32> {
        let count = length.div_ceil(u64::from(self.content_bytes())).max(1);
        u32::try_from(count).ok().filter(|count| *count <= PIECES_MAX)
    }

    /// How many pieces a source of this many bytes has that are cut without wrapping: an empty one has none. `None` where
    /// they are more than [`BARE_PIECES_MAX`].
    pub fn bare_piece_count(self, length: u64) -> Option<u32> {
        u32::try_from(length.div_ceil(u64::from(self.0))).ok().filter(|count| *count <= BARE_PIECES_MAX)
    }

    /// The length of the cached (wrapped) file.
    pub fn cached_length(self, length: u64, piece_count: u32) -> u64 {
        length + u64::from(piece_count) * u64::from(WRAPPING_BYTES)
    }

    /// The slot's first byte in the cached file.
    pub fn slot_start(self, piece: PieceNumber) -> u64 {
        u64::from(piece.0) * u64::from(self.0)
    }

    /// The slot's range as the protocol tells it: never clipped, not even for the last piece.
    pub fn slot_range(self, piece: PieceNumber) -> RangeInclusive<u64> {
        let start = self.slot_start(piece);
        start..=start + u64::from(self.0) - 1
    }

    /// The piece's first byte in the source.
    pub fn content_start(self, piece: PieceNumber) -> u64 {
        u64::from(piece.0) * u64::from(self.content_bytes())
    }

    /// The piece that a reported range speaks of.
    ///
    /// Clients send the slot's whole range; one that clips the last piece at the end of the cached file is understood as well.
    pub fn piece_of_range(self, range: &RangeInclusive<u64>, cached_length: Option<u64>) -> Option<PieceNumber> {
        let size = u64::from(self.0);
        let piece = PieceNumber(u32::try_from(range.start() / size).ok()?);
        let slot = self.slot_range(piece);
        let clipped_end = cached_length.and_then(|length| length.checked_sub(1)).map(|last| last.min(*slot.end()));
        let ends_as_it_should = range.end() == slot.end() || Some(*range.end()) == clipped_end;
        (range.start() == slot.start() && ends_as_it_should).then_some(piece)
    }

    /// The four bytes before a piece's content.
    pub const fn header(self, content_len: u32) -> [u8; 4] {
        (content_len | self.0 << 4).to_be_bytes()
    }
}

/// What a piece must be: the digest of its slot and how much of the source it holds. Printed as the protocol tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceDigest {
    /// Over header, content and tail.
    pub md5: Md5Digest,
    pub content_len: u32,
}

impl PieceDigest {
    /// Bytes of the slot that are used.
    pub const fn slot_len(&self) -> u32 {
        self.content_len + WRAPPING_BYTES
    }
}

impl fmt::Display for PieceDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.md5, self.slot_len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_piece_sizes_hold() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/piece_size.json")).expect("the vectors are JSON");
        for case in vectors.as_array().expect("a list of cases") {
            let length = u64::try_from(case["fileLength"].as_i64().expect("a length")).ok();
            assert_eq!(u64::from(PieceSize::for_length(length).bytes()), case["pieceSize"], "{case}");
        }
    }

    #[test]
    fn a_range_names_its_piece_only_as_a_whole_slot() {
        let size = PieceSize::DEFAULT;
        let piece = PieceNumber(2);
        assert_eq!(size.piece_of_range(&size.slot_range(piece), None), Some(piece));
        assert_eq!(size.piece_of_range(&(8_388_608..=8_388_700), Some(8_388_701)), Some(piece), "clipped at the end of the file");
        assert_eq!(size.piece_of_range(&(8_388_608..=8_388_700), Some(9_000_000)), None, "clipped before it");
        assert_eq!(size.piece_of_range(&(8_388_608..=8_388_700), None), None);
        assert_eq!(size.piece_of_range(&(1..=4_194_304), None), None);
        assert_eq!(size.piece_of_range(&(0..=4_194_304), None), None, "longer than a slot");
        assert_eq!(size.piece_of_range(&(0..=u64::MAX), None), None);
    }

    #[test]
    fn without_wrapping_every_byte_of_a_piece_is_content() {
        let size = PieceSize::DEFAULT;
        let bytes = u64::from(size.bytes());
        for (length, count) in [(0, 0), (1, 1), (bytes, 1), (bytes + 1, 2), (3 * bytes, 3)] {
            assert_eq!(size.bare_piece_count(length), Some(count), "{length} bytes");
        }
        let largest = bytes * u64::from(BARE_PIECES_MAX);
        assert_eq!(size.bare_piece_count(largest), Some(BARE_PIECES_MAX));
        assert_eq!(size.bare_piece_count(largest + 1), None);
        assert_eq!(size.bare_piece_count(u64::MAX), None);
    }

    #[test]
    fn an_empty_source_has_one_piece() {
        assert_eq!(PieceSize::DEFAULT.piece_count(0), Some(1));
        assert_eq!(PieceSize::DEFAULT.cached_length(0, 1), 5);
        assert_eq!(PieceSize::DEFAULT.piece_count(u64::MAX), None, "more than the largest file has");
    }
}
