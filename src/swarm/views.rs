//! What can be seen of a swarm from outside.

use std::sync::Arc;

use super::{Member, Piece, Swarm};
use crate::domain::{CdnPattern, ClientId, ClientState, Endpoint, PieceDigest, PieceNumber};

/// A client that others may be sent to.
#[derive(Clone, Debug)]
pub struct ServingClient {
    pub endpoint: Arc<Endpoint>,
    /// Uploads that it does now, for all its tasks.
    pub uploads: u32,
    /// What it serves, ascending.
    pub pieces: Vec<PieceNumber>,
}

/// A piece and how many have it.
#[derive(Clone, Copy, Debug)]
pub struct PieceView {
    pub piece: PieceNumber,
    /// `None` where its bytes stay at the source.
    pub digest: Option<PieceDigest>,
    /// It is on our disk.
    pub stored: bool,
    /// Clients that serve it.
    pub holders: u64,
}

/// A client and how far it is.
#[derive(Clone, Debug)]
pub struct ClientView {
    pub endpoint: Arc<Endpoint>,
    pub state: ClientState,
    /// Others may be sent to it.
    pub serves: bool,
    /// Pieces it has.
    pub held: u32,
    /// Pieces it serves.
    pub servable: u32,
    /// Pieces on their way to it.
    pub in_flight: usize,
}

impl Swarm {
    /// Every member.
    pub fn client_ids(&self) -> impl Iterator<Item = &ClientId> {
        self.members.ids()
    }

    /// Every member's caller and state.
    pub fn states(&self) -> impl Iterator<Item = (&Arc<str>, ClientState)> {
        self.members.iter().map(|(_, member)| (&member.intro.call_system, member.state))
    }

    /// Members that serve something, in the order of their places.
    pub fn serving_clients(&self) -> impl Iterator<Item = ServingClient> {
        let serves = |(_, member): (u32, &Member)| {
            let server = member.intro.server.as_ref().filter(|_| member.serves(self.limits.serve_errors))?;
            let pieces: Vec<PieceNumber> = member.servable.iter().collect();
            (!pieces.is_empty()).then(|| ServingClient {
                endpoint: member.intro.endpoint.clone(),
                uploads: server.uploads(),
                pieces,
            })
        };
        self.members.iter().filter_map(serves)
    }

    /// Pieces that can be handed out, ascending.
    pub fn piece_views(&self) -> impl Iterator<Item = PieceView> {
        let complete = self.complete.len();
        let view = move |(piece, entry): (u32, &Piece)| {
            let holders = entry.holders.len() + complete;
            let (piece, digest) = (PieceNumber(piece), entry.digest);
            self.known.contains(piece).then_some(PieceView { piece, digest, stored: entry.at_seed && digest.is_some(), holders })
        };
        (0..).zip(&self.pieces).filter_map(view)
    }

    /// How many pieces can be handed out.
    pub const fn known_pieces(&self) -> u32 {
        self.known.len()
    }

    /// Bytes of all pieces on our disk.
    pub const fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// How many pieces are on our disk.
    pub const fn pieces_stored(&self) -> u32 {
        match self.status.pattern {
            CdnPattern::Local => self.at_seed,
            CdnPattern::Source => 0,
        }
    }

    /// All clients, in the order of their places.
    pub fn client_views(&self) -> impl Iterator<Item = ClientView> {
        self.members.iter().map(|(_, member)| ClientView {
            endpoint: member.intro.endpoint.clone(),
            state: member.state,
            serves: member.serves(self.limits.serve_errors),
            held: member.held.len(),
            servable: member.servable.len(),
            in_flight: member.leases.len(),
        })
    }
}
