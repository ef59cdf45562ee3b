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

mod lease;
mod members;
mod policy;
mod rebuild;
mod views;

#[cfg(test)]
mod invariants;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use roaring::RoaringBitmap;

use crate::domain::{
    Change, ClientId, ClientState, Endpoint, Failure, Fault, Md5Digest, Moment, PieceDigest, PieceNumber, PieceSet, PieceSize,
    SourceState, TaskId, TaskStatus,
};
use lease::Pace;
pub use lease::{Server, UploadServer, lease_life};
pub use members::Introduction;
use members::{Arriving, Member, Members};
pub use rebuild::{StoredClient, StoredPiece, StoredTask};
pub use views::{ClientView, PieceView, ServingClient};

/// Clients of one task. Whoever comes later is refused: a client costs memory for as long as its task lives.
const MEMBERS_MAX: usize = 1 << 20;
/// After a failed transfer, a client and a server are not paired again for this long.
const AVOID_FOR: Duration = Duration::from_secs(60);

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
    /// The source's headers told what is coming.
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
    /// A piece on our own disk that a client could not get from us: it may be damaged.
    pub suspect: Option<PieceNumber>,
}

impl Effects {
    /// Everybody's answer may have changed.
    const EVERYBODY: u32 = u32::MAX;

    const fn open(&mut self, count: u32) {
        self.openings = self.openings.saturating_add(count);
    }
}

/// A piece for a client to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub piece: PieceNumber,
    pub piece_size: PieceSize,
    pub digest: PieceDigest,
    pub server: Server,
}

/// What a client should do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It has everything: the MD5 of the source's bytes and the length of the cached file.
    Finished {
        md5: Md5Digest,
        cached_length: u64,
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

/// A piece and who has it.
#[derive(Debug, Default)]
struct Piece {
    /// What it must be; `None` until the source's bytes were hashed.
    digest: Option<PieceDigest>,
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
    /// Pieces with a known digest: what can be handed out at all.
    known: PieceSet,
    at_seed: u32,
    members: Members,
    /// Ordinals of members that serve the whole file: kept apart, so that finished ones cost nothing per piece.
    complete: RoaringBitmap,
    /// Clients that began an earlier generation.
    former: HashSet<ClientId>,
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
            members: Members::default(),
            complete: RoaringBitmap::new(),
            former: HashSet::new(),
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
        let size = self.status.piece_size;
        let cached_length =
            self.status.length.zip(self.status.piece_count()).map(|(length, count)| size.cached_length(length, count));
        self.check_in_range(size.piece_of_range(range, cached_length).ok_or(Refusal::PieceOutOfRange)?)
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
            }
            Event::PieceStored { piece, digest } => self.store_piece(piece, digest, effects),
            Event::PieceLost { piece } => self.lose_piece(piece, effects),
            Event::SourceFinished { md5, length } => {
                self.status.length = Some(length);
                self.status.state = SourceState::Success { md5, length };
                self.note_status(effects);
                self.promote_all();
                effects.open(Effects::EVERYBODY);
            }
            Event::SourceRetried => {
                let answered_before = self.at_seed > 0 || self.status.length.is_some();
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
        if self.former.contains(client) {
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
            return self.wait(member.held.len());
        }
        let assignment = |lease: &lease::Lease| {
            let digest = self.pieces.get(lease.piece.index())?.digest?;
            Some(Assignment { piece: lease.piece, piece_size: self.status.piece_size, digest, server: lease.server.clone() })
        };
        Decision::Continue(member.leases.iter().filter_map(assignment).collect())
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

    /// Whether every piece of the file is on our disk.
    pub fn is_whole(&self) -> bool {
        matches!(self.status.state, SourceState::Success { .. }) && self.status.piece_count() == Some(self.at_seed)
    }

    /// Begins a new generation with nothing of the old one but the memory of who must not join it.
    pub fn next_generation(&mut self, effects: &mut Effects) {
        let mut former = std::mem::take(&mut self.former);
        former.extend(self.members.ids().cloned());
        let status = TaskStatus {
            generation: self.status.generation.next(),
            piece_size: PieceSize::DEFAULT,
            length: None,
            validators: Default::default(),
            state: SourceState::Waiting,
        };
        *self = Self { former, ..Self::new(self.task, self.limits, status) };
        effects.changes.push(Change::GenerationEnded { task: self.task });
        self.note_status(effects);
    }

    /// Makes a client one that this task does not know. One that began an earlier generation stays known as that.
    pub fn forget(&mut self, client: &ClientId, effects: &mut Effects) {
        let Some(ordinal) = self.members.ordinal(client) else { return };
        self.stop_serving(ordinal, effects);
        self.end_all_leases(ordinal, effects);
        self.members.remove(ordinal);
        self.busy.retain(|busy| *busy != ordinal);
        effects.changes.push(Change::ClientForgotten { task: self.task, client: client.clone() });
    }

    fn note_status(&self, effects: &mut Effects) {
        effects.changes.push(Change::TaskProgressed { task: self.task, status: self.status.clone() });
    }

    fn note_client(&self, ordinal: u32, effects: &mut Effects) {
        if let Some(member) = self.members.get(ordinal) {
            effects.changes.push(Change::ClientChanged(member.record(self.task, self.status.generation, ordinal)));
        }
    }

    fn register(&mut self, now: Moment, intro: Introduction, effects: &mut Effects) -> Result<(), Refusal> {
        let client = intro.endpoint.client.clone();
        if self.former.contains(&client) {
            return Err(Refusal::EarlierGeneration);
        }
        let Some(ordinal) = self.members.ordinal(&client) else {
            self.check_room()?;
            self.join(now, intro, effects);
            return Ok(());
        };
        self.stop_serving(ordinal, effects);
        if let Some(member) = self.members.get_mut(ordinal) {
            // A new address is a new upload server, which has not failed anybody yet.
            if *member.intro.endpoint != *intro.endpoint {
                member.serve_errors = 0;
            }
            member.gone = false;
            member.seen = now;
            member.intro = intro;
        }
        self.start_serving(ordinal);
        self.note_client(ordinal, effects);
        Ok(())
    }

    fn check_room(&self) -> Result<(), Refusal> {
        if self.members.len() < MEMBERS_MAX { Ok(()) } else { Err(Refusal::TooManyClients) }
    }

    fn join(&mut self, now: Moment, intro: Introduction, effects: &mut Effects) -> u32 {
        let ordinal = self.members.free_ordinal();
        self.members.insert(ordinal, Member::new(intro, now));
        self.start_serving(ordinal);
        self.note_client(ordinal, effects);
        ordinal
    }

    /// A client that this task does not know (restored from an older snapshot, expired) is served as one that cannot
    /// serve others: sending it away would send it to the source.
    fn ordinal_or_join(&mut self, now: Moment, client: &ClientId, effects: &mut Effects) -> u32 {
        self.members.ordinal(client).unwrap_or_else(|| {
            let endpoint =
                Endpoint { client: client.clone(), ip: std::net::Ipv4Addr::UNSPECIFIED.into(), port: 0, path: "/".into() };
            let intro = Introduction {
                endpoint: Arc::new(endpoint),
                server: None,
                version: Default::default(),
                call_system: "".into(),
                seed_host: "".into(),
            };
            self.join(now, intro, effects)
        })
    }

    fn take_report(&mut self, now: Moment, client: &ClientId, report: Report, effects: &mut Effects) -> Result<(), Refusal> {
        if self.former.contains(client) {
            // What it holds is of another file. It is told so when it asks.
            return Ok(());
        }
        if let Report::PieceHeld(piece) | Report::PieceServable(piece) | Report::PieceFailed { piece, .. } = report {
            self.check_in_range(piece)?;
        }
        // What ends a membership does not begin one.
        let ends = matches!(report, Report::Finished { .. } | Report::ServiceDown);
        if ends && self.members.ordinal(client).is_none() {
            return Ok(());
        }
        if self.members.ordinal(client).is_none() {
            self.check_room()?;
        }
        let ordinal = self.ordinal_or_join(now, client, effects);
        if let Some(member) = self.members.get_mut(ordinal) {
            member.seen = now;
        }
        match report {
            Report::Asked => {}
            Report::Started => self.change_state(ordinal, ClientState::Running, effects),
            Report::PieceHeld(piece) => self.add_piece(now, ordinal, piece, false, effects),
            Report::PieceServable(piece) => self.add_piece(now, ordinal, piece, true, effects),
            Report::PieceFailed { piece, server } => self.fail_piece(now, ordinal, piece, server.as_ref(), effects),
            Report::Finished { success } => {
                self.change_state(ordinal, if success { ClientState::Success } else { ClientState::Fail }, effects);
                self.end_all_leases(ordinal, effects);
            }
            Report::ServiceDown => self.take_down(ordinal, effects),
        }
        Ok(())
    }

    fn change_state(&mut self, ordinal: u32, state: ClientState, effects: &mut Effects) {
        let Some(member) = self.members.get_mut(ordinal) else { return };
        if member.state != state {
            member.state = state;
            self.note_client(ordinal, effects);
        }
    }

    /// Any report of a piece is believed: its digest is checked by whoever fetches it from there.
    fn add_piece(&mut self, now: Moment, ordinal: u32, piece: PieceNumber, servable: bool, effects: &mut Effects) {
        if let Some(took) = self.end_lease(now, ordinal, piece, effects) {
            self.pace.observe(took);
        }
        let Some(member) = self.members.get_mut(ordinal) else { return };
        let newly_held = member.held.insert(piece);
        let newly_servable = servable && member.servable.insert(piece);
        if !(newly_held || newly_servable) {
            return;
        }
        if newly_servable {
            self.end_arrival(ordinal, piece);
        } else {
            self.begin_arrival(now, ordinal, piece);
        }
        let Some(member) = self.members.get(ordinal) else { return };
        if newly_servable && member.serves(self.limits.serve_errors) {
            self.add_holder(ordinal, piece);
            effects.open(self.limits.up);
        }
        self.note_progress(ordinal, piece, effects);
    }

    /// A piece that a serving member holds will soon be served from there: the report that it is written follows. Until
    /// then, nobody else need get it from the supernode.
    fn begin_arrival(&mut self, now: Moment, ordinal: u32, piece: PieceNumber) {
        let Some(member) = self.members.get_mut(ordinal).filter(|member| member.serves(self.limits.serve_errors)) else { return };
        member.arriving.push(Arriving { piece, since: now });
        if !std::mem::replace(&mut member.busy, true) {
            self.busy.push(ordinal);
        }
        self.piece_mut(piece).promised += 1;
    }

    fn end_arrival(&mut self, ordinal: u32, piece: PieceNumber) {
        let Some(member) = self.members.get_mut(ordinal) else { return };
        let before = member.arriving.len();
        member.arriving.retain(|arriving| arriving.piece != piece);
        let ended = member.arriving.len() < before;
        self.piece_mut(piece).promised -= u32::from(ended);
    }

    fn note_progress(&self, ordinal: u32, piece: PieceNumber, effects: &mut Effects) {
        let Some(member) = self.members.get(ordinal) else { return };
        let chunk = piece.0 / crate::domain::piece_set::CHUNK_PIECES;
        effects.changes.push(Change::ClientProgressed {
            task: self.task,
            client: member.intro.endpoint.client.clone(),
            chunk,
            held: member.held.chunk(chunk),
            servable: member.servable.chunk(chunk),
        });
    }

    /// Counts a failure only where we did send the client there: a report alone takes nobody out of the swarm.
    fn fail_piece(&mut self, now: Moment, ordinal: u32, piece: PieceNumber, server: Option<&ClientId>, effects: &mut Effects) {
        let leased_from = self.members.get(ordinal).and_then(|member| {
            let lease = member.leases.iter().find(|lease| lease.piece == piece)?;
            match &lease.server {
                Server::Peer(endpoint) => Some(endpoint.client.clone()),
                Server::Seed => {
                    // Clients before 0.4.3 have no other way to say that its bytes are wrong.
                    effects.suspect = Some(piece);
                    None
                }
            }
        });
        self.end_lease(now, ordinal, piece, effects);
        let Some(failed) = leased_from.filter(|leased| server.is_none_or(|server| server == leased)) else { return };
        let Some(server_ordinal) = self.members.ordinal(&failed) else { return };
        if let Some(member) = self.members.get_mut(ordinal) {
            member.avoid(server_ordinal, now.after(AVOID_FOR));
            member.download_errors = member.download_errors.saturating_add(1);
            self.note_client(ordinal, effects);
        }
        let was_serving = self.members.get(server_ordinal).is_some_and(|member| member.serves(self.limits.serve_errors));
        let last_straw = self
            .members
            .get(server_ordinal)
            .is_some_and(|member| member.serve_errors.saturating_add(1) >= self.limits.serve_errors);
        if was_serving && last_straw {
            self.stop_serving(server_ordinal, effects);
        }
        if let Some(member) = self.members.get_mut(server_ordinal) {
            member.serve_errors = member.serve_errors.saturating_add(1).min(self.limits.serve_errors);
            self.note_client(server_ordinal, effects);
        }
    }

    fn take_down(&mut self, ordinal: u32, effects: &mut Effects) {
        if self.members.get(ordinal).is_none_or(|member| member.gone) {
            return;
        }
        self.stop_serving(ordinal, effects);
        if let Some(member) = self.members.get_mut(ordinal) {
            member.gone = true;
        }
        self.note_client(ordinal, effects);
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
        self.at_seed += u32::from(newly_here);
        self.known.insert(piece);
    }

    /// The digest stays known, so peers that hold the piece go on serving it.
    fn lose_piece(&mut self, piece: PieceNumber, effects: &mut Effects) {
        let Some(entry) = self.pieces.get_mut(piece.index()) else { return };
        if let Some(digest) = entry.digest
            && std::mem::replace(&mut entry.at_seed, false)
        {
            self.at_seed -= 1;
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
        (member.held.len() == count)
            .then(|| Decision::Finished { md5, cached_length: self.status.piece_size.cached_length(length, count) })
    }

    /// Tells how long the transfer took, if there was one.
    fn end_lease(&mut self, now: Moment, ordinal: u32, piece: PieceNumber, effects: &mut Effects) -> Option<Duration> {
        let member = self.members.get_mut(ordinal)?;
        let place = member.leases.iter().position(|lease| lease.piece == piece)?;
        let mut lease = member.leases.swap_remove(place);
        take_promise_back(&mut self.pieces, (lease.piece, &mut lease.promising));
        effects.open(1);
        Some(now.since(lease.granted))
    }

    fn end_all_leases(&mut self, ordinal: u32, effects: &mut Effects) {
        let Some(member) = self.members.get_mut(ordinal) else { return };
        for mut lease in std::mem::take(&mut member.leases) {
            take_promise_back(&mut self.pieces, (lease.piece, &mut lease.promising));
            effects.open(1);
        }
    }

    fn serves_everything(&self, member: &Member) -> bool {
        self.status.piece_count().is_some_and(|count| member.servable.len() == count)
    }

    fn add_holder(&mut self, ordinal: u32, piece: PieceNumber) {
        self.piece_mut(piece).holders.insert(ordinal);
        self.promote(ordinal);
    }

    /// Moves a member that serves the whole file out of the pieces' own lists.
    fn promote(&mut self, ordinal: u32) {
        let complete = self.members.get(ordinal).is_some_and(|member| self.serves_everything(member));
        if complete && self.complete.insert(ordinal) {
            for piece in &mut self.pieces {
                piece.holders.remove(ordinal);
            }
        }
    }

    fn promote_all(&mut self) {
        let serving = |(ordinal, member): (u32, &Member)| member.serves(self.limits.serve_errors).then_some(ordinal);
        let ordinals: Vec<u32> = self.members.iter().filter_map(serving).collect();
        for ordinal in ordinals {
            self.promote(ordinal);
        }
    }

    /// Enters a member that serves into the lists of what it holds. The counterpart of [`Self::stop_serving`].
    fn start_serving(&mut self, ordinal: u32) {
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
    fn stop_serving(&mut self, ordinal: u32, effects: &mut Effects) {
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
fn take_promise_back(pieces: &mut [Piece], (piece, promising): (PieceNumber, &mut bool)) -> bool {
    let promised = std::mem::replace(promising, false);
    pieces[piece.index()].promised -= u32::from(promised);
    promised
}
