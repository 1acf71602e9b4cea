//! Which cluster each row is in, from one move of the centres to the next.
//!
//! A row keeps a bound above the distance from its own centre and one below the distance from any
//! other; both are loosened by how far the centres move, and as long as they do not meet, the row
//! stays where it is and nothing is computed (Hamerly 2010, "Making k-means even faster", section
//! 3). Bounds are widened by what rounding can do, so that a row is passed over only where its
//! centre is the nearest.
//!
//! Sums of the clusters are carried along: only rows that change their cluster are added and taken
//! away. Rows are cut into parts by shapes alone and the parts' sums are added in order, so that
//! the number of threads makes no difference.

use rayon::prelude::*;

use super::super::norm::narrow;
use super::NO_CLUSTER;
use super::centres::{Centres, rounding, sure_above, sure_below};
use super::data::{Data, ROW_BLOCK, Scratch};
use crate::Result;
use crate::vector::{self, widest};

/// Bytes of sums beyond which rows are cut into fewer parts.
const SUM_BYTES: usize = 64 << 20;

/// The rows' clusters, the bounds of their distances, and the clusters' sums.
#[derive(Debug)]
pub(super) struct Assignment {
    /// `[row]`
    labels: Vec<u32>,
    bounds: Vec<Bounds>,
    clusters: Clusters,
}

/// Of one row.
#[derive(Debug, Clone, Copy, Default)]
struct Bounds {
    /// At least the distance from the row's own centre.
    upper: f32,
    /// At most the distance from any other centre.
    lower: f32,
}

/// Sums and counts of the rows of each cluster.
#[derive(Debug)]
struct Clusters {
    /// `[cluster, d]` sums of centred rows.
    sums: Vec<f64>,
    counts: Vec<i64>,
    changed: bool,
}

impl Assignment {
    /// No row is in any of `k` clusters yet.
    pub(super) fn new(data: &Data<'_>, k: usize) -> Self {
        Self {
            labels: vec![NO_CLUSTER; data.n_row()],
            bounds: vec![Bounds::default(); data.n_row()],
            clusters: Clusters::empty(k, data.d),
        }
    }

    /// `[row]`
    pub(super) fn into_labels(self) -> Vec<u32> {
        self.labels
    }

    /// Puts every row to its nearest centre; whether any changed its cluster.
    pub(super) fn update(&mut self, data: &Data<'_>, centres: &Centres) -> Result<bool> {
        let parts = (SUM_BYTES / (8 * centres.values.len()).max(1)).clamp(4, 64);
        let part_rows = self.labels.len().div_ceil(parts).next_multiple_of(ROW_BLOCK);
        let rows = self.labels.par_chunks_mut(part_rows).zip(self.bounds.par_chunks_mut(part_rows));
        let parts: Vec<Clusters> = rows
            .enumerate()
            .map(|(part, (labels, bounds))| {
                let change = Clusters::empty(centres.halves.len(), data.d);
                let start = part * part_rows;
                Part { data, centres, start, labels, bounds, change }.update()
            })
            .collect::<Result<_>>()?;
        for part in &parts {
            self.clusters.add(part);
        }
        Ok(parts.iter().any(|part| part.changed))
    }

    /// Moves every centre to the mean of its rows, an empty one to a row far from its centre.
    pub(super) fn move_centres(&self, data: &Data<'_>, centres: &mut Centres) -> Result<()> {
        let counts = &self.clusters.counts;
        let mut moved = centres.values.clone();
        let clusters = moved.chunks_exact_mut(data.d).zip(self.clusters.sums.chunks_exact(data.d));
        for ((centre, sums), &count) in clusters.zip(counts).filter(|(_, count)| **count > 0) {
            centre.iter_mut().zip(sums).for_each(|(c, sum)| *c = narrow(sum / count as f64));
        }
        let empty: Vec<usize> = (0..counts.len()).filter(|&c| counts[c] == 0).collect();
        if !empty.is_empty() {
            let strays = farthest(data, &self.labels, &centres.values, empty.len());
            for (cluster, row) in empty.into_iter().zip(strays) {
                moved[cluster * data.d..(cluster + 1) * data.d]
                    .copy_from_slice(&data.centred_row(row));
            }
        }
        centres.move_to(moved)
    }
}

/// Rows that one task puts to their centres.
struct Part<'a> {
    data: &'a Data<'a>,
    centres: &'a Centres,
    /// The first row.
    start: usize,
    labels: &'a mut [u32],
    bounds: &'a mut [Bounds],
    /// What is added to the clusters, and taken away.
    change: Clusters,
}

impl Part<'_> {
    fn update(mut self) -> Result<Clusters> {
        let mut scratch = Scratch::default();
        let mut unsure = Vec::with_capacity(ROW_BLOCK);
        for at in 0..self.labels.len() {
            if self.data.is_finite(self.start + at) && !self.stays(at) {
                unsure.push(self.start + at);
            }
            if unsure.len() == ROW_BLOCK {
                self.search(&unsure, &mut scratch)?;
                unsure.clear();
            }
        }
        self.search(&unsure, &mut scratch)?;
        Ok(self.change)
    }

    /// Whether the bounds say that a row is still nearest to its own centre.
    fn stays(&mut self, at: usize) -> bool {
        let Some(own) = cluster(self.labels[at]) else { return false };
        let Bounds { upper, lower } = &mut self.bounds[at];
        *upper = sure_above(*upper + self.centres.moves[own]);
        *lower = sure_below(*lower - self.centres.largest_other_move(own));
        let others = lower.max(self.centres.half_gaps[own]);
        if *upper >= others {
            let (row, mean) = (self.data.row(self.start + at), self.data.mean());
            let centre = self.centres.get(own);
            let square = widest!(vector::squared_distance_from(row, mean, centre));
            *upper = sure_above((square * (1.0 + rounding(self.data.d))).sqrt());
        }
        *upper < others
    }

    /// Compares rows with all centres.
    fn search(&mut self, rows: &[usize], scratch: &mut Scratch) -> Result<()> {
        let Self { data, centres, start, labels, bounds, change } = self;
        let visit = |row: usize, centred: &[f32], products: &[f32]| {
            let label = nearest(products, &centres.halves);
            let Some(own) = cluster(label) else { return };
            bounds[row - *start] = Bounds::of(centred, products, own, centres);
            let before = std::mem::replace(&mut labels[row - *start], label);
            if before != label {
                change.put(centred, cluster(before), own);
            }
        };
        data.products(rows.iter().copied(), &centres.values, scratch, visit)
    }
}

impl Bounds {
    /// From the products of a row with all centres, of which `own` is the nearest.
    fn of(row: &[f32], products: &[f32], own: usize, centres: &Centres) -> Self {
        let square = widest!(vector::sum_of_squares(row));
        let error = rounding(row.len()) * (square + centres.largest_square);
        let other = widest!({
            let before = vector::least_difference(&centres.halves[..own], &products[..own]);
            let behind = vector::least_difference(&centres.halves[own + 1..], &products[own + 1..]);
            before.min(behind)
        });
        let own = centres.halves[own] - products[own];
        Self {
            upper: sure_above((square + 2.0 * own + error).max(0.0).sqrt()),
            lower: sure_below((square + 2.0 * other - error).max(0.0).sqrt()),
        }
    }
}

impl Clusters {
    fn empty(k: usize, d: usize) -> Self {
        Self { sums: vec![0.0; k * d], counts: vec![0; k], changed: false }
    }

    fn add(&mut self, other: &Self) {
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, other)| *sum += other);
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, other)| *count += other);
    }

    /// Moves a row between clusters.
    fn put(&mut self, row: &[f32], from: Option<usize>, to: usize) {
        let d = row.len();
        if let Some(from) = from {
            let sums = &mut self.sums[from * d..(from + 1) * d];
            sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum -= f64::from(value));
            self.counts[from] -= 1;
        }
        let sums = &mut self.sums[to * d..(to + 1) * d];
        sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
        self.counts[to] += 1;
        self.changed = true;
    }
}

fn cluster(label: u32) -> Option<usize> {
    usize::try_from(label).ok().filter(|_| label != NO_CLUSTER)
}

/// Index of the least `half - product`, which is half the squared distance less a constant; the
/// lowest of equals.
pub(super) fn nearest(products: &[f32], halves: &[f32]) -> u32 {
    widest!(vector::first_minimum(products, halves))
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
