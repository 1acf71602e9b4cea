//! The writer: rows from numpy arrays into shards, and commits.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use numpy::PyReadonlyArray2;
use pyo3::prelude::*;
use residuum_core::{CommitRequest, RowCounts, RowSpace, Run, Writer as CoreWriter, WriterOptions};

use crate::{
    array::Values,
    call::detached,
    error::{argument, closed},
    json,
    spec::ArraySpec,
};

/// (array, layer, NaN values, infinite values).
type Counted = (String, Option<usize>, u64, u64);

/// Writes rows of a store's arrays on its own threads within a memory budget.
#[pyclass(frozen, module = "residuum._residuum")]
pub(crate) struct Writer {
    core: Mutex<Option<Arc<CoreWriter>>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        let core = self.core.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // Not under the interpreter's lock: its threads are waited for, and one that uploads asks for that lock.
        Python::try_attach(|py| py.detach(|| drop(core)));
    }
}

#[pymethods]
impl Writer {
    /// Makes the arrays and commit 0 of a store whose root group is there already.
    #[staticmethod]
    #[pyo3(signature = (path, arrays, *, memory_bytes, threads))]
    fn create(
        py: Python<'_>,
        path: PathBuf,
        arrays: Vec<PyRef<'_, ArraySpec>>,
        memory_bytes: usize,
        threads: usize,
    ) -> PyResult<Self> {
        let arrays = arrays.iter().map(|array| array.core.clone()).collect();
        let options = WriterOptions { memory_bytes, threads };
        detached(py, || CoreWriter::create(&path, arrays, options)).map(Self::new)
    }

    /// Goes on from the last commit.
    #[staticmethod]
    #[pyo3(signature = (path, *, memory_bytes, threads))]
    fn open(py: Python<'_>, path: PathBuf, memory_bytes: usize, threads: usize) -> PyResult<Self> {
        let options = WriterOptions { memory_bytes, threads };
        detached(py, || CoreWriter::open(&path, options)).map(Self::new)
    }

    /// Uploads the store in `folder` to a URL where there is none.
    #[staticmethod]
    fn upload(py: Python<'_>, folder: PathBuf, path: PathBuf) -> PyResult<()> {
        detached(py, || CoreWriter::upload(&folder, &path))
    }

    /// Begins to add arrays or layers to the rows of a store.
    #[staticmethod]
    #[pyo3(signature = (path, arrays, *, resume, memory_bytes, threads))]
    fn grow(
        py: Python<'_>,
        path: PathBuf,
        arrays: Vec<PyRef<'_, ArraySpec>>,
        resume: &Bound<'_, PyAny>,
        memory_bytes: usize,
        threads: usize,
    ) -> PyResult<Self> {
        let arrays = arrays.iter().map(|array| array.core.clone()).collect();
        let resume = json::from_python(resume)?;
        let options = WriterOptions { memory_bytes, threads };
        detached(py, || CoreWriter::grow(&path, arrays, resume, options)).map(Self::new)
    }

    /// Paths of the arrays; `write` takes a position in this list.
    #[getter]
    fn arrays(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let core = self.get(py)?;
        Ok(core.arrays().map(|spec| spec.path.clone()).collect())
    }

    /// The record of the last numbered commit.
    #[getter]
    fn last_commit<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json::commit(py, &self.get(py)?.last_commit())
    }

    /// Copies runs of rows out of `values`, `[src_row, ...inner]`; `runs` is `[n, 3]` of (src, dst, n).
    #[pyo3(signature = (array, layer, values, row_len, runs, *, half))]
    #[allow(clippy::too_many_arguments, reason = "one per property of the write")]
    fn write(
        &self,
        py: Python<'_>,
        array: usize,
        layer: usize,
        values: Values<'_>,
        row_len: usize,
        runs: PyReadonlyArray2<'_, i64>,
        half: bool,
    ) -> PyResult<()> {
        let core = self.get(py)?;
        let runs = parse_runs(py, &runs)?;
        let source = values.source(py, half)?;
        detached(py, || core.write(array, layer, source, row_len, &runs))
    }

    /// Rows up to which every array of the row space lies in finished shards.
    fn sealed_rows(&self, py: Python<'_>, row_space: &str) -> PyResult<usize> {
        let space = parse_space(py, row_space)?;
        let core = self.get(py)?;
        detached(py, || core.sealed_rows(space))
    }

    /// Fails if another writer may have the store by now.
    fn check_lock(&self, py: Python<'_>) -> PyResult<()> {
        let core = self.get(py)?;
        detached(py, || core.check_lock())
    }

    /// Waits for the background threads.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let core = self.get(py)?;
        detached(py, || core.flush())
    }

    /// Makes a commit and returns its record.
    #[pyo3(signature = (*, token_rows, example_rows, n_example, tables, complete, publish_tail, interrupted, resume))]
    #[allow(clippy::too_many_arguments, reason = "one keyword per field of the record")]
    fn commit<'py>(
        &self,
        py: Python<'py>,
        token_rows: usize,
        example_rows: usize,
        n_example: u64,
        tables: BTreeMap<String, Vec<String>>,
        complete: bool,
        publish_tail: bool,
        interrupted: bool,
        resume: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.get(py)?;
        let request = CommitRequest {
            rows: RowCounts { token: token_rows, example: example_rows },
            n_example,
            tables,
            complete,
            publish_tail,
            interrupted,
            resume: json::from_python(resume)?,
        };
        json::commit(py, &detached(py, || core.commit(request))?)
    }

    /// Gives up the arrays that are being added; returns the record that says so.
    #[pyo3(signature = (*, resume))]
    fn abandon<'py>(
        &self,
        py: Python<'py>,
        resume: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.get(py)?;
        let resume = json::from_python(resume)?;
        json::commit(py, &detached(py, || core.abandon(resume))?)
    }

    /// (array, layer, NaN values, infinite values) wherever there were any.
    fn nonfinite(&self, py: Python<'_>) -> PyResult<Vec<Counted>> {
        let found = self.get(py)?.nonfinite();
        Ok(found.into_iter().map(|f| (f.array, f.layer, f.nan, f.inf)).collect())
    }

    /// Stops the threads and gives up the lock; what was not committed is lost.
    fn close(&self, py: Python<'_>) {
        let core = self.core.lock().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| drop(core));
    }
}

impl Writer {
    fn new(core: CoreWriter) -> Self {
        Self { core: Mutex::new(Some(Arc::new(core))) }
    }

    fn get(&self, py: Python<'_>) -> PyResult<Arc<CoreWriter>> {
        let core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        core.clone().ok_or_else(|| closed(py))
    }
}

fn parse_runs(py: Python<'_>, runs: &PyReadonlyArray2<'_, i64>) -> PyResult<Vec<Run>> {
    let view = runs.as_array();
    if view.ncols() != 3 {
        return Err(argument(py, format!("runs has {} columns but must have 3", view.ncols())));
    }
    view.rows()
        .into_iter()
        .map(|run| {
            let number = |i: usize| usize::try_from(run[i]);
            let (src_row, dst_row, n) = (number(0), number(1), number(2));
            match (src_row, dst_row, n) {
                (Ok(src_row), Ok(dst_row), Ok(n)) => Ok(Run { src_row, dst_row, n }),
                _ => Err(argument(py, format!("the run {run} has a negative number"))),
            }
        })
        .collect()
}

fn parse_space(py: Python<'_>, name: &str) -> PyResult<RowSpace> {
    RowSpace::ALL.into_iter().find(|space| space.as_str() == name).ok_or_else(|| {
        argument(py, format!("{name:?} is no row space; those are token and example"))
    })
}
