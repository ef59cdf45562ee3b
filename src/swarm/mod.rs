//! Decides which client fetches which piece from whom. One [`Swarm`] a task; tasks share nothing but upload slots.
//!
//! Owns the live state of a task: its pieces, its clients and what they hold, and the leases between them.
//! Pure: no clock, IO or randomness of its own; `now` and `rng` are arguments, so a simulation can replay any run.
//! Truth lives in the store: every durable fact leaves as a [`Change`], and [`Swarm::rebuild`] makes an equal swarm of
//! them. Leases, the pace and the avoided pairs are soft: a rebuilt swarm starts without.
//!
//! Invariants (checked by `invariants`, in tests after every step):
//! - a piece is assigned to a client at most once at a time;
//! - no lease is granted beyond `down` a client and `up` an upload server; what was granted under higher limits runs out;
//! - every slot is freed when its lease ends;
//! - a client that is told 600 holds every piece.

mod events;
mod expiry;
mod lease;
mod members;
mod policy;
mod rebuild;
mod reports;
mod serving;
mod source;
mod views;

#[cfg(test)]
mod invariants;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use roaring::RoaringBitmap;

use crate::domain::{
    CdnPattern, Change, ClientId, ClientState, Failure, Fault, Moment, PieceDigest, PieceNumber, PieceSet, SourceState, TaskId,
    TaskStatus,
};
pub use events::{Assignment, Decision, Effects, Event, Limits, Refusal, Report};
pub use expiry::Left;
use lease::Pace;
pub use lease::{Server, UploadServer, lease_life};
pub use members::Introduction;
use members::{Member, Members};
pub use rebuild::{StoredClient, StoredPiece, StoredTask};
use serving::take_promise_back;
pub use views::{ClientView, PieceView, ServingClient};

/// Clients of one task. Whoever comes later is refused: a client costs memory for as long as its task lives.
const MEMBERS_MAX: usize = 1 << 20;
/// The path of a client that was only heard of: it serves nothing.
pub const PATH_OF_UNREGISTERED: &str = "/";
/// After a failed transfer, a client and a server are not paired again for this long.
const AVOID_FOR: Duration = Duration::from_secs(60);

/// A piece and who has it.
#[derive(Debug, Default)]
struct Piece {
    /// What it must be; `None` until the source's bytes were hashed.
    digest: Option<PieceDigest>,
    /// It can be had from us or, where its bytes stay there, from the source.
    at_seed: bool,
    /// Ordinals of members that serve this piece, without those that serve the whole file.
    holders: RoaringBitmap,
    /// Leases of it to members who will serve it soon.
    promised: u32,
}

/// One task's pieces, clients and leases.
#[derive(Debug)]
pub struct Swarm {
    task: TaskId,
    limits: Limits,
    status: TaskStatus,
    pieces: Vec<Piece>,
    /// Pieces with a known digest, or all those of a source that clients are sent to: what can be handed out at all.
    known: PieceSet,
    at_seed: u32,
    /// Bytes of the slots on our disk.
    stored_bytes: u64,
    members: Members,
    /// Ordinals of members that serve the whole file: kept apart, so that finished ones cost nothing per piece.
    complete: RoaringBitmap,
    /// Clients that began an earlier generation, and when they were last heard of.
    former: HashMap<ClientId, Moment>,
    /// Members that can serve, complete or not.
    serving: u32,
    /// Ordinals of members with leases, for [`Swarm::sweep`].
    busy: Vec<u32>,
    pace: Pace,
}

impl Swarm {
    /// A task of which nothing is here yet.
    pub fn new(task: TaskId, limits: Limits, status: TaskStatus) -> Self {
        Self {
            task,
            limits,
            status,
            pieces: Vec::new(),
            known: PieceSet::default(),
            at_seed: 0,
            stored_bytes: 0,
            members: Members::default(),
            complete: RoaringBitmap::new(),
            former: HashMap::new(),
            serving: 0,
            busy: Vec::new(),
            pace: Pace::default(),
        }
    }

    pub const fn status(&self) -> &TaskStatus {
        &self.status
    }

    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// What a client said when it registered.
    pub fn introduction(&self, client: &ClientId) -> Option<&Introduction> {
        Some(&self.members.get(self.members.ordinal(client)?)?.intro)
    }

    /// The digest of a piece that our disk holds.
    pub fn stored_piece(&self, piece: PieceNumber) -> Option<PieceDigest> {
        self.pieces.get(piece.index()).filter(|piece| piece.at_seed)?.digest
    }

    /// Whether the content is settled in any piece.
    pub fn knows_pieces(&self) -> bool {
        !self.known.is_empty()
    }

    /// How many pieces the content has at least: the last that is settled, counted from 1.
    pub fn known_end(&self) -> u32 {
        let last = self.pieces.iter().rposition(|piece| piece.digest.is_some());
        last.and_then(|last| u32::try_from(last + 1).ok()).unwrap_or_default()
    }

    /// How many pieces from the first on are on our disk without a gap.
    pub fn stored_prefix(&self) -> u32 {
        if self.at_seed as usize == self.pieces.len() {
            return self.at_seed;
        }
        let prefix = self.pieces.iter().take_while(|piece| piece.at_seed).count();
        u32::try_from(prefix).unwrap_or(self.at_seed)
    }

    /// The piece that a range names, if this file can have it.
    pub fn piece_of_range(&self, range: &RangeInclusive<u64>) -> Result<PieceNumber, Refusal> {
        let piece = self.status.piece_size.piece_of_range(range, self.status.file_length());
        self.check_in_range(piece.ok_or(Refusal::PieceOutOfRange)?)
    }

    fn check_in_range(&self, piece: PieceNumber) -> Result<PieceNumber, Refusal> {
        let known_pieces = u32::try_from(self.pieces.len()).unwrap_or(u32::MAX);
        let count = self.status.piece_count().unwrap_or(known_pieces);
        if piece.0 < count { Ok(piece) } else { Err(Refusal::PieceOutOfRange) }
    }

    /// Changes the limits under way. Who serves may change with them; transfers that run go on, though there may be more
    /// of them for a while than could be granted now.
    pub fn set_limits(&mut self, limits: Limits, effects: &mut Effects) {
        if limits == self.limits {
            return;
        }
        let serves = |member: &Member, limits: Limits| member.serves(limits.serve_errors);
        let changes = |(ordinal, member): (u32, &Member)| {
            let (before, after) = (serves(member, self.limits), serves(member, limits));
            (before != after).then_some((ordinal, after))
        };
        let changed: Vec<(u32, bool)> = self.members.iter().filter_map(changes).collect();
        // Whoever stops is taken out of the lists by the limits under which it entered them.
        for (ordinal, _) in changed.iter().filter(|(_, serves)| !serves) {
            self.stop_serving(*ordinal, effects);
        }
        self.limits = limits;
        for (ordinal, _) in changed.iter().filter(|(_, serves)| *serves) {
            self.start_serving(*ordinal);
        }
        effects.open(Effects::EVERYBODY);
    }

    /// Takes an event in. On a refusal nothing has changed.
    pub fn handle(&mut self, now: Moment, event: Event, effects: &mut Effects) -> Result<(), Refusal> {
        match event {
            Event::ClientRegistered(intro) => self.register(now, intro, effects)?,
            Event::FromClient { client, report } => self.take_report(now, &client, report, effects)?,
            Event::SourceAnswered(status) => {
                self.status = status;
                self.note_status(effects);
                if self.offer_source() {
                    self.promote_all();
                    effects.open(Effects::EVERYBODY);
                }
            }
            Event::PieceStored { piece, digest } => self.store_piece(piece, digest, effects),
            Event::PieceLost { piece } => self.lose_piece(piece, effects),
            Event::SourceFinished { md5, length } => {
                self.status.length = Some(length);
                self.status.state = SourceState::Success { md5: Some(md5), length };
                self.note_status(effects);
                self.promote_all();
                effects.open(Effects::EVERYBODY);
            }
            Event::SourceRetried => {
                let answered_before = self.knows_pieces() || self.status.length.is_some();
                self.status.state = if answered_before { SourceState::Running } else { SourceState::Waiting };
                self.note_status(effects);
            }
            Event::SourceFailed(failure) => {
                self.status.state = SourceState::Failed(failure);
                self.note_status(effects);
                effects.open(Effects::EVERYBODY);
            }
        }
        Ok(())
    }

    /// What the client should do now; grants leases for what it should fetch.
    pub fn decide(&mut self, now: Moment, rng: &mut fastrand::Rng, client: &ClientId) -> Decision {
        if let Some(seen) = self.former.get_mut(client) {
            *seen = now;
            return Decision::Failed(Failure {
                fault: Fault::Source,
                discard: true,
                reason: Refusal::EarlierGeneration.to_string(),
            });
        }
        if let SourceState::Failed(failure) = &self.status.state {
            return Decision::Failed(failure.clone());
        }
        let Some(ordinal) = self.members.ordinal(client) else {
            return self.wait(0);
        };
        if let Some(finished) = self.finished(ordinal) {
            return finished;
        }
        self.assign(now, rng, ordinal);
        let Some(member) = self.members.get(ordinal) else {
            return self.wait(0);
        };
        if member.leases.is_empty() {
            return self.gives_up_on_source(ordinal).map_or_else(|| self.wait(member.held.len()), Decision::Failed);
        }
        let assignment = |lease: &lease::Lease| Assignment {
            piece: lease.piece,
            piece_size: self.status.piece_size,
            digest: self.digest(lease.piece),
            server: lease.server.clone(),
        };
        Decision::Continue(member.leases.iter().map(assignment).collect())
    }

    /// A client is about to be told that it has everything: it is done. Of the published clients, none but the oldest ever
    /// say so themselves.
    pub fn finish_client(&mut self, client: &ClientId, effects: &mut Effects) {
        if let Some(ordinal) = self.members.ordinal(client) {
            self.change_state(ordinal, ClientState::Success, effects);
        }
    }

    fn wait(&self, held: u32) -> Decision {
        let source = match self.status.state {
            SourceState::Waiting => "Waiting",
            SourceState::Running => "Running",
            SourceState::Success { .. } => "Success",
            SourceState::Failed(_) => "Fail",
        };
        Decision::Wait { held, at_seed: self.at_seed, source }
    }

    /// Ends what has taken too long: an overdue transfer gives its slot and its promise to others, an expired lease is
    /// as if it had never been granted.
    pub fn sweep(&mut self, now: Moment, effects: &mut Effects) {
        let patience = self.pace.patience(self.status.piece_size);
        let life = lease_life(self.status.piece_size);
        let mut place = 0;
        while let Some(&ordinal) = self.busy.get(place) {
            let Some(member) = self.members.get_mut(ordinal) else {
                self.busy.swap_remove(place);
                continue;
            };
            for lease in &mut member.leases {
                if !lease.overdue && now.since(lease.granted) > patience {
                    lease.overdue = true;
                    lease.slot = None;
                    take_promise_back(&mut self.pieces, (lease.piece, &mut lease.promising));
                    effects.open(1);
                }
            }
            let leases_before = member.leases.len();
            member.leases.retain(|lease| now.since(lease.granted) <= life);
            effects.open(u32::from(member.leases.len() < leases_before));
            member.arriving.retain(|arriving| {
                let overdue = now.since(arriving.since) > patience;
                self.pieces[arriving.piece.index()].promised -= u32::from(overdue);
                effects.open(u32::from(overdue));
                !overdue
            });
            if member.leases.is_empty() && member.arriving.is_empty() {
                member.busy = false;
                self.busy.swap_remove(place);
            } else {
                place += 1;
            }
        }
    }

    /// The digest of a piece, whether or not its bytes are here.
    pub fn digest(&self, piece: PieceNumber) -> Option<PieceDigest> {
        self.pieces.get(piece.index())?.digest
    }

    /// Why the source failed, if it did.
    pub const fn failure(&self) -> Option<&Failure> {
        match &self.status.state {
            SourceState::Failed(failure) => Some(failure),
            SourceState::Waiting | SourceState::Running | SourceState::Success { .. } => None,
        }
    }

    /// Pieces on our disk, ascending.
    pub fn stored_pieces(&self) -> impl Iterator<Item = (PieceNumber, PieceDigest)> {
        (0..)
            .map(PieceNumber)
            .zip(&self.pieces)
            .filter_map(|(piece, entry)| Some((piece, entry.digest.filter(|_| entry.at_seed)?)))
    }

    /// Pieces whose digest is known and whose bytes are not on our disk.
    pub fn missing_pieces(&self) -> Vec<(PieceNumber, PieceDigest)> {
        let missing = |(piece, entry): (u32, &Piece)| Some((PieceNumber(piece), entry.digest.filter(|_| !entry.at_seed)?));
        (0..).zip(&self.pieces).filter_map(missing).collect()
    }

    /// Whether peers serve everything that is not on our disk.
    pub fn is_held_by_peers(&self) -> bool {
        let held = |piece: &Piece| piece.at_seed || !piece.holders.is_empty();
        !self.complete.is_empty() || self.pieces.iter().all(held)
    }

    /// Whether there is nothing left to get from the source: every piece of the file is on our disk, or is to stay where it is.
    pub fn is_whole(&self) -> bool {
        matches!(self.status.state, SourceState::Success { .. }) && self.status.piece_count() == Some(self.at_seed)
    }

    /// Begins a new generation with nothing of the old one but the memory of who must not join it.
    pub fn next_generation(&mut self, now: Moment, pattern: CdnPattern, effects: &mut Effects) {
        let mut former = std::mem::take(&mut self.former);
        former.extend(self.members.ids().map(|client| (client.clone(), now)));
        let status = TaskStatus::waiting(self.status.generation.next(), pattern);
        *self = Self { former, ..Self::new(self.task, self.limits, status) };
        effects.changes.push(Change::GenerationEnded { task: self.task });
        self.note_status(effects);
    }

    fn note_status(&self, effects: &mut Effects) {
        effects.changes.push(Change::TaskProgressed { task: self.task, status: self.status.clone() });
    }

    fn note_client(&self, ordinal: u32, effects: &mut Effects) {
        if let Some(member) = self.members.get(ordinal) {
            effects.changes.push(Change::ClientChanged(member.record(self.task, self.status.generation, ordinal)));
        }
    }

    fn store_piece(&mut self, piece: PieceNumber, digest: PieceDigest, effects: &mut Effects) {
        self.know_piece(piece, digest, true);
        effects.changes.push(Change::PieceStored { task: self.task, piece, digest });
        // A small piece goes to everybody at once; a large one to one client that will pass it on, and to those that do not.
        let not_serving = u32::try_from(self.members.len()).unwrap_or(u32::MAX).saturating_sub(self.serving);
        effects.open(if policy::is_cheap(&digest) { Effects::EVERYBODY } else { 1 + not_serving });
    }

    fn know_piece(&mut self, piece: PieceNumber, digest: PieceDigest, stored: bool) {
        let entry = self.piece_mut(piece);
        entry.digest = Some(digest);
        let newly_here = stored && !std::mem::replace(&mut entry.at_seed, true);
        if newly_here {
            self.at_seed += 1;
            self.stored_bytes += u64::from(digest.slot_len());
        }
        self.known.insert(piece);
    }

    /// The digest stays known, so peers that hold the piece go on serving it.
    fn lose_piece(&mut self, piece: PieceNumber, effects: &mut Effects) {
        let Some(entry) = self.pieces.get_mut(piece.index()) else { return };
        if let Some(digest) = entry.digest
            && std::mem::replace(&mut entry.at_seed, false)
        {
            self.at_seed -= 1;
            self.stored_bytes -= u64::from(digest.slot_len());
            effects.changes.push(Change::PieceLost { task: self.task, piece, digest });
        }
    }

    fn piece_mut(&mut self, piece: PieceNumber) -> &mut Piece {
        if piece.index() >= self.pieces.len() {
            self.pieces.resize_with(piece.index() + 1, Piece::default);
        }
        &mut self.pieces[piece.index()]
    }

    fn finished(&self, ordinal: u32) -> Option<Decision> {
        let SourceState::Success { md5, length } = self.status.state else { return None };
        let count = self.status.piece_count()?;
        let member = self.members.get(ordinal)?;
        (member.held.len() == count).then(|| Decision::Finished { md5, file_length: self.status.file_length().unwrap_or(length) })
    }
}
