//! `kernels::knn`: 100,000 rows of 384 features.

#![allow(clippy::unwrap_used, reason = "a bench may fail loudly")]

mod bench_common;

use bench_common::{time, uniform};
use residuum_core::kernels::knn::{Metric, knn};

const N: usize = 100_000;
const D: usize = 384;

fn main() {
    let x = uniform(1, N * D);
    for n_query in [1, 256] {
        let queries = &x[..n_query * D];
        for (name, metric) in [("cosine", Metric::Cosine), ("l2", Metric::L2)] {
            let found = knn(&x, queries, D, metric, 10).unwrap();
            assert!((0..n_query).all(|query| found.rows[query * 10] == query as u64));
            time(
                &format!("knn {name}, {n_query} queries, k = 10"),
                2.0 * (N * D * n_query) as f64,
                4 * x.len(),
                || knn(&x, queries, D, metric, 10).unwrap(),
            );
        }
    }
}
