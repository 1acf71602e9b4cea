//! Matrix products: one helper over the `gemm` microkernels, used by every other kernel.
//!
//! The microkernels write columns, so a row-major product `C = A B` is handed to them as
//! `C^T = B^T A^T`; without that swap they run at about 0.7 of their speed. Blocks are cut by
//! the shapes alone, never by the number of threads, so that results do not depend on it.

use gemm_common::Parallelism;
use rayon::prelude::*;

use super::check::{elements, same_axis, same_len};
use crate::Result;

/// Rows of the destination that one task computes.
const ROW_BLOCK: usize = 512;
/// With fewer rows than this, tasks are cut along the columns: halves of a short row block would
/// each pack the whole right-hand side.
const FEW_ROWS: usize = 256;
/// Columns of the destination that one task computes when there are few rows.
const COLUMN_BLOCK: usize = 768;

/// A borrowed matrix with arbitrary strides, checked against its slice when made.
#[derive(Debug, Clone, Copy)]
pub struct MatRef<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> MatRef<'a> {
    /// `data` holds `[rows, cols]`, row after row.
    ///
    /// # Errors
    /// If the length of `data` is not `rows * cols`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Result<Self> {
        same_len("matrix", data.len(), elements(&[rows, cols])?)?;
        Ok(Self { data, rows, cols, row_stride: cols, col_stride: 1 })
    }

    /// `data` holds `[cols, rows]`, row after row; the matrix is its transpose `[rows, cols]`.
    ///
    /// # Errors
    /// If the length of `data` is not `rows * cols`.
    pub fn transposed(data: &'a [f32], rows: usize, cols: usize) -> Result<Self> {
        same_len("matrix", data.len(), elements(&[rows, cols])?)?;
        Ok(Self { data, rows, cols, row_stride: 1, col_stride: rows })
    }

    /// `[rows, cols]` inside a larger array: rows start `row_stride` apart, columns touch.
    ///
    /// # Errors
    /// If the last element lies outside `data`.
    pub fn with_stride(
        data: &'a [f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<Self> {
        let matrix = Self { data, rows, cols, row_stride, col_stride: 1 };
        same_len("strided matrix", data.len(), data.len().max(matrix.extent()?))?;
        Ok(matrix)
    }

    /// The same where the caller knows that it fits: `product` checks it again.
    pub(crate) fn inside(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The transpose, on the same data.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Elements from the start of `data` to the end of the last element.
    fn extent(&self) -> Result<usize> {
        if self.rows == 0 || self.cols == 0 {
            return Ok(0);
        }
        let last_row = elements(&[self.rows - 1, self.row_stride])?;
        let last_col = elements(&[self.cols - 1, self.col_stride])?;
        Ok(last_row.saturating_add(last_col).saturating_add(1))
    }

    /// Rows `start .. start + rows`; the caller keeps them inside the matrix.
    pub(crate) fn row_block(self, start: usize, rows: usize) -> Self {
        debug_assert!(start + rows <= self.rows, "row block outside the matrix");
        let offset = (start * self.row_stride).min(self.data.len());
        Self { data: &self.data[offset..], rows, ..self }
    }

    /// Columns `start .. start + cols`; the caller keeps them inside the matrix.
    pub(crate) fn col_block(self, start: usize, cols: usize) -> Self {
        debug_assert!(start + cols <= self.cols, "column block outside the matrix");
        let offset = (start * self.col_stride).min(self.data.len());
        Self { data: &self.data[offset..], cols, ..self }
    }

    /// The columns `columns`, copied in the layout of this matrix (see [`Self::with_columns`]).
    pub(crate) fn gather_columns(self, columns: &[usize]) -> Vec<f32> {
        let at = |row: usize, col: usize| self.data[row * self.row_stride + col * self.col_stride];
        if self.col_stride == 1 {
            (0..self.rows).flat_map(|row| columns.iter().map(move |&col| at(row, col))).collect()
        } else {
            columns.iter().flat_map(|&col| (0..self.rows).map(move |row| at(row, col))).collect()
        }
    }

    /// A matrix on `data` with `cols` columns and otherwise the rows and layout of this one.
    pub(crate) fn with_columns(self, data: &'a [f32], cols: usize) -> Self {
        let (row_stride, col_stride) =
            if self.col_stride == 1 { (cols, 1) } else { (1, self.rows) };
        Self { data, rows: self.rows, cols, row_stride, col_stride }
    }
}

/// A borrowed destination whose columns touch and whose rows start `row_stride` apart.
#[derive(Debug)]
pub(crate) struct MatMut<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
}

/// Writes `a [m, k] @ b [k, n]` into `out [m, n]` in the calling thread.
///
/// Shapes are the caller's business inside the kernels; the assertions keep the pointers sound.
pub(crate) fn product(a: MatRef<'_>, b: MatRef<'_>, out: &mut MatMut<'_>) {
    product_or_sum(a, b, out, false);
}

/// Adds `a [m, k] @ b [k, n]` to `out [m, n]`; otherwise like [`product`].
pub(crate) fn add_product(a: MatRef<'_>, b: MatRef<'_>, out: &mut MatMut<'_>) {
    product_or_sum(a, b, out, true);
}

fn product_or_sum(a: MatRef<'_>, b: MatRef<'_>, out: &mut MatMut<'_>, add: bool) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert!(b.rows == k && out.rows == m && out.cols == n, "shapes of a product disagree");
    if m == 0 || n == 0 {
        return;
    }
    assert!(out.row_stride >= n || m == 1, "rows of a destination overlap");
    assert!((m - 1) * out.row_stride + n <= out.data.len(), "destination is too short");
    assert!(a.extent().is_ok_and(|extent| extent <= a.data.len()), "left side is too short");
    assert!(b.extent().is_ok_and(|extent| extent <= b.data.len()), "right side is too short");
    swapped(a, b, out, add);
}

/// The call itself, operands swapped so that the destination has touching columns.
#[allow(unsafe_code, reason = "the microkernels take raw pointers and strides")]
fn swapped(a: MatRef<'_>, b: MatRef<'_>, out: &mut MatMut<'_>, add: bool) {
    // A slice holds at most isize::MAX bytes, and a stride that is used stays inside its slice,
    // so these conversions keep the value; a stride that is never used (one row) may be anything.
    let stride = |value: usize| isize::try_from(value).unwrap_or(0);
    // SAFETY: `product_or_sum` has checked that every element addressed by shape and strides lies inside
    // its slice; `out` is borrowed mutably, so it overlaps neither `a` nor `b`; what it
    // holds is read only if it is added to.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            b.cols,
            a.rows,
            a.cols,
            out.data.as_mut_ptr(),
            stride(out.row_stride),
            1,
            add,
            b.data.as_ptr(),
            stride(b.row_stride),
            stride(b.col_stride),
            a.data.as_ptr(),
            stride(a.row_stride),
            stride(a.col_stride),
            if add { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Writes `a [m, k] @ b [k, n]` into `out [m, n]` (row-major), on all threads of the pool.
///
/// Sums are f32 in an order that depends on the shapes alone. NaN and infinities follow IEEE
/// arithmetic. With `k == 0` the result is zero.
///
/// # Errors
/// If the inner axes differ or `out` does not hold `m * n` values.
pub fn matmul(a: MatRef<'_>, b: MatRef<'_>, out: &mut [f32]) -> Result<()> {
    same_axis("k", ("a", a.cols), ("b", b.rows))?;
    same_len("out", out.len(), elements(&[a.rows, b.cols])?)?;
    if out.is_empty() {
        return Ok(());
    }
    if a.rows < FEW_ROWS && b.cols > COLUMN_BLOCK {
        by_columns(a, b, out);
    } else {
        by_rows(a, b, out);
    }
    Ok(())
}

fn by_rows(a: MatRef<'_>, b: MatRef<'_>, out: &mut [f32]) {
    let n = b.cols;
    out.par_chunks_mut(ROW_BLOCK * n).enumerate().for_each(|(block, out)| {
        let rows = out.len() / n;
        let a = a.row_block(block * ROW_BLOCK, rows);
        product(a, b, &mut MatMut { data: out, rows, cols: n, row_stride: n });
    });
}

/// Column blocks go through scratch: neighbouring blocks interleave in `out`, which safe slices
/// cannot express, and the copy costs 1/k of the product.
fn by_columns(a: MatRef<'_>, b: MatRef<'_>, out: &mut [f32]) {
    let (m, n) = (a.rows, b.cols);
    let blocks: Vec<Vec<f32>> = (0..n.div_ceil(COLUMN_BLOCK))
        .into_par_iter()
        .map(|block| {
            let start = block * COLUMN_BLOCK;
            let cols = COLUMN_BLOCK.min(n - start);
            let mut part = vec![0.0; m * cols];
            let mut view = MatMut { data: &mut part, rows: m, cols, row_stride: cols };
            product(a, b.col_block(start, cols), &mut view);
            part
        })
        .collect();
    for (block, part) in blocks.iter().enumerate() {
        let start = block * COLUMN_BLOCK;
        let cols = part.len() / m;
        for (row, values) in part.chunks_exact(cols).enumerate() {
            out[row * n + start..][..cols].copy_from_slice(values);
        }
    }
}
