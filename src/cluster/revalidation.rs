//! A cached file is asked for again before it is served after a while: by its ETag and modification date, once for all who
//! register meanwhile.
//!
//! A source that says "unchanged" lets it be served on; one that has changed begins a new generation, which is fetched as
//! if it were new; one that cannot be asked changes nothing, for what is here is better than nothing.
//!
//! Where the headers of the first registration are gone, those of another are all that is taken of it: the source is the
//! one that the file came from, asked as strictly as before. What a stranger is told may be another page, so that only an
//! ETag or a date that contradicts ours says "changed".

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::watch;

use super::Cluster;
use super::cell::{Cell, Fetching, Inner, Probe};
use crate::cdn::FetchError;
use crate::domain::{CdnPattern, Generation, Moment, TaskSpec, Validators};
use crate::origin::{Freshness, OriginError};
use crate::swarm::Effects;
use crate::telemetry::metrics::METRICS;

/// How long a registration waits for the source's word: clients give it 5 s, and a new generation needs some of them. A
/// slower source decides for those who come later.
const WAIT_FOR_WORD: Duration = Duration::from_millis(1500);
/// How long a source may take to say anything.
const WORD_TIMEOUT: Duration = Duration::from_secs(15);

/// When the source last said that the file is what it has.
#[derive(Debug)]
pub struct Validated {
    at: Moment,
    /// For how long it had not said so when the service started, if it has not since.
    before: Duration,
    /// It is being asked; whoever waits is told when it has been.
    asking: Option<watch::Receiver<()>>,
}

impl Validated {
    pub const fn now(now: Moment) -> Self {
        Self { at: now, before: Duration::ZERO, asking: None }
    }

    pub const fn at(&self) -> Moment {
        self.at
    }

    pub fn is_asking(&self) -> bool {
        // Whoever asks holds the other end.
        self.asking.as_ref().is_some_and(|asking| asking.has_changed().is_ok())
    }

    /// As a start finds it.
    pub const fn before_start(now: Moment, before: Duration) -> Self {
        Self { at: now, before, asking: None }
    }
}

/// What is asked, and about what.
pub(super) struct Question {
    pattern: CdnPattern,
    spec: Arc<TaskSpec>,
    validators: Validators,
    /// Where another says that the source has changed.
    length: Option<u64>,
    generation: Generation,
    /// Those who wait are told when this is dropped.
    _done: watch::Sender<()>,
}

impl Question {
    /// A question about the task as it is, and how to hear that it has been answered.
    pub(super) fn begin(inner: &mut Inner, spec: Arc<TaskSpec>) -> (Self, watch::Receiver<()>) {
        let status = inner.swarm.status();
        let (done, asking) = watch::channel(());
        let question = Self {
            pattern: status.pattern,
            spec,
            validators: status.validators.clone(),
            // A login page is of another length than the file, and has no validators to contradict ours.
            length: status.length.filter(|_| !inner.spec.headers_left_out),
            generation: status.generation,
            _done: done,
        };
        inner.validated.asking = Some(asking.clone());
        (question, asking)
    }
}

/// Whether a file may be served as it is.
enum Serving {
    Now,
    Once(watch::Receiver<()>),
    AfterAsking(Question, watch::Receiver<()>),
}

fn serving(inner: &mut Inner, registered: &TaskSpec, now: Moment, after: Duration) -> Serving {
    let status = inner.swarm.status();
    // The headers of a file that is here whole are gone, if it had any; whoever registers for it brings some.
    let headers_wanted = inner.spec.headers_left_out;
    // What clients fetch from there can be compared by its length at least, which takes one byte to ask for.
    let comparable = status.validators != Validators::default() || status.pattern == CdnPattern::Source;
    let can_ask = comparable && (!headers_wanted || registered.brings_headers());
    let is_old = now.since(inner.validated.at).saturating_add(inner.validated.before) >= after;
    let is_cached = inner.swarm.is_whole() && matches!(inner.fetching, Fetching::Idle { .. });
    if after.is_zero() || !is_cached || !can_ask || !is_old {
        return Serving::Now;
    }
    if let Some(asking) = &inner.validated.asking {
        return Serving::Once(asking.clone());
    }
    let spec = if headers_wanted { Arc::new(inner.spec.with_headers_of(registered)) } else { inner.spec.clone() };
    let (question, asking) = Question::begin(inner, spec);
    Serving::AfterAsking(question, asking)
}

impl Cluster {
    /// Returns once the source has said whether a cached file is still what it has, or has taken too long.
    pub(super) async fn revalidate(self: &Arc<Self>, cell: &Arc<Cell>, registered: &TaskSpec) {
        let after = self.config().revalidate_after;
        let serving = serving(&mut cell.lock(), registered, self.now(), after);
        let mut asking = match serving {
            Serving::Now => return,
            Serving::Once(asking) => asking,
            Serving::AfterAsking(question, asking) => {
                self.ask_in_background(cell, question);
                asking
            }
        };
        // An error means that it has been asked: the other end is gone.
        let _ = tokio::time::timeout(WAIT_FOR_WORD, asking.changed()).await;
    }

    pub(super) fn ask_in_background(self: &Arc<Self>, cell: &Arc<Cell>, question: Question) {
        let (cluster, cell) = (self.clone(), cell.clone());
        self.spawn(async move {
            let asked = cluster.ask_whether_fresh(&cell, question);
            let _ = cluster.stopping.run_until_cancelled(asked).await;
        });
    }

    async fn ask_whether_fresh(self: &Arc<Self>, cell: &Arc<Cell>, question: Question) {
        let Question { pattern, spec, validators, length, generation, .. } = &question;
        let asking = async {
            match pattern {
                CdnPattern::Local => self.worker.revalidate(spec, validators, *length).await,
                CdnPattern::Source => self.worker.probe_again(spec, validators, *length).await,
            }
        };
        let word = tokio::time::timeout(WORD_TIMEOUT, asking).await;
        let task = cell.spec.id;
        let (outcome, changed) = match &word {
            Ok(Ok(Freshness::Unchanged)) => ("unchanged", false),
            Ok(Ok(Freshness::Changed)) => ("changed", true),
            // It was never its turn for long enough: that says nothing of the source, which is asked again for the next to come.
            Ok(Err(FetchError::GaveWay { .. })) => {
                METRICS.revalidations.with_label_values(&["gave_way"]).inc();
                return;
            }
            Ok(Err(error)) => {
                let error: &FetchError = error;
                tracing::warn!(%task, error = error as &dyn std::error::Error, "source does not say whether it changed: serving what is cached");
                ("failed", false)
            }
            Err(_) => {
                tracing::warn!(%task, "source does not say in time whether it changed: serving what is cached");
                ("failed", false)
            }
        };
        METRICS.revalidations.with_label_values(&[outcome]).inc();
        if let (CdnPattern::Source, Some(_), Ok(Err(error))) = (pattern, length, word)
            && matches!(error, FetchError::Origin(OriginError::Status(StatusCode::NOT_FOUND | StatusCode::GONE)))
        {
            // What is no longer there cannot be fetched by anybody, and nothing of it is here. (To a stranger, who brings headers
            // of another, it may not be there for reasons of its own.)
            self.lose_source(cell, *generation, &error).await;
        } else if changed {
            self.begin_next_generation(cell, spec, *generation).await;
        } else {
            cell.lock().validated = Validated::now(self.now());
        }
    }

    /// Fetches the source anew, as it was just asked; clients of what was cached are told that it has changed.
    async fn begin_next_generation(self: &Arc<Self>, cell: &Arc<Cell>, spec: &Arc<TaskSpec>, over: Generation) {
        // A committer that takes nothing stops the service.
        let Ok(room) = self.committer.room().await else { return };
        let mut effects = Effects::default();
        {
            let now = self.now();
            // A task that was forgotten meanwhile has no next generation.
            let Ok(mut inner) = cell.live() else { return };
            inner.validated = Validated::now(now);
            let is_idle = matches!(inner.fetching, Fetching::Idle { .. });
            if inner.swarm.status().generation != over || !is_idle {
                return;
            }
            inner.swarm.next_generation(now, self.config().cdn_pattern, &mut effects);
            inner.ask_as(spec);
            effects.changes.extend(inner.define());
            inner.fetching = Fetching::Idle { failed: None };
            inner.touch(now);
            cell.probe.send_replace(Probe::Pending);
            // Nobody is told of it before something else of the task is.
            let _ = inner.submit(room, &mut effects);
        }
        tracing::info!(task = %cell.spec.id, "source has changed: fetching it anew");
        cell.openings.notify_waiters();
        self.ensure_fetching(cell);
        self.remove_file(&cell.spec.id, over).await;
    }
}
