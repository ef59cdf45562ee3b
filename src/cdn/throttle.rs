//! How fast sources are fetched, all together.
//!
//! Downloads take turns chunk by chunk, first come first served: each gets an equal share of the rate, and a large file
//! does not keep a small one waiting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What may come at once after a pause, as time at the full rate.
const BURST: Duration = Duration::from_millis(100);

/// A rate that everybody shares. It can be changed while they do.
#[derive(Debug)]
pub struct Throttle {
    /// 0 for no limit.
    rate_bytes_per_s: AtomicU64,
    /// When everything that was taken so far has been paid for.
    paid_until: Mutex<Instant>,
}

impl Throttle {
    pub fn new(rate_bytes_per_s: u64) -> Self {
        Self { rate_bytes_per_s: AtomicU64::new(rate_bytes_per_s), paid_until: Mutex::new(Instant::now()) }
    }

    /// Holds from the next chunk on; 0 for no limit.
    pub fn set_rate(&self, rate_bytes_per_s: u64) {
        self.rate_bytes_per_s.store(rate_bytes_per_s, Ordering::Relaxed);
    }

    /// Returns when so many more bytes are within the rate.
    pub async fn take(&self, bytes: u64) {
        let rate = self.rate_bytes_per_s.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let due = {
            let mut paid_until = self.paid_until.lock();
            let now = Instant::now();
            *paid_until = (*paid_until).max(now.checked_sub(BURST).unwrap_or(now)) + cost;
            *paid_until
        };
        tokio::time::sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const CHUNK: u64 = 64 * 1024;

    /// Takes chunks one after the other; tells when the last was within the rate.
    async fn take(throttle: Arc<Throttle>, chunks: u64) -> Duration {
        let began = Instant::now();
        for _ in 0..chunks {
            throttle.take(CHUNK).await;
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_whoever_takes() {
        let throttle = Arc::new(Throttle::new(10 * CHUNK));
        let (one, other) = tokio::join!(take(throttle.clone(), 50), take(throttle.clone(), 50));
        let took = one.max(other);
        assert!(took > Duration::from_millis(9800) && took < Duration::from_millis(10_200), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_download_is_not_kept_waiting_by_a_large_one() {
        let throttle = Arc::new(Throttle::new(10 * CHUNK));
        let large = tokio::spawn(take(throttle.clone(), 200));
        tokio::time::sleep(Duration::from_secs(3)).await;
        let took = take(throttle, 5).await;
        assert!(took < Duration::from_millis(1300), "half of the rate for 5 chunks is a second, it took {took:?}");
        large.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_can_be_changed_and_lifted() {
        let throttle = Arc::new(Throttle::new(CHUNK));
        assert!(take(throttle.clone(), 3).await > Duration::from_millis(2800));
        throttle.set_rate(100 * CHUNK);
        assert!(take(throttle.clone(), 100).await < Duration::from_millis(1100));
        throttle.set_rate(0);
        assert_eq!(take(throttle, 1000).await, Duration::ZERO);
    }
}
