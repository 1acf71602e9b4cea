//! One read of an array in a bucket: a window of chunks at a time, the bytes of the next window on their way while
//! those of this one are copied.

use std::sync::Arc;

use super::{
    chunk::{self, Wanted},
    dtype::{Dtype, Element},
    gather::Run,
    objects::{Fetched, Fetching, merge},
    read::Read,
    shards::{MAX_OPEN, OpenShard, ShardId},
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
}

/// Pieces whose bytes were asked for.
struct Window<'r> {
    pieces: &'r [Piece<'r>],
    parts: Vec<(Arc<OpenShard>, Fetching)>,
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
        let ids: Vec<ShardId> = pieces.iter().map(|piece| piece.id).take(MAX_OPEN / 2).collect();
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
                let layers = self.layers.iter().enumerate();
                pieces.extend(layers.map(|(layer, id)| Piece { id: (number, *id), layer, chunks }));
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
        let wanted: Vec<ShardId> = pieces.iter().map(|piece| piece.id).collect();
        self.shards.open_objects(self.spec, &wanted, self.n_row, self.counters)?;
        if self.spec.dtype == Dtype::I8 {
            // Each waits for a server, so that they go side by side.
            self.each(&wanted, |&id| {
                let shard = self.shards.open(self.spec, id, self.n_row, false, self.counters)?;
                shard.scales(self.spec, 0, self.counters).map(drop)
            })?;
        }
        let part = |piece: &Piece<'_>| {
            let shard = self.shards.open(self.spec, piece.id, self.n_row, false, self.counters)?;
            let fetching = self.fetch(&shard, piece.chunks)?;
            Ok((shard, fetching))
        };
        Ok(Window { pieces, parts: pieces.iter().map(part).collect::<Result<_>>()? })
    }

    /// Asks for the bytes that are wanted of one shard.
    fn fetch(&self, shard: &OpenShard, chunks: &[&[Run]]) -> Result<Fetching> {
        let mut ranges = Vec::new();
        for &runs in chunks {
            let wanted = Wanted { columns: self.columns, runs, cells: self.cells };
            ranges.extend(self.source(shard, runs, None)?.wanted_bytes(&wanted));
        }
        // Chunks of a shard lie in its index's order, which a hostile one may have shuffled.
        ranges.sort_unstable_by_key(|range| range.start);
        shard.map.fetch(merge(ranges))
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
        for (piece, (shard, fetching)) in window.pieces.iter().zip(window.parts) {
            let fetched = Arc::new(fetching.wait()?);
            self.counters.add_bytes(fetched.len());
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
