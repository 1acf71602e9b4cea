//! Rows out of one inner chunk: by position where the chunk is plain bytes, whole where it is compressed.

use std::{cell::RefCell, fs::File, ops::Range, path::Path};

use super::{
    counters::Counters,
    dtype::Element,
    files,
    index::{Entry, decode_chunk},
    spec::{ArraySpec, Codec},
};
use crate::error::{Error, Result};

/// Wanted bytes that lie closer than this are fetched by one call: skipping costs more than reading.
const MAX_GAP: usize = 1024;
/// One call fetches at most this much, unless a whole chunk is wanted.
const MAX_SPAN: usize = 1 << 20;

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
    pub(crate) file: &'a File,
    pub(crate) chunk: usize,
    /// Rows of the chunk that readers see: fewer than it has room for in the last one of an array.
    pub(crate) visible: usize,
    pub(crate) entry: Entry,
    pub(crate) counters: &'a Counters,
}

/// A thread's buffers: stored bytes and decoded bytes.
#[derive(Default)]
struct Scratch {
    stored: Vec<u8>,
    decoded: Vec<u8>,
}

thread_local! {
    // Reused between chunks: fresh memory costs more than the copy out of it.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Fills the segments, all of one chunk and sorted by row, with the wanted columns of their rows.
pub(crate) fn read<T: Element>(
    source: &Source<'_>,
    columns: &[Range<usize>],
    segments: &mut [Segment<'_, T>],
) -> Result<()> {
    SCRATCH.with_borrow_mut(|scratch| {
        let whole = columns.len() == 1 && columns[0].len() == source.spec.row_len();
        let rows = distinct_rows(segments);
        if source.spec.codec == Codec::Zstd || (whole && rows == source.visible) {
            read_whole(source, columns, segments, scratch)
        } else {
            read_spans(source, columns, segments, &mut scratch.stored)
        }
    })
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

/// Fetches, checks and decodes the whole chunk, then copies from it.
fn read_whole<T: Element>(
    source: &Source<'_>,
    columns: &[Range<usize>],
    segments: &mut [Segment<'_, T>],
    scratch: &mut Scratch,
) -> Result<()> {
    let spec = source.spec;
    let nbytes = to_usize(source.entry.nbytes);
    let stored = room(&mut scratch.stored, nbytes);
    files::read_at(source.file, source.path, stored, source.entry.offset)?;
    source.counters.add_bytes(nbytes);
    let decoded: &[u8] = if spec.codec == Codec::None {
        super::index::split_crc(stored).ok_or_else(|| bad_checksum(source))?
    } else {
        decode_chunk(spec, source.path, source.chunk, stored, &mut scratch.decoded)?;
        &scratch.decoded
    };
    for segment in segments {
        let first = segment.row % spec.chunk_rows;
        copy_rows(spec, columns, segment, &decoded[first * spec.row_bytes()..]);
    }
    Ok(())
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

/// A wanted piece of a row: where its bytes are in the chunk and where its values go.
struct Piece<'o, T> {
    start: usize,
    out: &'o mut [T],
}

/// Fetches only the wanted bytes, neighbours together.
fn read_spans<T: Element>(
    source: &Source<'_>,
    columns: &[Range<usize>],
    segments: &mut [Segment<'_, T>],
    buffer: &mut Vec<u8>,
) -> Result<()> {
    let size = source.spec.dtype.size();
    let mut pieces = pieces(source.spec, columns, segments);
    // Rows are sorted already; heads may have been asked for in any order, rows more than once.
    pieces.sort_by_key(|piece| piece.start);
    let mut rest = pieces.as_mut_slice();
    while let Some(first) = rest.first() {
        let start = first.start;
        let mut end = start + first.out.len() * size;
        let mut n = 1;
        while let Some(next) = rest.get(n) {
            let stop = next.start + next.out.len() * size;
            if next.start > end + MAX_GAP || stop - start > MAX_SPAN {
                break;
            }
            end = end.max(stop);
            n += 1;
        }
        let bytes = room(buffer, end - start);
        files::read_at(source.file, source.path, bytes, source.entry.offset + start as u64)?;
        source.counters.add_bytes(bytes.len());
        let (span, tail) = rest.split_at_mut(n);
        for piece in span {
            let at = piece.start - start;
            T::decode(source.spec.dtype, &bytes[at..at + piece.out.len() * size], piece.out);
        }
        rest = tail;
    }
    Ok(())
}

fn pieces<'p, T: Element>(
    spec: &ArraySpec,
    columns: &[Range<usize>],
    segments: &'p mut [Segment<'_, T>],
) -> Vec<Piece<'p, T>> {
    let size = spec.dtype.size();
    let whole = columns.len() == 1 && columns[0].len() == spec.row_len();
    let mut pieces = Vec::new();
    for segment in segments {
        let first = segment.row % spec.chunk_rows * spec.row_len();
        let mut out = &mut *segment.out;
        if whole {
            pieces.push(Piece { start: first * size, out });
            continue;
        }
        for row in 0..segment.n {
            for column in columns {
                let (mine, rest) = out.split_at_mut(column.len());
                let start = (first + row * spec.row_len() + column.start) * size;
                pieces.push(Piece { start, out: mine });
                out = rest;
            }
        }
    }
    pieces
}

/// The first `n` bytes of a buffer that only grows.
fn room(buffer: &mut Vec<u8>, n: usize) -> &mut [u8] {
    if buffer.len() < n {
        buffer.resize(n, 0);
    }
    &mut buffer[..n]
}

fn to_usize(n: u64) -> usize {
    // Index entries are bounded by the chunk's size when they are read.
    usize::try_from(n).unwrap_or(usize::MAX)
}
