//! Two digests at once against two one after the other. Figures, not judgements: `cargo bench -p md5-pair`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use md5::Digest;
use md5_pair::Md5;

const BYTES: usize = 64 << 20;
const ROUNDS: usize = 5;

fn main() {
    let bytes: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let one = timed(|| md5::Md5::digest(black_box(&bytes)));
        let two = timed(|| {
            let (mut all, mut but_four) = (Md5::new(), Md5::new());
            Md5::update_both((&mut all, black_box(&bytes)), (&mut but_four, black_box(&bytes[4..])));
            (all.digest(), but_four.digest())
        });
        let ratio = 2.0 * one.as_secs_f64() / two.as_secs_f64();
        println!(
            "round {round}: one {:.0} MiB/s, two {:.0} MiB/s each; {ratio:.2} of the speed of one after the other",
            speed(one),
            speed(two)
        );
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    println!("two at once: {:.2} of the speed of one after the other (median of {ROUNDS})", ratios[ROUNDS / 2]);
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    black_box(work());
    began.elapsed()
}

fn speed(took: Duration) -> f64 {
    (BYTES >> 20) as f64 / took.as_secs_f64()
}
