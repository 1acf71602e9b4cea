//! Mean and covariance of what each head of a layer has, over rows of a store.

use rayon::prelude::*;

use super::block_rows;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::kernels::moments::Moments;
use crate::store::array::{Rows, SiteArray};

/// Moments of `z / scale` of every head of one layer, with covariance, in one pass.
///
/// `rows` are those to take, in any order; `scale [row]` is what each is divided by.
///
/// # Errors
/// If the site has no heads, `rows` and `scale` differ in length, a row does not fit the budget, or
/// reading fails.
pub fn head_moments(
    site: &SiteArray,
    layer: usize,
    rows: &[u64],
    scale: &[f32],
    budget: usize,
) -> Result<Vec<Moments>> {
    let &[n_head, d_head] = site.spec().inner.as_slice() else {
        return Err(Error::argument(format!("the rows of `{}` are not heads", site.name())));
    };
    if rows.len() != scale.len() {
        let what = "the divisors of rows".to_owned();
        return Err(Error::Length { what, found: scale.len(), expected: rows.len() });
    }
    let row_len = n_head * d_head;
    // A block, and its heads one by one.
    let block = block_rows(site, 8 * row_len, budget)?;
    let mut moments = vec![Moments::new(d_head, true); n_head];
    let mut values = Vec::new();
    for (rows, scale) in rows.chunks(block).zip(scale.chunks(block)) {
        interrupt::check()?;
        values.resize(rows.len() * row_len, 0.0);
        site.read(Rows::Index(rows), &[layer], None, &mut values)?;
        moments.par_iter_mut().enumerate().try_for_each(|(head, moments)| {
            let rows = values.chunks_exact(row_len).zip(scale);
            let scaled = rows.flat_map(|(row, &scale)| {
                row[head * d_head..][..d_head].iter().map(move |value| value / scale)
            });
            moments.push(&scaled.collect::<Vec<f32>>())
        })?;
    }
    Ok(moments)
}
