//! Contents and pieces, computed here a second time from the protocol's words.

use bytes::Bytes;
use md5::{Digest, Md5};

/// The size of the slots of every file up to 200 MiB. Bytes.
pub const PIECE_SIZE: u64 = 4 * 1024 * 1024;
/// What a slot holds beside content: four bytes before it and one after. Bytes.
pub const WRAPPING: u64 = 5;
/// The content of a full slot. Bytes.
pub const PIECE_CONTENT: u64 = PIECE_SIZE - WRAPPING;
const TAIL: u8 = 0x7f;

/// The content that the golden values were computed of.
pub fn golden_content(length: usize) -> Bytes {
    (0..length).map(|i| u8::try_from((31 * i + i / 251) & 255).expect("the mask keeps what fits")).collect()
}

/// Content that nobody can guess.
pub fn random_content(length: usize) -> Bytes {
    let seed = random_seed(&format!("content of {length} bytes"));
    let mut content = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut content);
    content.into()
}

/// A seed that is in the output of a test that fails; `WIRE_SEED` brings it back.
pub fn random_seed(what: &str) -> u64 {
    let seed = std::env::var("WIRE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("{what} with WIRE_SEED={seed}");
    seed
}

/// Content of the same length that differs in every byte, so that no mixture of the two passes for either.
pub fn other_content(content: &Bytes) -> Bytes {
    content.iter().map(|byte| !byte).collect()
}

/// How many slots a content of this length fills: an empty one has a slot too.
pub fn piece_count(length: u64) -> u32 {
    u32::try_from(length.div_ceil(PIECE_CONTENT).max(1)).expect("a test's file has few pieces")
}

/// The range of a slot as it stands in every message: never clipped.
pub fn range_of(piece: u32) -> String {
    let start = u64::from(piece) * PIECE_SIZE;
    format!("{start}-{}", start + PIECE_SIZE - 1)
}

/// A slot as the cached file has it.
pub fn slot_of(content: &Bytes, piece: u32) -> Bytes {
    let start = usize::try_from(u64::from(piece) * PIECE_CONTENT).expect("a test's file fits");
    let end = content.len().min(start + usize::try_from(PIECE_CONTENT).expect("a slot fits"));
    let length = u32::try_from(end - start).expect("a slot is small");
    let head = length | u32::try_from(PIECE_SIZE << 4).expect("a slot's size fits");
    [&head.to_be_bytes()[..], &content[start..end], &[TAIL]].concat().into()
}

/// Takes the wrapping off a slot, after a look at every byte of it.
pub fn unwrap(slot: &Bytes, piece_size: u64) -> Result<Bytes, String> {
    let length = slot.len();
    if (length as u64) < WRAPPING {
        return Err(format!("a slot of {length} bytes is shorter than its wrapping"));
    }
    let head = u32::from_be_bytes([slot[0], slot[1], slot[2], slot[3]]);
    let expected = (length as u64 - WRAPPING) | (piece_size << 4);
    if u64::from(head) != expected {
        return Err(format!("a slot of {length} bytes begins with {head:#010x}, expected {expected:#010x}"));
    }
    match slot[length - 1] {
        TAIL => Ok(slot.slice(4..length - 1)),
        tail => Err(format!("a slot ends with {tail:#04x}, expected {TAIL:#04x}")),
    }
}

pub fn md5_hex(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

/// The digest of a slot as messages carry it.
pub fn piece_md5(slot: &[u8]) -> String {
    format!("{}:{}", md5_hex(slot), slot.len())
}
