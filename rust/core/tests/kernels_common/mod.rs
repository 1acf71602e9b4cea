//! What the kernel tests share: seeded numbers and comparisons.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use proptest::prelude::ProptestConfig;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// That many random cases; a failure prints its input and leaves no file behind.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Numbers in -1 .. 1.
pub(crate) fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Runs `work` on a pool of its own.
pub(crate) fn with_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// Asserts that two arrays agree to `tolerance`, with NaN equal to NaN and infinities to themselves.
#[track_caller]
pub(crate) fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let found = f64::from(found);
        let same = found.is_nan() && expected.is_nan()
            || found.is_infinite() && found.total_cmp(&expected).is_eq()
            || (found - expected).abs() <= tolerance;
        assert!(same, "at {at}: {found} instead of {expected}, tolerance {tolerance}");
    }
}

/// `a [m, k] @ b [k, n]` by the definition.
pub(crate) fn naive_matmul(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    for row in 0..m {
        for col in 0..n {
            for inner in 0..k {
                out[row * n + col] += f64::from(a[row * k + inner]) * f64::from(b[inner * n + col]);
            }
        }
    }
    out
}

/// The transpose of `x [rows, cols]`.
pub(crate) fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| x[row * cols + col])).collect()
}
