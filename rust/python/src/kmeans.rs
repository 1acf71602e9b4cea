//! Clusters of rows, in memory or streamed from a store.

use numpy::{IntoPyArray, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::{prelude::*, types::PyDict};
use residuum_core::{
    kernels::kmeans::{Kmeans, KmeansOptions, kmeans as cluster_rows, kmeans_from},
    stream::cluster,
};

use crate::{
    call::detached,
    matrix::{Floats, slice, width},
    store::SiteArray,
};

/// Lloyd's k-means of `x [row, d]`; arrays by name.
#[pyfunction]
#[pyo3(signature = (x, k, start, *, seed, n_init, max_iter, tol))]
#[allow(clippy::too_many_arguments, reason = "one keyword per setting")]
pub(crate) fn kmeans<'py>(
    py: Python<'py>,
    x: Floats<'py>,
    k: usize,
    start: Option<Floats<'py>>,
    seed: u64,
    n_init: usize,
    max_iter: usize,
    tol: f64,
) -> PyResult<Bound<'py, PyDict>> {
    let (d, n_row) = (width(&x), x.shape().first().copied().unwrap_or(0));
    let x = slice(py, &x)?;
    let start = start.as_ref().map(|start| slice(py, start)).transpose()?;
    let options = KmeansOptions { k, seed, n_init, max_iter, tol };
    let found = detached(py, || match start {
        Some(start) => kmeans_from(x, d, start, options),
        None => cluster_rows(x, d, options),
    })?;
    to_dict(py, found, d, n_row)
}

/// k-means of all rows of one layer of a site, within a memory budget.
#[pyfunction]
#[pyo3(signature = (site, layer, k, *, seed, n_init, max_iter, tol, memory_bytes))]
#[allow(clippy::too_many_arguments, reason = "one keyword per setting")]
pub(crate) fn site_kmeans<'py>(
    py: Python<'py>,
    site: &SiteArray,
    layer: usize,
    k: usize,
    seed: u64,
    n_init: usize,
    max_iter: usize,
    tol: f64,
    memory_bytes: usize,
) -> PyResult<Bound<'py, PyDict>> {
    let options = KmeansOptions { k, seed, n_init, max_iter, tol };
    let site = site.core();
    let (found, n_sample) = detached(py, || cluster(site, layer, options, memory_bytes))?;
    to_dict(py, found, site.spec().row_len(), n_sample)
}

fn to_dict(
    py: Python<'_>,
    found: Kmeans,
    d: usize,
    n_sample: usize,
) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    let k = found.centres.len() / d.max(1);
    dict.set_item("centres", found.centres.into_pyarray(py).reshape([k, d])?)?;
    dict.set_item("labels", found.labels.into_pyarray(py))?;
    dict.set_item("distances", found.distance.into_pyarray(py))?;
    dict.set_item("inertia", found.inertia)?;
    dict.set_item("n_iteration", found.n_iter)?;
    dict.set_item("n_sample", n_sample)?;
    Ok(dict)
}
