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

/// How long a source is left alone that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// It is known not to be there: as long as any.
    Missing,
    /// For longer with every failure in a row.
    Growing,
    /// For a moment: that it failed has nothing to do with it.
    Brief,
    /// The same, and for no less than it asked for.
    AtLeast(Duration),
}

impl Rest {
    /// No longer than the longest.
    pub fn wait(self, failures: u32, longest: Duration) -> Duration {
        let grown = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        match self {
            Self::Missing => longest,
            Self::Growing => grown.min(longest),
            Self::Brief => FIRST_WAIT.min(longest),
            Self::AtLeast(least) => grown.max(least).min(longest),
        }
    }
}

impl Refused {
    /// What a failed first request means for those who wait for it, and when the source may be asked again.
    pub fn of(error: &FetchError) -> (Self, Rest) {
        let reason = super::fetch::reason(error);
        match error {
            FetchError::Origin(
                OriginError::Status(StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED)
                | OriginError::HeadersLeftOut,
            ) => (Self::NeedsAuth(reason), Rest::Growing),
            FetchError::Origin(OriginError::Token { error, .. }) if error.is_refusal() => {
                (Self::NeedsAuth(reason), Rest::Growing)
            }
            FetchError::Origin(OriginError::Status(StatusCode::FORBIDDEN)) => (Self::Denied(reason), Rest::Growing),
            FetchError::Origin(OriginError::Status(StatusCode::NOT_FOUND | StatusCode::GONE)) => {
                (Self::Unreachable(reason), Rest::Missing)
            }
            FetchError::Origin(OriginError::Busy { retry_after, .. }) => (Self::Unreachable(reason), Rest::AtLeast(*retry_after)),
            FetchError::Origin(_)
            | FetchError::Unfit(_)
            | FetchError::TooLong(_)
            | FetchError::Length { .. }
            | FetchError::Slow { .. } => (Self::Unreachable(reason), Rest::Growing),
            // What others wanted meanwhile is not held against the source.
            FetchError::GaveWay { .. } | FetchError::BodyGaveWay { .. } => (Self::Ours(reason), Rest::Brief),
            FetchError::Md5 { .. } | FetchError::Disk(_) | FetchError::Ledger(_) => (Self::Ours(reason), Rest::Growing),
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

    /// Remembers a refusal. Others may bring the credentials that this one lacks, so a want of them is not held against the
    /// task.
    pub fn remember(&mut self, task: TaskId, refused: Refused, rest: Rest, now: Moment, longest: Duration) {
        if refused.is_of_credentials() || (self.0.len() >= REFUSALS_MAX && !self.0.contains_key(&task)) {
            return;
        }
        let failures = self.0.get(&task).map_or(1, |remembered| remembered.failures.saturating_add(1));
        let until = now.after(rest.wait(failures, longest));
        self.0.insert(task, Remembered { refused, until, failures });
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
    use crate::origin::TokenError;

    const LONGEST: Duration = Duration::from_secs(180);

    fn task() -> TaskId {
        TaskId::derive("http://h/f", "", "")
    }

    #[test]
    fn a_missing_file_stays_refused_and_a_passing_failure_does_so_ever_longer() {
        let mut refusals = Refusals::default();
        let unreachable = Refused::Unreachable("503".into());
        refusals.remember(task(), unreachable.clone(), Rest::Growing, Moment(0), LONGEST);
        assert_eq!(refusals.get(&task(), Moment(999)), Some(unreachable.clone()));
        assert_eq!(refusals.get(&task(), Moment(1000)), None);
        refusals.remember(task(), unreachable.clone(), Rest::Growing, Moment(1000), LONGEST);
        assert!(refusals.get(&task(), Moment(2999)).is_some());
        refusals.remember(task(), unreachable, Rest::Missing, Moment(3000), LONGEST);
        assert!(refusals.get(&task(), Moment(182_999)).is_some());
        refusals.expire(Moment(500_000));
        assert!(refusals.0.is_empty());
    }

    #[test]
    fn a_busy_source_is_left_alone_for_as_long_as_it_wants_within_reason() {
        let rest = |seconds| Rest::AtLeast(Duration::from_secs(seconds));
        for (rest, failures, wait) in [(rest(30), 1, 30), (rest(3), 4, 8), (rest(3600), 1, 180), (rest(0), 1, 1)] {
            assert_eq!(rest.wait(failures, LONGEST), Duration::from_secs(wait), "{rest:?} after {failures}");
        }
    }

    #[test]
    fn only_a_token_service_that_refuses_wants_other_credentials() {
        let status = |code| TokenError::Status(StatusCode::from_u16(code).expect("a status"));
        let not_asked = |error| TokenError::NotAsked(Box::new(error));
        for (error, is_of_credentials) in [
            (status(401), true),
            (status(403), true),
            (TokenError::NoToken, true),
            (status(404), false),
            (status(503), false),
            (TokenError::TooLong, false),
            (TokenError::Late, false),
            (not_asked(OriginError::Url), false),
            (not_asked(OriginError::TooLarge), false),
            (not_asked(OriginError::NoCertificate), false),
        ] {
            let error = FetchError::from(OriginError::Token { service: "auth.h".into(), error });
            let (refused, rest) = Refused::of(&error);
            assert_eq!((refused.is_of_credentials(), rest), (is_of_credentials, Rest::Growing), "{error:?}");
        }
    }

    #[test]
    fn a_want_of_credentials_is_not_held_against_others() {
        let mut refusals = Refusals::default();
        refusals.remember(task(), Refused::NeedsAuth("401".into()), Rest::Growing, Moment(0), LONGEST);
        assert_eq!(refusals.get(&task(), Moment(1)), None);
    }
}
