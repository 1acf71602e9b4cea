//! Starts by k-means++: each centre is drawn with a chance in proportion to the squared distance
//! from the centres before it; of a few draws the one that lowers the total most is kept.
//!
//! Every draw measures every row, `k` passes in all, so a large set is sampled first: the starts
//! need to be spread, not exact.

use rand::RngExt;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::super::matmul::{MatMut, MatRef, product};
use super::super::norm::narrow;
use super::data::Data;
use crate::vector::{self, widest};
use crate::{Result, interrupt};

/// Rows that one task measures.
const ROW_BLOCK: usize = 512;
/// Sampled rows per centre, if memory allows.
const ROWS_PER_CENTRE: usize = 256;
/// Bytes of the sample, unless the centres need more.
const SAMPLE_BYTES: usize = 64 << 20;

/// Centred rows to draw from.
struct Sample {
    /// `[row, d]`
    rows: Vec<f32>,
    /// `[row]` squared lengths.
    squares: Vec<f64>,
    d: usize,
}

/// `[k, d]` centred starting centres, all of them rows of the data.
pub(super) fn seeds(data: &Data<'_>, k: usize, rng: &mut ChaCha8Rng) -> Result<Vec<f32>> {
    let sample = Sample::draw(data, k, rng);
    let trials = 2 + k.ilog2() as usize / 2;
    let first = rng.random_range(0..sample.squares.len());
    let mut centres = sample.row(first).to_vec();
    let mut squares = sample.distances(&centres)?;
    while centres.len() < k * data.d {
        interrupt::check()?;
        let candidates: Vec<usize> = (0..trials).map(|_| draw(&squares, rng)).collect();
        let rows: Vec<f32> = candidates.iter().flat_map(|&row| sample.row(row).to_vec()).collect();
        let (chosen, lowered) = best(&sample.distances(&rows)?, &squares, trials);
        centres.extend(sample.row(candidates[chosen]));
        squares = lowered;
    }
    Ok(centres)
}

impl Sample {
    /// Finite rows, in their order: all of them, or a random part of a large set.
    fn draw(data: &Data<'_>, k: usize, rng: &mut ChaCha8Rng) -> Self {
        let finite: Vec<usize> = (0..data.n_row()).filter(|&row| data.is_finite(row)).collect();
        let affordable = (SAMPLE_BYTES / (4 * data.d).max(1)).max(4 * k);
        let size = finite.len().min(affordable.min(ROWS_PER_CENTRE * k));
        let mut places = if size < finite.len() {
            index::sample(rng, finite.len(), size).into_vec()
        } else {
            (0..size).collect()
        };
        places.sort_unstable();
        let rows: Vec<f32> =
            places.into_iter().flat_map(|place| data.centred_row(finite[place])).collect();
        let square = |row| widest!(vector::sum_by(row, |value| value * value));
        let squares = rows.chunks_exact(data.d).map(square).collect();
        Self { rows, squares, d: data.d }
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.rows[row * self.d..(row + 1) * self.d]
    }

    /// Squared distances `[row, point]` of all rows from a few centred points `[point, d]`.
    fn distances(&self, points: &[f32]) -> Result<Vec<f32>> {
        let n_point = points.len() / self.d;
        let square = |point| widest!(vector::sum_by(point, |value| value * value));
        let point_squares: Vec<f64> = points.chunks_exact(self.d).map(square).collect();
        let points = MatRef::transposed(points, self.d, n_point)?;
        let mut out = vec![0.0; self.squares.len() * n_point];
        out.par_chunks_mut(ROW_BLOCK * n_point).enumerate().try_for_each(|(block, out)| {
            let (start, rows) = (block * ROW_BLOCK, out.len() / n_point);
            let x = MatRef::new(&self.rows[start * self.d..][..rows * self.d], rows, self.d)?;
            product(x, points, &mut MatMut { data: out, rows, cols: n_point, row_stride: n_point });
            for (out, own) in out.chunks_exact_mut(n_point).zip(&self.squares[start..]) {
                for (value, point) in out.iter_mut().zip(&point_squares) {
                    *value = narrow((own + point - 2.0 * f64::from(*value)).max(0.0));
                }
            }
            Ok(())
        })?;
        Ok(out)
    }
}

/// A row with a chance in proportion to its square; any row if all squares are zero.
fn draw(squares: &[f32], rng: &mut ChaCha8Rng) -> usize {
    let total: f64 = squares.iter().map(|&square| f64::from(square)).sum();
    if total <= 0.0 {
        return rng.random_range(0..squares.len());
    }
    let mut left = rng.random::<f64>() * total;
    let mut last = 0;
    for (row, &square) in squares.iter().enumerate().filter(|(_, square)| **square > 0.0) {
        last = row;
        left -= f64::from(square);
        if left < 0.0 {
            break;
        }
    }
    last
}

/// The candidate that leaves the least total of squares (the first of equals), and those squares.
fn best(distances: &[f32], squares: &[f32], n_candidate: usize) -> (usize, Vec<f32>) {
    let lowered = |candidate: usize| -> Vec<f32> {
        let rows = distances.chunks_exact(n_candidate).zip(squares);
        rows.map(|(row, &square)| square.min(row[candidate])).collect()
    };
    let total = |squares: &[f32]| squares.iter().map(|&square| f64::from(square)).sum::<f64>();
    let mut chosen = (0, lowered(0));
    let mut least = total(&chosen.1);
    for candidate in 1..n_candidate {
        let squares = lowered(candidate);
        let sum = total(&squares);
        if sum < least {
            (chosen, least) = ((candidate, squares), sum);
        }
    }
    chosen
}
