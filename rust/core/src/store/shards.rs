//! Shards that are open: mapped into memory or known by their index, which is checked once.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

use super::{
    counters::Counters,
    dtype::Dtype,
    files,
    index::{CRC, Entry, ShardIndex, index_bytes, index_start},
    map::Map,
    objects::{self, Fetched, Object, Opening, Tail},
    scales::Scales,
    spec::ArraySpec,
};
use crate::error::{Error, Result};

/// Shards of an array that stay open.
pub(super) const MAX_OPEN: usize = 1024;
/// The same where each holds a file open, of which a process may have but some hundreds.
const MAX_FILES: usize = 32;

/// Shard number and layer.
pub(crate) type ShardId = (usize, Option<usize>);

/// The open shards of one array.
#[derive(Debug)]
pub(crate) struct Shards {
    folder: PathBuf,
    /// Where their statistics lie.
    statistics: PathBuf,
    open: Mutex<HashMap<ShardId, Arc<OpenShard>>>,
}

/// A shard in memory, with the identity of its file: the last shard of an array may be replaced under us, and
/// anyone may damage the others.
#[derive(Debug)]
pub(crate) struct OpenShard {
    pub(crate) path: PathBuf,
    pub(crate) index: ShardIndex,
    pub(crate) map: Map,
    identity: Option<Identity>,
    end: [u8; CRC],
    chunks: Vec<AtomicU8>,
    /// Of its codes, if it holds codes.
    scales: Option<Scales>,
}

/// What tells a file from the one that took its place. An object's is part of every request.
type Identity = (u64, u64, i64, i64);

/// The chunk was brought into memory as a whole.
const WARM: u8 = 1;
/// The chunk's checksum held.
const CHECKED: u8 = 2;
/// The system was asked to begin to bring the chunk in.
const EXPECTED: u8 = 4;
/// A place in the chunk was looked at.
const SEEN: u8 = 8;

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

    /// The scales of a chunk's columns; none where it does not hold codes.
    pub(crate) fn scales(
        &self,
        spec: &ArraySpec,
        chunk: usize,
        counters: &Counters,
    ) -> Result<&[u8]> {
        match &self.scales {
            None => Ok(&[]),
            Some(scales) => scales.load(spec, counters).and_then(|()| scales.of(spec, chunk)),
        }
    }

    /// Fails if the scales were nonsense while they were used: their file was cut short.
    pub(crate) fn check_scales(&self) -> Result<()> {
        self.scales.as_ref().map_or(Ok(()), Scales::check)
    }

    /// Has the system begin to bring chunks in, each once since the shard was opened.
    pub(crate) fn expect(&self, chunks: std::ops::Range<usize>) {
        let is_cold = |chunk: &usize| {
            self.chunks[*chunk].fetch_or(EXPECTED, Relaxed) & (WARM | EXPECTED) == 0
        };
        let ranges = chunks.filter(is_cold).filter_map(|chunk| self.index.entries[chunk]);
        let joined = ranges.map(Entry::range).reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
        if let Some(range) = joined {
            self.map.will_read(range);
        }
    }

    /// Keeps at least `n` chunks on their way in, of those that will be read one after another.
    pub(crate) fn expect_ahead(&self, rest: std::ops::Range<usize>, n: usize) {
        let far = (rest.start + n).min(rest.end - 1);
        if self.chunks[far].load(Relaxed) & (WARM | EXPECTED) == 0 {
            self.expect(rest.start..(rest.start + 2 * n).min(rest.end));
        }
    }

    /// Has the system bring in the place in a chunk that is looked at first, and nothing around it.
    pub(crate) fn glimpse(&self, chunk: usize, range: std::ops::Range<usize>) {
        if self.chunks[chunk].fetch_or(SEEN, Relaxed) & (SEEN | WARM | EXPECTED) == 0 {
            self.map.will_read(range);
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
    pub(crate) fn new(store: &Path, spec: &ArraySpec) -> Self {
        let statistics = spec.statistics_folder(store);
        Self { folder: store.join(&spec.path), statistics, open: Mutex::default() }
    }

    /// Where a shard lies.
    pub(crate) fn path(&self, spec: &ArraySpec, (shard, layer): ShardId) -> PathBuf {
        self.folder.join(spec.shard_key(shard, layer))
    }

    /// Whether the shards lie in a bucket.
    pub(crate) fn are_objects(&self) -> bool {
        objects::is_url(&self.folder)
    }

    /// Forgets a shard, so that it is opened anew.
    pub(crate) fn forget(&self, id: ShardId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ShardId, Arc<OpenShard>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
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
        let known = self.lock().get(&id).map(Arc::clone);
        let is_good = |open: &OpenShard| {
            open.identity.is_none_or(|identity| {
                glance && open.has_its_end() || is_still(&open.path, identity)
            })
        };
        if let Some(open) = known.filter(|open| is_good(open)) {
            return Ok(open);
        }
        let path = self.path(spec, id);
        let open = if self.are_objects() {
            take_object(
                spec,
                &path,
                n_row,
                Object::open_tail(&path, Tail::last(index_bytes(spec)))?,
            )?
            .0
        } else {
            map_shard(spec, path, n_row)?
        };
        Ok(self.keep(spec, id, open, counters))
    }

    /// Opens those shards of a store in a bucket that are not open, with one request each, side by side.
    pub(crate) fn open_objects(
        &self,
        spec: &ArraySpec,
        ids: &[ShardId],
        n_row: usize,
        counters: &Counters,
    ) -> Result<()> {
        let mut new = ids.to_vec();
        new.sort_unstable();
        new.dedup();
        new.retain(|id| !self.is_open(*id));
        let begin = |id| Ok((id, self.ask_tail(spec, id, Tail::last(index_bytes(spec)))?));
        for (id, opening) in new.into_iter().map(begin).collect::<Result<Vec<_>>>()? {
            self.take_tail(spec, id, n_row, opening, counters)?;
        }
        Ok(())
    }

    /// Whether a shard is open.
    pub(crate) fn is_open(&self, id: ShardId) -> bool {
        self.lock().contains_key(&id)
    }

    /// Asks for the end of a shard in a bucket: its index, and what lies before it.
    pub(crate) fn ask_tail(&self, spec: &ArraySpec, id: ShardId, tail: Tail) -> Result<Opening> {
        Object::open_tail(&self.path(spec, id), tail)
    }

    /// Opens a shard by the end that was asked for; with it comes what lies there before the index.
    pub(crate) fn take_tail(
        &self,
        spec: &ArraySpec,
        id: ShardId,
        n_row: usize,
        opening: Opening,
        counters: &Counters,
    ) -> Result<(Arc<OpenShard>, Fetched)> {
        let (open, rest) = take_object(spec, &self.path(spec, id), n_row, opening)?;
        Ok((self.keep(spec, id, open, counters), rest))
    }

    fn keep(
        &self,
        spec: &ArraySpec,
        id: ShardId,
        open: OpenShard,
        counters: &Counters,
    ) -> Arc<OpenShard> {
        counters.add_bytes(index_bytes(spec));
        let scales = (spec.dtype == Dtype::I8)
            .then(|| Scales::at(self.statistics.join(ArraySpec::statistics_key(id.0, id.1))));
        let open = Arc::new(OpenShard { scales, ..open });
        let mut all = self.lock();
        if all.len() >= if open.map.holds_file() { MAX_FILES } else { MAX_OPEN } {
            all.clear();
        }
        all.insert(id, Arc::clone(&open));
        open
    }
}

fn map_shard(spec: &ArraySpec, path: PathBuf, n_row: usize) -> Result<OpenShard> {
    let fail = |error| absent(spec, &path, n_row, Error::io(&path, error));
    let file = File::open(&path).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    let start = index_start(spec, &path, meta.len())?;
    let length = usize::try_from(meta.len()).unwrap_or(usize::MAX);
    let mut tail = vec![0; index_bytes(spec)];
    // By a map, the system would bring in what lies around: with some settings that is 8 MB.
    files::reads_alone(&file);
    files::read_at(&file, &path, &mut tail, start)?;
    let index = ShardIndex::parse(spec, &path, start, &tail)?;
    let mut end = [0; CRC];
    end.copy_from_slice(&tail[tail.len() - CRC..]);
    let map = Map::new(file, &path, length);
    let identity = Some(identity(&meta));
    Ok(OpenShard { identity, path, index, map, end, chunks: untouched(spec), scales: None })
}

/// Takes a shard in a bucket, whose end was asked for: its index, and what came with it.
fn take_object(
    spec: &ArraySpec,
    path: &Path,
    n_row: usize,
    opening: Opening,
) -> Result<(OpenShard, Fetched)> {
    let (object, tail) = opening.wait().map_err(|error| absent(spec, path, n_row, error))?;
    let start = index_start(spec, path, object.len())?;
    let (rest, index) = tail.split_at(start)?;
    let index = ShardIndex::parse(spec, path, start, &index)?;
    let length = usize::try_from(object.len()).unwrap_or(usize::MAX);
    let map = Map::object(object, path, length);
    let (path, end) = (path.to_owned(), [0; CRC]);
    let chunks = untouched(spec);
    Ok((OpenShard { identity: None, path, index, map, end, chunks, scales: None }, rest))
}

/// The error for a shard that could not be opened: one that is not there was promised by the commit.
fn absent(spec: &ArraySpec, path: &Path, n_row: usize, error: Error) -> Error {
    if !error.is_not_found() {
        return error;
    }
    let why = format!("the last commit has {n_row} rows of `{}`", spec.path);
    Error::Missing { path: path.to_owned(), why }
}

fn untouched(spec: &ArraySpec) -> Vec<AtomicU8> {
    std::iter::repeat_with(AtomicU8::default).take(spec.shard_chunks()).collect()
}

fn identity(meta: &Metadata) -> Identity {
    (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())
}

fn is_still(path: &Path, known: Identity) -> bool {
    fs::metadata(path).is_ok_and(|meta| identity(&meta) == known)
}
