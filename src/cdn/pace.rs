//! Whether a source is fast enough to be worth the place that its body takes.
//!
//! Only the time counts in which it was waited for: what our own limits, disk and quota take is not its fault, and what it
//! sent meanwhile is to its credit.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::FetchError;
use super::bodies::Demand;
use crate::origin::Answer;

/// The least that a source must send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateMin {
    /// 0 for whatever comes.
    pub bytes_per_s: u64,
    /// The time of waiting for it over which it is judged.
    pub window: Duration,
}

/// What a source must send at least that holds a place while others wait for one. Clients give up what is slower.
const IN_DEMAND_BYTES_PER_S: u64 = 64 * 1024;
/// The time over which that is judged at most.
const IN_DEMAND_WINDOW: Duration = Duration::from_secs(10);
/// While a source is silent, others may come to wait.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl RateMin {
    /// Where others wait. Where whatever comes is wanted, it still is.
    fn in_demand(self) -> Self {
        if self.bytes_per_s == 0 {
            return self;
        }
        Self { bytes_per_s: self.bytes_per_s.max(IN_DEMAND_BYTES_PER_S), window: self.window.min(IN_DEMAND_WINDOW) }
    }

    /// Within the window.
    fn bytes(self) -> u64 {
        u64::try_from(u128::from(self.bytes_per_s).saturating_mul(self.window.as_millis()) / 1000).unwrap_or(u64::MAX)
    }
}

/// What a source sent of one body since it was last judged.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// The next bytes of the body; `None` at its end. Looks at the demand for its place at least every second.
    pub async fn chunk(
        &mut self,
        answer: &mut Answer,
        usual: RateMin,
        mut look: impl FnMut() -> Demand,
    ) -> Result<Option<Bytes>, FetchError> {
        loop {
            let demand = look();
            let in_demand = demand != Demand::Nobody;
            let min = if in_demand { usual.in_demand() } else { usual };
            if self.waited >= min.window {
                let Self { waited, bytes } = std::mem::take(self);
                if bytes < min.bytes() {
                    let min_bytes_per_s = min.bytes_per_s;
                    return Err(FetchError::Slow { bytes, waited_s: waited.as_secs(), min_bytes_per_s, in_demand });
                }
            }
            // Judged first: a source that is too slow has failed, whoever else wants its place.
            if let Demand::GiveWay { held_for } = demand {
                return Err(FetchError::BodyGaveWay { held_s: held_for.as_secs() });
            }
            let began = Instant::now();
            let left = min.window.saturating_sub(self.waited).min(LOOK_EVERY);
            let came = tokio::time::timeout(left, answer.chunk()).await;
            self.waited += began.elapsed();
            if let Ok(chunk) = came {
                let chunk = chunk?;
                self.bytes += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                return Ok(chunk);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_need_not_be_of_whole_seconds() {
        for (bytes_per_s, window_ms, bytes) in [(1000, 1000, 1000), (1000, 1999, 1999), (1, 999, 0), (u64::MAX, 60_000, u64::MAX)]
        {
            let min = RateMin { bytes_per_s, window: Duration::from_millis(window_ms) };
            assert_eq!(min.bytes(), bytes, "{min:?}");
        }
    }
}
