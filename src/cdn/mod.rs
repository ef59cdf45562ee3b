//! The background worker: from a source's bytes to pieces that can be handed out. One [`Worker::fetch`] per task.
//!
//! Owns one download's course: asking, cutting, hashing, writing and syncing, retrying, resuming. Each piece is on disk and
//! synced before the [`Ledger`] hears of it, and the ledger's word that it is recorded comes before the next. At any moment
//! at most two pieces are not durable: one that is being written, and one that is being synced and recorded. A download
//! has some two MiB in memory, whatever the size of its pieces.
//! Must not: know swarms or the store; it tells its ledger.

mod body;
mod cutter;
mod document;
mod download;
mod limits;
mod mend;
mod pace;
mod patience;
mod places;
mod probe;
mod throttle;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use md5::Digest;

use crate::domain::piece::SMALL_CONTENT_MAX_BYTES;
use crate::domain::{Generation, Md5Digest, PieceDigest, PieceNumber, PieceSize, TaskSpec, Validators};
use crate::origin::{self, Answer, Freshness, OriginError, Part, Source, TokenError};
use crate::pieces::{PieceBytes, PieceFileError, Repository, Slot};
use body::Body;
use download::{Download, check_md5};
use limits::Flow;
pub use limits::Limits;
pub use pace::RateMin;
use patience::Patience;
pub use places::BodiesMax;
use places::{Places, Size, Taken, Visit};
use throttle::Throttle;

/// How long a source that has answered is kept waiting, its body unread, before it is asked again instead. Servers close
/// connections that take nothing; many do after 10 s.
const KEPT_WAITING_MAX: Duration = Duration::from_secs(2);

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

/// Keeps what the worker finds out. Every method that waits returns once it is durable.
pub trait Ledger: Send + Sync {
    /// The source wants a token, and one is asked for; or that has ended. Nothing of it is kept.
    fn authenticating(&self, under_way: bool);
    /// The source has answered for the first time. Tells the piece size to cut with: clients may have been told one.
    fn answered(
        &self,
        length: Option<u64>,
        validators: Validators,
    ) -> impl Future<Output = Result<PieceSize, LedgerError>> + Send;
    /// So many more bytes of a piece are about to be written.
    fn storing(&self, bytes: usize) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// What was about to be written is stored by now, or will not be.
    fn settled(&self);
    /// A piece is on disk and synced.
    fn stored(&self, piece: PieceNumber, digest: PieceDigest) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// The only piece of a source that is too small for a file: the ledger keeps it.
    fn stored_small(&self, slot: Slot) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// A piece that was stored is not as it was.
    fn lost(&self, piece: PieceNumber) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

/// Why the ledger does not keep what it is told.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("the service is stopping")]
    Stopping,
    #[error("a piece differs from what clients were told of it")]
    Contradiction,
    #[error("{needed} bytes do not fit: repositoryQuota is {quota} bytes, of which files in use hold {in_use}")]
    NoRoom { needed: u64, quota: u64, in_use: u64 },
    #[error("files that clients fetch at their sources have {held} pieces together, and {more} more are too many at once")]
    TooManyPieces { held: u64, more: u32 },
}

/// All of the source is here.
#[derive(Clone, Copy, Debug)]
pub struct Fetched {
    pub md5: Md5Digest,
    pub length: u64,
}

/// Why a download ended without all of the source.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error("clients fetch this file from its source part by part (cdnPattern is source), and that cannot be done")]
    Unfit(#[source] OriginError),
    #[error("the source's length does not fit: {0} bytes")]
    TooLong(u64),
    #[error("the source sent {sent} bytes and had announced {announced}")]
    Length { sent: u64, announced: u64 },
    #[error(
        "the source sent {bytes} bytes while it was waited for {waited_s} s, which is less than {}: {min_bytes_per_s} bytes a second",
        if *.min_bytes_per_s == pace::IN_DEMAND_BYTES_PER_S { "while others wait for its place" } else { "sourceMinRate" }
    )]
    Slow { bytes: u64, waited_s: u64, min_bytes_per_s: u64 },
    #[error("the content's md5 is {found}, expected {expected}")]
    Md5 { found: Md5Digest, expected: String },
    #[error(transparent)]
    Disk(#[from] PieceFileError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl FetchError {
    /// Whether the disk had no room for it.
    pub fn is_want_of_room(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Disk(error) if matches!(error.source.kind(), StorageFull | QuotaExceeded))
    }

    /// How long the source wants to be left alone, if it said so.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Origin(
                OriginError::Busy { retry_after, .. } | OriginError::Token { error: TokenError::Busy { retry_after, .. }, .. },
            ) => Some(*retry_after),
            _ => None,
        }
    }

    /// Whether asking again may help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Origin(OriginError::Status(status)) => origin::is_passing(*status),
            Self::Origin(OriginError::Token { error, .. }) => error.is_passing(),
            Self::Origin(
                OriginError::Unreachable(_) | OriginError::Broken(_) | OriginError::Part { .. } | OriginError::Busy { .. },
            )
            | Self::Length { .. }
            | Self::Slow { .. } => true,
            Self::Origin(
                OriginError::Url
                | OriginError::Forbidden(_)
                | OriginError::HeadersLeftOut
                | OriginError::Certificates(_)
                | OriginError::HeadTooLarge
                | OriginError::NoCertificate
                | OriginError::Coded
                | OriginError::RangeIgnored
                | OriginError::LengthUnknown
                | OriginError::IsPart
                | OriginError::Changed
                | OriginError::TooLarge
                | OriginError::AtEnd,
            )
            | Self::Unfit(_)
            | Self::TooLong(_)
            | Self::Md5 { .. }
            | Self::Disk(_)
            | Self::Ledger(_) => false,
        }
    }
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

    /// Fetches what is missing of a task. Dropping the future stops it; what the ledger heard of is kept.
    pub async fn fetch(&self, spec: &TaskSpec, start: Start, ledger: &impl Ledger) -> Result<Fetched, FetchError> {
        let visit = self.places.visit(&spec.raw_url);
        let mut start = start;
        let bytes = start.bytes.take();
        let mut download = Download::new(start);
        rehash(spec, &mut download, bytes, ledger).await?;
        if download.is_complete() {
            return Ok(download.fetched());
        }
        let mut attempts = 0;
        loop {
            let pieces_before = download.digests.len();
            let error = match self.attempt(spec, &visit, &mut download, ledger).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => error,
            };
            attempts = if download.digests.len() > pieces_before { 1 } else { attempts + 1 };
            let patience = if download.known.is_some() { Patience::LATER } else { Patience::FIRST };
            let Some(wait) = patience.wait(&error, attempts) else { return Err(error) };
            tracing::info!(task = %spec.id, url = %crate::domain::task::redacted_url(&spec.raw_url), attempts, wait_ms = wait.as_millis(), error = &error as &dyn std::error::Error, "source failed, asking again");
            tokio::time::sleep(wait).await;
        }
    }

    /// Asks whether the source is still what was fetched. Its body is not taken.
    pub async fn revalidate(
        &self,
        spec: &TaskSpec,
        validators: &Validators,
        length: Option<u64>,
    ) -> Result<Freshness, OriginError> {
        let visit = self.places.visit(&spec.raw_url);
        // Nobody closes the places.
        let _asking = visit.ask().await;
        self.source.revalidate(spec, validators, length).await
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
        let _asking = visit.ask().await?;
        let authenticating = |under_way| ledger.authenticating(under_way);
        match self.source.ask(spec, Part::from(download.next_byte()), &validators, &authenticating).await {
            // A part of nobody knows how much: nothing tells whether it reaches the end.
            Ok(answer) if answer.start > 0 && answer.length.is_none() && !download.has_known_length() => {
                Err(OriginError::RangeIgnored.into())
            }
            Ok(answer) => Ok(Some(answer)),
            Err(OriginError::AtEnd) if download.may_be_complete() => Ok(None),
            // It was announced as longer, or has sent more.
            Err(OriginError::AtEnd) => Err(OriginError::Changed.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// What the source answers, with a place to take the body; `None` where it has nothing after what is stored.
    async fn answer_and_place(
        &self,
        spec: &TaskSpec,
        visit: &Visit<'_>,
        download: &mut Download,
        ledger: &impl Ledger,
    ) -> Result<Option<(Answer, Known, Taken)>, FetchError> {
        let mut held: Option<(Taken, Size)> = None;
        loop {
            let Some(answer) = self.ask(spec, visit, download, ledger).await? else {
                // It had something a moment ago.
                return if held.is_some() { Err(OriginError::Changed.into()) } else { Ok(None) };
            };
            let known = download.learn(&answer, ledger).await?;
            let size = Size::of(known.length.map(|length| length.saturating_sub(answer.start)));
            // Asked again, it may send more than it said at first.
            let fitting = held.take().filter(|(_, held_for)| *held_for >= size).map(|(place, _)| place);
            if let Some(place) = fitting.or_else(|| visit.try_body(size)) {
                return Ok(Some((answer, known, place)));
            }
            match wait_for_place(visit, size, answer).await? {
                (place, Some(answer)) => return Ok(Some((answer, known, place))),
                (place, None) => held = Some((place, size)),
            }
        }
    }

    /// One request and its body.
    async fn attempt(
        &self,
        spec: &TaskSpec,
        visit: &Visit<'_>,
        download: &mut Download,
        ledger: &impl Ledger,
    ) -> Result<Fetched, FetchError> {
        let Some((mut answer, known, taking)) = self.answer_and_place(spec, visit, download, ledger).await? else {
            // The process before this one stored the last byte, and only did not come to know that it was.
            check_md5(spec, &download.hash)?;
            return Ok(download.fetched());
        };
        let length = known.length.or(download.told_length);
        let mut body = Body::new(&mut answer, &self.flow, &self.places, known.piece_size, length);
        if known.is_small() {
            let part = body.next_part().await?;
            // All of it is here; what is left to do takes none of the source's time.
            drop(taking);
            return download.take_small(spec, known.piece_size, &part, ledger).await;
        }
        let file = match &download.file {
            Some(file) => file.clone(),
            None => {
                let (repository, task, generation) = (self.repository.clone(), spec.id, download.generation);
                let opened = blocking(move || repository.create(&task, generation, known.piece_size)).await?;
                download.file.insert(Arc::new(opened)).clone()
            }
        };
        download.take_body(spec, body, &file, ledger).await
    }
}

/// Waits for a place to take a body, at first with the answer; without it where that takes longer than a source bears.
async fn wait_for_place(visit: &Visit<'_>, size: Size, answer: Answer) -> Result<(Taken, Option<Answer>), LedgerError> {
    let mut place = std::pin::pin!(visit.body(size));
    if let Some(_waiting) = visit.try_wait()
        && let Ok(place) = tokio::time::timeout(KEPT_WAITING_MAX, &mut place).await
    {
        return Ok((place?, Some(answer)));
    }
    drop(answer);
    Ok((place.await?, None))
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
    let (mut hash, expected) = (std::mem::take(&mut download.hash), stored.clone());
    let read = blocking(move || {
        let mut sound = 0;
        let Some(bytes) = bytes else { return Ok((hash, sound)) };
        for (piece, digest) in (0..).map(PieceNumber).zip(&expected) {
            let Some(slot) = bytes.read_verified(piece, digest)? else { break };
            hash.update(slot.content());
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
