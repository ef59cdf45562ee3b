//! The bytes of a snapshot.
//!
//! ```text
//! file   = magic (8 bytes) · format version u32 · frame …
//! frame  = head · packed            one header, rows of one table each, one end
//! head   = kind u8 · table u8 · rows u32 · plain length u32 · packed length u32 · checksum u32
//! packed = zstd of the plain bytes
//! row    = key length u16 · value length u32 (0xffff_ffff: the key is no more) · key · value
//! ```
//! Integers are big-endian. A frame's checksum is the CRC-32 of its head before it and of the packed bytes; the end has the
//! SHA-256 of everything before it. Rows stand in the order in which they are to be applied: of several with one key the
//! last one holds. A `sources` row is a whole record under the task's id, whatever pieces the database cuts it into.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::store::records::Record;
use crate::store::schema::Table;

pub const MAGIC: &[u8; 8] = b"SNSNAP\r\n";
pub const FORMAT_VERSION: u32 = 1;
/// A frame is closed once it has this many plain bytes.
pub const FRAME_BYTES: usize = 256 * 1024;
/// No frame has more, packed or not: what a reader is asked to allocate at most. A record has at most 4 MiB.
const FRAME_MAX_BYTES: u32 = 8 * 1024 * 1024;
pub const HEAD_BYTES: usize = 18;
const REMOVED: u32 = u32::MAX;
/// Fast, and within a tenth of what slower levels make of such rows.
const COMPRESSION_LEVEL: i32 = 1;

/// What a snapshot says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    /// The schema of its keys and records.
    pub schema: u32,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// The database that it is of.
    pub node: u64,
    pub boot: u64,
    /// The program that wrote it.
    pub program: String,
}

impl Record for Header {
    const VERSION: u8 = 1;
}

/// What stands at the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct End {
    pub rows: u64,
    /// How many windows had been committed.
    pub commits: u64,
    pub sha256: [u8; 32],
}

impl Record for End {
    const VERSION: u8 = 1;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Header,
    Rows(Table),
    End,
}

impl Kind {
    fn tags(self) -> [u8; 2] {
        match self {
            Self::Header => [1, 0],
            Self::Rows(Table::Sources) => [2, 1],
            Self::Rows(Table::Tasks) => [2, 2],
            Self::Rows(Table::Pieces) => [2, 3],
            Self::Rows(Table::Peers) => [2, 4],
            Self::Rows(Table::Clients) => [2, 5],
            Self::Rows(Table::Progress) => [2, 6],
            Self::Rows(Table::Preheats) => [2, 7],
            Self::Rows(Table::Contents) => [2, 8],
            Self::Rows(Table::Pins) => [2, 9],
            Self::End => [3, 0],
        }
    }

    fn of_tags(tags: [u8; 2]) -> Option<Self> {
        let rows = Table::ALL.into_iter().map(Self::Rows);
        [Self::Header, Self::End].into_iter().chain(rows).find(|kind| kind.tags() == tags)
    }
}

/// A run of bytes with its checksum.
#[derive(Debug)]
pub struct Frame {
    pub kind: Kind,
    pub rows: u32,
    pub plain: Vec<u8>,
}

impl Frame {
    /// The bytes of a frame.
    pub fn encode(kind: Kind, rows: u32, plain: &[u8]) -> io::Result<Vec<u8>> {
        let packed = zstd::bulk::compress(plain, COMPRESSION_LEVEL)?;
        let length = |bytes: &[u8]| {
            u32::try_from(bytes.len()).ok().filter(|length| *length <= FRAME_MAX_BYTES).ok_or(io::ErrorKind::FileTooLarge)
        };
        let mut bytes = Vec::with_capacity(HEAD_BYTES + packed.len());
        bytes.extend_from_slice(&kind.tags());
        for number in [rows, length(plain)?, length(&packed)?] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        let checksum = checksum(&bytes, &packed);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        bytes.extend_from_slice(&packed);
        Ok(bytes)
    }

    /// Reads one frame and its bytes as they are in the file; the error says in words what is wrong.
    pub fn read(file: &mut impl Read) -> Result<(Self, Vec<u8>), String> {
        let mut bytes = vec![0; HEAD_BYTES];
        file.read_exact(&mut bytes).map_err(|error| format!("it ends too early ({error})"))?;
        let number = |at: usize| bytes[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        let (rows, plain_len, packed_len, expected) = (number(2), number(6), number(10), number(14));
        let kind = Kind::of_tags([bytes[0], bytes[1]]).ok_or("a section is of an unknown kind")?;
        if plain_len > FRAME_MAX_BYTES || packed_len > FRAME_MAX_BYTES {
            return Err("a section has an impossible length".into());
        }
        let mut packed = vec![0; packed_len as usize];
        file.read_exact(&mut packed).map_err(|error| format!("it ends too early ({error})"))?;
        if checksum(&bytes[..HEAD_BYTES - 4], &packed) != expected {
            return Err("the checksum of a section does not match".into());
        }
        let plain = zstd::bulk::decompress(&packed, plain_len as usize).map_err(|error| error.to_string())?;
        if plain.len() != plain_len as usize {
            return Err("a section has another length than it says".into());
        }
        bytes.extend_from_slice(&packed);
        Ok((Self { kind, rows, plain }, bytes))
    }
}

fn checksum(head: &[u8], packed: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(head);
    hash.update(packed);
    hash.finalize()
}

/// Appends a row to the plain bytes of a frame; `None` says that the key is no more.
pub fn push_row(plain: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
    let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
    let key_len = u16::try_from(key.len()).map_err(|_| too_large())?;
    let value_len = value.map_or(Ok(REMOVED), |value| u32::try_from(value.len()).map_err(|_| too_large()))?;
    plain.extend_from_slice(&key_len.to_be_bytes());
    plain.extend_from_slice(&value_len.to_be_bytes());
    plain.extend_from_slice(key);
    plain.extend_from_slice(value.unwrap_or_default());
    Ok(())
}

/// A key, and its value unless it is no more.
pub type Row<'a> = (&'a [u8], Option<&'a [u8]>);

/// Takes the first row off the plain bytes of a frame; `None` where they are not rows.
pub fn take_row<'a>(plain: &mut &'a [u8]) -> Option<Row<'a>> {
    let (key_len, rest) = plain.split_first_chunk::<2>()?;
    let (value_len, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*key_len)))?;
    let value_len = u32::from_be_bytes(*value_len);
    if value_len == REMOVED {
        *plain = rest;
        return Some((key, None));
    }
    let (value, rest) = rest.split_at_checked(value_len as usize)?;
    *plain = rest;
    Some((key, Some(value)))
}
