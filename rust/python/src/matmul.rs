//! The matrix product that the other kernels are made of.

use pyo3::prelude::*;

use crate::{
    call::detached,
    matrix::{Floats, FloatsOut, matrix, slice_mut},
};

/// `a @ b` into `out`; each operand may be given as its transpose.
#[pyfunction]
#[pyo3(signature = (a, b, out, *, transposed_a, transposed_b))]
pub(crate) fn matmul(
    py: Python<'_>,
    a: Floats<'_>,
    b: Floats<'_>,
    mut out: FloatsOut<'_>,
    transposed_a: bool,
    transposed_b: bool,
) -> PyResult<()> {
    let (a, b) = (matrix(py, &a, transposed_a)?, matrix(py, &b, transposed_b)?);
    let out = slice_mut(py, &mut out)?;
    detached(py, || residuum_core::kernels::matmul::matmul(a, b, out))
}
