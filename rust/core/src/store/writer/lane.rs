//! One layer of one array: takes jobs in any order, completes chunks, seals shards.
//!
//! The lane's lock guards bookkeeping only; files are written outside it. A chunk is completed by whichever
//! thread brings its last row, a shard is sealed by whichever completes its last chunk.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    cut::Piece,
    lock::Lock,
    progress::Progress,
    stage::{Folders, Kept, Scratch, Stage},
};
use crate::{
    error::{Error, Result},
    store::{
        dtype::Dtype,
        files::{self, Finished},
        index::Entry,
        quantise::{LayerError, Loss},
        spec::ArraySpec,
        statistics::count_nonfinite,
    },
};

/// One layer of one array, or all of an array without layers.
#[derive(Debug)]
pub(super) struct Lane {
    folders: Folders,
    lock: Arc<Lock>,
    pub(super) spec: Arc<ArraySpec>,
    pub(super) layer: Option<usize>,
    /// Rows that were published when the writer was opened.
    pub(super) base: usize,
    state: Mutex<State>,
    nan: AtomicU64,
    inf: AtomicU64,
}

/// The shards that this writer has touched.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) open: BTreeMap<usize, Progress>,
    /// Sealed shards; true once their files are finished.
    pub(super) sealed: BTreeMap<usize, bool>,
    /// Files that wait for the next commit.
    pub(super) finished: Vec<Finished>,
    /// What the codes of each chunk lose. By chunk, because sums depend on their order.
    lost: BTreeMap<usize, Loss>,
}

impl State {
    pub(super) fn set_lost(&mut self, chunk: usize, loss: Option<Loss>) {
        self.lost.extend(loss.map(|loss| (chunk, loss)));
    }
}

impl Lane {
    pub(super) fn new(
        folders: &Folders,
        lock: &Arc<Lock>,
        spec: &Arc<ArraySpec>,
        layer: Option<usize>,
        base: usize,
    ) -> Self {
        Self {
            folders: folders.clone(),
            lock: Arc::clone(lock),
            spec: Arc::clone(spec),
            layer,
            base,
            state: Mutex::default(),
            nan: AtomicU64::new(0),
            inf: AtomicU64::new(0),
        }
    }

    /// (NaN, infinite) values among the rows taken.
    pub(super) fn nonfinite(&self) -> (u64, u64) {
        (self.nan.load(Relaxed), self.inf.load(Relaxed))
    }

    /// What is lost of the layer so far, if it is stored as codes.
    pub(super) fn error(&self) -> Option<LayerError> {
        let loss = || self.lock().lost.values().copied().fold(Loss::default(), Loss::and);
        (self.spec.dtype == Dtype::I8).then(|| loss().stated())
    }

    /// Rows up to which all shards are full and finished.
    pub(super) fn sealed_rows(&self) -> usize {
        let state = self.lock();
        let mut shard = self.base / self.spec.shard_rows;
        while state.sealed.get(&shard).is_some_and(|finished| *finished) {
            shard += 1;
        }
        shard * self.spec.shard_rows
    }

    /// Takes rows of one chunk, in the dtype that they are staged in, in the order of the piece's runs.
    pub(super) fn take(&self, piece: &Piece, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
        let (nan, inf) = count_nonfinite(self.spec.dtype.staged(), bytes);
        self.nan.fetch_add(nan, Relaxed);
        self.inf.fetch_add(inf, Relaxed);
        let (shard, chunk) =
            (piece.chunk / self.spec.shard_chunks(), piece.chunk % self.spec.shard_chunks());
        self.claim(piece, shard, scratch)?;
        let stage = self.stage(shard);
        if piece.n_row() == self.spec.chunk_rows {
            // Claimed without a repeat, so these are all rows of the chunk, in order.
            self.take_whole(&stage, shard, chunk, bytes, scratch)?;
        } else {
            self.take_part(&stage, shard, piece, bytes, scratch)?;
        }
        self.seal_if_full(&stage, shard, scratch)
    }

    /// Files finished since the last call, to be published by a commit.
    pub(super) fn take_finished(&self) -> Vec<Finished> {
        std::mem::take(&mut self.lock().finished)
    }

    pub(super) fn stage(&self, shard: usize) -> Stage<'_> {
        Stage::new(&self.folders, &self.spec, self.layer, shard)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self, piece: &Piece, shard: usize, scratch: &mut Scratch) -> Result<()> {
        let mut state = self.lock();
        let first = piece.runs.first().map_or(0, |run| run.dst_row);
        if state.sealed.contains_key(&shard) {
            return Err(self.twice(first));
        }
        let progress = self.open_shard(&mut state, shard, scratch)?;
        for run in &piece.runs {
            progress
                .claim(run.dst_row % self.spec.shard_rows, run.n)
                .map_err(|row| self.twice(shard * self.spec.shard_rows + row))?;
        }
        Ok(())
    }

    /// The shard's bookkeeping; begins the shard, with what its published tail holds, if it is new.
    pub(super) fn open_shard<'s>(
        &self,
        state: &'s mut State,
        shard: usize,
        scratch: &mut Scratch,
    ) -> Result<&'s mut Progress> {
        let stored = self.base.saturating_sub(shard * self.spec.shard_rows);
        Ok(match state.open.entry(shard) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(self.stage(shard).load(stored, scratch)?)
            }
        })
    }

    fn take_whole(
        &self,
        stage: &Stage<'_>,
        shard: usize,
        chunk: usize,
        rows: &[u8],
        scratch: &mut Scratch,
    ) -> Result<()> {
        stage.write_statistics(chunk, rows, &mut scratch.kept)?;
        if !self.spec.is_packed() {
            stage.write_rows(chunk, std::iter::once((0, self.spec.chunk_rows)), rows)?;
            stage.write_crc(chunk, rows)?;
            self.with_progress(shard, |progress| progress.n_done += 1);
            return Ok(());
        }
        let at = self.with_progress(shard, |progress| {
            let mine = !progress.appending && progress.encoded.len() == chunk;
            progress.appending |= mine;
            mine.then(|| progress.encoded_end())
        });
        if let Some(Some(offset)) = at {
            let entry = self.append(stage, shard, (chunk, offset), rows, &mut scratch.kept)?;
            self.with_progress(shard, |progress| {
                progress.set_ready(chunk);
                progress.encoded.push(entry);
                progress.n_done += 1;
                progress.appending = false;
            });
        } else {
            stage.write_rows(chunk, std::iter::once((0, self.spec.chunk_rows)), rows)?;
            self.with_progress(shard, |progress| progress.set_ready(chunk));
        }
        self.append_ready(stage, shard, scratch)
    }

    fn take_part(
        &self,
        stage: &Stage<'_>,
        shard: usize,
        piece: &Piece,
        bytes: &[u8],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (chunk_rows, chunk) = (self.spec.chunk_rows, piece.chunk % self.spec.shard_chunks());
        let runs = piece.runs.iter().map(|run| (run.dst_row % chunk_rows, run.n));
        stage.write_rows(chunk, runs, bytes)?;
        let complete = self.with_progress(shard, |progress| {
            progress.add_written(chunk, piece.n_row(), chunk_rows)
        });
        if complete != Some(true) {
            return Ok(());
        }
        stage.read_rows(chunk, chunk_rows, &mut scratch.chunk)?;
        let rows = &scratch.chunk;
        stage.write_statistics(chunk, rows, &mut scratch.kept)?;
        if !self.spec.is_packed() {
            stage.write_crc(chunk, rows)?;
            self.with_progress(shard, |progress| progress.n_done += 1);
            return Ok(());
        }
        self.with_progress(shard, |progress| progress.set_ready(chunk));
        self.append_ready(stage, shard, scratch)
    }

    /// Appends packed chunks as long as the next one is full and nobody else is at it.
    fn append_ready(&self, stage: &Stage<'_>, shard: usize, scratch: &mut Scratch) -> Result<()> {
        loop {
            let next = self.with_progress(shard, |progress| {
                let next = progress.next_to_append().filter(|_| !progress.appending)?;
                progress.appending = true;
                Some((next, progress.encoded_end()))
            });
            let Some(Some((chunk, offset))) = next else { return Ok(()) };
            stage.read_rows(chunk, self.spec.chunk_rows, &mut scratch.chunk)?;
            let Scratch { chunk: rows, kept, .. } = scratch;
            let entry = self.append(stage, shard, (chunk, offset), rows, kept)?;
            self.with_progress(shard, |progress| {
                progress.encoded.push(entry);
                progress.n_done += 1;
                progress.appending = false;
            });
        }
    }

    /// Packs the chunk at a place in the shard, (number, offset), and notes what that loses.
    fn append(
        &self,
        stage: &Stage<'_>,
        shard: usize,
        (chunk, offset): (usize, u64),
        rows: &[u8],
        kept: &mut Kept,
    ) -> Result<Entry> {
        let (entry, loss) = stage.append(chunk, offset, rows, kept)?;
        self.lock().set_lost(shard * self.spec.shard_chunks() + chunk, loss);
        Ok(entry)
    }

    fn seal_if_full(&self, stage: &Stage<'_>, shard: usize, scratch: &mut Scratch) -> Result<()> {
        let full = {
            let mut state = self.lock();
            if !state.open.get(&shard).is_some_and(Progress::is_full) {
                return Ok(());
            }
            state.sealed.insert(shard, false);
            state.open.remove(&shard)
        };
        if let Some(progress) = full {
            let finished = stage.seal(&progress.encoded, &mut scratch.kept.statistics)?;
            let finished = self.send(finished)?;
            let mut state = self.lock();
            state.sealed.insert(shard, true);
            state.finished.extend(finished);
        }
        Ok(())
    }

    /// Uploads finished files of a store in a bucket, if nobody else writes there by now; returns those of a folder.
    pub(super) fn send(&self, finished: Vec<Finished>) -> Result<Vec<Finished>> {
        self.lock.check()?;
        files::send(finished)
    }

    /// Calls `f` on the shard's bookkeeping under the lock; `None` if the shard is sealed already.
    fn with_progress<R>(&self, shard: usize, f: impl FnOnce(&mut Progress) -> R) -> Option<R> {
        self.lock().open.get_mut(&shard).map(f)
    }

    fn twice(&self, row: usize) -> Error {
        Error::RowTwice { array: self.spec.path.clone(), layer: self.layer, row }
    }
}
