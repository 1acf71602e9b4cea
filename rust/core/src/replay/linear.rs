//! `x @ w + b`, and what follows it, while its rows are in cache.

use rayon::prelude::*;

use super::activation::Activation;
use super::weight::{Halves, Weight};
use crate::Result;
use crate::kernels::check::{elements, same_axis, same_len};
use crate::kernels::matmul::{MatMut, MatRef, product};
use crate::vector::widest;

/// Rows that one task computes where there are many.
const ROW_BLOCK: usize = 512;
/// With fewer rows than this, tasks are cut along the columns.
const FEW_ROWS: usize = 512;
/// Columns that one task computes where there are few rows, or weights have to be widened.
const COLUMN_BLOCK: usize = 384;

/// What is done with each sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It goes through the activation function, into `out`.
    Put(Activation),
    /// What is in `out` is multiplied by it.
    Multiply,
}

/// Writes `x [row, in] @ weight [in, out] + bias [out]` into `out [row, out]`, on all threads.
///
/// # Errors
/// If lengths disagree.
pub fn linear(
    x: &[f32],
    weight: Weight<'_>,
    bias: Option<&[f32]>,
    then: Then,
    out: &mut [f32],
) -> Result<()> {
    let (d_in, d_out) = weight.shape();
    if let Some(bias) = bias {
        same_axis("out", ("weight", d_out), ("bias", bias.len()))?;
    }
    let n_row = out.len().checked_div(d_out).unwrap_or(0);
    same_len("out", out.len(), elements(&[n_row, d_out])?)?;
    let x = MatRef::new(x, n_row, d_in)?;
    if out.is_empty() {
        return Ok(());
    }
    let after = After { bias, then };
    match weight {
        Weight::F32(w) if n_row >= FEW_ROWS => {
            by_rows(x, w, after, out);
            Ok(())
        }
        Weight::F32(w) => by_columns(x, d_out, after, out, |start, cols, x, part| {
            product(x, w.col_block(start, cols), part);
            Ok(())
        }),
        Weight::Half(halves) => by_columns(x, d_out, after, out, |start, cols, x, part| {
            widened(halves, start, cols, x, part)
        }),
    }
}

/// The bias and what follows.
#[derive(Debug, Clone, Copy)]
struct After<'a> {
    bias: Option<&'a [f32]>,
    then: Then,
}

impl After<'_> {
    /// Finishes `sums`, columns `start ..` of some rows, into `out`, the same part of these rows.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    fn finish(&self, start: usize, sums: &mut [f32], out: Option<&mut [f32]>) {
        if let Some(bias) = self.bias {
            for (sum, &bias) in sums.iter_mut().zip(&bias[start..]) {
                *sum += bias;
            }
        }
        if let Then::Put(activation) = self.then {
            activation.apply(sums);
        }
        match (self.then, out) {
            (_, None) => {}
            (Then::Put(_), Some(out)) => out.copy_from_slice(sums),
            (Then::Multiply, Some(out)) => {
                for (out, &sum) in out.iter_mut().zip(&*sums) {
                    *out *= sum;
                }
            }
        }
    }
}

fn by_rows(x: MatRef<'_>, w: MatRef<'_>, after: After<'_>, out: &mut [f32]) {
    let n = w.cols();
    out.par_chunks_mut(ROW_BLOCK * n).enumerate().for_each(|(block, out)| {
        let rows = out.len() / n;
        let x = x.row_block(block * ROW_BLOCK, rows);
        if after.then == Then::Multiply {
            let mut sums = vec![0.0; out.len()];
            product(x, w, &mut MatMut { data: &mut sums, rows, cols: n, row_stride: n });
            widest!(for (sums, out) in sums.chunks_exact_mut(n).zip(out.chunks_exact_mut(n)) {
                after.finish(0, sums, Some(out));
            });
        } else {
            product(x, w, &mut MatMut { data: out, rows, cols: n, row_stride: n });
            widest!(for out in out.chunks_exact_mut(n) {
                after.finish(0, out, None);
            });
        }
    });
}

/// Column blocks go through scratch: neighbouring blocks interleave in `out`.
fn by_columns(
    x: MatRef<'_>,
    n: usize,
    after: After<'_>,
    out: &mut [f32],
    times: impl Fn(usize, usize, MatRef<'_>, &mut MatMut<'_>) -> Result<()> + Sync,
) -> Result<()> {
    let rows = x.rows();
    let parts: Vec<Vec<f32>> = (0..n.div_ceil(COLUMN_BLOCK))
        .into_par_iter()
        .map(|block| {
            let start = block * COLUMN_BLOCK;
            let cols = COLUMN_BLOCK.min(n - start);
            let mut data = vec![0.0; rows * cols];
            times(start, cols, x, &mut MatMut { data: &mut data, rows, cols, row_stride: cols })?;
            Ok(data)
        })
        .collect::<Result<_>>()?;
    out.par_chunks_mut(n).enumerate().for_each(|(row, out)| {
        widest!(for (block, part) in parts.iter().enumerate() {
            let start = block * COLUMN_BLOCK;
            let cols = COLUMN_BLOCK.min(n - start);
            let mut sums = [0.0; COLUMN_BLOCK];
            sums[..cols].copy_from_slice(&part[row * cols..][..cols]);
            after.finish(start, &mut sums[..cols], Some(&mut out[start..start + cols]));
        });
    });
    Ok(())
}

/// One task's product with weights that are widened for it.
fn widened(
    halves: Halves<'_>,
    start: usize,
    cols: usize,
    x: MatRef<'_>,
    part: &mut MatMut<'_>,
) -> Result<()> {
    let mut wide = Vec::new();
    product(x, halves.columns(start, cols, &mut wide)?, part);
    Ok(())
}
