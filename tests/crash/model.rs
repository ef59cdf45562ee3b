//! What was acknowledged, kept in plain maps; and what a home has, read from a dump into the same maps.
//!
//! Every client belongs to one actor, which does one thing after the other. So of each actor's part of a home exactly two
//! states are right after a crash: that of everything that was answered, and that with the one call which was under way. Only
//! a registration is more than one change: it makes the task, which may be there without the client.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::harness::dump::Dump;

/// A task and a client.
pub type Pair = (String, String);

/// A client of a task.
#[derive(Clone, PartialEq, Eq)]
pub struct Member {
    pub state: String,
    pub path: String,
    pub gone: bool,
    pub held: BTreeSet<u32>,
    pub servable: BTreeSet<u32>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, path, gone, held, servable } = self;
        write!(f, "{state} gone {gone} held {held:?} servable {servable:?} {}", path.trim_end_matches('x'))
    }
}

/// What a client last said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub ip: String,
    pub port: u64,
    pub version: String,
}

/// A part of a home.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Of the tasks that may come and go.
    pub tasks: BTreeSet<String>,
    pub members: BTreeMap<Pair, Member>,
    pub peers: BTreeMap<String, Peer>,
}

/// What a client calls, and an acknowledgement promises.
#[derive(Clone, Debug)]
pub enum Call {
    Register { pair: Pair, path: String, peer: Peer, creates: bool },
    Start { pair: Pair },
    Hold { pair: Pair, piece: u32 },
    Write { pair: Pair, piece: u32 },
    Finish { pair: Pair, success: bool },
    GoDown { pair: Pair },
    DeleteTask { task: String },
    DeletePeer { client: String },
}

impl Part {
    /// What it is once this has happened.
    pub fn after(&self, call: &Call) -> Self {
        let mut part = self.clone();
        match call {
            Call::Register { pair, path, peer, creates } => {
                if *creates {
                    part.tasks.insert(pair.0.clone());
                }
                part.peers.insert(pair.1.clone(), peer.clone());
                let new = || Member {
                    state: "WAITING".into(),
                    path: path.clone(),
                    gone: false,
                    held: BTreeSet::new(),
                    servable: BTreeSet::new(),
                };
                let member = part.members.entry(pair.clone()).or_insert_with(new);
                (member.path, member.gone) = (path.clone(), false);
            }
            Call::Start { pair } => part.change(pair, |member| member.state = "RUNNING".into()),
            Call::Hold { pair, piece } => part.change(pair, |member| {
                member.held.insert(*piece);
            }),
            Call::Write { pair, piece } => part.change(pair, |member| {
                member.held.insert(*piece);
                member.servable.insert(*piece);
            }),
            Call::Finish { pair, success } => {
                part.change(pair, |member| member.state = if *success { "SUCCESS" } else { "FAIL" }.into());
            }
            Call::GoDown { pair } => part.change(pair, |member| member.gone = true),
            Call::DeleteTask { task } => {
                part.tasks.remove(task);
                part.members.retain(|pair, _| pair.0 != *task);
            }
            Call::DeletePeer { client } => {
                part.peers.remove(client);
                part.members.retain(|pair, _| pair.1 != *client);
            }
        }
        part
    }

    fn change(&mut self, pair: &Pair, change: impl FnOnce(&mut Member)) {
        change(self.members.get_mut(pair).expect("only members report"));
    }

    /// Where another part differs, in words.
    pub fn differences(&self, found: &Self) -> String {
        let mut lines = Vec::new();
        for task in self.tasks.symmetric_difference(&found.tasks) {
            lines.push(format!("task {task}: {}", if self.tasks.contains(task) { "gone" } else { "not gone" }));
        }
        for client in self.peers.keys().chain(found.peers.keys()).collect::<BTreeSet<_>>() {
            let (known, found) = (self.peers.get(client), found.peers.get(client));
            if known != found {
                lines.push(format!("peer {client}: {known:?} and now {found:?}"));
            }
        }
        for pair in self.members.keys().chain(found.members.keys()).collect::<BTreeSet<_>>() {
            let (known, found) = (self.members.get(pair), found.members.get(pair));
            if known != found {
                lines.push(format!("member {pair:?}: {known:?} and now {found:?}"));
            }
        }
        lines.join("\n")
    }

    /// Whether a home may have this after a crash, if this part was acknowledged and the call was under way.
    pub fn allows(&self, found: &Self, under_way: Option<&Call>) -> bool {
        if self == found {
            return true;
        }
        let Some(call) = under_way else { return false };
        match call {
            // The task is made with its source's first answer, the client joins it after that.
            Call::Register { pair, creates: true, .. } => {
                let mut made = self.clone();
                made.tasks.insert(pair.0.clone());
                made == *found || self.after(call) == *found
            }
            _ => self.after(call) == *found,
        }
    }
}

/// What a dump says of a piece.
#[derive(Clone, Debug)]
pub struct StoredPiece {
    pub md5: String,
    pub stored: bool,
}

/// All of a home.
#[derive(Clone, Debug, Default)]
pub struct Home {
    /// With the states of their sources.
    pub tasks: BTreeMap<String, String>,
    pub pieces: BTreeMap<(String, u32), StoredPiece>,
    pub members: BTreeMap<Pair, Member>,
    pub peers: BTreeMap<String, Peer>,
    /// What is half there.
    pub half: Vec<String>,
}

impl Home {
    pub fn read(dump: &Dump) -> Self {
        let mut home = Self::default();
        for line in &dump.0 {
            let text = |name: &str| line[name].as_str().unwrap_or_else(|| panic!("no {name:?} in {line}")).to_owned();
            let pieces = |name: &str| -> BTreeSet<u32> {
                serde_json::from_value(line[name].clone()).unwrap_or_else(|error| panic!("{error} in {line}"))
            };
            let pair = || (text("task"), text("client"));
            match &*text("kind") {
                "task" => drop(home.tasks.insert(text("task"), text("state"))),
                "piece" => {
                    let piece = line["piece"].as_u64().and_then(|piece| u32::try_from(piece).ok()).expect("a number");
                    let stored = StoredPiece { md5: text("pieceMd5"), stored: line["stored"] == true };
                    home.pieces.insert((text("task"), piece), stored);
                }
                "client" => {
                    let (held, servable) = Default::default();
                    let member = Member { state: text("state"), path: text("path"), gone: line["gone"] == true, held, servable };
                    home.members.insert(pair(), member);
                }
                "progress" => match home.members.get_mut(&pair()) {
                    Some(member) => (member.held, member.servable) = (pieces("held"), pieces("servable")),
                    None => home.half.push(format!("progress of no client: {line}")),
                },
                "peer" => {
                    let port = line["port"].as_u64().expect("a number");
                    home.peers.insert(text("client"), Peer { ip: text("ip"), port, version: text("version") });
                }
                other => home.half.push(format!("{other}: {line}")),
            }
        }
        let orphans = home.members.keys().map(|pair| &pair.0).chain(home.pieces.keys().map(|piece| &piece.0));
        let orphans: Vec<String> = orphans.filter(|task| !home.tasks.contains_key(*task)).cloned().collect();
        home.half.extend(orphans.into_iter().map(|task| format!("something of no task: {task}")));
        home
    }

    /// What an actor with these clients, and these tasks to make and delete, should know.
    pub fn part(&self, clients: &[String], tasks: &[String]) -> Part {
        Part {
            tasks: tasks.iter().filter(|task| self.tasks.contains_key(*task)).cloned().collect(),
            members: self
                .members
                .iter()
                .filter(|(pair, _)| clients.contains(&pair.1))
                .map(|(pair, member)| (pair.clone(), member.clone()))
                .collect(),
            peers: self
                .peers
                .iter()
                .filter(|(client, _)| clients.contains(*client))
                .map(|(client, peer)| (client.clone(), peer.clone()))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration() -> Call {
        let peer = Peer { ip: "10.0.0.1".into(), port: 1, version: "1.0.6".into() };
        Call::Register { pair: ("t".into(), "c".into()), path: "/p".into(), peer, creates: true }
    }

    #[test]
    fn what_was_under_way_is_there_wholly_or_not_at_all() {
        let nothing = Part::default();
        let whole = nothing.after(&registration());
        assert!(nothing.allows(&nothing, Some(&registration())) && nothing.allows(&whole, Some(&registration())));
        assert!(!nothing.allows(&whole, None), "nobody called that");
        assert!(!whole.allows(&nothing, None), "it was acknowledged");
        let without_peer = Part { peers: BTreeMap::new(), ..whole.clone() };
        assert!(!nothing.allows(&without_peer, Some(&registration())), "half a registration");
    }

    #[test]
    fn a_report_that_was_acknowledged_is_missed() {
        let pair = ("t".to_owned(), "c".to_owned());
        let before = Part::default().after(&registration());
        let report = Call::Write { pair: pair.clone(), piece: 3 };
        let after = before.after(&report);
        assert!(before.allows(&after, Some(&report)) && !after.allows(&before, Some(&Call::GoDown { pair: pair.clone() })));
        let held_only = before.after(&Call::Hold { pair, piece: 3 });
        assert!(!before.allows(&held_only, Some(&report)), "half a report");
    }

    #[test]
    fn a_deletion_that_is_half_done_is_noticed() {
        let whole = Part::default().after(&registration());
        let deletion = Call::DeletePeer { client: "c".into() };
        let half = Part { peers: BTreeMap::new(), ..whole.clone() };
        assert!(whole.allows(&whole.after(&deletion), Some(&deletion)) && !whole.allows(&half, Some(&deletion)));
    }
}
