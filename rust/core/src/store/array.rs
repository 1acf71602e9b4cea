//! One stored array, read by rows, layers and heads.
//!
//! A read is cut into *segments* (rows that are neighbours in the chunk and in the output). Segments are
//! sorted by chunk, so that each chunk is visited once whatever the order asked for, and every segment owns
//! its part of the output, so that chunks can be read in parallel without sharing.

use std::{
    collections::HashMap,
    fmt,
    fs::{self, File, Metadata},
    io,
    ops::Range,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rayon::prelude::*;

use super::{
    chunk::{self, Segment},
    counters::Counters,
    dtype::Element,
    index::{ShardIndex, index_bytes, index_start},
    map::Map,
    spec::ArraySpec,
};
use crate::error::{Error, Result};

/// Shards of an array that stay open.
const MAX_OPEN: usize = 1024;

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

/// Shard number and layer.
type ShardId = (usize, Option<usize>);

/// A stored array: `[row, layer?, ...inner]`, open for reading.
pub struct SiteArray {
    folder: PathBuf,
    spec: ArraySpec,
    n_row: usize,
    physical_rows: usize,
    counters: Arc<Counters>,
    open: Mutex<HashMap<ShardId, Arc<OpenShard>>>,
}

/// A shard in memory, with the identity of its file: the last shard of an array may be replaced under us.
#[derive(Debug)]
struct OpenShard {
    path: PathBuf,
    identity: (u64, u64, i64, i64),
    index: ShardIndex,
    map: Map,
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
            folder: store.join(&spec.path),
            spec,
            n_row,
            physical_rows,
            counters: Arc::clone(counters),
            open: Mutex::new(HashMap::new()),
        })
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

    /// Looks for the last shard of every captured layer, so that a store without its data does not open.
    pub(crate) fn check_present(&self) -> Result<()> {
        let Some(last) = self.n_row.checked_sub(1) else { return Ok(()) };
        for layer in self.spec.layer_keys() {
            let path = self.shard_path(last / self.spec.shard_rows, layer);
            if !path.is_file() {
                let why =
                    format!("the last commit has {} rows of `{}`", self.n_row, self.spec.path);
                return Err(Error::Missing { path, why });
            }
        }
        Ok(())
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
    /// checksum is checked when all of its visible rows are read whole; rows or heads read alone are not checked.
    pub fn read<T: Element>(
        &self,
        rows: Rows<'_>,
        layers: &[usize],
        heads: Option<&[usize]>,
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
        let mut segments = self.segments(&rows, &layer_keys, cell, out);
        segments.par_sort_unstable_by_key(|s| (s.layer, s.row));
        let shard_rows = self.spec.shard_rows;
        let shards: Vec<&mut [Segment<'_, T>]> = segments
            .chunk_by_mut(|a, b| a.layer == b.layer && a.row / shard_rows == b.row / shard_rows)
            .collect();
        each(shards, |segments| self.read_shard(&columns, segments))?;
        self.counters.add_rows(n * layer_keys.len());
        Ok(())
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

    /// Cuts `out` (`[rows, layers, cell]`) into segments that do not cross a chunk.
    fn segments<'o, T: Element>(
        &self,
        rows: &Rows<'_>,
        layers: &[Option<usize>],
        cell: usize,
        mut out: &'o mut [T],
    ) -> Vec<Segment<'o, T>> {
        let n = rows.len(self.n_row);
        let at = |i: usize| match rows {
            Rows::All => i,
            Rows::Range(range) => range.start + i,
            // Checked to be below n_row, so that it fits.
            Rows::Index(index) => usize::try_from(index[i]).unwrap_or(usize::MAX),
        };
        let mut segments = Vec::with_capacity(if layers.len() == 1 { 0 } else { n * layers.len() });
        let mut i = 0;
        while i < n {
            let row = at(i);
            let room = self.spec.chunk_rows - row % self.spec.chunk_rows;
            let mut length = 1;
            if layers.len() == 1 {
                while length < room && i + length < n && at(i + length) == row + length {
                    length += 1;
                }
            }
            for &layer in layers {
                let (mine, rest) = out.split_at_mut(length * cell);
                segments.push(Segment { layer, row, n: length, out: mine });
                out = rest;
            }
            i += length;
        }
        segments
    }

    /// Reads all segments of one shard: one open, chunks in parallel.
    fn read_shard<T: Element>(
        &self,
        columns: &[Range<usize>],
        segments: &mut [Segment<'_, T>],
    ) -> Result<()> {
        let (shard, layer) = (segments[0].row / self.spec.shard_rows, segments[0].layer);
        let open = self.open_shard(shard, layer)?;
        let chunk_rows = self.spec.chunk_rows;
        let chunks: Vec<&mut [Segment<'_, T>]> =
            segments.chunk_by_mut(|a, b| a.row / chunk_rows == b.row / chunk_rows).collect();
        each(chunks, |segments| {
            let number = segments[0].row / chunk_rows % self.spec.shard_chunks();
            let Some(entry) = open.index.entries[number] else {
                return Err(Error::damaged(&open.path, format!("its index lacks chunk {number}")));
            };
            self.counters.add_chunk();
            let source = chunk::Source {
                spec: &self.spec,
                path: &open.path,
                map: &open.map,
                chunk: number,
                visible: (self.n_row - segments[0].row / chunk_rows * chunk_rows).min(chunk_rows),
                entry,
                counters: &self.counters,
            };
            chunk::read(&source, columns, segments)
        })
    }

    /// The shard, as it was opened before if its file is still the same.
    fn open_shard(&self, shard: usize, layer: Option<usize>) -> Result<Arc<OpenShard>> {
        let lock = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&(shard, layer)).map(Arc::clone);
        if let Some(open) = known
            && fs::metadata(&open.path).is_ok_and(|meta| identity(&meta) == open.identity)
        {
            return Ok(open);
        }
        let open = Arc::new(self.map_shard(self.shard_path(shard, layer))?);
        let mut all = lock();
        if all.len() >= MAX_OPEN {
            all.clear();
        }
        all.insert((shard, layer), Arc::clone(&open));
        Ok(open)
    }

    fn map_shard(&self, path: PathBuf) -> Result<OpenShard> {
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing {
                path: path.clone(),
                why: format!("the last commit has {} rows of `{}`", self.n_row, self.spec.path),
            },
            _ => Error::io(&path, error),
        };
        let file = File::open(&path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        let start = index_start(&self.spec, &path, meta.len())?;
        let length = usize::try_from(meta.len()).unwrap_or(usize::MAX);
        let map = Map::new(file, &path, length);
        let tail = length - index_bytes(&self.spec)..length;
        let index =
            map.read(tail, |bytes| ShardIndex::parse(&self.spec, &path, start, bytes))??;
        self.counters.add_bytes(index_bytes(&self.spec));
        Ok(OpenShard { identity: identity(&meta), path, index, map })
    }

    fn shard_path(&self, shard: usize, layer: Option<usize>) -> PathBuf {
        self.folder.join(self.spec.shard_key(shard, layer))
    }

    fn out_of_range(&self, axis: &str, index: u64, length: usize) -> Error {
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

/// What tells a file from the one that took its place.
fn identity(meta: &Metadata) -> (u64, u64, i64, i64) {
    (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())
}

/// Calls `work` for each item, in parallel where there are several: waking another thread for one item
/// takes longer than reading a row.
fn each<I: Send>(items: Vec<I>, work: impl Fn(I) -> Result<()> + Send + Sync) -> Result<()> {
    if items.len() > 1 {
        return items.into_par_iter().try_for_each(work);
    }
    items.into_iter().try_for_each(work)
}
