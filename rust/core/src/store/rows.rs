//! Rows by number out of plain chunks in memory: no chunk is looked at as a whole, and an output of one layer is
//! written from front to back.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{
    chunk::{copy_columns, prefetch},
    dtype::Element,
    read::Read,
    shards::OpenShard,
    spec::ArraySpec,
};
use crate::error::{Error, Result};

/// Rows that a thread takes at a time.
const BLOCK: usize = 64;
/// Rows of a layer that are asked for ahead of their copy.
const AHEAD: usize = 3;
/// A page that took longer was not in memory.
const FROM_MEMORY: Duration = Duration::from_micros(20);
/// Bytes between rows that a disk reads in the time in which it finds another place, or a little less: some 20,000 to
/// 100,000 places a second, at 1 to 3 GB/s.
const NEAR: usize = 32 << 10;
/// Not a place: no row of the shard is wanted.
const NOWHERE: usize = usize::MAX;

/// The shards that hold wanted rows.
struct Sources<'s> {
    spec: &'s ArraySpec,
    n_layer: usize,
    shards: Vec<Arc<OpenShard>>,
    /// Place of a shard number's first layer in `shards`.
    places: Vec<usize>,
    /// Whether the rows lie so close that a disk had better read what is between them.
    is_dense: bool,
}

impl<T: Element> Read<'_, '_, T> {
    /// Reads rows by number, which are in range. False, and nothing done, where chunks have to be read whole or
    /// shards cannot be mapped.
    pub(super) fn run_rows(&self, rows: &[u64]) -> Result<bool> {
        // Of packed chunks, a row of codes has its place too, but needs its chunk's scales.
        if self.spec.is_packed() || self.shards.are_objects() || self.verify {
            return Ok(false);
        }
        let sources = self.sources(rows)?;
        if !sources.shards.iter().all(|shard| shard.map.is_mapped()) {
            return Ok(false);
        }
        let whole = sources.shards.iter().map(|shard| shard.map.mapped(0..shard.map.len()));
        let bytes: Vec<&[u8]> = whole.collect::<Result<_>>()?;
        let mut wanted: Vec<(u64, usize)> = rows.iter().copied().zip(0..).collect();
        if sources.n_layer > 1 {
            // A row of the output is long then, and it pays more to go through each layer's shards in order.
            wanted.sort_unstable();
        }
        let is_cold = AtomicBool::new(false);
        self.share(wanted.len().div_ceil(BLOCK), |block| {
            let start = block * BLOCK;
            let wanted = &wanted[start..wanted.len().min(start + BLOCK)];
            sources.expect(&bytes, wanted, &is_cold)?;
            self.copy_block(&sources, &bytes, wanted)
        })?;
        sources.shards.iter().try_for_each(|shard| shard.map.check())?;
        let cell: usize = self.columns.iter().map(Range::len).sum();
        self.counters.add_bytes(rows.len() * self.layers.len() * cell * self.spec.dtype.size());
        Ok(true)
    }

    /// Opens the shards that hold the rows, each layer's.
    fn sources(&self, rows: &[u64]) -> Result<Sources<'_>> {
        let per_shard = self.spec.shard_chunks();
        let n_chunk = self.n_row.div_ceil(self.spec.chunk_rows);
        let mut touched = vec![0_u64; n_chunk.div_ceil(64)];
        for &row in rows {
            let chunk = place(row) / self.spec.chunk_rows;
            touched[chunk / 64] |= 1 << (chunk % 64);
        }
        let n_touched: u32 = touched.iter().map(|word| word.count_ones()).sum();
        self.counters.add_chunks(n_touched as usize * self.layers.len());
        let mut sources = Sources {
            spec: self.spec,
            n_layer: self.layers.len(),
            shards: Vec::new(),
            places: vec![NOWHERE; n_chunk.div_ceil(per_shard)],
            is_dense: n_touched as usize * self.spec.chunk_bytes() <= rows.len() * NEAR,
        };
        let is_touched = |chunk: usize| touched[chunk / 64] >> (chunk % 64) & 1 == 1;
        for (number, at) in sources.places.iter_mut().enumerate() {
            if (number * per_shard..n_chunk.min((number + 1) * per_shard)).any(is_touched) {
                *at = sources.shards.len();
                for &layer in self.layers {
                    let id = (number, layer);
                    let open =
                        self.shards.open(self.spec, id, self.n_row, self.alone, self.counters)?;
                    sources.shards.push(open);
                }
            }
        }
        Ok(sources)
    }

    /// Copies rows to their places in the output, each asked for a little ahead of its turn.
    fn copy_block(
        &self,
        sources: &Sources<'_>,
        bytes: &[&[u8]],
        wanted: &[(u64, usize)],
    ) -> Result<()> {
        let mut coming = VecDeque::with_capacity(AHEAD + 1);
        let copy = |(at, layer, row): (usize, usize, &[u8])| {
            copy_columns(self.spec.dtype, &[], self.columns, row, self.cells.lend(at, 1, layer));
        };
        for &(row, at) in wanted {
            let (number, chunk, within) = sources.locate(row);
            for layer in 0..sources.n_layer {
                let place = number + layer;
                let row = &bytes[place][sources.range(place, chunk, within)?];
                prefetch(row);
                coming.push_back((at, layer, row));
                if coming.len() > AHEAD {
                    coming.pop_front().into_iter().for_each(copy);
                }
            }
        }
        coming.into_iter().for_each(copy);
        Ok(())
    }

    /// Calls `work` for each block, on this thread and the pool's. Each begins with a stretch of its own, so that
    /// no two wait for the system to make the same piece of a new output, and goes on where others are late.
    fn share(&self, n_block: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
        let n_thread = rayon::current_num_threads().min(n_block);
        if self.alone || n_thread < 2 {
            return (0..n_block).try_for_each(work);
        }
        let start = |thread: usize| n_block * thread / n_thread;
        let next: Vec<AtomicUsize> = (0..n_thread).map(|t| AtomicUsize::new(start(t))).collect();
        let failure = Mutex::new(None);
        let take = |first: usize| {
            for thread in (first..n_thread).chain(0..first) {
                let end = start(thread + 1);
                while let Some(block) =
                    Some(next[thread].fetch_add(1, Relaxed)).filter(|&b| b < end)
                {
                    if let Err(error) = work(block) {
                        let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                        failure.get_or_insert(error);
                        return;
                    }
                }
            }
        };
        rayon::in_place_scope(|scope| {
            for thread in 1..n_thread {
                let take = &take;
                scope.spawn(move |_| take(thread));
            }
            take(0);
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

impl Sources<'_> {
    /// Has the system bring rows in side by side, if a look at the first shows that it comes from the disk; then
    /// also those that are asked about later. Else each page of a row would be waited for in turn.
    fn expect(&self, bytes: &[&[u8]], wanted: &[(u64, usize)], is_cold: &AtomicBool) -> Result<()> {
        if !is_cold.load(Relaxed) {
            let (shard, chunk, within) = self.locate(wanted[0].0);
            let range = self.range(shard, chunk, within)?;
            self.shards[shard].glimpse(chunk, range.clone());
            let started = Instant::now();
            std::hint::black_box(bytes[shard][range.start]);
            is_cold.fetch_or(started.elapsed() > FROM_MEMORY, Relaxed);
        }
        if is_cold.load(Relaxed) {
            for &(row, _) in wanted {
                let (shard, chunk, within) = self.locate(row);
                for place in shard..shard + self.n_layer {
                    let shard = &self.shards[place];
                    if self.is_dense {
                        shard.expect(chunk..chunk + 1);
                    } else {
                        shard.map.will_read(self.range(place, chunk, within)?);
                    }
                }
            }
        }
        Ok(())
    }

    /// Place of the row's shard in its first layer, the chunk there, and the row in the chunk.
    fn locate(&self, row: u64) -> (usize, usize, usize) {
        let (chunk_rows, shard_chunks) = (self.spec.chunk_rows, self.spec.shard_chunks());
        let (chunk, within) = (place(row) / chunk_rows, place(row) % chunk_rows);
        (self.places[chunk / shard_chunks], chunk % shard_chunks, within)
    }

    /// Where a row's bytes are in the shard at a place.
    fn range(&self, at: usize, chunk: usize, within: usize) -> Result<Range<usize>> {
        let Some(entry) = self.shards[at].index.entries[chunk] else {
            let path = &self.shards[at].path;
            return Err(Error::damaged(path, format!("its index lacks chunk {chunk}")));
        };
        let start = entry.range().start + within * self.spec.row_bytes();
        Ok(start..start + self.spec.row_bytes())
    }
}

/// A row's number, which was checked to be below the number of rows.
fn place(row: u64) -> usize {
    usize::try_from(row).unwrap_or(usize::MAX)
}
