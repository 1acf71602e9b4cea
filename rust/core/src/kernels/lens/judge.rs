//! How far lenses are from the model's own predictions, and what they say on the whole.
//!
//! ```text
//! reference rows ──product──▶ p [row, vocab] ─┐
//! layer rows ────product──▶ logits ───────────┴▶ KL, entropy, top, target; q in place ──▶ sum of q
//! ```
//!
//! One product for each layer: the sum of distributions needs all logits of a row at once, so that
//! those of a few rows are in memory, and everything else is taken from them.

use rayon::prelude::*;

use super::super::check::{same_axis, same_len};
use super::super::matmul::MatRef;
use super::super::norm::narrow;
use super::gradient::{compared, distributions, scale};
use super::{NO_TOKEN, Unembed, check, rows_at};
use crate::Result;
use crate::vector::{self, widest};

/// Rows of one task.
const ROW_BLOCK: usize = 64;
/// Rows whose reference distributions are in memory at once.
const ROWS: usize = 2 * ROW_BLOCK;

/// Where the results of one layer go: arrays `[row]`, and sums over rows.
#[derive(Debug)]
pub struct Judgement<'a> {
    /// `KL(reference || this row)` in nats.
    pub kl: &'a mut [f32],
    /// Entropy of the softmax, in nats.
    pub entropy: &'a mut [f32],
    /// Id of the largest logit; of equal ones the lowest.
    pub top: &'a mut [u32],
    /// Log probability of the row's target in nats; NaN without one.
    pub target_logprob: &'a mut [f32],
    /// `[d_vocab]`, to which the softmax of each row is added.
    pub marginal: &'a mut [f64],
}

/// Judges `layers`, normed rows `[row, d_model]`, by the rows `reference` and by `targets`, tokens,
/// negative for none.
///
/// A row with NaN or infinity gives NaN, no top token, and sums that are NaN. Memory: reference
/// distributions of 128 rows, for each thread the logits of 64, and for each layer two sums. The
/// result does not depend on the number of threads.
///
/// # Errors
/// If axis lengths disagree, or a target is not in the vocabulary.
pub fn lens_judge(
    layers: &[&[f32]],
    reference: &[f32],
    targets: Option<&[i32]>,
    unembed: Unembed<'_>,
    out: &mut [Judgement<'_>],
) -> Result<()> {
    let (d_model, d_vocab) = (unembed.weight.rows(), unembed.weight.cols());
    let n_row = check(layers, Some(reference), targets, unembed)?;
    same_axis("layer", ("layers", layers.len()), ("out", out.len()))?;
    for layer in &*out {
        for len in
            [layer.kl.len(), layer.entropy.len(), layer.top.len(), layer.target_logprob.len()]
        {
            same_len("of each row", len, n_row)?;
        }
        same_axis("d_vocab", ("W_U", d_vocab), ("marginal", layer.marginal.len()))?;
    }
    if d_model == 0 || d_vocab == 0 {
        return Ok(());
    }
    for start in (0..n_row).step_by(ROWS) {
        let rows = start..n_row.min(start + ROWS);
        let (p, negentropy) = distributions(rows_at(reference, &rows, d_model)?, unembed);
        let mut tasks = Vec::new();
        for (layer, (x, out)) in layers.iter().zip(&mut *out).enumerate() {
            let x = rows_at(x, &rows, d_model)?;
            let kl = out.kl[rows.clone()].chunks_mut(ROW_BLOCK);
            let entropy = out.entropy[rows.clone()].chunks_mut(ROW_BLOCK);
            let top = out.top[rows.clone()].chunks_mut(ROW_BLOCK);
            let found = out.target_logprob[rows.clone()].chunks_mut(ROW_BLOCK);
            let each = kl.zip(entropy).zip(top.zip(found)).enumerate();
            for (block, ((kl, entropy), (top, target_logprob))) in each {
                let first = block * ROW_BLOCK;
                let asked = Asked {
                    x: x.row_block(first, kl.len()),
                    p: &p[first * d_vocab..(first + kl.len()) * d_vocab],
                    negentropy: &negentropy[first..first + kl.len()],
                    targets: targets.map(|all| &all[start + first..start + first + kl.len()]),
                };
                tasks.push((layer, asked, Found { kl, entropy, top, target_logprob }));
            }
        }
        let sums: Vec<(usize, Vec<f32>)> = tasks
            .into_par_iter()
            .map_init(Vec::new, |logits, (layer, asked, found)| {
                (layer, asked.judge(unembed, logits, found))
            })
            .collect();
        for (layer, sum) in sums {
            let marginal = out[layer].marginal.iter_mut();
            marginal.zip(sum).for_each(|(total, part)| *total += f64::from(part));
        }
    }
    Ok(())
}

/// Some rows of a layer, and what they are judged by.
#[derive(Debug)]
struct Asked<'a> {
    x: MatRef<'a>,
    p: &'a [f32],
    negentropy: &'a [f32],
    targets: Option<&'a [i32]>,
}

/// Where their results go.
#[derive(Debug)]
struct Found<'a> {
    kl: &'a mut [f32],
    entropy: &'a mut [f32],
    top: &'a mut [u32],
    target_logprob: &'a mut [f32],
}

impl Asked<'_> {
    /// The sum of the rows' distributions, `[d_vocab]`.
    fn judge(&self, unembed: Unembed<'_>, logits: &mut Vec<f32>, found: Found<'_>) -> Vec<f32> {
        let d_vocab = unembed.weight.cols();
        logits.resize(self.x.rows() * d_vocab, 0.0);
        unembed.logits(self.x, 0..d_vocab, logits);
        let mut sum = vec![0.0; d_vocab];
        let Found { kl, entropy, top, target_logprob } = found;
        widest!(for (row, (q, p)) in
            logits.chunks_exact_mut(d_vocab).zip(self.p.chunks_exact(d_vocab)).enumerate()
        {
            let highest = vector::max(q);
            let id = q.iter().position(|&logit| logit.total_cmp(&highest).is_eq());
            top[row] = id.and_then(|id| u32::try_from(id).ok()).unwrap_or(NO_TOKEN);
            let target = self.targets.and_then(|all| usize::try_from(all[row]).ok());
            let below = target.map(|id| f64::from(q[id]) - f64::from(highest));
            let sums = compared(q, p, highest);
            let log = sums.weight.ln();
            let divergence = f64::from(self.negentropy[row]) - sums.cross + log;
            // Rounding may take it below zero; NaN stays.
            kl[row] = narrow(if divergence < 0.0 { 0.0 } else { divergence });
            entropy[row] = narrow(log - sums.weighted / sums.weight);
            target_logprob[row] = below.map_or(f32::NAN, |below| narrow(below - log));
            scale(q, narrow(sums.weight.recip()));
            sum.iter_mut().zip(&*q).for_each(|(sum, q)| *sum += q);
        });
        sum
    }
}
