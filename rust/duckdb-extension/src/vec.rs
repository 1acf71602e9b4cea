//! `residuum_vec(store, site, row[, layer[, head]])`: the vector of one stored row.
//!
//! Rows of one call are read chunk by chunk, each chunk once, whatever their order.

use std::sync::Arc;

use residuum_core::{Codec, Rows, SiteArray, Store};

use crate::chunk_cache;
use crate::failure::{Failure, Result};
use crate::ffi::scalar::ScalarFunction;
use crate::ffi::types::SqlType;
use crate::ffi::vector::{Column, Input, Texts};
use crate::registry;
use crate::selection::{Layout, beyond};

const OVERLOADS: &[&[SqlType]] = &[
    &[SqlType::Varchar, SqlType::Varchar, SqlType::BigInt],
    &[SqlType::Varchar, SqlType::Varchar, SqlType::BigInt, SqlType::BigInt],
    &[SqlType::Varchar, SqlType::Varchar, SqlType::BigInt, SqlType::BigInt, SqlType::BigInt],
];

/// Widths for which a function with an array result is registered: up to each bound, the multiples
/// of its step. They hold the sizes of models (`d_model`, `d_head`, `d_mlp`) and all small numbers.
const FIXED_WIDTHS: [(usize, usize); 4] = [(1, 64), (8, 1024), (64, 8192), (256, 32_768)];

/// The function with one result type: `FLOAT[]`, or `FLOAT[width]` where a width is set.
///
/// The C API fixes a function's result type when it is registered. A cast of the list to an array
/// costs about as much as decoding it, so that the usual widths have a function of their own,
/// `residuum_vec768` and so on, beside the general one.
#[derive(Clone, Debug)]
pub(crate) struct Vector {
    width: Option<usize>,
}

impl Vector {
    /// The function that returns lists.
    pub(crate) fn list() -> Self {
        Self { width: None }
    }

    /// The functions that return arrays, one a width.
    pub(crate) fn arrays() -> impl Iterator<Item = Self> {
        (1..=SqlType::MAX_ARRAY)
            .filter(|&width| is_fixed(width))
            .map(|width| Self { width: Some(width) })
    }

    /// The function that returns vectors of `width` with the least work.
    pub(crate) fn for_width(width: usize) -> Self {
        Self { width: is_fixed(width).then_some(width) }
    }
}

fn is_fixed(width: usize) -> bool {
    FIXED_WIDTHS
        .iter()
        .any(|&(step, bound)| width > 0 && width <= bound && width.is_multiple_of(step))
}

impl ScalarFunction for Vector {
    fn name(&self) -> String {
        self.width.map_or_else(|| "residuum_vec".into(), |width| format!("residuum_vec{width}"))
    }

    fn overloads(&self) -> &'static [&'static [SqlType]] {
        OVERLOADS
    }

    fn result(&self) -> SqlType {
        self.width.map_or(SqlType::FloatList, SqlType::FloatArray)
    }

    fn call(&self, input: &Input<'_>, out: &mut Column<'_>) -> Result<()> {
        let request = Request::parse(input)?;
        let mut lengths = vec![0; input.n_row()];
        for wanted in &request.wanted {
            lengths[wanted.out_row] = wanted.len;
        }
        let out_values = match self.width {
            None => out.lists(&lengths)?,
            Some(width) => {
                request.check_width(&self.name(), width)?;
                lengths.fill(width);
                out.vectors(width)?
            }
        };
        request.copy_into(&offsets(&lengths), out_values)?;
        for (row, _) in request.complete.iter().enumerate().filter(|(_, complete)| !**complete) {
            out.set_null(row)?;
        }
        Ok(())
    }
}

/// Where each row of `lengths` begins.
fn offsets(lengths: &[usize]) -> Vec<usize> {
    let mut next = 0;
    lengths
        .iter()
        .map(|length| {
            let start = next;
            next += length;
            start
        })
        .collect()
}

/// A site that a call reads.
struct Source {
    _store: Arc<Store>,
    site: Arc<SiteArray>,
    layout: Layout,
}

/// One vector that a call reads.
struct Wanted {
    source: usize,
    layer: usize,
    chunk: usize,
    row: usize,
    /// First element within the row.
    start: usize,
    len: usize,
    out_row: usize,
}

/// All vectors that a call reads, in the order in which they are read.
struct Request {
    sources: Vec<Source>,
    wanted: Vec<Wanted>,
    complete: Vec<bool>,
}

impl Request {
    fn parse(input: &Input<'_>) -> Result<Self> {
        let (stores, sites) = (input.texts(0)?, input.texts(1)?);
        let rows = input.integers(2)?;
        let layers = (input.n_column() > 3).then(|| input.integers(3)).transpose()?;
        let heads = (input.n_column() > 4).then(|| input.integers(4)).transpose()?;
        let complete = input.complete_rows();
        let mut names: Vec<(&str, &str)> = Vec::new();
        let mut sources: Vec<Source> = Vec::new();
        let mut wanted = Vec::with_capacity(input.n_row());
        let mut previous = None;
        for out_row in (0..input.n_row()).filter(|&row| complete[row]) {
            let source = match previous {
                Some((row, source)) if same(stores, sites, row, out_row) => source,
                _ => find(&mut names, &mut sources, stores.get(out_row), sites.get(out_row))?,
            };
            previous = Some((out_row, source));
            let layer = layers.map(|layers| layers[out_row]);
            let head = heads.map(|heads| heads[out_row]);
            let place = sources[source].locate(rows[out_row], layer, head)?;
            wanted.push(Wanted { source, out_row, ..place });
        }
        wanted.sort_unstable_by_key(|w| (w.source, w.layer, w.row));
        Ok(Self { sources, wanted, complete })
    }

    fn check_width(&self, function: &str, width: usize) -> Result<()> {
        let Some(other) = self.wanted.iter().find(|wanted| wanted.len != width) else {
            return Ok(());
        };
        Err(Failure::new(format!(
            "{function} returns vectors of {width}, but those of site `{}` have {}",
            self.sources[other.source].site.name(),
            other.len
        )))
    }

    /// Copies every vector to its row, which begins at `offsets[row]` of `out`.
    fn copy_into(&self, offsets: &[usize], out: &mut [f32]) -> Result<()> {
        let same_layer = |a: &Wanted, b: &Wanted| (a.source, a.layer) == (b.source, b.layer);
        for of_layer in self.wanted.chunk_by(same_layer) {
            let source = &self.sources[of_layer[0].source];
            let mut scattered = Vec::new();
            for of_chunk in of_layer.chunk_by(|a, b| a.chunk == b.chunk) {
                if source.is_scattered(of_chunk) {
                    scattered.extend(of_chunk);
                    continue;
                }
                let (layer, chunk) = (of_chunk[0].layer, of_chunk[0].chunk);
                let values = chunk_cache::chunk(&source.site, &source.layout, layer, chunk)?;
                for wanted in of_chunk {
                    let row = (wanted.row % source.layout.chunk_rows) * source.layout.row_len();
                    wanted.copy(&values[row..], offsets, out);
                }
            }
            source.copy_scattered(&scattered, offsets, out)?;
        }
        Ok(())
    }
}

impl Wanted {
    /// Copies the vector from its row's elements, with which `row` begins.
    fn copy(&self, row: &[f32], offsets: &[usize], out: &mut [f32]) {
        let at = offsets[self.out_row];
        out[at..at + self.len].copy_from_slice(&row[self.start..self.start + self.len]);
    }
}

/// Whether two rows certainly name the same store and site.
fn same(stores: Texts<'_>, sites: Texts<'_>, a: usize, b: usize) -> bool {
    stores.is_same(a, b) && sites.is_same(a, b)
}

/// The index of the site among `sources`, opened if it is new.
fn find<'a>(
    names: &mut Vec<(&'a str, &'a str)>,
    sources: &mut Vec<Source>,
    store: &'a str,
    site: &'a str,
) -> Result<usize> {
    if let Some(index) = names.iter().position(|&known| known == (store, site)) {
        return Ok(index);
    }
    let opened = registry::open(store)?;
    let array = Arc::clone(opened.site(site)?);
    let layout = Layout::of(array.spec());
    sources.push(Source { _store: opened, site: array, layout });
    names.push((store, site));
    Ok(sources.len() - 1)
}

impl Source {
    /// Where the vector at `row`, `layer` and `head` is.
    fn locate(&self, row: i64, layer: Option<i64>, head: Option<i64>) -> Result<Wanted> {
        let layout = &self.layout;
        let row = self.checked("row", row, self.site.n_row())?;
        let (layer, head) = self.axes(layer, head)?;
        let (start, len) = match (head, &layout.head_axis) {
            (Some(head), Some((axis, n_head))) => {
                (self.checked(axis, head, *n_head)? * layout.width, layout.width)
            }
            _ => (0, layout.row_len()),
        };
        let chunk = row / layout.chunk_rows;
        Ok(Wanted { source: 0, layer, chunk, row, start, len, out_row: 0 })
    }

    /// Whether so few rows of a chunk are wanted, here `of_chunk`, that reading them one by one
    /// beats decoding the chunk. Compressed chunks can only be decoded whole.
    fn is_scattered(&self, of_chunk: &[Wanted]) -> bool {
        const SHARE: usize = 8;
        let n_row = of_chunk.chunk_by(|a, b| a.row == b.row).count();
        self.site.spec().codec == Codec::None && n_row * SHARE < self.layout.chunk_rows
    }

    /// Copies vectors, sorted by row and all of one layer, whose rows are read one by one.
    fn copy_scattered(&self, wanted: &[&Wanted], offsets: &[usize], out: &mut [f32]) -> Result<()> {
        let Some(first) = wanted.first() else { return Ok(()) };
        let of_rows: Vec<_> = wanted.chunk_by(|a, b| a.row == b.row).collect();
        let rows: Vec<u64> = of_rows.iter().map(|of_row| of_row[0].row as u64).collect();
        let row_len = self.layout.row_len();
        let mut values = vec![0.0_f32; rows.len() * row_len];
        let layer = [first.layer];
        let layers = if self.layout.has_layer { &layer[..] } else { &[] };
        self.site.read(Rows::Index(&rows), layers, None, &mut values)?;
        for (of_row, row) in of_rows.iter().zip(values.chunks_exact(row_len.max(1))) {
            for wanted in *of_row {
                wanted.copy(row, offsets, out);
            }
        }
        Ok(())
    }

    /// The layer and head that the arguments after `row` mean for this site.
    fn axes(&self, layer: Option<i64>, head: Option<i64>) -> Result<(usize, Option<i64>)> {
        let (name, has_head) = (self.site.name(), self.layout.head_axis.is_some());
        match (self.layout.has_layer, layer) {
            (true, None) => Err(Failure::new(format!(
                "site `{name}` has a layer axis: call residuum_vec(store, site, row, layer)"
            ))),
            (false, Some(_)) => Err(Failure::new(format!(
                "site `{name}` has no layer axis: call residuum_vec(store, site, row)"
            ))),
            (true, Some(_)) if head.is_some() && !has_head => Err(Failure::new(format!(
                "site `{name}` has no head axis: call residuum_vec(store, site, row, layer)"
            ))),
            (false, None) => Ok((0, head)),
            (true, Some(layer)) => {
                let number = usize::try_from(layer).unwrap_or(usize::MAX);
                if !self.site.spec().layers.contains(&number) {
                    return Err(self.site.layer_error(number).into());
                }
                Ok((number, head))
            }
        }
    }

    fn checked(&self, axis: &str, index: i64, length: usize) -> Result<usize> {
        match usize::try_from(index) {
            Ok(index) if index < length => Ok(index),
            _ => Err(beyond(axis, index, self.site.name(), length)),
        }
    }
}
