//! Runs kernels over the rows of a store within a memory budget: the only place both meet.
//!
//! ```text
//! for_each_block ── one layer of a site, block after block, f32 ──▶ moments, cluster
//! chunk statistics ── which chunks can hold a nearest row ──▶ knn
//! Readout, residual ── how a store goes from stream to logits ──▶ lens, head_logits
//! Translators ── what a tuned lens does before that ──▶ SQL
//! ```
//!
//! A block has as many rows as the budget allows, in whole chunks, so that no chunk is read twice.

mod head_moments;
mod heads;
mod lens;
mod nearest;
mod projection;
mod readout;
mod tuned;

use std::ops::Range;

pub use self::head_moments::head_moments;
pub use self::heads::{HeadLogits, head_logits};
pub use self::lens::{LensBlock, lens};
pub use self::nearest::knn;
pub use self::projection::Projection;
pub use self::readout::{Readout, Residual, final_residual, residual};
pub use self::tuned::Translators;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::kernels::kmeans::{Kmeans, KmeansOptions, assign, kmeans};
use crate::kernels::moments::Moments;
use crate::store::array::SiteArray;

/// Rows of a block such that `bytes_per_row` fits `budget` for all of them: whole chunks, at most
/// `n_row`.
///
/// # Errors
/// If not even one row fits.
fn block_rows(site: &SiteArray, bytes_per_row: usize, budget: usize) -> Result<usize> {
    let fitting = budget / bytes_per_row.max(1);
    if fitting == 0 {
        return Err(Error::Budget { array: site.name().to_owned(), budget, needed: bytes_per_row });
    }
    let chunk = site.spec().chunk_rows.max(1);
    Ok(if fitting > chunk { fitting / chunk * chunk } else { fitting })
}

/// Cuts `rows` at multiples of `block`, counted from row 0, so that blocks begin where chunks do.
fn blocks(rows: Range<usize>, block: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = rows.start;
    std::iter::from_fn(move || {
        let end = ((start / block + 1) * block).min(rows.end);
        let found = (start < rows.end).then_some(start..end);
        start = end;
        found
    })
}

/// Calls `work` with the first row and the values `[row, row_len]` of block after block of one
/// layer (`layer` is 0 where the site has no layer axis). One block is in memory, at most `budget`
/// bytes.
///
/// # Errors
/// If a row does not fit the budget, reading fails, or `work` returns an error.
pub fn for_each_block(
    site: &SiteArray,
    layer: usize,
    rows: Range<usize>,
    budget: usize,
    mut work: impl FnMut(usize, &[f32]) -> Result<()>,
) -> Result<()> {
    let row_len = site.spec().row_len();
    let block = block_rows(site, 4 * row_len, budget)?;
    let mut buffer = Vec::new();
    for rows in blocks(rows, block) {
        interrupt::check()?;
        buffer.resize(rows.len() * row_len, 0.0);
        site.read_block_f32(rows.clone(), layer, &mut buffer)?;
        work(rows.start, &buffer)?;
    }
    Ok(())
}

/// Mean and variance, and the covariance where wanted, of the rows of one layer.
///
/// # Errors
/// As [`for_each_block`].
pub fn moments(
    site: &SiteArray,
    layer: usize,
    rows: Range<usize>,
    covariance: bool,
    budget: usize,
) -> Result<Moments> {
    let mut moments = Moments::new(site.spec().row_len(), covariance);
    for_each_block(site, layer, rows, budget, |_, block| moments.push(block))?;
    Ok(moments)
}

/// Clusters the rows of one layer.
///
/// The centres are found on all rows if they fit the budget, else on evenly spaced rows that do;
/// labels, distances and inertia are those of all rows either way. The second value is the number
/// of rows behind the centres.
///
/// # Errors
/// As [`for_each_block`] and [`kmeans`].
pub fn cluster(
    site: &SiteArray,
    layer: usize,
    options: KmeansOptions,
    budget: usize,
) -> Result<(Kmeans, usize)> {
    let (n_row, row_len) = (site.n_row(), site.spec().row_len());
    // Half for the sample, half for the block that is read.
    let fitting = block_rows(site, 4 * row_len, budget / 2)?;
    let step = n_row.div_ceil(fitting).max(1);
    let mut sample = Vec::with_capacity(n_row.div_ceil(step) * row_len);
    for_each_block(site, layer, 0..n_row, budget / 2, |first, block| {
        for (row, values) in (first..).zip(block.chunks_exact(row_len)) {
            if row % step == 0 {
                sample.extend_from_slice(values);
            }
        }
        Ok(())
    })?;
    let mut result = kmeans(&sample, row_len, options)?;
    let n_sample = n_row.div_ceil(step);
    if step > 1 {
        drop(sample);
        (result.labels, result.distance, result.inertia) = (Vec::new(), Vec::new(), 0.0);
        for_each_block(site, layer, 0..n_row, budget, |_, block| {
            let (labels, distance, inertia) = assign(block, row_len, &result.centres)?;
            result.labels.extend(labels);
            result.distance.extend(distance);
            result.inertia += inertia;
            Ok(())
        })?;
    }
    Ok((result, n_sample))
}
