//! The centres, and what bounds of distances need to know of them.

use rayon::prelude::*;

use super::super::matmul::{MatMut, MatRef, product};
use super::super::norm::narrow;
use super::data::ROW_BLOCK;
use crate::Result;
use crate::vector::{self, widest};

/// The centres of one pass, relative to the mean of all rows.
#[derive(Debug)]
pub(super) struct Centres {
    /// `[cluster, d]`
    pub(super) values: Vec<f32>,
    d: usize,
    /// `[cluster]` half the squared length.
    pub(super) halves: Vec<f32>,
    /// At least the largest squared length.
    pub(super) largest_square: f32,
    /// `[cluster]` at most half the distance from the nearest other centre.
    pub(super) half_gaps: Vec<f32>,
    /// `[cluster]` at least how far the centre has moved since the pass before.
    pub(super) moves: Vec<f32>,
    /// Sum of the squared moves.
    pub(super) squared_moves: f64,
    /// The cluster that moved farthest, and how far the others moved at most.
    farthest: (usize, f32),
}

impl Centres {
    /// Centres that have not moved yet.
    pub(super) fn new(values: Vec<f32>, d: usize) -> Result<Self> {
        let mut centres = Self {
            d,
            halves: Vec::new(),
            largest_square: 0.0,
            half_gaps: Vec::new(),
            moves: vec![0.0; values.len() / d.max(1)],
            squared_moves: 0.0,
            farthest: (0, 0.0),
            values,
        };
        centres.measure()?;
        Ok(centres)
    }

    pub(super) fn get(&self, cluster: usize) -> &[f32] {
        &self.values[cluster * self.d..(cluster + 1) * self.d]
    }

    /// At least how far any centre but `own` has moved.
    pub(super) fn largest_other_move(&self, own: usize) -> f32 {
        let (farthest, others) = self.farthest;
        if own == farthest { others } else { self.moves[farthest] }
    }

    /// Puts the centres somewhere else.
    pub(super) fn move_to(&mut self, values: Vec<f32>) -> Result<()> {
        let pairs = self.values.chunks_exact(self.d).zip(values.chunks_exact(self.d));
        let squares: Vec<f64> =
            pairs.map(|(a, b)| widest!(vector::squared_distance(a, b))).collect();
        self.moves = squares.iter().map(|square| sure_above(narrow(square.sqrt()))).collect();
        self.squared_moves = squares.iter().sum();
        let order = |&a: &usize, &b: &usize| self.moves[a].total_cmp(&self.moves[b]);
        let farthest = (0..self.moves.len()).max_by(order).unwrap_or(0);
        let others = self.moves.iter().enumerate().filter(|(cluster, _)| *cluster != farthest);
        self.farthest = (farthest, others.map(|(_, moved)| *moved).fold(0.0, f32::max));
        self.values = values;
        self.measure()
    }

    fn measure(&mut self) -> Result<()> {
        self.halves = half_squares(&self.values, self.d);
        self.largest_square = sure_above(2.0 * self.halves.iter().copied().fold(0.0, f32::max));
        self.half_gaps = half_gaps(&self.values, self.d, &self.halves, self.largest_square)?;
        Ok(())
    }
}

/// Half the squared length of each centre.
pub(super) fn half_squares(centres: &[f32], d: usize) -> Vec<f32> {
    let half = |centre| widest!(vector::sum_by(centre, |value| value * value)) / 2.0;
    centres.chunks_exact(d).map(|centre| narrow(half(centre))).collect()
}

/// At most half the distance of each centre from the nearest other one.
fn half_gaps(centres: &[f32], d: usize, halves: &[f32], largest_square: f32) -> Result<Vec<f32>> {
    let k = halves.len();
    let error = 2.0 * rounding(d) * largest_square;
    let blocks = centres.par_chunks(ROW_BLOCK * d).enumerate().map(|(block, rows)| {
        let n = rows.len() / d;
        let mut products = vec![0.0; n * k];
        let mut out = MatMut { data: &mut products, rows: n, cols: k, row_stride: k };
        product(MatRef::new(rows, n, d)?, MatRef::transposed(centres, d, k)?, &mut out);
        let gap = |(at, products): (usize, &[f32])| {
            let own = block * ROW_BLOCK + at;
            let others = vector::least_difference(&halves[..own], &products[..own])
                .min(vector::least_difference(&halves[own + 1..], &products[own + 1..]));
            let square = 2.0 * (halves[own] + others) - error;
            sure_below(square.max(0.0).sqrt() / 2.0)
        };
        Ok(products.chunks_exact(k).enumerate().map(gap).collect())
    });
    let blocks: Vec<Vec<f32>> = blocks.collect::<Result<_>>()?;
    Ok(blocks.concat())
}

/// A share of the squared lengths that a squared distance in f32, by products of `d` numbers, is
/// off by at most: each of the d + 4 roundings of its three sums by half a unit of the last place.
pub(super) fn rounding(d: usize) -> f32 {
    2.0 * (d + 8) as f32 * f32::EPSILON
}

/// A little more than `x`, which is not negative and is the result of a few operations.
pub(super) fn sure_above(x: f32) -> f32 {
    x * (1.0 + 4.0 * f32::EPSILON)
}

/// A little less than `x`, where `x` is positive.
pub(super) fn sure_below(x: f32) -> f32 {
    x * (1.0 - 4.0 * f32::EPSILON)
}
