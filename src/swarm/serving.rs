//! Who serves what: the lists of holders, and the leases and promises that come to an end.

use super::events::Effects;
use super::lease::Lease;
use super::members::Member;
use super::{Piece, Swarm};
use crate::domain::PieceNumber;

impl Swarm {
    /// Tells what ended, if there was something.
    pub(super) fn end_lease(&mut self, ordinal: u32, piece: PieceNumber, effects: &mut Effects) -> Option<Lease> {
        let member = self.members.get_mut(ordinal)?;
        let place = member.leases.iter().position(|lease| lease.piece == piece)?;
        let mut lease = member.leases.swap_remove(place);
        take_promise_back(&mut self.pieces, (lease.piece, &mut lease.promising));
        effects.open(1);
        Some(lease)
    }

    pub(super) fn end_all_leases(&mut self, ordinal: u32, effects: &mut Effects) {
        let Some(member) = self.members.get_mut(ordinal) else { return };
        for mut lease in std::mem::take(&mut member.leases) {
            take_promise_back(&mut self.pieces, (lease.piece, &mut lease.promising));
            effects.open(1);
        }
    }

    pub(super) fn serves_everything(&self, member: &Member) -> bool {
        self.status.piece_count().is_some_and(|count| member.servable.len() == count)
    }

    pub(super) fn add_holder(&mut self, ordinal: u32, piece: PieceNumber) {
        self.piece_mut(piece).holders.insert(ordinal);
        self.promote(ordinal);
    }

    /// Moves a member that serves the whole file out of the pieces' own lists.
    pub(super) fn promote(&mut self, ordinal: u32) {
        let complete = self.members.get(ordinal).is_some_and(|member| self.serves_everything(member));
        if complete && self.complete.insert(ordinal) {
            for piece in &mut self.pieces {
                piece.holders.remove(ordinal);
            }
        }
    }

    pub(super) fn promote_all(&mut self) {
        let serving = |(ordinal, member): (u32, &Member)| member.serves(self.limits.serve_errors).then_some(ordinal);
        let ordinals: Vec<u32> = self.members.iter().filter_map(serving).collect();
        for ordinal in ordinals {
            self.promote(ordinal);
        }
    }

    /// Enters a member that serves into the lists of what it holds. The counterpart of [`Self::stop_serving`].
    pub(super) fn start_serving(&mut self, ordinal: u32) {
        let Some(member) = self.members.get(ordinal).filter(|member| member.serves(self.limits.serve_errors)) else { return };
        self.serving += 1;
        if self.serves_everything(member) {
            self.complete.insert(ordinal);
            return;
        }
        let servable: Vec<PieceNumber> = member.servable.iter().collect();
        for piece in servable {
            self.piece_mut(piece).holders.insert(ordinal);
        }
    }

    /// Takes a member out of every list of holders; called before what makes it unable to serve is noted.
    pub(super) fn stop_serving(&mut self, ordinal: u32, effects: &mut Effects) {
        let Some(member) = self.members.get_mut(ordinal).filter(|member| member.serves(self.limits.serve_errors)) else { return };
        self.serving -= 1;
        // Others waited for what it was going to serve.
        for promise in member.leases.iter_mut().map(|lease| (lease.piece, &mut lease.promising)) {
            effects.open(u32::from(take_promise_back(&mut self.pieces, promise)));
        }
        for arriving in member.arriving.drain(..) {
            self.pieces[arriving.piece.index()].promised -= 1;
            effects.open(1);
        }
        if !self.complete.remove(ordinal) {
            for piece in member.servable.iter() {
                self.pieces[piece.index()].holders.remove(ordinal);
            }
        }
    }
}

/// Tells whether there was a promise.
pub(super) fn take_promise_back(pieces: &mut [Piece], (piece, promising): (PieceNumber, &mut bool)) -> bool {
    let promised = std::mem::replace(promising, false);
    pieces[piece.index()].promised -= u32::from(promised);
    promised
}
