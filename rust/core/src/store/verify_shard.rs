//! One shard and its statistics, read back completely.

use std::path::Path;

use super::{
    blob::Blob,
    dtype::Dtype,
    index::{Entry, ShardIndex, decode_chunk, index_bytes},
    spec::ArraySpec,
    statistics::{self, Accumulator, chunk_bytes, scales_at},
    verify::Check,
};

/// What is to be checked: the shard at `shard`, which the commit says holds `rows` rows.
pub(super) struct ShardCheck<'a> {
    pub(super) check: &'a Check<'a>,
    pub(super) spec: &'a ArraySpec,
    pub(super) layer: Option<usize>,
    pub(super) shard: usize,
    pub(super) rows: usize,
}

impl ShardCheck<'_> {
    pub(super) fn run(&self) {
        let folder = self.check.store.join(&self.spec.path);
        let path = folder.join(self.spec.shard_key(self.shard, self.layer));
        self.check.note(|report| report.files += 1);
        let opened = Blob::open(&path).and_then(|file| {
            let length = file.length(&path)?;
            let index = ShardIndex::read(self.spec, &file, &path, length)?;
            Ok((file, length, index))
        });
        let statistics = self.statistics();
        match opened {
            Ok((file, length, index)) => {
                self.layout(&path, length, &index);
                self.chunks(&path, &file, &index, statistics.as_deref());
            }
            Err(error) => self.check.error(&path, error),
        }
    }

    /// Every expected chunk is there, chunks lie one after another, and nothing is between or behind them.
    fn layout(&self, path: &Path, length: u64, index: &ShardIndex) {
        let n_chunk = self.rows.div_ceil(self.spec.chunk_rows);
        for (chunk, _) in index.entries[..n_chunk].iter().enumerate().filter(|(_, e)| e.is_none()) {
            self.check.problem(path, format!("its index lacks chunk {chunk}"));
        }
        let mut end = 0;
        for (chunk, entry) in index.entries.iter().enumerate() {
            let Some(entry) = entry else { continue };
            if entry.offset != end {
                let what =
                    format!("its chunk {chunk} lies at byte {} instead of {end}", entry.offset);
                self.check.problem(path, what);
            }
            end = entry.offset + entry.nbytes;
        }
        let expected = end + index_bytes(self.spec) as u64;
        if length != expected {
            let what = format!("it is {length} bytes long, but chunks and index take {expected}");
            self.check.problem(path, what);
        }
        self.check.note(|report| report.bytes += length);
    }

    fn chunks(&self, path: &Path, file: &Blob, index: &ShardIndex, statistics: Option<&[u8]>) {
        let (mut stored, mut rows) = (Vec::new(), Vec::new());
        let mut accumulator = Accumulator::default();
        for (chunk, entry) in index.entries.iter().enumerate() {
            let Some(entry) = entry else { continue };
            self.check.note(|report| report.chunks += 1);
            match self.decode(path, file, chunk, *entry, &mut stored, &mut rows) {
                Ok(()) => self.agree(chunk, &rows, statistics, &mut accumulator),
                Err(error) => self.check.error(path, error),
            }
        }
    }

    fn decode(
        &self,
        path: &Path,
        file: &Blob,
        chunk: usize,
        entry: Entry,
        stored: &mut Vec<u8>,
        rows: &mut Vec<u8>,
    ) -> crate::Result<()> {
        // Bounded by the chunk's size when the index was read.
        stored.resize(usize::try_from(entry.nbytes).unwrap_or(0), 0);
        file.read_at(path, stored, entry.offset)?;
        decode_chunk(self.spec, path, chunk, stored, rows)
    }

    /// The statistics file's bytes, if the array keeps statistics and the file is sound.
    fn statistics(&self) -> Option<Vec<u8>> {
        if !self.spec.statistics {
            return None;
        }
        self.check.note(|report| report.files += 1);
        let folder = self.spec.statistics_folder(self.check.store);
        let path = folder.join(ArraySpec::statistics_key(self.shard, self.layer));
        statistics::read_shard(&folder, self.spec, self.shard, self.layer)
            .map_err(|error| self.check.error(&path, error))
            .ok()
    }

    /// Compares a chunk's stored statistics with those of its rows.
    fn agree(
        &self,
        chunk: usize,
        rows: &[u8],
        statistics: Option<&[u8]>,
        accumulator: &mut Accumulator,
    ) {
        let Some(statistics) = statistics else { return };
        let first = chunk * self.spec.chunk_rows;
        let committed = self.rows.saturating_sub(first).min(self.spec.chunk_rows);
        if committed == 0 {
            // Left behind the commit by a crash, which has not reached the statistics perhaps.
            return;
        }
        let size = chunk_bytes(self.spec);
        let stated = &statistics[chunk * size..(chunk + 1) * size];
        let is_lossy = self.spec.dtype == Dtype::I8;
        let scales = if is_lossy { &statistics[scales_at(self.spec, chunk)] } else { &[] };
        let mut agrees = |n_row: usize| {
            let mut found = Vec::with_capacity(size);
            let bytes = &rows[..n_row * self.spec.row_bytes()];
            accumulator.chunk(self.spec.dtype, scales, self.spec.row_len(), bytes, &mut found);
            found == stated[..found.len()]
        };
        // A crash after a tail was replaced and before its commit leaves statistics of more rows.
        let partial = committed < self.spec.chunk_rows;
        let sound = agrees(committed) || (partial && agrees(self.filled(rows)));
        if !sound {
            let folder = self.spec.statistics_folder(self.check.store);
            let path = folder.join(ArraySpec::statistics_key(self.shard, self.layer));
            self.check
                .problem(&path, format!("its chunk {chunk} differs from the rows' own statistics"));
        }
    }

    /// Rows up to the last one that is not all fill value.
    fn filled(&self, rows: &[u8]) -> usize {
        let mut fill = vec![0; self.spec.row_bytes()];
        self.spec.dtype.fill_bytes(&mut fill);
        let last = rows.chunks_exact(fill.len()).rposition(|row| row != fill);
        last.map_or(0, |row| row + 1)
    }
}
