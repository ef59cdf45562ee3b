//! The background worker: from a source's bytes to pieces that can be handed out. One [`Worker::fetch`] per task.
//!
//! Owns one download's course: asking, cutting, hashing, writing and syncing, retrying, resuming. Each piece is on disk and
//! synced before the [`Ledger`] hears of it, and the ledger's word that it is recorded comes before the next. At any moment
//! at most two pieces are not durable: one that is being written, and one that is being synced and recorded. A download
//! has some two MiB in memory, whatever the size of its pieces.
//! Must not: know swarms or the store; it tells its ledger.

mod bodies;
mod body;
mod cutter;
mod document;
mod download;
mod error;
mod host;
mod ledger;
mod limits;
mod mend;
mod pace;
mod patience;
mod places;
mod probe;
mod throttle;
mod turns;
mod usage;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::domain::piece::SMALL_CONTENT_MAX_BYTES;
use crate::domain::{Generation, Md5Digest, PieceDigest, PieceNumber, PieceSize, TaskSpec, Validators};
use crate::origin::{self, Answer, Freshness, OriginError, Part, Source};
use crate::pieces::{Md5, PieceBytes, PieceFileError, Repository};
pub use bodies::BodiesMax;
use bodies::{Kind, Size, Taken};
use body::Body;
use download::{Download, check_md5};
pub use error::FetchError;
pub use host::HostKey;
pub use ledger::{Ledger, LedgerError};
use limits::Flow;
pub use limits::Limits;
pub use pace::RateMin;
use patience::{Patience, attempts_after, why_again};
use places::{Places, Visit};
use throttle::Throttle;
pub use turns::{GaveWay, Turns, TurnsMax};

/// How long a source that has answered is kept waiting, its body unread, before it is asked again instead. Servers close
/// connections that take nothing; many do after 10 s.
const KEPT_WAITING_MAX: Duration = Duration::from_secs(2);
/// How long registrations wait for a small content once its source has answered. Mostly it comes with the head, and is then
/// one change of the database instead of three.
const WITH_HEAD_TIMEOUT: Duration = Duration::from_millis(20);

/// Where a download begins: at nothing, or at what an earlier process stored.
#[derive(Debug)]
pub struct Start {
    pub generation: Generation,
    /// `None` until the source has answered once.
    pub known: Option<Known>,
    /// Pieces that are stored, from the first on without a gap.
    pub stored: Vec<PieceDigest>,
    /// The process before this one fetched them, and may have come further than it could say.
    pub recovered: bool,
    /// Where their bytes are; `None` where nothing is.
    pub bytes: Option<PieceBytes>,
}

/// What the source has said.
#[derive(Clone, Debug)]
pub struct Known {
    pub piece_size: PieceSize,
    pub length: Option<u64>,
    pub validators: Validators,
}

impl Known {
    /// Whether the source is known to be too small for a file.
    pub fn is_small(&self) -> bool {
        self.length.is_some_and(|length| length <= SMALL_CONTENT_MAX_BYTES)
    }
}

/// All of the source is here.
#[derive(Clone, Copy, Debug)]
pub struct Fetched {
    pub md5: Md5Digest,
    pub length: u64,
}

/// Fetches sources into the repository.
#[derive(Debug)]
pub struct Worker {
    source: Source,
    repository: Arc<Repository>,
    /// How many are asked and taken at once. Many more sources may be asked than bodies be taken: an answer is short, and
    /// a slow source must not keep others from being asked.
    places: Places,
    /// How fast bodies are taken.
    flow: Flow,
}

impl Worker {
    pub fn new(source: Source, repository: Arc<Repository>, limits: Limits) -> Self {
        Self { source, repository, places: Places::new(limits.bodies_max), flow: Flow::new(limits) }
    }

    /// Keeps to these from now on. What runs already goes on.
    pub fn set_limits(&self, limits: Limits) {
        self.places.set_max(limits.bodies_max);
        self.flow.set_limits(limits);
    }

    /// Fetches what is missing of a task; `None` where the ledger heard of all of it at once. Dropping the future stops it;
    /// what the ledger heard of is kept.
    pub async fn fetch(&self, spec: &TaskSpec, start: Start, ledger: &impl Ledger) -> Result<Option<Fetched>, FetchError> {
        let visit = self.places.visit(spec);
        let mut start = start;
        let bytes = start.bytes.take();
        let mut download = Download::new(start);
        rehash(spec, &mut download, bytes, ledger).await?;
        if download.is_complete() {
            return Ok(Some(download.fetched()));
        }
        let mut attempts = 0;
        loop {
            let pieces_before = download.digests.len();
            let error = match self.attempt(spec, &visit, &mut download, ledger).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => error,
            };
            attempts = attempts_after(&error, attempts, download.digests.len() > pieces_before);
            let patience = if download.known.is_some() { Patience::LATER } else { Patience::FIRST };
            let Some(wait) = patience.wait(&error, attempts) else { return Err(error) };
            tracing::info!(task = %spec.id, url = %crate::domain::task::redacted_url(&spec.raw_url), attempts, wait_ms = wait.as_millis(), error = &error as &dyn std::error::Error, "{}, asking again", why_again(&error));
            tokio::time::sleep(wait).await;
        }
    }

    /// Asks whether the source is still what was fetched. Its body is not taken.
    pub async fn revalidate(
        &self,
        spec: &TaskSpec,
        validators: &Validators,
        length: Option<u64>,
    ) -> Result<Freshness, FetchError> {
        self.places.visit(spec).ask(self.source.revalidate(spec, validators, length)).await
    }

    /// Asks for what is missing; `None` where the source has nothing after what is stored.
    async fn ask(
        &self,
        spec: &TaskSpec,
        visit: &Visit<'_>,
        download: &Download,
        ledger: &impl Ledger,
    ) -> Result<Option<Answer>, FetchError> {
        let validators = download.known.as_ref().map(|known| known.validators.clone()).unwrap_or_default();
        let authenticating = |under_way| ledger.authenticating(under_way);
        match visit.ask(self.source.ask(spec, Part::from(download.next_byte()), &validators, &authenticating)).await {
            // A part of nobody knows how much: nothing tells whether it reaches the end.
            Ok(answer) if answer.start > 0 && answer.length.is_none() && !download.has_known_length() => {
                Err(OriginError::RangeIgnored.into())
            }
            Ok(answer) => Ok(Some(answer)),
            Err(FetchError::Origin(OriginError::AtEnd)) if download.may_be_complete() => Ok(None),
            // It was announced as longer, or has sent more.
            Err(FetchError::Origin(OriginError::AtEnd)) => Err(OriginError::Changed.into()),
            Err(error) => Err(error),
        }
    }

    /// Asks until the source has answered and there is a place to take its body; breaks where all of it is here already.
    async fn answer_and_place<'p>(
        &self,
        spec: &TaskSpec,
        visit: &Visit<'p>,
        download: &mut Download,
        ledger: &impl Ledger,
    ) -> Result<ControlFlow<Option<Fetched>, (Answer, Known, Taken<'p>)>, FetchError> {
        let mut held: Option<Taken<'p>> = None;
        loop {
            let Some(mut answer) = self.ask(spec, visit, download, ledger).await? else {
                // It had something a moment ago.
                if held.is_some() {
                    return Err(OriginError::Changed.into());
                }
                // The process before this one stored the last byte, and only did not come to know that it was.
                check_md5(spec, &download.hash)?;
                return Ok(ControlFlow::Break(Some(download.fetched())));
            };
            if download.known.is_none()
                && let Some((content, md5)) = self.content_with_head(spec, &mut answer).await
            {
                ledger.answered_whole(&content, md5, answer.validators).await?;
                return Ok(ControlFlow::Break(None));
            }
            let known = download.learn(&answer, ledger).await?;
            let length = known.length.or(download.told_length);
            let size = Size::of(length.map(|length| length.saturating_sub(answer.start)));
            let kind = Kind { size, resumes: origin::has_parts(spec, &known.validators) };
            // Asked again, it may send more than it said at first.
            let fitting = held.take().filter(|place| place.size() >= size);
            if let Some(place) = fitting.or_else(|| visit.try_body(kind)) {
                return Ok(ControlFlow::Continue((answer, known, place)));
            }
            match wait_for_place(visit, kind, answer).await {
                (place, Some(answer)) => return Ok(ControlFlow::Continue((answer, known, place))),
                (place, None) => held = Some(place),
            }
        }
    }

    /// The content of a small source, where it comes with the head, is what a client expects, and nobody has to wait for the
    /// bandwidth.
    async fn content_with_head(&self, spec: &TaskSpec, answer: &mut Answer) -> Option<(Bytes, Md5Digest)> {
        let length = answer.length.filter(|length| *length <= SMALL_CONTENT_MAX_BYTES)?;
        let coming = tokio::time::timeout(WITH_HEAD_TIMEOUT, answer.peek()).await.ok()?;
        let content = coming.filter(|bytes| bytes.len() as u64 == length)?.clone();
        let mut hash = Md5::new();
        hash.update(&content);
        let md5 = check_md5(spec, &hash).ok()?;
        let task_rate = self.flow.limits().task_rate_bytes_per_s;
        self.flow.throttle.try_take(length, task_rate).then_some((content, md5))
    }

    /// One request and its body.
    async fn attempt(
        &self,
        spec: &TaskSpec,
        visit: &Visit<'_>,
        download: &mut Download,
        ledger: &impl Ledger,
    ) -> Result<Option<Fetched>, FetchError> {
        let (mut answer, known, taking) = match self.answer_and_place(spec, visit, download, ledger).await? {
            ControlFlow::Continue(coming) => coming,
            ControlFlow::Break(fetched) => return Ok(fetched),
        };
        let length = known.length.or(download.told_length);
        let mut body = Body::new(&mut answer, &self.flow, taking, known.piece_size, length);
        if known.is_small() {
            let part = body.next_part().await?;
            // All of it is here; what is left to do takes none of the source's time.
            drop(body);
            return download.take_small(spec, known.piece_size, &part, ledger).await.map(Some);
        }
        let file = match &download.file {
            Some(file) => file.clone(),
            None => {
                let (repository, task, generation) = (self.repository.clone(), spec.id, download.generation);
                let opened = blocking(move || repository.create(&task, generation, known.piece_size)).await?;
                download.file.insert(Arc::new(opened)).clone()
            }
        };
        download.take_body(spec, body, &file, ledger).await.map(Some)
    }
}

/// Waits for a place to take a body, at first with the answer; without it where that takes longer than a source bears.
async fn wait_for_place<'p>(visit: &Visit<'p>, kind: Kind, answer: Answer) -> (Taken<'p>, Option<Answer>) {
    let mut place = std::pin::pin!(visit.body(kind));
    if let Some(_waiting) = visit.try_wait()
        && let Ok(place) = tokio::time::timeout(KEPT_WAITING_MAX, &mut place).await
    {
        return (place, Some(answer));
    }
    drop(answer);
    (place.await, None)
}

/// Reads back what an earlier process stored: the hash over the whole file must run through it, and a piece that is not as
/// it was is fetched again with everything after it.
async fn rehash(
    spec: &TaskSpec,
    download: &mut Download,
    bytes: Option<PieceBytes>,
    ledger: &impl Ledger,
) -> Result<(), FetchError> {
    if download.digests.is_empty() {
        return Ok(());
    }
    let stored = std::mem::take(&mut download.digests);
    let (mut hash, expected) = (download.hash.clone(), stored.clone());
    let read = blocking(move || {
        let mut sound = 0;
        let Some(bytes) = bytes else { return Ok((hash, sound)) };
        for (piece, digest) in (0..).map(PieceNumber).zip(&expected) {
            if !bytes.verify_onto(&mut hash, piece, digest)? {
                break;
            }
            sound += 1;
        }
        Ok::<_, PieceFileError>((hash, sound))
    });
    // What cannot be read says nothing about what is in it: nothing is lost yet.
    let (hash, sound) = read.await?;
    download.hash = hash;
    for piece in (0..).map(PieceNumber).take(stored.len()).skip(sound) {
        tracing::warn!(task = %spec.id, %piece, "stored piece is damaged or gone and will be fetched again");
        ledger.lost(piece).await?;
    }
    download.digests = stored;
    download.digests.truncate(sound);
    Ok(())
}

/// Runs disk or hashing work on the threads that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
