//! Cycles: a home is loaded until its service dies, and looked at after the next start.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::actor::{Actor, LENGTHS, Task};
use crate::fault::Moment;
use crate::fault::power::Losses;
use crate::from_environment;
use crate::harness::exchange::{self, get, with_header};
use crate::harness::origin::Origin;
use crate::model::Home;
use crate::stage::{Addresses, Stage, Started, ask_control, was_killed};

const ACTORS: usize = 8;
/// Actors whose tasks have long identifiers. Bytes.
const LARGE_ACTORS: usize = 2;
const IDENTIFIER_BYTES: std::ops::Range<usize> = 100_000..500_000;
/// How long a loaded service lives at most, until it is killed whatever step it is at.
const LIFE_MAX: Duration = Duration::from_millis(400);
/// Kills at a moment come within this time.
const MOMENT_MAX_MS: u64 = 150;
/// Kills at a step of a start come within so many steps, and of a load within so many.
const START_STEPS: u64 = 60;
const LOAD_STEPS: u64 = 200;
/// Some services live so much longer.
const LONG_LIFE: u32 = 5;
/// After so many cycles a home is old enough.
const CYCLES_OF_A_HOME: u64 = 40;
/// Snapshots that stay in the home.
const SNAPSHOTS_KEPT: usize = 2;
const FINDINGS_MAX: usize = 5;
/// Garbage is collected in most lives.
const COLLECTING: [&str; 2] = ["--gc-initial-delay=30ms", "--gc-meta-interval=1s"];

/// What is counted.
#[derive(Debug, Default)]
pub struct Summary {
    pub cycles: u64,
    pub homes: u64,
    pub killed_at_a_moment: u64,
    /// Before, after, and amid a step.
    pub killed_at_a_step: [u64; 3],
    pub killed_while_starting: u64,
    pub power_lost: u64,
    /// Files and directories that lost something with the power.
    pub losses: u64,
    pub acknowledged: u64,
    pub snapshots: u64,
    pub pieces_compared: u64,
    pub checks: u64,
    pub findings: Vec<String>,
}

/// Runs cycles with new homes now and then. A finding ends its home.
pub async fn run(with_power: bool, cycles: u64, seed: u64) -> Summary {
    println!("{cycles} cycles{} with CRASH_SEED={seed}", if with_power { " with losses of power" } else { "" });
    let (origin, mut summary, began) = (Origin::start().await, Summary::default(), Instant::now());
    while summary.cycles < cycles && summary.findings.len() < FINDINGS_MAX {
        summary.homes += 1;
        let mut play = Play::new(with_power, &origin, seed.wrapping_add(summary.homes), summary.homes);
        let until = cycles.min(summary.cycles + CYCLES_OF_A_HOME);
        while summary.cycles < until {
            summary.cycles += 1;
            if let Err(why) = play.cycle(&mut summary).await {
                let (kept, lost) = (play.stage.keep(), play.lost.join("\n    "));
                let finding = format!(
                    "cycle {} of the seed {seed}: {why}\n  last killed by: {}\n  lost with the power: {lost}\n  kept in {}; the service said:\n{}",
                    summary.cycles,
                    play.killed_by,
                    kept.display(),
                    play.stage.said()
                );
                println!("FINDING: {finding}");
                summary.findings.push(finding);
                break;
            }
        }
        if from_environment("CRASH_VERBOSE", 0) > 0 {
            println!("{:.0?}: {summary:?}", began.elapsed());
        }
    }
    println!("{:.1?}: {summary:#?}", began.elapsed());
    summary
}

struct Play {
    stage: Stage,
    random: fastrand::Rng,
    actors: Vec<Actor>,
    tasks: Vec<Arc<Task>>,
    with_power: bool,
    served_once: bool,
    /// Those that were told of.
    snapshots: Vec<PathBuf>,
    snapshots_asked: u64,
    lost: Losses,
    killed_by: String,
}

impl Play {
    fn new(with_power: bool, origin: &Origin, seed: u64, number: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut shared: Vec<Arc<Task>> = (0_u64..)
            .zip(LENGTHS)
            .map(|(of, length)| Arc::new(Task::new(origin, &format!("{number}-shared-{of}"), length, random.u64(..))))
            .collect();
        shared.push(Arc::new(Task::endless(origin, &format!("{number}-endless"))));
        let (mut tasks, mut actors) = (shared.clone(), Vec::new());
        for actor in 0..ACTORS {
            let length = if actor == ACTORS - 1 { 5_000_000 } else { random.u64(..3000) };
            // Some records are as large as segments of the log, and a commit that writes them fills several.
            let identifier = if actor < LARGE_ACTORS { "i".repeat(random.usize(IDENTIFIER_BYTES)) } else { String::new() };
            let name = format!("{number}-of-{actor}");
            let own = Arc::new(Task::identified(origin, &name, length, random.u64(..), identifier));
            tasks.push(own.clone());
            actors.push(Actor::new(actor, &shared, vec![own], random.u64(..)));
        }
        Self {
            stage: Stage::new(with_power),
            random,
            actors,
            tasks,
            with_power,
            served_once: false,
            snapshots: Vec::new(),
            snapshots_asked: 0,
            lost: Losses::new(),
            killed_by: String::new(),
        }
    }

    async fn cycle(&mut self, summary: &mut Summary) -> Result<(), String> {
        let moment = [Moment::Before, Moment::After, Moment::Half][self.random.usize(..3)];
        let while_starting = self.random.u8(..5) == 0;
        if while_starting {
            self.stage.faults.kill_at(self.stage.faults.steps() + self.random.u64(1..=START_STEPS), moment);
        }
        match self.stage.start_with(&COLLECTING).await {
            Started::Died(status) if was_killed(status) && while_starting => {
                summary.killed_while_starting += 1;
                self.silence(0)?;
            }
            Started::Died(status) => return Err(format!("the service did not start: {status}")),
            Started::Serving(addresses) => {
                // The last steps of a start are taken when it serves already.
                let killed_late = self.stage.faults.spare();
                if killed_late.is_some() {
                    summary.killed_while_starting += 1;
                    self.stage.let_die(LIFE_MAX).await;
                    self.after_death(killed_late.map(|killed| (moment, killed)), summary).await?;
                    return Ok(());
                }
                self.look(addresses, summary).await?;
                // Of a database that the power took while it was made, a start may complain until it serves.
                let forgiven = if self.served_once { 0 } else { self.stage.said().lines().count() };
                self.served_once = true;
                let at_a_step = self.random.u8(..2) == 0;
                let longer = if self.random.u8(..10) == 0 { LONG_LIFE } else { 1 };
                if at_a_step {
                    let steps = self.random.u64(1..=LOAD_STEPS * u64::from(longer));
                    self.stage.faults.kill_at(self.stage.faults.steps() + steps, moment);
                }
                let life = Duration::from_millis(self.random.u64(..MOMENT_MAX_MS));
                let life = if at_a_step { LIFE_MAX } else { life };
                self.load(addresses, life * longer, summary).await?;
                self.silence(forgiven)?;
            }
        }
        let fired = self.stage.faults.spare();
        self.after_death(fired.map(|fired| (moment, fired)), summary).await
    }

    /// Notes what killed the service, takes the power away, and has the home checked, now and then.
    async fn after_death(&mut self, fired: Option<(Moment, (u64, String))>, summary: &mut Summary) -> Result<(), String> {
        self.killed_by = match fired {
            Some((moment, (step, what))) => {
                summary.killed_at_a_step[moment as usize - 1] += 1;
                format!("{moment:?} step {step}, {what}")
            }
            None => {
                summary.killed_at_a_moment += 1;
                "a kill at some moment".to_owned()
            }
        };
        self.lost.clear();
        if self.with_power && self.random.u8(..4) > 0 {
            self.lost = self.stage.faults.lose_power(&mut self.random);
            summary.power_lost += 1;
            summary.losses += self.lost.len() as u64;
        }
        if self.random.u8(..8) == 0 {
            summary.checks += 1;
            self.check().await?;
        }
        Ok(())
    }

    /// Lets everybody call until the service is dead.
    async fn load(&mut self, addresses: Addresses, life: Duration, summary: &mut Summary) -> Result<(), String> {
        let mut running = JoinSet::new();
        for actor in self.actors.drain(..) {
            running.spawn(actor.run(addresses.api));
        }
        self.snapshots_asked += 1;
        let wants_snapshot = self.random.u8(..4) == 0;
        let path = self.stage.home().join(format!("snapshots/{:06}.snap", self.snapshots_asked));
        let snapshot = tokio::spawn(take_snapshot(wants_snapshot, self.stage.home(), path, self.random.u64(..MOMENT_MAX_MS)));
        let status = self.stage.let_die(life).await;
        if !was_killed(status) {
            return Err(format!("the service ended by itself: {status}"));
        }
        while let Some(actor) = running.join_next().await {
            self.actors.push(actor.map_err(|error| error.to_string())?);
        }
        if let Some(path) = snapshot.await.map_err(|error| error.to_string())? {
            self.snapshots.push(path);
            summary.snapshots += 1;
        }
        self.actors.sort_by(|a, b| a.clients.cmp(&b.clients));
        let surprises: Vec<String> = self.actors.iter().flat_map(|actor| actor.surprises.clone()).collect();
        if surprises.is_empty() { Ok(()) } else { Err(surprises.join("\n")) }
    }

    /// A service that loses nothing has nothing to complain of, after so many lines.
    fn silence(&self, forgiven: usize) -> Result<(), String> {
        const LOUD: [&str; 5] = ["ERROR", "panicked", "not on disk", "damaged", "did not open"];
        let said = self.stage.said();
        match said.lines().skip(forgiven).find(|line| LOUD.iter().any(|word| line.contains(word))) {
            // Nothing was acknowledged by a database that the power took while it was made.
            Some(line) if self.served_once => Err(format!("the service complains: {line}")),
            _ => Ok(()),
        }
    }

    /// Compares what the home has with what was acknowledged.
    async fn look(&mut self, addresses: Addresses, summary: &mut Summary) -> Result<(), String> {
        let home = Home::read(&self.stage.dump().await);
        let mut wrong: Vec<String> = home.half.clone();
        for actor in &mut self.actors {
            let found = home.part(&actor.clients, &actor.own_tasks);
            if !actor.known.allows(&found, actor.under_way.as_ref()) {
                wrong.push(format!(
                    "{}\nunder way: {}",
                    actor.known.differences(&found),
                    actor.under_way.as_ref().map_or_else(|| "nothing".to_owned(), |call| format!("{call:.300?}"))
                ));
            }
            summary.acknowledged += std::mem::take(&mut actor.acknowledged);
            let stored =
                |(task, piece): &(String, u32)| home.pieces.get(&(task.clone(), *piece)).is_some_and(|piece| piece.stored);
            wrong.extend(
                actor
                    .told_stored
                    .iter()
                    .filter(|piece| !stored(piece))
                    .map(|piece| format!("handed out and not stored: {piece:?}")),
            );
            let whole = |task: &String| home.tasks.get(task).is_some_and(|state| state == "SUCCESS");
            wrong.extend(
                actor
                    .told_whole
                    .iter()
                    .filter(|task| !whole(task))
                    .map(|task| format!("complete and now {:?}", home.tasks.get(task))),
            );
            (actor.known, actor.under_way) = (found, None);
        }
        let clients: BTreeSet<&String> = self.actors.iter().flat_map(|actor| &actor.clients).collect();
        wrong.extend(home.peers.keys().filter(|client| !clients.contains(client)).map(|client| format!("nobody is {client}")));
        for ((id, number), piece) in &home.pieces {
            let Some(task) = self.tasks.iter().find(|task| task.id == *id && task.comes) else {
                wrong.push(format!("piece {number} of {id}, which nobody can have"));
                continue;
            };
            if piece.md5 != task.piece_md5(*number) {
                wrong.push(format!("piece {number} of {} has another digest", task.url));
            }
            if piece.stored {
                summary.pieces_compared += 1;
                wrong.extend(compare(addresses, task, *number).await.err());
            }
        }
        for path in &self.snapshots {
            let output = self.stage.run("check", &["--snapshot", &path.display().to_string()]).await;
            if !output.status.success() {
                wrong.push(format!("the snapshot {}: {}", path.display(), String::from_utf8_lossy(&output.stdout)));
            }
        }
        while self.snapshots.len() > SNAPSHOTS_KEPT {
            std::fs::remove_file(self.snapshots.remove(0)).map_err(|error| error.to_string())?;
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    /// What the checking command finds, beside files that nobody names yet.
    async fn check(&mut self) -> Result<(), String> {
        if !self.served_once {
            return Ok(());
        }
        let output = self.stage.run("check", &[]).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let problem = text.lines().find(|line| line.starts_with("PROBLEM") && !line.contains("belongs to no task"));
        match problem {
            Some(problem) => Err(format!("check: {problem}")),
            None if output.status.success() || text.contains("belongs to no task") => Ok(()),
            None => Err(format!("check: {text}{}", String::from_utf8_lossy(&output.stderr))),
        }
    }
}

async fn take_snapshot(wanted: bool, home: PathBuf, path: PathBuf, after_ms: u64) -> Option<PathBuf> {
    if !wanted {
        return None;
    }
    tokio::time::sleep(Duration::from_millis(after_ms / 2)).await;
    let answer = ask_control(&home, "POST", &format!("/snapshot?output={}", path.display())).await.ok()?;
    answer.lines().any(|line| line.contains("\"taken\"")).then_some(path)
}

/// A piece as the service sends it, and as it should be.
async fn compare(addresses: Addresses, task: &Task, piece: u32) -> Result<(), String> {
    let path = format!("/qtdown/{}/{}", &task.id[..3], task.id);
    let request = with_header(get(&path), "range", &format!("bytes={}", task.range(piece)));
    let response = exchange::call(addresses.download, request).await.map_err(|error| error.to_string())?;
    if response.status == 206 && response.body == task.slot(piece) {
        return Ok(());
    }
    Err(format!("piece {piece} of {} is served as {} with {} bytes", task.url, response.status, response.body.len()))
}

async fn run_and_expect_nothing(with_power: bool, cycles: u64) -> Summary {
    let seed = from_environment("CRASH_SEED", fastrand::u64(..));
    let summary = run(with_power, from_environment("CRASH_CYCLES", cycles), seed).await;
    assert!(summary.findings.is_empty(), "{} findings, the first: {}", summary.findings.len(), summary.findings[0]);
    assert!(summary.acknowledged > 0 && summary.pieces_compared > 0, "nothing was tried: {summary:?}");
    summary
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kills_at_any_moment_and_step() {
    run_and_expect_nothing(false, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_losses_of_power() {
    let summary = run_and_expect_nothing(true, 16).await;
    assert!(summary.losses > 0, "no power was lost: {summary:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes as long as CRASH_CYCLES says"]
async fn soak_of_kills() {
    run_and_expect_nothing(false, 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes as long as CRASH_CYCLES says"]
async fn soak_of_power_losses() {
    run_and_expect_nothing(true, 1000).await;
}
