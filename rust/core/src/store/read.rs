//! One read of an array: shard after shard, chunk after chunk, on all cores.

use std::{ops::Range, sync::Arc};

use rayon::prelude::*;

use super::{
    chunk::{self, Source, Wanted},
    counters::Counters,
    dtype::Element,
    gather::{Cells, Run},
    objects::Fetched,
    shards::{OpenShard, Shards},
    spec::ArraySpec,
};
use crate::error::{Error, Result};

/// Bytes that a thread has the system bring in ahead of it: as many at least, twice as many at most. With much more it
/// waits until the disk has taken that in before it copies anything, with much less the disk waits for it.
const EXPECTED_BYTES: usize = 16 << 20;

/// What is read, from where, and where it goes.
pub(crate) struct Read<'a, 'o, T> {
    pub(crate) spec: &'a ArraySpec,
    pub(crate) shards: &'a Shards,
    pub(crate) counters: &'a Counters,
    /// Visible rows of the array.
    pub(crate) n_row: usize,
    /// Layer coordinates, in the order of the output.
    pub(crate) layers: &'a [Option<usize>],
    /// Element ranges within a row, in the order of the output.
    pub(crate) columns: &'a [Range<usize>],
    pub(crate) cells: &'a Cells<'o, T>,
    /// Check the checksum of every chunk that is touched.
    pub(crate) verify: bool,
    /// Stay on this thread.
    pub(crate) alone: bool,
}

impl<T: Element> Read<'_, '_, T> {
    /// Reads runs, which are sorted by row.
    pub(crate) fn run(&self, runs: &[Run]) -> Result<()> {
        if self.shards.are_objects() {
            return self.run_objects(runs);
        }
        let shard_rows = self.spec.shard_rows;
        let shards: Vec<&[Run]> =
            runs.chunk_by(|a, b| a.row / shard_rows == b.row / shard_rows).collect();
        self.each(&shards, |runs| self.shard(runs))
    }

    /// Reads the runs of one shard number, in all layers.
    fn shard(&self, runs: &[Run]) -> Result<()> {
        let number = runs[0].row / self.spec.shard_rows;
        let open = |&layer| {
            self.shards.open(self.spec, (number, layer), self.n_row, self.alone, self.counters)
        };
        let shards = self.layers.iter().map(open).collect::<Result<Vec<_>>>()?;
        let chunk_rows = self.spec.chunk_rows;
        let chunks: Vec<&[Run]> =
            runs.chunk_by(|a, b| a.row / chunk_rows == b.row / chunk_rows).collect();
        let place = |run: &Run| run.row / chunk_rows % self.spec.shard_chunks();
        let span = place(&runs[0])..place(&runs[runs.len() - 1]) + 1;
        // Most of these chunks, or else what lies between them is not worth it.
        let is_dense = !self.alone && 2 * chunks.len() > span.len();
        let ahead = (EXPECTED_BYTES / (self.spec.chunk_bytes() * shards.len()).max(1)).max(1);
        self.each(&chunks, |runs| {
            if is_dense {
                let rest = place(&runs[0])..span.end;
                for shard in &shards {
                    shard.expect_ahead(rest.clone(), ahead);
                }
            }
            self.chunk(&shards, runs)
        })
    }

    /// Reads the runs of one chunk number, in all layers.
    fn chunk(&self, shards: &[Arc<OpenShard>], runs: &[Run]) -> Result<()> {
        let wanted = Wanted { columns: self.columns, runs, cells: self.cells };
        self.counters.add_chunks(shards.len());
        if let [shard] = shards {
            return chunk::read(&self.source(shard, runs, None)?, &wanted, 0);
        }
        let sources: Vec<Source<'_>> =
            shards.iter().map(|shard| self.source(shard, runs, None)).collect::<Result<_>>()?;
        if chunk::read_across(&sources, &wanted)? {
            return Ok(());
        }
        let places: Vec<usize> = (0..sources.len()).collect();
        self.each(&places, |&place| chunk::read(&sources[place], &wanted, place))
    }

    pub(super) fn source<'s>(
        &'s self,
        shard: &'s OpenShard,
        runs: &[Run],
        fetched: Option<&'s Fetched>,
    ) -> Result<Source<'s>> {
        let first = runs[0].row / self.spec.chunk_rows;
        let chunk = first % self.spec.shard_chunks();
        let Some(entry) = shard.index.entries[chunk] else {
            return Err(Error::damaged(&shard.path, format!("its index lacks chunk {chunk}")));
        };
        Ok(Source {
            spec: self.spec,
            shard,
            chunk,
            visible: (self.n_row - first * self.spec.chunk_rows).min(self.spec.chunk_rows),
            entry,
            scales: shard.scales(self.spec, chunk, self.counters)?,
            counters: self.counters,
            fetched,
            verify: self.verify,
        })
    }

    /// Calls `work` for each item, on other threads too where there are several.
    pub(super) fn each<I: Sync>(
        &self,
        items: &[I],
        work: impl Fn(&I) -> Result<()> + Sync + Send,
    ) -> Result<()> {
        if self.alone || items.len() == 1 {
            return items.iter().try_for_each(work);
        }
        items.par_iter().try_for_each(work)
    }
}
