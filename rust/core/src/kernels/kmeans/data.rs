//! The rows that are clustered, and their products with centres.

use rayon::prelude::*;

use super::super::matmul::{MatMut, MatRef, product};
use super::super::norm::narrow;
use super::NO_CLUSTER;
use super::assignment::nearest;
use super::centres::half_squares;
use crate::Result;
use crate::vector::{self, widest};

/// Rows of one product.
pub(super) const ROW_BLOCK: usize = 256;

/// The rows, what they are centred on, and which of them count.
#[derive(Debug)]
pub(super) struct Data<'a> {
    x: &'a [f32],
    pub(super) d: usize,
    finite: Vec<bool>,
    n_finite: usize,
    /// `[d]` mean of the finite rows.
    mean: Vec<f32>,
    /// Sum over features of the variance.
    variance: f64,
}

impl<'a> Data<'a> {
    /// `x [row, d]`, already checked to divide.
    pub(super) fn new(x: &'a [f32], d: usize) -> Self {
        let rows = || x.par_chunks_exact(d.max(1));
        let finite: Vec<bool> = rows().map(|row| widest!(vector::is_finite(row))).collect();
        let n_finite = finite.iter().filter(|&&finite| finite).count();
        let mut data = Self { x, d, finite, n_finite, mean: vec![0.0; d], variance: 0.0 };
        let n = (n_finite as f64).max(1.0);
        data.mean =
            data.sum_features(|value, _| value).into_iter().map(|s| narrow(s / n)).collect();
        let squares = data.sum_features(|value, mean| (value - mean) * (value - mean));
        data.variance = squares.iter().sum::<f64>() / n;
        data
    }

    pub(super) fn n_row(&self) -> usize {
        self.finite.len()
    }

    pub(super) fn n_finite(&self) -> usize {
        self.n_finite
    }

    pub(super) fn is_finite(&self, row: usize) -> bool {
        self.finite[row]
    }

    pub(super) fn mean_variance(&self) -> f64 {
        self.variance / self.d.max(1) as f64
    }

    /// Row `row`, centred.
    pub(super) fn centred_row(&self, row: usize) -> Vec<f32> {
        self.centred(self.row(row))
    }

    /// Rows relative to the mean.
    pub(super) fn centred(&self, rows: &[f32]) -> Vec<f32> {
        let mean = self.mean.iter().cycle();
        rows.iter().zip(mean).map(|(value, mean)| value - mean).collect()
    }

    /// The inverse of [`Self::centred`].
    pub(super) fn uncentred(&self, rows: &[f32]) -> Vec<f32> {
        let mean = self.mean.iter().cycle();
        rows.iter().zip(mean).map(|(value, mean)| value + mean).collect()
    }

    /// Sums over finite rows of `f(value, mean)`, per feature, in the order of rows.
    fn sum_features(&self, f: impl Fn(f64, f64) -> f64 + Sync) -> Vec<f64> {
        let part = |(block, rows): (usize, &[f32])| {
            let mut sums = vec![0.0; self.d];
            for (at, row) in rows.chunks_exact(self.d).enumerate() {
                if self.finite[block * 4096 + at] {
                    for ((sum, &value), &mean) in sums.iter_mut().zip(row).zip(&self.mean) {
                        *sum += f(f64::from(value), f64::from(mean));
                    }
                }
            }
            sums
        };
        let blocks = self.x.par_chunks(4096 * self.d.max(1)).enumerate();
        let parts: Vec<Vec<f64>> = blocks.map(part).collect();
        add_all(self.d, parts)
    }

    /// Row `row`, not centred.
    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        &self.x[row * self.d..(row + 1) * self.d]
    }

    /// `[d]` what rows are centred on.
    pub(super) fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// Products of some rows, centred, with `centres [cluster, d]`, handed over row by row as
    /// `(row, centred row, products)`; rows that are not finite are passed over.
    pub(super) fn products(
        &self,
        rows: impl ExactSizeIterator<Item = usize> + Clone,
        centres: &[f32],
        scratch: &mut Scratch,
        mut visit: impl FnMut(usize, &[f32], &[f32]),
    ) -> Result<()> {
        let (d, k) = (self.d, centres.len() / self.d);
        let n = rows.len();
        scratch.rows.resize(n * d, 0.0);
        scratch.products.resize(n * k, 0.0);
        for (out, row) in scratch.rows.chunks_exact_mut(d).zip(rows.clone()) {
            for ((out, value), mean) in out.iter_mut().zip(self.row(row)).zip(&self.mean) {
                *out = value - mean;
            }
        }
        let mut out = MatMut { data: &mut scratch.products, rows: n, cols: k, row_stride: k };
        product(MatRef::new(&scratch.rows, n, d)?, MatRef::transposed(centres, d, k)?, &mut out);
        let pairs = scratch.rows.chunks_exact(d).zip(scratch.products.chunks_exact(k));
        for (row, (centred, products)) in rows.zip(pairs) {
            if self.finite[row] {
                visit(row, centred, products);
            }
        }
        Ok(())
    }

    /// Nearest of the centred `centres` for every row.
    pub(super) fn labels(&self, centres: &[f32]) -> Result<Vec<u32>> {
        let halves = half_squares(centres, self.d);
        let mut labels = vec![NO_CLUSTER; self.n_row()];
        labels.par_chunks_mut(ROW_BLOCK).enumerate().try_for_each_init(
            Scratch::default,
            |scratch, (block, labels)| {
                let start = block * ROW_BLOCK;
                self.products(start..start + labels.len(), centres, scratch, |row, _, products| {
                    labels[row - start] = nearest(products, &halves);
                })
            },
        )?;
        Ok(labels)
    }

    /// Distances to the rows' own `centres` (not centred), from the definition in f64, and the sum
    /// of their squares.
    pub(super) fn distances(&self, centres: &[f32], labels: &[u32]) -> (Vec<f32>, f64) {
        let square = |(row, &label): (usize, &u32)| {
            let centre = usize::try_from(label).ok().filter(|_| label != NO_CLUSTER)?;
            let centre = &centres[centre * self.d..(centre + 1) * self.d];
            Some(widest!(vector::squared_distance(self.row(row), centre)))
        };
        let squares: Vec<Option<f64>> = labels.par_iter().enumerate().map(square).collect();
        let inertia = squares.iter().flatten().sum();
        let root = |square: &Option<f64>| square.map_or(f32::NAN, |square| narrow(square.sqrt()));
        (squares.iter().map(root).collect(), inertia)
    }
}

/// Buffers that one task uses again and again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    rows: Vec<f32>,
    products: Vec<f32>,
}

fn add_all(len: usize, parts: Vec<Vec<f64>>) -> Vec<f64> {
    let mut total = vec![0.0; len];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(total, value)| *total += value);
    }
    total
}
