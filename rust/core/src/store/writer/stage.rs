//! The staging files of one shard under construction, and how they become public.
//!
//! `*.shard` becomes the shard: chunks at their final places (plain) or appended in order (packed: compressed, or
//! made of codes). `*.raw` holds the rows of packed chunks that are not full yet. `*.stat` becomes the statistics.
//! Files are opened for each use and closed after it, so that many open shards need few handles.

use std::{
    env,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use super::lock::LOCK;
use crate::{
    error::{Error, Result},
    store::{
        dtype::Dtype,
        files::{self, Finished},
        index::{CRC, Entry, ShardIndex, append_crc, encode_chunk},
        objects,
        quantise::{Loss, Quantiser},
        spec::{ArraySpec, Codec},
        statistics::{Accumulator, chunk_bytes, shard_bytes},
    },
};

/// A worker's buffers, reused from job to job.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) stored: Vec<u8>,
    pub(super) chunk: Vec<u8>,
    pub(super) kept: Kept,
}

/// What is made of a full chunk besides its bytes.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) statistics: Vec<u8>,
    accumulator: Accumulator,
    quantiser: Quantiser,
}

impl Scratch {
    /// Bytes that the buffers may take for this array.
    pub(super) fn bytes(spec: &ArraySpec) -> usize {
        let packed = match spec.codec {
            Codec::None => spec.chunk_bytes() + CRC,
            Codec::Zstd => crate::store::index::encoded_bound(spec),
        };
        let codes = if spec.dtype == Dtype::I8 {
            spec.chunk_bytes() + Quantiser::bytes(spec.row_len())
        } else {
            0
        };
        let kept = if spec.statistics {
            shard_bytes(spec) + CRC + Accumulator::bytes(spec.row_len())
        } else {
            0
        };
        // One packed chunk as read, one as written, and the decoded rows between them.
        spec.staged_row_bytes() * spec.chunk_rows + codes + 2 * packed + kept
    }
}

impl Kept {
    /// The codes that were made last, a whole chunk of them.
    pub(super) fn codes(&self) -> &[u8] {
        &self.quantiser.codes
    }
}

/// Where a writer works.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    pub(super) store: PathBuf,
    /// Holds what is not published: a folder of this machine, also where the store is not.
    pub(super) staging: PathBuf,
}

/// The folder in `staging` that belongs to whoever goes on with a capture: removed when it is complete.
const KEPT: &str = "stream";

impl Folders {
    /// The folders of a store. What a store in a bucket has not finished is kept where this machine has room for
    /// what is not meant to last, in a folder that every writer of the store finds here again.
    pub(super) fn of(store: &Path) -> Self {
        if !objects::is_url(store) {
            return Self { store: store.to_owned(), staging: store.join("staging") };
        }
        let mut hasher = DefaultHasher::new();
        let server = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].map(env::var_os);
        (server, store).hash(&mut hasher);
        let staging = env::temp_dir().join(format!("residuum-{:016x}", hasher.finish()));
        Self { store: store.to_owned(), staging }
    }

    /// Removes all from the staging folder but its lock and what is kept for whoever goes on.
    pub(super) fn clean(&self) -> Result<()> {
        for path in files::children(&self.staging)? {
            if path.file_name().is_some_and(|name| name == LOCK || name == KEPT) {
                continue;
            }
            if path.is_dir() {
                files::remove_tree(&path)?;
            } else {
                files::remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Paths and array of one shard under construction.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) spec: &'a ArraySpec,
    pub(super) shard_file: PathBuf,
    pub(super) raw_file: PathBuf,
    pub(super) stat_file: PathBuf,
    /// Where the shard will be published.
    pub(super) public_shard: PathBuf,
    /// Where its statistics will be published.
    pub(super) public_stat: PathBuf,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        folders: &Folders,
        spec: &'a ArraySpec,
        layer: Option<usize>,
        shard: usize,
    ) -> Self {
        let Folders { store, staging } = folders;
        let folder = staging.join(spec.path.replace('/', "."));
        let layer_name = layer.map_or_else(|| "all".to_owned(), |layer| layer.to_string());
        let name = |kind: &str| folder.join(format!("{layer_name}-{shard}.{kind}"));
        Self {
            spec,
            shard_file: name("shard"),
            raw_file: name("raw"),
            stat_file: name("stat"),
            public_shard: store.join(&spec.path).join(spec.shard_key(shard, layer)),
            public_stat: spec
                .statistics_folder(store)
                .join(ArraySpec::statistics_key(shard, layer)),
        }
    }

    /// The file that holds rows until their chunk is full, and where chunk `chunk` starts in it.
    fn rows_at(&self, chunk: usize) -> (&Path, u64) {
        if !self.spec.is_packed() {
            return (&self.shard_file, self.plain_offset(chunk));
        }
        (&self.raw_file, (chunk * self.spec.chunk_rows * self.spec.staged_row_bytes()) as u64)
    }

    /// Where the plain chunk `chunk` starts in the staged shard.
    pub(super) fn plain_offset(&self, chunk: usize) -> u64 {
        (chunk * (self.spec.chunk_bytes() + CRC)) as u64
    }

    /// Writes rows of one chunk: `runs` are (first row in the chunk, rows), `bytes` the rows in that order.
    pub(super) fn write_rows(
        &self,
        chunk: usize,
        runs: impl Iterator<Item = (usize, usize)>,
        bytes: &[u8],
    ) -> Result<()> {
        let (path, start) = self.rows_at(chunk);
        let file = files::open_write(path)?;
        let row_bytes = self.spec.staged_row_bytes();
        let mut rest = bytes;
        for (first, n) in merged(runs) {
            let (mine, after) = rest.split_at(n * row_bytes);
            files::write_at(&file, path, mine, start + (first * row_bytes) as u64)?;
            rest = after;
        }
        Ok(())
    }

    /// Reads the first `n_row` rows of a chunk back into `out`, which becomes exactly that long.
    pub(super) fn read_rows(&self, chunk: usize, n_row: usize, out: &mut Vec<u8>) -> Result<()> {
        let (path, start) = self.rows_at(chunk);
        out.resize(n_row * self.spec.staged_row_bytes(), 0);
        files::read_at(&files::open(path)?, path, out, start)
    }

    /// Writes the checksum behind a plain chunk whose rows are there.
    pub(super) fn write_crc(&self, chunk: usize, rows: &[u8]) -> Result<()> {
        let file = files::open_write(&self.shard_file)?;
        let offset = self.plain_offset(chunk) + self.spec.chunk_bytes() as u64;
        files::write_at(&file, &self.shard_file, &crc32c::crc32c(rows).to_le_bytes(), offset)?;
        files::begin_sync(&file, self.plain_offset(chunk), self.spec.chunk_bytes() + CRC);
        Ok(())
    }

    /// Packs a full chunk and writes it at `offset` of the staged shard; says what its codes lose, if they are that.
    pub(super) fn append(
        &self,
        chunk: usize,
        offset: u64,
        rows: &[u8],
        kept: &mut Kept,
    ) -> Result<(Entry, Option<Loss>)> {
        let is_lossy = self.spec.dtype == Dtype::I8;
        let loss = if is_lossy { self.describe(&self.stat_file, chunk, rows, kept)? } else { None };
        let plain = if is_lossy { kept.codes() } else { rows };
        let bytes = encode_chunk(self.spec, &self.shard_file, plain)?;
        let file = files::open_write(&self.shard_file)?;
        files::write_at(&file, &self.shard_file, &bytes, offset)?;
        files::begin_sync(&file, offset, bytes.len());
        Ok((Entry { offset, nbytes: bytes.len() as u64 }, loss))
    }

    /// Computes and writes a full chunk's statistics from its rows. Those of codes are made when they are.
    pub(super) fn write_statistics(
        &self,
        chunk: usize,
        rows: &[u8],
        kept: &mut Kept,
    ) -> Result<()> {
        if self.spec.dtype != Dtype::I8 {
            self.describe(&self.stat_file, chunk, rows, kept)?;
        }
        Ok(())
    }

    /// Writes a chunk's statistics to `path`; makes codes of its rows first, a chunk of them, where it holds codes.
    pub(super) fn describe(
        &self,
        path: &Path,
        chunk: usize,
        rows: &[u8],
        kept: &mut Kept,
    ) -> Result<Option<Loss>> {
        let spec = self.spec;
        if !spec.statistics {
            return Ok(None);
        }
        let Kept { statistics, accumulator, quantiser } = kept;
        statistics.clear();
        let loss = if spec.dtype == Dtype::I8 {
            let loss = quantiser.chunk(spec.row_len(), rows);
            let (codes, scales) = (&quantiser.codes, &quantiser.scales);
            accumulator.chunk(spec.dtype, scales, spec.row_len(), codes, statistics);
            quantiser.render(statistics);
            quantiser.codes.resize(spec.chunk_bytes(), spec.dtype.fill()[0]);
            Some(loss)
        } else {
            accumulator.chunk(spec.dtype, &[], spec.row_len(), rows, statistics);
            None
        };
        let file = files::open_write(path)?;
        files::write_at(&file, path, statistics, (chunk * chunk_bytes(spec)) as u64)?;
        Ok(loss)
    }

    /// Finishes a shard: `tail` goes behind byte `end` of `file`.
    pub(super) fn finish_shard(&self, path: &Path, end: u64, tail: &[u8]) -> Result<Finished> {
        let file = files::open_write(path)?;
        file.set_len(end).map_err(|error| Error::io(path, error))?;
        files::write_at(&file, path, tail, end)?;
        finished(&file, path, &self.public_shard)
    }

    /// Finishes statistics, where they are kept: chunks from `n_chunk` on are filled, the checksum appended.
    pub(super) fn finish_statistics(
        &self,
        path: &Path,
        n_chunk: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Finished>> {
        if !self.spec.statistics {
            return Ok(None);
        }
        let written = n_chunk * chunk_bytes(self.spec);
        let file = files::open_write(path)?;
        buffer.clear();
        buffer.resize(shard_bytes(self.spec), 0);
        files::read_at(&file, path, &mut buffer[..written], 0)?;
        Dtype::F32.fill_bytes(&mut buffer[written..]);
        append_crc(buffer);
        files::write_at(&file, path, &buffer[written..], written as u64)?;
        finished(&file, path, &self.public_stat).map(Some)
    }

    /// Finishes a shard whose chunks are all done, and its statistics.
    pub(super) fn seal(&self, encoded: &[Entry], buffer: &mut Vec<u8>) -> Result<Vec<Finished>> {
        let n = self.spec.shard_chunks();
        let (index, end) = if self.spec.is_packed() {
            let index = ShardIndex { entries: encoded.iter().copied().map(Some).collect() };
            (index, encoded.last().map_or(0, |entry| entry.offset + entry.nbytes))
        } else {
            (ShardIndex::uncompressed(self.spec, n), self.plain_offset(n))
        };
        let statistics = self.finish_statistics(&self.stat_file, n, buffer)?;
        let shard = self.finish_shard(&self.shard_file, end, &index.render())?;
        files::remove(&self.raw_file)?;
        Ok(in_order(shard, statistics))
    }

    /// Copies a staging file, so that the copy can be published while the original is still filled.
    pub(super) fn copy(from: &Path) -> Result<PathBuf> {
        let mut to = from.as_os_str().to_owned();
        to.push(".tail");
        let to = PathBuf::from(to);
        if from.exists() {
            fs::copy(from, &to).map_err(|error| Error::io(&to, error))?;
        } else {
            files::remove(&to)?;
        }
        Ok(to)
    }
}

/// A finished file; a large one is made durable here, in the background, so that its commit need not wait.
fn finished(file: &File, from: &Path, to: &Path) -> Result<Finished> {
    const LARGE: u64 = 1 << 20;
    let durable = files::length(file, from)? >= LARGE;
    if durable {
        files::sync(file, from)?;
    }
    Ok(Finished { from: from.to_owned(), to: to.to_owned(), durable })
}

/// Joins neighbouring runs, so that each stretch of rows is one call to the system.
fn merged(runs: impl Iterator<Item = (usize, usize)>) -> Vec<(usize, usize)> {
    let mut joined: Vec<(usize, usize)> = Vec::new();
    for (first, n) in runs {
        match joined.last_mut() {
            Some(last) if last.0 + last.1 == first => last.1 += n,
            _ => joined.push((first, n)),
        }
    }
    joined
}

/// A shard goes to its place before its statistics: a crash between the two leaves statistics of fewer rows,
/// which the commit shows, but never of rows that are not there.
pub(super) fn in_order(shard: Finished, statistics: Option<Finished>) -> Vec<Finished> {
    std::iter::once(shard).chain(statistics).collect()
}
