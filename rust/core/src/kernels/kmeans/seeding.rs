//! Starts by k-means++: each centre is drawn with a chance in proportion to the squared distance
//! from the centres before it; of a few draws the one that lowers the total most is kept.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::super::vector;
use super::pass::{Data, Scratch};
use crate::Result;

/// Rows that one task measures.
const ROW_BLOCK: usize = 256;

/// `[k, d]` centred starting centres, all of them rows of the data.
pub(super) fn seeds(data: &Data<'_>, k: usize, rng: &mut ChaCha8Rng) -> Result<Vec<f32>> {
    let trials = 2 + k.ilog2() as usize / 2;
    let first = any_row(data, rng);
    let mut centres = data.centred_row(first);
    let mut squares = distances(data, &centres)?.concat();
    while centres.len() < k * data.d {
        let candidates: Vec<usize> = (0..trials).map(|_| draw(data, &squares, rng)).collect();
        let rows: Vec<f32> = candidates.iter().flat_map(|&row| data.centred_row(row)).collect();
        let measured = distances(data, &rows)?;
        let (chosen, lowered) = best(&measured, &squares, trials);
        centres.extend(&rows[chosen * data.d..(chosen + 1) * data.d]);
        squares = lowered;
    }
    Ok(centres)
}

/// A finite row, each with the same chance.
fn any_row(data: &Data<'_>, rng: &mut ChaCha8Rng) -> usize {
    let place = rng.random_range(0..data.n_finite());
    (0..data.n_row()).filter(|&row| data.is_finite(row)).nth(place).unwrap_or(0)
}

/// A row with a chance in proportion to its square; any row if all squares are zero.
fn draw(data: &Data<'_>, squares: &[f32], rng: &mut ChaCha8Rng) -> usize {
    let total: f64 = squares.iter().map(|&square| f64::from(square)).sum();
    if total <= 0.0 {
        return any_row(data, rng);
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

/// Squared distances of all rows from a few centred points, in blocks `[row, point]`; 0 for rows
/// that are not finite, so that they are never drawn.
fn distances(data: &Data<'_>, points: &[f32]) -> Result<Vec<Vec<f32>>> {
    let n_point = points.len() / data.d;
    let square = |values: &[f32]| vector::widest(|| vector::sum_by(values, |v| v * v));
    let point_squares: Vec<f64> = points.chunks_exact(data.d).map(square).collect();
    (0..data.n_row().div_ceil(ROW_BLOCK))
        .into_par_iter()
        .map_init(Scratch::default, |scratch, block| {
            let start = block * ROW_BLOCK;
            let rows = start..data.n_row().min(start + ROW_BLOCK);
            let mut out = vec![0.0; rows.len() * n_point];
            data.products(rows, points, scratch, |row, centred, products| {
                let own = square(centred);
                let out = &mut out[(row - start) * n_point..][..n_point];
                for ((out, &product), point) in out.iter_mut().zip(products).zip(&point_squares) {
                    let value = own + point - 2.0 * f64::from(product);
                    *out = super::super::norm::narrow(value.max(0.0));
                }
            })?;
            Ok(out)
        })
        .collect()
}

/// The candidate that leaves the least total of squares (the first of equals), and those squares.
fn best(measured: &[Vec<f32>], squares: &[f32], n_candidate: usize) -> (usize, Vec<f32>) {
    let lowered = |candidate: usize| -> Vec<f32> {
        let distances = measured.iter().flat_map(|block| block.chunks_exact(n_candidate));
        distances.zip(squares).map(|(row, &square)| square.min(row[candidate])).collect()
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
