//! `residuum_nearest(store, site, layer, of := …)`: the rows of a site most like a row or a vector.
//!
//! Exact: every row counts, the row that is asked about too. Rows with several heads are compared whole.
//! `"to"` is the same as `of`, which needs no quotes: TO is a word of SQL. `feature := i` instead ranks rows by
//! their value of one feature. Chunks that cannot hold a nearest row are not read.

use std::sync::Arc;

use residuum_core::kernels::knn::{Metric, NO_ROW};
use residuum_core::stream::knn;
use residuum_core::{Rows, SiteArray, Store};

use crate::failure::{Failure, Result};
use crate::ffi::table::TableFunction;
use crate::ffi::types::SqlType;
use crate::ffi::value::{Arguments, Kind, float_elements};
use crate::ffi::vector::{OutputChunk, bigint, chunk_capacity};
use crate::readout::read_layer;
use crate::registry;
use crate::selection::{Layout, beyond};

const DEFAULT_K: i64 = 10;
/// Bytes of rows in memory at once.
const BUDGET_BYTES: usize = 64 << 20;

/// One bound call.
#[derive(Debug)]
pub(crate) struct Nearest {
    _store: Arc<Store>,
    site: Arc<SiteArray>,
    layer: Option<usize>,
    to: To,
    k: usize,
    metric: Metric,
    contents: Vec<Content>,
}

/// What rows are compared with.
#[derive(Debug)]
enum To {
    Row(usize),
    /// `[row_len]`
    Vector(Vec<f32>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Row,
    Layer,
    Rank,
    Score,
}

/// A row and its score: a similarity, or a distance for `l2`.
type Neighbour = (u64, f32);

/// What the one thread of an execution keeps: the neighbours, once they are found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    neighbours: Option<Vec<Neighbour>>,
    n_done: usize,
}

impl TableFunction for Nearest {
    const NAME: &'static str = "residuum_nearest";
    const POSITIONAL: &'static [SqlType] = &[SqlType::Varchar, SqlType::Varchar, SqlType::BigInt];
    const NAMED: &'static [(&'static str, SqlType)] = &[
        ("of", SqlType::Any),
        ("to", SqlType::Any),
        ("feature", SqlType::BigInt),
        ("k", SqlType::BigInt),
        ("metric", SqlType::Varchar),
    ];
    type Scan = Vec<Content>;
    type Worker = Found;

    fn bind(arguments: &Arguments) -> Result<Self> {
        let store = registry::open(&arguments.text(0, "store")?)?;
        let site = Arc::clone(store.site(&arguments.text(1, "site")?)?);
        let layout = Layout::of(site.spec());
        let layer = layer(arguments.integer(2), &site)?;
        let (to, metric) = asked(arguments, &site, &layout)?;
        let k = arguments.option("k").map_or(DEFAULT_K, |value| value.integer());
        let k = usize::try_from(k).ok().filter(|&k| k > 0);
        let k = k.ok_or_else(|| Failure::new("`k` must be at least 1"))?.min(site.n_row());
        let contents = [
            Some(Content::Row),
            layer.map(|_| Content::Layer),
            Some(Content::Rank),
            Some(Content::Score),
        ];
        let contents = contents.into_iter().flatten().collect();
        Ok(Self { _store: store, site, layer, to, k, metric, contents })
    }

    fn columns(&self) -> Vec<(String, SqlType)> {
        let column = |&content: &Content| match content {
            Content::Row => ("row".into(), SqlType::BigInt),
            Content::Layer => ("layer".into(), SqlType::BigInt),
            Content::Rank => ("rank".into(), SqlType::BigInt),
            Content::Score => (score_name(self.metric).into(), SqlType::Float),
        };
        self.contents.iter().map(column).collect()
    }

    fn n_row(&self) -> Option<u64> {
        // Rows with NaN have no place, so that fewer may be found.
        None
    }

    fn start(&self, projection: &[usize]) -> Result<Vec<Content>> {
        Ok(projection.iter().map(|&column| self.contents[column]).collect())
    }

    fn n_thread(&self, _scan: &Vec<Content>) -> usize {
        1
    }

    fn worker(&self) -> Result<Found> {
        Ok(Found::default())
    }

    fn fill(
        &self,
        scan: &Vec<Content>,
        worker: &mut Found,
        out: &mut OutputChunk<'_>,
    ) -> Result<usize> {
        let start = worker.n_done;
        let neighbours = match &mut worker.neighbours {
            Some(found) => found,
            none => none.insert(self.search()?),
        };
        let end = (start + chunk_capacity()).min(neighbours.len());
        let rows = &neighbours[start..end];
        if rows.is_empty() {
            return Ok(0);
        }
        for (index, &content) in scan.iter().enumerate() {
            if content == Content::Score {
                let mut column = out.column(index, SqlType::Float, rows.len())?;
                for (slot, &(_, score)) in column.floats()?.iter_mut().zip(rows) {
                    *slot = score;
                }
                continue;
            }
            let mut column = out.column(index, SqlType::BigInt, rows.len())?;
            for (at, slot) in column.integers()?.iter_mut().enumerate() {
                *slot = match content {
                    Content::Row | Content::Score => rows[at].0.cast_signed(),
                    Content::Layer => bigint(self.layer.unwrap_or_default()),
                    Content::Rank => bigint(start + at),
                };
            }
        }
        worker.n_done = end;
        Ok(rows.len())
    }
}

impl Nearest {
    fn search(&self) -> Result<Vec<Neighbour>> {
        let query = match &self.to {
            To::Vector(vector) => vector.clone(),
            To::Row(row) => read_layer(&self.site, Rows::Range(*row..*row + 1), 1, self.layer)?,
        };
        let layer = self.layer.unwrap_or(0);
        let found = knn(&self.site, layer, &query, self.metric, self.k, BUDGET_BYTES)?;
        let neighbours = found.rows.into_iter().zip(found.scores);
        Ok(neighbours.filter(|&(row, _)| row != NO_ROW).collect())
    }
}

/// The name of the column with the scores.
fn score_name(metric: Metric) -> &'static str {
    match metric {
        Metric::Cosine | Metric::Dot => "similarity",
        Metric::L2 => "distance",
    }
}

/// What rows are compared with, and how. A feature is the inner product with its unit vector.
fn asked(arguments: &Arguments, site: &SiteArray, layout: &Layout) -> Result<(To, Metric)> {
    let metric =
        arguments.option("metric").map(|value| Metric::parse(&value.text())).transpose()?;
    let Some(feature) = arguments.option("feature").map(|value| value.integer()) else {
        return Ok((to(arguments, site, layout)?, metric.unwrap_or(Metric::Cosine)));
    };
    if arguments.option("of").is_some() || arguments.option("to").is_some() {
        return Err(Failure::new("`of` and `feature` exclude each other"));
    }
    if metric.is_some_and(|metric| metric != Metric::Dot) {
        return Err(Failure::new("rows are ranked by the value of `feature`: leave `metric` out"));
    }
    let mut unit = vec![0.0; layout.row_len()];
    match usize::try_from(feature).ok().and_then(|at| unit.get_mut(at)) {
        Some(one) => *one = 1.0,
        None => return Err(beyond("feature", feature, site.name(), layout.row_len())),
    }
    Ok((To::Vector(unit), Metric::Dot))
}

fn layer(asked: Option<i64>, site: &SiteArray) -> Result<Option<usize>> {
    let spec = site.spec();
    match (spec.n_layer, asked) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Failure::new(format!(
            "site `{}` has no layer axis: give NULL for the layer",
            site.name()
        ))),
        (Some(_), None) => {
            Err(Failure::new(format!("site `{}` has a layer axis: name a layer", site.name())))
        }
        (Some(_), Some(layer)) => {
            let layer = usize::try_from(layer).unwrap_or(usize::MAX);
            if spec.layers.contains(&layer) {
                Ok(Some(layer))
            } else {
                Err(site.layer_error(layer).into())
            }
        }
    }
}

fn to(arguments: &Arguments, site: &SiteArray, layout: &Layout) -> Result<To> {
    let value = arguments.option("of").or_else(|| arguments.option("to")).ok_or_else(|| {
        Failure::new(
            "residuum_nearest needs `of`, a row number or a vector such as [0.1, 0.2], or `feature`, \
             a number",
        )
    })?;
    let vector = match value.kind() {
        Kind::Integer => {
            let row = value.integer();
            return match usize::try_from(row) {
                Ok(row) if row < site.n_row() => Ok(To::Row(row)),
                _ => Err(beyond("row", row, site.name(), site.n_row())),
            };
        }
        Kind::List => float_elements(&value, "of")?,
        Kind::Array => array_elements(&value.text())?,
        Kind::Other => {
            return Err(Failure::new("`of` is neither a row number nor a vector of floats"));
        }
    };
    if vector.len() != layout.row_len() {
        return Err(Failure::new(format!(
            "`of` has {} elements but a row of site `{}` has {}",
            vector.len(),
            site.name(),
            layout.row_len()
        )));
    }
    Ok(To::Vector(vector))
}

/// The elements of an array from its text, `[0.1, 0.2]`: the C API reads lists only, and `DuckDB`
/// writes floats so that they read back as they were.
fn array_elements(text: &str) -> Result<Vec<f32>> {
    let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
    let parse = |element: &str| {
        let element = element.trim();
        element
            .parse()
            .map_err(|_| Failure::new(format!("`of` holds {element}, which is no number")))
    };
    inner.split(',').map(parse).collect()
}
