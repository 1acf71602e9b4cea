//! What is remembered of one row of logits while its tiles pass by.

use crate::vector::{self, LANE};

/// Differences below this are treated as this: the exponential there is the smallest normal f32.
pub(super) const FLOOR: f32 = -87.3;

/// Running statistics of one row, relative to the largest logit so far.
#[derive(Debug, Clone)]
pub(super) struct RowState {
    /// Largest logit so far.
    max: f32,
    /// Sum of `exp(logit - max)`.
    weight: f64,
    /// Sum of `exp(logit - max) * (logit - max)`.
    weighted: f64,
    /// Sum of `exp(reference - reference max) * (reference - logit)`.
    cross: f64,
    /// Best logits and their ids, best first, at most `k`.
    best: Vec<(f32, u32)>,
    /// Target logit as assumed when counting `ahead`; NaN without a target.
    pub(super) assumed: f32,
    /// Target logit as it stood in its tile; NaN until then.
    pub(super) found: f32,
    /// Tokens ahead of the target if its logit is `assumed`.
    pub(super) ahead: u32,
}

impl RowState {
    pub(super) fn new(assumed: f32) -> Self {
        Self {
            max: f32::NEG_INFINITY,
            weight: 0.0,
            weighted: 0.0,
            cross: 0.0,
            best: Vec::new(),
            assumed,
            found: f32::NAN,
            ahead: 0,
        }
    }

    /// Takes in the logits of tokens `first ..`; the factor by which earlier sums were rescaled.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    pub(super) fn observe(&mut self, logits: &[f32], first: u32, k: usize) -> f64 {
        let top = vector::max(logits);
        let factor = self.raise(top);
        let (weight, weighted) = exponential_sums(logits, self.centre());
        self.weight += weight;
        self.weighted += weighted;
        if self.best.len() < k || self.best.last().is_some_and(|worst| top > worst.0) {
            self.insert_all(logits, first, k);
        }
        factor
    }

    /// As [`Self::observe`] for the reference: also writes `exp(logit - max)` into `weights`.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    pub(super) fn observe_reference(&mut self, logits: &[f32], weights: &mut [f32]) -> f64 {
        let factor = self.raise(vector::max(logits));
        let centre = self.centre();
        for (weight, &logit) in weights.iter_mut().zip(logits) {
            let distance = logit - centre;
            *weight = if distance < FLOOR { 0.0 } else { vector::exp(distance) };
        }
        self.weight += lane_sum(weights);
        factor
    }

    /// Adds the tile's part of the divergence; `factor` rescales what was summed before.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    pub(super) fn observe_cross(
        &mut self,
        logits: &[f32],
        reference: &[f32],
        weights: &[f32],
        factor: f64,
    ) {
        self.cross = self.cross * factor + cross_sum(logits, reference, weights);
    }

    /// Counts the tile's tokens ahead of `target`, whose logit is assumed to be known.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    pub(super) fn observe_target(&mut self, logits: &[f32], first: usize, target: usize) {
        // Equal logits count when their id is lower: above the next number down is "not below".
        let here = target.saturating_sub(first).min(logits.len());
        let (lower, higher) = logits.split_at(here);
        self.ahead += vector::count_above(lower, self.assumed.next_down());
        if target >= first && target < first + logits.len() {
            self.found = higher[0];
            self.ahead += vector::count_above(&higher[1..], self.assumed);
        } else {
            self.ahead += vector::count_above(higher, self.assumed);
        }
    }

    /// Joins the statistics of a later part of the vocabulary. `factors` rescale the two parts of
    /// the divergence, as the reference's [`Self::absorb`] returned them.
    pub(super) fn absorb(&mut self, later: Self, factors: (f64, f64), k: usize) -> (f64, f64) {
        let mine = self.raise(later.max);
        let theirs = rescale(later.max, self.max);
        // A part without a finite logit holds only floor values; its NaN must survive.
        let theirs = if later.max == f32::NEG_INFINITY { 0.0 } else { theirs };
        self.weight += later.weight * theirs;
        let moved = if theirs == 0.0 { 0.0 } else { f64::from(later.max) - f64::from(self.max) };
        self.weighted += (later.weighted + later.weight * moved) * theirs;
        self.cross = self.cross * factors.0 + later.cross * factors.1;
        for (logit, id) in later.best {
            self.insert(logit, id, k);
        }
        if self.found.is_nan() {
            self.found = later.found;
        }
        self.ahead += later.ahead;
        (mine, theirs)
    }

    pub(super) fn top(&self, place: usize) -> Option<(f32, u32)> {
        self.best.get(place).copied()
    }

    /// Log of the sum of exponentials.
    pub(super) fn lse(&self) -> f64 {
        if self.max == f32::NEG_INFINITY {
            f64::NAN
        } else {
            f64::from(self.max) + self.weight.ln()
        }
    }

    /// Entropy of the softmax in nats.
    pub(super) fn entropy(&self) -> f64 {
        let entropy = self.lse() - f64::from(self.max) - self.weighted / self.weight;
        if entropy < 0.0 { 0.0 } else { entropy }
    }

    /// Divergence of `reference` from this row, in nats; rounding below zero is cut off.
    pub(super) fn kl(&self, reference: &Self) -> f64 {
        let kl = self.cross / reference.weight - reference.lse() + self.lse();
        if kl < 0.0 { 0.0 } else { kl }
    }

    /// What logits are taken relative to: the maximum, once there is one.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    fn centre(&self) -> f32 {
        if self.max == f32::NEG_INFINITY { 0.0 } else { self.max }
    }

    /// Makes `top` the maximum if it is larger, rescales the sums, and returns the factor.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    fn raise(&mut self, top: f32) -> f64 {
        if top <= self.max || top.is_nan() {
            return 1.0;
        }
        let factor = rescale(self.max, top);
        if self.max == f32::NEG_INFINITY {
            // Multiplied, not set: NaN stays.
            self.weight *= 0.0;
            self.weighted *= 0.0;
        } else {
            let moved = f64::from(self.max) - f64::from(top);
            self.weighted = (self.weighted + self.weight * moved) * factor;
            self.weight *= factor;
        }
        self.max = top;
        factor
    }

    fn insert_all(&mut self, logits: &[f32], first: u32, k: usize) {
        for (logit, id) in logits.iter().copied().zip(first..) {
            if logit > f32::NEG_INFINITY {
                self.insert(logit, id, k);
            }
        }
    }

    /// Keeps the list sorted; ids arrive in ascending order, so an equal logit goes behind.
    fn insert(&mut self, logit: f32, id: u32, k: usize) {
        if self.best.len() == k {
            if self.best.last().is_none_or(|worst| logit <= worst.0) {
                return;
            }
            self.best.pop();
        }
        let place = self.best.partition_point(|better| better.0 >= logit);
        self.best.insert(place, (logit, id));
    }
}

/// `exp(from - to)`; 0 where nothing was summed yet.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn rescale(from: f32, to: f32) -> f64 {
    if from == f32::NEG_INFINITY { 0.0 } else { (f64::from(from) - f64::from(to)).exp() }
}

/// Sums of `e` and `e * d` with `d = logit - centre`, `e = exp(d)`.
///
/// Lanes are f32 over one tile (at most 32 terms each) and f64 from there on.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn exponential_sums(logits: &[f32], centre: f32) -> (f64, f64) {
    let mut weight = [0.0_f32; LANE];
    let mut weighted = [0.0_f32; LANE];
    let mut add = |lane: usize, logit: f32| {
        let distance = logit - centre;
        let distance = if distance < FLOOR { FLOOR } else { distance };
        let exponential = vector::exp(distance);
        weight[lane] += exponential;
        weighted[lane] += exponential * distance;
    };
    let (blocks, rest) = logits.as_chunks::<LANE>();
    for block in blocks {
        for (lane, &logit) in block.iter().enumerate() {
            add(lane, logit);
        }
    }
    for (lane, &logit) in rest.iter().enumerate() {
        add(lane, logit);
    }
    let total = |lanes: [f32; LANE]| lanes.iter().map(|&lane| f64::from(lane)).sum();
    (total(weight), total(weighted))
}

/// Sum with the lanes of [`exponential_sums`], so that a row compared with itself gives the same.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn lane_sum(weights: &[f32]) -> f64 {
    let mut lanes = [0.0_f32; LANE];
    let (blocks, rest) = weights.as_chunks::<LANE>();
    for block in blocks {
        lanes.iter_mut().zip(block).for_each(|(lane, &weight)| *lane += weight);
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, &weight)| *lane += weight);
    lanes.iter().map(|&lane| f64::from(lane)).sum()
}

/// Sum of `weight * (reference - logit)`; tokens the reference gives no weight add nothing, even
/// where both logits are `-inf`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn cross_sum(logits: &[f32], reference: &[f32], weights: &[f32]) -> f64 {
    let mut lanes = [0.0_f32; LANE];
    let term = |logit: f32, reference: f32, weight: f32| {
        let product = weight * (reference - logit);
        if weight == 0.0 { 0.0 } else { product }
    };
    let (logit_blocks, logit_rest) = logits.as_chunks::<LANE>();
    let (reference_blocks, reference_rest) = reference.as_chunks::<LANE>();
    let (weight_blocks, weight_rest) = weights.as_chunks::<LANE>();
    for ((x, y), w) in logit_blocks.iter().zip(reference_blocks).zip(weight_blocks) {
        for (((lane, &x), &y), &w) in lanes.iter_mut().zip(x).zip(y).zip(w) {
            *lane += term(x, y, w);
        }
    }
    let rest = logit_rest.iter().zip(reference_rest).zip(weight_rest);
    for (lane, ((&x, &y), &w)) in lanes.iter_mut().zip(rest) {
        *lane += term(x, y, w);
    }
    lanes.iter().map(|&lane| f64::from(lane)).sum()
}
