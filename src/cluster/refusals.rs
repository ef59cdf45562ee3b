//! Sources that gave nothing, remembered for a while so that a fleet does not ask for them one by one.

use std::collections::HashMap;
use std::time::Duration;

use http::StatusCode;

use crate::cdn::FetchError;
use crate::domain::{Moment, TaskId};
use crate::origin::OriginError;

/// Refusals remembered at once. More displace nothing: the source is asked again.
const REFUSALS_MAX: usize = 65_536;
/// The first wait after a passing failure; it doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Why a registration cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The URL cannot be fetched.
    #[error("{0}")]
    Unreachable(String),
    /// The source wants credentials, or others.
    #[error("{0}")]
    NeedsAuth(String),
    /// The source does not give it to whoever asked (403): it may be missing, or for others.
    #[error("{0}")]
    Denied(String),
    /// We cannot fetch it: disk or policy.
    #[error("{0}")]
    Ours(String),
}

impl Refused {
    /// What a failed first request means for those who wait for it, and whether the URL is known not to be there.
    pub fn of(error: &FetchError) -> (Self, bool) {
        let reason = super::fetch::reason(error);
        match error {
            FetchError::Origin(
                OriginError::Status(StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED)
                | OriginError::HeadersLeftOut,
            ) => (Self::NeedsAuth(reason), false),
            FetchError::Origin(OriginError::Token(error)) if !error.is_passing() => (Self::NeedsAuth(reason), false),
            FetchError::Origin(OriginError::Status(StatusCode::FORBIDDEN)) => (Self::Denied(reason), false),
            FetchError::Origin(OriginError::Status(StatusCode::NOT_FOUND | StatusCode::GONE)) => {
                (Self::Unreachable(reason), true)
            }
            FetchError::Origin(_) | FetchError::TooLong(_) | FetchError::Length { .. } | FetchError::Slow { .. } => {
                (Self::Unreachable(reason), false)
            }
            FetchError::Md5 { .. } | FetchError::Disk(_) | FetchError::Ledger(_) => (Self::Ours(reason), false),
        }
    }

    /// Whether the source may give to others what it refused to whoever asked.
    pub const fn is_of_credentials(&self) -> bool {
        match self {
            Self::NeedsAuth(_) | Self::Denied(_) => true,
            Self::Unreachable(_) | Self::Ours(_) => false,
        }
    }
}

/// How long to wait before asking a source again that failed this often in a row.
pub fn wait_after(failures: u32, longest: Duration) -> Duration {
    FIRST_WAIT.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(longest)
}

#[derive(Debug)]
struct Remembered {
    refused: Refused,
    until: Moment,
    failures: u32,
}

/// Refusals by task.
#[derive(Debug, Default)]
pub struct Refusals(HashMap<TaskId, Remembered>);

impl Refusals {
    /// The refusal that still holds for a task.
    pub fn get(&self, task: &TaskId, now: Moment) -> Option<Refused> {
        self.0.get(task).filter(|remembered| now < remembered.until).map(|remembered| remembered.refused.clone())
    }

    /// Remembers a refusal: one of a missing file for the longest time, any other for one that grows. Whoever comes with
    /// other credentials registers another set of headers, so a want of credentials is not held against the task.
    pub fn remember(&mut self, task: TaskId, refused: Refused, missing: bool, now: Moment, longest: Duration) {
        if refused.is_of_credentials() || (self.0.len() >= REFUSALS_MAX && !self.0.contains_key(&task)) {
            return;
        }
        let failures = self.0.get(&task).map_or(1, |remembered| remembered.failures.saturating_add(1));
        let wait = if missing { longest } else { wait_after(failures, longest) };
        self.0.insert(task, Remembered { refused, until: now.after(wait), failures });
    }

    pub fn forget(&mut self, task: &TaskId) {
        self.0.remove(task);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Drops what has been over for as long as it held, when a next failure is no longer one in a row.
    pub fn expire(&mut self, now: Moment) {
        self.0.retain(|_, remembered| now.since(remembered.until) < FIRST_WAIT * 60);
        if self.0.capacity() > 4 * self.0.len() {
            self.0.shrink_to(2 * self.0.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(180);

    fn task() -> TaskId {
        TaskId::derive("http://h/f", "", "")
    }

    #[test]
    fn a_missing_file_stays_refused_and_a_passing_failure_does_so_ever_longer() {
        let mut refusals = Refusals::default();
        let unreachable = Refused::Unreachable("503".into());
        refusals.remember(task(), unreachable.clone(), false, Moment(0), LONGEST);
        assert_eq!(refusals.get(&task(), Moment(999)), Some(unreachable.clone()));
        assert_eq!(refusals.get(&task(), Moment(1000)), None);
        refusals.remember(task(), unreachable.clone(), false, Moment(1000), LONGEST);
        assert!(refusals.get(&task(), Moment(2999)).is_some());
        refusals.remember(task(), unreachable, true, Moment(3000), LONGEST);
        assert!(refusals.get(&task(), Moment(182_999)).is_some());
        refusals.expire(Moment(500_000));
        assert!(refusals.0.is_empty());
    }

    #[test]
    fn a_want_of_credentials_is_not_held_against_others() {
        let mut refusals = Refusals::default();
        refusals.remember(task(), Refused::NeedsAuth("401".into()), false, Moment(0), LONGEST);
        assert_eq!(refusals.get(&task(), Moment(1)), None);
    }
}
