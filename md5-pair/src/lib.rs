//! MD5 over bytes that come in parts, and over two runs of them at once.
//!
//! Every byte of a source goes into two digests, its piece's and the whole content's. One MD5 is a single chain in which
//! each step waits for the step before, so a core computes two of them, step by step, in the time of one. The runs lie
//! at different offsets of the same bytes, which is nothing to the two chains.
//!
//! The constants are those of RFC 1321. That the two chains compute what the one of the `md-5` crate does is what the
//! tests hold.

use md5::block_api::compress;

const BLOCK_BYTES: usize = 64;
/// Bytes of the last block before the length.
const LENGTH_AT: usize = BLOCK_BYTES - size_of::<u64>();

/// Bytes of a digest.
pub type Digest = [u8; 16];

type State = [u32; 4];
type Block = [u8; BLOCK_BYTES];

/// An MD5 of the bytes so far.
#[derive(Clone, Debug)]
pub struct Md5 {
    state: State,
    /// The bytes since the last whole block, at its start.
    pending: Block,
    length: u64,
}

impl Default for Md5 {
    fn default() -> Self {
        Self::new()
    }
}

impl Md5 {
    pub const fn new() -> Self {
        Self { state: [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476], pending: [0; BLOCK_BYTES], length: 0 }
    }

    /// The digest of these bytes alone.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut md5 = Self::new();
        md5.update(bytes);
        md5.digest()
    }

    pub fn update(&mut self, bytes: &[u8]) {
        let (blocks, rest) = self.complete_block(bytes).as_chunks();
        compress(&mut self.state, blocks);
        self.keep(rest);
    }

    /// Updates two in the time of one, as far as both have bytes.
    pub fn update_both((one, ones): (&mut Self, &[u8]), (other, others): (&mut Self, &[u8])) {
        let (ones, ones_rest) = one.complete_block(ones).as_chunks();
        let (others, others_rest) = other.complete_block(others).as_chunks();
        let common = ones.len().min(others.len());
        compress_both((&mut one.state, &ones[..common]), (&mut other.state, &others[..common]));
        compress(&mut one.state, &ones[common..]);
        compress(&mut other.state, &others[common..]);
        one.keep(ones_rest);
        other.keep(others_rest);
    }

    pub fn digest(&self) -> Digest {
        let pending = self.pending_bytes();
        let mut last = [0; 2 * BLOCK_BYTES];
        last[..pending].copy_from_slice(&self.pending[..pending]);
        last[pending] = 0x80;
        let length_at = if pending < LENGTH_AT { LENGTH_AT } else { BLOCK_BYTES + LENGTH_AT };
        let end = length_at + size_of::<u64>();
        last[length_at..end].copy_from_slice(&self.length.wrapping_mul(8).to_le_bytes());
        let mut state = self.state;
        compress(&mut state, last[..end].as_chunks().0);
        let mut digest: Digest = [0; 16];
        for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(state) {
            *bytes = word.to_le_bytes();
        }
        digest
    }

    /// Takes what completes the block that was begun, and counts it all. What comes after that is left to be taken.
    fn complete_block<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let pending = self.pending_bytes();
        self.length = self.length.wrapping_add(bytes.len() as u64);
        if pending == 0 {
            return bytes;
        }
        let (taken, left) = bytes.split_at(bytes.len().min(BLOCK_BYTES - pending));
        self.pending[pending..pending + taken.len()].copy_from_slice(taken);
        if pending + taken.len() == BLOCK_BYTES {
            compress(&mut self.state, &[self.pending]);
        }
        left
    }

    fn keep(&mut self, rest: &[u8]) {
        self.pending[..rest.len()].copy_from_slice(rest);
    }

    fn pending_bytes(&self) -> usize {
        usize::try_from(self.length % BLOCK_BYTES as u64).unwrap_or(0)
    }
}

/// What the steps of the four rounds add, 16 each.
const ADDED: [[u32; 16]; 4] = [
    [
        0xd76a_a478,
        0xe8c7_b756,
        0x2420_70db,
        0xc1bd_ceee,
        0xf57c_0faf,
        0x4787_c62a,
        0xa830_4613,
        0xfd46_9501, //
        0x6980_98d8,
        0x8b44_f7af,
        0xffff_5bb1,
        0x895c_d7be,
        0x6b90_1122,
        0xfd98_7193,
        0xa679_438e,
        0x49b4_0821,
    ],
    [
        0xf61e_2562,
        0xc040_b340,
        0x265e_5a51,
        0xe9b6_c7aa,
        0xd62f_105d,
        0x0244_1453,
        0xd8a1_e681,
        0xe7d3_fbc8, //
        0x21e1_cde6,
        0xc337_07d6,
        0xf4d5_0d87,
        0x455a_14ed,
        0xa9e3_e905,
        0xfcef_a3f8,
        0x676f_02d9,
        0x8d2a_4c8a,
    ],
    [
        0xfffa_3942,
        0x8771_f681,
        0x6d9d_6122,
        0xfde5_380c,
        0xa4be_ea44,
        0x4bde_cfa9,
        0xf6bb_4b60,
        0xbebf_bc70, //
        0x289b_7ec6,
        0xeaa1_27fa,
        0xd4ef_3085,
        0x0488_1d05,
        0xd9d4_d039,
        0xe6db_99e5,
        0x1fa2_7cf8,
        0xc4ac_5665,
    ],
    [
        0xf429_2244,
        0x432a_ff97,
        0xab94_23a7,
        0xfc93_a039,
        0x655b_59c3,
        0x8f0c_cc92,
        0xffef_f47d,
        0x8584_5dd1, //
        0x6fa8_7e4f,
        0xfe2c_e6e0,
        0xa301_4314,
        0x4e08_11a1,
        0xf753_7e82,
        0xbd3a_f235,
        0x2ad7_d2bb,
        0xeb86_d391,
    ],
];

/// How far the steps of the four rounds rotate, over and over.
const ROTATED: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// Takes as many blocks into one state as into the other.
fn compress_both((one, ones): (&mut State, &[Block]), (other, others): (&mut State, &[Block])) {
    for blocks in ones.iter().zip(others) {
        let states = (*one, *other);
        // The chain runs through b: what waits for nothing is added to a before.
        let states = round::<0, 0, 1>(|a, b, c, d| a.wrapping_add(d ^ (b & (c ^ d))), states, blocks);
        let states = round::<1, 1, 5>(|a, b, c, d| a.wrapping_add(c & !d).wrapping_add(b & d), states, blocks);
        let states = round::<2, 5, 3>(|a, b, c, d| a.wrapping_add(b ^ (c ^ d)), states, blocks);
        let states = round::<3, 0, 7>(|a, b, c, d| a.wrapping_add(c ^ (b | !d)), states, blocks);
        add(one, states.0);
        add(other, states.1);
    }
}

/// The sixteen steps of a round, whose words are those from `FIRST` on, `STRIDE` apart. Written out without a loop: all
/// but the states is then constant, and the states stay where they are.
#[inline(always)]
fn round<const ROUND: usize, const FIRST: usize, const STRIDE: usize>(
    mix: impl Fn(u32, u32, u32, u32) -> u32 + Copy,
    states: (State, State),
    blocks: (&Block, &Block),
) -> (State, State) {
    let both = |(one, other): (State, State), number: usize| {
        let (at, added) = ((FIRST + STRIDE * number) % 16, ADDED[ROUND][number]);
        let rotated = ROTATED[ROUND][number % 4];
        (
            step(mix, one, word(blocks.0, at).wrapping_add(added), rotated),
            step(mix, other, word(blocks.1, at).wrapping_add(added), rotated),
        )
    };
    let four = |states, first| both(both(both(both(states, first), first + 1), first + 2), first + 3);
    four(four(four(four(states, 0), 4), 8), 12)
}

#[inline(always)]
fn step(mix: impl Fn(u32, u32, u32, u32) -> u32, [a, b, c, d]: State, added: u32, rotated: u32) -> State {
    [d, mix(a.wrapping_add(added), b, c, d).rotate_left(rotated).wrapping_add(b), b, c]
}

#[inline(always)]
fn word(block: &Block, at: usize) -> u32 {
    u32::from_le_bytes(block.as_chunks().0[at])
}

fn add(state: &mut State, to_add: State) {
    for (word, added) in state.iter_mut().zip(to_add) {
        *word = word.wrapping_add(added);
    }
}

#[cfg(test)]
mod tests {
    use md5::Digest as _;
    use proptest::prelude::*;

    use super::*;

    fn expected(bytes: &[u8]) -> Digest {
        md5::Md5::digest(bytes).into()
    }

    #[test]
    fn every_length_has_its_digest() {
        let bytes: Vec<u8> = (0..=255).cycle().take(3 * BLOCK_BYTES).collect();
        for end in 0..bytes.len() {
            assert_eq!(Md5::of(&bytes[..end]), expected(&bytes[..end]), "{end} bytes");
        }
    }

    proptest! {
        /// However the bytes are cut, and however far one run is behind the other.
        #[test]
        fn two_at_once_are_as_each_alone(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
            cuts in prop::collection::vec((0..700usize, 0..700usize), 0..8),
            head in prop::collection::vec(any::<u8>(), 0..70),
        ) {
            let (mut one, mut other) = (Md5::new(), Md5::new());
            other.update(&head);
            let (mut ones, mut others) = (bytes.as_slice(), bytes.as_slice());
            for (first, second) in cuts.into_iter().chain([(bytes.len(), bytes.len())]) {
                let (taken, rest) = ones.split_at(first.min(ones.len()));
                let (other_taken, other_rest) = others.split_at(second.min(others.len()));
                Md5::update_both((&mut one, taken), (&mut other, other_taken));
                (ones, others) = (rest, other_rest);
            }
            prop_assert_eq!(one.digest(), expected(&bytes));
            prop_assert_eq!(other.digest(), expected(&[head, bytes].concat()));
        }
    }
}
