//! The tile loop over the vocabulary, for one block of rows.

use std::ops::Range;

use rayon::prelude::*;

use super::super::matmul::{MatMut, MatRef, product};
use super::row_state::RowState;
use super::{TILE, Unembed};
use crate::vector::{self, widest};

/// One block of rows and everything its statistics depend on.
#[derive(Debug)]
pub(super) struct Block<'a> {
    /// For each layer, rows `[row, d_model]`.
    pub(super) layers: Vec<MatRef<'a>>,
    pub(super) reference: Option<MatRef<'a>>,
    /// The layer that is the reference itself, whose logits need no second product.
    pub(super) same: Option<usize>,
    pub(super) targets: Option<&'a [i32]>,
    pub(super) unembed: Unembed<'a>,
    pub(super) k: usize,
}

/// States of the rows of a block.
#[derive(Debug)]
pub(super) struct Scanned {
    /// `[layer][row]`
    pub(super) layers: Vec<Vec<RowState>>,
    /// `[row]`; empty without a reference.
    pub(super) reference: Vec<RowState>,
}

/// Logits of a tile, and for the reference its weights and the factors of its sums.
#[derive(Debug)]
struct Scratch {
    logits: Vec<f32>,
    reference: Vec<f32>,
    weights: Vec<f32>,
    factors: Vec<f64>,
}

impl Block<'_> {
    /// Statistics over the ranges in `cut`, which together are the vocabulary.
    ///
    /// Ranks need the target's logit before the scan. It is computed by the same product over
    /// gathered columns, which normally gives the very bits that the tile will hold; where it
    /// does not, the scan is done again with the logit that was found in the tile.
    pub(super) fn statistics(&self, cut: &[Range<usize>]) -> Scanned {
        self.settle(cut, &self.assumed())
    }

    /// Scans, and scans again if the target logits turn out not to be `assumed [layer][row]`.
    fn settle(&self, cut: &[Range<usize>], assumed: &[Vec<f32>]) -> Scanned {
        let scanned = self.scan_all(cut, assumed);
        let found = scanned.found();
        let moved = |(a, b): (&Vec<f32>, &Vec<f32>)| {
            a.iter().zip(b).any(|(a, b)| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan()))
        };
        if assumed.iter().zip(&found).any(moved) { self.scan_all(cut, &found) } else { scanned }
    }

    fn rows(&self) -> usize {
        self.layers.first().or(self.reference.as_ref()).map_or(0, MatRef::rows)
    }

    /// Target logits as `[layer][row]`, NaN where there is no target.
    fn assumed(&self) -> Vec<Vec<f32>> {
        let Some(targets) = self.targets else {
            return vec![vec![f32::NAN; self.rows()]; self.layers.len()];
        };
        let gathered = self.unembed.gather(targets);
        let unembed = gathered.unembed(self.unembed);
        let width = unembed.weight.cols();
        let mut logits = vec![0.0; self.rows() * width];
        let logit = |logits: &[f32], row: usize, id: i32| {
            if id < 0 { f32::NAN } else { logits[row * width + row] }
        };
        self.layers
            .iter()
            .map(|&x| {
                unembed.logits(x, 0..width, &mut logits);
                targets.iter().enumerate().map(|(row, &id)| logit(&logits, row, id)).collect()
            })
            .collect()
    }

    fn scan_all(&self, cut: &[Range<usize>], assumed: &[Vec<f32>]) -> Scanned {
        let mut parts: Vec<Scanned> =
            cut.par_iter().map(|vocabulary| self.scan(vocabulary.clone(), assumed)).collect();
        let mut scanned = self.start(assumed);
        for part in parts.drain(..) {
            scanned.absorb(part, self.k);
        }
        scanned
    }

    fn start(&self, assumed: &[Vec<f32>]) -> Scanned {
        let states = |row: &Vec<f32>| row.iter().map(|&logit| RowState::new(logit)).collect();
        let reference = if self.reference.is_some() { self.rows() } else { 0 };
        Scanned {
            layers: assumed.iter().map(states).collect(),
            reference: vec![RowState::new(f32::NAN); reference],
        }
    }

    fn scan(&self, vocabulary: Range<usize>, assumed: &[Vec<f32>]) -> Scanned {
        let mut scanned = self.start(assumed);
        let mut scratch = self.scratch();
        for start in vocabulary.clone().step_by(TILE) {
            let tile = start..vocabulary.end.min(start + TILE);
            self.scan_reference(&tile, &mut scratch, &mut scanned.reference);
            for (layer, states) in scanned.layers.iter_mut().enumerate() {
                self.scan_layer(layer, &tile, &mut scratch, states);
            }
        }
        scanned
    }

    fn scratch(&self) -> Scratch {
        let rows = self.rows();
        let reference = if self.reference.is_some() { rows } else { 0 };
        Scratch {
            logits: vec![0.0; rows * TILE],
            reference: vec![0.0; reference * TILE],
            weights: vec![0.0; reference * TILE],
            factors: vec![1.0; reference],
        }
    }

    fn scan_reference(&self, tile: &Range<usize>, scratch: &mut Scratch, states: &mut [RowState]) {
        let Some(x) = self.reference else { return };
        self.unembed.logits(x, tile.clone(), &mut scratch.reference);
        let width = tile.len();
        widest!({
            let logits = scratch.reference.chunks_exact(width);
            let weights = scratch.weights.chunks_exact_mut(width);
            let rows = states.iter_mut().zip(logits).zip(weights).zip(&mut scratch.factors);
            for (((state, logits), weights), factor) in rows {
                *factor = state.observe_reference(logits, weights);
            }
        });
    }

    fn scan_layer(
        &self,
        layer: usize,
        tile: &Range<usize>,
        scratch: &mut Scratch,
        states: &mut [RowState],
    ) {
        let width = tile.len();
        if self.same != Some(layer) {
            self.unembed.logits(self.layers[layer], tile.clone(), &mut scratch.logits);
        }
        let Scratch { logits, reference, weights, factors } = scratch;
        let logits: &[f32] = if self.same == Some(layer) { reference } else { logits };
        // Token ids are 32-bit, as the tokenizers' are; `check` refuses a larger vocabulary.
        let first = u32::try_from(tile.start).unwrap_or(super::NO_TOKEN);
        widest!({
            for (row, state) in states.iter_mut().enumerate() {
                let at = row * width..(row + 1) * width;
                state.observe(&logits[at.clone()], first, self.k);
                if let Some(&factor) = factors.get(row) {
                    state.observe_cross(
                        &logits[at.clone()],
                        &reference[at.clone()],
                        &weights[at.clone()],
                        factor,
                    );
                }
                if let Some(target) = self.target(row) {
                    state.observe_target(&logits[at], tile.start, target);
                }
            }
        });
    }

    fn target(&self, row: usize) -> Option<usize> {
        self.targets.and_then(|targets| usize::try_from(targets[row]).ok())
    }
}

impl Scanned {
    /// Target logits as the tiles held them, `[layer][row]`.
    pub(super) fn found(&self) -> Vec<Vec<f32>> {
        self.layers.iter().map(|rows| rows.iter().map(|row| row.found).collect()).collect()
    }

    /// Joins a later part of the vocabulary.
    fn absorb(&mut self, later: Self, k: usize) {
        let factors: Vec<(f64, f64)> = self
            .reference
            .iter_mut()
            .zip(later.reference)
            .map(|(state, later)| state.absorb(later, (1.0, 1.0), 0))
            .collect();
        for (states, later) in self.layers.iter_mut().zip(later.layers) {
            for (row, (state, later)) in states.iter_mut().zip(later).enumerate() {
                let factors = factors.get(row).copied().unwrap_or((1.0, 1.0));
                state.absorb(later, factors, k);
            }
        }
    }
}

/// The columns of a few tokens, in the layout of the whole matrix.
#[derive(Debug)]
struct Gathered {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    width: usize,
}

impl Gathered {
    fn unembed<'a>(&'a self, whole: Unembed<'a>) -> Unembed<'a> {
        let weight = whole.weight.with_columns(&self.weight, self.width);
        Unembed { weight, bias: self.bias.as_deref(), ..whole }
    }
}

impl Unembed<'_> {
    /// Columns of `targets` (token 0 for the negative ones), padded to the width of a tile so that
    /// the product takes the path that it takes for tiles.
    fn gather(&self, targets: &[i32]) -> Gathered {
        let width = targets.len().max(TILE.min(self.weight.cols()));
        let padded = targets.iter().copied().chain(std::iter::repeat(0)).take(width);
        let tokens: Vec<usize> = padded.map(|id| usize::try_from(id).unwrap_or(0)).collect();
        let bias = self.bias.map(|bias| tokens.iter().map(|&token| bias[token]).collect());
        Gathered { weight: self.weight.gather_columns(&tokens), bias, width }
    }

    /// Logits of the tokens in `tile` for the rows of `x`, into the start of `out [row, tile]`.
    pub(super) fn logits(&self, x: MatRef<'_>, tile: Range<usize>, out: &mut [f32]) {
        let (rows, width) = (x.rows(), tile.len());
        let out = &mut out[..rows * width];
        let weight = self.weight.col_block(tile.start, width);
        product(x, weight, &mut MatMut { data: out, rows, cols: width, row_stride: width });
        if self.is_plain() {
            return;
        }
        let bias = self.bias.map(|bias| &bias[tile]);
        widest!(out.chunks_exact_mut(width).for_each(|row| self.finish(row, bias)));
    }

    #[allow(clippy::float_cmp, reason = "exactly 1 means that there is nothing to do")]
    fn is_plain(&self) -> bool {
        self.bias.is_none() && self.logit_scale == 1.0 && self.softcap.is_none()
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    fn finish(&self, logits: &mut [f32], bias: Option<&[f32]>) {
        if let Some(bias) = bias {
            logits.iter_mut().zip(bias).for_each(|(logit, &bias)| *logit += bias);
        }
        for logit in &mut *logits {
            *logit *= self.logit_scale;
        }
        if let Some(cap) = self.softcap {
            for logit in logits {
                *logit = cap * vector::tanh(*logit / cap);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_assumption_about_targets_is_corrected() {
        // One feature: logits of row r are (r + 1) * w.
        let w: Vec<f32> = (0_u8..200).map(|id| f32::from(id.wrapping_mul(37) % 199)).collect();
        let (x, targets) = ([1.0, 2.0, 3.0], [5, -1, 199]);
        let block = Block {
            layers: vec![MatRef::new(&x, 3, 1).unwrap()],
            reference: None,
            same: None,
            targets: Some(&targets),
            unembed: Unembed::new(MatRef::new(&w, 1, 200).unwrap()),
            k: 2,
        };
        let cut = [0..100, 100..200];
        let ranks = |scanned: &Scanned| -> Vec<u32> {
            scanned.layers[0].iter().map(|state| state.ahead).collect()
        };
        let wrong = [vec![f32::MAX, f32::NAN, -1.0]];
        let (found, right) = (block.settle(&cut, &wrong), block.statistics(&cut));
        assert_eq!(ranks(&found), ranks(&right));
        let ahead = |target: usize| {
            let ties = w[..target].iter().filter(|&&logit| logit >= w[target]).count();
            ties + w[target + 1..].iter().filter(|&&logit| logit > w[target]).count()
        };
        assert_eq!(right.layers[0][0].ahead as usize, ahead(5));
        assert_eq!(right.layers[0][2].ahead as usize, ahead(199));
        assert_eq!(found.found()[0][2].to_bits(), (3.0 * w[199]).to_bits());
    }
}
