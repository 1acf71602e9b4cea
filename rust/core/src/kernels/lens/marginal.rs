//! The distribution over tokens that rows have together.

use rayon::prelude::*;

use super::super::check::same_axis;
use super::gradient::softmax;
use super::{Unembed, check, rows_at};
use crate::Result;
use crate::vector::widest;

/// Rows of one task.
const ROW_BLOCK: usize = 64;
/// Tasks whose sums are in memory at once.
const TASKS: usize = 32;

/// Adds the softmax of the logits of each of `x`, normed rows `[row, d_model]`, to `sum [d_vocab]`.
///
/// A row with NaN or infinity makes all sums NaN. Memory: for each thread the logits of 64 rows.
///
/// # Errors
/// If axis lengths disagree.
pub fn lens_marginal(x: &[f32], unembed: Unembed<'_>, sum: &mut [f64]) -> Result<()> {
    let (d_model, d_vocab) = (unembed.weight.rows(), unembed.weight.cols());
    let n_row = check(&[x], None, None, unembed)?;
    same_axis("d_vocab", ("W_U", d_vocab), ("sum", sum.len()))?;
    if d_vocab == 0 {
        return Ok(());
    }
    let starts: Vec<usize> = (0..n_row).step_by(ROW_BLOCK).collect();
    for starts in starts.chunks(TASKS) {
        let parts: Vec<Vec<f64>> = starts
            .par_iter()
            .map_init(Vec::new, |logits, &start| {
                let rows = start..n_row.min(start + ROW_BLOCK);
                logits.resize(rows.len() * d_vocab, 0.0_f32);
                unembed.logits(rows_at(x, &rows, d_model)?, 0..d_vocab, logits);
                let mut part = vec![0.0; d_vocab];
                widest!(for p in logits.chunks_exact_mut(d_vocab) {
                    softmax(p);
                    part.iter_mut().zip(&*p).for_each(|(sum, &p)| *sum += f64::from(p));
                });
                Ok(part)
            })
            .collect::<Result<_>>()?;
        for part in parts {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
    }
    Ok(())
}
