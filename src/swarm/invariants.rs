//! What must hold of a swarm after every step, computed anew from its members: slow, and obviously right.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::members::is_unfinished;
use super::{Swarm, UploadServer};
use crate::domain::Moment;

/// What runs, counted: what was granted under higher limits may still run, but nothing is added to it.
#[derive(Default)]
pub(super) struct Granted {
    leases: HashMap<u32, usize>,
    uploads: HashMap<*const UploadServer, u32>,
}

impl Granted {
    fn leases_max(&self, ordinal: u32, limit: usize) -> usize {
        self.leases.get(&ordinal).map_or(limit, |&granted| granted.max(limit))
    }

    fn uploads_max(&self, server: *const UploadServer, limit: u32) -> u32 {
        self.uploads.get(&server).map_or(limit, |&granted| granted.max(limit))
    }
}

impl Swarm {
    /// Panics with a sentence where an invariant is broken. Takes what ran at the last check, and tells what runs now.
    pub(super) fn check(&self, before: &Granted) -> Granted {
        let mut granted = Granted::default();
        let count = self.status.piece_count();
        let mut promised = vec![0; self.pieces.len()];
        let mut holders = vec![RoaringBitmap::new(); self.pieces.len()];
        let mut complete = RoaringBitmap::new();
        let mut slots: HashMap<*const UploadServer, u32> = HashMap::new();
        let mut serving = 0;
        for (ordinal, member) in self.members.iter() {
            let client = &member.intro.endpoint.client;
            let leases_max = before.leases_max(ordinal, self.limits.down);
            assert!(member.leases.len() <= leases_max, "{client} has more leases than places");
            granted.leases.insert(ordinal, member.leases.len());
            let leased: HashSet<_> = member.leases.iter().map(|lease| lease.piece).collect();
            assert_eq!(leased.len(), member.leases.len(), "{client} is assigned a piece twice");
            assert!(leased.iter().all(|piece| !member.held.contains(*piece)), "{client} is assigned a piece that it holds");
            assert!(member.leases.is_empty() || self.busy.contains(&ordinal), "{client} has leases that no sweep would end");
            assert!(member.servable.iter().all(|piece| member.held.contains(piece)), "{client} serves a piece that it lacks");
            for lease in &member.leases {
                promised[lease.piece.index()] += u32::from(lease.promising);
                assert!(!lease.promising || member.serves(self.limits.serve_errors), "{client} cannot serve what it promises");
                assert!(!lease.overdue || lease.slot.is_none(), "{client} keeps a slot for an overdue transfer");
                let server = lease.slot.as_ref().map(|slot| slot.server());
                *slots.entry(server.map_or(std::ptr::null(), Arc::as_ptr)).or_default() += 1;
            }
            for arriving in &member.arriving {
                promised[arriving.piece.index()] += 1;
                assert!(member.serves(self.limits.serve_errors), "{client} cannot serve what it promises");
                assert!(
                    member.held.contains(arriving.piece) && !member.servable.contains(arriving.piece),
                    "{client} promises what it serves or lacks"
                );
                assert!(self.busy.contains(&ordinal), "{client} has promises that no sweep would end");
            }
            if !member.serves(self.limits.serve_errors) {
                continue;
            }
            serving += 1;
            if count == Some(member.servable.len()) {
                complete.insert(ordinal);
            } else {
                member.servable.iter().for_each(|piece| {
                    holders[piece.index()].insert(ordinal);
                });
            }
        }
        let unfinished: RoaringBitmap =
            self.members.iter().filter(|(_, member)| is_unfinished(member.state)).map(|(ordinal, _)| ordinal).collect();
        assert_eq!(*self.members.unfinished_places(), unfinished, "the unfinished members are others");
        for now in [Moment(0), Moment(u64::MAX)] {
            let fetching = self.members.iter().filter(|(_, member)| self.is_fetching(now, member)).count();
            assert_eq!(self.fetching(now), fetching, "the fetching members are miscounted at {now:?}");
        }
        for (piece, (promised, holders)) in self.pieces.iter().zip(promised.into_iter().zip(holders)) {
            assert_eq!(piece.promised, promised, "promises are miscounted");
            assert_eq!(piece.holders, holders, "holders are not those who serve the piece");
        }
        assert_eq!(self.complete, complete, "the complete members are not those who serve everything");
        assert_eq!(self.serving, serving, "the serving members are miscounted");
        assert_eq!(self.at_seed as usize, self.pieces.iter().filter(|piece| piece.at_seed).count());
        let stored = self.pieces.iter().filter(|piece| piece.at_seed).filter_map(|piece| piece.digest);
        assert_eq!(self.stored_bytes, stored.map(|digest| u64::from(digest.slot_len())).sum::<u64>());
        assert_eq!(self.known.len() as usize, self.pieces.iter().filter(|piece| piece.digest.is_some() || piece.at_seed).count());
        for (server, taken) in slots {
            let limit = before.uploads_max(server, self.limits.up);
            assert!(server.is_null() || taken <= limit, "an upload server does more uploads than its limit");
            // Its client may have registered again without it: the transfers run on all the same.
            granted.uploads.insert(server, taken);
        }
        for (_, member) in self.members.iter() {
            if let Some(server) = &member.intro.server {
                let limit = before.uploads_max(Arc::as_ptr(server), self.limits.up);
                assert!(server.uploads() <= limit, "an upload server has more slots taken than its limit");
                granted.uploads.insert(Arc::as_ptr(server), server.uploads());
            }
        }
        granted
    }
}
