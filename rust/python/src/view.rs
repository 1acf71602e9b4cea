//! Rows of a chunk as a numpy array over the mapped file.

use numpy::{PyArray1, ndarray::ArrayView1};
use pyo3::prelude::*;
use residuum_core::ChunkView as CoreView;

use crate::{call::detached, error::to_python};

/// The rows of one chunk of one layer, in the file.
#[pyclass(frozen, module = "residuum._residuum")]
pub(crate) struct ChunkView {
    pub(crate) core: CoreView,
}

#[pymethods]
impl ChunkView {
    /// Rows in it.
    #[getter]
    fn n_row(&self) -> usize {
        self.core.n_row()
    }

    /// The stored bytes, read-only; the array keeps the map alive.
    #[allow(unsafe_code, reason = "an array over memory that is not Python's")]
    fn bytes<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let py = slf.py();
        let bytes = slf.get().core.bytes().map_err(|error| to_python(py, &error))?;
        // SAFETY: the bytes are mapped for as long as `slf` lives, which the array holds, and are never written: the
        // array is made read-only, and numpy asks its owner, which lends no buffer, before it lets go of that.
        let array = unsafe {
            PyArray1::borrow_from_array(&ArrayView1::from(bytes), slf.clone().into_any())
        };
        array.call_method1("setflags", (false,))?;
        Ok(array)
    }

    /// Fails if the file was cut short while it was looked at.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || self.core.check())
    }
}
