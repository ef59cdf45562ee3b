//! A set of pieces of one file.

use smallvec::SmallVec;

use super::PieceNumber;

/// Pieces in one stored chunk of progress. A task of 10 TB has 600,000 pieces: rewriting its whole set for every piece
/// would write a thousand times what changed.
pub const CHUNK_PIECES: u32 = 512;
const CHUNK_WORDS: usize = CHUNK_PIECES as usize / 64;

/// A set of piece numbers, dense. Up to 128 pieces (512 MiB) it needs no allocation of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PieceSet {
    /// Bit `n % 64` of word `n / 64` stands for piece n; the last word is never zero.
    words: SmallVec<[u64; 2]>,
    count: u32,
}

impl PieceSet {
    pub fn contains(&self, piece: PieceNumber) -> bool {
        self.words.get(piece.index() / 64).is_some_and(|word| word >> (piece.0 % 64) & 1 == 1)
    }

    /// Adds a piece; tells whether it was new.
    pub fn insert(&mut self, piece: PieceNumber) -> bool {
        let index = piece.index() / 64;
        if index >= self.words.len() {
            self.words.resize(index + 1, 0);
        }
        let bit = 1 << (piece.0 % 64);
        let new = self.words[index] & bit == 0;
        self.words[index] |= bit;
        self.count += u32::from(new);
        new
    }

    /// How many pieces are in it.
    pub const fn len(&self) -> u32 {
        self.count
    }

    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The pieces, ascending.
    pub fn iter(&self) -> impl Iterator<Item = PieceNumber> + '_ {
        self.words.iter().zip(0_u32..).flat_map(|(&word, index)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros();
                (bit < 64).then(|| {
                    rest &= rest - 1;
                    PieceNumber(index * 64 + bit)
                })
            })
        })
    }

    /// The word that holds pieces `64 * index` to `64 * index + 63`.
    pub fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }

    /// The 512 pieces of one chunk, as little-endian bytes without trailing zeros: the shape that is stored.
    pub fn chunk(&self, chunk: u32) -> Vec<u8> {
        let start = chunk as usize * CHUNK_WORDS;
        let mut bytes: Vec<u8> = (start..start + CHUNK_WORDS).flat_map(|index| self.word(index).to_le_bytes()).collect();
        let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(used);
        bytes
    }

    /// Adds the pieces of one stored chunk; bytes past a chunk's end are ignored.
    pub fn insert_chunk(&mut self, chunk: u32, bytes: &[u8]) {
        for (byte, offset) in bytes.iter().zip(0..CHUNK_PIECES / 8) {
            for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                self.insert(PieceNumber(chunk * CHUNK_PIECES + offset * 8 + bit));
            }
        }
    }
}

impl FromIterator<PieceNumber> for PieceSet {
    fn from_iter<I: IntoIterator<Item = PieceNumber>>(pieces: I) -> Self {
        let mut set = Self::default();
        for piece in pieces {
            set.insert(piece);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_piece_set_is_a_set_and_survives_its_chunks(numbers in prop::collection::vec(0_u32..3000, 0..200)) {
            let model: BTreeSet<u32> = numbers.iter().copied().collect();
            let set: PieceSet = numbers.into_iter().map(PieceNumber).collect();
            prop_assert_eq!(set.len() as usize, model.len());
            prop_assert!(set.iter().map(|piece| piece.0).eq(model.iter().copied()));
            let mut back = PieceSet::default();
            for chunk in 0..3000_u32.div_ceil(CHUNK_PIECES) {
                back.insert_chunk(chunk, &set.chunk(chunk));
            }
            prop_assert!(back.iter().eq(set.iter()));
            prop_assert_eq!(back.len(), set.len());
        }
    }
}
