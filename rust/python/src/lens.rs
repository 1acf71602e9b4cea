//! Statistics of logits that are never stored.

use numpy::{IntoPyArray, PyArrayMethods, PyReadonlyArray1, PyUntypedArrayMethods};
use pyo3::{prelude::*, types::PyDict};
use residuum_core::kernels::lens::{LensStats, Unembed};

use crate::{
    call::detached,
    error::argument,
    matrix::{Floats, matrix, optional, slice},
};

/// Lens statistics of normed rows `[row, d_model]`; arrays by name.
#[pyfunction]
#[pyo3(signature = (x, w_u, *, transposed, bias, reference, targets, k, logit_scale, softcap))]
#[allow(clippy::too_many_arguments, reason = "one keyword per property of the readout")]
pub(crate) fn lens<'py>(
    py: Python<'py>,
    x: Floats<'py>,
    w_u: Floats<'py>,
    transposed: bool,
    bias: Option<Floats<'py>>,
    reference: Option<Floats<'py>>,
    targets: Option<PyReadonlyArray1<'py, i32>>,
    k: usize,
    logit_scale: f32,
    softcap: Option<f32>,
) -> PyResult<Bound<'py, PyDict>> {
    let weight = matrix(py, &w_u, transposed)?;
    let unembed = Unembed { weight, bias: optional(py, bias.as_ref())?, logit_scale, softcap };
    let rows = slice(py, &x)?;
    // The same array as its own reference is told by its address, which spares its logits.
    let reference = optional(py, reference.as_ref())?;
    let targets = targets.as_ref().map(|targets| {
        targets.as_slice().map_err(|_| argument(py, "the array of targets is not contiguous"))
    });
    let targets = targets.transpose()?;
    let stats =
        detached(py, || residuum_core::kernels::lens::lens(rows, reference, targets, unembed, k))?;
    to_dict(py, stats, x.shape().first().copied().unwrap_or(0))
}

fn to_dict(py: Python<'_>, stats: LensStats, n_row: usize) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    let shape = [n_row, stats.k];
    dict.set_item("top_ids", stats.top_ids.into_pyarray(py).reshape(shape)?)?;
    dict.set_item("top_logits", stats.top_logits.into_pyarray(py).reshape(shape)?)?;
    dict.set_item("top_logprobs", stats.top_logprobs.into_pyarray(py).reshape(shape)?)?;
    dict.set_item("lse", stats.lse.into_pyarray(py))?;
    dict.set_item("entropy", stats.entropy.into_pyarray(py))?;
    dict.set_item("kl_to_reference", stats.kl_to_reference.into_pyarray(py))?;
    dict.set_item("target_logit", stats.target_logit.into_pyarray(py))?;
    dict.set_item("target_logprob", stats.target_logprob.into_pyarray(py))?;
    dict.set_item("target_rank", stats.target_rank.into_pyarray(py))?;
    Ok(dict)
}
