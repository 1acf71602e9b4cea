//! `kernels::moments` and `kernels::pca`: 20,000 rows of 768 features.

#![allow(clippy::unwrap_used, reason = "a bench may fail loudly")]

mod bench_common;

use bench_common::{assert_near, time, uniform};
use residuum_core::kernels::moments::Moments;
use residuum_core::kernels::pca::pca;

const N: usize = 20_000;
const D: usize = 768;

fn moments(x: &[f32], covariance: bool) -> Moments {
    let mut moments = Moments::new(D, covariance);
    moments.push(x).unwrap();
    moments
}

fn main() {
    let x = uniform(1, N * D);
    let covariance = moments(&x, true).covariance(1).unwrap();
    let mean = x.chunks(D).map(|row| f64::from(row[0])).sum::<f64>() / N as f64;
    let square = x.chunks(D).map(|row| (f64::from(row[0]) - mean).powi(2)).sum::<f64>();
    assert_near(covariance[0], square / (N - 1) as f64, 1e-6);
    time("mean and variance", 4.0 * (N * D) as f64, 4 * x.len(), || moments(&x, false));
    time("covariance", (N * D * D) as f64, 4 * x.len(), || moments(&x, true));
    time("pca of the covariance", 0.0, 8 * D * D, || pca(&covariance, D, 32).unwrap());
}
