//! What the kernel benches share: seeded numbers, the clock, one line of report.

#![allow(dead_code, reason = "each bench uses a part")]
#![allow(clippy::print_stdout, reason = "a bench reports on stdout")]

use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Repeats of which the median is reported.
const REPEATS: usize = 5;

/// Numbers in -1 .. 1.
pub(crate) fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Times `work` (once unmeasured, then the median of some runs) and prints the rate of `flop`
/// floating-point operations on `bytes` of input.
pub(crate) fn time<R>(name: &str, flop: f64, bytes: usize, mut work: impl FnMut() -> R) {
    work();
    let before = processor_seconds();
    let mut seconds: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(work());
            start.elapsed().as_secs_f64()
        })
        .collect();
    let processor = (processor_seconds() - before) / REPEATS as f64;
    seconds.sort_by(f64::total_cmp);
    let median = seconds[REPEATS / 2];
    println!(
        "{name:44} {:9.2} ms (best {:.2}, processor {:.0}) {:7.1} GFLOP/s  input {:.1} MB  \
         threads {}  peak {:.0} MB",
        median * 1e3,
        seconds[0] * 1e3,
        processor * 1e3,
        flop / median / 1e9,
        bytes as f64 / 1e6,
        rayon::current_num_threads(),
        peak_memory(),
    );
}

/// Processor time of all threads, in steps of 10 ms: what wall time would be on an idle machine,
/// times the threads used. 0 where the system does not say.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// The most memory this process has had resident, in MB; 0 where the system does not say.
fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1e3
}

/// Fails unless two numbers agree to `tolerance`.
#[track_caller]
pub(crate) fn assert_near(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found} instead of {expected}");
}

/// Inner product in f64.
pub(crate) fn dot(x: &[f32], y: impl Iterator<Item = f32>) -> f64 {
    x.iter().zip(y).map(|(&x, y)| f64::from(x) * f64::from(y)).sum()
}
