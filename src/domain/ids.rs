//! Identifiers: tasks, clients, pieces and generations.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// Prepended and appended to what a task id is the hash of; every published supernode uses the same 32 characters,
/// and a fleet that moves from one of them to this one keeps its task ids.
const TASK_ID_KEY: &str = ">I$pg-~AS~sP'rqu_`Oh&lz#9]\"=;nE%";

/// Names a task: the SHA-256 of what is fetched, written as 64 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId([u8; 32]);

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("a task id is 64 hexadecimal digits")]
pub struct NotATaskId;

impl TaskId {
    /// The id that every client and supernode derives for the same download.
    ///
    /// `sign` is the md5 that the client expects if it gave one, else its identifier, else empty; `range` is the value of
    /// a `Range` request header, else empty.
    pub fn derive(task_url: &str, sign: &str, range: &str) -> Self {
        let mut hash = Sha256::new();
        for part in [TASK_ID_KEY, task_url, sign, range, TASK_ID_KEY] {
            hash.update(part.as_bytes());
        }
        Self(hash.finalize().into())
    }

    /// Reads 64 hexadecimal digits of either case: nothing else ever becomes part of a path.
    pub fn parse(text: &str) -> Result<Self, NotATaskId> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotATaskId)?;
        Ok(Self(bytes))
    }

    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 64];
        // The buffer has exactly the length that 32 bytes need, so this cannot fail.
        let _ = hex::encode_to_slice(self.0, &mut digits);
        f.write_str(std::str::from_utf8(&digits).unwrap_or_default())
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The longest client id: it is one length byte in every key that holds it.
pub const CLIENT_ID_MAX_BYTES: usize = 255;

/// Names one client of one download, as the client calls itself (its `cid`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Arc<str>);

/// Why a text cannot be a client id.
#[derive(Debug, thiserror::Error)]
pub enum NotAClientId {
    #[error("must not be empty")]
    Empty,
    #[error("is longer than {CLIENT_ID_MAX_BYTES} bytes")]
    TooLong,
    #[error("contains a control character")]
    ControlCharacter,
}

impl ClientId {
    pub fn parse(text: &str) -> Result<Self, NotAClientId> {
        if text.is_empty() {
            return Err(NotAClientId::Empty);
        }
        if text.len() > CLIENT_ID_MAX_BYTES {
            return Err(NotAClientId::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(NotAClientId::ControlCharacter);
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ClientId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A piece's place in its file, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PieceNumber(pub u32);

impl PieceNumber {
    /// The place in a table of pieces.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PieceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Counts how often a task had to start over because its source changed; each generation has a piece file of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u32);

impl Generation {
    pub const FIRST: Self = Self(0);

    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_is_read_back_from_what_it_prints() {
        let id = TaskId::derive("http://example.com/a.bin", "", "");
        assert_eq!(id.to_string(), "53ade305c42cd57ce4b5db7dc3538ce62e7df286f425d7043073b604e568450a");
        assert_eq!(TaskId::parse(&id.to_string()).expect("its own digits"), id);
    }

    #[test]
    fn what_could_climb_out_of_a_directory_is_no_task_id() {
        let path = "../".repeat(21) + "x";
        assert_eq!(path.len(), 64);
        for text in ["", "53ade3", path.as_str(), &"g".repeat(64), &"a".repeat(65)] {
            assert!(TaskId::parse(text).is_err(), "{text:?} was taken for a task id");
        }
    }

    #[test]
    fn a_client_id_has_a_length_and_no_control_characters() {
        assert!(ClientId::parse(&"c".repeat(CLIENT_ID_MAX_BYTES)).is_ok());
        assert!(matches!(ClientId::parse(""), Err(NotAClientId::Empty)));
        assert!(matches!(ClientId::parse(&"c".repeat(CLIENT_ID_MAX_BYTES + 1)), Err(NotAClientId::TooLong)));
        assert!(matches!(ClientId::parse("a\nb"), Err(NotAClientId::ControlCharacter)));
    }
}
