//! Single objects of a bucket, for what lies beside the arrays of a store.

use std::path::PathBuf;

use pyo3::{prelude::*, types::PyBytes};
use residuum_core::objects;

use crate::call::detached;

/// Bytes of an object: all, or those of a range (first, one past the last).
#[pyfunction]
#[pyo3(signature = (url, part=None))]
pub(crate) fn object_read(
    py: Python<'_>,
    url: PathBuf,
    part: Option<(u64, u64)>,
) -> PyResult<Bound<'_, PyBytes>> {
    let read = || match part {
        Some((start, end)) => objects::read_range(&url, start..end),
        None => objects::read(&url, u64::MAX),
    };
    Ok(PyBytes::new(py, &detached(py, read)?))
}

/// Length of an object; None where there is none.
#[pyfunction]
pub(crate) fn object_length(py: Python<'_>, url: PathBuf) -> PyResult<Option<u64>> {
    detached(py, || objects::length(&url))
}

/// URL, length, and what changes with the bytes of an object.
type Listed = (String, u64, String);

/// Every object below a prefix, sorted by URL.
#[pyfunction]
pub(crate) fn object_list(py: Python<'_>, url: PathBuf) -> PyResult<Vec<Listed>> {
    let found = detached(py, || objects::list(&url))?;
    let listed = |(url, stamp): (PathBuf, objects::Stamp)| {
        (url.display().to_string(), stamp.len, stamp.etag.unwrap_or_default())
    };
    Ok(found.into_iter().map(listed).collect())
}

/// Copies a file to an object, replacing one of that name.
#[pyfunction]
pub(crate) fn object_upload(py: Python<'_>, file: PathBuf, url: PathBuf) -> PyResult<()> {
    detached(py, || objects::put_file(&file, &url))
}

/// Makes an object of these bytes; False, and nothing done, if there is one of that name.
#[pyfunction]
pub(crate) fn object_create(py: Python<'_>, data: &[u8], url: PathBuf) -> PyResult<bool> {
    let data = data.to_vec();
    detached(py, || objects::create_new(&url, data))
}

/// Removes an object; fine if it is not there.
#[pyfunction]
pub(crate) fn object_remove(py: Python<'_>, url: PathBuf) -> PyResult<()> {
    detached(py, || objects::remove(&url))
}
