//! Property tests of the swarm: random histories, and honest swarms that must finish.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::invariants::Granted;
use super::*;
use crate::domain::{Client, ClientVersion, Endpoint, Generation, Md5Digest, PieceSize, Validators};

const PIECES: u32 = 7;
const CLIENTS: usize = 6;
/// Less than a step of time may be.
const SILENCE: Duration = Duration::from_secs(100);

fn task() -> TaskId {
    TaskId::derive("http://origin/file", "", "")
}

fn length(pieces: u32) -> u64 {
    u64::from(PieceSize::DEFAULT.content_bytes()) * u64::from(pieces)
}

fn status(length: Option<u64>) -> TaskStatus {
    TaskStatus {
        generation: Generation::FIRST,
        pattern: CdnPattern::Local,
        piece_size: PieceSize::DEFAULT,
        length,
        validators: Validators::default(),
        state: SourceState::Running,
    }
}

fn digest(piece: u32) -> PieceDigest {
    PieceDigest {
        md5: Md5Digest([u8::try_from(piece % 251).expect("below 251"); 16]),
        content_len: PieceSize::DEFAULT.content_bytes(),
    }
}

fn client_id(index: usize) -> ClientId {
    ClientId::parse(&format!("client-{index}")).expect("a valid id")
}

/// Upload servers by client, so that a client that registers again keeps its own.
#[derive(Default)]
struct Servers(HashMap<usize, Arc<UploadServer>>);

impl Servers {
    fn introduction(&mut self, index: usize, serves: bool) -> Introduction {
        let port = if serves { 15000 + u16::try_from(index).expect("few clients") } else { 0 };
        Introduction {
            endpoint: Arc::new(Endpoint {
                client: client_id(index),
                ip: [10, 0, 0, 1].into(),
                port,
                path: "/peer/file/x".into(),
            }),
            server: serves.then(|| self.0.entry(index).or_default().clone()),
            version: ClientVersion::parse("1.0.6"),
            call_system: "".into(),
            seed_host: "".into(),
            own_url: None,
        }
    }

    fn uploads(&self) -> u32 {
        self.0.values().map(|server| server.uploads()).sum()
    }
}

/// The store as the contract has it: every change, in order, each replacing what it is about.
#[derive(Default)]
struct ModelStore {
    status: Option<TaskStatus>,
    pieces: BTreeMap<PieceNumber, StoredPiece>,
    clients: BTreeMap<ClientId, Client>,
    progress: BTreeMap<(ClientId, u32), (Vec<u8>, Vec<u8>)>,
}

impl ModelStore {
    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::TaskProgressed { status, .. } => self.status = Some(status),
                Change::PieceStored { piece, digest, .. } => {
                    self.pieces.insert(piece, StoredPiece { piece, digest, stored: true });
                }
                Change::PieceLost { piece, digest, .. } => {
                    self.pieces.insert(piece, StoredPiece { piece, digest, stored: false });
                }
                Change::ClientChanged(client) => drop(self.clients.insert(client.id.clone(), client)),
                Change::ClientProgressed { client, chunk, held, servable, .. } => {
                    self.progress.insert((client, chunk), (held, servable));
                }
                Change::GenerationEnded { .. } => {
                    self.pieces.clear();
                    self.progress.clear();
                }
                Change::ClientForgotten { client, .. } => {
                    self.clients.remove(&client);
                    self.progress.retain(|(holder, _), _| *holder != client);
                }
                Change::TaskDefined(_)
                | Change::TaskRedefined(_)
                | Change::ContentKept { .. }
                | Change::TaskPinned { .. }
                | Change::PeerSeen(_)
                | Change::TaskForgotten { .. }
                | Change::PeerForgotten(_)
                | Change::PreheatChanged(_)
                | Change::PreheatResolved { .. }
                | Change::PreheatForgotten(_) => {}
            }
        }
    }

    fn stored(&self, intros: &HashMap<ClientId, Introduction>) -> StoredTask {
        let clients = self.clients.values().map(|client| {
            let (mut held, mut servable) = (PieceSet::default(), PieceSet::default());
            for ((id, chunk), (held_bytes, servable_bytes)) in &self.progress {
                if *id == client.id {
                    held.insert_chunk(*chunk, held_bytes);
                    servable.insert_chunk(*chunk, servable_bytes);
                }
            }
            StoredClient { client: client.clone(), intro: intros[&client.id].clone(), held, servable }
        });
        StoredTask {
            status: self.status.clone().unwrap_or_else(|| status(Some(length(PIECES)))),
            pieces: self.pieces.values().copied().collect(),
            clients: clients.collect(),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Register {
        client: usize,
        serves: bool,
    },
    Report {
        client: usize,
        report: Report,
    },
    /// What the client fetches cannot be had from there.
    FailTransfer {
        client: usize,
    },
    Fetch {
        piece: u32,
    },
    Lose {
        piece: u32,
    },
    Finish,
    Decide {
        client: usize,
    },
    Pass {
        ms: u64,
    },
    NextGeneration,
    Forget {
        client: usize,
    },
    SetLimits(Limits),
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    // One piece more than the file has: it must be refused.
    let piece = 0..=PIECES;
    let report = prop_oneof![
        Just(Report::Started),
        Just(Report::Asked),
        piece.clone().prop_map(|piece| Report::PieceHeld(PieceNumber(piece))),
        piece.clone().prop_map(|piece| Report::PieceServable(PieceNumber(piece))),
        (piece, prop::option::of(client.clone()))
            .prop_map(|(piece, server)| Report::PieceFailed { piece: PieceNumber(piece), server: server.map(client_id) }),
        any::<bool>().prop_map(|success| Report::Finished { success }),
        Just(Report::ServiceDown),
    ];
    prop_oneof![
        3 => (client.clone(), any::<bool>()).prop_map(|(client, serves)| Step::Register { client, serves }),
        8 => (client.clone(), report).prop_map(|(client, report)| Step::Report { client, report }),
        4 => client.clone().prop_map(|client| Step::FailTransfer { client }),
        4 => (0..PIECES).prop_map(|piece| Step::Fetch { piece }),
        1 => (0..PIECES).prop_map(|piece| Step::Lose { piece }),
        1 => Just(Step::Finish),
        1 => client.clone().prop_map(|client| Step::Forget { client }),
        8 => client.prop_map(|client| Step::Decide { client }),
        2 => (0_u64..150_000).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::NextGeneration),
        2 => limits().prop_map(Step::SetLimits),
        1 => Just(Step::Expire),
    ]
}

/// Low ones, so that a few steps reach them.
fn limits() -> impl Strategy<Value = Limits> {
    (1_usize..6, 1_u32..6, 1_u8..6, 0_u8..6).prop_map(|(down, up, serve_errors, download_errors)| Limits {
        down,
        up,
        serve_errors,
        download_errors,
    })
}

struct History {
    swarm: Swarm,
    granted: Granted,
    store: ModelStore,
    servers: Servers,
    intros: HashMap<ClientId, Introduction>,
    now: Moment,
    rng: fastrand::Rng,
}

impl History {
    fn new(seed: u64) -> Self {
        Self {
            swarm: Swarm::new(task(), Limits::default(), status(Some(length(PIECES)))),
            granted: Granted::default(),
            store: ModelStore::default(),
            servers: Servers::default(),
            intros: HashMap::new(),
            now: Moment(0),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Refusal> {
        let mut effects = Effects::default();
        let outcome = self.swarm.handle(self.now, event, &mut effects);
        assert!(outcome.is_ok() || effects.changes.is_empty(), "a refusal changes nothing");
        self.store.apply(effects.changes);
        outcome
    }

    /// Takes one step; tells what was decided if it asked for a decision.
    fn take(&mut self, step: Step) -> Option<Decision> {
        let mut decided = None;
        match step {
            Step::Register { client, serves } => {
                let intro = self.servers.introduction(client, serves);
                if self.handle(Event::ClientRegistered(intro.clone())).is_ok() {
                    self.intros.insert(client_id(client), intro);
                }
            }
            Step::Report { client, report } => {
                let outcome = self.handle(Event::FromClient { client: client_id(client), report: report.clone() });
                if let Report::PieceHeld(piece) | Report::PieceServable(piece) = report {
                    let former = self.swarm.former.contains_key(&client_id(client));
                    let out_of_range = self.swarm.status.length.is_some() && piece.0 >= PIECES;
                    assert!(!out_of_range || former || outcome == Err(Refusal::PieceOutOfRange));
                }
                if let Some(intro) = self.swarm.introduction(&client_id(client)) {
                    self.intros.insert(client_id(client), intro.clone());
                }
            }
            Step::FailTransfer { client } => {
                let member = self.swarm.members.ordinal(&client_id(client)).and_then(|ordinal| self.swarm.members.get(ordinal));
                if let Some(piece) = member.and_then(|member| Some(member.leases.first()?.piece)) {
                    let report = Report::PieceFailed { piece, server: None };
                    self.handle(Event::FromClient { client: client_id(client), report }).expect("in range");
                }
            }
            Step::Fetch { piece } => {
                self.handle(Event::PieceStored { piece: PieceNumber(piece), digest: digest(piece) }).expect("never refused");
            }
            Step::Lose { piece } => self.handle(Event::PieceLost { piece: PieceNumber(piece) }).expect("never refused"),
            Step::Finish => {
                let md5 = Md5Digest([9; 16]);
                self.handle(Event::SourceFinished { md5, length: length(PIECES) }).expect("never refused");
            }
            Step::Decide { client } => {
                let decision = self.swarm.decide(self.now, &mut self.rng, &client_id(client));
                if let Decision::Finished { .. } = decision {
                    let ordinal = self.swarm.members.ordinal(&client_id(client)).expect("only members finish");
                    let held = &self.swarm.members.get(ordinal).expect("it is there").held;
                    assert!((0..PIECES).all(|piece| held.contains(PieceNumber(piece))), "told 600 without every piece");
                }
                decided = Some(decision);
            }
            Step::Pass { ms } => {
                self.now = self.now.after(Duration::from_millis(ms));
                let mut effects = Effects::default();
                self.swarm.sweep(self.now, &mut effects);
                assert!(effects.changes.is_empty(), "leases are not stored");
            }
            Step::Forget { client } => {
                let mut effects = Effects::default();
                self.swarm.forget(&client_id(client), &mut effects);
                self.store.apply(effects.changes);
                assert!(self.swarm.introduction(&client_id(client)).is_none());
            }
            Step::NextGeneration => {
                let mut effects = Effects::default();
                self.swarm.next_generation(self.now, CdnPattern::Local, &mut effects);
                self.store.apply(effects.changes);
            }
            Step::SetLimits(limits) => {
                let mut effects = Effects::default();
                self.swarm.set_limits(limits, &mut effects);
                assert!(effects.changes.is_empty(), "limits are not stored");
            }
            Step::Expire => {
                let mut effects = Effects::default();
                for left in [Left::From(0), Left::Former] {
                    self.swarm.expire(self.now, SILENCE, &|_| None, left, &mut effects);
                }
                self.store.apply(effects.changes);
            }
        }
        self.check();
        decided
    }

    fn check(&mut self) {
        self.granted = self.swarm.check(&self.granted);
    }

    /// The same history after a crash: a swarm of what was stored, with upload servers that nobody uses yet.
    fn restarted(&self, seed: u64) -> Self {
        let mut new = Self::new(seed);
        new.now = self.now;
        for index in 0..CLIENTS {
            if let Some(intro) = self.intros.get(&client_id(index)) {
                let own = new.servers.introduction(index, intro.server.is_some());
                new.intros.insert(client_id(index), Introduction { server: own.server, ..intro.clone() });
            }
        }
        new.swarm = Swarm::rebuild(self.now, task(), self.swarm.limits, self.store.stored(&new.intros));
        new
    }

    /// Lets go of everything that a restart would lose.
    fn forget_soft_state(&mut self) {
        let mut effects = Effects::default();
        let ordinals: Vec<u32> = self.swarm.members.iter().map(|(ordinal, _)| ordinal).collect();
        for ordinal in ordinals {
            self.swarm.end_all_leases(ordinal, &mut effects);
            let member = self.swarm.members.get_mut(ordinal).expect("just listed");
            member.avoided.clear();
            member.busy = false;
            for arriving in std::mem::take(&mut member.arriving) {
                self.swarm.pieces[arriving.piece.index()].promised -= 1;
            }
        }
        for ordinal in self.swarm.members.iter().map(|(ordinal, _)| ordinal).collect::<Vec<_>>() {
            let seen = self.swarm.members.get(ordinal).map(|member| self.swarm.seen_at_start(self.now, member));
            let member = self.swarm.members.get_mut(ordinal).expect("just listed");
            member.seen = seen.expect("just looked at");
        }
        self.swarm.former.values_mut().for_each(|seen| *seen = self.now);
        self.swarm.busy.clear();
        self.swarm.pace = Pace::default();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Every invariant after every step of any history; when all is told, no slot is left taken; and a swarm that is
    /// rebuilt from what was stored decides, step by step, as the old one does.
    #[test]
    fn any_history_keeps_the_invariants_and_can_be_rebuilt(seed: u64, steps in prop::collection::vec(step(), 1..120), later in prop::collection::vec(step(), 0..30)) {
        let mut old = History::new(seed);
        for step in steps {
            old.take(step);
        }
        old.forget_soft_state();
        old.check();
        prop_assert_eq!(old.servers.uploads(), 0, "a slot outlived its lease");

        let mut new = old.restarted(seed);
        new.check();
        old.rng = fastrand::Rng::with_seed(seed);
        for step in later {
            prop_assert_eq!(old.take(step.clone()), new.take(step));
        }
    }
}

/// A client that fetches one piece a round and reports it both ways.
struct HonestClient {
    index: usize,
    serves: bool,
    /// It fetches nothing and says nothing after this round.
    dies_after: Option<u32>,
    finished: bool,
}

/// Runs a swarm until all living clients are done; tells rounds, transfers from the supernode and from peers.
fn run_swarm(seed: u64, pieces: u32, mut clients: Vec<HonestClient>) -> (u32, u32, u32) {
    let mut history = History::new(seed);
    history.swarm = Swarm::new(task(), Limits::default(), status(Some(length(pieces))));
    for client in &clients {
        let intro = history.servers.introduction(client.index, client.serves);
        history.handle(Event::ClientRegistered(intro)).expect("a new client");
    }
    let (mut from_seed, mut from_peers) = (0, 0);
    for round in 0..5000 {
        if round < pieces {
            history.handle(Event::PieceStored { piece: PieceNumber(round), digest: digest(round) }).expect("never refused");
        }
        if round == pieces {
            let md5 = Md5Digest([9; 16]);
            history.handle(Event::SourceFinished { md5, length: length(pieces) }).expect("never refused");
        }
        history.take(Step::Pass { ms: 100 });
        for client in &mut clients {
            if client.finished || client.dies_after.is_some_and(|last| round > last) {
                continue;
            }
            let id = client_id(client.index);
            match history.swarm.decide(history.now, &mut history.rng, &id) {
                Decision::Finished { .. } => client.finished = true,
                Decision::Continue(assignments) => {
                    let assignment = &assignments[0];
                    match assignment.server {
                        Server::Seed => from_seed += 1,
                        Server::Peer(_) => from_peers += 1,
                    }
                    for report in [Report::PieceHeld(assignment.piece), Report::PieceServable(assignment.piece)] {
                        history.handle(Event::FromClient { client: id.clone(), report }).expect("in range");
                    }
                }
                Decision::Wait { .. } => {}
                Decision::Failed(failure) => panic!("failed: {failure:?}"),
            }
            history.check();
        }
        if clients.iter().all(|client| client.finished || client.dies_after.is_some()) {
            return (round, from_seed, from_peers);
        }
    }
    panic!("the swarm stalled (seed {seed})");
}

fn honest(index: usize) -> HonestClient {
    HonestClient { index, serves: true, dies_after: None, finished: false }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_swarm_with_dead_members_always_finishes(seed: u64, pieces in 1_u32..40, deaths in prop::collection::vec(prop::option::of(0_u32..20), 3..9), serving in any::<u16>()) {
        let clients = deaths.iter().enumerate().map(|(index, &dies_after)| HonestClient { dies_after, serves: serving >> index & 1 == 1, ..honest(index) });
        run_swarm(seed, pieces, clients.collect());
    }
}

#[test]
fn a_swarm_feeds_itself() {
    let (rounds, from_seed, from_peers) = run_swarm(7, 13, (0..8).map(honest).collect());
    assert_eq!(from_seed + from_peers, 104);
    assert!(from_seed <= 20, "{from_seed} of 104 transfers came from the supernode, in {rounds} rounds");
}

#[test]
fn a_client_that_cannot_serve_is_never_handed_out() {
    let mut history = History::new(1);
    history.take(Step::Register { client: 0, serves: false });
    history.take(Step::Fetch { piece: 0 });
    history.take(Step::Report { client: 0, report: Report::PieceServable(PieceNumber(0)) });
    history.take(Step::Register { client: 1, serves: true });
    let Decision::Continue(assignments) = history.swarm.decide(history.now, &mut history.rng, &client_id(1)) else {
        panic!("the supernode has the piece")
    };
    assert_eq!(assignments[0].server, Server::Seed);
}

#[test]
fn a_peer_that_fails_five_times_is_no_longer_used() {
    let mut history = History::new(1);
    for client in 0..CLIENTS {
        history.take(Step::Register { client, serves: true });
    }
    history.take(Step::Fetch { piece: 0 });
    history.take(Step::Report { client: 0, report: Report::PieceServable(PieceNumber(0)) });
    for client in 1..CLIENTS {
        history.take(Step::Decide { client });
        let failed = Report::PieceFailed { piece: PieceNumber(0), server: Some(client_id(0)) };
        history.take(Step::Report { client, report: failed });
    }
    assert_eq!(history.swarm.serving, u32::try_from(CLIENTS).expect("few") - 1);
    assert!(history.swarm.pieces[0].holders.is_empty());
}

#[test]
fn a_report_alone_takes_nobody_out_of_the_swarm() {
    let mut history = History::new(1);
    history.take(Step::Register { client: 0, serves: true });
    history.take(Step::Fetch { piece: 0 });
    history.take(Step::Report { client: 0, report: Report::PieceServable(PieceNumber(0)) });
    for _ in 0..20 {
        let lie = Report::PieceFailed { piece: PieceNumber(0), server: Some(client_id(0)) };
        history.take(Step::Report { client: 1, report: lie });
    }
    assert!(history.swarm.pieces[0].holders.contains(0));
}

#[test]
fn an_overdue_transfer_gives_its_slot_to_others_and_may_still_finish() {
    let mut history = History::new(1);
    for client in 0..2 {
        history.take(Step::Register { client, serves: true });
    }
    history.take(Step::Fetch { piece: 0 });
    history.take(Step::Report { client: 0, report: Report::PieceServable(PieceNumber(0)) });
    history.take(Step::Decide { client: 1 });
    assert_eq!(history.servers.uploads(), 1);
    history.take(Step::Pass { ms: 10_000 });
    assert_eq!(history.servers.uploads(), 0);
    let Decision::Continue(again) = history.swarm.decide(history.now, &mut history.rng, &client_id(1)) else {
        panic!("it may still be fetching")
    };
    assert_eq!(again.len(), 1);
    history.take(Step::Pass { ms: 100_000 });
    history.take(Step::Report { client: 1, report: Report::PieceHeld(PieceNumber(0)) });
}

#[test]
fn a_client_of_an_earlier_generation_is_never_moved() {
    let mut history = History::new(1);
    history.take(Step::Register { client: 0, serves: true });
    history.take(Step::NextGeneration);
    let intro = history.servers.introduction(0, true);
    assert_eq!(history.handle(Event::ClientRegistered(intro)), Err(Refusal::EarlierGeneration));
    let decision = history.swarm.decide(history.now, &mut history.rng, &client_id(0));
    assert!(matches!(decision, Decision::Failed(Failure { fault: Fault::Source, .. })));
}

#[test]
fn a_source_is_asked_again_for_what_it_was_even_if_every_piece_of_it_was_lost() {
    let mut history = History::new(1);
    history.handle(Event::SourceAnswered(status(None))).expect("it has an answer");
    for event in [Event::PieceStored { piece: PieceNumber(0), digest: digest(0) }, Event::PieceLost { piece: PieceNumber(0) }] {
        history.handle(event).expect("a piece of the file");
    }
    let failure = Failure { fault: Fault::Supernode, discard: false, reason: "no room".into() };
    history.handle(Event::SourceFailed(failure)).expect("it may fail");
    history.handle(Event::SourceRetried).expect("it may be asked again");
    // Only then is it compared with what clients were told of it.
    assert_eq!(history.swarm.status().state, SourceState::Running);
    assert_eq!((history.swarm.stored_bytes(), history.swarm.digest(PieceNumber(0))), (0, Some(digest(0))));
}

/// A client that asks, with one piece at the only peer: whether it is sent to that peer.
fn is_sent_to_the_peer(history: &mut History, client: usize) -> bool {
    match history.take(Step::Decide { client }) {
        Some(Decision::Continue(assignments)) => matches!(assignments[0].server, Server::Peer(_)),
        decision => panic!("there is a piece to fetch: {decision:?}"),
    }
}

#[test]
fn who_serves_follows_the_limits() {
    let mut history = History::new(1);
    for client in 0..3 {
        history.take(Step::Register { client, serves: true });
    }
    history.take(Step::Fetch { piece: 0 });
    history.take(Step::Report { client: 0, report: Report::PieceServable(PieceNumber(0)) });
    assert!(is_sent_to_the_peer(&mut history, 1));
    let failed = Report::PieceFailed { piece: PieceNumber(0), server: Some(client_id(0)) };
    history.take(Step::Report { client: 1, report: failed });
    assert_eq!(history.swarm.serving, 3, "one error of five is borne");

    history.take(Step::SetLimits(Limits { serve_errors: 1, ..Limits::default() }));
    assert_eq!(history.swarm.serving, 2, "one error of one is not");
    assert!(!is_sent_to_the_peer(&mut history, 2));
    history.take(Step::Report { client: 2, report: Report::PieceFailed { piece: PieceNumber(0), server: None } });

    history.take(Step::SetLimits(Limits::default()));
    assert_eq!(history.swarm.serving, 3, "it is used again");
    assert!(is_sent_to_the_peer(&mut history, 2));
}

#[test]
fn lower_limits_end_no_transfer_and_grant_no_more() {
    let mut history = History::new(1);
    history.take(Step::Register { client: 0, serves: false });
    (0..6).for_each(|piece| drop(history.take(Step::Fetch { piece })));
    let in_flight = |history: &mut History| match history.take(Step::Decide { client: 0 }) {
        Some(Decision::Continue(assignments)) => assignments,
        decision => panic!("there are pieces to fetch: {decision:?}"),
    };
    assert_eq!(in_flight(&mut history).len(), 4);
    history.take(Step::SetLimits(Limits { down: 2, ..Limits::default() }));
    for left in [3, 2, 2] {
        let piece = in_flight(&mut history)[0].piece;
        history.take(Step::Report { client: 0, report: Report::PieceHeld(piece) });
        assert_eq!(in_flight(&mut history).len(), left);
    }
}
