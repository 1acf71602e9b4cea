//! float32 arrays for kernels: contiguous views, and matrices of either orientation.

use numpy::{PyReadonlyArrayDyn, PyReadwriteArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;
use residuum_core::kernels::matmul::MatRef;

use crate::error::{argument, to_python};

/// A float32 array that a kernel reads.
pub(crate) type Floats<'py> = PyReadonlyArrayDyn<'py, f32>;
/// A float32 array that a kernel fills.
pub(crate) type FloatsOut<'py> = PyReadwriteArrayDyn<'py, f32>;

/// The elements of a C-contiguous array.
pub(crate) fn slice<'a>(py: Python<'_>, array: &'a Floats<'_>) -> PyResult<&'a [f32]> {
    // `as_slice` would take Fortran's order too.
    if array.is_c_contiguous() {
        array.as_slice().map_err(|_| not_contiguous(py))
    } else {
        Err(not_contiguous(py))
    }
}

/// The elements of an array that may be absent.
pub(crate) fn optional<'a>(
    py: Python<'_>,
    array: Option<&'a Floats<'_>>,
) -> PyResult<Option<&'a [f32]>> {
    array.map(|array| slice(py, array)).transpose()
}

/// The elements of a C-contiguous array to fill.
pub(crate) fn slice_mut<'a>(
    py: Python<'_>,
    array: &'a mut FloatsOut<'_>,
) -> PyResult<&'a mut [f32]> {
    if array.is_c_contiguous() {
        array.as_slice_mut().map_err(|_| not_contiguous(py))
    } else {
        Err(not_contiguous(py))
    }
}

/// `array` as a matrix; with `transposed` the matrix is `array.T`, without a copy.
pub(crate) fn matrix<'a>(
    py: Python<'_>,
    array: &'a Floats<'_>,
    transposed: bool,
) -> PyResult<MatRef<'a>> {
    let &[first, second] = array.shape() else {
        return Err(argument(py, format!("a matrix has 2 axes, not {}", array.ndim())));
    };
    let data = slice(py, array)?;
    let matrix = if transposed {
        MatRef::transposed(data, second, first)
    } else {
        MatRef::new(data, first, second)
    };
    matrix.map_err(|error| to_python(py, &error))
}

fn not_contiguous(py: Python<'_>) -> PyErr {
    argument(py, "an array is not C-contiguous")
}

/// The length of the last axis.
pub(crate) fn width(array: &Floats<'_>) -> usize {
    array.shape().last().copied().unwrap_or(0)
}
