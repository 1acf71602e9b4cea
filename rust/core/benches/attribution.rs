//! `kernels::attribution`: heads of a small GPT-2 towards 16 directions.

#![allow(clippy::cast_possible_truncation, reason = "rounding is what is wanted")]
#![allow(clippy::unwrap_used, reason = "a bench may fail loudly")]

mod bench_common;

use bench_common::{assert_near, dot, time, uniform};
use residuum_core::kernels::attribution::{attribution, readout};

const N: usize = 20_000;
const HEADS: usize = 12;
const D_HEAD: usize = 64;
const D: usize = 768;
const M: usize = 16;

fn main() {
    let (z, w_o) = (uniform(1, N * HEADS * D_HEAD), uniform(2, HEADS * D_HEAD * D));
    let directions = uniform(3, D * M);
    let read = readout(&w_o, &directions, HEADS, D_HEAD, D).unwrap();
    let mut out = vec![0.0; N * HEADS * M];
    attribution(&z, &read, None, HEADS, D_HEAD, &mut out).unwrap();
    let head_out: Vec<f32> =
        (0..D).map(|i| dot(&z[..D_HEAD], (0..D_HEAD).map(|j| w_o[j * D + i])) as f32).collect();
    assert_near(f64::from(out[0]), dot(&head_out, (0..D).map(|i| directions[i * M])), 1e-2);
    time("readout", 2.0 * (HEADS * D_HEAD * D * M) as f64, 4 * w_o.len(), || {
        readout(&w_o, &directions, HEADS, D_HEAD, D).unwrap()
    });
    time("attribution", 2.0 * (N * HEADS * D_HEAD * M) as f64, 4 * z.len(), || {
        attribution(&z, &read, None, HEADS, D_HEAD, &mut out).unwrap();
    });
}
