//! Losses of lenses and their gradients, for training: blocks of logits, reused for all layers.
//!
//! ```text
//! teacher rows ──product──▶ p [row, vocab] ─┐
//! layer rows ───product──▶ logits ──────────┴▶ loss, (q - p) in place ──product──▶ gradient [row, d_model]
//! ```

use std::ops::Range;

use rayon::prelude::*;

use super::super::check::{same_axis, same_len};
use super::super::matmul::{MatMut, MatRef, product};
use super::super::norm::narrow;
use super::row_state::FLOOR;
use super::{Unembed, check, rows_at};
use crate::Result;
use crate::vector::{self, LANE, widest};

/// Rows of one task.
const ROW_BLOCK: usize = 128;
/// Numbers of the teacher's distributions that are in memory at once, unless one block has more.
const TEACHER: usize = 16 << 20;
/// Terms that are summed in f32 before f64 takes over.
const TILE: usize = 512;

/// What lenses are trained towards.
#[derive(Debug, Clone, Copy)]
pub enum Teacher<'a> {
    /// The distribution of normed rows `[row, d_model]`: the loss is `KL(teacher || lens)`.
    Rows(&'a [f32]),
    /// A token a row, negative for none: cross-entropy. Rows without one have no loss.
    Tokens(&'a [i32]),
}

/// Where the results of one layer go.
#[derive(Debug)]
pub struct Gradient<'a> {
    /// Loss of each row in nats, `[row]`.
    pub loss: &'a mut [f32],
    /// Of each row's loss, by the normed row, `[row, d_model]`.
    pub gradient: &'a mut [f32],
}

/// Losses of `layers`, normed rows `[row, d_model]`, and their gradients.
///
/// A row with NaN or infinity gives NaN. Memory: for each thread the logits of 128 rows, and the
/// teacher's of some hundred. The result does not depend on the number of threads.
///
/// # Errors
/// If axis lengths disagree, or a token is not in the vocabulary.
pub fn lens_gradients(
    layers: &[&[f32]],
    teacher: Teacher<'_>,
    unembed: Unembed<'_>,
    out: &mut [Gradient<'_>],
) -> Result<()> {
    let (d_model, d_vocab) = (unembed.weight.rows(), unembed.weight.cols());
    let (reference, tokens) = match teacher {
        Teacher::Rows(rows) => (Some(rows), None),
        Teacher::Tokens(tokens) => (None, Some(tokens)),
    };
    let n_row = check(layers, reference, tokens, unembed)?;
    same_axis("layer", ("layers", layers.len()), ("out", out.len()))?;
    for layer in &*out {
        same_len("loss", layer.loss.len(), n_row)?;
        same_len("gradient", layer.gradient.len(), n_row * d_model)?;
    }
    if d_model == 0 || d_vocab == 0 {
        return Ok(());
    }
    let step = (TEACHER / d_vocab / ROW_BLOCK).max(1) * ROW_BLOCK;
    for start in (0..n_row).step_by(step) {
        let rows = start..n_row.min(start + step);
        let taught = Taught::new(teacher, &rows, unembed)?;
        let mut tasks = Vec::new();
        for (x, out) in layers.iter().zip(&mut *out) {
            let x = rows_at(x, &rows, d_model)?;
            let losses = out.loss[rows.clone()].chunks_mut(ROW_BLOCK);
            let gradients = out.gradient[rows.start * d_model..rows.end * d_model]
                .chunks_mut(ROW_BLOCK * d_model);
            for (block, (loss, gradient)) in losses.zip(gradients).enumerate() {
                let first = block * ROW_BLOCK;
                tasks.push((first, x.row_block(first, loss.len()), loss, gradient));
            }
        }
        tasks.into_par_iter().for_each_init(Vec::new, |logits, (first, x, loss, gradient)| {
            taught.learn(first, x, unembed, logits, Gradient { loss, gradient });
        });
    }
    Ok(())
}

/// What a few rows are taught.
#[derive(Debug)]
enum Taught<'a> {
    Rows { p: Vec<f32>, negentropy: Vec<f32> },
    Tokens(&'a [i32]),
}

impl<'a> Taught<'a> {
    fn new(teacher: Teacher<'a>, rows: &Range<usize>, unembed: Unembed<'_>) -> Result<Self> {
        let reference = match teacher {
            Teacher::Tokens(tokens) => return Ok(Self::Tokens(&tokens[rows.clone()])),
            Teacher::Rows(reference) => reference,
        };
        let x = rows_at(reference, rows, unembed.weight.rows())?;
        let (p, negentropy) = distributions(x, unembed);
        Ok(Self::Rows { p, negentropy })
    }

    /// Loss and gradient of rows of a layer; `first` is their place among those that are taught.
    fn learn(
        &self,
        first: usize,
        x: MatRef<'_>,
        unembed: Unembed<'_>,
        logits: &mut Vec<f32>,
        out: Gradient<'_>,
    ) {
        let (rows, d_vocab) = (x.rows(), unembed.weight.cols());
        logits.resize(rows * d_vocab, 0.0);
        unembed.logits(x, 0..d_vocab, logits);
        widest!(for (row, (logits, loss)) in
            logits.chunks_exact_mut(d_vocab).zip(&mut *out.loss).enumerate()
        {
            *loss = self.difference(first + row, logits, unembed);
        });
        let d_model = x.cols();
        let difference = MatRef::inside(logits, rows, d_vocab, d_vocab);
        let gradient = &mut MatMut { data: out.gradient, rows, cols: d_model, row_stride: d_model };
        product(difference, unembed.weight.t(), gradient);
    }

    /// The loss of a row; what it gains by each product `x @ weight` takes the place of its logits.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    fn difference(&self, row: usize, logits: &mut [f32], unembed: Unembed<'_>) -> f32 {
        let slopes: Option<Vec<f32>> = unembed
            .softcap
            .map(|cap| logits.iter().map(|logit| 1.0 - (logit / cap) * (logit / cap)).collect());
        let loss = match self {
            Self::Rows { p, negentropy } => {
                let p = &p[row * logits.len()..(row + 1) * logits.len()];
                divergence(logits, p, negentropy[row])
            }
            Self::Tokens(tokens) => surprise(logits, tokens[row]),
        };
        if let Some(slopes) = slopes {
            logits.iter_mut().zip(slopes).for_each(|(logit, slope)| *logit *= slope);
        }
        #[allow(clippy::float_cmp, reason = "exactly 1 means that there is nothing to do")]
        if unembed.logit_scale != 1.0 {
            scale(logits, unembed.logit_scale);
        }
        loss
    }
}

/// The softmax of the logits of normed rows, `[row, d_vocab]`, and of each the sum of `p ln p`.
pub(super) fn distributions(x: MatRef<'_>, unembed: Unembed<'_>) -> (Vec<f32>, Vec<f32>) {
    let d_vocab = unembed.weight.cols();
    let mut p = vec![0.0; x.rows() * d_vocab];
    let mut negentropy = vec![0.0; x.rows()];
    let blocks = p.par_chunks_mut(ROW_BLOCK * d_vocab);
    blocks.zip(negentropy.par_chunks_mut(ROW_BLOCK)).enumerate().for_each(|(at, (p, sums))| {
        unembed.logits(x.row_block(at * ROW_BLOCK, sums.len()), 0..d_vocab, p);
        widest!(for (p, sum) in p.chunks_exact_mut(d_vocab).zip(sums) {
            *sum = softmax(p);
        });
    });
    (p, negentropy)
}

/// Puts `q - p` in the place of logits, q being their softmax; `KL(p || q)`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn divergence(logits: &mut [f32], p: &[f32], negentropy: f32) -> f32 {
    let sums = compared(logits, p, vector::max(logits));
    let share = narrow(sums.weight.recip());
    for (logit, &p) in logits.iter_mut().zip(p) {
        *logit = *logit * share - p;
    }
    narrow(f64::from(negentropy) - sums.cross + sums.weight.ln())
}

/// Of `d`, how far logits are below the largest: the sums of `e = exp(d)`, of `e d` and of `p d`.
#[derive(Debug)]
pub(super) struct Sums {
    pub(super) weight: f64,
    pub(super) weighted: f64,
    pub(super) cross: f64,
}

/// Puts `e` in the place of logits; `top` is the largest.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
pub(super) fn compared(logits: &mut [f32], p: &[f32], top: f32) -> Sums {
    let mut sums = Sums { weight: 0.0, weighted: 0.0, cross: 0.0 };
    for (logits, p) in logits.chunks_mut(TILE).zip(p.chunks(TILE)) {
        let mut weights = [0.0_f32; LANE];
        let mut products = [0.0_f32; LANE];
        let mut crosses = [0.0_f32; LANE];
        let mut add = |lane: usize, logit: &mut f32, p: f32| {
            let distance = *logit - top;
            *logit = share_of(distance);
            weights[lane] += *logit;
            products[lane] += product_of(*logit, distance);
            crosses[lane] += product_of(p, distance);
        };
        let (blocks, rest) = logits.as_chunks_mut::<LANE>();
        let (p_blocks, p_rest) = p.as_chunks::<LANE>();
        for (block, p) in blocks.iter_mut().zip(p_blocks) {
            for (lane, (logit, &p)) in block.iter_mut().zip(p).enumerate() {
                add(lane, logit, p);
            }
        }
        for (lane, (logit, &p)) in rest.iter_mut().zip(p_rest).enumerate() {
            add(lane, logit, p);
        }
        sums.weight += f64::from(vector::total(weights));
        sums.weighted += f64::from(vector::total(products));
        sums.cross += f64::from(vector::total(crosses));
    }
    sums
}

/// Puts `q` less the token's indicator in the place of logits; the token's `-ln q`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn surprise(logits: &mut [f32], token: i32) -> f32 {
    let Ok(token) = usize::try_from(token) else {
        logits.fill(0.0);
        return 0.0;
    };
    let below = f64::from(vector::max(logits)) - f64::from(logits[token]);
    let (weight, _) = exponentials(logits);
    let share = narrow(weight.recip());
    scale(logits, share);
    logits[token] -= 1.0;
    narrow(below + weight.ln())
}

/// Puts the softmax in the place of logits; the sum of `p ln p`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn softmax(logits: &mut [f32]) -> f32 {
    let (weight, weighted) = exponentials(logits);
    let share = narrow(weight.recip());
    scale(logits, share);
    // p ln p = p (logit - top) - p ln weight, and the p of the second sum to 1.
    narrow(weighted / weight - weight.ln())
}

/// Puts `e = exp(d)` in the place of logits, `d` being how far they are below the largest; the sums
/// of `e` and of `e d`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn exponentials(logits: &mut [f32]) -> (f64, f64) {
    let top = vector::max(logits);
    let (mut weight, mut weighted) = (0.0, 0.0);
    for logits in logits.chunks_mut(TILE) {
        let mut weights = [0.0_f32; LANE];
        let mut products = [0.0_f32; LANE];
        let mut add = |lane: usize, logit: &mut f32| {
            let distance = *logit - top;
            *logit = share_of(distance);
            weights[lane] += *logit;
            products[lane] += product_of(*logit, distance);
        };
        let (blocks, rest) = logits.as_chunks_mut::<LANE>();
        for block in blocks {
            block.iter_mut().enumerate().for_each(|(lane, logit)| add(lane, logit));
        }
        rest.iter_mut().enumerate().for_each(|(lane, logit)| add(lane, logit));
        weight += f64::from(vector::total(weights));
        weighted += f64::from(vector::total(products));
    }
    (weight, weighted)
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
pub(super) fn scale(values: &mut [f32], factor: f32) {
    for value in values {
        *value *= factor;
    }
}

/// `exp(distance)`, but zero where that would be no normal number.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn share_of(distance: f32) -> f32 {
    let share = vector::exp(distance);
    if distance < FLOOR { 0.0 } else { share }
}

/// `share * distance`; tokens without a share add nothing, even where their logit is `-inf`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn product_of(share: f32, distance: f32) -> f32 {
    let product = share * distance;
    if share == 0.0 { 0.0 } else { product }
}
