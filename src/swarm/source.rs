//! The source as a server, where the supernode keeps no bytes: it gives every piece from the start, to clients that fetch
//! there by themselves, and nobody here knows what a piece must be.
//!
//! It is spared as the supernode's own uplink is, and nothing is counted against anybody for its failures. But it is a
//! stranger, which may fail for one client and serve another, so that each client's trouble with it is its own.

use std::time::Duration;

use super::members::Member;
use super::{Server, Swarm};
use crate::domain::{CdnPattern, Failure, Fault, Moment, PieceNumber, SourceState};

/// A client that could not get a piece from the source is not sent there again for this long.
const SOURCE_RESTS_FOR: Duration = Duration::from_secs(1);

/// How often in a row the source failed a client.
#[derive(Clone, Copy, Debug, Default)]
pub struct SourceTrouble {
    /// Those that came while it rested are one with the failure that it rests for.
    failures: u8,
    rests_until: Moment,
}

impl Swarm {
    /// Makes every piece one that clients may be sent to the source for, if that is what the task does and the source has
    /// answered; tells whether it did.
    pub(super) fn offer_source(&mut self) -> bool {
        let can_be_had = matches!(self.status.state, SourceState::Success { .. });
        let Some(count) = self.status.piece_count().filter(|_| can_be_had && self.is_at_source()) else { return false };
        for piece in (0..count).map(PieceNumber) {
            self.piece_mut(piece).at_seed = true;
            self.known.insert(piece);
        }
        self.at_seed = count;
        true
    }

    const fn is_at_source(&self) -> bool {
        matches!(self.status.pattern, CdnPattern::Source)
    }

    /// Whether no peer would send this piece: a `dfget` takes a range of a single byte for none. The source does not.
    pub(super) fn is_refused_by_peers(&self, piece: PieceNumber) -> bool {
        let ends_at = |length: u64| length == self.status.piece_size.slot_start(piece) + 1;
        self.is_at_source() && self.status.length.is_some_and(ends_at)
    }

    /// Whether this client is not to be sent to the source now.
    pub(super) fn source_rests(&self, now: Moment, member: &Member) -> bool {
        self.is_at_source() && (now < member.source_trouble.rests_until || self.source_fails(member))
    }

    fn source_fails(&self, member: &Member) -> bool {
        member.source_trouble.failures >= self.limits.download_errors
    }

    pub(super) fn note_source_serves(&mut self, ordinal: u32, server: &Server) {
        if *server == Server::Seed
            && let Some(member) = self.members.get_mut(ordinal)
        {
            member.source_trouble = SourceTrouble::default();
        }
    }

    pub(super) fn note_source_failure(&mut self, now: Moment, ordinal: u32) {
        let Some(member) = self.members.get_mut(ordinal) else { return };
        let trouble = &mut member.source_trouble;
        if trouble.failures == 0 || now >= trouble.rests_until {
            *trouble = SourceTrouble { failures: trouble.failures.saturating_add(1), rests_until: now.after(SOURCE_RESTS_FOR) };
        }
    }

    /// Why a client that has nothing to fetch should not wait any longer: the source fails it, and what it lacks no peer
    /// has or is about to have.
    pub(super) fn gives_up_on_source(&self, ordinal: u32) -> Option<Failure> {
        let member = self.members.get(ordinal).filter(|member| self.is_at_source() && self.source_fails(member))?;
        let can_come = |(number, piece): (u32, &super::Piece)| {
            let piece_number = PieceNumber(number);
            let lacks = !member.held.contains(piece_number) && !self.is_refused_by_peers(piece_number);
            lacks && (!self.complete.is_empty() || !piece.holders.is_empty() || piece.promised > 0)
        };
        if (0..).zip(&self.pieces).any(can_come) {
            return None;
        }
        let reason = format!("the source failed this client {} times in a row", member.source_trouble.failures);
        Some(Failure { fault: Fault::Source, discard: false, reason })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::sync::Arc;

    use super::*;
    use crate::domain::{ClientId, ClientVersion, Endpoint, Generation, PieceSize, TaskId, TaskStatus};
    use crate::swarm::invariants::Granted;
    use crate::swarm::{Decision, Effects, Event, Introduction, Limits, Refusal, Report, StoredTask};

    const PIECE_BYTES: u64 = 4 * 1024 * 1024;

    fn client(number: usize) -> ClientId {
        ClientId::parse(&format!("client-{number}")).expect("a client id")
    }

    fn task() -> TaskId {
        TaskId::derive("http://h/f", "", "")
    }

    fn answered(length: u64) -> TaskStatus {
        TaskStatus {
            length: Some(length),
            state: SourceState::Success { md5: None, length },
            ..TaskStatus::waiting(Generation::FIRST, CdnPattern::Source)
        }
    }

    fn swarm(length: u64, clients: usize) -> Swarm {
        let mut swarm = Swarm::new(task(), Limits::default(), TaskStatus::waiting(Generation::FIRST, CdnPattern::Source));
        tell(&mut swarm, Moment(0), Event::SourceAnswered(answered(length))).expect("never refused");
        for number in 0..clients {
            let port = 15_000 + u16::try_from(number).expect("few clients");
            let endpoint = Endpoint { client: client(number), ip: [10, 0, 0, 1].into(), port, path: "/p".into() };
            let intro = Introduction {
                endpoint: Arc::new(endpoint),
                server: Some(Arc::default()),
                version: ClientVersion::parse("1.0.6"),
                call_system: "".into(),
                seed_host: "".into(),
                own_url: None,
            };
            tell(&mut swarm, Moment(0), Event::ClientRegistered(intro)).expect("a client may register");
        }
        swarm
    }

    fn tell(swarm: &mut Swarm, now: Moment, event: Event) -> Result<(), Refusal> {
        let told = swarm.handle(now, event, &mut Effects::default());
        swarm.check(&Granted::default());
        told
    }

    fn report(swarm: &mut Swarm, now: Moment, number: usize, report: Report) {
        tell(swarm, now, Event::FromClient { client: client(number), report }).expect("a piece of the file");
    }

    fn decide(swarm: &mut Swarm, now: Moment, number: usize) -> Decision {
        let decision = swarm.decide(now, &mut fastrand::Rng::with_seed(now.0), &client(number));
        swarm.check(&Granted::default());
        decision
    }

    #[test]
    fn clients_that_come_at_once_are_sent_to_the_source_with_one_piece_each_and_pass_it_on() {
        let (clients, pieces) = (8, 12);
        let mut swarm = swarm(pieces * PIECE_BYTES, clients);
        let (mut from_source, mut from_peers, mut now) = (HashMap::<u32, u32>::new(), 0, Moment(0));
        let mut finished = HashSet::new();
        while finished.len() < clients {
            now = now.after(Duration::from_millis(10));
            assert!(now < Moment(60_000), "the swarm stalled");
            for number in 0..clients {
                match decide(&mut swarm, now, number) {
                    Decision::Continue(assignments) => {
                        let assignment = &assignments[0];
                        assert_eq!(assignment.digest, None);
                        match assignment.server {
                            Server::Seed => *from_source.entry(assignment.piece.0).or_default() += 1,
                            Server::Peer(_) => from_peers += 1,
                        }
                        report(&mut swarm, now, number, Report::PieceHeld(assignment.piece));
                        report(&mut swarm, now, number, Report::PieceServable(assignment.piece));
                    }
                    Decision::Finished { md5, file_length } => {
                        assert_eq!((md5, file_length), (None, pieces * PIECE_BYTES));
                        finished.insert(number);
                    }
                    Decision::Wait { at_seed, source, .. } => assert_eq!((at_seed, source), (12, "Success")),
                    Decision::Failed(failure) => panic!("{failure:?}"),
                }
            }
        }
        assert!(from_source.values().all(|&times| times == 1), "pieces left the source more than once: {from_source:?}");
        assert_eq!(from_peers, 12 * 8 - 12);
    }

    #[test]
    fn no_two_clients_fetch_one_piece_from_the_source_at_once() {
        let mut swarm = swarm(3 * PIECE_BYTES, 5);
        let mut sent = Vec::new();
        for number in 0..5 {
            if let Decision::Continue(assignments) = decide(&mut swarm, Moment(1), number) {
                sent.extend(assignments.iter().map(|assignment| assignment.piece.0));
            }
        }
        sent.sort_unstable();
        assert_eq!(sent, [0, 1, 2], "also a piece that is small enough for the supernode to send it to everybody");
    }

    #[test]
    fn an_empty_file_is_finished_before_anything_is_fetched() {
        let mut swarm = swarm(0, 1);
        assert_eq!(decide(&mut swarm, Moment(1), 0), Decision::Finished { md5: None, file_length: 0 });
        let refused = Event::FromClient { client: client(0), report: Report::PieceHeld(PieceNumber(0)) };
        assert_eq!(tell(&mut swarm, Moment(1), refused), Err(Refusal::PieceOutOfRange));
    }

    #[test]
    fn a_last_piece_of_one_byte_comes_from_the_source_alone() {
        let mut swarm = swarm(PIECE_BYTES + 1, 2);
        for piece in [PieceNumber(0), PieceNumber(1)] {
            report(&mut swarm, Moment(1), 0, Report::PieceServable(piece));
        }
        let Decision::Continue(assignments) = decide(&mut swarm, Moment(2), 1) else { panic!("there is something to fetch") };
        let server = |piece| &assignments.iter().find(|assignment| assignment.piece == PieceNumber(piece)).expect("both").server;
        assert!(matches!(server(0), Server::Peer(_)), "{assignments:?}");
        assert_eq!(*server(1), Server::Seed, "{assignments:?}");
    }

    /// The client fails at the source as often as it is sent there, until it is not; tells how often, and what it is told.
    fn fail(swarm: &mut Swarm, number: usize) -> (u32, Decision) {
        let mut failures = 0;
        for now in (0..60).map(|second| Moment(second * 1000 + 1)) {
            match decide(swarm, now, number) {
                Decision::Continue(assignments) => {
                    for assignment in assignments {
                        assert_eq!(assignment.server, Server::Seed);
                        let failed = Report::PieceFailed { piece: assignment.piece, server: None };
                        report(swarm, now, number, failed);
                    }
                    failures += 1;
                }
                Decision::Wait { .. } => {}
                decision => return (failures, decision),
            }
        }
        panic!("it is sent to a source that fails it for ever")
    }

    #[test]
    fn a_client_that_the_source_fails_is_told_so_in_the_end_and_nobody_is_blamed() {
        let mut swarm = swarm(6 * PIECE_BYTES, 2);
        let (failures, told) = fail(&mut swarm, 0);
        assert_eq!(failures, u32::from(Limits::default().download_errors), "failures at once count once");
        assert!(matches!(&told, Decision::Failed(failure) if failure.fault == Fault::Source), "{told:?}");
        let member = swarm.members.get(0).expect("it is a member");
        assert_eq!((member.download_errors, member.serve_errors), (0, 0));
        assert!(matches!(decide(&mut swarm, Moment(70_000), 1), Decision::Continue(_)), "the other is sent there still");
        assert!(matches!(decide(&mut swarm, Moment(70_000), 0), Decision::Wait { .. }), "it will get that from the other");
    }

    #[test]
    fn a_piece_from_the_source_ends_the_trouble_with_it() {
        let mut swarm = swarm(3 * PIECE_BYTES, 1);
        for second in 0..20 {
            let now = Moment(second * 2000 + 1);
            let Decision::Continue(assignments) = decide(&mut swarm, now, 0) else { panic!("it is not sent to the source") };
            report(&mut swarm, now, 0, Report::PieceFailed { piece: assignments[0].piece, server: None });
            if second == 3 {
                report(&mut swarm, now, 0, Report::PieceHeld(assignments[1].piece));
            }
            if second == 7 {
                return;
            }
        }
    }

    #[test]
    fn a_swarm_that_is_rebuilt_offers_the_same() {
        let length = 5 * PIECE_BYTES - 1;
        let stored = StoredTask { status: answered(length), pieces: Vec::new(), clients: Vec::new() };
        let rebuilt = Swarm::rebuild(Moment(0), task(), Limits::default(), stored);
        rebuilt.check(&Granted::default());
        assert_eq!(rebuilt.piece_views().count(), 5);
        assert!(rebuilt.piece_views().all(|view| !view.stored && view.digest.is_none()));
        assert!(rebuilt.is_whole() && rebuilt.stored_bytes() == 0 && rebuilt.pieces_stored() == 0);
        assert_eq!(rebuilt.piece_of_range(&(4 * PIECE_BYTES..=5 * PIECE_BYTES - 2)), Ok(PieceNumber(4)), "clipped at the end");
        assert_eq!(PieceSize::for_length(Some(length)), rebuilt.status().piece_size);
    }
}
