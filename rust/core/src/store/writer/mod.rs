//! Fills arrays from many threads within a memory budget, and makes commits.
//!
//! ```text
//! write ─▶ cut (by chunk) ─▶ queue (bounded) ─▶ worker ─▶ lane ─▶ stage (files in staging/)
//! commit ─▶ tail (last, partial shard) ─▶ publish (rename) ─▶ zarr.json ─▶ commit record
//! ```
//!
//! Of a store in a bucket a shard is uploaded when it is finished, instead of published by the commit; what has
//! to be on this machine is in a staging folder of its own.
//!
//! Order of durability: the bytes of shards, statistics and `zarr.json`, their names, then the record.

mod commit;
mod create;
mod cut;
mod grow;
mod lane;
mod lock;
mod orphans;
mod progress;
mod queue;
mod spare;
mod stage;
mod tail;
mod upload;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use serde_json::Value;

use self::{cut::Piece, lane::Lane, lock::Lock, queue::Queue, spare::Spare, stage::Scratch};
use super::{
    commit::{Commit, RowCounts},
    dtype::Source,
    spec::ArraySpec,
};
use crate::{
    error::{Error, Result},
    site::RowSpace,
};

/// How much the writer may use.
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// Bytes of rows and buffers held at any time.
    pub memory_bytes: usize,
    /// Background threads; fewer are used where their buffers would not fit the memory, at least one.
    pub threads: usize,
}

/// Rows that go from neighbouring rows of the source to neighbouring rows of the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First row in the source.
    pub src_row: usize,
    /// First row in the array.
    pub dst_row: usize,
    /// Number of rows.
    pub n: usize,
}

/// What a commit is to say.
#[derive(Clone, Debug, Default)]
pub struct CommitRequest {
    /// Rows that readers shall see, per row space. Never fewer than before. While arrays are added, rows of those.
    pub rows: RowCounts,
    /// Examples in the tables; while arrays are added, those whose rows are done.
    pub n_example: u64,
    /// Parquet parts, by table; durable already.
    pub tables: BTreeMap<String, Vec<String>>,
    /// True if the capture is done; the writer takes nothing more.
    pub complete: bool,
    /// True to save what there is without a number of its own: it counts until the next commit, which goes on
    /// from the one before, so that the numbered commits do not tell where a capture was interrupted.
    pub interrupted: bool,
    /// True to publish the partly filled last shards, so that rows beyond the last full shard can be seen.
    pub publish_tail: bool,
    /// What the capture needs to go on.
    pub resume: Value,
}

/// Values that are not numbers, in one layer of one array, among the rows that this writer took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// The array's path.
    pub array: String,
    /// The layer, where the array has layers.
    pub layer: Option<usize>,
    /// NaN values.
    pub nan: u64,
    /// Infinite values.
    pub inf: u64,
}

/// Writes rows of a store's arrays. Shared between threads; dropping it loses what was not committed,
/// and nothing else.
pub struct Writer {
    path: PathBuf,
    staging: PathBuf,
    shared: Arc<Shared>,
    arrays: Vec<Arc<ArraySpec>>,
    /// Index into `shared.lanes` of an array's first layer.
    first_lane: Vec<usize>,
    /// The most bytes of one job.
    job_bytes: usize,
    state: Mutex<State>,
    threads: Vec<JoinHandle<()>>,
    /// Held for its locks.
    lock: Arc<Lock>,
}

/// What the background threads see.
struct Shared {
    lanes: Vec<Lane>,
    queue: Queue<Job>,
    spare: Spare,
}

/// The last numbered commit and the number of the next.
struct State {
    last: Commit,
    next: u64,
}

enum Job {
    /// Rows of one chunk, in the dtype that they are staged in.
    Rows { lane: usize, piece: Piece, bytes: Vec<u8> },
    /// Finish what lies below row `visible` of the last shard.
    Tail { lane: usize, visible: usize, last: bool },
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("path", &self.path)
            .field("arrays", &self.arrays)
            .finish_non_exhaustive()
    }
}

impl Writer {
    /// The arrays, in the order of their numbers in `write`: as given to `create`, by path after `open`.
    pub fn arrays(&self) -> impl ExactSizeIterator<Item = &ArraySpec> {
        self.arrays.iter().map(AsRef::as_ref)
    }

    /// The number of the array at `path`, such as `activations/z`.
    pub fn array_number(&self, path: &str) -> Option<usize> {
        self.arrays.iter().position(|spec| spec.path == path)
    }

    /// The store's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The newest numbered commit, this writer's or the one it was opened at.
    pub fn last_commit(&self) -> Commit {
        self.lock().last.clone()
    }

    /// Takes rows of one layer of one array: converts them here, writes them in the background.
    ///
    /// `src` is `[row, row_len]`; `layer` is 0 where the array has no layer axis. Rows may come in any order,
    /// each once. Rows that were published before the writer was opened are dropped: they are there.
    /// Waits while the queue holds its share of the memory budget.
    ///
    /// # Errors
    /// For an array, layer, dtype or length that does not fit, and for any earlier failure in the background.
    pub fn write(
        &self,
        array: usize,
        layer: usize,
        src: Source<'_>,
        row_len: usize,
        runs: &[Run],
    ) -> Result<()> {
        let (lane_number, lane) = self.lane(array, layer)?;
        let spec = &lane.spec;
        check_source(spec, src, row_len, runs)?;
        let row_bytes = spec.staged_row_bytes();
        let max_rows = (self.job_bytes / row_bytes).max(1);
        for piece in cut::cut(spec, lane.base, max_rows, runs) {
            let n_bytes = piece.n_row() * row_bytes;
            self.shared.queue.reserve(n_bytes)?;
            let mut bytes = self.shared.spare.take(n_bytes);
            for run in &piece.runs {
                src.encode(spec.dtype.staged(), run.src_row * row_len, run.n * row_len, &mut bytes);
            }
            self.shared.queue.push(
                Job::Rows { lane: lane_number, piece, bytes },
                n_bytes,
                lane_number,
            );
        }
        Ok(())
    }

    /// Rows up to which every array of that space lies in full shards, published by the next commit; `usize::MAX`
    /// where there is none. Exact after `flush`.
    ///
    /// # Errors
    /// For any earlier failure in the background.
    pub fn sealed_rows(&self, space: RowSpace) -> Result<usize> {
        self.shared.queue.check()?;
        Ok(self.sealed(space))
    }

    /// Waits until every row handed over is in its file.
    ///
    /// # Errors
    /// For any failure in the background.
    pub fn flush(&self) -> Result<()> {
        self.shared.queue.flush()
    }

    /// Layers with NaN or infinite values among the rows taken so far. Exact after `flush`.
    pub fn nonfinite(&self) -> Vec<NonFinite> {
        let counts = self.shared.lanes.iter().map(|lane| (lane, lane.nonfinite()));
        counts
            .filter(|(_, (nan, inf))| nan + inf > 0)
            .map(|(lane, (nan, inf))| NonFinite {
                array: lane.spec.path.clone(),
                layer: lane.layer,
                nan,
                inf,
            })
            .collect()
    }

    /// Fails if someone removed the lock on a store in a bucket: another writer may be at work there.
    ///
    /// # Errors
    /// `BadCommit` then, `Remote` if the server cannot be asked.
    pub fn check_lock(&self) -> Result<()> {
        self.lock.check()
    }

    /// The smallest sealed count of the space's lanes; without lanes there is nothing to wait for.
    fn sealed(&self, space: RowSpace) -> usize {
        let lanes = self.shared.lanes.iter().filter(|lane| lane.spec.row_space == space);
        lanes.map(Lane::sealed_rows).min().unwrap_or(usize::MAX)
    }

    fn lane(&self, array: usize, layer: usize) -> Result<(usize, &Lane)> {
        let spec = self.arrays.get(array).ok_or_else(|| Error::OutOfRange {
            site: "writer".into(),
            axis: "array".into(),
            index: array as u64,
            length: self.arrays.len(),
        })?;
        let place = match spec.n_layer {
            Some(_) => spec.layers.binary_search(&layer).ok(),
            None => (layer == 0).then_some(0),
        };
        let place = place.ok_or_else(|| Error::LayerNotCaptured {
            site: spec.name().to_owned(),
            layer,
            captured: spec.layers.clone(),
        })?;
        let number = self.first_lane[array] + place;
        Ok((number, &self.shared.lanes[number]))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.queue.close();
        for thread in self.threads.drain(..) {
            // A panic in a thread was reported through the queue.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// A background thread's life.
    fn work(&self) {
        let mut scratch = Scratch::default();
        self.queue.run(|job| match job {
            Job::Rows { lane, piece, bytes } => {
                self.lanes[lane].take(&piece, &bytes, &mut scratch)?;
                self.spare.give(bytes);
                Ok(())
            }
            Job::Tail { lane, visible, last } => {
                self.lanes[lane].finish_tail(visible, last, &mut scratch)
            }
        });
    }
}

/// Checks that the source has the array's row length and holds every row that a run names.
fn check_source(spec: &ArraySpec, src: Source<'_>, row_len: usize, runs: &[Run]) -> Result<()> {
    src.check(&spec.path, spec.dtype)?;
    if row_len != spec.row_len() {
        let what = format!("a row for `{}`", spec.path);
        return Err(Error::Length { what, found: row_len, expected: spec.row_len() });
    }
    // Beyond this, byte offsets could overflow.
    let limit = usize::MAX / 16 / spec.staged_row_bytes();
    for run in runs {
        let end = run.src_row.checked_add(run.n).and_then(|rows| rows.checked_mul(row_len));
        if end.is_none_or(|end| end > src.len()) {
            let what =
                format!("the source of rows {}..+{} for `{}`", run.src_row, run.n, spec.path);
            let expected = end.unwrap_or(usize::MAX);
            return Err(Error::Length { what, found: src.len(), expected });
        }
        if run.dst_row.checked_add(run.n).is_none_or(|end| end > limit) {
            return Err(Error::OutOfRange {
                site: spec.name().to_owned(),
                axis: "row".into(),
                index: run.dst_row as u64,
                length: limit,
            });
        }
    }
    Ok(())
}
