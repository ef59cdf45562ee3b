//! Why a source could not be fetched, and what that means for the next attempt.

use std::time::Duration;

use super::LedgerError;
use crate::domain::Md5Digest;
use crate::origin::{self, OriginError, TokenError};
use crate::pieces::PieceFileError;

/// Why a download ended without all of the source.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error("clients fetch this file from its source part by part (cdnPattern is source), and that cannot be done")]
    Unfit(#[source] OriginError),
    #[error("the source's length does not fit: {0} bytes")]
    TooLong(u64),
    #[error("the source sent {sent} bytes and had announced {announced}")]
    Length { sent: u64, announced: u64 },
    #[error(
        "the source sent {bytes} bytes while it was waited for {waited_s} s, which is less than {}: {min_bytes_per_s} bytes a second",
        if *.in_demand { "while others wait for its place" } else { "sourceMinRate" }
    )]
    Slow { bytes: u64, waited_s: u64, min_bytes_per_s: u64, in_demand: bool },
    #[error("the source took longer than {after_s} s while others waited for its place")]
    GaveWay { after_s: u64 },
    #[error("it gave its place after {held_s} s to a host that had none, and goes on when it is its turn")]
    BodyGaveWay { held_s: u64 },
    #[error("the content's md5 is {found}, expected {expected}")]
    Md5 { found: Md5Digest, expected: String },
    #[error(transparent)]
    Disk(#[from] PieceFileError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl FetchError {
    /// Whether the disk had no room for more of it than was written.
    pub fn is_want_of_room(&self) -> bool {
        matches!(self, Self::Disk(error) if error.is_want_of_room())
            || matches!(self, Self::Ledger(LedgerError::NoRoomToGrow { .. }))
    }

    /// Whether there was no room for it, on the disk or under the quota.
    pub fn lacks_room(&self) -> bool {
        self.is_want_of_room() || matches!(self, Self::Ledger(LedgerError::NoRoom { .. } | LedgerError::DiskFull { .. }))
    }

    /// How long the source wants to be left alone, if it said so.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Origin(
                OriginError::Busy { retry_after, .. } | OriginError::Token { error: TokenError::Busy { retry_after, .. }, .. },
            ) => Some(*retry_after),
            _ => None,
        }
    }

    /// Whether asking again may help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Origin(OriginError::Status(status)) => origin::is_passing(*status),
            Self::Origin(OriginError::Token { error, .. }) => error.is_passing(),
            Self::Origin(
                OriginError::Unreachable(_) | OriginError::Broken(_) | OriginError::Part { .. } | OriginError::Busy { .. },
            )
            | Self::Length { .. }
            | Self::Slow { .. }
            | Self::GaveWay { .. }
            | Self::BodyGaveWay { .. } => true,
            Self::Origin(
                OriginError::Url
                | OriginError::Forbidden(_)
                | OriginError::HeadersLeftOut
                | OriginError::Certificates(_)
                | OriginError::HeadTooLarge
                | OriginError::NoCertificate
                | OriginError::Coded
                | OriginError::RangeIgnored
                | OriginError::LengthUnknown
                | OriginError::IsPart
                | OriginError::Changed
                | OriginError::TooLarge
                | OriginError::AtEnd,
            )
            | Self::Unfit(_)
            | Self::TooLong(_)
            | Self::Md5 { .. }
            | Self::Disk(_)
            | Self::Ledger(_) => false,
        }
    }
}
