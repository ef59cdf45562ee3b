//! `/cache`: what the repository holds, how much room there is, and what would go next, and why.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::{TOTAL_COUNT, json, reply, window};
use crate::cluster::inventory::source_state;
use crate::cluster::{CacheView, CachedFile};
use crate::http::Api;
use crate::http::params::Params;
use crate::retention::{Fate, Rules};

/// The repository.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheInfo {
    /// Bytes of all cached pieces.
    stored_bytes: u64,
    /// What downloads under way will add, as far as that is known.
    coming_bytes: u64,
    /// Both together: what counts against the quota.
    bytes: u64,
    /// 0 for no limit.
    quota_bytes: u64,
    /// Beyond this, unused files go,
    high_watermark_bytes: u64,
    /// until no more than this is left.
    low_watermark_bytes: u64,
    /// Of the disk; null where it does not tell.
    free_bytes: Option<u64>,
    #[serde(rename = "youngGCThreshold")]
    young_gc_threshold_bytes: u64,
    #[serde(rename = "fullGCThreshold")]
    full_gc_threshold_bytes: u64,
    /// What nobody used for this long goes.
    task_expire_seconds: u64,
    cache_expire_seconds: u64,
    /// Clients that the next collection takes out of their tasks.
    silent_clients: usize,
}

impl CacheInfo {
    pub fn new(view: &CacheView) -> Self {
        let Rules { expire_after, whole_expires_after, young_free_bytes, full_free_bytes, quota, .. } = view.rules;
        Self {
            stored_bytes: view.stored_bytes,
            coming_bytes: view.bytes.saturating_sub(view.stored_bytes),
            bytes: view.bytes,
            quota_bytes: quota.map_or(0, |quota| quota.bytes),
            high_watermark_bytes: quota.map_or(0, |quota| quota.high_bytes()),
            low_watermark_bytes: quota.map_or(0, |quota| quota.low_bytes()),
            free_bytes: view.free_bytes,
            young_gc_threshold_bytes: young_free_bytes,
            full_gc_threshold_bytes: full_free_bytes,
            task_expire_seconds: expire_after.as_secs(),
            cache_expire_seconds: whole_expires_after.as_secs(),
            silent_clients: view.silent_clients,
        }
    }
}

/// A cached file.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CachedFileInfo {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "taskURL")]
    task_url: String,
    /// WAITING, RUNNING, SUCCESS or FAILED.
    cdn_status: &'static str,
    stored_bytes: u64,
    /// With what is still to come.
    bytes: u64,
    clients: usize,
    /// Since it was last used.
    idle_seconds: u64,
    /// Whether the next round takes it.
    goes: bool,
    /// Whether an operator has pinned it, so that it stays.
    pinned: bool,
    /// Why it goes, or why it stays.
    why: String,
    /// Until it expires, if nobody uses it; null while it is in use or pinned.
    expires_in_seconds: Option<u64>,
}

impl CachedFileInfo {
    pub fn new(file: &CachedFile, rules: &Rules) -> Self {
        let cached = &file.verdict.cached;
        Self {
            id: cached.task.to_string(),
            task_url: file.url.clone(),
            cdn_status: source_state(&file.state),
            stored_bytes: cached.stored_bytes,
            bytes: cached.bytes,
            clients: file.clients,
            idle_seconds: cached.idle.as_secs(),
            goes: matches!(file.verdict.fate, Fate::Goes(_)),
            pinned: cached.pinned,
            why: file.why(rules),
            expires_in_seconds: file.verdict.expires_in.map(|left| left.as_secs()),
        }
    }
}

/// The repository and some of its files.
#[derive(Debug, Serialize, ToSchema)]
pub struct CachePage {
    #[serde(flatten)]
    cache: CacheInfo,
    files: Vec<CachedFileInfo>,
}

/// What is cached, how much room there is, and of each file why it stays or goes: those that go first, then those that
/// would go next, then those that are in use or pinned. A page at a time.
#[utoipa::path(get, path = "/cache", tag = "tasks",
    params(("pageNum" = Option<usize>, Query, description = "From 0"), ("pageSize" = Option<usize>, Query, description = "1 to 1000, 100 by default")),
    responses((status = 200, body = CachePage, description = "X-Total-Count tells how many files there are"), (status = 400, body = super::super::wire::Failure)))]
pub async fn get(api: Arc<Api>, query: String) -> Response {
    let getting = async {
        let window = window(&Params::of_query(&query))?;
        let view = api.cluster.cache().await;
        let files = view.files.iter().skip(window.skip).take(window.take);
        let files = files.map(|file| CachedFileInfo::new(file, &view.rules)).collect();
        let mut response = json(http::StatusCode::OK, &CachePage { cache: CacheInfo::new(&view), files });
        response.headers_mut().insert(TOTAL_COUNT, view.files.len().into());
        Ok(response)
    };
    reply(getting.await)
}
