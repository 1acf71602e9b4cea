//! The unembedding and its statistics, tile by tile: no `[row, d_vocab]` array is ever made.
//!
//! ```text
//! lens_layers ── row blocks × vocabulary groups ──▶ scan: product into a tile ──▶ RowState::observe
//!      ▲                                                                              │
//!      └────────────── merge groups, check targets, finish ◀──────────────────────────┘
//! ```
//!
//! A tile is small enough to stay in cache while its statistics are taken.

mod gradient;
mod judge;
mod row_state;
mod scan;

use std::ops::Range;

use rayon::prelude::*;

pub use self::gradient::{Gradient, Teacher, lens_gradients};
pub use self::judge::{Judgement, lens_judge};
use self::row_state::RowState;
use self::scan::{Block, Scanned};
use super::check::{rows_of, same_axis};
use super::matmul::MatRef;
use super::norm::narrow;
use crate::{Error, Result};

/// Rows of a tile.
const ROW_BLOCK: usize = 256;
/// Columns of a tile.
const TILE: usize = 512;
/// With fewer row blocks than this the vocabulary is cut as well. A constant, so that the cut (and
/// with it the last bits of the sums) does not depend on the number of threads.
const MIN_TASKS: usize = 32;

/// In [`LensStats`]: there is no such token or rank.
pub const NO_TOKEN: u32 = u32::MAX;

/// The map from a normed residual row to logits: `cap(scale * (x @ weight + bias))`.
#[derive(Debug, Clone, Copy)]
pub struct Unembed<'a> {
    /// `W_U [d_model, d_vocab]`.
    pub weight: MatRef<'a>,
    /// `b_U [d_vocab]`.
    pub bias: Option<&'a [f32]>,
    /// Factor on the logits; 1 in most models.
    pub logit_scale: f32,
    /// `softcap * tanh(logit / softcap)` where given.
    pub softcap: Option<f32>,
}

impl<'a> Unembed<'a> {
    /// Only a matrix: no bias, scale 1, no cap.
    pub fn new(weight: MatRef<'a>) -> Self {
        Self { weight, bias: None, logit_scale: 1.0, softcap: None }
    }
}

/// What [`lens`] knows about each row. All arrays have one entry a row unless a shape is given.
///
/// A row with NaN (or `+inf`) among its logits has NaN in `lse`, `entropy`, `kl_to_reference`,
/// `target_logprob` and `top_logprobs`, and no rank. Logits that are NaN or `-inf` never enter the
/// top list; places it cannot fill hold [`NO_TOKEN`] and NaN.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LensStats {
    /// Length of the top lists: the `k` asked for, or `d_vocab` if that is less.
    pub k: usize,
    /// `[row, k]` token ids, best first; equal logits by lower id.
    pub top_ids: Vec<u32>,
    /// `[row, k]` logits of `top_ids`.
    pub top_logits: Vec<f32>,
    /// `[row, k]` log probabilities of `top_ids`, in nats.
    pub top_logprobs: Vec<f32>,
    /// Log of the sum of exponentials of all logits.
    pub lse: Vec<f32>,
    /// Entropy of the softmax, in nats.
    pub entropy: Vec<f32>,
    /// `KL(reference || this row)` in nats; empty without a reference.
    pub kl_to_reference: Vec<f32>,
    /// Logit of the row's target; NaN without one. Empty if no targets were given, as are the next
    /// two.
    pub target_logit: Vec<f32>,
    /// Log probability of the row's target, in nats; NaN without one.
    pub target_logprob: Vec<f32>,
    /// Tokens ahead of the target: those with a larger logit, or an equal one and a lower id. 0 is
    /// best; [`NO_TOKEN`] without a target.
    pub target_rank: Vec<u32>,
}

/// Statistics of one residual row set: [`lens_layers`] with a single layer.
///
/// # Errors
/// As [`lens_layers`].
pub fn lens(
    x: &[f32],
    reference: Option<&[f32]>,
    targets: Option<&[i32]>,
    unembed: Unembed<'_>,
    k: usize,
) -> Result<LensStats> {
    let mut stats = lens_layers(&[x], reference, targets, unembed, k)?;
    Ok(stats.pop().unwrap_or_default())
}

/// Statistics of several layers of the same rows, sharing one pass over the reference.
///
/// `layers` are residual rows `[row, d_model]`, already normed. `reference`, same shape, is what
/// `kl_to_reference` compares with (the final layer, for the convention of the tuned lens); if it
/// is the very slice that also stands in `layers`, its logits are computed once. `targets` holds
/// one token id a row, negative for none.
///
/// Memory: about 1.6 MB a thread, and some 200 bytes for each row, layer and part of the vocabulary
/// (one part; up to 32 where rows are few). The result does not depend on the number of threads.
///
/// # Errors
/// If axis lengths disagree, or a target is not in the vocabulary.
pub fn lens_layers(
    layers: &[&[f32]],
    reference: Option<&[f32]>,
    targets: Option<&[i32]>,
    unembed: Unembed<'_>,
    k: usize,
) -> Result<Vec<LensStats>> {
    let (d_model, d_vocab) = (unembed.weight.rows(), unembed.weight.cols());
    let n_row = check(layers, reference, targets, unembed)?;
    let k = k.min(d_vocab);
    let cut = cut(n_row, d_vocab);
    let blocks: Vec<Scanned> = (0..n_row.div_ceil(ROW_BLOCK))
        .into_par_iter()
        .map(|block| {
            let start = block * ROW_BLOCK;
            let rows = start..n_row.min(start + ROW_BLOCK);
            let block = Block {
                layers: layers.iter().map(|x| rows_at(x, &rows, d_model)).collect::<Result<_>>()?,
                reference: reference.map(|x| rows_at(x, &rows, d_model)).transpose()?,
                same: reference
                    .and_then(|x| layers.iter().position(|layer| std::ptr::eq(*layer, x))),
                targets: targets.map(|targets| &targets[rows.clone()]),
                unembed,
                k,
            };
            Ok(block.statistics(&cut))
        })
        .collect::<Result<_>>()?;
    let gather = |layer| gather(&blocks, layer, k, targets.is_some());
    Ok((0..layers.len()).map(gather).collect())
}

/// Some rows of `x [row, d_model]`.
fn rows_at<'a>(x: &'a [f32], rows: &Range<usize>, d_model: usize) -> Result<MatRef<'a>> {
    MatRef::new(&x[rows.start * d_model..rows.end * d_model], rows.len(), d_model)
}

/// Ranges of the vocabulary that one task scans, for each block of rows.
fn cut(n_row: usize, d_vocab: usize) -> Vec<Range<usize>> {
    let parts = MIN_TASKS.div_ceil(n_row.div_ceil(ROW_BLOCK).max(1));
    let tiles = d_vocab.div_ceil(TILE).div_ceil(parts).max(1);
    (0..d_vocab).step_by(tiles * TILE).map(|at| at..d_vocab.min(at + tiles * TILE)).collect()
}

/// Refuses shapes that disagree; the number of rows.
fn check(
    layers: &[&[f32]],
    reference: Option<&[f32]>,
    targets: Option<&[i32]>,
    unembed: Unembed<'_>,
) -> Result<usize> {
    let (d_model, d_vocab) = (unembed.weight.rows(), unembed.weight.cols());
    if let Some(bias) = unembed.bias {
        same_axis("d_vocab", ("W_U", d_vocab), ("b_U", bias.len()))?;
    }
    if u32::try_from(d_vocab).is_err() {
        return Err(Error::argument(format!("d_vocab is {d_vocab}: token ids have 32 bits")));
    }
    let first = layers.first().copied().or(reference).unwrap_or_default();
    let n_row = rows_of("x", first.len(), d_model)?;
    for x in layers.iter().copied().chain(reference) {
        same_axis(
            "row",
            ("x", n_row),
            ("another layer or the reference", rows_of("x", x.len(), d_model)?),
        )?;
    }
    if let Some(targets) = targets {
        same_axis("row", ("x", n_row), ("targets", targets.len()))?;
        let outside = |&&id: &&i32| usize::try_from(id).is_ok_and(|id| id >= d_vocab);
        if let Some(id) = targets.iter().find(outside) {
            return Err(Error::argument(format!(
                "target token {id} is not in the vocabulary of {d_vocab} tokens"
            )));
        }
    }
    Ok(n_row)
}

/// Joins the blocks of one layer.
fn gather(blocks: &[Scanned], layer: usize, k: usize, targeted: bool) -> LensStats {
    let mut stats = LensStats { k, ..LensStats::default() };
    for block in blocks {
        for (row, state) in block.layers[layer].iter().enumerate() {
            stats.push(state, block.reference.get(row));
            if targeted {
                stats.push_target(state);
            }
        }
    }
    stats
}

impl LensStats {
    fn push(&mut self, state: &RowState, reference: Option<&RowState>) {
        let lse = state.lse();
        self.lse.push(narrow(lse));
        self.entropy.push(narrow(state.entropy()));
        for place in 0..self.k {
            let (logit, id) = state.top(place).unwrap_or((f32::NAN, NO_TOKEN));
            self.top_ids.push(id);
            self.top_logits.push(logit);
            self.top_logprobs.push(narrow(f64::from(logit) - lse));
        }
        if let Some(reference) = reference {
            self.kl_to_reference.push(narrow(state.kl(reference)));
        }
    }

    fn push_target(&mut self, state: &RowState) {
        let (logit, lse) = (state.found, state.lse());
        self.target_logit.push(logit);
        self.target_logprob.push(narrow(f64::from(logit) - lse));
        let ranked = !logit.is_nan() && !lse.is_nan();
        self.target_rank.push(if ranked { state.ahead } else { NO_TOKEN });
    }
}
