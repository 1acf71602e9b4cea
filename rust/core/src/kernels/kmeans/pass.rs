//! One pass over the rows: nearest centres, and the sums that move them.

use rayon::prelude::*;

use super::super::matmul::{MatMut, MatRef, product};
use super::super::norm::narrow;
use super::super::vector;
use super::NO_CLUSTER;
use crate::Result;

/// Rows of one product.
const ROW_BLOCK: usize = 256;
/// Bytes of sums beyond which rows are cut into fewer parts.
const SUM_BYTES: usize = 64 << 20;

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
        let finite: Vec<bool> =
            rows().map(|row| row.iter().all(|value| value.is_finite())).collect();
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
        self.centred(&self.x[row * self.d..(row + 1) * self.d])
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

    /// Products of the centred rows of one block with `centres [cluster, d]`, handed over row by
    /// row as `(row, centred row, products)`; rows that are not finite are passed over.
    pub(super) fn products(
        &self,
        rows: std::ops::Range<usize>,
        centres: &[f32],
        scratch: &mut Scratch,
        mut visit: impl FnMut(usize, &[f32], &[f32]),
    ) -> Result<()> {
        let (d, k) = (self.d, centres.len() / self.d);
        let n = rows.len();
        scratch.rows.resize(n * d, 0.0);
        scratch.products.resize(n * k, 0.0);
        let x = self.x[rows.start * d..rows.end * d].chunks_exact(d);
        for (out, row) in scratch.rows.chunks_exact_mut(d).zip(x) {
            for ((out, value), mean) in out.iter_mut().zip(row).zip(&self.mean) {
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
            let x = &self.x[row * self.d..(row + 1) * self.d];
            let centre = &centres[centre * self.d..(centre + 1) * self.d];
            Some(vector::widest(|| vector::squared_distance(x, centre)))
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

/// Sums and counts of the rows of each cluster.
#[derive(Debug)]
pub(super) struct Pass {
    /// `[cluster, d]` sums of centred rows.
    sums: Vec<f64>,
    counts: Vec<u64>,
    /// Whether any row changed its cluster.
    pub(super) changed: bool,
}

impl Pass {
    /// Assigns every row to the nearest of the centred `centres` and sums up the clusters.
    ///
    /// Rows are cut into parts by shapes alone; the parts' sums are added in order.
    pub(super) fn run(data: &Data<'_>, centres: &[f32], labels: &mut [u32]) -> Result<Self> {
        let halves = half_squares(centres, data.d);
        let parts = (SUM_BYTES / (8 * centres.len()).max(1)).clamp(4, 64);
        let part_rows = labels.len().div_ceil(parts).next_multiple_of(ROW_BLOCK);
        let passes: Vec<Self> = labels
            .par_chunks_mut(part_rows)
            .enumerate()
            .map(|(part, labels)| Self::part(data, centres, &halves, part * part_rows, labels))
            .collect::<Result<_>>()?;
        let mut total = Self::empty(halves.len(), data.d);
        for pass in passes {
            total.sums.iter_mut().zip(&pass.sums).for_each(|(total, sum)| *total += sum);
            total.counts.iter_mut().zip(&pass.counts).for_each(|(total, count)| *total += count);
            total.changed |= pass.changed;
        }
        Ok(total)
    }

    fn empty(k: usize, d: usize) -> Self {
        Self { sums: vec![0.0; k * d], counts: vec![0; k], changed: false }
    }

    fn part(
        data: &Data<'_>,
        centres: &[f32],
        halves: &[f32],
        start: usize,
        labels: &mut [u32],
    ) -> Result<Self> {
        let d = data.d;
        let mut pass = Self::empty(halves.len(), d);
        let mut scratch = Scratch::default();
        for (block, labels) in labels.chunks_mut(ROW_BLOCK).enumerate() {
            let first = start + block * ROW_BLOCK;
            let rows = first..first + labels.len();
            data.products(rows, centres, &mut scratch, |row, centred, products| {
                let label = nearest(products, halves);
                let Ok(cluster) = usize::try_from(label) else { return };
                pass.changed |= labels[row - first] != label;
                labels[row - first] = label;
                pass.counts[cluster] += 1;
                let sums = &mut pass.sums[cluster * d..(cluster + 1) * d];
                sums.iter_mut().zip(centred).for_each(|(sum, &value)| *sum += f64::from(value));
            })?;
        }
        Ok(pass)
    }

    /// Moves every centre to the mean of its rows, an empty one to a row far from its centre.
    /// Returns the sum of squared moves.
    pub(super) fn move_centres(&self, data: &Data<'_>, labels: &[u32], centres: &mut [f32]) -> f64 {
        let empty: Vec<usize> = (0..self.counts.len()).filter(|&c| self.counts[c] == 0).collect();
        let strays = if empty.is_empty() {
            Vec::new()
        } else {
            farthest(data, labels, centres, empty.len())
        };
        let old = centres.to_vec();
        let clusters = centres.chunks_exact_mut(data.d).zip(self.sums.chunks_exact(data.d));
        for ((centre, sums), &count) in clusters.zip(&self.counts).filter(|(_, count)| **count > 0)
        {
            centre.iter_mut().zip(sums).for_each(|(c, sum)| *c = narrow(sum / count as f64));
        }
        for (cluster, row) in empty.into_iter().zip(strays) {
            centres[cluster * data.d..(cluster + 1) * data.d]
                .copy_from_slice(&data.centred_row(row));
        }
        vector::widest(|| vector::squared_distance(&old, centres))
    }
}

/// The `n` rows farthest from their centres, farthest first, equals by lower row; rows that lie on
/// their centre are left out.
fn farthest(data: &Data<'_>, labels: &[u32], centres: &[f32], n: usize) -> Vec<usize> {
    let (distance, _) = data.distances(&data.uncentred(centres), labels);
    let mut rows: Vec<usize> = (0..labels.len()).filter(|&row| distance[row] > 0.0).collect();
    rows.sort_by(|&a, &b| distance[b].total_cmp(&distance[a]).then(a.cmp(&b)));
    rows.truncate(n);
    rows
}

/// Half the squared length of each centre.
fn half_squares(centres: &[f32], d: usize) -> Vec<f32> {
    let half = |centre| vector::widest(|| vector::sum_by(centre, |value| value * value)) / 2.0;
    centres.chunks_exact(d).map(|centre| narrow(half(centre))).collect()
}

/// Index of the least `half - product`, which is half the squared distance less a constant; the
/// lowest of equals.
fn nearest(products: &[f32], halves: &[f32]) -> u32 {
    vector::widest(|| vector::first_minimum(products, halves))
}

fn add_all(len: usize, parts: Vec<Vec<f64>>) -> Vec<f64> {
    let mut total = vec![0.0; len];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(total, value)| *total += value);
    }
    total
}
