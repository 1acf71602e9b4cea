//! One read of an array in a bucket: a window of chunks at a time, the bytes of the next window on their way while
//! those of this one are copied.

use std::sync::Arc;

use super::{
    chunk::{self, Wanted},
    dtype::{Dtype, Element},
    gather::Run,
    objects::{Fetched, Fetching, merge},
    read::Read,
    shards::{OpenShard, ShardId},
};
use crate::error::Result;

/// Bytes of chunks that are asked for together. Two windows are in memory at a time.
const WINDOW_BYTES: usize = 32 << 20;

/// Chunks whose bytes were asked for, and the shards that they lie in.
struct Window<'r> {
    /// The runs of each chunk.
    chunks: &'r [&'r [Run]],
    shards: Vec<Part>,
}

/// What a window takes from one shard.
struct Part {
    id: ShardId,
    /// Place of the shard's layer in the output.
    layer: usize,
    shard: Arc<OpenShard>,
    fetching: Fetching,
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
        let row_bytes = self.spec.row_bytes() * self.layers.len().max(1);
        let at_a_time = (WINDOW_BYTES / (row_bytes * chunk_rows).max(1)).max(1);
        let mut before: Option<Window<'_>> = None;
        for chunks in chunks.chunks(at_a_time) {
            let next = self.begin(chunks)?;
            if let Some(window) = before.replace(next) {
                self.finish(window)?;
            }
        }
        before.map_or(Ok(()), |window| self.finish(window))
    }

    /// Opens the shards of chunks and asks for the bytes that are wanted of them.
    fn begin<'r>(&self, chunks: &'r [&'r [Run]]) -> Result<Window<'r>> {
        let mut ids: Vec<(ShardId, usize)> = Vec::new();
        for shard in chunks.chunk_by(|a, b| self.shard_of(a) == self.shard_of(b)) {
            let number = self.shard_of(shard[0]);
            ids.extend(self.layers.iter().enumerate().map(|(at, layer)| ((number, *layer), at)));
        }
        let wanted: Vec<ShardId> = ids.iter().map(|(id, _)| *id).collect();
        self.shards.open_objects(self.spec, &wanted, self.n_row, self.counters)?;
        if self.spec.dtype == Dtype::I8 {
            // Each waits for a server, so that they go side by side.
            self.each(&wanted, |&id| {
                let shard = self.shards.open(self.spec, id, self.n_row, false, self.counters)?;
                shard.scales(self.spec, 0, self.counters).map(drop)
            })?;
        }
        let part = |(id, layer)| {
            let shard = self.shards.open(self.spec, id, self.n_row, false, self.counters)?;
            let fetching =
                self.fetch(&shard, chunks_of(chunks, |runs| self.shard_of(runs) == id.0))?;
            Ok(Part { id, layer, shard, fetching })
        };
        Ok(Window { chunks, shards: ids.into_iter().map(part).collect::<Result<_>>()? })
    }

    /// Asks for the bytes that are wanted of one shard.
    fn fetch<'r>(
        &self,
        shard: &OpenShard,
        chunks: impl Iterator<Item = &'r [Run]>,
    ) -> Result<Fetching> {
        let mut ranges = Vec::new();
        for runs in chunks {
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
        let chunks = window.chunks;
        let ids: Vec<ShardId> = window.shards.iter().map(|part| part.id).collect();
        match self.copy(window) {
            Err(error) if error.is_replaced() => {
                for id in ids {
                    self.shards.forget(id);
                }
                self.copy(self.begin(chunks)?)
            }
            done => done,
        }
    }

    fn copy(&self, window: Window<'_>) -> Result<()> {
        let mut items = Vec::new();
        for Part { id, layer, shard, fetching } in window.shards {
            let fetched = Arc::new(fetching.wait()?);
            self.counters.add_bytes(fetched.len());
            let chunks = chunks_of(window.chunks, |runs| self.shard_of(runs) == id.0);
            items.extend(chunks.map(|runs| Here {
                layer,
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

fn chunks_of<'r>(
    chunks: &'r [&'r [Run]],
    which: impl Fn(&[Run]) -> bool,
) -> impl Iterator<Item = &'r [Run]> {
    chunks.iter().copied().filter(move |runs| which(runs))
}
