//! The clients of one task, each at a place (its ordinal) that stays its own.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::lease::{Lease, UploadServer};
use super::source::SourceTrouble;
use crate::domain::{Client, ClientId, ClientState, ClientVersion, Endpoint, Generation, Moment, PieceNumber, PieceSet, TaskId};

/// Failed pairs remembered per client; older ones make room.
const AVOIDED_MAX: usize = 8;

/// What a client says when it registers.
#[derive(Clone, Debug)]
pub struct Introduction {
    pub endpoint: Arc<Endpoint>,
    /// Its upload server; `None` for a client that cannot serve.
    pub server: Option<Arc<UploadServer>>,
    pub version: ClientVersion,
    /// Who called it; one of a few values that all clients share.
    pub call_system: Arc<str>,
    /// The host by which it reaches the supernode; empty if unsaid.
    pub seed_host: Arc<str>,
    /// The URL at which it asks the source, where that is another than the task's: with a signature of its own, say. It is
    /// told to whoever asks in this client's name, which nothing proves, and forgotten with a restart.
    pub own_url: Option<Arc<str>>,
}

/// A piece that is held and not yet served.
#[derive(Clone, Copy, Debug)]
pub struct Arriving {
    pub piece: PieceNumber,
    pub since: Moment,
}

/// One client of the task. About 200 bytes and its strings: there may be a million of them.
#[derive(Debug)]
pub struct Member {
    pub intro: Introduction,
    /// Changed by [`Members::set_state`] alone, which keeps count.
    pub state: ClientState,
    pub gone: bool,
    pub serve_errors: u8,
    pub download_errors: u8,
    /// Pieces it has, in memory or on disk.
    pub held: PieceSet,
    /// Pieces it has written and serves to others.
    pub servable: PieceSet,
    pub leases: Vec<Lease>,
    /// Pieces that it holds in memory and will serve once it has written them.
    pub arriving: Vec<Arriving>,
    /// Whether the swarm's list of busy members has it.
    pub busy: bool,
    /// Servers it recently failed to fetch from, and until when they are not paired again.
    pub avoided: Vec<(u32, Moment)>,
    pub source_trouble: SourceTrouble,
    pub seen: Moment,
}

impl Member {
    pub fn new(intro: Introduction, now: Moment) -> Self {
        Self {
            intro,
            state: ClientState::Waiting,
            gone: false,
            serve_errors: 0,
            download_errors: 0,
            held: PieceSet::default(),
            servable: PieceSet::default(),
            leases: Vec::new(),
            arriving: Vec::new(),
            busy: false,
            avoided: Vec::new(),
            source_trouble: SourceTrouble::default(),
            seen: now,
        }
    }

    /// Whether others may be sent to it, for what it holds.
    pub fn serves(&self, serve_errors_max: u8) -> bool {
        self.intro.server.is_some() && !self.gone && self.serve_errors < serve_errors_max
    }

    pub fn fetches(&self, piece: PieceNumber) -> bool {
        self.leases.iter().any(|lease| lease.piece == piece)
    }

    pub fn avoid(&mut self, server: u32, until: Moment) {
        self.avoided.retain(|(other, _)| *other != server);
        if self.avoided.len() == AVOIDED_MAX {
            self.avoided.remove(0);
        }
        self.avoided.push((server, until));
    }

    pub fn avoids(&self, server: u32, now: Moment) -> bool {
        self.avoided.iter().any(|(other, until)| *other == server && now < *until)
    }

    /// The durable part of it.
    pub fn record(&self, task: TaskId, generation: Generation, ordinal: u32) -> Client {
        Client {
            task,
            id: self.intro.endpoint.client.clone(),
            ordinal,
            generation,
            state: self.state,
            path: self.intro.endpoint.path.clone(),
            // One that never registered for this task serves nothing of it, whatever it registered for another.
            gone: self.gone || self.intro.server.is_none(),
            serve_errors: self.serve_errors,
            download_errors: self.download_errors,
        }
    }
}

/// All members, by ordinal and by client id.
#[derive(Debug, Default)]
pub struct Members {
    /// The last place is never empty.
    places: Vec<Option<Member>>,
    /// Empty places.
    free: BTreeSet<u32>,
    ordinals: HashMap<ClientId, u32>,
    /// Places of members that have not told, or been told, that they are done: few, where most have the file.
    unfinished: RoaringBitmap,
}

impl Members {
    pub fn len(&self) -> usize {
        self.ordinals.len()
    }

    pub fn ordinal(&self, client: &ClientId) -> Option<u32> {
        self.ordinals.get(client).copied()
    }

    /// The first place that nobody has: the same after a restart as before it.
    pub fn free_ordinal(&self) -> u32 {
        self.free.first().copied().unwrap_or_else(|| ordinal_of(self.places.len()))
    }

    /// Puts a member at a place that is free.
    pub fn insert(&mut self, ordinal: u32, member: Member) {
        let index = ordinal as usize;
        if index >= self.places.len() {
            self.free.extend(ordinal_of(self.places.len())..ordinal);
            self.places.resize_with(index + 1, || None);
        }
        self.free.remove(&ordinal);
        assert!(self.places[index].is_none(), "two members of one task have the place {ordinal}");
        self.ordinals.insert(member.intro.endpoint.client.clone(), ordinal);
        if is_unfinished(member.state) {
            self.unfinished.insert(ordinal);
        }
        self.places[index] = Some(member);
    }

    /// Changes a member's state; tells whether it was another.
    pub fn set_state(&mut self, ordinal: u32, state: ClientState) -> bool {
        let Some(member) = self.get_mut(ordinal) else { return false };
        let changed = std::mem::replace(&mut member.state, state) != state;
        if is_unfinished(state) {
            self.unfinished.insert(ordinal);
        } else {
            self.unfinished.remove(ordinal);
        }
        changed
    }

    /// Members that are waiting or running, in the order of their places.
    pub fn unfinished(&self) -> impl Iterator<Item = (u32, &Member)> {
        self.unfinished.iter().filter_map(|ordinal| Some((ordinal, self.get(ordinal)?)))
    }

    /// Takes a member out; its place is free.
    pub fn remove(&mut self, ordinal: u32) -> Option<Member> {
        let member = self.places.get_mut(ordinal as usize)?.take()?;
        self.ordinals.remove(&member.intro.endpoint.client);
        self.unfinished.remove(ordinal);
        self.free.insert(ordinal);
        // As if whoever had the last places had never been there: so a rebuilt table has it.
        while self.places.last().is_some_and(Option::is_none) {
            self.places.pop();
            self.free.remove(&ordinal_of(self.places.len()));
        }
        self.shrink();
        Some(member)
    }

    #[cfg(test)]
    pub const fn unfinished_places(&self) -> &RoaringBitmap {
        &self.unfinished
    }

    /// How many places there are, taken or not.
    pub fn places(&self) -> u32 {
        ordinal_of(self.places.len())
    }

    /// Members that there is memory for.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.places.capacity().max(self.ordinals.capacity())
    }

    /// Gives memory back after most members have left. Places that are free stay what they are.
    fn shrink(&mut self) {
        if self.places.capacity() > 4 * self.places.len() {
            self.places.shrink_to(2 * self.places.len());
        }
        if self.ordinals.capacity() > 4 * self.ordinals.len() {
            self.ordinals.shrink_to(2 * self.ordinals.len());
        }
    }

    pub fn get(&self, ordinal: u32) -> Option<&Member> {
        self.places.get(ordinal as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, ordinal: u32) -> Option<&mut Member> {
        self.places.get_mut(ordinal as usize)?.as_mut()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Member)> {
        (0..).zip(&self.places).filter_map(|(ordinal, place)| Some((ordinal, place.as_ref()?)))
    }

    pub fn ids(&self) -> impl Iterator<Item = &ClientId> {
        self.ordinals.keys()
    }
}

pub fn is_unfinished(state: ClientState) -> bool {
    match state {
        ClientState::Waiting | ClientState::Running => true,
        ClientState::Success | ClientState::Fail => false,
    }
}

/// Members are counted in memory, each with hundreds of bytes: their number fits.
fn ordinal_of(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
