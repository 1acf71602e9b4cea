//! One read of an array in a bucket: a window of chunks at a time, the bytes of the next window on their way while
//! those of this one are copied.
//!
//! A shard's index lies at its end. Where what is wanted reaches there, index and rows come with one request.

use std::{ops::Range, sync::Arc};

use super::{
    chunk::{self, Wanted},
    dtype::{Dtype, Element},
    gather::Run,
    index::{CRC, index_bytes},
    objects::{Fetched, Fetching, MOST_GAP, Opening, REQUEST_BYTES, Tail, merge},
    read::Read,
    shards::{MAX_OPEN, OpenShard, ShardId},
    spec::Codec,
};
use crate::error::Result;

/// Bytes of chunks that are asked for together. Two windows are in memory at a time.
const WINDOW_BYTES: usize = 32 << 20;

/// Chunks of one layer that lie in one shard.
#[derive(Clone, Copy)]
struct Piece<'r> {
    id: ShardId,
    /// Place of the layer in the output.
    layer: usize,
    /// The runs of each chunk.
    chunks: &'r [&'r [Run]],
    /// What to ask for where the index is not known.
    tail: Option<Tail>,
}

/// Pieces whose bytes were asked for.
struct Window<'r> {
    pieces: &'r [Piece<'r>],
    parts: Vec<Part>,
}

/// What was asked for of a piece.
enum Part {
    /// Its bytes, whose places were known.
    Bytes(Arc<OpenShard>, Fetching),
    /// The end of its shard, in which they should be.
    Tail(Opening),
}

/// A chunk whose bytes have come.
struct Here<'r> {
    /// Place of the chunk's layer in the output.
    layer: usize,
    shard: Arc<OpenShard>,
    fetched: Arc<Fetched>,
    runs: &'r [Run],
}

impl<T: Element> Read<'_, '_, T> {
    /// Reads runs, which are sorted by row.
    pub(super) fn run_objects(&self, runs: &[Run]) -> Result<()> {
        let chunk_rows = self.spec.chunk_rows;
        let chunks: Vec<&[Run]> =
            runs.chunk_by(|a, b| a.row / chunk_rows == b.row / chunk_rows).collect();
        let pieces = self.pieces(&chunks);
        // Side by side, as many as stay open: later windows would wait for theirs in turn.
        let ids: Vec<ShardId> = without_tail(&pieces).take(MAX_OPEN / 2).collect();
        self.shards.open_objects(self.spec, &ids, self.n_row, self.counters)?;
        let mut before: Option<Window<'_>> = None;
        let mut rest = pieces.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.fitting(rest));
            let next = self.begin(now)?;
            if let Some(window) = before.replace(next) {
                self.finish(window)?;
            }
            rest = later;
        }
        before.map_or(Ok(()), |window| self.finish(window))
    }

    /// Cuts the work so that what is asked for of a shard at a time is as long as a window allows: layer after
    /// layer, not some chunks of all of them.
    fn pieces<'r>(&self, chunks: &'r [&'r [Run]]) -> Vec<Piece<'r>> {
        let at_a_time = (WINDOW_BYTES / self.chunk_bytes()).max(1);
        let mut pieces = Vec::new();
        for shard in chunks.chunk_by(|a, b| self.shard_of(a) == self.shard_of(b)) {
            for chunks in shard.chunks(at_a_time) {
                let number = self.shard_of(chunks[0]);
                pieces.extend(self.layers.iter().enumerate().map(|(layer, id)| {
                    let id = (number, *id);
                    Piece { id, layer, chunks, tail: self.tail(id, chunks) }
                }));
            }
        }
        pieces
    }

    /// How many of the pieces make a window, at least one.
    fn fitting(&self, pieces: &[Piece<'_>]) -> usize {
        let mut bytes = 0;
        let fits = |piece: &&Piece<'_>| {
            bytes += piece.chunks.len() * self.chunk_bytes();
            bytes <= WINDOW_BYTES
        };
        pieces.iter().take_while(fits).count().max(1)
    }

    fn chunk_bytes(&self) -> usize {
        (self.spec.row_bytes() * self.spec.chunk_rows).max(1)
    }

    /// Opens the shards of pieces and asks for the bytes that are wanted of them.
    fn begin<'r>(&self, pieces: &'r [Piece<'r>]) -> Result<Window<'r>> {
        let wanted: Vec<ShardId> = without_tail(pieces).collect();
        self.shards.open_objects(self.spec, &wanted, self.n_row, self.counters)?;
        if self.spec.dtype == Dtype::I8 {
            // Each waits for a server, so that they go side by side.
            self.each(&wanted, |&id| {
                let shard = self.shards.open(self.spec, id, self.n_row, false, self.counters)?;
                shard.scales(self.spec, 0, self.counters).map(drop)
            })?;
        }
        let part = |piece: &Piece<'_>| {
            if let Some(tail) = piece.tail {
                return self.shards.ask_tail(self.spec, piece.id, tail).map(Part::Tail);
            }
            let shard = self.shards.open(self.spec, piece.id, self.n_row, false, self.counters)?;
            let fetching = self.fetch(&shard, piece.chunks)?;
            Ok(Part::Bytes(shard, fetching))
        };
        Ok(Window { pieces, parts: pieces.iter().map(part).collect::<Result<_>>()? })
    }

    /// The end of a shard that should hold the index and all that is wanted, with no more between them than is
    /// read along anyway. None if the index is known, or has to be.
    fn tail(&self, id: ShardId, chunks: &[&[Run]]) -> Option<Tail> {
        let spec = self.spec;
        // Scales are a request of their own.
        if spec.dtype == Dtype::I8 || self.shards.is_open(id) {
            return None;
        }
        let first = id.0 * spec.shard_rows;
        let end = self.n_row.min(first + spec.shard_rows) - first;
        let padded = end.next_multiple_of(spec.chunk_rows);
        let at = |row: usize| (row * spec.row_bytes()) as u64;
        let runs = chunks.iter().copied().flatten();
        let rows = runs.map(|run| at(run.row - first)..at(run.row - first + run.n));
        let near = merge(rows.chain(std::iter::once(at(end)..at(padded))));
        let [wanted] = near.as_slice() else { return None };
        let is_all = wanted.start <= MOST_GAP;
        // How long compressed chunks are, only the index tells.
        if !is_all && (self.verify || spec.codec != Codec::None) {
            return None;
        }
        let start = if is_all { 0 } else { wanted.start };
        let others = spec.shard_chunks() * CRC + index_bytes(spec);
        let bytes = at(padded) - start + others as u64;
        (bytes <= REQUEST_BYTES).then_some(Tail { bytes, is_all })
    }

    /// Asks for the bytes that are wanted of one shard.
    fn fetch(&self, shard: &OpenShard, chunks: &[&[Run]]) -> Result<Fetching> {
        shard.map.fetch(self.ranges(shard, chunks)?)
    }

    /// The bytes that are wanted of one shard, sorted.
    fn ranges(&self, shard: &OpenShard, chunks: &[&[Run]]) -> Result<Vec<Range<u64>>> {
        let mut ranges = Vec::new();
        for &runs in chunks {
            let wanted = Wanted { columns: self.columns, runs, cells: self.cells };
            ranges.extend(self.source(shard, runs, None)?.wanted_bytes(&wanted));
        }
        // Chunks of a shard lie in its index's order, which a hostile one may have shuffled.
        ranges.sort_unstable_by_key(|range| range.start);
        Ok(merge(ranges))
    }

    /// Waits for what was asked for of a piece.
    fn wait(&self, piece: &Piece<'_>, part: Part) -> Result<(Arc<OpenShard>, Fetched)> {
        let (shard, fetched) = match part {
            Part::Bytes(shard, fetching) => (shard, fetching.wait()?),
            Part::Tail(opening) => {
                let (shard, tail) = self.shards.take_tail(
                    self.spec,
                    piece.id,
                    self.n_row,
                    opening,
                    self.counters,
                )?;
                let ranges = self.ranges(&shard, piece.chunks)?;
                if ranges.iter().any(|range| !tail.holds(range)) {
                    // The shard has grown, or was not written by us.
                    self.counters.add_bytes(tail.len());
                    let fetched = shard.map.fetch(ranges)?.wait()?;
                    (shard, fetched)
                } else {
                    (shard, tail)
                }
            }
        };
        self.counters.add_bytes(fetched.len());
        Ok((shard, fetched))
    }

    /// Waits for a window and copies it. A shard that was replaced since it was opened is opened again: the new
    /// one holds the rows of the old one and more.
    fn finish(&self, window: Window<'_>) -> Result<()> {
        let pieces = window.pieces;
        match self.copy(window) {
            Err(error) if error.is_replaced() => {
                for piece in pieces {
                    self.shards.forget(piece.id);
                }
                self.copy(self.begin(pieces)?)
            }
            done => done,
        }
    }

    fn copy(&self, window: Window<'_>) -> Result<()> {
        let mut items = Vec::new();
        for (piece, part) in window.pieces.iter().zip(window.parts) {
            let (shard, fetched) = self.wait(piece, part)?;
            let fetched = Arc::new(fetched);
            items.extend(piece.chunks.iter().map(|runs| Here {
                layer: piece.layer,
                shard: Arc::clone(&shard),
                fetched: Arc::clone(&fetched),
                runs,
            }));
        }
        self.counters.add_chunks(items.len());
        self.each(&items, |here| {
            let source = self.source(&here.shard, here.runs, Some(&here.fetched))?;
            let wanted = Wanted { columns: self.columns, runs: here.runs, cells: self.cells };
            chunk::read(&source, &wanted, here.layer)
        })
    }

    fn shard_of(&self, runs: &[Run]) -> usize {
        runs[0].row / self.spec.shard_rows
    }
}

/// The shards that are opened by their index alone.
fn without_tail(pieces: &[Piece<'_>]) -> impl Iterator<Item = ShardId> {
    pieces.iter().filter(|piece| piece.tail.is_none()).map(|piece| piece.id)
}
