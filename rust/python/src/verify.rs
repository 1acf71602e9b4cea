//! Every checksum of a store, read back.

use std::path::PathBuf;

use pyo3::{
    prelude::*,
    types::{PyDict, PyList},
};

use crate::call::detached;

/// What was read (`commit`, `files`, `chunks`, `bytes`) and `problems` as (file, what) pairs.
#[pyfunction]
pub(crate) fn verify(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyDict>> {
    let report = detached(py, || residuum_core::verify(&path))?;
    let problems = PyList::empty(py);
    for problem in &report.problems {
        problems.append((problem.file.as_str(), problem.what.as_str()))?;
    }
    let dict = PyDict::new(py);
    dict.set_item("commit", report.commit)?;
    dict.set_item("files", report.files)?;
    dict.set_item("chunks", report.chunks)?;
    dict.set_item("bytes", report.bytes)?;
    dict.set_item("problems", problems)?;
    Ok(dict)
}
