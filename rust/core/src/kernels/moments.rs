//! Mean, variance and covariance of rows, in one pass over blocks, mergeable.
//!
//! Products of raw values lose digits when the mean is far from zero (3e-4 of a covariance in
//! f32), so everything is taken relative to a shift, the mean of the first block. Products of one
//! block are f32, their sum over blocks f64.

use rayon::prelude::*;

use super::check::{rows_of, same_axis};
use super::matmul::{MatMut, MatRef, product};
use super::norm::narrow;
use crate::vector::{self, widest};
use crate::{Error, Result};

/// Rows of one f32 product.
const ROW_BLOCK: usize = 2048;
/// Rows whose sums one task adds up.
const PART: usize = 128;
/// Side of the squares into which the covariance is cut; only those on and above the diagonal are
/// computed.
const SQUARE: usize = 192;

/// Running moments of rows of `d` features. Rows with NaN or infinity are left out and counted.
#[derive(Debug, Clone)]
pub struct Moments {
    d: usize,
    count: u64,
    skipped: u64,
    /// What is subtracted from every row; set by the first block.
    shift: Option<Vec<f32>>,
    /// `[d]` sums of shifted values.
    sum: Vec<f64>,
    /// `[d]` sums of squared shifted values.
    square: Vec<f64>,
    /// Sums of products of shifted values; empty unless the covariance is wanted.
    products: Vec<Square>,
    /// The shifted rows of a block, `[row, d]`; kept for the next block's.
    shifted: Vec<f32>,
}

/// Sums of some shifted rows, `[d]` each.
struct Sums {
    sum: Vec<f64>,
    square: Vec<f64>,
}

/// One square of the covariance, rows from `row`, columns from `col`.
#[derive(Debug, Clone)]
struct Square {
    row: usize,
    col: usize,
    rows: usize,
    cols: usize,
    /// `[rows, cols]`
    sums: Vec<f64>,
}

impl Moments {
    /// No rows yet. Without `covariance`, only mean and variance are kept: `d` numbers, not `d^2`.
    pub fn new(d: usize, covariance: bool) -> Self {
        let starts = (0..d).step_by(SQUARE);
        let pairs = starts.clone().flat_map(|row| {
            starts.clone().filter(move |&col| covariance && col >= row).map(move |col| (row, col))
        });
        let side = |start: usize| SQUARE.min(d - start);
        let products = pairs.map(|(row, col)| {
            let (rows, cols) = (side(row), side(col));
            Square { row, col, rows, cols, sums: vec![0.0; rows * cols] }
        });
        let (sum, square) = (vec![0.0; d], vec![0.0; d]);
        let (products, shifted) = (products.collect(), Vec::new());
        Self { d, count: 0, skipped: 0, shift: None, sum, square, products, shifted }
    }

    /// Takes in `rows [row, d]`.
    ///
    /// # Errors
    /// If `rows` does not divide into rows of `d`.
    pub fn push(&mut self, rows: &[f32]) -> Result<()> {
        rows_of("rows", rows.len(), self.d)?;
        if rows.is_empty() {
            return Ok(());
        }
        for block in rows.chunks(ROW_BLOCK * self.d) {
            self.push_block(block)?;
        }
        Ok(())
    }

    fn push_block(&mut self, rows: &[f32]) -> Result<()> {
        let d = self.d;
        let finite = |row: &&[f32]| widest!(vector::is_finite(row));
        let kept: Vec<&[f32]> = rows.par_chunks_exact(d).filter(finite).collect();
        self.skipped += (rows.len() / d - kept.len()) as u64;
        if kept.is_empty() {
            return Ok(());
        }
        let shift = self.shift.get_or_insert_with(|| mean(&kept, d));
        self.count += kept.len() as u64;
        self.shifted.resize(kept.len() * d, 0.0);
        let parts = self.shifted.par_chunks_mut(PART * d).zip(kept.par_chunks(PART));
        let parts: Vec<Sums> = parts.map(|(out, rows)| Sums::of(rows, shift, out)).collect();
        for part in parts {
            self.sum.iter_mut().zip(part.sum).for_each(|(sum, part)| *sum += part);
            self.square.iter_mut().zip(part.square).for_each(|(square, part)| *square += part);
        }
        let shifted = MatRef::new(&self.shifted, kept.len(), d)?;
        self.products.par_iter_mut().for_each(|square| square.add(shifted));
        Ok(())
    }

    /// Joins the moments of other rows.
    ///
    /// # Errors
    /// If the two differ in `d` or in whether they keep a covariance.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        same_axis("d", ("moments", self.d), ("other moments", other.d))?;
        if self.products.is_empty() != other.products.is_empty() {
            return Err(Error::argument("only one of the moments to merge keeps a covariance"));
        }
        self.skipped += other.skipped;
        let Some(other_shift) = &other.shift else { return Ok(()) };
        let shift = self.shift.get_or_insert_with(|| other_shift.clone());
        let pairs = other_shift.iter().zip(shift.iter());
        let moved: Vec<f64> = pairs.map(|(&from, &to)| f64::from(from) - f64::from(to)).collect();
        let n = other.count as f64;
        self.products.iter_mut().zip(&other.products).for_each(|(mine, theirs)| {
            mine.merge(theirs, &moved, &other.sum, n);
        });
        for (i, &moved) in moved.iter().enumerate() {
            self.square[i] += other.square[i] + moved * (2.0 * other.sum[i] + n * moved);
            self.sum[i] += other.sum[i] + n * moved;
        }
        self.count += other.count;
        Ok(())
    }

    /// Rows taken in, without the skipped ones.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Rows left out because of NaN or infinity.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// `[d]` means; NaN without rows.
    pub fn mean(&self) -> Vec<f64> {
        let n = self.count as f64;
        let shift = self.shift.iter().flatten().map(|&shift| f64::from(shift));
        let shift = shift.chain(std::iter::repeat(0.0));
        self.sum.iter().zip(shift).map(|(sum, shift)| shift + sum / n).collect()
    }

    /// `[d]` variances, sums of squares divided by `count - ddof`; NaN where that is not positive.
    pub fn variance(&self, ddof: u64) -> Vec<f64> {
        let (n, divisor) = (self.count as f64, self.divisor(ddof));
        let squares = self.square.iter().zip(&self.sum);
        squares.map(|(square, sum)| (square - sum * sum / n).max(0.0) / divisor).collect()
    }

    /// `[d, d]` covariance, sums of products divided by `count - ddof`; NaN where that is not
    /// positive.
    ///
    /// # Errors
    /// If these moments were made without covariance.
    pub fn covariance(&self, ddof: u64) -> Result<Vec<f64>> {
        if self.products.is_empty() && self.d > 0 {
            return Err(Error::argument("these moments were made without covariance"));
        }
        let (n, divisor) = (self.count as f64, self.divisor(ddof));
        let mut out = vec![0.0; self.d * self.d];
        for square in &self.products {
            for (at, product) in square.sums.iter().enumerate() {
                let (i, j) = (square.row + at / square.cols, square.col + at % square.cols);
                let value = (product - self.sum[i] * self.sum[j] / n) / divisor;
                out[i * self.d + j] = value;
                out[j * self.d + i] = value;
            }
        }
        Ok(out)
    }

    fn divisor(&self, ddof: u64) -> f64 {
        if self.count > ddof { (self.count - ddof) as f64 } else { f64::NAN }
    }
}

impl Sums {
    /// Writes `rows` less `shift` to `out`, and adds them up.
    fn of(rows: &[&[f32]], shift: &[f32], out: &mut [f32]) -> Self {
        let d = shift.len();
        let mut sums = Self { sum: vec![0.0; d], square: vec![0.0; d] };
        widest!({
            for (row, out) in rows.iter().zip(out.chunks_exact_mut(d)) {
                let values = row.iter().zip(shift).zip(out);
                let sums = sums.sum.iter_mut().zip(&mut sums.square);
                for (((&value, &shift), out), (sum, square)) in values.zip(sums) {
                    *out = value - shift;
                    let exact = f64::from(value) - f64::from(shift);
                    *sum += exact;
                    *square += exact * exact;
                }
            }
        });
        sums
    }
}

impl Square {
    /// Adds the products of one block of shifted rows.
    fn add(&mut self, shifted: MatRef<'_>) {
        let (left, right) =
            (shifted.col_block(self.row, self.rows), shifted.col_block(self.col, self.cols));
        let mut block = vec![0.0; self.rows * self.cols];
        let mut out =
            MatMut { data: &mut block, rows: self.rows, cols: self.cols, row_stride: self.cols };
        product(left.t(), right, &mut out);
        widest!({
            self.sums.iter_mut().zip(&block).for_each(|(sum, &value)| *sum += f64::from(value));
        });
    }

    /// Adds another square whose values were shifted by `moved` less.
    fn merge(&mut self, other: &Self, moved: &[f64], sum: &[f64], n: f64) {
        for (at, (mine, theirs)) in self.sums.iter_mut().zip(&other.sums).enumerate() {
            let (i, j) = (self.row + at / self.cols, self.col + at % self.cols);
            *mine += theirs + sum[i] * moved[j] + moved[i] * sum[j] + n * moved[i] * moved[j];
        }
    }
}

/// Mean of some rows, rounded to f32: any value near it would do as a shift.
fn mean(rows: &[&[f32]], d: usize) -> Vec<f32> {
    let mut sum = vec![0.0_f64; d];
    for row in rows {
        sum.iter_mut().zip(*row).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    sum.into_iter().map(|sum| narrow(sum / rows.len() as f64)).collect()
}
