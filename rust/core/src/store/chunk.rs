//! Rows out of one inner chunk: by position where the chunk is plain bytes, whole where it is compressed.

use std::{cell::RefCell, ops::Range, path::Path};

use super::{
    counters::Counters,
    dtype::Element,
    index::{Entry, decode_chunk, split_crc},
    map::Map,
    spec::{ArraySpec, Codec},
};
use crate::error::{Error, Result};

/// Rows that are neighbours in a chunk and in the output.
#[derive(Debug)]
pub(crate) struct Segment<'o, T> {
    pub(crate) layer: Option<usize>,
    /// First row, counted over the whole array.
    pub(crate) row: usize,
    pub(crate) n: usize,
    /// `[n, wanted columns]`.
    pub(crate) out: &'o mut [T],
}

/// Where a chunk's bytes are.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub(crate) spec: &'a ArraySpec,
    pub(crate) path: &'a Path,
    pub(crate) map: &'a Map,
    pub(crate) chunk: usize,
    /// Rows of the chunk that readers see: fewer than it has room for in the last one of an array.
    pub(crate) visible: usize,
    pub(crate) entry: Entry,
    pub(crate) counters: &'a Counters,
}

thread_local! {
    // A thread's decoded bytes. Reused between chunks: fresh memory costs more than the copy out of it.
    static DECODED: RefCell<Vec<u8>> = RefCell::default();
}

/// Fills the segments, all of one chunk and sorted by row, with the wanted columns of their rows.
///
/// The checksum is checked where all of the chunk is read.
pub(crate) fn read<T: Element>(
    source: &Source<'_>,
    columns: &[Range<usize>],
    segments: &mut [Segment<'_, T>],
) -> Result<()> {
    let spec = source.spec;
    let (start, nbytes) = (to_usize(source.entry.offset), to_usize(source.entry.nbytes));
    let whole = columns.len() == 1 && columns[0].len() == spec.row_len();
    let rows = distinct_rows(segments);
    if spec.codec == Codec::None && !(whole && rows == source.visible) {
        let cell: usize = columns.iter().map(Range::len).sum();
        source.counters.add_bytes(rows * cell * spec.dtype.size());
        return source
            .map
            .read(start..start + nbytes, |stored| copy(spec, columns, segments, stored));
    }
    source.counters.add_bytes(nbytes);
    source.map.will_need(start..start + nbytes);
    source.map.read(start..start + nbytes, |stored| match spec.codec {
        Codec::None => {
            let plain = split_crc(stored).ok_or_else(|| bad_checksum(source))?;
            copy(spec, columns, segments, plain);
            Ok(())
        }
        Codec::Zstd => DECODED.with_borrow_mut(|decoded| {
            decode_chunk(spec, source.path, source.chunk, stored, decoded)?;
            copy(spec, columns, segments, decoded);
            Ok(())
        }),
    })?
}

/// Copies the wanted columns of the segments' rows out of a decoded chunk.
fn copy<T: Element>(
    spec: &ArraySpec,
    columns: &[Range<usize>],
    segments: &mut [Segment<'_, T>],
    chunk: &[u8],
) {
    for segment in segments {
        let first = segment.row % spec.chunk_rows;
        copy_rows(spec, columns, segment, &chunk[first * spec.row_bytes()..]);
    }
}

fn distinct_rows<T>(segments: &[Segment<'_, T>]) -> usize {
    let mut end = 0;
    let mut rows = 0;
    for segment in segments {
        let stop = segment.row + segment.n;
        rows += stop.saturating_sub(end.max(segment.row));
        end = end.max(stop);
    }
    rows
}

fn bad_checksum(source: &Source<'_>) -> Error {
    Error::damaged(source.path, format!("the checksum of its chunk {} does not hold", source.chunk))
}

/// Copies the wanted columns of a segment's rows; `bytes` starts at the segment's first row.
fn copy_rows<T: Element>(
    spec: &ArraySpec,
    columns: &[Range<usize>],
    segment: &mut Segment<'_, T>,
    bytes: &[u8],
) {
    let (size, row_len) = (spec.dtype.size(), spec.row_len());
    if columns.len() == 1 && columns[0].len() == row_len {
        T::decode(spec.dtype, &bytes[..segment.n * row_len * size], segment.out);
        return;
    }
    let mut out = &mut *segment.out;
    for row in 0..segment.n {
        for column in columns {
            let (mine, rest) = out.split_at_mut(column.len());
            let start = (row * row_len + column.start) * size;
            T::decode(spec.dtype, &bytes[start..start + column.len() * size], mine);
            out = rest;
        }
    }
}

fn to_usize(n: u64) -> usize {
    // Index entries are bounded by the file's length when they are read.
    usize::try_from(n).unwrap_or(usize::MAX)
}
