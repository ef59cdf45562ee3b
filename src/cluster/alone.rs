//! Peers that may have no task any more: what is left of them goes, unless they come back in time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::domain::{Change, ClientId, Moment};

/// Since when each peer may be without a task. A peer that joins one is no longer here by the time that is stored, so
/// that its removal and its return are written in the order in which they were decided.
#[derive(Debug, Default)]
pub struct Alone {
    since: Mutex<HashMap<ClientId, Moment>>,
    /// Peers that were stored before this service started have been looked through.
    listed: AtomicBool,
}

impl Alone {
    /// Notes peers that left a task, or have none yet. One that is noted again is noted anew: it may have left its last
    /// task only now.
    pub fn note(&self, peers: impl IntoIterator<Item = ClientId>, now: Moment) {
        let mut alone = self.since.lock();
        for peer in peers {
            let since = alone.entry(peer).or_insert(now);
            *since = (*since).max(now);
        }
    }

    /// A peer has a task. Called under that task's lock, between its joining and the submission that says so.
    pub fn join(&self, peer: &ClientId) {
        let mut alone = self.since.lock();
        // Usually nobody is alone.
        if !alone.is_empty() {
            alone.remove(peer);
        }
    }

    /// Peers that were noted no later than this.
    pub fn since(&self, until: Moment) -> Vec<ClientId> {
        self.since.lock().iter().filter(|(_, since)| **since <= until).map(|(peer, _)| peer.clone()).collect()
    }

    /// Lets go of peers without a word, but for those that were noted later than this: they have left what they were seen
    /// in.
    pub fn release(&self, peers: &[ClientId], until: Moment) {
        let mut alone = self.since.lock();
        for peer in peers {
            if alone.get(peer).is_some_and(|since| *since <= until) {
                alone.remove(peer);
            }
        }
    }

    /// Gives back what nobody uses.
    pub fn shrink(&self) {
        let mut alone = self.since.lock();
        let room_for = 2 * alone.len();
        alone.shrink_to(room_for);
    }

    /// Lets go of those of these peers that are still here, with the changes that make them forgotten. `submit` is called
    /// before anybody can come back.
    pub fn forget<T>(&self, peers: &[ClientId], submit: impl FnOnce(Vec<Change>) -> T) -> T {
        let mut alone = self.since.lock();
        let here = peers.iter().filter(|peer| alone.remove(*peer).is_some());
        let changes: Vec<Change> = here.map(|peer| Change::PeerForgotten(peer.clone())).collect();
        submit(changes)
    }

    /// Whether those that are stored have been looked through.
    pub fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Relaxed)
    }

    /// Those that are stored have been looked through, and noted.
    pub fn note_listed(&self) {
        self.listed.store(true, Ordering::Relaxed);
    }

    pub fn len(&self) -> usize {
        self.since.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(count: u32) -> Vec<ClientId> {
        (0..count).map(|number| ClientId::parse(&format!("peer-{number}")).expect("a client id")).collect()
    }

    #[test]
    fn who_comes_back_in_time_is_not_forgotten() {
        let (alone, peers) = (Alone::default(), peers(3));
        alone.note(peers.clone(), Moment(1));
        assert_eq!(alone.since(Moment(0)), []);
        assert_eq!(alone.since(Moment(1)).len(), 3);
        alone.join(&peers[1]);
        let forgotten = alone.forget(&peers, |changes| changes);
        let forgotten: Vec<&ClientId> = forgotten
            .iter()
            .map(|change| match change {
                Change::PeerForgotten(peer) => peer,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(forgotten, [&peers[0], &peers[2]]);
        assert_eq!(alone.len(), 0);
    }

    #[test]
    fn who_leaves_the_last_task_after_it_was_seen_there_stays_noted() {
        let (alone, peers) = (Alone::default(), peers(2));
        alone.note(peers.clone(), Moment(1));
        let until = Moment(5);
        assert_eq!(alone.since(until).len(), 2);
        // Both are seen in a task; then one leaves it, before they are let go of.
        alone.note([peers[0].clone()], Moment(9));
        alone.release(&peers, until);
        assert_eq!(alone.since(Moment(9)), [peers[0].clone()]);
        alone.note(peers.clone(), Moment(3));
        assert_eq!(alone.since(until), [peers[1].clone()], "an older note makes nobody alone for longer");
    }
}
