//! What heads and image patches say of an image, and the texts that span it.

use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyArray3, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use residuum_core::{
    kernels::{
        image_patch_maps::{MapShape, image_patch_maps as maps},
        subset_scores::{Judged, subset_scores as scores},
        textspan::textspan as pick,
    },
    stream,
};

use crate::{
    call::detached,
    error::{argument, to_python},
    matrix::{Floats, FloatsOut, optional, slice, slice_mut, width},
    store::SiteArray,
};

/// Numbers of the texts `[pick]`, what each explains, unit directions `[pick, d]`, and the total.
type Basis<'py> =
    (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f64>>, Bound<'py, PyArray2<f64>>, f64);
/// `[head, d_head]` and `[head, d_head, d_head]`.
type HeadMoments<'py> = (Bound<'py, PyArray2<f64>>, Bound<'py, PyArray3<f64>>);

/// A greedy basis of texts `[text, d]` for a covariance `[d, d]`.
#[pyfunction]
pub(crate) fn textspan<'py>(
    py: Python<'py>,
    texts: Floats<'py>,
    covariance: PyReadonlyArray2<'py, f64>,
    n_pick: usize,
) -> PyResult<Basis<'py>> {
    let d = width(&texts);
    let covariance =
        covariance.as_slice().map_err(|_| argument(py, "the covariance is not C-contiguous"))?;
    let texts = slice(py, &texts)?;
    let found = detached(py, || pick(texts, covariance, d, n_pick))?;
    let n = found.texts.len();
    // Numbers of rows in memory, which fit.
    let fitting = |text: usize| i64::try_from(text).unwrap_or(i64::MAX);
    let numbers: Vec<i64> = found.texts.into_iter().map(fitting).collect();
    let directions = found.directions.into_pyarray(py).reshape([n, d])?;
    Ok((numbers.into_pyarray(py), found.explained.into_pyarray(py), directions, found.total))
}

/// What tokens add through the class token's attention, into `out [image, head, token, direction]`
/// or, summed over heads, `[image, token, direction]`; `pattern [image, head, token]`, `v [image,
/// token, head, d_head]`, `readout [head, d_head, direction]`, `scale [image]`.
#[pyfunction]
#[pyo3(signature = (pattern, v, readout, scale, out))]
pub(crate) fn image_patch_maps(
    py: Python<'_>,
    pattern: Floats<'_>,
    v: Floats<'_>,
    readout: Floats<'_>,
    scale: Option<Floats<'_>>,
    mut out: FloatsOut<'_>,
) -> PyResult<()> {
    let (&[_, n_head, n_token], &[_, d_head, n_direction]) = (pattern.shape(), readout.shape())
    else {
        return Err(argument(py, "pattern and readout have 3 axes each"));
    };
    let summed = out.ndim() == 3;
    let shape = MapShape { n_token, n_head, d_head, n_direction };
    let (pattern, v, readout) = (slice(py, &pattern)?, slice(py, &v)?, slice(py, &readout)?);
    let scale = optional(py, scale.as_ref())?;
    let out = slice_mut(py, &mut out)?;
    detached(py, || maps(pattern, v, readout, scale, shape, summed, out))
}

/// Means and covariances of `z / scale` of every head of a layer, over some rows of a site.
#[pyfunction]
#[pyo3(signature = (site, layer, rows, scale, *, memory_bytes))]
pub(crate) fn site_head_moments<'py>(
    py: Python<'py>,
    site: &SiteArray,
    layer: usize,
    rows: PyReadonlyArray1<'py, u64>,
    scale: PyReadonlyArray1<'py, f32>,
    memory_bytes: usize,
) -> PyResult<HeadMoments<'py>> {
    let site = site.core();
    let contiguous = |_| argument(py, "rows and scale are not C-contiguous");
    let (rows, scale) =
        (rows.as_slice().map_err(contiguous)?, scale.as_slice().map_err(contiguous)?);
    let found = detached(py, || stream::head_moments(site, layer, rows, scale, memory_bytes))?;
    let (n_head, mut means, mut covariances) = (found.len(), Vec::new(), Vec::new());
    for head in &found {
        means.extend(head.mean());
        covariances.extend(head.covariance(0).map_err(|error| to_python(py, &error))?);
    }
    let d_head = means.len() / n_head.max(1);
    Ok((
        means.into_pyarray(py).reshape([n_head, d_head])?,
        covariances.into_pyarray(py).reshape([n_head, d_head, d_head])?,
    ))
}

/// Images of each group that are told right without sets of components, `[set, group]`; `logits
/// [image, class]`, `lost [component, image, class]`, `labels`, `groups [image]`, `sets [set, size]`.
#[pyfunction]
pub(crate) fn subset_scores<'py>(
    py: Python<'py>,
    logits: Floats<'py>,
    lost: Floats<'py>,
    labels: PyReadonlyArray1<'py, u32>,
    groups: PyReadonlyArray1<'py, u32>,
    sets: PyReadonlyArray2<'py, u32>,
    n_group: usize,
) -> PyResult<Bound<'py, PyArray2<u32>>> {
    let (n_class, size) = (width(&logits), sets.shape()[1]);
    let contiguous = |_| argument(py, "labels, groups and sets are not C-contiguous");
    let judged = Judged {
        logits: slice(py, &logits)?,
        lost: slice(py, &lost)?,
        labels: labels.as_slice().map_err(contiguous)?,
        groups: groups.as_slice().map_err(contiguous)?,
        n_class,
        n_group,
    };
    let sets = sets.as_slice().map_err(contiguous)?;
    let counts = detached(py, || scores(judged, sets, size))?;
    let n_set = counts.len() / n_group.max(1);
    counts.into_pyarray(py).reshape([n_set, n_group])
}
