//! Mean, variance and covariance, in memory or streamed from a store; principal components.

use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray2, PyUntypedArrayMethods,
};
use pyo3::{prelude::*, types::PyDict};
use residuum_core::{
    kernels::{moments::Moments, pca::pca as components},
    stream,
};

use crate::{
    call::detached,
    error::{argument, to_python},
    matrix::{Floats, slice, width},
    store::SiteArray,
};

/// Moments of `x [row, d]`; arrays by name.
#[pyfunction]
pub(crate) fn moments<'py>(
    py: Python<'py>,
    x: Floats<'py>,
    covariance: bool,
    ddof: u64,
) -> PyResult<Bound<'py, PyDict>> {
    let d = width(&x);
    let x = slice(py, &x)?;
    let found = detached(py, || {
        let mut moments = Moments::new(d, covariance);
        moments.push(x)?;
        Ok(moments)
    })?;
    to_dict(py, &found, d, covariance, ddof)
}

/// Moments of all rows of one layer of a site, within a memory budget.
#[pyfunction]
#[pyo3(signature = (site, layer, covariance, ddof, *, memory_bytes))]
pub(crate) fn site_moments<'py>(
    py: Python<'py>,
    site: &SiteArray,
    layer: usize,
    covariance: bool,
    ddof: u64,
    memory_bytes: usize,
) -> PyResult<Bound<'py, PyDict>> {
    let site = site.core();
    let rows = 0..site.n_row();
    let found = detached(py, || stream::moments(site, layer, rows, covariance, memory_bytes))?;
    to_dict(py, &found, site.spec().row_len(), covariance, ddof)
}

fn to_dict<'py>(
    py: Python<'py>,
    found: &Moments,
    d: usize,
    covariance: bool,
    ddof: u64,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("count", found.count())?;
    dict.set_item("skipped", found.skipped())?;
    dict.set_item("mean", found.mean().into_pyarray(py))?;
    dict.set_item("variance", found.variance(ddof).into_pyarray(py))?;
    if covariance {
        let values = found.covariance(ddof).map_err(|error| to_python(py, &error))?;
        dict.set_item("covariance", values.into_pyarray(py).reshape([d, d])?)?;
    } else {
        dict.set_item("covariance", py.None())?;
    }
    Ok(dict)
}

/// Variances `[component]`, unit vectors `[component, d]` and the total variance of `covariance [d, d]`.
#[pyfunction]
#[allow(clippy::type_complexity, reason = "two arrays and a number")]
pub(crate) fn pca<'py>(
    py: Python<'py>,
    covariance: PyReadonlyArray2<'py, f64>,
    n_component: usize,
) -> PyResult<(Bound<'py, PyArray1<f64>>, Bound<'py, PyArray2<f64>>, f64)> {
    let d = covariance.shape()[1];
    let values =
        covariance.as_slice().map_err(|_| argument(py, "the covariance is not C-contiguous"))?;
    let found = detached(py, || components(values, d, n_component))?;
    let shape = [found.variances.len(), d];
    let vectors = found.components.into_pyarray(py).reshape(shape)?;
    Ok((found.variances.into_pyarray(py), vectors, found.total))
}
