//! The last, partly filled shard: published for a commit, and taken up again when writing goes on.

use std::path::Path;

use super::{
    lane::Lane,
    progress::Progress,
    stage::{Scratch, Stage, in_order},
};
use crate::{
    error::{Error, Result},
    store::{
        blob::Blob,
        dtype::Dtype,
        files::{self, Finished},
        index::{CRC, Entry, ShardIndex, decode_chunk, encode_chunk},
        quantise::Loss,
        spec::Codec,
    },
};

impl Stage<'_> {
    /// Begins a shard of which `stored` rows are published already, by copying them to the staging files.
    pub(super) fn load(&self, stored: usize, scratch: &mut Scratch) -> Result<Progress> {
        let mut progress = Progress::new(self.spec);
        if stored == 0 {
            return Ok(progress);
        }
        let path = self.public_shard.as_path();
        let file = Blob::open(path)?;
        let index = ShardIndex::read(self.spec, &file, path, file.length(path)?)?;
        let chunk_rows = self.spec.chunk_rows;
        for chunk in 0..stored.div_ceil(chunk_rows) {
            let entry = index.entries[chunk]
                .ok_or_else(|| Error::damaged(path, format!("its index lacks chunk {chunk}")))?;
            read_chunk(self, &file, path, chunk, entry, scratch)?;
            let n = (stored - chunk * chunk_rows).min(chunk_rows);
            self.restore(&mut progress, chunk, n, scratch)?;
        }
        // Just made, so that no row can have been claimed.
        let _ = progress.claim(0, stored);
        Ok(progress)
    }

    /// Puts the first `n` rows of a published chunk, decoded in `scratch.chunk`, back into the staging files.
    fn restore(
        &self,
        progress: &mut Progress,
        chunk: usize,
        n: usize,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let rows = &scratch.chunk[..n * self.spec.row_bytes()];
        let full = progress.add_written(chunk, n, self.spec.chunk_rows);
        if !full || !self.spec.is_packed() {
            self.write_rows(chunk, std::iter::once((0, n)), rows)?;
        }
        if !full {
            return Ok(());
        }
        self.write_statistics(chunk, rows, &mut scratch.kept)?;
        match self.spec.codec {
            Codec::None => self.write_crc(chunk, rows)?,
            Codec::Zstd => {
                progress.set_ready(chunk);
                let (entry, _) =
                    self.append(chunk, progress.encoded_end(), rows, &mut scratch.kept)?;
                progress.encoded.push(entry);
            }
        }
        progress.n_done += 1;
        Ok(())
    }

    /// Finishes a shard of only its first `n` rows; the staging files are consumed if `last`, else copied. Says too
    /// what the codes of its last chunk lose, if they are that.
    fn finish_tail(
        &self,
        progress: &Progress,
        n: usize,
        last: bool,
        scratch: &mut Scratch,
    ) -> Result<(Vec<Finished>, Option<Loss>)> {
        let spec = self.spec;
        let (full, rest) = (n / spec.chunk_rows, n % spec.chunk_rows);
        if rest > 0 {
            self.read_partial(progress, full, rest, scratch)?;
        }
        let use_or_copy = |path: &Path| if last { Ok(path.to_owned()) } else { Stage::copy(path) };
        let (shard, stat) = (use_or_copy(&self.shard_file)?, use_or_copy(&self.stat_file)?);
        let mut entries: Vec<Entry> = if spec.is_packed() {
            progress.encoded[..full].to_vec()
        } else {
            ShardIndex::uncompressed(spec, full).entries.into_iter().flatten().collect()
        };
        let end = entries.last().map_or(0, |entry| entry.offset + entry.nbytes);
        let (mut tail, mut lost) = (Vec::new(), None);
        if rest > 0 {
            let Scratch { chunk, kept, .. } = scratch;
            let (rows, behind) = chunk.split_at_mut(rest * spec.staged_row_bytes());
            lost = self.describe(&stat, full, rows, kept)?;
            spec.dtype.staged().fill_bytes(behind);
            let plain = if lost.is_some() { kept.codes() } else { chunk };
            tail = encode_chunk(spec, &shard, plain)?;
            entries.push(Entry { offset: end, nbytes: tail.len() as u64 });
        }
        let n_chunk = entries.len();
        let mut entries: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
        entries.resize(spec.shard_chunks(), None);
        tail.extend(ShardIndex { entries }.render());
        let statistics = self.finish_statistics(&stat, n_chunk, &mut scratch.kept.statistics)?;
        let shard = self.finish_shard(&shard, end, &tail)?;
        if last {
            files::remove(&self.raw_file)?;
        }
        Ok((in_order(shard, statistics), lost))
    }

    /// Reads the first `n` rows of the chunk that the tail ends in into a chunk-long `scratch.chunk`.
    fn read_partial(
        &self,
        progress: &Progress,
        chunk: usize,
        n: usize,
        scratch: &mut Scratch,
    ) -> Result<()> {
        if let Some(entry) = progress.encoded.get(chunk) {
            if self.spec.dtype == Dtype::I8 {
                let why = format!(
                    "`{}` is int8, of which a full chunk of {} rows is shown whole or not at all",
                    self.spec.path, self.spec.chunk_rows
                );
                return Err(Error::BadCommit { why });
            }
            let file = Blob::open(&self.shard_file)?;
            read_chunk(self, &file, &self.shard_file, chunk, *entry, scratch)?;
        } else {
            self.read_rows(chunk, n, &mut scratch.chunk)?;
        }
        scratch.chunk.resize(self.spec.chunk_rows * self.spec.staged_row_bytes(), 0);
        Ok(())
    }
}

/// Reads and decodes one chunk of a shard into `scratch.chunk`.
fn read_chunk(
    stage: &Stage<'_>,
    file: &Blob,
    path: &Path,
    chunk: usize,
    entry: Entry,
    scratch: &mut Scratch,
) -> Result<()> {
    // Bounded by the chunk's size when the index was read.
    scratch.stored.resize(usize::try_from(entry.nbytes).unwrap_or(CRC), 0);
    file.read_at(path, &mut scratch.stored, entry.offset)?;
    decode_chunk(stage.spec, path, chunk, &scratch.stored, &mut scratch.chunk)
}

impl Lane {
    /// Finishes the shard in which row `visible` lies, if it is not full. Call only while nothing is queued.
    pub(super) fn finish_tail(
        &self,
        visible: usize,
        last: bool,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let shard_rows = self.spec.shard_rows;
        let first = self.sealed_rows() / shard_rows;
        // What was published stays published.
        let visible = visible.max(self.base);
        if visible <= first * shard_rows {
            return Ok(());
        }
        let n = visible - first * shard_rows;
        let mut state = self.lock();
        let stored = self.base.saturating_sub(first * shard_rows);
        if !state.open.contains_key(&first) {
            if n > stored {
                return Err(self.missing(first * shard_rows + stored));
            }
            // Nothing new: what is published stays, unless a crash left more than its commit says.
            if n == stored && self.stage(first).holds_exactly(n, scratch)? {
                return Ok(());
            }
        }
        let progress = self.open_shard(&mut state, first, scratch)?;
        if n >= shard_rows || progress.first_missing(n).is_some() {
            let row = progress.first_missing(n.min(shard_rows)).unwrap_or(shard_rows);
            return Err(self.missing(first * shard_rows + row));
        }
        let (finished, lost) = self.stage(first).finish_tail(progress, n, last, scratch)?;
        state.finished.extend(self.send(finished)?);
        state.set_lost((first * shard_rows + n) / self.spec.chunk_rows, lost);
        if last {
            state.open.remove(&first);
        }
        Ok(())
    }

    fn missing(&self, row: usize) -> Error {
        Error::RowMissing { array: self.spec.path.clone(), layer: self.layer, row }
    }
}

impl Stage<'_> {
    /// True if the published shard ends at row `n`: no chunk beyond it, fill values behind it.
    fn holds_exactly(&self, n: usize, scratch: &mut Scratch) -> Result<bool> {
        let (path, spec) = (self.public_shard.as_path(), self.spec);
        let file = Blob::open(path)?;
        let index = ShardIndex::read(spec, &file, path, file.length(path)?)?;
        let n_chunk = n.div_ceil(spec.chunk_rows);
        if index.entries.iter().skip(n_chunk).any(Option::is_some) {
            return Ok(false);
        }
        let rest = n % spec.chunk_rows;
        let Some(entry) = index.entries[n_chunk - 1].filter(|_| rest > 0) else {
            return Ok(rest == 0);
        };
        read_chunk(self, &file, path, n_chunk - 1, entry, scratch)?;
        let behind = &scratch.chunk[rest * spec.row_bytes()..];
        let mut fill = behind.to_vec();
        spec.dtype.fill_bytes(&mut fill);
        Ok(behind == fill)
    }
}
