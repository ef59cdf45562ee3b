//! What clients tell: that they are here, what they have, what they could not get, and that they go.

use std::sync::Arc;

use super::events::{Effects, Refusal, Report};
use super::members::{Arriving, Introduction, Member};
use super::source::SourceTrouble;
use super::{AVOID_FOR, MEMBERS_MAX, PATH_OF_UNREGISTERED, Server, Swarm};
use crate::domain::{Change, ClientId, ClientState, Endpoint, Moment, PieceNumber};

impl Swarm {
    /// Makes a client one that this task does not know. One that began an earlier generation stays known as that.
    pub fn forget(&mut self, client: &ClientId, effects: &mut Effects) {
        let Some(ordinal) = self.members.ordinal(client) else { return };
        self.stop_serving(ordinal, effects);
        self.end_all_leases(ordinal, effects);
        if self.members.remove(ordinal).is_some_and(|member| member.busy) {
            self.busy.retain(|busy| *busy != ordinal);
        }
        effects.changes.push(Change::ClientForgotten { task: self.task, client: client.clone() });
    }

    /// Forgets some clients, members or not, whichever; tells how many.
    pub fn forget_some(&mut self, count: usize, effects: &mut Effects) -> usize {
        let members: Vec<ClientId> = self.members.ids().take(count).cloned().collect();
        members.iter().for_each(|client| self.forget(client, effects));
        let former: Vec<ClientId> = self.former.keys().take(count - members.len()).cloned().collect();
        former.iter().for_each(|client| self.forget_former(client, effects));
        members.len() + former.len()
    }

    /// Forgets that a client began an earlier generation.
    pub(super) fn forget_former(&mut self, client: &ClientId, effects: &mut Effects) {
        if self.former.remove(client).is_some() {
            effects.changes.push(Change::ClientForgotten { task: self.task, client: client.clone() });
        }
        if self.former.capacity() > 4 * self.former.len() {
            self.former.shrink_to(2 * self.former.len());
        }
    }

    pub(super) fn register(&mut self, now: Moment, intro: Introduction, effects: &mut Effects) -> Result<(), Refusal> {
        let client = intro.endpoint.client.clone();
        if let Some(seen) = self.former.get_mut(&client) {
            *seen = now;
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
            member.source_trouble = SourceTrouble::default();
            member.seen = now;
            member.intro = intro;
        }
        self.start_serving(ordinal);
        self.note_client(ordinal, effects);
        Ok(())
    }

    pub(super) fn check_room(&self) -> Result<(), Refusal> {
        if self.members.len() < MEMBERS_MAX { Ok(()) } else { Err(Refusal::TooManyClients) }
    }

    pub(super) fn join(&mut self, now: Moment, intro: Introduction, effects: &mut Effects) -> u32 {
        let ordinal = self.members.free_ordinal();
        self.members.insert(ordinal, Member::new(intro, now));
        self.start_serving(ordinal);
        self.note_client(ordinal, effects);
        ordinal
    }

    /// A client that this task does not know (restored from an older snapshot, expired) is served as one that cannot
    /// serve others: sending it away would send it to the source.
    pub(super) fn ordinal_or_join(&mut self, now: Moment, client: &ClientId, effects: &mut Effects) -> u32 {
        self.members.ordinal(client).unwrap_or_else(|| {
            let endpoint = Endpoint {
                client: client.clone(),
                ip: std::net::Ipv4Addr::UNSPECIFIED.into(),
                port: 0,
                path: PATH_OF_UNREGISTERED.into(),
            };
            let intro = Introduction {
                endpoint: Arc::new(endpoint),
                server: None,
                version: Default::default(),
                call_system: "".into(),
                seed_host: "".into(),
                own_url: None,
            };
            self.join(now, intro, effects)
        })
    }

    pub(super) fn take_report(
        &mut self,
        now: Moment,
        client: &ClientId,
        report: Report,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        if let Some(seen) = self.former.get_mut(client) {
            *seen = now;
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

    pub(super) fn change_state(&mut self, ordinal: u32, state: ClientState, effects: &mut Effects) {
        if self.members.set_state(ordinal, state) {
            self.note_client(ordinal, effects);
        }
    }

    /// Any report of a piece is believed: its digest is checked by whoever fetches it from there.
    pub(super) fn add_piece(&mut self, now: Moment, ordinal: u32, piece: PieceNumber, servable: bool, effects: &mut Effects) {
        if let Some(lease) = self.end_lease(ordinal, piece, effects) {
            self.pace.observe(now.since(lease.granted));
            self.note_alive(now, &lease.server);
            self.note_source_serves(ordinal, &lease.server);
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

    /// Who serves says nothing meanwhile; whoever was served says it.
    fn note_alive(&mut self, now: Moment, server: &Server) {
        let Server::Peer(endpoint) = server else { return };
        if let Some(member) = self.members.ordinal(&endpoint.client).and_then(|ordinal| self.members.get_mut(ordinal)) {
            member.seen = now;
        }
    }

    /// A piece that a serving member holds will soon be served from there: the report that it is written follows. Until
    /// then, nobody else need get it from the supernode.
    pub(super) fn begin_arrival(&mut self, now: Moment, ordinal: u32, piece: PieceNumber) {
        let Some(member) = self.members.get_mut(ordinal).filter(|member| member.serves(self.limits.serve_errors)) else { return };
        member.arriving.push(Arriving { piece, since: now });
        if !std::mem::replace(&mut member.busy, true) {
            self.busy.push(ordinal);
        }
        self.piece_mut(piece).promised += 1;
    }

    pub(super) fn end_arrival(&mut self, ordinal: u32, piece: PieceNumber) {
        let Some(member) = self.members.get_mut(ordinal) else { return };
        let before = member.arriving.len();
        member.arriving.retain(|arriving| arriving.piece != piece);
        let ended = member.arriving.len() < before;
        self.piece_mut(piece).promised -= u32::from(ended);
    }

    pub(super) fn note_progress(&self, ordinal: u32, piece: PieceNumber, effects: &mut Effects) {
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
    pub(super) fn fail_piece(
        &mut self,
        now: Moment,
        ordinal: u32,
        piece: PieceNumber,
        server: Option<&ClientId>,
        effects: &mut Effects,
    ) {
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
        let ended = self.end_lease(ordinal, piece, effects);
        if ended.is_some_and(|lease| lease.server == Server::Seed) {
            self.note_source_failure(now, ordinal);
        }
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

    pub(super) fn take_down(&mut self, ordinal: u32, effects: &mut Effects) {
        if self.members.get(ordinal).is_none_or(|member| member.gone) {
            return;
        }
        self.stop_serving(ordinal, effects);
        if let Some(member) = self.members.get_mut(ordinal) {
            member.gone = true;
        }
        self.note_client(ordinal, effects);
    }
}
