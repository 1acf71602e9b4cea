//! numpy arrays as slices the core can read or fill, without a copy.

use numpy::{
    PyArray1, PyArrayDyn, PyArrayMethods, PyReadonlyArray1, PyReadonlyArrayDyn, PyReadwriteArrayDyn,
};
use pyo3::prelude::*;
use residuum_core::{Rows, Source};

use crate::error::argument;

/// A C-contiguous array that a read fills.
pub(crate) enum Target<'py> {
    /// float32: any floating-point dtype, widened.
    F32(PyReadwriteArrayDyn<'py, f32>),
    /// uint16: the raw bits of float16 and bfloat16.
    U16(PyReadwriteArrayDyn<'py, u16>),
    /// int32: indexes.
    I32(PyReadwriteArrayDyn<'py, i32>),
}

// By hand, here and below: the derived code writes an error message, with the dtype's name, for each variant that it
// passes over, which takes longer than a small read.
impl<'py> FromPyObject<'_, 'py> for Target<'py> {
    type Error = PyErr;

    fn extract(found: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(array) = found.cast::<PyArrayDyn<f32>>() {
            Ok(Self::F32(array.try_readwrite()?))
        } else if let Ok(array) = found.cast::<PyArrayDyn<u16>>() {
            Ok(Self::U16(array.try_readwrite()?))
        } else if let Ok(array) = found.cast::<PyArrayDyn<i32>>() {
            Ok(Self::I32(array.try_readwrite()?))
        } else {
            let what = found.get_type();
            Err(argument(found.py(), format!("{what} is no array of float32, uint16 or int32")))
        }
    }
}

/// Rows to read: all, `(start, stop)` or an array of uint64.
pub(crate) enum Selection<'py> {
    /// A contiguous part.
    Range((usize, usize)),
    /// These, in this order.
    Index(PyReadonlyArray1<'py, u64>),
}

impl<'py> FromPyObject<'_, 'py> for Selection<'py> {
    type Error = PyErr;

    fn extract(found: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match found.cast::<PyArray1<u64>>() {
            Ok(array) => Ok(Self::Index(array.try_readonly()?)),
            Err(_) => Ok(Self::Range(found.extract()?)),
        }
    }
}

/// The core's view of a selection.
pub(crate) fn rows<'a>(py: Python<'_>, selection: Option<&'a Selection<'_>>) -> PyResult<Rows<'a>> {
    Ok(match selection {
        None => Rows::All,
        Some(Selection::Range((start, stop))) => Rows::Range(*start..*stop),
        Some(Selection::Index(index)) => Rows::Index(
            index.as_slice().map_err(|_| argument(py, "the array of rows is not contiguous"))?,
        ),
    })
}

/// A C-contiguous array that a write reads.
#[derive(FromPyObject)]
pub(crate) enum Values<'py> {
    /// float32.
    F32(PyReadonlyArrayDyn<'py, f32>),
    /// float64, rounded once to the stored dtype.
    F64(PyReadonlyArrayDyn<'py, f64>),
    /// int32, for indexes.
    I32(PyReadonlyArrayDyn<'py, i32>),
    /// uint16: raw bits whose meaning is told apart.
    U16(PyReadonlyArrayDyn<'py, u16>),
}

impl Values<'_> {
    /// The core's view; `half` says whether raw bits are IEEE halves rather than bfloat16.
    pub(crate) fn source(&self, py: Python<'_>, half: bool) -> PyResult<Source<'_>> {
        let wrong = |_| argument(py, "the array of values is not C-contiguous");
        Ok(match self {
            Self::F32(x) => Source::F32(x.as_slice().map_err(wrong)?),
            Self::F64(x) => Source::F64(x.as_slice().map_err(wrong)?),
            Self::I32(x) => Source::I32(x.as_slice().map_err(wrong)?),
            Self::U16(x) if half => Source::F16(x.as_slice().map_err(wrong)?),
            Self::U16(x) => Source::Bf16(x.as_slice().map_err(wrong)?),
        })
    }
}
