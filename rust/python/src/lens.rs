//! Statistics of logits that are never stored.

use numpy::{
    IntoPyArray, PyArrayMethods, PyReadonlyArray1, PyReadwriteArray2, PyUntypedArrayMethods,
};
use pyo3::{prelude::*, types::PyDict};
use residuum_core::kernels::lens::{Gradient, Judgement, LensStats, Teacher, Unembed};

use crate::{
    call::detached,
    error::argument,
    matrix::{Floats, FloatsOut, matrix, optional, slice, slice_mut},
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
    let targets = targets.as_ref().map(|targets| tokens(py, targets)).transpose()?;
    let stats =
        detached(py, || residuum_core::kernels::lens::lens(rows, reference, targets, unembed, k))?;
    to_dict(py, stats, x.shape().first().copied().unwrap_or(0))
}

/// Losses and gradients of lenses at normed rows `[layer, row, d_model]`, towards the rows
/// `reference` or towards `targets`; into `loss [layer, row]` and `gradient`, like `x`.
#[pyfunction]
#[pyo3(signature = (
    x, w_u, loss, gradient, *, transposed, bias, reference, targets, logit_scale, softcap
))]
#[allow(clippy::too_many_arguments, reason = "one keyword per property of the readout")]
pub(crate) fn lens_gradients<'py>(
    py: Python<'py>,
    x: Floats<'py>,
    w_u: Floats<'py>,
    mut loss: FloatsOut<'py>,
    mut gradient: FloatsOut<'py>,
    transposed: bool,
    bias: Option<Floats<'py>>,
    reference: Option<Floats<'py>>,
    targets: Option<PyReadonlyArray1<'py, i32>>,
    logit_scale: f32,
    softcap: Option<f32>,
) -> PyResult<()> {
    let weight = matrix(py, &w_u, transposed)?;
    let unembed = Unembed { weight, bias: optional(py, bias.as_ref())?, logit_scale, softcap };
    let (n_layer, n_row) = match *x.shape() {
        [n_layer, n_row, _] if n_layer > 0 && n_row > 0 => (n_layer, n_row),
        _ => return Err(argument(py, "the rows are [layer, row, d_model], none of them empty")),
    };
    let all = slice(py, &x)?;
    let layers: Vec<&[f32]> = all.chunks_exact(all.len() / n_layer).collect();
    let teacher = match (&reference, &targets) {
        (Some(rows), None) => Teacher::Rows(slice(py, rows)?),
        (None, Some(targets)) => Teacher::Tokens(tokens(py, targets)?),
        _ => return Err(argument(py, "a lens learns from a reference or from targets")),
    };
    let losses = slice_mut(py, &mut loss)?.chunks_exact_mut(n_row);
    let gradients = slice_mut(py, &mut gradient)?.chunks_exact_mut(all.len() / n_layer);
    let mut out: Vec<Gradient<'_>> =
        losses.zip(gradients).map(|(loss, gradient)| Gradient { loss, gradient }).collect();
    detached(py, || {
        residuum_core::kernels::lens::lens_gradients(&layers, teacher, unembed, &mut out)
    })
}

/// How far lenses at normed rows `[layer, row, d_model]` are from the rows `reference`; into arrays
/// `[layer, row]`, and sums `marginal [layer, d_vocab]` of their distributions.
#[pyfunction]
#[pyo3(signature = (
    x, w_u, reference, kl, entropy, top, target_logprob, marginal,
    *, transposed, bias, targets, logit_scale, softcap
))]
#[allow(clippy::too_many_arguments, reason = "one keyword per property of the readout")]
pub(crate) fn lens_judge<'py>(
    py: Python<'py>,
    x: Floats<'py>,
    w_u: Floats<'py>,
    reference: Floats<'py>,
    mut kl: FloatsOut<'py>,
    mut entropy: FloatsOut<'py>,
    mut top: PyReadwriteArray2<'py, u32>,
    mut target_logprob: FloatsOut<'py>,
    mut marginal: PyReadwriteArray2<'py, f64>,
    transposed: bool,
    bias: Option<Floats<'py>>,
    targets: Option<PyReadonlyArray1<'py, i32>>,
    logit_scale: f32,
    softcap: Option<f32>,
) -> PyResult<()> {
    let weight = matrix(py, &w_u, transposed)?;
    let unembed = Unembed { weight, bias: optional(py, bias.as_ref())?, logit_scale, softcap };
    let (n_layer, n_row) = match *x.shape() {
        [n_layer, n_row, _] if n_layer > 0 && n_row > 0 => (n_layer, n_row),
        _ => return Err(argument(py, "the rows are [layer, row, d_model], none of them empty")),
    };
    let all = slice(py, &x)?;
    let layers: Vec<&[f32]> = all.chunks_exact(all.len() / n_layer).collect();
    let reference = slice(py, &reference)?;
    let targets = targets.as_ref().map(|targets| tokens(py, targets)).transpose()?;
    let contiguous = |_| argument(py, "an array for results is not contiguous");
    let top = top.as_slice_mut().map_err(contiguous)?.chunks_exact_mut(n_row);
    let sums = marginal.as_slice_mut().map_err(contiguous)?;
    let sums = sums.chunks_exact_mut(weight.cols().max(1));
    let kl = slice_mut(py, &mut kl)?.chunks_exact_mut(n_row);
    let entropy = slice_mut(py, &mut entropy)?.chunks_exact_mut(n_row);
    let found = slice_mut(py, &mut target_logprob)?.chunks_exact_mut(n_row);
    let mut out: Vec<Judgement<'_>> = kl
        .zip(entropy)
        .zip(top.zip(found))
        .zip(sums)
        .map(|(((kl, entropy), (top, target_logprob)), marginal)| Judgement {
            kl,
            entropy,
            top,
            target_logprob,
            marginal,
        })
        .collect();
    detached(py, || {
        residuum_core::kernels::lens::lens_judge(&layers, reference, targets, unembed, &mut out)
    })
}

fn tokens<'a>(py: Python<'_>, targets: &'a PyReadonlyArray1<'_, i32>) -> PyResult<&'a [i32]> {
    targets.as_slice().map_err(|_| argument(py, "the array of targets is not contiguous"))
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
