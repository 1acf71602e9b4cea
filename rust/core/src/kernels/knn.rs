//! Exact nearest rows to queries, over blocks of rows that come one after another.
//!
//! A product in f32 screens, a sum in f64 decides: whatever the product's rounding could hide is
//! computed again. So the answer is that of the f64 definition, for any cut into blocks, any order
//! of blocks and any number of threads.

use rayon::prelude::*;

use super::check::{elements, rows_of};
use super::matmul::{MatMut, MatRef, product};
use super::norm::narrow;
use crate::vector::{self, widest};
use crate::{Error, Result};

/// Rows that one product covers.
const ROW_BLOCK: usize = 512;
/// Queries that one product covers.
const QUERY_BLOCK: usize = 256;

/// In [`Neighbours`]: there is no such row.
pub const NO_ROW: u64 = u64::MAX;

/// What "near" means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Cosine of the angle; larger is nearer. A row or query of length zero has no direction and
    /// is never found, or finds nothing.
    Cosine,
    /// Inner product; larger is nearer.
    Dot,
    /// Euclidean distance; smaller is nearer.
    L2,
}

impl Metric {
    /// Reads `cosine`, `dot` or `l2`.
    ///
    /// # Errors
    /// If it is another word.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "cosine" => Ok(Self::Cosine),
            "dot" => Ok(Self::Dot),
            "l2" => Ok(Self::L2),
            other => Err(Error::argument(format!(
                "unknown metric `{other}`: expected `cosine`, `dot` or `l2`"
            ))),
        }
    }
}

/// The nearest rows of each query, nearest first; equally near rows by lower number.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Neighbours {
    /// Length of each list: the `k` asked for, or the number of rows seen if that is less.
    pub k: usize,
    /// `[query, k]` row numbers; [`NO_ROW`] where fewer rows could be compared.
    pub rows: Vec<u64>,
    /// `[query, k]` cosine, inner product or distance; NaN where there is no row.
    pub scores: Vec<f32>,
}

/// Collects the nearest rows while blocks of rows pass by.
#[derive(Debug, Clone)]
pub struct KnnAccumulator {
    queries: Vec<f32>,
    /// Euclidean length of each query.
    lengths: Vec<f64>,
    d: usize,
    metric: Metric,
    k: usize,
    seen: u64,
    lists: Lists,
}

/// Per query, the best `(key, row)`, best first. The key is larger for nearer rows.
type Lists = Vec<Vec<(f64, u64)>>;

impl KnnAccumulator {
    /// `queries [query, d]`. A query with NaN or infinity finds nothing.
    ///
    /// # Errors
    /// If `queries` does not divide into rows of `d`, or `d` is 0.
    pub fn new(queries: &[f32], d: usize, metric: Metric, k: usize) -> Result<Self> {
        if d == 0 {
            return Err(Error::argument("nearest rows need at least one feature"));
        }
        let n_query = rows_of("queries", queries.len(), d)?;
        let lengths = queries.chunks_exact(d).map(length).collect();
        let lists = vec![Vec::new(); n_query];
        Ok(Self { queries: queries.to_vec(), lengths, d, metric, k, seen: 0, lists })
    }

    /// Takes in `rows [row, d]`, numbered from `first_row`. Each number may come once. A row with
    /// NaN or infinity is never found.
    ///
    /// # Errors
    /// If `rows` does not divide into rows of `d`.
    pub fn push(&mut self, rows: &[f32], first_row: u64) -> Result<()> {
        self.push_numbered(rows, |at| first_row + at as u64)
    }

    /// Takes in rows as `push` does; `number` gives the number of the row at each place.
    ///
    /// # Errors
    /// As `push`.
    pub fn push_numbered(
        &mut self,
        rows: &[f32],
        number: impl Fn(usize) -> u64 + Sync,
    ) -> Result<()> {
        let n_row = rows_of("rows", rows.len(), self.d)?;
        self.seen += n_row as u64;
        if n_row == 0 || self.k == 0 {
            return Ok(());
        }
        let empty = || vec![Vec::new(); self.lists.len()];
        let found = rows
            .par_chunks(ROW_BLOCK * self.d)
            .enumerate()
            .try_fold(empty, |mut lists, (block, rows)| {
                let number = |at| number(block * ROW_BLOCK + at);
                self.scan(rows, &number, &mut lists)?;
                Ok::<Lists, Error>(lists)
            })
            .try_reduce(empty, |mut all, part| {
                join(&mut all, part, self.k);
                Ok(all)
            })?;
        join(&mut self.lists, found, self.k);
        Ok(())
    }

    /// Joins what another accumulator of the same queries found among other rows.
    ///
    /// # Errors
    /// If the two were made for different queries, metrics or `k`.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        let same_queries = self.queries == other.queries && self.d == other.d;
        if !same_queries || self.metric != other.metric || self.k != other.k {
            return Err(Error::argument(
                "accumulators of nearest rows differ in queries, metric or k",
            ));
        }
        self.seen += other.seen;
        join(&mut self.lists, other.lists, self.k);
        Ok(())
    }

    /// Counts rows that were left out because none of them can be among the nearest.
    pub fn pass_over(&mut self, n_row: usize) {
        self.seen += n_row as u64;
    }

    /// Queries that are answered.
    pub fn n_query(&self) -> usize {
        self.lists.len()
    }

    /// The key that a row must reach to be of use to the first query, larger being nearer.
    pub(crate) fn worst_key(&self) -> f64 {
        self.worst(0, &[])
    }

    /// A key that no row between `least` and `most`, feature by feature, exceeds for the first query.
    ///
    /// Bounds that are NaN say that every row has a value that is not finite: then none is ever found.
    pub(crate) fn best_key_within(&self, least: &[f32], most: &[f32]) -> f64 {
        let q = &self.queries[..self.d];
        let best = best_within(self.metric, q, least, most);
        if self.metric == Metric::Cosine { best / self.lengths[0] } else { best }
    }

    /// The result.
    pub fn finish(self) -> Neighbours {
        let k = self.k.min(usize::try_from(self.seen).unwrap_or(usize::MAX));
        let mut result = Neighbours { k, ..Neighbours::default() };
        for list in self.lists {
            for place in 0..k {
                let (key, row) = list.get(place).copied().unwrap_or((f64::NAN, NO_ROW));
                result.rows.push(row);
                // Distances are kept as negative squares: nearer is larger.
                let score = if self.metric == Metric::L2 { (-key).sqrt() } else { key };
                result.scores.push(narrow(score));
            }
        }
        result
    }

    /// Finds candidates among one block of rows for all queries.
    fn scan(&self, rows: &[f32], number: &dyn Fn(usize) -> u64, lists: &mut Lists) -> Result<()> {
        let lengths: Vec<f64> = rows.chunks_exact(self.d).map(length).collect();
        let n_row = lengths.len();
        let rows_t = MatRef::transposed(rows, self.d, n_row)?;
        let mut dots = vec![0.0; QUERY_BLOCK.min(self.lists.len()) * n_row];
        for start in (0..self.lists.len()).step_by(QUERY_BLOCK) {
            let n = QUERY_BLOCK.min(self.lists.len() - start);
            let queries = MatRef::new(&self.queries[start * self.d..][..n * self.d], n, self.d)?;
            let mut out = MatMut { data: &mut dots, rows: n, cols: n_row, row_stride: n_row };
            product(queries, rows_t, &mut out);
            for (query, dots) in (start..start + n).zip(dots.chunks_exact(n_row)) {
                let block = Rows { values: rows, lengths: &lengths, dots, number };
                self.scan_query(query, &block, &mut lists[query]);
            }
        }
        Ok(())
    }

    fn scan_query(&self, query: usize, block: &Rows<'_>, list: &mut Vec<(f64, u64)>) {
        let mut bound = self.bound(query, self.worst(query, list));
        for (at, (&dot, &length)) in block.dots.iter().zip(block.lengths).enumerate() {
            if bound.excludes(f64::from(dot), length) {
                continue;
            }
            let row = &block.values[at * self.d..][..self.d];
            let key = self.key(query, row, length);
            if key.is_finite() && insert(list, (key, (block.number)(at)), self.k) {
                bound = self.bound(query, self.worst(query, list));
            }
        }
    }

    /// Key that a row must reach to matter, given what is in `list` and what earlier blocks found.
    fn worst(&self, query: usize, list: &[(f64, u64)]) -> f64 {
        let last =
            |list: &[(f64, u64)]| list.get(self.k - 1).map_or(f64::NEG_INFINITY, |&(key, _)| key);
        last(list).max(last(&self.lists[query]))
    }

    /// Nearness in f64, larger is nearer.
    fn key(&self, query: usize, row: &[f32], length: f64) -> f64 {
        let q = &self.queries[query * self.d..][..self.d];
        widest!(match self.metric {
            Metric::Cosine => vector::dot(q, row) / (self.lengths[query] * length),
            Metric::Dot => vector::dot(q, row),
            Metric::L2 => -vector::squared_distance(q, row),
        })
    }

    /// The screening condition of one query for keys of at least `worst`.
    fn bound(&self, query: usize, worst: f64) -> Bound {
        let q = self.lengths[query];
        // Rounding of a product over d terms is below d * eps / 2 of the two lengths; doubled.
        let slack = self.d as f64 * f64::from(f32::EPSILON) * q;
        // And what each of its terms loses where it is too small for f32.
        let least = self.d as f64 * f64::from(f32::MIN_POSITIVE);
        match self.metric {
            Metric::Cosine => Bound { flat: -least, linear: worst * q - slack, square: 0.0 },
            Metric::Dot => Bound { flat: worst - least, linear: -slack, square: 0.0 },
            Metric::L2 => {
                Bound { flat: f64::midpoint(q * q, worst) - least, linear: -slack, square: 0.5 }
            }
        }
    }
}

/// One block of rows with its products against one query.
struct Rows<'a> {
    values: &'a [f32],
    lengths: &'a [f64],
    dots: &'a [f32],
    number: &'a dyn Fn(usize) -> u64,
}

/// A row of length `r` matters only if its product with the query reaches
/// `flat + linear * r + square * r^2`: every metric's condition has this form.
struct Bound {
    flat: f64,
    linear: f64,
    square: f64,
}

impl Bound {
    /// A product that overflowed to NaN does not exclude: the exact sum will tell.
    fn excludes(&self, dot: f64, length: f64) -> bool {
        !length.is_finite() || dot < self.flat + length * (self.linear + length * self.square)
    }
}

/// Euclidean length; f32 squares cannot overflow f64.
fn length(row: &[f32]) -> f64 {
    widest!(vector::sum_by(row, |value| value * value)).sqrt()
}

/// The largest key of any point of a box, or a bit more: for the cosine, times the query's length.
fn best_within(metric: Metric, query: &[f32], least: &[f32], most: &[f32]) -> f64 {
    let mut sum = Interval::default();
    for ((&q, &low), &high) in query.iter().zip(least).zip(most) {
        if low.is_nan() || high.is_nan() {
            return f64::NEG_INFINITY;
        }
        sum.add(f64::from(q), f64::from(low), f64::from(high));
    }
    // Keys are rounded sums of as many terms as there are features; roots and quotients round too.
    let slack = (query.len() + 8) as f64 * f64::EPSILON;
    match metric {
        Metric::Dot => sum.dot + slack * sum.dot_size,
        Metric::L2 => -sum.distance * (1.0 - slack),
        Metric::Cosine => {
            let dot = sum.dot + slack * sum.dot_size;
            // A positive product weighs most in the shortest row, a negative one least in the longest.
            let length = if dot > 0.0 { sum.shortest } else { sum.longest }.sqrt();
            if length > 0.0 { dot / length * (1.0 + dot.signum() * slack) } else { f64::INFINITY }
        }
    }
}

/// Sums over the features of a box.
#[derive(Default)]
struct Interval {
    /// Largest product with the query, and the size of its terms.
    dot: f64,
    dot_size: f64,
    /// Least squared distance to the query.
    distance: f64,
    /// Least and largest squared length.
    shortest: f64,
    longest: f64,
}

impl Interval {
    fn add(&mut self, q: f64, low: f64, high: f64) {
        let product = (q * low).max(q * high);
        self.dot += product;
        self.dot_size += product.abs();
        self.distance += (low - q).max(q - high).max(0.0).powi(2);
        self.shortest += low.max(-high).max(0.0).powi(2);
        self.longest += low.abs().max(high.abs()).powi(2);
    }
}

/// Better first; equal keys by lower row. Keys are never NaN.
fn better(a: (f64, u64), b: (f64, u64)) -> bool {
    a.0 > b.0 || (a.0 >= b.0 && a.1 < b.1)
}

/// True if the entry got a place.
fn insert(list: &mut Vec<(f64, u64)>, entry: (f64, u64), k: usize) -> bool {
    let place = list.partition_point(|&held| better(held, entry));
    if place >= k {
        return false;
    }
    list.truncate(k - 1);
    list.insert(place, entry);
    true
}

fn join(all: &mut Lists, part: Lists, k: usize) {
    for (list, part) in all.iter_mut().zip(part) {
        for entry in part {
            insert(list, entry, k);
        }
    }
}

/// The nearest of `rows [row, d]` to each of `queries [query, d]`, all at once.
///
/// # Errors
/// As [`KnnAccumulator::new`] and [`KnnAccumulator::push`].
pub fn knn(
    rows: &[f32],
    queries: &[f32],
    d: usize,
    metric: Metric,
    k: usize,
) -> Result<Neighbours> {
    elements(&[rows_of("queries", queries.len(), d)?, k])?;
    let mut accumulator = KnnAccumulator::new(queries, d, metric, k)?;
    accumulator.push(rows, 0)?;
    Ok(accumulator.finish())
}
