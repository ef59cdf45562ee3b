//! What happens to a swarm, and what follows from it.

use crate::domain::{Change, ClientId, Failure, Md5Digest, PieceDigest, PieceNumber, PieceSize, TaskStatus};

use super::{Introduction, Server};

/// How much clients do at once, and how much failure is borne. Names and defaults are the published supernode's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pieces in flight to one client (`peerDownLimit`).
    pub down: usize,
    /// Uploads at once of one upload server (`peerUpLimit`).
    pub up: u32,
    /// Errors as a server before a client is no longer used as one (`eliminationLimit`).
    pub serve_errors: u8,
    /// Errors as a receiver before a client is served by the supernode only (`failureCountLimit`).
    pub download_errors: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self { down: 4, up: 5, serve_errors: 5, download_errors: 5 }
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client registered, for the first time or again.
    ClientRegistered(Introduction),
    /// A client spoke to us.
    FromClient {
        client: ClientId,
        report: Report,
    },
    /// The source's headers told what is coming, or what can be had there.
    SourceAnswered(TaskStatus),
    /// A piece is on our disk, verified and synced.
    PieceStored {
        piece: PieceNumber,
        digest: PieceDigest,
    },
    /// A piece on our disk is gone or damaged.
    PieceLost {
        piece: PieceNumber,
    },
    /// The source's last byte is in a piece.
    SourceFinished {
        md5: Md5Digest,
        length: u64,
    },
    SourceFailed(Failure),
    /// A failed source is asked again, for what is missing.
    SourceRetried,
}

/// What a client tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It begins (700).
    Started,
    /// It asks for pieces and speaks of none.
    Asked,
    /// It has the piece in memory (503, 501).
    PieceHeld(PieceNumber),
    /// It has written the piece and serves it from now on (`piece/suc`).
    PieceServable(PieceNumber),
    /// It could not get the piece from there (500).
    PieceFailed { piece: PieceNumber, server: Option<ClientId> },
    /// It is done (702).
    Finished { success: bool },
    /// Its upload server is going away.
    ServiceDown,
}

/// Why an event changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Only a piece that the file cannot have is refused: clients honestly report pieces that we never gave them.
    #[error("the file has no such piece")]
    PieceOutOfRange,
    /// It began an earlier generation of the source; handing it pieces of this one would mix two files.
    #[error("the source has changed since this client began")]
    EarlierGeneration,
    #[error("the task has as many clients as it can have")]
    TooManyClients,
}

/// What follows from an event beside the answer.
#[derive(Debug, Default)]
pub struct Effects {
    /// Must be durable before anybody is told.
    pub changes: Vec<Change>,
    /// How many waiting clients may now find something to do.
    pub openings: u32,
    /// A piece that a client could not get where we send it for want of a peer: on our disk it may be damaged, at the source
    /// be no more.
    pub suspect: Option<PieceNumber>,
}

impl Effects {
    /// Everybody's answer may have changed.
    pub(super) const EVERYBODY: u32 = u32::MAX;

    pub(super) const fn open(&mut self, count: u32) {
        self.openings = self.openings.saturating_add(count);
    }
}

/// A piece for a client to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub piece: PieceNumber,
    pub piece_size: PieceSize,
    /// `None` where nobody here knows it, because the piece comes from the source itself.
    pub digest: Option<PieceDigest>,
    pub server: Server,
}

/// What a client should do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It has everything: the MD5 of the source's bytes, if known, and the length of what it fetched.
    Finished {
        md5: Option<Md5Digest>,
        file_length: u64,
    },
    /// Everything it should be fetching; what it was told before comes again from the same server.
    Continue(Vec<Assignment>),
    /// Nothing in flight and nothing to hand out.
    Wait {
        held: u32,
        at_seed: u32,
        source: &'static str,
    },
    Failed(Failure),
}
