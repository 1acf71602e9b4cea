//! The one way from Python into the core.

use std::cell::Cell;

use pyo3::prelude::*;
use residuum_core::{Error, Result};

use crate::error::to_python;

thread_local! {
    /// What a signal's handler raised: `KeyboardInterrupt` by default, anything where a program has its own.
    static RAISED: Cell<Option<PyErr>> = const { Cell::new(None) };
}

/// Whether a signal's handler raised something, by Ctrl-C for instance: only the main thread is told.
pub(crate) fn interrupted() -> bool {
    let raised = Python::attach(|py| py.check_signals().err());
    let is_raised = raised.is_some();
    if is_raised {
        RAISED.set(raised);
    }
    is_raised
}

/// Runs `call` without the interpreter's lock and maps its error to `residuum.errors`.
pub(crate) fn detached<T: Send>(
    py: Python<'_>,
    call: impl FnOnce() -> Result<T> + Send,
) -> PyResult<T> {
    py.detach(call).map_err(|error| match error {
        Error::Interrupted => RAISED.take().unwrap_or_else(|| to_python(py, &error)),
        error => to_python(py, &error),
    })
}
