//! A model's normalisation, of rows and of directions.

use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use residuum_core::kernels::{
    attribution::fold,
    norm::{Norm as CoreNorm, NormKind},
};

use crate::{
    call::detached,
    error::to_python,
    matrix::{Floats, FloatsOut, optional, slice, slice_mut, width},
};

/// A normalisation with its trained gain and shift.
#[pyclass(frozen, module = "residuum._residuum")]
pub(crate) struct Norm {
    core: CoreNorm,
}

#[pymethods]
impl Norm {
    /// `kind` is `layer_norm`, `rms_norm` or `none`.
    #[new]
    #[pyo3(signature = (kind, *, eps, offset, weight, bias))]
    fn new(
        py: Python<'_>,
        kind: &str,
        eps: f32,
        offset: f32,
        weight: Option<Floats<'_>>,
        bias: Option<Floats<'_>>,
    ) -> PyResult<Self> {
        let kind = NormKind::parse(kind).map_err(|error| to_python(py, &error))?;
        let weight = optional(py, weight.as_ref())?.map(<[f32]>::to_vec);
        let bias = optional(py, bias.as_ref())?.map(<[f32]>::to_vec);
        Ok(Self { core: CoreNorm { kind, eps, offset, weight, bias } })
    }

    /// Normalises `x [row, d_model]` into `out`.
    fn apply(&self, py: Python<'_>, x: Floats<'_>, mut out: FloatsOut<'_>) -> PyResult<()> {
        let d_model = width(&x);
        let (x, out) = (slice(py, &x)?, slice_mut(py, &mut out)?);
        detached(py, || self.core.apply(x, d_model, out))
    }

    /// The divisor of every row: `[row]`.
    fn scale<'py>(&self, py: Python<'py>, x: Floats<'py>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let d_model = width(&x);
        let x = slice(py, &x)?;
        Ok(detached(py, || self.core.scale(x, d_model))?.into_pyarray(py))
    }

    /// Directions `[d_model, direction]` seen through the norm with a frozen divisor, and their constants.
    #[allow(clippy::type_complexity, reason = "a pair of arrays")]
    fn fold<'py>(
        &self,
        py: Python<'py>,
        directions: Floats<'py>,
    ) -> PyResult<(Bound<'py, PyArray2<f32>>, Bound<'py, PyArray1<f32>>)> {
        let (d_model, n) = (directions.shape()[0], width(&directions));
        let directions = slice(py, &directions)?;
        let folded = detached(py, || fold(&self.core, directions, d_model))?;
        let directions = folded.directions.into_pyarray(py).reshape([d_model, n])?;
        Ok((directions, folded.constant.into_pyarray(py)))
    }
}
