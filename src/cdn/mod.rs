//! The background worker: from a source's bytes to pieces that can be handed out. One [`Worker::fetch`] per task.
//!
//! Owns one download's course: asking, filling slots, hashing, writing and syncing them, retrying, resuming. Each piece is
//! on disk and synced before the [`Ledger`] hears of it, and the ledger's word that it is recorded comes before the next.
//! At any moment at most two pieces are not durable: one that is being filled, and one that is being stored.
//! Must not: know swarms or the store; it tells its ledger.

mod body;
mod download;
mod throttle;

use std::sync::Arc;
use std::time::Duration;

use md5::Digest;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::domain::{Generation, Md5Digest, PieceDigest, PieceNumber, PieceSize, TaskSpec, Validators};
use crate::origin::{Answer, Freshness, OriginError, Part, Source};
use crate::pieces::{PieceFile, PieceFileError, Repository, Slot};
use body::Body;
use download::{Download, check_md5};
pub use throttle::Throttle;

/// Requests in a row that bring no new piece before a download has failed.
const ATTEMPTS_MAX: u32 = 5;
/// Sources asked at once.
const ASKS_MAX: usize = 256;
/// Answered sources that are kept waiting for somebody to take their bodies, each with a connection. More are asked again
/// when it is their turn.
const WAITING_MAX: usize = 256;
/// Attempts while a registration waits for the first answer, which is not for long.
const FIRST_ATTEMPTS_MAX: u32 = 3;
/// The wait after the first failed attempt; it doubles with every further one, give or take a quarter.
const BACKOFF_FIRST: Duration = Duration::from_millis(400);

/// Where a download begins: at nothing, or at what an earlier process stored.
#[derive(Clone, Debug)]
pub struct Start {
    pub generation: Generation,
    /// `None` until the source has answered once.
    pub known: Option<Known>,
    /// Pieces that are stored, from the first on without a gap.
    pub stored: Vec<PieceDigest>,
}

/// What the source has said.
#[derive(Clone, Debug)]
pub struct Known {
    pub piece_size: PieceSize,
    pub length: Option<u64>,
    pub validators: Validators,
}

/// Keeps what the worker finds out. Every method returns once it is durable.
pub trait Ledger: Send + Sync {
    /// The source has answered for the first time. Tells the piece size to cut with: clients may have been told one.
    fn answered(
        &self,
        length: Option<u64>,
        validators: Validators,
    ) -> impl Future<Output = Result<PieceSize, LedgerError>> + Send;
    /// A piece is on disk and synced.
    fn stored(&self, piece: PieceNumber, digest: PieceDigest) -> impl Future<Output = Result<(), LedgerError>> + Send;
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
    #[error("the source's length does not fit: {0} bytes")]
    TooLong(u64),
    #[error("the source sent {sent} bytes and had announced {announced}")]
    Length { sent: u64, announced: u64 },
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

    /// Whether asking again may help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Origin(OriginError::Status(status)) => status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429),
            Self::Origin(OriginError::Unreachable(_) | OriginError::Broken(_)) | Self::Length { .. } => true,
            Self::Origin(
                OriginError::Url
                | OriginError::Forbidden(_)
                | OriginError::HeadersLeftOut
                | OriginError::Certificates(_)
                | OriginError::NoCertificate
                | OriginError::Coded
                | OriginError::RangeIgnored
                | OriginError::Changed
                | OriginError::TooLarge
                | OriginError::AtEnd,
            )
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
    /// Requests that wait for a source to answer. Never held while waiting for anything else, so that sources that
    /// nobody has time for do not keep others from being asked.
    asks: Semaphore,
    /// Answers that wait for a place to take their bodies.
    waiting: Semaphore,
    /// Bodies that are taken at once.
    bodies: Semaphore,
    /// How fast they are taken, all together.
    throttle: Throttle,
}

impl Worker {
    /// Whom it asks.
    pub const fn source(&self) -> &Source {
        &self.source
    }

    /// Takes at most `bodies_max` bodies at once. Many more sources may be asked at once: an answer is short, and a slow
    /// source must not keep others from being asked.
    pub fn new(source: Source, repository: Arc<Repository>, bodies_max: usize, throttle: Throttle) -> Self {
        let (asks, waiting) = (Semaphore::new(ASKS_MAX), Semaphore::new(WAITING_MAX));
        Self { source, repository, asks, waiting, bodies: Semaphore::new(bodies_max), throttle }
    }

    /// How fast bodies are taken.
    pub const fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    async fn place(places: &Semaphore) -> Result<SemaphorePermit<'_>, FetchError> {
        Ok(places.acquire().await.map_err(|_| LedgerError::Stopping)?)
    }

    /// Fetches what is missing of a task. Dropping the future stops it; what the ledger heard of is kept.
    pub async fn fetch(&self, spec: &TaskSpec, start: Start, ledger: &impl Ledger) -> Result<Fetched, FetchError> {
        let mut download = Download::new(start);
        self.rehash(spec, &mut download, ledger).await?;
        if download.is_complete() {
            return Ok(download.fetched());
        }
        let mut attempts = 0;
        loop {
            let pieces_before = download.digests.len();
            let error = match self.attempt(spec, &mut download, ledger).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => error,
            };
            attempts = if download.digests.len() > pieces_before { 1 } else { attempts + 1 };
            // A registration waits for a first answer, and a source that is not there says so at once.
            let answered = download.known.is_some();
            let unreachable = matches!(error, FetchError::Origin(OriginError::Unreachable(_)));
            let attempts_max = if answered { ATTEMPTS_MAX } else { FIRST_ATTEMPTS_MAX };
            if !error.is_passing() || attempts >= attempts_max || (!answered && unreachable) {
                return Err(error);
            }
            let wait = backoff(attempts);
            tracing::info!(task = %spec.id, attempts, wait_ms = wait.as_millis(), error = &error as &dyn std::error::Error, "source failed, asking again");
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
        // Nobody closes it.
        let _asking = self.asks.acquire().await;
        self.source.revalidate(spec, validators, length).await
    }

    /// Fetches pieces again whose bytes were lost. Each must come out as it was.
    pub async fn mend(
        &self,
        spec: &TaskSpec,
        generation: Generation,
        known: &Known,
        mut lost: Vec<(PieceNumber, PieceDigest)>,
        ledger: &impl Ledger,
    ) -> Result<(), FetchError> {
        let mut attempts = 0;
        while !lost.is_empty() {
            let lost_before = lost.len();
            let Err(error) = self.mend_some(spec, generation, known, &mut lost, ledger).await else {
                attempts = 0;
                continue;
            };
            attempts = if lost.len() < lost_before { 1 } else { attempts + 1 };
            if !error.is_passing() || attempts == ATTEMPTS_MAX {
                return Err(error);
            }
            tokio::time::sleep(backoff(attempts)).await;
        }
        Ok(())
    }

    /// One request for the first lost pieces that lie together. A source that sends more than that, because it will not or
    /// must not be asked for a part, is read once for all that were lost. Those that were mended are taken from the list.
    async fn mend_some(
        &self,
        spec: &TaskSpec,
        generation: Generation,
        known: &Known,
        lost: &mut Vec<(PieceNumber, PieceDigest)>,
        ledger: &impl Ledger,
    ) -> Result<(), FetchError> {
        let neighbours = lost.windows(2).take_while(|pair| pair[1].0.0 == pair[0].0.0 + 1).count();
        let Some(run) = lost.get(..=neighbours) else { return Ok(()) };
        let first = known.piece_size.content_start(run[0].0);
        let run_end = end_of(known.piece_size, run);
        // An empty piece is all of an empty source.
        let part = if run_end == first { Part::ALL } else { Part { first, last: Some(run_end - 1) } };
        let _taking = Self::place(&self.bodies).await?;
        let mut answer = self.source.ask(spec, part, &known.validators).await?;
        let lengths_differ = matches!((known.length, answer.length), (Some(before), Some(now)) if before != now);
        if lengths_differ {
            return Err(OriginError::Changed.into());
        }
        let (repository, task, piece_size) = (self.repository.clone(), spec.id, known.piece_size);
        let file = Arc::new(blocking(move || repository.create(&task, generation, piece_size)).await?);
        // What comes before a lost piece is passed over, and what comes after the last is not read.
        let end = if answer.to_the_end { end_of(piece_size, lost) } else { run_end };
        let mut body = Body::new(&mut answer, &self.throttle, piece_size, known.length);
        loop {
            let start = body.received;
            let (slot, last) = body.next_slot().await?;
            if let Some(place) = lost.iter().position(|(piece, _)| piece_size.content_start(*piece) == start) {
                let (piece, digest) = lost[place];
                if !write_as_it_was(&file, piece, slot, digest).await? {
                    return Err(OriginError::Changed.into());
                }
                ledger.stored(piece, digest).await?;
                lost.remove(place);
            }
            if body.received >= end {
                return Ok(());
            }
            if last {
                return Err(FetchError::Length { sent: body.received, announced: end });
            }
        }
    }

    /// Reads back what an earlier process stored: the hash over the whole file must run through it, and a piece that is
    /// not as it was is fetched again with everything after it.
    async fn rehash(&self, spec: &TaskSpec, download: &mut Download, ledger: &impl Ledger) -> Result<(), FetchError> {
        let Some(known) = download.known.clone().filter(|_| !download.digests.is_empty()) else { return Ok(()) };
        let stored = std::mem::take(&mut download.digests);
        let (repository, task, generation) = (self.repository.clone(), spec.id, download.generation);
        let mut hash = std::mem::take(&mut download.hash);
        let expected = stored.clone();
        let read = blocking(move || {
            let Some(file) = repository.open_if_there(&task, generation, known.piece_size)? else { return Ok((hash, 0)) };
            let mut sound = 0;
            for (piece, digest) in (0..).map(PieceNumber).zip(&expected) {
                let Some(slot) = file.read_verified(piece, digest)? else { break };
                hash.update(slot.content());
                sound += 1;
            }
            Ok::<_, PieceFileError>((hash, sound))
        });
        // A file that cannot be read says nothing about what is in it: nothing is lost yet.
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

    /// Asks for what is missing; `None` where the source has nothing after what is stored.
    async fn ask(&self, spec: &TaskSpec, download: &Download) -> Result<Option<Answer>, FetchError> {
        let validators = download.known.as_ref().map(|known| known.validators.clone()).unwrap_or_default();
        let _asking = Self::place(&self.asks).await?;
        match self.source.ask(spec, Part::from(download.next_byte()), &validators).await {
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

    /// One request and its body.
    async fn attempt(&self, spec: &TaskSpec, download: &mut Download, ledger: &impl Ledger) -> Result<Fetched, FetchError> {
        let Some(mut answer) = self.ask(spec, download).await? else {
            // The process before this one stored the last byte, and only did not come to know that it was.
            check_md5(spec, &download.hash)?;
            return Ok(download.fetched());
        };
        let mut known = download.learn(&answer, ledger).await?;
        let _taking = match self.bodies.try_acquire() {
            Ok(place) => place,
            Err(_) => match self.waiting.try_acquire() {
                Ok(_waiting) => Self::place(&self.bodies).await?,
                Err(_) => {
                    drop(answer);
                    let place = Self::place(&self.bodies).await?;
                    let Some(again) = self.ask(spec, download).await? else { return Err(OriginError::Changed.into()) };
                    known = download.learn(&again, ledger).await?;
                    answer = again;
                    place
                }
            },
        };
        let file = match &download.file {
            Some(file) => file.clone(),
            None => {
                let (repository, task, generation) = (self.repository.clone(), spec.id, download.generation);
                let opened = blocking(move || repository.create(&task, generation, known.piece_size)).await?;
                download.file.insert(Arc::new(opened)).clone()
            }
        };
        let body = Body::new(&mut answer, &self.throttle, known.piece_size, known.length);
        download.take_body(spec, body, &file, ledger).await
    }
}

/// The byte of the source after the last of these pieces.
fn end_of(piece_size: PieceSize, pieces: &[(PieceNumber, PieceDigest)]) -> u64 {
    pieces.last().map_or(0, |(piece, digest)| piece_size.content_start(*piece) + u64::from(digest.content_len))
}

/// Writes a piece again; `false` where it is not what it was.
async fn write_as_it_was(
    file: &Arc<PieceFile>,
    piece: PieceNumber,
    slot: Slot,
    expected: PieceDigest,
) -> Result<bool, PieceFileError> {
    let file = file.clone();
    let written = blocking(move || {
        if slot.digest() != expected {
            return Ok(false);
        }
        file.write(piece, &slot)?;
        file.sync()?;
        Ok(true)
    });
    written.await
}

fn backoff(attempts: u32) -> Duration {
    let exact = BACKOFF_FIRST * 2_u32.pow(attempts.min(6).saturating_sub(1));
    exact.mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// Runs disk or hashing work on the threads that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
