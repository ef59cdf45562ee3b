//! Many clients at once: what must hold whatever the order in which the service hears them.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tokio::task::JoinSet;

use crate::case::{CLIENTS, Pick, SourceKind, Step, steps};
use crate::harness::origin::Origin;
use crate::harness::pieces::{PIECE_SIZE, range_of};
use crate::harness::service::Service;
use crate::oracle::{DOWN_MAX, SURELY_RUNNING, UP_MAX};
use crate::scene::{Scene, picked};
use crate::sequential::{check_memory, runner};
use crate::wire::{Checked, HandedOut, call, expect_code, is_seed, read_pieces};

const CASES: u64 = 12;
const STEPS_MAX: usize = 40;

#[test]
fn many_clients_at_once_are_never_told_what_cannot_be() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    let (service, origin) = runtime.block_on(async { (Service::start().await, Origin::start().await) });
    let case = Cell::new(0_u64);
    let kinds = prop_oneof![6 => Just(SourceKind::Pieces), 1 => Just(SourceKind::UnknownLength), 1 => Just(SourceKind::Empty)];
    let programs = prop::collection::vec(prop::collection::vec(steps(false), 10..STEPS_MAX), CLIENTS);
    let outcome = runner("many clients at once", CASES).run(&(kinds, programs), |(kind, programs)| {
        case.set(case.get() + 1);
        runtime.block_on(play(&service, &origin, kind, programs, case.get())).map_err(TestCaseError::fail)
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    check_memory(&service).expect("the service does not grow");
}

async fn play(service: &Service, origin: &Origin, kind: SourceKind, programs: Vec<Vec<Step>>, case: u64) -> Checked {
    let scene = Arc::new(Scene::set(service, origin, kind, case).await?);
    let told = Arc::new(Told::default());
    let mut running = JoinSet::new();
    for (client, program) in programs.into_iter().enumerate() {
        let actor = Actor::new(client, &scene, &told);
        running.spawn(actor.run(program));
    }
    while let Some(ended) = running.join_next().await {
        ended.map_err(|error| error.to_string())??;
    }
    Ok(())
}

/// What all clients together have said and been told, noted so that it can be relied on: a claim before it is sent, the
/// end of one after it was acknowledged.
#[derive(Debug, Default)]
struct Told(Mutex<Everything>);

#[derive(Debug, Default)]
struct Everything {
    /// Who may serve what: noted before it is reported.
    written: BTreeSet<(usize, u32)>,
    /// Who surely serves nothing since when.
    down: BTreeMap<usize, Instant>,
    /// Transfers that are surely under way, by server: noted when they are handed out, removed before they are reported.
    running: HashMap<String, Vec<(usize, u32, Instant)>>,
}

impl Told {
    fn lock(&self) -> MutexGuard<'_, Everything> {
        self.0.lock().expect("nobody panics with it")
    }
}

/// One client and what it knows of itself.
struct Actor {
    client: usize,
    scene: Arc<Scene>,
    told: Arc<Told>,
    held: BTreeSet<u32>,
    in_flight: BTreeMap<u32, HandedOut>,
    step: usize,
}

impl Actor {
    fn new(client: usize, scene: &Arc<Scene>, told: &Arc<Told>) -> Self {
        let (scene, told) = (scene.clone(), told.clone());
        Self { client, scene, told, held: BTreeSet::new(), in_flight: BTreeMap::new(), step: 0 }
    }

    async fn run(mut self, program: Vec<Step>) -> Checked {
        self.register().await?;
        for (number, step) in program.into_iter().enumerate() {
            self.step = number;
            self.take(step).await.map_err(|why| format!("client {}, step {number} {step:?}: {why}", self.client))?;
        }
        Ok(())
    }

    const fn documented(&self) -> bool {
        self.step % 2 == 1
    }

    /// The steps of a program are this client's, whoever they name.
    async fn take(&mut self, step: Step) -> Checked {
        let (scene, client) = (self.scene.clone(), self.client);
        match step {
            Step::Register { .. } => self.register().await,
            Step::Ask { started, .. } => self.ask(if started { "700" } else { "701" }, "502", "", "").await,
            Step::Held { pick, result, .. } => {
                let (piece, server) = self.end_one(pick);
                if !self.exists(piece) {
                    return Ok(());
                }
                self.held.insert(piece);
                self.ask("701", &result.to_string(), &range_of(piece), &server).await
            }
            Step::Written { pick, .. } => {
                let (piece, server) = self.end_one(pick);
                if !self.exists(piece) {
                    return Ok(());
                }
                self.told.lock().written.insert((client, piece));
                self.held.insert(piece);
                let request = scene.written(client, self.documented(), &range_of(piece), &server);
                expect_code(&call(scene.api, request).await?, &[200, 611], "a written piece")
            }
            Step::Failed { pick, .. } => {
                let (piece, server) = self.end_one(pick);
                if !self.exists(piece) {
                    return Ok(());
                }
                self.ask("701", "500", &range_of(piece), &server).await
            }
            Step::Finished { .. } => {
                self.in_flight.keys().copied().collect::<Vec<u32>>().into_iter().for_each(|piece| drop(self.end(piece)));
                expect_code(
                    &call(scene.api, scene.ask(client, self.documented(), "702", "501", "", "")).await?,
                    &[200],
                    "the end",
                )
            }
            Step::Down { .. } => {
                expect_code(&call(scene.api, scene.going_down(client, self.documented())).await?, &[200, 612], "going down")?;
                self.told.lock().down.insert(client, Instant::now());
                Ok(())
            }
            Step::RegisterWrongly { wrong, .. } => {
                let (request, code, name) = scene.wrong_registration(client, wrong);
                expect_code(&call(scene.api, request).await?, &[code], name)
            }
            Step::Conflict { .. } => {
                expect_code(&call(scene.api, scene.conflicting_registration(client)).await?, &[606], "a conflict")
            }
            Step::Network => expect_code(&call(scene.api, scene.network()).await?, &[200], "the network"),
            Step::Metrics { .. } => expect_code(&call(scene.api, scene.metrics(client)).await?, &[200], "metrics"),
            Step::UnknownTask { call: number, .. } => {
                let (request, codes) = scene.about_unknown_task(client, number);
                expect_code(&call(scene.api, request).await?, codes, "an unknown task")
            }
            Step::Malformed { call: number, .. } => {
                expect_code(&call(scene.api, scene.malformed(client, number).0).await?, &[501], "a malformed call")
            }
            Step::Heartbeat { .. } | Step::ReportedBad { .. } | Step::Kill => Ok(()),
        }
    }

    fn exists(&self, piece: u32) -> bool {
        piece < self.scene.content().pieces()
    }

    async fn register(&self) -> Checked {
        self.told.lock().down.remove(&self.client);
        let answer = call(self.scene.api, self.scene.registration(self.client, self.scene.callers[self.client].port)).await?;
        self.scene.check_registered(&answer, false)
    }

    /// A transfer ends: whom the piece came from.
    fn end(&mut self, piece: u32) -> String {
        let Some(given) = self.in_flight.remove(&piece) else { return String::new() };
        if let Some(running) = self.told.lock().running.get_mut(&given.server) {
            running.retain(|(client, running, _)| (*client, *running) != (self.client, piece));
        }
        given.server
    }

    fn end_one(&mut self, pick: Pick) -> (u32, String) {
        let in_flight: Vec<u32> = self.in_flight.keys().copied().collect();
        let piece = picked(pick, &in_flight);
        (piece, self.end(piece))
    }

    async fn ask(&mut self, status: &str, result: &str, range: &str, server: &str) -> Checked {
        let (documented, asked, scene) = (self.documented(), Instant::now(), self.scene.clone());
        let answer = call(scene.api, scene.ask(self.client, documented, status, result, range, server)).await?;
        let (held, content) = (self.held.len(), scene.content());
        let whole = held == content.digests.len();
        match answer.code {
            600 if whole && answer.data["md5"] == content.md5 => Ok(()),
            601 if !whole => self.take_pieces(asked, read_pieces(&answer, documented, &content.digests, PIECE_SIZE)?),
            602 if !whole && self.in_flight.is_empty() && answer.msg.starts_with(&format!("client sucCount:{held},")) => Ok(()),
            _ => Err(format!("with {:?} held and {:?} in flight: {answer}", self.held, self.in_flight)),
        }
    }

    fn take_pieces(&mut self, asked: Instant, pieces: Vec<HandedOut>) -> Checked {
        let numbers: BTreeSet<u32> = pieces.iter().map(|given| given.piece).collect();
        let all_again = self.in_flight.keys().all(|piece| numbers.contains(piece));
        if numbers.len() != pieces.len() || pieces.len() > DOWN_MAX || !all_again {
            return Err(format!("{pieces:?} while {:?} is in flight", self.in_flight));
        }
        for given in pieces {
            match self.in_flight.get(&given.piece) {
                Some(known) if given.is_again(known) => continue,
                Some(known) => return Err(format!("{known:?} became {given:?} under way")),
                None => self.check_new(asked, &given)?,
            }
            self.in_flight.insert(given.piece, given);
        }
        Ok(())
    }

    fn check_new(&self, asked: Instant, given: &HandedOut) -> Checked {
        let fail = |why: &str| Err(format!("handed {given:?}: {why}"));
        if self.held.contains(&given.piece) {
            return fail("it has that");
        }
        if is_seed(&given.server) {
            return Ok(());
        }
        let Some(server) = (0..CLIENTS).find(|other| self.scene.cid(*other) == given.server) else {
            return fail("nobody is that");
        };
        let mut told = self.told.lock();
        if server == self.client || self.scene.callers[server].port == 0 {
            return fail("it cannot be fetched from there");
        }
        if !told.written.contains(&(server, given.piece)) {
            return fail("that client never said that it has that");
        }
        if told.down.get(&server).is_some_and(|since| *since < asked) {
            return fail("that client had gone down before the question");
        }
        let running = told.running.entry(given.server.clone()).or_default();
        running.push((self.client, given.piece, asked));
        let surely = running.iter().filter(|(_, _, asked)| asked.elapsed() < SURELY_RUNNING).count();
        if surely > UP_MAX { fail("more uploads than one server may do") } else { Ok(()) }
    }
}
