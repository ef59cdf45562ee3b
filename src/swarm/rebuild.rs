//! A swarm from the facts that were stored of it.

use super::{Introduction, Limits, MEMBERS_MAX, Swarm};
use crate::domain::{Client, Moment, PieceDigest, PieceNumber, PieceSet, TaskId, TaskStatus};
use crate::swarm::members::Member;

/// All that was durable of one task.
#[derive(Debug)]
pub struct StoredTask {
    pub status: TaskStatus,
    pub pieces: Vec<StoredPiece>,
    pub clients: Vec<StoredClient>,
}

/// A piece whose digest is known.
#[derive(Clone, Copy, Debug)]
pub struct StoredPiece {
    pub piece: PieceNumber,
    pub digest: PieceDigest,
    /// Whether its bytes are on our disk, too.
    pub stored: bool,
}

/// All that was durable of one client of it.
#[derive(Debug)]
pub struct StoredClient {
    pub client: Client,
    pub intro: Introduction,
    pub held: PieceSet,
    pub servable: PieceSet,
}

impl Swarm {
    /// Makes the swarm that stored these facts, as it would be without its leases and what it learned of its pace.
    pub fn rebuild(now: Moment, task: TaskId, limits: Limits, stored: StoredTask) -> Self {
        let mut swarm = Self::new(task, limits, stored.status);
        swarm.offer_source();
        for StoredPiece { piece, digest, stored } in stored.pieces {
            swarm.know_piece(piece, digest, stored);
        }
        for StoredClient { client, intro, held, servable } in stored.clients {
            if client.generation != swarm.status.generation {
                swarm.former.insert(client.id, now);
                continue;
            }
            let mut member = Member {
                state: client.state,
                gone: client.gone,
                serve_errors: client.serve_errors,
                download_errors: client.download_errors,
                held,
                servable,
                ..Member::new(intro, now)
            };
            member.seen = swarm.seen_at_start(now, &member);
            // Two clients never have one place, and none is beyond the last. Were it so all the same, they must not become one member.
            let taken = swarm.members.get(client.ordinal).is_some() || client.ordinal as usize >= MEMBERS_MAX;
            let ordinal = if taken { swarm.members.free_ordinal() } else { client.ordinal };
            swarm.members.insert(ordinal, member);
            swarm.start_serving(ordinal);
        }
        swarm
    }
}
