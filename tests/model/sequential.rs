//! One call after the other, against the exact model; the service is killed in between.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use crate::case::{SourceKind, Step, source_kinds, steps};
use crate::from_environment;
use crate::harness::origin::Origin;
use crate::harness::pieces::range_of;
use crate::harness::service::Service;
use crate::oracle::Oracle;
use crate::scene::{Scene, picked};
use crate::wire::{Checked, call, expect_code};

/// Enough to be worth its half minute; a soak sets `MODEL_CASES`.
const CASES: u64 = 16;
/// Steps of one case.
const STEPS_MAX: usize = 60;
/// A service is replaced after so many cases, and its disk with it.
const CASES_PER_SERVICE: u64 = 64;
/// What a service may hold, however many cases it served: half of it is more than was ever seen. Bytes.
const RESIDENT_MAX_BYTES: u64 = 128 * 1024 * 1024;

/// A runner whose cases the seed brings back.
pub fn runner(what: &str, cases: u64) -> TestRunner {
    let seed = from_environment("MODEL_SEED", fastrand::u64(..));
    let cases = u32::try_from(from_environment("MODEL_CASES", cases)).expect("so many cases can be counted");
    println!("{what}: {cases} cases with MODEL_SEED={seed}");
    let bytes: Vec<u8> = seed.to_le_bytes().repeat(4);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 64, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

#[test]
fn one_call_after_the_other_is_answered_as_the_model_says() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    // The runner may not change what it captures, and runs one case after the other.
    let (stage, case) = (RefCell::new(runtime.block_on(Stage::set())), Cell::new(0_u64));
    let outcome = runner("one call after the other", CASES).run(
        &(source_kinds(), prop::collection::vec(steps(true), 10..STEPS_MAX)),
        |(kind, steps)| {
            let mut stage = stage.borrow_mut();
            case.set(case.get() + 1);
            if case.get().is_multiple_of(CASES_PER_SERVICE) {
                check_memory(&stage.service).map_err(TestCaseError::fail)?;
                *stage = runtime.block_on(Stage::set());
            }
            runtime.block_on(stage.play(kind, &steps, case.get())).map_err(TestCaseError::fail)
        },
    );
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    check_memory(&stage.borrow().service).expect("the service does not grow");
}

/// A service and a source.
struct Stage {
    service: Service,
    origin: Origin,
}

impl Stage {
    async fn set() -> Self {
        Self { service: Service::start_on_held_sockets().await, origin: Origin::start().await }
    }

    async fn play(&mut self, kind: SourceKind, steps: &[Step], case: u64) -> Checked {
        let scene = Scene::set(&self.service, &self.origin, kind, case).await?;
        let mut play = Play { oracle: Oracle::new(scene.content()), scene, step: 0 };
        if kind.refused_with().is_none() {
            play.oracle.registered(&play.scene, 0, play.scene.callers[0].port);
        }
        for (number, step) in steps.iter().enumerate() {
            play.step = number;
            if matches!(step, Step::Kill) {
                self.service.kill9();
                self.service.restart().await;
                play.oracle.killed();
                continue;
            }
            play.take(*step).await.map_err(|why| format!("{kind:?}, step {number} {step:?}: {why}"))?;
        }
        Ok(())
    }
}

/// The service is alive, and its memory bounded.
pub fn check_memory(service: &Service) -> Checked {
    let resident = resident_bytes(service.pid())?;
    println!("the service holds {} MiB", resident / 1024 / 1024);
    if resident <= RESIDENT_MAX_BYTES { Ok(()) } else { Err(format!("the service holds {resident} bytes")) }
}

/// Memory that a process holds. Bytes.
fn resident_bytes(pid: u32) -> Checked<u64> {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| format!("the service is gone: {error}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| format!("no VmRSS in {status}"))
}

/// One case under way.
struct Play {
    scene: Scene,
    oracle: Oracle,
    step: usize,
}

impl Play {
    /// Every other call is spelt as the reference spells it.
    const fn documented(&self) -> bool {
        self.step % 2 == 1
    }

    async fn take(&mut self, step: Step) -> Checked {
        let scene = &self.scene;
        match step {
            Step::Register { client, moved } => self.register(client, moved).await,
            Step::RegisterWrongly { client, wrong } => {
                let (request, code, name) = scene.wrong_registration(client, wrong);
                let answer = call(scene.api, request).await?;
                expect_code(&answer, &[code], name)?;
                if answer.msg.contains(name) { Ok(()) } else { Err(format!("{name} is not named: {answer}")) }
            }
            Step::Conflict { client } => {
                let answer = call(scene.api, scene.conflicting_registration(client)).await?;
                expect_code(&answer, &[scene.kind.refused_with().unwrap_or(606)], "a conflict")
            }
            Step::Heartbeat { client, elsewhere } => {
                let port = scene.callers[client].port + u16::from(elsewhere);
                let answer = call(scene.api, scene.heartbeat(client, port)).await?;
                let expected = self.oracle.must_register(client, port);
                if answer.data["needRegister"] == expected { Ok(()) } else { Err(format!("expected {expected}, got {answer}")) }
            }
            Step::Network => self.oracle.check_network(scene, &call(scene.api, scene.network()).await?),
            Step::Metrics { client } => expect_code(&call(scene.api, scene.metrics(client)).await?, &[200], "metrics"),
            Step::UnknownTask { client, call: number } => {
                let (request, codes) = scene.about_unknown_task(client, number);
                expect_code(&call(scene.api, request).await?, codes, "an unknown task")
            }
            Step::Malformed { client, call: number } => {
                let (request, name) = scene.malformed(client, number);
                let answer = call(scene.api, request).await?;
                expect_code(&answer, &[501], name)?;
                if answer.msg.contains(name) { Ok(()) } else { Err(format!("{name} is not named: {answer}")) }
            }
            Step::Kill => Ok(()),
            of_the_task if scene.kind.refused_with().is_none() => self.take_of_task(of_the_task).await,
            _ => Ok(()),
        }
    }

    async fn register(&mut self, client: usize, moved: bool) -> Checked {
        let port = match self.scene.callers[client].port {
            0 => 0,
            port => port + 10 * u16::from(moved),
        };
        let answer = call(self.scene.api, self.scene.registration(client, port)).await?;
        if let Some(code) = self.scene.kind.refused_with() {
            return expect_code(&answer, &[code], "registering what the source refuses");
        }
        self.scene.check_registered(&answer, false)?;
        self.oracle.registered(&self.scene, client, port);
        Ok(())
    }

    async fn take_of_task(&mut self, step: Step) -> Checked {
        match step {
            Step::Ask { client, started } => {
                let status = if started { "700" } else { "701" };
                self.oracle.asked(client);
                self.ask(client, status, "502", "", "").await
            }
            Step::Held { client, pick, result } => {
                let piece = picked(pick, &self.oracle.in_flight(client));
                let server = self.oracle.server_of(client, piece).unwrap_or_default().to_owned();
                if self.oracle.has(piece) {
                    self.oracle.held(client, piece);
                    self.ask(client, "701", &result.to_string(), &range_of(piece), &server).await
                } else {
                    self.ask_out_of_range(client, &result.to_string(), piece).await
                }
            }
            Step::Failed { client, pick, names_server } => {
                let piece = picked(pick, &self.oracle.in_flight(client));
                let server = self.oracle.server_of(client, piece).filter(|_| names_server).map(str::to_owned);
                if self.oracle.has(piece) {
                    self.oracle.failed(&self.scene, client, piece, server.as_deref());
                    self.ask(client, "701", "500", &range_of(piece), server.as_deref().unwrap_or_default()).await
                } else {
                    self.ask_out_of_range(client, "500", piece).await
                }
            }
            Step::Written { client, pick } => {
                let piece = picked(pick, &self.oracle.in_flight(client));
                let server = self.oracle.server_of(client, piece).unwrap_or_default();
                let request = self.scene.written(client, self.documented(), &range_of(piece), server);
                let answer = call(self.scene.api, request).await?;
                if !self.oracle.has(piece) {
                    return expect_code(&answer, &[501], "a piece past the end");
                }
                self.oracle.written(client, piece);
                expect_code(&answer, &[self.oracle.accepted(&self.scene, client, self.documented(), 611)], "a written piece")
            }
            Step::ReportedBad { client, pick } => {
                let piece = picked(pick, &self.oracle.in_flight(client));
                let seed = format!("cdnnode:127.0.0.1~{}", self.scene.task);
                let server = self.oracle.server_of(client, piece).unwrap_or(&seed).to_owned();
                let answer = call(self.scene.api, self.scene.bad_piece(client, &range_of(piece), &server)).await?;
                if !self.oracle.has(piece) {
                    return expect_code(&answer, &[501], "a bad piece past the end");
                }
                if !crate::wire::is_seed(&server) {
                    self.oracle.failed(&self.scene, client, piece, Some(&server));
                }
                expect_code(&answer, &[200], "a bad piece")
            }
            Step::Finished { client, success } => {
                let result = if success { "501" } else { "500" };
                let answer = call(self.scene.api, self.scene.ask(client, self.documented(), "702", result, "", "")).await?;
                self.oracle.finished(client);
                expect_code(&answer, &[200], "the end of a download")
            }
            Step::Down { client } => {
                let expected = self.oracle.accepted(&self.scene, client, self.documented(), 612);
                self.oracle.went_down(client);
                expect_code(
                    &call(self.scene.api, self.scene.going_down(client, self.documented())).await?,
                    &[expected],
                    "going down",
                )
            }
            _ => Ok(()),
        }
    }

    async fn ask(&mut self, client: usize, status: &str, result: &str, range: &str, server: &str) -> Checked {
        let (documented, asked) = (self.documented(), Instant::now());
        let answer = call(self.scene.api, self.scene.ask(client, documented, status, result, range, server)).await?;
        self.oracle.check_answer(&self.scene, client, documented, asked, &answer)
    }

    async fn ask_out_of_range(&self, client: usize, result: &str, piece: u32) -> Checked {
        let request = self.scene.ask(client, self.documented(), "701", result, &range_of(piece), "");
        expect_code(&call(self.scene.api, request).await?, &[501], "a piece past the end")
    }
}
