//! Rows picked from two arrays.

use rayon::prelude::*;

use crate::kernels::check::{elements, rows_of, same_len};
use crate::{Error, Result};

/// Rows that one task copies.
const ROW_BLOCK: usize = 64;

/// Writes rows of `first` and `second`, one after the other `[row, width]`, into `out`: those that
/// `index` names.
///
/// # Errors
/// If lengths disagree, or there is no such row.
pub fn gather(
    first: &[f32],
    second: &[f32],
    index: &[i64],
    width: usize,
    out: &mut [f32],
) -> Result<()> {
    let n_first = rows_of("first", first.len(), width)?;
    let n_row = n_first + rows_of("second", second.len(), width)?;
    same_len("out", out.len(), elements(&[index.len(), width])?)?;
    let place = |&row: &i64| usize::try_from(row).ok().filter(|&row| row < n_row);
    if let Some(row) = index.iter().find(|row| place(row).is_none()) {
        return Err(Error::argument(format!("no row {row} among {n_row}")));
    }
    if out.is_empty() {
        return Ok(());
    }
    out.par_chunks_mut(ROW_BLOCK * width).zip(index.par_chunks(ROW_BLOCK)).for_each(
        |(out, index)| {
            for (out, row) in out.chunks_exact_mut(width).zip(index.iter().filter_map(place)) {
                let (from, row) =
                    if row < n_first { (first, row) } else { (second, row - n_first) };
                out.copy_from_slice(&from[row * width..][..width]);
            }
        },
    );
    Ok(())
}
