//! Which pieces a client gets next, and from whom.
//!
//! Rarest first, spread evenly, and sparing of the supernode's own uplink, which is the scarcest: it sends a piece that
//! no free peer holds to one client that will pass it on, and the others wait for that one as long as it keeps the
//! swarm's pace. Every step looks at a bounded number of pieces and peers, however many the task has.

use smallvec::SmallVec;

use super::lease::{Lease, Server, UploadSlot};
use super::{Piece, Swarm};
use crate::domain::{Moment, PieceDigest, PieceNumber};

/// Pieces compared for rarity in one step. A file of up to 64 pieces (256 MiB) is compared whole.
const CANDIDATES_MAX: usize = 64;
/// Holders of a piece looked at for a free slot. With half of them busy, missing a free one has odds of 1 in 256.
const PROBES: u32 = 8;
/// Pieces of at most this many bytes cost less to send than to arrange.
const CHEAP_BYTES: u32 = 256 * 1024;

/// Whether a piece is so small that the supernode sends it to whoever asks.
pub(super) const fn is_cheap(digest: &PieceDigest) -> bool {
    digest.slot_len() <= CHEAP_BYTES
}

impl Swarm {
    /// Fills the client's free places with leases, as far as there is something to hand out.
    pub(super) fn assign(&mut self, now: Moment, rng: &mut fastrand::Rng, ordinal: u32) {
        let Some(member) = self.members.get(ordinal) else { return };
        let mut free = self.limits.down.saturating_sub(member.leases.len());
        if free == 0 {
            return;
        }
        for piece in self.rarest_missing(rng, ordinal) {
            if let Some((server, slot)) = self.choose_server(now, rng, ordinal, piece) {
                self.grant(now, ordinal, piece, server, slot);
                free -= 1;
                if free == 0 {
                    return;
                }
            }
        }
    }

    /// Pieces that the client lacks and that can be handed out, those with the fewest copies first.
    fn rarest_missing(&self, rng: &mut fastrand::Rng, ordinal: u32) -> SmallVec<[PieceNumber; CANDIDATES_MAX]> {
        let Some(member) = self.members.get(ordinal) else { return SmallVec::new() };
        let words = self.pieces.len().div_ceil(64);
        let first = rng.usize(0..words.max(1));
        let mut ranked: SmallVec<[(u64, u32, PieceNumber); CANDIDATES_MAX]> = SmallVec::new();
        'words: for index in (first..words).chain(0..first) {
            let mut missing = self.known.word(index) & !member.held.word(index);
            while missing != 0 {
                let number = index * 64 + missing.trailing_zeros() as usize;
                missing &= missing - 1;
                let Ok(piece) = u32::try_from(number).map(PieceNumber) else { break 'words };
                if member.fetches(piece) {
                    continue;
                }
                ranked.push((self.pieces[number].copies(), rng.u32(..), piece));
                if ranked.len() == CANDIDATES_MAX {
                    break 'words;
                }
            }
        }
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, _, piece)| piece).collect()
    }

    fn choose_server(
        &self,
        now: Moment,
        rng: &mut fastrand::Rng,
        ordinal: u32,
        piece: PieceNumber,
    ) -> Option<(Server, Option<UploadSlot>)> {
        let member = self.members.get(ordinal)?;
        let seed_only = member.download_errors >= self.limits.download_errors || self.is_refused_by_peers(piece);
        if !seed_only && let Some((server, slot)) = self.free_holder(now, rng, ordinal, piece) {
            return Some((server, Some(slot)));
        }
        self.seed_may_send(now, ordinal, piece, seed_only).then_some((Server::Seed, None))
    }

    /// The least loaded of a few holders that have a free slot, which is taken.
    fn free_holder(
        &self,
        now: Moment,
        rng: &mut fastrand::Rng,
        ordinal: u32,
        piece: PieceNumber,
    ) -> Option<(Server, UploadSlot)> {
        let receiver = self.members.get(ordinal)?;
        let holders = &self.pieces[piece.index()].holders;
        let partial = u32::try_from(holders.len()).unwrap_or(u32::MAX);
        let total = partial.saturating_add(u32::try_from(self.complete.len()).unwrap_or(u32::MAX));
        if total == 0 {
            return None;
        }
        let start = rng.u32(0..total);
        let mut best: Option<(u32, u32)> = None;
        for probe in 0..PROBES.min(total) {
            // Few holders are looked at one after the other; of many, every look is at a random one.
            let place = if total <= PROBES { (start + probe) % total } else { rng.u32(0..total) };
            let candidate = if place < partial { holders.select(place) } else { self.complete.select(place - partial) };
            let Some(candidate) = candidate.filter(|&candidate| candidate != ordinal && !receiver.avoids(candidate, now)) else {
                continue;
            };
            let Some(uploads) = self.members.get(candidate).and_then(|member| Some(member.intro.server.as_ref()?.uploads()))
            else {
                continue;
            };
            if uploads < self.limits.up && best.is_none_or(|(least, _)| uploads < least) {
                best = Some((uploads, candidate));
            }
        }
        let holder = &self.members.get(best?.1)?.intro;
        let slot = holder.server.as_ref()?.acquire(self.limits.up)?;
        Some((Server::Peer(holder.endpoint.clone()), slot))
    }

    /// Whether the supernode itself, or the source in its place, should send this piece to this client now.
    fn seed_may_send(&self, now: Moment, ordinal: u32, piece: PieceNumber, seed_only: bool) -> bool {
        let (entry, Some(member)) = (&self.pieces[piece.index()], self.members.get(ordinal)) else { return false };
        if !entry.at_seed || self.source_rests(now, member) {
            return false;
        }
        if seed_only || entry.digest.as_ref().is_some_and(is_cheap) {
            return true;
        }
        // Somebody who will serve it is fetching it right now.
        if entry.promised > 0 {
            return false;
        }
        // In company, a client keeps half of its places for what peers hold: places that all wait for the supernode
        // leave the peers' uplinks idle.
        let from_seed = member.leases.iter().filter(|lease| lease.server == Server::Seed).count();
        let serves = member.serves(self.limits.serve_errors);
        let in_company = self.serving > u32::from(serves);
        !in_company || from_seed < self.limits.down.div_ceil(2)
    }

    fn grant(&mut self, now: Moment, ordinal: u32, piece: PieceNumber, server: Server, slot: Option<UploadSlot>) {
        let Some(member) = self.members.get_mut(ordinal) else { return };
        let promising = member.serves(self.limits.serve_errors);
        if !std::mem::replace(&mut member.busy, true) {
            self.busy.push(ordinal);
        }
        member.leases.push(Lease { piece, server, granted: now, slot, promising, overdue: false });
        self.pieces[piece.index()].promised += u32::from(promising);
    }
}

impl Piece {
    /// How many peers serve it or soon will, those that serve the whole file aside: they are the same for all pieces.
    fn copies(&self) -> u64 {
        self.holders.len() + u64::from(self.promised)
    }
}
