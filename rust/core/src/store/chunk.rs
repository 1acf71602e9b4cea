//! Rows out of one inner chunk: by position where the chunk is plain bytes, whole where it is compressed.

use std::{cell::RefCell, ops::Range};

use super::{
    counters::Counters,
    dtype::{Dtype, Element},
    gather::{Cells, Run, distinct},
    index::{CRC, Entry, decode_chunk, split_crc},
    objects::Fetched,
    shards::OpenShard,
    spec::{ArraySpec, Codec},
};
use crate::error::{Error, Result};

/// Bytes of a row that are asked for ahead of their copy; the processor finds out the rest by itself.
const MAX_PREFETCH: usize = 2048;
const CACHE_LINE: usize = 64;

/// Where a chunk's bytes are.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub(crate) spec: &'a ArraySpec,
    pub(crate) shard: &'a OpenShard,
    pub(crate) chunk: usize,
    /// Rows of the chunk that readers see: fewer than it has room for in the last one of an array.
    pub(crate) visible: usize,
    pub(crate) entry: Entry,
    /// Of its columns, if it holds codes: a little-endian `f32` each.
    pub(crate) scales: &'a [u8],
    pub(crate) counters: &'a Counters,
    /// What came of a shard in a bucket; its bytes were counted when they were asked for.
    pub(crate) fetched: Option<&'a Fetched>,
    /// Check the checksum also where only some of the rows are read.
    pub(crate) verify: bool,
}

/// What is wanted of a chunk, and where it goes.
#[derive(Debug)]
pub(crate) struct Wanted<'a, 'o, T> {
    /// Element ranges within a row, in the order of the output.
    pub(crate) columns: &'a [Range<usize>],
    /// Runs of the chunk, in the order of its rows.
    pub(crate) runs: &'a [Run],
    pub(crate) cells: &'a Cells<'o, T>,
}

thread_local! {
    // A thread's decoded bytes. Reused between chunks: fresh memory costs more than the copy out of it.
    static DECODED: RefCell<Vec<u8>> = RefCell::default();
}

/// Copies what is wanted out of a chunk, whose layer has the place `layer` in the output.
///
/// The checksum of a plain chunk is checked where all of the chunk is read, once for as long as its shard is
/// open.
pub(crate) fn read<T: Element>(
    source: &Source<'_>,
    wanted: &Wanted<'_, '_, T>,
    layer: usize,
) -> Result<()> {
    let spec = source.spec;
    if source.is_by_rows(wanted) {
        read_rows(source, wanted, layer)?;
        return source.shard.check_scales();
    }
    let stored = source.entry.range();
    if source.fetched.is_none() {
        source.counters.add_bytes(stored.len());
        source.shard.warm(source.chunk);
    }
    source.bytes(stored, |stored| match spec.codec {
        Codec::None => {
            copy(source, wanted, layer, checked(source, stored)?, 0);
            Ok(())
        }
        Codec::Zstd => DECODED.with_borrow_mut(|decoded| {
            decode_chunk(spec, &source.shard.path, source.chunk, stored, decoded)?;
            copy(source, wanted, layer, decoded, 0);
            Ok(())
        }),
    })??;
    source.shard.check_scales()
}

/// Copies rows out of a plain chunk, touching no others.
fn read_rows<T: Element>(
    source: &Source<'_>,
    wanted: &Wanted<'_, '_, T>,
    layer: usize,
) -> Result<()> {
    if source.fetched.is_some() {
        return read_fetched_rows(source, wanted, layer);
    }
    let span = source.span(wanted.runs);
    let map = &source.shard.map;
    source.counters.add_bytes(if map.is_mapped() { source.bytes_of(wanted) } else { span.len() });
    let first = wanted.runs[0].row % source.spec.chunk_rows;
    map.read(span, |bytes| copy(source, wanted, layer, bytes, first))
}

/// Copies rows out of what came of a plain chunk, which has gaps where no row is wanted.
fn read_fetched_rows<T: Element>(
    source: &Source<'_>,
    wanted: &Wanted<'_, '_, T>,
    layer: usize,
) -> Result<()> {
    wanted.runs.iter().try_for_each(|run| {
        let runs = std::slice::from_ref(run);
        let first = run.row % source.spec.chunk_rows;
        source.bytes(source.span(runs), |bytes| {
            copy(source, &Wanted { runs, ..*wanted }, layer, bytes, first);
        })
    })
}

/// Copies rows out of the same chunk of several layers, row after row, so that the output is written in its
/// order: that is half of the jumps. False, and nothing done, where chunks have to be read as a whole.
pub(crate) fn read_across<T: Element>(
    sources: &[Source<'_>],
    wanted: &Wanted<'_, '_, T>,
) -> Result<bool> {
    let by_rows = |source: &Source<'_>| source.is_by_rows(wanted) && source.shard.map.is_mapped();
    if !sources.iter().all(by_rows) {
        return Ok(false);
    }
    let spec = sources[0].spec;
    let layers: Vec<&[u8]> = sources
        .iter()
        .map(|source| source.shard.map.mapped(source.span(wanted.runs)))
        .collect::<Result<_>>()?;
    let first = wanted.runs[0].row;
    let rows = wanted.runs.iter().flat_map(|run| (run.row..run.row + run.n).zip(run.out..));
    for (row, out) in rows {
        let place = (row - first) * spec.row_bytes()..(row - first + 1) * spec.row_bytes();
        for (layer, (source, bytes)) in sources.iter().zip(&layers).enumerate() {
            let (row, cell) = (&bytes[place.clone()], wanted.cells.lend(out, 1, layer));
            copy_columns(spec.dtype, source.scales, wanted.columns, row, cell);
        }
    }
    for source in sources {
        source.counters.add_bytes(source.bytes_of(wanted));
        source.shard.map.check()?;
        source.shard.check_scales()?;
    }
    Ok(true)
}

impl Source<'_> {
    /// Calls `work` with some of the shard's bytes.
    fn bytes<R>(&self, range: Range<usize>, work: impl FnOnce(&[u8]) -> R) -> Result<R> {
        match self.fetched {
            Some(fetched) => fetched.with(range, work),
            None => self.shard.map.read(range, work),
        }
    }

    /// The bytes of the shard that a read needs, sorted: whole rows, or all of the chunk.
    pub(crate) fn wanted_bytes<T>(&self, wanted: &Wanted<'_, '_, T>) -> Vec<Range<u64>> {
        let range = |bytes: Range<usize>| bytes.start as u64..bytes.end as u64;
        if !self.is_by_rows(wanted) {
            return vec![range(self.entry.range())];
        }
        wanted.runs.iter().map(|run| range(self.span(std::slice::from_ref(run)))).collect()
    }

    /// Whether rows are read alone; else the whole chunk is.
    fn is_by_rows<T>(&self, wanted: &Wanted<'_, '_, T>) -> bool {
        self.spec.codec == Codec::None
            && !self.verify
            && !(wanted.is_whole_rows(self.spec) && distinct(wanted.runs) == self.visible)
    }

    /// The bytes of the shard from the first wanted row to the last.
    fn span(&self, runs: &[Run]) -> Range<usize> {
        let row_bytes = self.spec.row_bytes();
        let first = runs[0].row % self.spec.chunk_rows;
        let end = runs.last().map_or(first, |last| last.row % self.spec.chunk_rows + last.n);
        let start = self.entry.range().start;
        start + first * row_bytes..start + end * row_bytes
    }

    /// Bytes that are wanted of the chunk.
    fn bytes_of<T>(&self, wanted: &Wanted<'_, '_, T>) -> usize {
        let cell: usize = wanted.columns.iter().map(Range::len).sum();
        distinct(wanted.runs) * cell * self.spec.dtype.size()
    }
}

/// The plain chunk's bytes without their checksum, which is checked if it was not before.
fn checked<'b>(source: &Source<'_>, stored: &'b [u8]) -> Result<&'b [u8]> {
    let (shard, chunk) = (source.shard, source.chunk);
    // What comes over a network is checked each time that it comes.
    if shard.is_checked(chunk) && source.fetched.is_none() {
        return Ok(&stored[..stored.len() - CRC]);
    }
    let plain = split_crc(stored).ok_or_else(|| {
        let what = format!("the checksum of its chunk {chunk} does not hold");
        Error::damaged(&shard.path, what)
    })?;
    shard.set_checked(chunk);
    Ok(plain)
}

/// Copies the wanted columns of the runs; `bytes` starts at row `first` of the chunk.
fn copy<T: Element>(
    source: &Source<'_>,
    wanted: &Wanted<'_, '_, T>,
    layer: usize,
    bytes: &[u8],
    first: usize,
) {
    let (spec, scales) = (source.spec, source.scales);
    let row_bytes = spec.row_bytes();
    let whole = wanted.is_whole_rows(spec);
    let rows_at = |run: &Run| &bytes[(run.row % spec.chunk_rows - first) * row_bytes..];
    for (number, run) in wanted.runs.iter().enumerate() {
        if let Some(next) = wanted.runs.get(number + 1) {
            prefetch(&rows_at(next)[..row_bytes]);
        }
        let rows = &rows_at(run)[..run.n * row_bytes];
        if whole && wanted.cells.is_one_layer() {
            T::decode(spec.dtype, scales, rows, wanted.cells.lend(run.out, run.n, layer));
            continue;
        }
        for (row, out) in rows.chunks_exact(row_bytes).zip(run.out..) {
            copy_columns(spec.dtype, scales, wanted.columns, row, wanted.cells.lend(out, 1, layer));
        }
    }
}

impl<T> Wanted<'_, '_, T> {
    /// Whether rows are wanted whole.
    fn is_whole_rows(&self, spec: &ArraySpec) -> bool {
        self.columns.len() == 1 && self.columns[0].len() == spec.row_len()
    }
}

/// Copies element ranges of a row to `out`, one after another; `scales` are those of its codes, if it holds codes.
pub(crate) fn copy_columns<T: Element>(
    dtype: Dtype,
    scales: &[u8],
    columns: &[Range<usize>],
    row: &[u8],
    mut out: &mut [T],
) {
    let size = dtype.size();
    for column in columns {
        let (mine, rest) = out.split_at_mut(column.len());
        let scales =
            if scales.is_empty() { scales } else { &scales[4 * column.start..4 * column.end] };
        T::decode(dtype, scales, &row[column.start * size..column.end * size], mine);
        out = rest;
    }
}

/// Asks the processor to fetch bytes that will be copied soon: rows lie too far apart for it to guess.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "the intrinsic takes a pointer")]
pub(crate) fn prefetch(bytes: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in bytes[..bytes.len().min(MAX_PREFETCH)].chunks(CACHE_LINE) {
        // SAFETY: a prefetch reads nothing that the program sees, and the pointer is into `bytes`.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn prefetch(_: &[u8]) {}
