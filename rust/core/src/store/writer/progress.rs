//! How far one shard under construction is: which rows came, which chunks are full, which are packed.

use crate::store::{index::Entry, spec::ArraySpec};

/// Bookkeeping of one shard under construction; the rows themselves are in the staging files.
#[derive(Debug)]
pub(super) struct Progress {
    /// One bit per row that was claimed by a job.
    claimed: Vec<u64>,
    /// Per chunk, rows that are in the staging files.
    written: Vec<usize>,
    /// Per chunk, true when all rows and the statistics are there.
    ready: Vec<bool>,
    /// Chunks that need nothing but the index.
    pub(super) n_done: usize,
    /// Packed chunks, in order, with where they lie in the staged shard.
    pub(super) encoded: Vec<Entry>,
    /// A thread is appending packed chunks.
    pub(super) appending: bool,
}

impl Progress {
    pub(super) fn new(spec: &ArraySpec) -> Self {
        Self {
            claimed: vec![0; spec.shard_rows.div_ceil(64)],
            written: vec![0; spec.shard_chunks()],
            ready: vec![false; spec.shard_chunks()],
            n_done: 0,
            encoded: Vec::new(),
            appending: false,
        }
    }

    /// Claims rows `first..first + n` of the shard; gives the first that was claimed before.
    pub(super) fn claim(&mut self, first: usize, n: usize) -> Result<(), usize> {
        for row in first..first + n {
            let (word, bit) = (row / 64, 1 << (row % 64));
            if self.claimed[word] & bit != 0 {
                return Err(row);
            }
            self.claimed[word] |= bit;
        }
        Ok(())
    }

    /// The first of the rows `0..n` that never came.
    pub(super) fn first_missing(&self, n: usize) -> Option<usize> {
        (0..n).find(|row| self.claimed[row / 64] & (1 << (row % 64)) == 0)
    }

    /// Counts rows that reached the staging files; true if they complete the chunk.
    pub(super) fn add_written(&mut self, chunk: usize, n: usize, chunk_rows: usize) -> bool {
        self.written[chunk] += n;
        self.written[chunk] == chunk_rows
    }

    /// Marks a chunk as full, with its statistics written.
    pub(super) fn set_ready(&mut self, chunk: usize) {
        self.ready[chunk] = true;
    }

    /// The next packed chunk to append, if it is full.
    pub(super) fn next_to_append(&self) -> Option<usize> {
        let next = self.encoded.len();
        self.ready.get(next).is_some_and(|ready| *ready).then_some(next)
    }

    /// Where the next packed chunk goes.
    pub(super) fn encoded_end(&self) -> u64 {
        self.encoded.last().map_or(0, |entry| entry.offset + entry.nbytes)
    }

    /// True when every chunk is done.
    pub(super) fn is_full(&self) -> bool {
        self.n_done == self.ready.len()
    }
}
