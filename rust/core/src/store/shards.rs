//! Shards that are open: mapped into memory, their index checked once.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

use super::{
    counters::Counters,
    index::{CRC, ShardIndex, index_bytes, index_start},
    map::Map,
    spec::ArraySpec,
};
use crate::error::{Error, Result};

/// Shards of an array that stay open.
const MAX_OPEN: usize = 1024;

/// Shard number and layer.
pub(crate) type ShardId = (usize, Option<usize>);

/// The open shards of one array.
#[derive(Debug)]
pub(crate) struct Shards {
    folder: PathBuf,
    open: Mutex<HashMap<ShardId, Arc<OpenShard>>>,
}

/// A shard in memory, with the identity of its file: the last shard of an array may be replaced under us, and
/// anyone may damage the others.
#[derive(Debug)]
pub(crate) struct OpenShard {
    pub(crate) path: PathBuf,
    pub(crate) index: ShardIndex,
    pub(crate) map: Map,
    identity: (u64, u64, i64, i64),
    end: [u8; CRC],
    chunks: Vec<AtomicU8>,
}

/// The chunk was brought into memory as a whole.
const WARM: u8 = 1;
/// The chunk's checksum held.
const CHECKED: u8 = 2;

impl OpenShard {
    /// Whether the file still reaches to its end. Behind a cut the last page of a map reads as zeros without any
    /// signal, the pages after it do not; so the file's last bytes, a checksum, tell either way.
    fn has_its_end(&self) -> bool {
        let end = self.map.len() - CRC..self.map.len();
        let is_same = self.map.mapped(end).is_ok_and(|end| end == self.end);
        is_same && self.map.check().is_ok()
    }

    /// Brings a chunk into memory as a whole, if that was not done since the shard was opened.
    pub(crate) fn warm(&self, chunk: usize) {
        let is_cold = self.chunks[chunk].fetch_or(WARM, Relaxed) & WARM == 0;
        if let Some(entry) = self.index.entries[chunk].filter(|_| is_cold) {
            self.map.will_need(entry.range());
        }
    }

    /// Whether the chunk's checksum was checked since the shard was opened.
    pub(crate) fn is_checked(&self, chunk: usize) -> bool {
        self.chunks[chunk].load(Relaxed) & CHECKED != 0
    }

    /// Remembers that the chunk's checksum held.
    pub(crate) fn set_checked(&self, chunk: usize) {
        self.chunks[chunk].fetch_or(CHECKED, Relaxed);
    }
}

impl Shards {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, open: Mutex::default() }
    }

    /// Where a shard lies.
    pub(crate) fn path(&self, spec: &ArraySpec, (shard, layer): ShardId) -> PathBuf {
        self.folder.join(spec.shard_key(shard, layer))
    }

    /// The shard, as it was opened before, or from its file; `n_row` are the visible rows of the array.
    ///
    /// Whether the file is still the same is looked up each time, or, at a `glance`, only whether it is whole:
    /// that needs no call to the system, which takes longer than the copy of a few rows.
    pub(crate) fn open(
        &self,
        spec: &ArraySpec,
        id: ShardId,
        n_row: usize,
        glance: bool,
        counters: &Counters,
    ) -> Result<Arc<OpenShard>> {
        let lock = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&id).map(Arc::clone);
        let is_good =
            |open: &OpenShard| glance && open.has_its_end() || is_still(&open.path, open.identity);
        if let Some(open) = known.filter(|open| is_good(open)) {
            return Ok(open);
        }
        let open = Arc::new(map_shard(spec, self.path(spec, id), n_row)?);
        counters.add_bytes(index_bytes(spec));
        let mut all = lock();
        if all.len() >= MAX_OPEN {
            all.clear();
        }
        all.insert(id, Arc::clone(&open));
        Ok(open)
    }
}

fn map_shard(spec: &ArraySpec, path: PathBuf, n_row: usize) -> Result<OpenShard> {
    let fail = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Error::Missing {
            path: path.clone(),
            why: format!("the last commit has {n_row} rows of `{}`", spec.path),
        },
        _ => Error::io(&path, error),
    };
    let file = File::open(&path).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    let start = index_start(spec, &path, meta.len())?;
    let length = usize::try_from(meta.len()).unwrap_or(usize::MAX);
    let map = Map::new(file, &path, length);
    let tail = length - index_bytes(spec)..length;
    let mut end = [0; CRC];
    let index = map.read(tail, |bytes| {
        end.copy_from_slice(&bytes[bytes.len() - CRC..]);
        ShardIndex::parse(spec, &path, start, bytes)
    })??;
    let chunks = std::iter::repeat_with(AtomicU8::default).take(spec.shard_chunks()).collect();
    Ok(OpenShard { identity: identity(&meta), path, index, map, end, chunks })
}

/// What tells a file from the one that took its place.
fn identity(meta: &Metadata) -> (u64, u64, i64, i64) {
    (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())
}

fn is_still(path: &Path, known: (u64, u64, i64, i64)) -> bool {
    fs::metadata(path).is_ok_and(|meta| identity(&meta) == known)
}
