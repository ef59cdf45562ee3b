//! How often a failing source is asked again, and how long after.

use std::time::Duration;

use super::FetchError;
use crate::origin::OriginError;

/// The wait after the first failed attempt; it doubles with every further one, give or take a quarter.
const BACKOFF_FIRST: Duration = Duration::from_millis(400);

#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Attempts in a row that bring nothing before a source has failed.
    attempts_max: u32,
    /// What a busy source may ask for (`Retry-After`) between two attempts. One that asks for more has failed, and is left
    /// alone for as long as it wants.
    retry_after_max: Duration,
    /// Whether one that is not there may be there in a moment.
    awaits_absent: bool,
}

impl Patience {
    /// While a registration waits for the first answer, which is not for long: a source that is not there says so at once.
    pub const FIRST: Self = Self { attempts_max: 3, retry_after_max: Duration::from_secs(2), awaits_absent: false };
    /// With a source that has answered before.
    pub const LATER: Self = Self { attempts_max: 5, retry_after_max: Duration::from_mins(1), awaits_absent: true };

    /// How long to wait before the next attempt, after so many in a row (from 1 on); `None` where there is none.
    pub fn wait(self, error: &FetchError, attempts: u32) -> Option<Duration> {
        let is_absent = match error {
            FetchError::Origin(OriginError::Unreachable(_)) => true,
            FetchError::Origin(OriginError::Token { error, .. }) => error.is_silence(),
            _ => false,
        };
        let wait = backoff(attempts).max(error.retry_after().unwrap_or_default());
        let goes_on = error.is_passing()
            && attempts < self.attempts_max
            && (self.awaits_absent || !is_absent)
            && wait <= self.retry_after_max;
        goes_on.then_some(wait)
    }
}

/// Attempts in a row that brought nothing, with the one that ended so. One that had to make room for others does not count:
/// the source did not fail.
pub(super) const fn attempts_after(error: &FetchError, before: u32, brought_some: bool) -> u32 {
    let before = if brought_some { 0 } else { before };
    if matches!(error, FetchError::BodyGaveWay { .. }) { before } else { before + 1 }
}

/// Says that a source is asked again: whether that is its fault.
pub(super) const fn why_again(error: &FetchError) -> &'static str {
    if matches!(error, FetchError::BodyGaveWay { .. }) { "source gave way to others" } else { "source failed" }
}

fn backoff(attempts: u32) -> Duration {
    let exact = BACKOFF_FIRST * 2_u32.pow(attempts.min(6).saturating_sub(1));
    exact.mul_f64(0.75 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::origin::TokenError;

    #[test]
    fn a_source_is_given_longer_once_it_has_answered() {
        let status = |code| OriginError::Status(StatusCode::from_u16(code).expect("a status"));
        let busy =
            |seconds| OriginError::Busy { status: StatusCode::SERVICE_UNAVAILABLE, retry_after: Duration::from_secs(seconds) };
        for (error, attempts, first, later) in [
            (status(503), 1, true, true),
            (status(503), 2, true, true),
            (status(503), 3, false, true),
            (status(503), 5, false, false),
            (status(404), 1, false, false),
            (busy(2), 1, true, true),
            (busy(60), 1, false, true),
            (busy(61), 1, false, false),
            (OriginError::Token { service: "auth.h".into(), error: TokenError::Late }, 1, false, true),
        ] {
            let error = FetchError::from(error);
            assert_eq!(Patience::FIRST.wait(&error, attempts).is_some(), first, "{error} after {attempts}");
            assert_eq!(Patience::LATER.wait(&error, attempts).is_some(), later, "{error} after {attempts}");
        }
        let asked_for = Patience::LATER.wait(&busy(7).into(), 1);
        assert_eq!(asked_for, Some(Duration::from_secs(7)));
    }

    #[test]
    fn waits_double_up_to_the_sixth_and_vary_by_a_quarter() {
        for (attempts, exact_ms) in
            [(1, 400), (2, 800), (3, 1_600), (4, 3_200), (5, 6_400), (6, 12_800), (7, 12_800), (100, 12_800)]
        {
            let exact = Duration::from_millis(exact_ms);
            let drawn: Vec<Duration> = (0..1_000).map(|_| backoff(attempts)).collect();
            let (least, most) = (drawn.iter().min().expect("some"), drawn.iter().max().expect("some"));
            // Of a thousand draws none in an outer quarter of their span comes once in 10^123 runs.
            assert!((exact.mul_f64(0.75)..exact.mul_f64(0.875)).contains(least), "{least:?} after {attempts}");
            assert!((exact.mul_f64(1.125)..=exact.mul_f64(1.25)).contains(most), "{most:?} after {attempts}");
        }
    }

    #[test]
    fn whoever_gives_way_has_not_failed() {
        let (gave_way, short) = (FetchError::BodyGaveWay { held_s: 10 }, FetchError::Length { sent: 1, announced: 2 });
        for (error, before, brought_some, after) in
            [(&gave_way, 4, false, 4), (&gave_way, 4, true, 0), (&short, 3, false, 4), (&short, 4, true, 1)]
        {
            assert_eq!(attempts_after(error, before, brought_some), after, "{error} after {before}");
        }
        for patience in [Patience::FIRST, Patience::LATER] {
            assert!(patience.wait(&gave_way, 0).is_some_and(|wait| wait < BACKOFF_FIRST * 2));
        }
    }
}
