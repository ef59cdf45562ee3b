//! Clients that have fallen silent, and what still counts as using a task.
//!
//! Silence is not absence: a client whose fetch of a piece may still be under way says nothing for minutes, and one that
//! has finished says nothing while it serves others. The first has a lease; of the second, others tell what they got.

use std::time::Duration;

use super::Swarm;
use super::events::Effects;
use super::lease::lease_life;
use super::members::Member;
use crate::domain::{ClientId, ClientState, Moment, SourceState};

/// Clients that are looked at in one step: the task is locked meanwhile.
const LOOKED_AT_MAX: u32 = 4096;
/// Clients that are forgotten in one step: each takes rows of the database with it.
const FORGOTTEN_MAX: usize = 128;
/// Who registers asks for pieces right after, and who has the last piece whether that was all. One that has not asked in
/// this long does not.
const ASKS_WITHIN: Duration = Duration::from_secs(30);

/// Whom a step left for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Clients from this place on.
    From(u32),
    /// Clients of earlier generations.
    Former,
    Nobody,
}

impl Swarm {
    /// Forgets clients that have been silent for this long, some at a time. `heard` tells when a client last spoke of
    /// itself to nobody's task in particular.
    pub fn expire(
        &mut self,
        now: Moment,
        silence: Duration,
        heard: &dyn Fn(&ClientId) -> Option<Moment>,
        from: Left,
        effects: &mut Effects,
    ) -> Left {
        let is_silent = is_silent(now, silence, heard);
        match from {
            Left::Nobody => Left::Nobody,
            Left::Former => {
                let former = self.former.iter().filter(|(client, seen)| is_silent(**seen, client));
                let silent: Vec<ClientId> = former.map(|(client, _)| client.clone()).take(FORGOTTEN_MAX).collect();
                silent.iter().for_each(|client| self.forget_former(client, effects));
                if silent.len() < FORGOTTEN_MAX { Left::Nobody } else { Left::Former }
            }
            Left::From(first) => {
                let mut next = first;
                let mut silent = Vec::new();
                while next < first.saturating_add(LOOKED_AT_MAX) && silent.len() < FORGOTTEN_MAX && next < self.members.places() {
                    let expires =
                        |member: &&Member| member.leases.is_empty() && is_silent(member.seen, &member.intro.endpoint.client);
                    silent.extend(self.members.get(next).filter(expires).map(|member| member.intro.endpoint.client.clone()));
                    next += 1;
                }
                silent.iter().for_each(|client| self.forget(client, effects));
                if next < self.members.places() { Left::From(next) } else { Left::Former }
            }
        }
    }

    /// How many members [`Self::expire`] would forget.
    pub fn silent(&self, now: Moment, silence: Duration, heard: &dyn Fn(&ClientId) -> Option<Moment>) -> usize {
        let is_silent = is_silent(now, silence, heard);
        let silent =
            |(_, member): &(u32, &Member)| member.leases.is_empty() && is_silent(member.seen, &member.intro.endpoint.client);
        self.members.iter().filter(silent).count()
    }

    /// How many clients are fetching this task, or are about to. Those that are done cost nothing.
    pub fn fetching(&self, now: Moment) -> usize {
        let has_lease = |member: &Member| !member.leases.is_empty();
        let with_lease = self.busy.iter().filter(|ordinal| self.members.get(**ordinal).is_some_and(has_lease)).count();
        if matches!(self.status.state, SourceState::Failed(_)) {
            return with_lease;
        }
        let others = self.members.unfinished().filter(|(_, member)| !has_lease(member) && self.is_fetching(now, member));
        with_lease + others.count()
    }

    pub(super) fn is_fetching(&self, now: Moment, member: &Member) -> bool {
        if !member.leases.is_empty() {
            return true;
        }
        if matches!(self.status.state, SourceState::Failed(_)) {
            return false;
        }
        match member.state {
            // One that is there asks or reports within the slowest honest fetch; a heartbeat does not speak of this task.
            ClientState::Running if !self.has_everything(member) => now.since(member.seen) < lease_life(self.status.piece_size),
            // One that has everything asks once more, and would begin anew if there were no such task by then.
            ClientState::Running | ClientState::Waiting => now.since(member.seen) < ASKS_WITHIN,
            ClientState::Success | ClientState::Fail => false,
        }
    }

    pub(super) fn has_everything(&self, member: &Member) -> bool {
        self.status.piece_count() == Some(member.held.len())
    }

    /// When a client counts as last seen after a start: leases are not stored, so one that has not finished may be in the
    /// middle of the slowest honest fetch.
    pub(super) fn seen_at_start(&self, now: Moment, member: &Member) -> Moment {
        let may_be_fetching = member.state == ClientState::Running && !self.has_everything(member);
        if may_be_fetching { now.after(lease_life(self.status.piece_size)) } else { now }
    }
}

fn is_silent(now: Moment, silence: Duration, heard: &dyn Fn(&ClientId) -> Option<Moment>) -> impl Fn(Moment, &ClientId) -> bool {
    move |seen, client| now.since(seen) >= silence && heard(client).is_none_or(|heard| now.since(heard) >= silence)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::{CdnPattern, Change, ClientVersion, Endpoint, Generation, PieceNumber, PieceSize, TaskId, TaskStatus};
    use crate::swarm::{Event, Introduction, Limits, Report};

    const SILENCE: Duration = Duration::from_secs(180);

    fn client(number: u32) -> ClientId {
        ClientId::parse(&format!("client-{number}")).expect("a client id")
    }

    fn swarm(clients: u32) -> Swarm {
        let status = TaskStatus {
            generation: Generation::FIRST,
            pattern: CdnPattern::Local,
            piece_size: PieceSize::DEFAULT,
            length: Some(100),
            validators: Default::default(),
            state: SourceState::Running,
        };
        let mut swarm = Swarm::new(TaskId::derive("http://h/f", "", ""), Limits::default(), status);
        for number in 0..clients {
            let endpoint = Endpoint { client: client(number), ip: [10, 0, 0, 1].into(), port: 1, path: "/".into() };
            let intro = Introduction {
                endpoint: Arc::new(endpoint),
                server: Some(Arc::default()),
                version: ClientVersion::parse("1.0.6"),
                call_system: "".into(),
                seed_host: "".into(),
                own_url: None,
            };
            swarm.handle(Moment(0), Event::ClientRegistered(intro), &mut Effects::default()).expect("a client may register");
        }
        swarm
    }

    fn tell(swarm: &mut Swarm, now: Moment, number: u32, report: Report) {
        let event = Event::FromClient { client: client(number), report };
        swarm.handle(now, event, &mut Effects::default()).expect("a piece of the file");
    }

    /// Expires in as many steps as it takes; tells whom that cost.
    fn expire(swarm: &mut Swarm, now: Moment, heard: &dyn Fn(&ClientId) -> Option<Moment>) -> Vec<ClientId> {
        let mut effects = Effects::default();
        let mut left = Left::From(0);
        let mut forgotten = Vec::new();
        while left != Left::Nobody {
            left = swarm.expire(now, SILENCE, heard, left, &mut effects);
            assert!(effects.changes.len() <= FORGOTTEN_MAX, "a step takes {} changes", effects.changes.len());
            forgotten.extend(effects.changes.drain(..).map(|change| match change {
                Change::ClientForgotten { client, .. } => client,
                other => panic!("{other:?}"),
            }));
        }
        forgotten
    }

    #[test]
    fn whoever_was_silent_for_long_enough_leaves_and_the_tables_shrink() {
        let mut swarm = swarm(10_000);
        tell(&mut swarm, Moment(1000), 7, Report::Asked);
        let after = Moment(0).after(SILENCE);
        assert_eq!(expire(&mut swarm, Moment(after.0 - 1), &|_| None), []);
        let heard = |other: &ClientId| (*other == client(8)).then_some(Moment(1));
        assert_eq!(expire(&mut swarm, after, &heard).len(), 10_000 - 2, "one has called, one has sent a heartbeat");
        assert_eq!(swarm.members(), 2);
        assert!(swarm.members.capacity() < 200, "the tables keep room for {}", swarm.members.capacity());
        assert_eq!(expire(&mut swarm, after.after(Duration::from_secs(1)), &|_| None).len(), 2);
        assert_eq!(swarm.members.capacity(), 0);
    }

    #[test]
    fn a_client_with_a_lease_stays_however_long_it_is_silent() {
        let mut swarm = swarm(1);
        let digest = crate::domain::PieceDigest { md5: crate::domain::Md5Digest([1; 16]), content_len: 100 };
        let stored = Event::PieceStored { piece: PieceNumber(0), digest };
        swarm.handle(Moment(0), stored, &mut Effects::default()).expect("a piece of the file");
        swarm.decide(Moment(0), &mut fastrand::Rng::with_seed(1), &client(0));
        assert_eq!(expire(&mut swarm, Moment(0).after(SILENCE * 10), &|_| None), []);
        assert_eq!(swarm.fetching(Moment(0).after(SILENCE * 10)), 1);
    }

    #[test]
    fn a_client_that_others_fetch_from_is_not_silent() {
        let mut swarm = swarm(2);
        let digest = crate::domain::PieceDigest { md5: crate::domain::Md5Digest([1; 16]), content_len: 100 };
        let stored = Event::PieceStored { piece: PieceNumber(0), digest };
        swarm.handle(Moment(0), stored, &mut Effects::default()).expect("a piece of the file");
        tell(&mut swarm, Moment(0), 0, Report::PieceServable(PieceNumber(0)));
        let later = Moment(0).after(SILENCE / 2);
        swarm.decide(later, &mut fastrand::Rng::with_seed(1), &client(1));
        tell(&mut swarm, later, 1, Report::PieceServable(PieceNumber(0)));
        assert_eq!(expire(&mut swarm, Moment(0).after(SILENCE), &|_| None), [], "what it served was told a moment ago");
        assert_eq!(expire(&mut swarm, later.after(SILENCE), &|_| None), [client(0), client(1)]);
    }

    #[test]
    fn clients_of_an_earlier_generation_are_forgotten_as_well() {
        let mut swarm = swarm(1000);
        swarm.next_generation(Moment(5), CdnPattern::Local, &mut Effects::default());
        assert_eq!(expire(&mut swarm, Moment(4).after(SILENCE), &|_| None), []);
        assert_eq!(expire(&mut swarm, Moment(5).after(SILENCE), &|_| None).len(), 1000);
        assert!(swarm.former.is_empty());
    }

    #[test]
    fn who_began_and_says_no_more_of_it_is_fetching_for_as_long_as_one_piece_may_take() {
        let mut swarm = swarm(1);
        tell(&mut swarm, Moment(0), 0, Report::Started);
        let over = Moment(0).after(lease_life(PieceSize::DEFAULT));
        assert_eq!(swarm.fetching(Moment(over.0 - 1)), 1);
        assert_eq!(swarm.fetching(over), 0);
        tell(&mut swarm, over, 0, Report::Started);
        assert_eq!(swarm.fetching(over), 1);
    }

    #[test]
    fn who_only_registered_is_about_to_fetch_for_a_moment() {
        let mut swarm = swarm(2);
        tell(&mut swarm, Moment(0), 0, Report::Started);
        assert_eq!(swarm.fetching(Moment(0)), 2);
        assert_eq!(swarm.fetching(Moment(0).after(ASKS_WITHIN)), 1, "one has begun");
        tell(&mut swarm, Moment(0), 0, Report::PieceHeld(PieceNumber(0)));
        assert_eq!(swarm.fetching(Moment(0)), 2, "it does not know yet that it has everything");
        assert_eq!(swarm.fetching(Moment(0).after(ASKS_WITHIN)), 0, "and does not ask");
    }
}
