//! One stored array, read by rows, layers and heads.
//!
//! A read is cut into *runs* (rows that are neighbours in the chunk and in the output), sorted by row, so that
//! each chunk is visited once whatever the order asked for; each fills cells of its own in the output, so that
//! chunks are read in parallel.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use rayon::prelude::*;

use super::{
    counters::Counters,
    dtype::{Dtype, Element},
    files,
    gather::{Cells, runs},
    quantise::LayerError,
    read::Read,
    shards::{OpenShard, Shards},
    spec::{ArraySpec, Codec},
    statistics::Statistics,
};
use crate::error::{Error, Result};

/// Reads of at most this many bytes stay on the caller's thread: waking others takes longer than the copy.
const MAX_ALONE: usize = 256 << 10;

/// Which rows to read, and in which order they come out.
#[derive(Clone, Debug)]
pub enum Rows<'a> {
    /// All of them.
    All,
    /// A contiguous part.
    Range(Range<usize>),
    /// These, in this order; repeats are allowed.
    Index(&'a [u64]),
}

impl Rows<'_> {
    fn len(&self, n_row: usize) -> usize {
        match self {
            Self::All => n_row,
            Self::Range(range) => range.len(),
            Self::Index(rows) => rows.len(),
        }
    }
}

/// A stored array: `[row, layer?, ...inner]`, open for reading.
pub struct SiteArray {
    spec: ArraySpec,
    n_row: usize,
    physical_rows: usize,
    counters: Arc<Counters>,
    shards: Shards,
    store: PathBuf,
    errors: Vec<LayerError>,
}

impl fmt::Debug for SiteArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteArray")
            .field("spec", &self.spec)
            .field("n_row", &self.n_row)
            .finish_non_exhaustive()
    }
}

impl SiteArray {
    /// `None` if that many rows cannot be addressed.
    pub(crate) fn new(
        store: &Path,
        spec: ArraySpec,
        n_row: usize,
        physical_rows: usize,
        counters: &Arc<Counters>,
    ) -> Option<Self> {
        let layers = spec.n_layer.unwrap_or(1);
        // Four bytes a value: the widest type that rows are read as.
        spec.row_len()
            .checked_mul(4 * layers)?
            .checked_mul(physical_rows.checked_add(spec.shard_rows)?)?;
        Some(Self {
            shards: Shards::new(store, &spec),
            spec,
            n_row,
            physical_rows,
            counters: Arc::clone(counters),
            store: store.to_owned(),
            errors: Vec::new(),
        })
    }

    /// The same array, of which its `zarr.json` says how far each layer is from what it was made of.
    pub(crate) fn with_errors(mut self, errors: Vec<LayerError>) -> Self {
        // Where a record has other layers than the file, it is not known which is which.
        if errors.len() == self.spec.layer_keys().len() && self.spec.dtype == Dtype::I8 {
            self.errors = errors;
        }
        self
    }

    /// How far a lossy array is from what it was made of, for each of its layers, or once where there is no layer
    /// axis; empty for an exact one, and where it is not known.
    pub fn errors(&self) -> &[LayerError] {
        &self.errors
    }

    /// What the array is.
    pub fn spec(&self) -> &ArraySpec {
        &self.spec
    }

    /// Visible rows.
    pub fn n_row(&self) -> usize {
        self.n_row
    }

    /// `[row, layer?, ...inner]`.
    pub fn shape(&self) -> Vec<usize> {
        self.spec.shape(self.n_row)
    }

    /// The site's or index's name.
    pub fn name(&self) -> &str {
        self.spec.name()
    }

    /// Rows in published shards, visible or not.
    pub(crate) fn physical_rows(&self) -> usize {
        self.physical_rows
    }

    /// The per-chunk statistics; `None` where the array keeps none, or the store came without them.
    ///
    /// # Errors
    /// `Remote` if the server of a store in a bucket refuses.
    pub fn statistics(&self) -> Result<Option<Statistics>> {
        if !self.spec.statistics {
            return Ok(None);
        }
        let spec = Arc::new(self.spec.clone());
        let kept = Statistics::new(&self.store, spec, self.physical_rows, &self.counters);
        Ok(kept.exist()?.then_some(kept))
    }

    /// Whether single rows are read for what they cost themselves. Those of a compressed chunk come all together,
    /// those of a store in a bucket wait for a server each.
    pub fn reads_rows_alone(&self) -> bool {
        self.spec.codec == Codec::None && !self.shards.are_objects()
    }

    /// Looks for the last shard of every captured layer, so that a store without its data does not open.
    pub(crate) fn check_present(&self) -> Result<()> {
        let Some(last) = self.n_row.checked_sub(1) else { return Ok(()) };
        let place = |layer| self.shards.path(&self.spec, (last / self.spec.shard_rows, layer));
        let shards: Vec<PathBuf> = self.spec.layer_keys().into_iter().map(place).collect();
        match files::first_missing(&shards)? {
            Some(path) => {
                let why =
                    format!("the last commit has {} rows of `{}`", self.n_row, self.spec.path);
                Err(Error::Missing { path, why })
            }
            None => Ok(()),
        }
    }

    /// The error for a layer that is not here, or is beyond the model; it lists the captured layers.
    pub fn layer_error(&self, layer: usize) -> Error {
        Error::LayerNotCaptured {
            site: self.name().to_owned(),
            layer,
            captured: self.spec.layers.clone(),
        }
    }

    /// Reads `[rows, layers, heads, feature]` in the order asked; axes the site lacks are absent.
    ///
    /// `layers` must be empty where the site has no layer axis. `heads` selects along `head` or `kv_head`;
    /// `None` is all of them. Each chunk is visited once per call whatever the order.
    ///
    /// # Errors
    /// For a dtype that cannot be read as `T`, a layer that was not captured, an index out of range, an
    /// `out` of the wrong length, and a shard that is missing, cut short or altered. An uncompressed chunk's
    /// checksum is checked when all of its visible rows are read whole as part of a range, once for as long as the
    /// shard stays open; rows by number and heads are not checked.
    pub fn read<T: Element>(
        &self,
        rows: Rows<'_>,
        layers: &[usize],
        heads: Option<&[usize]>,
        out: &mut [T],
    ) -> Result<()> {
        self.read_with(rows, layers, heads, false, out)
    }

    /// Reads as `read` does; with `verify` it checks the checksum of every chunk that it touches, so that all of
    /// the chunk is read.
    ///
    /// # Errors
    /// As `read`.
    pub fn read_with<T: Element>(
        &self,
        rows: Rows<'_>,
        layers: &[usize],
        heads: Option<&[usize]>,
        verify: bool,
        out: &mut [T],
    ) -> Result<()> {
        let columns = self.columns(heads)?;
        let layer_keys = self.check(&rows, layers, T::NAME, T::reads(self.spec.dtype))?;
        let cell = columns.iter().map(Range::len).sum::<usize>();
        let n = rows.len(self.n_row);
        let expected = n.saturating_mul(layer_keys.len()).saturating_mul(cell);
        if out.len() != expected {
            let what = format!("the output for {n} rows of `{}`", self.name());
            return Err(Error::Length { what, found: out.len(), expected });
        }
        if expected == 0 {
            return Ok(());
        }
        let read = Read {
            spec: &self.spec,
            shards: &self.shards,
            counters: &self.counters,
            n_row: self.n_row,
            layers: &layer_keys,
            columns: &columns,
            cells: &Cells::new(out, layer_keys.len(), cell),
            verify,
            // A chunk that is read whole is work for all cores, however few of its rows are wanted.
            alone: expected * size_of::<T>() <= MAX_ALONE
                && self.spec.codec == Codec::None
                && !verify,
        };
        let by_number = match rows {
            Rows::Index(index) => read.run_rows(index)?,
            _ => false,
        };
        if !by_number {
            read.run(&runs(&rows, self.n_row, self.spec.chunk_rows))?;
        }
        self.counters.add_rows(n * layer_keys.len());
        Ok(())
    }

    /// Brings whole chunks of plain bytes into memory, so that rows can be read out of them in any order without
    /// a wait for each. Chunks that were brought in before cost nothing; where `reads_rows_alone` is false nothing
    /// is done.
    ///
    /// # Errors
    /// As `read`, for the layers and shards; `OutOfRange` for a chunk behind the last row.
    pub fn warm(&self, chunks: &[u64], layers: &[usize]) -> Result<()> {
        let layer_keys = self.check(&Rows::Index(&[]), layers, "", true)?;
        let n_chunk = self.n_row.div_ceil(self.spec.chunk_rows);
        if let Some(&chunk) = chunks.iter().find(|chunk| **chunk >= n_chunk as u64) {
            return Err(self.out_of_range("chunk", chunk, n_chunk));
        }
        if !self.reads_rows_alone() {
            return Ok(());
        }
        let mut chunks = chunks.to_vec();
        chunks.sort_unstable();
        let per_shard = self.spec.shard_chunks() as u64;
        let shards: Vec<&[u64]> = chunks.chunk_by(|a, b| a / per_shard == b / per_shard).collect();
        shards.par_iter().try_for_each(|chunks| {
            // Checked to be below the number of chunks, so that they fit.
            let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
            layer_keys.iter().try_for_each(|&layer| {
                let id = (at(chunks[0] / per_shard), layer);
                let open = self.shards.open(&self.spec, id, self.n_row, false, &self.counters)?;
                chunks.iter().for_each(|&chunk| open.warm(at(chunk % per_shard)));
                Ok(())
            })
        })
    }

    /// A shard of one layer, which is 0 where there is no layer axis.
    pub(super) fn open_shard(&self, shard: usize, layer: usize) -> Result<Arc<OpenShard>> {
        let layers: &[usize] = if self.spec.n_layer.is_some() { &[layer] } else { &[] };
        let keys = self.check(&Rows::Index(&[]), layers, "", true)?;
        self.shards.open(&self.spec, (shard, keys[0]), self.n_row, false, &self.counters)
    }

    /// Reads `[rows, row_len]` of one layer as `f32`; `layer` is 0 where there is no layer axis.
    ///
    /// # Errors
    /// As `read`.
    pub fn read_block_f32(&self, rows: Range<usize>, layer: usize, out: &mut [f32]) -> Result<()> {
        match self.spec.n_layer {
            Some(_) => self.read(Rows::Range(rows), &[layer], None, out),
            None if layer == 0 => self.read(Rows::Range(rows), &[], None, out),
            None => Err(self.no_axis("layer")),
        }
    }

    /// The wanted element ranges within a row, in the order asked.
    fn columns(&self, heads: Option<&[usize]>) -> Result<Vec<Range<usize>>> {
        let Some(heads) = heads else {
            return Ok(std::iter::once(0..self.spec.row_len()).collect());
        };
        let axis = self.spec.head_axis().ok_or_else(|| self.no_axis("head"))?;
        let n_head = self.spec.inner[0];
        let width = self.spec.row_len() / n_head;
        let mut columns: Vec<Range<usize>> = Vec::with_capacity(heads.len());
        for &head in heads {
            if head >= n_head {
                return Err(self.out_of_range(axis, head as u64, n_head));
            }
            match columns.last_mut() {
                Some(last) if last.end == head * width => last.end += width,
                _ => columns.push(head * width..(head + 1) * width),
            }
        }
        Ok(columns)
    }

    /// Checks dtype, rows and layers; returns the layer coordinates to read.
    fn check(
        &self,
        rows: &Rows<'_>,
        layers: &[usize],
        asked: &'static str,
        readable: bool,
    ) -> Result<Vec<Option<usize>>> {
        if !readable {
            return Err(Error::Dtype {
                array: self.name().to_owned(),
                stored: self.spec.dtype.as_str(),
                verb: "read as",
                asked,
            });
        }
        let beyond = match rows {
            Rows::All => None,
            Rows::Range(range) => (range.end > self.n_row).then(|| range.end as u64 - 1),
            Rows::Index(rows) => rows.iter().copied().find(|row| *row >= self.n_row as u64),
        };
        if let Some(row) = beyond {
            return Err(self.out_of_range("row", row, self.n_row));
        }
        if self.spec.n_layer.is_none() {
            return if layers.is_empty() { Ok(vec![None]) } else { Err(self.no_axis("layer")) };
        }
        layers
            .iter()
            .map(|layer| match self.spec.layers.binary_search(layer) {
                Ok(_) => Ok(Some(*layer)),
                Err(_) => Err(self.layer_error(*layer)),
            })
            .collect()
    }

    pub(super) fn out_of_range(&self, axis: &str, index: u64, length: usize) -> Error {
        Error::OutOfRange { site: self.name().to_owned(), axis: axis.to_owned(), index, length }
    }

    fn no_axis(&self, axis: &str) -> Error {
        Error::NoAxis {
            site: self.name().to_owned(),
            axis: axis.to_owned(),
            axes: self.spec.dimension_names.clone(),
        }
    }
}
