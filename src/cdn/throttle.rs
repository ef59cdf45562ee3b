//! How fast sources are fetched: each, and all together.
//!
//! Downloads take turns by equal parts, first come first served: each gets an equal share of the rate however large its
//! chunks are, and a large file does not keep a small one waiting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What may come at once after a pause, as time at the full rate.
const BURST: Duration = Duration::from_millis(100);
/// What one download takes before it is the next one's turn. Bytes. A chunk is what was found in a socket: 8 KiB of a slow
/// source, up to 400 KiB of a fast one.
const TURN_MAX_BYTES: u64 = 64 * 1024;

/// What one download may take at once of its own rate, as time at that: a low one may be raised at any time.
const OWN_TURN: Duration = Duration::from_secs(1);

/// What was taken at a rate.
#[derive(Debug)]
pub(super) struct Account {
    /// When everything that was taken so far has been paid for.
    paid_until: Instant,
}

impl Account {
    pub fn new() -> Self {
        Self { paid_until: Instant::now() }
    }

    /// Takes so many bytes more; tells when they are within the rate.
    fn take(&mut self, bytes: u64, rate_bytes_per_s: u64) -> Instant {
        let cost = Duration::from_secs_f64(bytes as f64 / rate_bytes_per_s as f64);
        let now = Instant::now();
        self.paid_until = self.paid_until.max(now.checked_sub(BURST).unwrap_or(now)) + cost;
        self.paid_until
    }
}

/// A rate that everybody shares. It can be changed while they do.
#[derive(Debug)]
pub(super) struct Throttle {
    /// 0 for no limit.
    rate_bytes_per_s: AtomicU64,
    account: Mutex<Account>,
}

impl Throttle {
    pub fn new(rate_bytes_per_s: u64) -> Self {
        Self { rate_bytes_per_s: AtomicU64::new(rate_bytes_per_s), account: Mutex::new(Account::new()) }
    }

    /// Holds from the next turn on; 0 for no limit.
    pub fn set_rate(&self, rate_bytes_per_s: u64) {
        let mut account = self.account.lock();
        let before = self.rate_bytes_per_s.swap(rate_bytes_per_s, Ordering::Relaxed);
        // Whoever comes now does not wait for what others have still to pay at the lower rate.
        if rate_bytes_per_s == 0 || before < rate_bytes_per_s {
            let now = Instant::now();
            let share = if rate_bytes_per_s == 0 { 0.0 } else { before as f64 / rate_bytes_per_s as f64 };
            account.paid_until = account.paid_until.min(now + account.paid_until.saturating_duration_since(now).mul_f64(share));
        }
    }

    /// Takes so many bytes if nobody has to wait for them, who may have a rate of its own (0 for no limit); tells whether
    /// they were taken.
    pub fn try_take(&self, bytes: u64, own_rate_bytes_per_s: u64) -> bool {
        if bytes > turn_bytes(own_rate_bytes_per_s) {
            return false;
        }
        let rate = self.rate_bytes_per_s.load(Ordering::Relaxed);
        let mut account = self.account.lock();
        if rate > 0 && account.paid_until > Instant::now() {
            return false;
        }
        if rate > 0 {
            account.take(bytes, rate);
        }
        true
    }

    /// Returns when so many more bytes are within the rate, and within that of the one who takes them (0 for no limit),
    /// which may change meanwhile.
    pub async fn take(&self, bytes: u64, own: &mut Account, own_rate_bytes_per_s: impl Fn() -> u64) {
        let mut left = bytes;
        while left > 0 {
            let own_rate = own_rate_bytes_per_s();
            let part = left.min(turn_bytes(own_rate));
            left -= part;
            // Its own limit first: who waits for that must not be counted among those who take turns.
            if own_rate > 0 {
                let due = own.take(part, own_rate);
                tokio::time::sleep_until(due).await;
            }
            let rate = self.rate_bytes_per_s.load(Ordering::Relaxed);
            if rate > 0 {
                let due = self.account.lock().take(part, rate);
                tokio::time::sleep_until(due).await;
            }
        }
    }
}

/// What one download takes in one turn, within a rate of its own (0 for none).
fn turn_bytes(own_rate_bytes_per_s: u64) -> u64 {
    let own_turn = own_rate_bytes_per_s.saturating_mul(OWN_TURN.as_secs());
    if own_turn == 0 { TURN_MAX_BYTES } else { own_turn.min(TURN_MAX_BYTES) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const CHUNK: u64 = 64 * 1024;

    /// Takes chunks one after the other; tells when the last was within the rate.
    async fn take(throttle: Arc<Throttle>, chunks: u64) -> Duration {
        take_sized(throttle, chunks, CHUNK, 0).await
    }

    async fn take_sized(throttle: Arc<Throttle>, chunks: u64, chunk_bytes: u64, own_rate: u64) -> Duration {
        let (began, mut own) = (Instant::now(), Account::new());
        for _ in 0..chunks {
            throttle.take(chunk_bytes, &mut own, || own_rate).await;
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
    async fn whoever_comes_after_a_rate_was_raised_waits_for_no_turn_at_the_old_one() {
        for raised in [100 * CHUNK, 0] {
            let throttle = Arc::new(Throttle::new(CHUNK));
            let waiting: Vec<_> = (0..32).map(|_| tokio::spawn(take(throttle.clone(), 1))).collect();
            tokio::time::sleep(Duration::from_millis(10)).await;
            throttle.set_rate(raised);
            let took = take(throttle, 1).await;
            assert!(took < Duration::from_millis(500), "{took:?} at {raised}");
            waiting.iter().for_each(tokio::task::JoinHandle::abort);
        }
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
    async fn a_source_whose_chunks_are_large_gets_no_more_than_others() {
        let throttle = Arc::new(Throttle::new(10 * CHUNK));
        let large = tokio::spawn(take_sized(throttle.clone(), 100, 8 * CHUNK, 0));
        tokio::time::sleep(Duration::from_secs(3)).await;
        let took = take(throttle, 10).await;
        assert!(took < Duration::from_millis(2300), "half of the rate for 10 chunks is two seconds, it took {took:?}");
        large.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_of_its_own_holds_for_one_and_leaves_the_rest_to_others() {
        let throttle = Arc::new(Throttle::new(10 * CHUNK));
        let own = take_sized(throttle.clone(), 10, 2 * CHUNK, 4 * CHUNK);
        let (own, other) = tokio::join!(own, take(throttle.clone(), 30));
        assert!(own > Duration::from_millis(4800), "{own:?}");
        assert!(other < Duration::from_millis(5200), "six of ten are left to the other, it took {other:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_of_its_own_is_kept_however_low_it_is_and_holds_until_it_is_raised() {
        let throttle = Throttle::new(10 * CHUNK);
        let took = take_sized(Arc::new(Throttle::new(10 * CHUNK)), 3, CHUNK, 100).await;
        assert!(took > Duration::from_secs(1960) && took < Duration::from_secs(1970), "{took:?}");
        let rate = AtomicU64::new(1);
        let (began, mut own) = (Instant::now(), Account::new());
        let raised = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            rate.store(CHUNK, Ordering::Relaxed);
        };
        tokio::join!(throttle.take(2 * CHUNK, &mut own, || rate.load(Ordering::Relaxed)), raised);
        let took = began.elapsed();
        assert!(took > Duration::from_secs(61) && took < Duration::from_secs(64), "{took:?}");
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
