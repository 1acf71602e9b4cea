//! The one way from Python into the core.

use pyo3::prelude::*;
use residuum_core::Result;

use crate::error::to_python;

/// Whether Ctrl-C was pressed: only the main thread is told.
pub(crate) fn interrupted() -> bool {
    Python::attach(|py| py.check_signals().is_err())
}

/// Runs `call` without the interpreter's lock and maps its error to `residuum.errors`.
pub(crate) fn detached<T: Send>(
    py: Python<'_>,
    call: impl FnOnce() -> Result<T> + Send,
) -> PyResult<T> {
    py.detach(call).map_err(|error| to_python(py, &error))
}
