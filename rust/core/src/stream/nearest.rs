//! The rows of a layer nearest to queries. One query reads chunks from the most promising on, by the smallest and
//! largest values that the store keeps of each, and stops where no chunk can hold a nearer row.

use std::ops::Range;

use super::{block_rows, for_each_block};
use crate::error::Result;
use crate::interrupt;
use crate::kernels::knn::{KnnAccumulator, Metric, Neighbours};
use crate::store::array::{Rows, SiteArray};
use crate::store::statistics::Statistics;

/// Chunks of the first round. Each round is twice the one before, so that a search whose bounds exclude nothing
/// soon works on whole blocks.
const FIRST_ROUND: usize = 2;

/// The `k` rows of one layer nearest to each of `queries [query, d]`, exactly. At most `budget` bytes of rows are
/// in memory.
///
/// # Errors
/// As [`for_each_block`] and [`KnnAccumulator::new`]; for statistics that are missing or altered.
pub fn knn(
    site: &SiteArray,
    layer: usize,
    queries: &[f32],
    metric: Metric,
    k: usize,
    budget: usize,
) -> Result<Neighbours> {
    let d = site.spec().row_len();
    let mut nearest = KnnAccumulator::new(queries, d, metric, k)?;
    let whole_chunks = block_rows(site, 4 * d, budget)? / site.spec().chunk_rows;
    match site.statistics()? {
        // With several queries nearly every chunk is near to one of them.
        Some(kept) if nearest.n_query() == 1 && whole_chunks > 0 => {
            let chunks = ranked(site, layer, &kept, &nearest)?;
            best_first(site, layer, &chunks, whole_chunks, &mut nearest)?;
        }
        _ => for_each_block(site, layer, 0..site.n_row(), budget, |row, block| {
            nearest.push(block, row as u64)
        })?,
    }
    Ok(nearest.finish())
}

/// A chunk and the key that none of its rows exceeds.
type Ranked = (f64, usize);

/// All chunks, the most promising first.
fn ranked(
    site: &SiteArray,
    layer: usize,
    kept: &Statistics,
    nearest: &KnnAccumulator,
) -> Result<Vec<Ranked>> {
    let (d, n_chunk) = (site.spec().row_len(), site.n_row().div_ceil(site.spec().chunk_rows));
    let per_shard = site.spec().shard_chunks();
    let mut chunks = Vec::with_capacity(n_chunk);
    for start in (0..n_chunk).step_by(per_shard) {
        interrupt::check()?;
        let end = (start + per_shard).min(n_chunk);
        let statistics = kept.read(start..end, layer)?;
        for (chunk, of_chunk) in (start..end).zip(statistics.chunks_exact(kept.n_statistic() * d)) {
            let (least, most) = of_chunk[..2 * d].split_at(d);
            chunks.push((nearest.best_key_within(least, most), chunk));
        }
    }
    chunks.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    Ok(chunks)
}

/// Takes in chunks until none that is left can hold a nearer row; at most `most` of them at a time.
fn best_first(
    site: &SiteArray,
    layer: usize,
    chunks: &[Ranked],
    most: usize,
    nearest: &mut KnnAccumulator,
) -> Result<()> {
    let mut buffer = Vec::new();
    let (mut at, mut round) = (0, FIRST_ROUND);
    while at < chunks.len() {
        interrupt::check()?;
        let worst = nearest.worst_key();
        let next = &chunks[at..(at + round.min(most)).min(chunks.len())];
        let n = next.iter().take_while(|(bound, _)| *bound >= worst).count();
        let mut numbers: Vec<u64> = next[..n]
            .iter()
            .flat_map(|&(_, chunk)| rows_of(site, chunk))
            .map(|r| r as u64)
            .collect();
        numbers.sort_unstable();
        buffer.resize(numbers.len() * site.spec().row_len(), 0.0);
        let layers = site.spec().n_layer.map(|_| layer);
        site.read(Rows::Index(&numbers), layers.as_slice(), None, &mut buffer)?;
        nearest.push_numbered(&buffer, |at| numbers[at])?;
        if n < next.len() {
            let left = chunks[at + n..].iter().map(|&(_, chunk)| rows_of(site, chunk).len()).sum();
            nearest.pass_over(left);
            break;
        }
        (at, round) = (at + n, round * 2);
    }
    Ok(())
}

fn rows_of(site: &SiteArray, chunk: usize) -> Range<usize> {
    let first = chunk * site.spec().chunk_rows;
    first..(first + site.spec().chunk_rows).min(site.n_row())
}
