//! Checks at the edge of the kernels: lengths and axes, before anything is computed.

use crate::{Error, Result};

/// The product of axis lengths.
///
/// # Errors
/// If it does not fit in memory's address range.
pub(crate) fn elements(axes: &[usize]) -> Result<usize> {
    axes.iter().try_fold(1_usize, |total, &axis| total.checked_mul(axis)).ok_or_else(|| {
        Error::argument(format!("an array of shape {axes:?} has more elements than can be counted"))
    })
}

/// Refuses an array whose length is not what its axes say.
pub(crate) fn same_len(name: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::Length { what: name.to_owned(), found, expected })
    }
}

/// Refuses two arrays that disagree on an axis they share.
pub(crate) fn same_axis(
    axis: &'static str,
    left: (&'static str, usize),
    right: (&'static str, usize),
) -> Result<()> {
    if left.1 == right.1 { Ok(()) } else { Err(Error::AxisMismatch { axis, left, right }) }
}

/// Number of rows of an array of `len` values with `row_len` values a row.
///
/// # Errors
/// If the values do not divide into whole rows.
pub(crate) fn rows_of(name: &'static str, len: usize, row_len: usize) -> Result<usize> {
    let rows = len.checked_div(row_len).unwrap_or(0);
    same_len(name, len, rows * row_len)?;
    Ok(rows)
}
