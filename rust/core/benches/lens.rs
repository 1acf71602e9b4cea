//! `kernels::lens` at the shape of a small GPT-2: 50257 tokens, 768 features.

#![allow(clippy::unwrap_used, reason = "a bench may fail loudly")]

mod bench_common;

use bench_common::{assert_near, dot, time, uniform};
use residuum_core::kernels::lens::{Unembed, lens, lens_layers};
use residuum_core::kernels::matmul::{MatRef, matmul};

const VOCAB: usize = 50257;
const D: usize = 768;

fn main() {
    let w = uniform(1, D * VOCAB);
    let weight = MatRef::new(&w, D, VOCAB).unwrap();
    let unembed = Unembed::new(weight);
    for n in [64, 1024] {
        let (x, last) = (uniform(2, n * D), uniform(3, n * D));
        let targets: Vec<i32> = (0..).step_by(37).take(n).collect();
        let stats = lens(&x, None, Some(&targets), unembed, 5).unwrap();
        let logits: Vec<f64> =
            (0..VOCAB).map(|id| dot(&x[..D], (0..D).map(|i| w[i * VOCAB + id]))).collect();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = max + logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        assert_near(f64::from(stats.lse[0]), lse, 1e-3);
        let flop = 2.0 * (n * D * VOCAB) as f64;
        let bytes = 4 * (x.len() + w.len());
        time(&format!("lens {n} rows, top 5, target"), flop, bytes, || {
            lens(&x, None, Some(&targets), unembed, 5).unwrap()
        });
        time(&format!("lens {n} rows x 3 layers, KL to the last"), 3.0 * flop, bytes, || {
            lens_layers(&[&x, &x, &last], Some(&last), Some(&targets), unembed, 5).unwrap()
        });
        let mut out = vec![0.0; 64 * VOCAB];
        time(&format!("product alone, {n} rows in blocks of 64"), flop, bytes, || {
            for x in x.chunks(64 * D) {
                matmul(MatRef::new(x, 64, D).unwrap(), weight, &mut out).unwrap();
            }
        });
    }
}
