//! Nearest rows, in memory or streamed from a store.

use numpy::{IntoPyArray, PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use residuum_core::{
    kernels::knn::{Metric, Neighbours, knn as nearest},
    stream,
};

use crate::{
    call::detached,
    error::to_python,
    matrix::{Floats, slice, width},
    store::SiteArray,
};

/// Row numbers and scores, `[query, k]` each.
type Found<'py> = (Bound<'py, PyArray2<u64>>, Bound<'py, PyArray2<f32>>);

/// The `k` rows of `x [row, d]` nearest to each of `queries [query, d]`.
#[pyfunction]
pub(crate) fn knn<'py>(
    py: Python<'py>,
    x: Floats<'py>,
    queries: Floats<'py>,
    k: usize,
    metric: &str,
) -> PyResult<Found<'py>> {
    let metric = Metric::parse(metric).map_err(|error| to_python(py, &error))?;
    let (d, n_query) = (width(&x), queries.shape().first().copied().unwrap_or(0));
    let (x, queries) = (slice(py, &x)?, slice(py, &queries)?);
    let found = detached(py, || nearest(x, queries, d, metric, k))?;
    to_arrays(py, found, n_query)
}

/// The `k` rows of one layer of a site nearest to each of `queries`, within a memory budget.
#[pyfunction]
#[pyo3(signature = (site, layer, queries, k, metric, *, memory_bytes))]
pub(crate) fn site_knn<'py>(
    py: Python<'py>,
    site: &SiteArray,
    layer: usize,
    queries: Floats<'py>,
    k: usize,
    metric: &str,
    memory_bytes: usize,
) -> PyResult<Found<'py>> {
    let metric = Metric::parse(metric).map_err(|error| to_python(py, &error))?;
    let n_query = queries.shape().first().copied().unwrap_or(0);
    let (site, queries) = (site.core(), slice(py, &queries)?);
    let found = detached(py, || stream::knn(site, layer, queries, metric, k, memory_bytes))?;
    to_arrays(py, found, n_query)
}

fn to_arrays(py: Python<'_>, found: Neighbours, n_query: usize) -> PyResult<Found<'_>> {
    let shape = [n_query, found.k];
    let rows = found.rows.into_pyarray(py).reshape(shape)?;
    Ok((rows, found.scores.into_pyarray(py).reshape(shape)?))
}
