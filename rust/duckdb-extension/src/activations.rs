//! `residuum_activations(store, site, …)`: one row of SQL per stored row, layer and head.
//!
//! The work is cut into units of one chunk and one layer; threads claim units in order. A unit is
//! decoded only where the query uses `vec`, `norm` or `dot`.

use std::ops::RangeFrom;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use residuum_core::{SiteArray, Store};

use crate::failure::{Failure, Result};
use crate::ffi::table::TableFunction;
use crate::ffi::types::SqlType;
use crate::ffi::value::Arguments;
use crate::ffi::vector::{Column, OutputChunk, bigint, chunk_capacity};
use crate::registry;
use crate::selection::{Layout, Selection};
use crate::spans::Span;
use crate::vectors::{dot, norm};

/// One bound call.
#[derive(Debug)]
pub(crate) struct Activations {
    // Keeps the files of the site open and its counters alive.
    _store: Arc<Store>,
    site: Arc<SiteArray>,
    layout: Layout,
    selection: Selection,
    direction: Option<Vec<f32>>,
    columns: Vec<Content>,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Row,
    Layer,
    Head,
    Vec,
    Norm,
    Dot,
}

impl Content {
    fn needs_data(self) -> bool {
        matches!(self, Self::Vec | Self::Norm | Self::Dot)
    }
}

/// One execution.
#[derive(Debug)]
pub(crate) struct Scan {
    projection: Vec<Content>,
    decoding: Decoding,
    next_unit: AtomicUsize,
}

/// What the projected columns need of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decoding {
    /// Nothing: only numbers of rows, layers and heads.
    None,
    /// Its elements, in the worker's memory.
    Chunk,
    /// Its elements as they are, in `vec` alone: they can be decoded into the column.
    Column,
}

/// The selected rows of one chunk, at one layer.
#[derive(Clone, Copy, Debug)]
struct Unit {
    layer: usize,
    span: Span,
}

/// What a thread keeps: its unit, how many of the unit's vectors are done, and the decoded chunk.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    unit: Option<Unit>,
    n_done: usize,
    /// `[row of the chunk, head, feature]`
    chunk: Vec<f32>,
}

impl TableFunction for Activations {
    const NAME: &'static str = "residuum_activations";
    const POSITIONAL: &'static [SqlType] = &[SqlType::Varchar, SqlType::Varchar];
    const NAMED: &'static [(&'static str, SqlType)] = &[
        ("layers", SqlType::BigIntList),
        ("heads", SqlType::BigIntList),
        ("rows", SqlType::BigIntList),
        ("direction", SqlType::FloatList),
    ];
    type Scan = Scan;
    type Worker = Worker;

    fn bind(arguments: &Arguments) -> Result<Self> {
        let store = registry::open(&arguments.text(0, "store")?)?;
        let site = Arc::clone(store.site(&arguments.text(1, "site")?)?);
        let layout = Layout::of(site.spec());
        let selection = Selection::parse(arguments, &site, &layout)?;
        let direction = arguments.floats("direction")?;
        if let Some(direction) = &direction
            && direction.len() != layout.width
        {
            return Err(Failure::new(format!(
                "axis `{axis}` is {given} in `direction` but {width} in site `{name}`",
                axis = layout.feature_axis,
                given = direction.len(),
                width = layout.width,
                name = site.name()
            )));
        }
        let columns = [
            Some(Content::Row),
            layout.has_layer.then_some(Content::Layer),
            layout.head_axis.is_some().then_some(Content::Head),
            Some(Content::Vec),
            Some(Content::Norm),
            direction.is_some().then_some(Content::Dot),
        ];
        let columns = columns.into_iter().flatten().collect();
        Ok(Self { _store: store, site, layout, selection, direction, columns })
    }

    fn columns(&self) -> Vec<(String, SqlType)> {
        self.columns.iter().map(|&content| (self.name(content), self.sql_type(content))).collect()
    }

    fn n_row(&self) -> Option<u64> {
        let per_row = self.selection.layers.len() * self.selection.n_head();
        Some((self.selection.spans.n_row() * per_row) as u64)
    }

    fn start(&self, projection: &[usize]) -> Result<Scan> {
        let projection: Vec<_> = projection.iter().map(|&column| self.columns[column]).collect();
        let decoding = self.decoding(&projection);
        Ok(Scan { projection, decoding, next_unit: AtomicUsize::new(0) })
    }

    fn n_thread(&self, _scan: &Scan) -> usize {
        self.n_unit()
    }

    fn worker(&self) -> Result<Worker> {
        Ok(Worker::default())
    }

    fn fill(&self, scan: &Scan, worker: &mut Worker, out: &mut OutputChunk<'_>) -> Result<usize> {
        let capacity = self.capacity(scan);
        let mut n_filled = 0;
        while n_filled < capacity {
            let Some(unit) = self.unit(scan, worker) else { break };
            let n_left = unit.span.n_row * self.selection.n_head() - worker.n_done;
            let n = n_left.min(capacity - n_filled);
            let into_column =
                scan.decoding == Decoding::Column && worker.n_done == 0 && n == n_left;
            if worker.n_done == 0 && scan.decoding != Decoding::None && !into_column {
                self.decode(unit, worker)?;
            }
            for (index, &content) in scan.projection.iter().enumerate() {
                let mut column = out.column(index, self.sql_type(content), n_filled + n)?;
                if into_column && content == Content::Vec {
                    let vectors = column.vectors(self.layout.width)?;
                    self.read(unit, &mut vectors[n_filled * self.layout.width..])?;
                } else {
                    self.write(content, unit, worker, n_filled, &mut column)?;
                }
            }
            worker.n_done += n;
            n_filled += n;
            if n == n_left {
                worker.unit = None;
            }
        }
        Ok(n_filled)
    }
}

impl Activations {
    fn name(&self, content: Content) -> String {
        match content {
            Content::Row => "row".into(),
            Content::Layer => "layer".into(),
            Content::Head => {
                self.layout.head_axis.as_ref().map_or_else(String::new, |(name, _)| name.clone())
            }
            Content::Vec => "vec".into(),
            Content::Norm => "norm".into(),
            Content::Dot => "dot".into(),
        }
    }

    fn sql_type(&self, content: Content) -> SqlType {
        match content {
            Content::Row | Content::Layer | Content::Head => SqlType::BigInt,
            Content::Vec => SqlType::floats(self.layout.width),
            Content::Norm | Content::Dot => SqlType::Float,
        }
    }

    fn n_unit(&self) -> usize {
        self.selection.spans.len() * self.selection.layers.len()
    }

    /// Rows per chunk of output: fewer where a vector is so wide that it is a list, to bound the
    /// memory of a thread.
    fn capacity(&self, scan: &Scan) -> usize {
        const LIST_ELEMENTS: usize = 8 << 20;
        let is_list = self.sql_type(Content::Vec) == SqlType::FloatList;
        if is_list && scan.projection.contains(&Content::Vec) {
            (LIST_ELEMENTS / self.layout.width.max(1)).clamp(1, chunk_capacity())
        } else {
            chunk_capacity()
        }
    }

    fn decoding(&self, projection: &[Content]) -> Decoding {
        let n_data = projection.iter().filter(|content| content.needs_data()).count();
        match n_data {
            0 => Decoding::None,
            1 if projection.contains(&Content::Vec) && self.is_everything() => Decoding::Column,
            _ => Decoding::Chunk,
        }
    }

    /// Whether whole chunks are selected: all rows and all heads.
    fn is_everything(&self) -> bool {
        self.selection.n_head() == self.layout.n_head() && self.selection.spans.is_everything()
    }

    /// The unit that the thread is at; a new one where the last is done.
    fn unit(&self, scan: &Scan, worker: &mut Worker) -> Option<Unit> {
        if worker.unit.is_none() && self.selection.n_head() > 0 {
            let index = scan.next_unit.fetch_add(1, Ordering::Relaxed);
            let n_span = self.selection.spans.len();
            if index < self.n_unit() {
                let layer = self.selection.layers[index / n_span];
                let span = self.selection.spans.get(index % n_span);
                worker.unit = Some(Unit { layer, span });
                worker.n_done = 0;
            }
        }
        worker.unit
    }

    /// Decodes the unit's chunk into the worker's memory.
    fn decode(&self, unit: Unit, worker: &mut Worker) -> Result<()> {
        worker.chunk.resize(unit.span.chunk_len * self.layout.row_len(), 0.0);
        self.read(unit, &mut worker.chunk)
    }

    /// Reads the rows of the unit's chunk into `out`: `[row, head, feature]`.
    fn read(&self, unit: Unit, out: &mut [f32]) -> Result<()> {
        let rows = unit.span.chunk_first..unit.span.chunk_first + unit.span.chunk_len;
        Ok(self.site.read_block_f32(rows, unit.layer, out)?)
    }

    /// Writes one column from output row `at` on: the unit's vectors from `worker.n_done` on.
    fn write(
        &self,
        content: Content,
        unit: Unit,
        worker: &Worker,
        at: usize,
        column: &mut Column<'_>,
    ) -> Result<()> {
        let vectors = worker.n_done..;
        match content {
            Content::Row => zip(&mut column.integers()?[at..], vectors, |index| {
                bigint(self.selection.spans.row(self.row_and_head(unit, index).0))
            }),
            Content::Layer => column.integers()?[at..].fill(bigint(unit.layer)),
            Content::Head => zip(&mut column.integers()?[at..], vectors, |index| {
                bigint(self.row_and_head(unit, index).1)
            }),
            Content::Norm => zip(&mut column.floats()?[at..], vectors, |index| {
                norm(self.vector(unit, worker, index))
            }),
            Content::Dot => {
                let direction = self.direction.as_deref().unwrap_or_default();
                zip(&mut column.floats()?[at..], vectors, |index| {
                    dot(self.vector(unit, worker, index), direction)
                });
            }
            Content::Vec => self.write_vectors(unit, worker, at, column)?,
        }
        Ok(())
    }

    fn write_vectors(
        &self,
        unit: Unit,
        worker: &Worker,
        at: usize,
        column: &mut Column<'_>,
    ) -> Result<()> {
        let width = self.layout.width;
        let out = &mut column.vectors(width)?[at * width..];
        if self.is_everything() {
            let start = worker.n_done * width;
            out.copy_from_slice(&worker.chunk[start..start + out.len()]);
            return Ok(());
        }
        for (index, vector) in out.chunks_exact_mut(width).enumerate() {
            vector.copy_from_slice(self.vector(unit, worker, worker.n_done + index));
        }
        Ok(())
    }

    /// Index of the selected row, and the head, of vector `index` of a unit.
    fn row_and_head(&self, unit: Unit, index: usize) -> (usize, usize) {
        match &self.selection.heads {
            Some(heads) => (unit.span.first + index / heads.len(), heads[index % heads.len()]),
            None => (unit.span.first + index, 0),
        }
    }

    /// Vector `index` of the unit in the decoded chunk: `[feature]`.
    fn vector<'a>(&self, unit: Unit, worker: &'a Worker, index: usize) -> &'a [f32] {
        let (row, head) = self.row_and_head(unit, index);
        let row = self.selection.spans.row(row) - unit.span.chunk_first;
        let start = row * self.layout.row_len() + head * self.layout.width;
        &worker.chunk[start..start + self.layout.width]
    }
}

/// Fills `out` with `value` of successive `indices`.
fn zip<T>(out: &mut [T], indices: RangeFrom<usize>, value: impl Fn(usize) -> T) {
    for (slot, index) in out.iter_mut().zip(indices) {
        *slot = value(index);
    }
}
