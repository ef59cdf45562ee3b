//! Whether a source is fast enough to be worth the place that its body takes.
//!
//! Only the time counts in which it was waited for: what our own limits, disk and quota take is not its fault, and what it
//! sent meanwhile is to its credit.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::FetchError;
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
pub(super) const IN_DEMAND_BYTES_PER_S: u64 = 64 * 1024;

impl RateMin {
    /// The same, or more where others wait; whoever wants whatever comes is not asked for more.
    pub const fn in_demand(self, others_wait: bool) -> Self {
        if others_wait && self.bytes_per_s > 0 && self.bytes_per_s < IN_DEMAND_BYTES_PER_S {
            return Self { bytes_per_s: IN_DEMAND_BYTES_PER_S, ..self };
        }
        self
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
    /// The next bytes of the body; `None` at its end.
    pub async fn chunk(&mut self, answer: &mut Answer, min: RateMin) -> Result<Option<Bytes>, FetchError> {
        if min.bytes_per_s == 0 {
            return Ok(answer.chunk().await?);
        }
        loop {
            let began = Instant::now();
            let left = min.window.saturating_sub(self.waited);
            let came = tokio::time::timeout(left, answer.chunk()).await;
            self.waited += began.elapsed();
            match came {
                Ok(chunk) => {
                    let chunk = chunk?;
                    self.bytes += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                    return Ok(chunk);
                }
                Err(_) if self.bytes < min.bytes() => {
                    let Self { waited, bytes } = *self;
                    return Err(FetchError::Slow { bytes, waited_s: waited.as_secs(), min_bytes_per_s: min.bytes_per_s });
                }
                Err(_) => *self = Self::default(),
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
