//! Core errors as exceptions of `residuum.errors`.

use std::io;

use pyo3::{
    exceptions::{PyKeyboardInterrupt, PyRuntimeError},
    prelude::*,
    types::{PyAny, PyString},
};
use residuum_core::Error;

/// The exception for a core error, with the core's own words.
pub(crate) fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    if matches!(error, Error::Interrupted) {
        return PyKeyboardInterrupt::new_err(());
    }
    build(py, class(error), error).unwrap_or_else(|failure| failure)
}

/// An `ArgumentError` about a value that Python handed over.
pub(crate) fn argument(py: Python<'_>, message: impl Into<String>) -> PyErr {
    let message = message.into();
    match exception(py, "ArgumentError", &message) {
        Ok(exception) => PyErr::from_value(exception),
        Err(failure) => failure,
    }
}

/// A `StoreError` about a writer that was closed.
pub(crate) fn closed(py: Python<'_>) -> PyErr {
    match exception(py, "StoreError", "the writer is closed") {
        Ok(exception) => PyErr::from_value(exception),
        Err(failure) => failure,
    }
}

fn class(error: &Error) -> &'static str {
    match error {
        Error::UnknownSite { .. }
        | Error::SiteNotCaptured { .. }
        | Error::LayerNotCaptured { .. }
        | Error::NoAxis { .. } => "SiteError",
        Error::OutOfRange { .. } => "SelectionError",
        Error::Io { .. }
        | Error::Remote { .. }
        | Error::Replaced { .. }
        | Error::NotAStore { .. }
        | Error::StoreExists { .. }
        | Error::NewerFormat { .. }
        | Error::Damaged { .. }
        | Error::Missing { .. }
        | Error::NoTensor { .. }
        | Error::Locked { .. }
        | Error::RowTwice { .. }
        | Error::RowMissing { .. }
        | Error::BadCommit { .. }
        | Error::CannotGrow { .. }
        | Error::LossyStore { .. }
        | Error::WriterStopped { .. } => "StoreError",
        _ => "ArgumentError",
    }
}

fn build(py: Python<'_>, class: &str, error: &Error) -> PyResult<PyErr> {
    let exception = exception(py, class, &error.to_string())?;
    if let Some(code) = system_code(error) {
        exception.setattr("errno", code)?;
    }
    Ok(PyErr::from_value(exception))
}

fn exception<'py>(py: Python<'py>, class: &str, message: &str) -> PyResult<Bound<'py, PyAny>> {
    let module = py.import("residuum.errors").map_err(|cause| {
        let raised = PyRuntimeError::new_err(message.to_owned());
        raised.set_cause(py, Some(cause));
        raised
    })?;
    module.getattr(class)?.call1((PyString::new(py, message),))
}

/// The operating system's number, so that a caller can tell a full disk from a missing file.
fn system_code(error: &Error) -> Option<i32> {
    match error {
        Error::Io { source, .. } => io::Error::raw_os_error(source),
        _ => None,
    }
}
