//! Lloyd's k-means with k-means++ starts; the distances come from matrix products.
//!
//! ```text
//! kmeans ── n_init × seeds ──▶ lloyd: Assignment::update ──▶ move centres ──▶ …
//!                                     once more, with exact distances
//! ```
//!
//! Rows are centred on the mean of all rows block by block, in scratch, so that a common offset
//! (large in residual streams) costs no digits in the products.

mod assignment;
mod centres;
mod data;
mod seeding;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use self::assignment::Assignment;
use self::centres::Centres;
use self::data::Data;
use super::check::{elements, rows_of};
use crate::{Error, Result, interrupt};

/// In [`Kmeans::labels`]: the row has NaN or infinity and belongs to no cluster.
pub const NO_CLUSTER: u32 = u32::MAX;

/// Settings of [`kmeans`].
#[derive(Debug, Clone, Copy)]
pub struct KmeansOptions {
    /// Number of clusters.
    pub k: usize,
    /// Seed of the starts: the same seed gives the same clusters.
    pub seed: u64,
    /// Runs from different starts; the one with the least inertia is kept (the first of equals).
    pub n_init: usize,
    /// Moves of the centres in one run, at most.
    pub max_iter: usize,
    /// A run ends when the centres move (sum of squares) by no more than this times the mean
    /// variance of the features, or when no row changes its cluster.
    pub tol: f64,
}

/// Clusters of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Kmeans {
    /// `[cluster, d]`
    pub centres: Vec<f32>,
    /// `[row]` nearest centre, the lowest of equals; [`NO_CLUSTER`] for rows with NaN or infinity.
    pub labels: Vec<u32>,
    /// `[row]` distance to the row's centre; NaN for rows without one.
    pub distance: Vec<f32>,
    /// Sum of squared distances.
    pub inertia: f64,
    /// Moves of the centres in the run that was kept.
    pub n_iter: usize,
}

/// Clusters `x [row, d]`.
///
/// A centre that loses all rows is put on the row farthest from its own centre. The starts of a
/// large set are drawn from a sample of 256 rows a centre. Memory: some 16 bytes a row, at most 64
/// MB (or four times the centres) for the sample, and as much in f64 for sums.
///
/// # Errors
/// If `x` does not divide into rows of `d`, `k`, `n_init` or `max_iter` is 0, or fewer than `k`
/// rows are finite.
pub fn kmeans(x: &[f32], d: usize, options: KmeansOptions) -> Result<Kmeans> {
    let data = data(x, d, options)?;
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut best: Option<Kmeans> = None;
    for _ in 0..options.n_init {
        let run = lloyd(&data, seeding::seeds(&data, options.k, &mut rng)?, options)?;
        if best.as_ref().is_none_or(|best| run.inertia < best.inertia) {
            best = Some(run);
        }
    }
    best.ok_or_else(|| Error::argument("n_init is 0"))
}

/// Clusters `x [row, d]` in one run from given centres `start [k, d]`; `seed` and `n_init` say nothing.
///
/// # Errors
/// As [`kmeans`], and if `start` is not finite or does not hold `k` rows of `d`.
pub fn kmeans_from(x: &[f32], d: usize, start: &[f32], options: KmeansOptions) -> Result<Kmeans> {
    let data = data(x, d, options)?;
    let n_start = rows_of("start", start.len(), d)?;
    if n_start != options.k || start.iter().any(|value| !value.is_finite()) {
        return Err(Error::argument(format!(
            "`start` holds {n_start} centres, but must hold k = {}, all of them finite",
            options.k
        )));
    }
    lloyd(&data, data.centred(start), options)
}

/// Assigns `x [row, d]` to given `centres [cluster, d]`: labels, distances and inertia as
/// [`kmeans`] returns them.
///
/// # Errors
/// If the arrays do not divide into rows of `d`, or there is no centre.
pub fn assign(x: &[f32], d: usize, centres: &[f32]) -> Result<(Vec<u32>, Vec<f32>, f64)> {
    rows_of("x", x.len(), d)?;
    let k = rows_of("centres", centres.len(), d)?;
    if k == 0 || u32::try_from(k).is_err() {
        return Err(Error::argument(format!("cannot assign rows to {k} centres")));
    }
    let data = Data::new(x, d);
    let labels = data.labels(&data.centred(centres))?;
    let (distance, inertia) = data.distances(centres, &labels);
    Ok((labels, distance, inertia))
}

/// The rows, once it is certain that they can be clustered.
fn data(x: &[f32], d: usize, options: KmeansOptions) -> Result<Data<'_>> {
    let n_row = rows_of("x", x.len(), d)?;
    check(options)?;
    elements(&[options.k, d])?;
    let data = Data::new(x, d);
    if data.n_finite() < options.k {
        return Err(Error::argument(format!(
            "k is {}, but of {n_row} rows only {} are finite throughout",
            options.k,
            data.n_finite()
        )));
    }
    Ok(data)
}

fn check(options: KmeansOptions) -> Result<()> {
    let positive = [("k", options.k), ("n_init", options.n_init), ("max_iter", options.max_iter)];
    if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
        return Err(Error::argument(format!("{name} is 0 but must be at least 1")));
    }
    if u32::try_from(options.k).is_err() {
        return Err(Error::argument(format!("k is {}: labels have 32 bits", options.k)));
    }
    Ok(())
}

/// Lloyd's iterations from `centres`, which are centred as the data is.
fn lloyd(data: &Data<'_>, centres: Vec<f32>, options: KmeansOptions) -> Result<Kmeans> {
    let mut centres = Centres::new(centres, data.d)?;
    let mut assignment = Assignment::new(data, options.k);
    let tolerance = options.tol * data.mean_variance();
    let mut n_iter = 0;
    while n_iter < options.max_iter {
        interrupt::check()?;
        n_iter += 1;
        let changed = assignment.update(data, &centres)?;
        assignment.move_centres(data, &mut centres)?;
        if !changed || centres.squared_moves <= tolerance {
            break;
        }
    }
    assignment.update(data, &centres)?;
    let labels = assignment.into_labels();
    let centres = data.uncentred(&centres.values);
    let (distance, inertia) = data.distances(&centres, &labels);
    Ok(Kmeans { centres, labels, distance, inertia, n_iter })
}
