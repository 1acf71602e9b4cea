//! A store opened for reading, and its arrays.

use std::{path::PathBuf, sync::Arc};

use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::{prelude::*, types::PyDict};
use residuum_core::{Element, Rows, SiteArray as CoreArray, Store as CoreStore};

use crate::{
    array::{Selection, Target, rows},
    call::detached,
    error::{argument, to_python},
    json,
    view::ChunkView,
};

/// A store at its last commit. Later commits are not seen.
#[pyclass(frozen, module = "residuum._residuum")]
pub(crate) struct Store {
    core: CoreStore,
}

#[pymethods]
impl Store {
    /// Opens the store at its newest valid commit.
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        detached(py, || Ok(Self { core: CoreStore::open(&path)? }))
    }

    /// `attributes.residuum` of the root group.
    #[getter]
    fn attributes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json::to_python(py, self.core.attributes())
    }

    /// The commit record.
    #[getter]
    fn commit<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json::commit(py, self.core.commit())
    }

    /// Names of the captured sites, in the order a pass reaches them.
    #[getter]
    fn sites(&self) -> Vec<&str> {
        self.core.sites()
    }

    /// The array of a site.
    fn site(&self, py: Python<'_>, name: &str) -> PyResult<SiteArray> {
        let core = self.core.site(name).map_err(|error| to_python(py, &error))?;
        Ok(SiteArray { core: Arc::clone(core) })
    }

    /// `index/target`, where the store has it.
    fn target(&self) -> Option<SiteArray> {
        self.core.target().map(|core| SiteArray { core: Arc::clone(core) })
    }

    /// Statistics of a layer merged over its chunks: `n_row`, and `[feature]` min, max, mean, std by name.
    fn statistics<'py>(
        &self,
        py: Python<'py>,
        site: &str,
        layer: usize,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let read = || self.core.statistics(site)?.map(|kept| kept.moments(layer)).transpose();
        let Some(found) = detached(py, read)? else { return Ok(None) };
        let dict = PyDict::new(py);
        dict.set_item("n_row", found.n_row)?;
        dict.set_item("min", found.min.into_pyarray(py))?;
        dict.set_item("max", found.max.into_pyarray(py))?;
        let spread = found.m2.iter().zip(&found.n_finite).map(|(m2, n)| (m2 / *n as f64).sqrt());
        dict.set_item("std", spread.collect::<Vec<f64>>().into_pyarray(py))?;
        dict.set_item("mean", found.mean.into_pyarray(py))?;
        Ok(Some(dict))
    }

    /// True while no newer commit has appeared.
    fn is_current(&self, py: Python<'_>) -> PyResult<bool> {
        detached(py, || self.core.is_current())
    }

    /// Bytes read, chunks decoded and rows read through this store so far.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = self.core.counters();
        let dict = PyDict::new(py);
        dict.set_item("bytes_read", counters.bytes_read())?;
        dict.set_item("chunks_decoded", counters.chunks_decoded())?;
        dict.set_item("rows_read", counters.rows_read())?;
        Ok(dict)
    }
}

/// One Zarr array of a store.
#[pyclass(frozen, module = "residuum._residuum")]
pub(crate) struct SiteArray {
    core: Arc<CoreArray>,
}

#[pymethods]
impl SiteArray {
    /// The site's or index's name.
    #[getter]
    fn name(&self) -> &str {
        self.core.name()
    }

    /// `[row, layer?, ...inner]`.
    #[getter]
    fn shape(&self) -> Vec<usize> {
        self.core.shape()
    }

    /// Names of the axes, `row` first.
    #[getter]
    fn axes(&self) -> Vec<&str> {
        self.core.spec().dimension_names.iter().map(String::as_str).collect()
    }

    /// The captured layers; empty where there is no layer axis.
    #[getter]
    fn layers(&self) -> Vec<usize> {
        self.core.spec().layers.clone()
    }

    /// float32, float16, bfloat16, int8 or int32.
    #[getter]
    fn dtype(&self) -> &'static str {
        self.core.spec().dtype.as_str()
    }

    /// How far the values of each layer are from those that they were made of, (relative RMS error, RMS error, largest
    /// error); empty where they are the same or it is not known.
    #[getter]
    fn errors(&self) -> Vec<(f64, f64, f64)> {
        self.core.errors().iter().map(|e| (e.relative_rms, e.rms, e.max)).collect()
    }

    /// token or example.
    #[getter]
    fn row_space(&self) -> &'static str {
        self.core.spec().row_space.as_str()
    }

    /// none or zstd.
    #[getter]
    fn codec(&self) -> &'static str {
        self.core.spec().codec.as_str()
    }

    /// Whether single rows are read for what they cost themselves.
    #[getter]
    fn reads_rows_alone(&self) -> bool {
        self.core.reads_rows_alone()
    }

    /// Brings chunks into memory, all of each; see `SiteArray.stream`.
    fn warm(&self, py: Python<'_>, chunks: Vec<u64>, layers: Vec<usize>) -> PyResult<()> {
        detached(py, || self.core.warm(&chunks, &layers))
    }

    /// The rows of a chunk where they lie in their file.
    fn view(&self, py: Python<'_>, chunk: usize, layer: usize) -> PyResult<ChunkView> {
        detached(py, || self.core.view(chunk, layer)).map(|core| ChunkView { core })
    }

    /// Rows per inner chunk.
    #[getter]
    fn chunk_rows(&self) -> usize {
        self.core.spec().chunk_rows
    }

    /// Rows per shard.
    #[getter]
    fn shard_rows(&self) -> usize {
        self.core.spec().shard_rows
    }

    /// Fills `out` with rows of one layer, `[rows, ...]`; false, and nothing done, for a row or layer that is not
    /// there or that is counted from the end.
    fn read_rows(
        &self,
        py: Python<'_>,
        out: Target<'_>,
        rows: PyReadonlyArray1<'_, i64>,
        layer: i64,
    ) -> PyResult<bool> {
        let Some(rows) = numbers(rows.as_array().iter(), self.core.n_row()) else {
            return Ok(false);
        };
        match usize::try_from(layer) {
            Ok(layer) if self.core.spec().layers.binary_search(&layer).is_ok() => {
                let places = Places { layers: &[layer], heads: None, verify: false };
                self.fill_any(py, out, Rows::Index(&rows), &places)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Fills `out` with `[rows, layers, heads, ...]` in the order asked.
    #[pyo3(signature = (out, rows, layers, heads, verify=false))]
    fn read_into(
        &self,
        py: Python<'_>,
        out: Target<'_>,
        rows: Option<Selection<'_>>,
        layers: Vec<usize>,
        heads: Option<Vec<usize>>,
        verify: bool,
    ) -> PyResult<()> {
        let selected = self::rows(py, rows.as_ref())?;
        let places = Places { layers: &layers, heads: heads.as_deref(), verify };
        self.fill_any(py, out, selected, &places)
    }
}

/// Row numbers as the core takes them; `None` where one is below zero, or not below `n_row`.
fn numbers<'a>(rows: impl Iterator<Item = &'a i64>, n_row: usize) -> Option<Vec<u64>> {
    let within = |row: &i64| u64::try_from(*row).ok().filter(|row| *row < n_row as u64);
    rows.map(within).collect()
}

/// What is read of each row, and how.
struct Places<'a> {
    layers: &'a [usize],
    heads: Option<&'a [usize]>,
    verify: bool,
}

impl SiteArray {
    /// The core's array, for kernels that stream it.
    pub(crate) fn core(&self) -> &CoreArray {
        &self.core
    }

    fn fill_any(
        &self,
        py: Python<'_>,
        out: Target<'_>,
        rows: Rows<'_>,
        places: &Places<'_>,
    ) -> PyResult<()> {
        let wrong = |_| argument(py, "the array to fill is not C-contiguous");
        match out {
            Target::F32(mut x) => self.fill(py, rows, places, x.as_slice_mut().map_err(wrong)?),
            Target::U16(mut x) => self.fill(py, rows, places, x.as_slice_mut().map_err(wrong)?),
            Target::I32(mut x) => self.fill(py, rows, places, x.as_slice_mut().map_err(wrong)?),
        }
    }

    fn fill<T: Element>(
        &self,
        py: Python<'_>,
        rows: Rows<'_>,
        places: &Places<'_>,
        out: &mut [T],
    ) -> PyResult<()> {
        let Places { layers, heads, verify } = *places;
        detached(py, || self.core.read_with(rows, layers, heads, verify, out))
    }
}
