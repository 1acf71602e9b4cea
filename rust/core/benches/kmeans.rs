//! `kernels::kmeans`: 200,000 rows of 256 features, 100 clusters.

#![allow(clippy::unwrap_used, reason = "a bench may fail loudly")]

mod bench_common;

use bench_common::{assert_near, time, uniform};
use residuum_core::kernels::kmeans::{KmeansOptions, assign, kmeans};

const N: usize = 200_000;
const D: usize = 256;
const K: usize = 100;

fn main() {
    let x = uniform(1, N * D);
    let options = KmeansOptions { k: K, seed: 0, n_init: 1, max_iter: 20, tol: 0.0 };
    let result = kmeans(&x, D, options).unwrap();
    let (labels, _, inertia) = assign(&x, D, &result.centres).unwrap();
    assert_eq!(labels, result.labels);
    assert_near(inertia / result.inertia, 1.0, 1e-12);
    let flop = 2.0 * (N * D * K) as f64;
    time("kmeans, 20 moves, starts included", 21.0 * flop, 4 * x.len(), || {
        kmeans(&x, D, options).unwrap()
    });
    let one = KmeansOptions { max_iter: 1, ..options };
    time("kmeans, 1 move, starts included", 2.0 * flop, 4 * x.len(), || {
        kmeans(&x, D, one).unwrap()
    });
    time("assign", flop, 4 * x.len(), || assign(&x, D, &result.centres).unwrap());
}
