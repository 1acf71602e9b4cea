//! `kernels::norm`: 4,096 rows of 768 features.

#![allow(clippy::unwrap_used, reason = "a bench may fail loudly")]

mod bench_common;

use bench_common::{assert_near, time, uniform};
use residuum_core::kernels::norm::{Norm, NormKind};

const N: usize = 4096;
const D: usize = 768;

fn main() {
    let x = uniform(1, N * D);
    let mut out = vec![0.0; x.len()];
    for kind in [NormKind::LayerNorm, NormKind::RmsNorm] {
        let norm = Norm { kind, eps: 1e-5, weight: Some(uniform(2, D)), ..Norm::none() };
        norm.apply(&x, D, &mut out).unwrap();
        let scale = norm.scale(&x, D).unwrap();
        if kind == NormKind::RmsNorm {
            let expected = f64::from(x[0]) / f64::from(scale[0]) * f64::from(norm.gain(0));
            assert_near(f64::from(out[0]), expected, 1e-5);
        }
        time(&format!("{kind:?}"), 6.0 * x.len() as f64, 4 * x.len(), || {
            norm.apply(&x, D, &mut out).unwrap();
        });
    }
}
