//! What heads add along directions, without `head_out`.

use numpy::PyUntypedArrayMethods;
use pyo3::prelude::*;
use residuum_core::kernels::attribution as core;

use crate::{
    call::detached,
    error::argument,
    matrix::{Floats, FloatsOut, optional, slice, slice_mut},
};

/// Contributions of heads to directions into `out [row, head, direction]`; `z [row, head, d_head]`,
/// `w_o [head, d_head, d_model]`, `directions [d_model, direction]`, `scale [row]`.
#[pyfunction]
#[pyo3(signature = (z, w_o, directions, scale, out))]
pub(crate) fn attribution(
    py: Python<'_>,
    z: Floats<'_>,
    w_o: Floats<'_>,
    directions: Floats<'_>,
    scale: Option<Floats<'_>>,
    mut out: FloatsOut<'_>,
) -> PyResult<()> {
    let &[n_head, d_head, d_model] = w_o.shape() else {
        return Err(argument(
            py,
            format!("w_o has 3 axes (head, d_head, d_model), not {}", w_o.ndim()),
        ));
    };
    let (z, w_o, directions) = (slice(py, &z)?, slice(py, &w_o)?, slice(py, &directions)?);
    let scale = optional(py, scale.as_ref())?;
    let out = slice_mut(py, &mut out)?;
    detached(py, || {
        let readout = core::readout(w_o, directions, n_head, d_head, d_model)?;
        core::attribution(z, &readout, scale, n_head, d_head, out)
    })
}
