//! Garbage collection by room: what goes where the disk or the quota is short of it. What does is decided by
//! [`crate::retention`]; here it is done, each file only if it is still unused when its turn comes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::SemaphorePermit;

use super::cell::Cell;
use super::expiry::Collected;
use super::{CallError, Cluster};
use crate::cdn::LedgerError;
use crate::config::units::format_duration;
use crate::domain::{Generation, SourceState, TaskId};
use crate::retention::{self, Cached, Fate, NoRoom, Quota, Reason, Rules, Stay, Use, Verdict};
use crate::telemetry::metrics::METRICS;

/// How often room is looked for again, because what should have made it came to be used.
const LOOKS_MAX: usize = 3;
/// Tasks that are looked at before others may go on.
const TASKS_AT_ONCE: usize = 1024;

/// The repository as it is, and what becomes of each file.
#[derive(Debug)]
pub struct CacheView {
    pub rules: Rules,
    pub stored_bytes: u64,
    /// With what downloads under way will add, as far as that is known.
    pub bytes: u64,
    /// Of the disk; `None` where it does not say.
    pub free_bytes: Option<u64>,
    /// Clients that have been silent for too long.
    pub silent_clients: usize,
    /// Those that go first, then those that would go next, then those in use.
    pub files: Vec<CachedFile>,
}

/// A file of the repository.
#[derive(Debug)]
pub struct CachedFile {
    /// As it is shown.
    pub url: String,
    pub state: SourceState,
    pub clients: usize,
    pub verdict: Verdict,
}

impl CachedFile {
    /// Why it goes or stays, in a sentence for operators.
    pub fn why(&self, rules: &Rules) -> String {
        let Verdict { cached, fate, expires_in } = &self.verdict;
        let expires = || match expires_in {
            Some(left) => format!("expires in {}", rounded(*left)),
            None => "does not expire".to_owned(),
        };
        let and_pinned = if cached.pinned { "; pinned" } else { "" };
        match fate {
            Fate::Goes(Reason::Expired) => {
                format!("nobody used it for {}, it is kept for {}", rounded(cached.unused), rounded(cached.expires_after(rules)))
            }
            Fate::Goes(Reason::Quota) => "the repository is beyond repositoryHighWatermark of repositoryQuota".to_owned(),
            Fate::Goes(Reason::LittleRoom) => "the disk has less room than youngGCThreshold".to_owned(),
            Fate::Goes(Reason::HardlyAnyRoom) => "the disk has no more room than fullGCThreshold".to_owned(),
            Fate::Stays(Stay::InUse(Use::SourceFetched)) => format!("it is being fetched from its source{and_pinned}"),
            Fate::Stays(Stay::InUse(Use::Clients(_))) if matches!(self.state, SourceState::Failed(_)) => {
                format!("it has failed, and what comes of pieces on their way to clients is not known yet{and_pinned}")
            }
            Fate::Stays(Stay::InUse(Use::Clients(1))) => format!("a client is fetching it{and_pinned}"),
            Fate::Stays(Stay::InUse(Use::Clients(clients))) => format!("{clients} clients are fetching it{and_pinned}"),
            Fate::Stays(Stay::InUse(Use::Pinned)) => "it is pinned".to_owned(),
            Fate::Stays(Stay::JustUsed) if cached.idle > cached.unused => {
                format!("the disk has little room, but the service started only {} ago", rounded(cached.unused))
            }
            Fate::Stays(Stay::JustUsed) => {
                format!("the disk has little room, but it was used only {} ago", rounded(cached.unused))
            }
            Fate::Stays(Stay::TakenForNow) => {
                "the disk has little room only because of files that are being fetched, of which nobody knows whether they end: \
                 their sources tell no length, or more than the disk can hold"
                    .to_owned()
            }
            Fate::Stays(Stay::LaterRound) => {
                "the disk has little room, and others go before it, cleanRatio tenths at a time".to_owned()
            }
            Fate::Stays(Stay::Room) if cached.stored_bytes == 0 => format!("nothing of it is kept; {}", expires()),
            Fate::Stays(Stay::Room) => format!("there is room; {}", expires()),
        }
    }
}

/// To whole seconds.
fn rounded(duration: Duration) -> String {
    format_duration(Duration::from_secs(duration.as_secs()))
}

/// Room on the disk is looked for ahead from so many bytes on.
const LOOKED_FOR_FROM_BYTES: u64 = 16 * 1024 * 1024;
/// What a database needs to go on, with some to spare. Bytes.
const DATABASE_ROOM_BYTES: u64 = 16 * 1024 * 1024;

impl Cluster {
    /// What the configuration says about what is kept.
    pub fn retention_rules(&self) -> Rules {
        let config = self.config();
        let quota = (config.repository_quota_bytes > 0).then(|| Quota {
            bytes: config.repository_quota_bytes,
            high_percent: config.repository_high_watermark_percent,
            low_percent: config.repository_low_watermark_percent.min(config.repository_high_watermark_percent),
        });
        Rules {
            expire_after: config.task_expire_time,
            whole_expires_after: config.cache_expire_time,
            young_free_bytes: config.young_gc_threshold_bytes,
            full_free_bytes: config.full_gc_threshold_bytes,
            interval: config.interval_threshold,
            ratio_tenths: config.clean_ratio,
            quota,
        }
    }

    /// Makes room for a database that cannot be written, of files that can be fetched again: first those that are not here
    /// whole, then those that nobody uses. Nothing can be recorded now; the next start finds them missing.
    pub async fn make_room_for_database(self: &Arc<Self>) {
        let mut files = self.cached_files().await;
        files.retain(|file| !(file.whole && file.in_use.is_some()));
        retention::sort_by_worth(&self.retention_rules(), &mut files);
        // Stable: within each, the order stays that of their worth.
        files.sort_by_key(|file| file.whole);
        for file in files {
            let Ok(cell) = self.cell(&file.task) else { continue };
            let generation = cell.lock().swarm.status().generation;
            // What is recorded says little of what is there: pieces that are not whole yet take room too, and what lies in
            // the database itself gives its disk nothing back.
            let bytes = self.file_bytes(&file.task, generation).await;
            if bytes == 0 {
                continue;
            }
            match self.free_bytes().await {
                Some(free) if free < DATABASE_ROOM_BYTES => {}
                // There is room, or nobody can tell: then it is something else that fails.
                _ => return,
            }
            // A download holds its file open, and what it brings can no longer be recorded.
            cell.ended.cancel();
            tracing::error!(task = %file.task, bytes, "removing a cached file: the disk has no room for the database");
            self.remove_file_at_once(&file.task, generation).await;
        }
    }

    /// Takes what has expired, and then what must go for want of room.
    pub async fn evict(self: &Arc<Self>) -> Result<Collected, CallError> {
        let Ok(_turn) = self.rounds.acquire().await else { return Ok(Collected::default()) };
        let rules = self.retention_rules();
        let free_bytes = self.free_bytes().await;
        let mut collected = Collected::default();
        // Where the disk does not tell, room is no reason.
        let verdicts = retention::plan(&rules, free_bytes.unwrap_or(u64::MAX), self.cached_files().await);
        if free_bytes.is_some_and(|free| free <= bytes_kept_free(&rules)) {
            self.take_back_room(&verdicts);
        }
        for verdict in verdicts {
            let Fate::Goes(reason) = verdict.fate else { continue };
            if self.stopping.is_cancelled() {
                break;
            }
            if self.evict_file(&verdict.cached, reason).await? {
                *(if reason == Reason::Expired { &mut collected.expired } else { &mut collected.evicted }) += 1;
                collected.bytes += verdict.cached.stored_bytes;
            }
        }
        if collected != Collected::default() {
            let Collected { expired, evicted, bytes, .. } = collected;
            tracing::info!(expired, evicted, bytes, free_bytes, "cached files went");
        }
        Ok(collected)
    }

    /// Takes back what files that nobody knows to end were granted and have not written, so that they look at the disk again
    /// before they write more: what was free then is not now.
    fn take_back_room(&self, verdicts: &[Verdict]) {
        for Verdict { cached, .. } in verdicts.iter().filter(|verdict| verdict.cached.unmeasured_bytes.is_some()) {
            if let Ok(cell) = self.cell(&cached.task) {
                cell.lock().take_back_room();
            }
        }
    }

    /// Makes files go so that one of so many bytes fits under the quota. Until what is returned is dropped, nobody else
    /// takes that room.
    pub(super) async fn make_room(self: &Arc<Self>, needed: u64) -> Result<Option<SemaphorePermit<'_>>, LedgerError> {
        if self.retention_rules().quota.is_none() {
            return Ok(None);
        }
        let turn = self.room.acquire().await.map_err(|_| LedgerError::Stopping)?;
        self.make_room_in_turn(needed).await?;
        Ok(Some(turn))
    }

    async fn make_room_in_turn(self: &Arc<Self>, needed: u64) -> Result<(), LedgerError> {
        let rules = self.retention_rules();
        if rules.quota.is_none() {
            return Ok(());
        }
        for _ in 0..LOOKS_MAX {
            let going = retention::make_room(&rules, needed, self.cached_files().await).map_err(no_room)?;
            let mut all_went = true;
            for cached in &going {
                all_went &= self.evict_file(cached, Reason::Quota).await.map_err(|_| LedgerError::Stopping)?;
            }
            if all_went {
                return Ok(());
            }
        }
        // What could go is in use again and again.
        let files = self.cached_files().await;
        let in_use = files.iter().map(|cached| cached.bytes).sum();
        Err(no_room(NoRoom { needed, quota: rules.quota.map_or(u64::MAX, |quota| quota.bytes), in_use }))
    }

    /// Whether the disk has room for so many bytes more, or would have if what nobody uses went: a file that cannot become
    /// whole would only keep everything else from the disk, the database included, again and again. Nothing goes for it yet.
    pub(super) async fn check_room_on_disk(&self, needed: u64) -> Result<(), LedgerError> {
        if needed < LOOKED_FOR_FROM_BYTES {
            return Ok(());
        }
        let Some(free) = self.free_bytes().await else { return Ok(()) };
        let wanted = needed.saturating_add(DATABASE_ROOM_BYTES);
        if wanted <= free {
            return Ok(());
        }
        let unused: u64 =
            self.cached_files().await.iter().filter(|file| file.in_use.is_none()).map(|file| file.stored_bytes).sum();
        if wanted <= free.saturating_add(unused) { Ok(()) } else { Err(LedgerError::DiskFull { needed, free }) }
    }

    /// Room for so many bytes more of a file that nobody knows to end, whatever was announced, and that holds so many already.
    /// The disk comes first: nothing goes for a file that ends there. Until what is returned is dropped, nobody else takes
    /// that room.
    pub(super) async fn make_room_to_grow(
        self: &Arc<Self>,
        announced: Option<u64>,
        held: u64,
        more: u64,
    ) -> Result<SemaphorePermit<'_>, LedgerError> {
        let turn = self.room.acquire().await.map_err(|_| LedgerError::Stopping)?;
        self.check_room_to_grow(announced, held, more).await?;
        self.make_room_in_turn(more).await?;
        Ok(turn)
    }

    /// Whether the disk has room for so many bytes more of such a file. It may have no end, so nothing goes for it: it gets
    /// what is free without that, and leaves what keeps everything unused from going.
    async fn check_room_to_grow(&self, announced: Option<u64>, held: u64, more: u64) -> Result<(), LedgerError> {
        if held.saturating_add(more) < LOOKED_FOR_FROM_BYTES {
            return Ok(());
        }
        let Some(free) = self.free_bytes().await else { return Ok(()) };
        let kept = bytes_kept_free(&self.retention_rules());
        let granted = retention::granted_bytes(&self.cached_files().await);
        let fits = more.saturating_add(kept).saturating_add(granted) < free;
        if fits { Ok(()) } else { Err(LedgerError::NoRoomToGrow { announced, held, free, kept, granted }) }
    }

    /// Makes a file go, with its task, if nobody has come to use it. Tells whether it did.
    pub(super) async fn evict_file(self: &Arc<Self>, cached: &Cached, reason: Reason) -> Result<bool, CallError> {
        let (cluster, unused) = (self.clone(), *cached);
        let url = self.cell(&cached.task).map(|cell| crate::domain::task::redacted_url(&cell.spec.raw_url)).unwrap_or_default();
        match self.to_its_end(async move { cluster.forget_unused_task(&unused).await }).await {
            Ok(true) => {
                count(reason);
                let (task, unused_s) = (cached.task, cached.unused.as_secs());
                match reason {
                    Reason::Expired => tracing::debug!(%task, url, unused_s, "task expired"),
                    Reason::Quota | Reason::LittleRoom | Reason::HardlyAnyRoom => {
                        tracing::info!(%task, url, unused_s, bytes = cached.stored_bytes, reason = reason_name(reason), "evicted");
                    }
                }
                Ok(true)
            }
            Ok(false) => Ok(false),
            // Somebody else has forgotten it.
            Err(CallError::UnknownTask(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Every task as a file, some at a time.
    pub(super) async fn cached_files(&self) -> Vec<Cached> {
        let cells = self.cells();
        let mut files = Vec::with_capacity(cells.len());
        for some in cells.chunks(TASKS_AT_ONCE) {
            let now = self.now();
            files.extend(some.iter().map(|cell| cell.lock().cached(now)));
            tokio::task::yield_now().await;
        }
        files
    }

    async fn free_bytes(&self) -> Option<u64> {
        let repository = self.repository.clone();
        let looked = tokio::task::spawn_blocking(move || repository.free_bytes()).await;
        looked.ok()?.inspect_err(|error| tracing::warn!(error = error as &dyn std::error::Error, "room is not known")).ok()
    }

    /// How long a task's file is on the disk; 0 where that cannot be told.
    async fn file_bytes(&self, task: &TaskId, generation: Generation) -> u64 {
        let (repository, task) = (self.repository.clone(), *task);
        let looked = tokio::task::spawn_blocking(move || repository.file_bytes(&task, generation)).await;
        looked.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// What is cached, and what the next round would do.
    pub async fn cache(&self) -> CacheView {
        let rules = self.retention_rules();
        let free_bytes = self.free_bytes().await;
        let files = self.cached_files().await;
        let (stored_bytes, bytes) =
            files.iter().fold((0, 0), |(stored, bytes), cached| (stored + cached.stored_bytes, bytes + cached.bytes));
        let verdicts = retention::plan(&rules, free_bytes.unwrap_or(u64::MAX), files);
        let file = |verdict: Verdict| self.cell(&verdict.cached.task).ok().map(|cell| shown(&cell, verdict));
        let files = verdicts.into_iter().filter_map(file).collect();
        CacheView { rules, stored_bytes, bytes, free_bytes, silent_clients: self.silent_clients(), files }
    }
}

/// What files that nobody knows to end leave free on the disk.
fn bytes_kept_free(rules: &Rules) -> u64 {
    rules.hardly_any_bytes().max(DATABASE_ROOM_BYTES)
}

fn shown(cell: &Arc<Cell>, verdict: Verdict) -> CachedFile {
    let inner = cell.lock();
    CachedFile {
        url: crate::domain::task::redacted_url(&cell.spec.task_url),
        state: inner.swarm.status().state.clone(),
        clients: inner.swarm.members(),
        verdict,
    }
}

fn count(reason: Reason) {
    if reason == Reason::Expired {
        METRICS.gc_tasks.inc();
        return;
    }
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    METRICS.gc_disks.inc();
    METRICS.last_gc_disks.set(since_epoch.as_secs_f64());
    METRICS.evictions.with_label_values(&[reason_name(reason)]).inc();
}

const fn no_room(NoRoom { needed, quota, in_use }: NoRoom) -> LedgerError {
    LedgerError::NoRoom { needed, quota, in_use }
}

/// As metrics and the interface call it.
pub const fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::Expired => "expired",
        Reason::Quota => "quota",
        Reason::LittleRoom => "little_room",
        Reason::HardlyAnyRoom => "hardly_any_room",
    }
}
