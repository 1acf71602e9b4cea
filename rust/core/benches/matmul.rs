//! `kernels::matmul` at the shapes of transformer weights.

#![allow(clippy::unwrap_used, reason = "a bench may fail loudly")]

mod bench_common;

use bench_common::{assert_near, dot, time, uniform};
use residuum_core::kernels::matmul::{MatRef, matmul};

fn main() {
    for (m, k, n) in [(4096, 768, 8192), (20000, 64, 768), (64, 768, 3072)] {
        let (a, b) = (uniform(1, m * k), uniform(2, k * n));
        let mut out = vec![0.0; m * n];
        let layouts = [
            ("[k,n]", MatRef::new(&b, k, n).unwrap()),
            ("[n,k]", MatRef::transposed(&b, k, n).unwrap()),
        ];
        for (layout, b_ref) in layouts {
            let a_ref = MatRef::new(&a, m, k).unwrap();
            matmul(a_ref, b_ref, &mut out).unwrap();
            let column =
                |i: usize| if layout == "[k,n]" { b[i * n + n - 1] } else { b[(n - 1) * k + i] };
            let expected = dot(&a[(m - 1) * k..], (0..k).map(column));
            assert_near(f64::from(out[m * n - 1]), expected, 1e-3);
            time(
                &format!("matmul {m}x{k}x{n} {layout}"),
                2.0 * (m * k * n) as f64,
                4 * (a.len() + b.len()),
                || matmul(a_ref, b_ref, &mut out).unwrap(),
            );
        }
    }
}
