//! A writer's beginning: a new store's arrays, or an existing store at its last commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
};

use super::{
    Shared, State, Writer, WriterOptions,
    grow::growing_arrays,
    lane::Lane,
    lock::Lock,
    orphans,
    queue::Queue,
    spare::Spare,
    stage::{Folders, Scratch},
};
use crate::{
    error::{Error, Result},
    store::{
        commit::{self, Commit, CommitArray, RowCounts},
        counters::Counters,
        dtype::Dtype,
        files::{self, Finished},
        objects,
        open::{FORMAT, array_json, open_array, read_attributes},
        quantise::LayerError,
        spec::{ArraySpec, group_metadata},
    },
};

impl Writer {
    /// Makes the arrays of a new store and commit 0, which is empty. The root's `zarr.json` must be there.
    ///
    /// # Errors
    /// `NotAStore` without the root, `StoreExists` if there are commits, `BadSpec`, `Budget`, `Locked`, `Io`.
    pub fn create(path: &Path, arrays: Vec<ArraySpec>, options: WriterOptions) -> Result<Self> {
        read_attributes(path)?;
        check_arrays(&arrays)?;
        Limits::new(&arrays, options)?;
        if !commit::numbers(path)?.is_empty() {
            return Err(Error::StoreExists { path: path.to_owned() });
        }
        let folders = Folders::of(path);
        let lock = lock_and_clean(&folders)?;
        write_metadata(path, &arrays)?;
        let first = empty_commit(&arrays);
        first.publish(path)?;
        Self::start(folders, arrays, first, 1, options, lock)
    }

    /// Goes on from the last numbered commit, with the shards that an interrupted capture published: staging is
    /// cleaned, shards beyond the commit are removed. Where arrays are being added, goes on with those.
    ///
    /// # Errors
    /// As `Store::open`, and `Budget`, `Locked`, `Io`.
    pub fn open(path: &Path, options: WriterOptions) -> Result<Self> {
        let found = Existing::look(path)?;
        let arrays = if found.last.growth.is_some() { found.growing } else { found.stored };
        Self::start(found.folders, arrays, found.last, found.next, options, found.lock)
    }

    pub(super) fn start(
        folders: Folders,
        arrays: Vec<ArraySpec>,
        last: Commit,
        next: u64,
        options: WriterOptions,
        lock: Lock,
    ) -> Result<Self> {
        let limits = Limits::new(&arrays, options)?;
        let lock = Arc::new(lock);
        let arrays: Vec<Arc<ArraySpec>> = arrays.into_iter().map(Arc::new).collect();
        let (mut lanes, mut first_lane) = (Vec::new(), Vec::new());
        for spec in &arrays {
            first_lane.push(lanes.len());
            let base = last.published_rows().get(spec.row_space);
            let keys = spec.layer_keys();
            let lane = |layer| Lane::new(&folders, &lock, spec, layer, base);
            lanes.extend(keys.into_iter().map(lane));
        }
        let shared = Arc::new(Shared {
            lanes,
            queue: Queue::new(limits.queue),
            spare: Spare::new(limits.spare),
        });
        let mut writer = Self {
            path: folders.store,
            staging: folders.staging,
            shared,
            arrays,
            first_lane,
            job_bytes: limits.job,
            state: Mutex::new(State { last, next }),
            threads: Vec::with_capacity(limits.threads),
            lock,
        };
        for number in 0..limits.threads {
            let shared = Arc::clone(&writer.shared);
            let thread = std::thread::Builder::new()
                .name(format!("residuum-writer-{number}"))
                .spawn(move || shared.work())
                .map_err(|error| Error::io(&writer.path, error))?;
            writer.threads.push(thread);
        }
        Ok(writer)
    }
}

/// A store that a writer goes on with: locked, and rid of what a crash left.
pub(super) struct Existing {
    pub(super) folders: Folders,
    pub(super) lock: Lock,
    /// The last numbered commit, with the shards that an interrupted capture published.
    pub(super) last: Commit,
    /// The number of the next.
    pub(super) next: u64,
    /// The arrays that readers see.
    pub(super) stored: Vec<ArraySpec>,
    /// What is being added to them.
    pub(super) growing: Vec<ArraySpec>,
}

impl Existing {
    pub(super) fn look(path: &Path) -> Result<Self> {
        read_attributes(path)?;
        refuse_lossy(path)?;
        let folders = Folders::of(path);
        let lock = lock_and_clean(&folders)?;
        let latest = commit::latest(path)?;
        let mut last = latest.numbered;
        if let Some(interrupted) = latest.interrupted {
            last.set_published_rows(interrupted.published_rows());
        }
        let stored = stored_arrays(path, &last)?;
        let growing = growing_arrays(path, &last)?;
        orphans::remove(path, &last, &stored, &growing)?;
        // Damaged records keep their numbers.
        let next = commit::numbers(path)?.last().map_or(0, |number| number + 1);
        Ok(Self { folders, lock, last, next, stored, growing })
    }
}

/// Refuses to add to rows that are codes, before anything of the store is touched: a chunk's scales are of all of its
/// rows, and what is lost was measured against rows that are gone.
fn refuse_lossy(path: &Path) -> Result<()> {
    let latest = commit::latest(path)?;
    let commit = latest.interrupted.unwrap_or(latest.numbered);
    if commit.published_rows() == RowCounts::default() {
        return Ok(());
    }
    for name in commit.arrays.keys() {
        let (file, json) = array_json(path, name, &commit)?;
        if ArraySpec::parse(&file, name, &json)?.0.dtype == Dtype::I8 {
            return Err(Error::LossyStore { path: path.to_owned(), array: name.clone() });
        }
    }
    Ok(())
}

/// The arrays that readers of a commit see.
pub(super) fn stored_arrays(path: &Path, commit: &Commit) -> Result<Vec<ArraySpec>> {
    let counters = Arc::new(Counters::default());
    let mut stored = Vec::with_capacity(commit.arrays.len());
    for name in commit.arrays.keys() {
        let array = open_array(path, name, commit, &counters)?;
        array.check_present()?;
        stored.push(array.spec().clone());
    }
    check_arrays(&stored)?;
    Ok(stored)
}

/// How the memory budget is divided.
pub(super) struct Limits {
    threads: usize,
    /// Bytes of rows in jobs.
    queue: usize,
    /// Bytes of buffers between two jobs.
    spare: usize,
    /// Bytes of rows in one job.
    job: usize,
}

impl Limits {
    pub(super) fn new(arrays: &[ArraySpec], options: WriterOptions) -> Result<Self> {
        let Some(widest) = arrays.iter().max_by_key(|spec| Scratch::bytes(spec)) else {
            return Ok(Self { threads: 1, queue: 1, spare: 0, job: 1 });
        };
        let scratch = Scratch::bytes(widest);
        let row = arrays.iter().map(ArraySpec::staged_row_bytes).max().unwrap_or(1);
        // Converting 16-bit rows of one format to the other passes through a second copy of the job.
        let needed = scratch.saturating_add(row.saturating_mul(2));
        if options.memory_bytes < needed {
            return Err(Error::Budget {
                array: widest.path.clone(),
                budget: options.memory_bytes,
                needed,
            });
        }
        let fit = (options.memory_bytes / 2 / scratch).max(1);
        let threads = options.threads.clamp(1, fit);
        let queue =
            (options.memory_bytes / 2).min(options.memory_bytes - threads * scratch).max(row);
        let spare = queue / 4;
        let queue = (queue - spare).max(row);
        Ok(Self { threads, queue, spare, job: (queue / 4).max(row) })
    }
}

/// Checks each array and that they can live in one store.
pub(super) fn check_arrays(arrays: &[ArraySpec]) -> Result<()> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for spec in arrays {
        spec.check()?;
        let bad = |why: String| Err(Error::BadSpec { array: spec.path.clone(), why });
        if spec.shard_rows != arrays[0].shard_rows {
            return bad(format!(
                "its shards have {} rows, those of `{}` {}; a store has one number",
                spec.shard_rows, arrays[0].path, arrays[0].shard_rows
            ));
        }
        if seen.insert(&spec.path, spec.shard_rows).is_some() {
            return bad("it is listed twice".into());
        }
    }
    Ok(())
}

/// What a record says of arrays.
pub(super) fn commit_arrays(arrays: &[ArraySpec]) -> BTreeMap<String, CommitArray> {
    let entry = |spec: &ArraySpec| {
        let layers = spec.n_layer.map(|_| spec.layers.clone());
        (spec.path.clone(), CommitArray { layers })
    };
    arrays.iter().map(entry).collect()
}

fn empty_commit(arrays: &[ArraySpec]) -> Commit {
    Commit {
        format: FORMAT,
        commit: 0,
        complete: false,
        rows: RowCounts::default(),
        physical_rows: RowCounts::default(),
        n_example: 0,
        arrays: commit_arrays(arrays),
        growth: None,
        tables: BTreeMap::new(),
        resume: serde_json::Value::Null,
    }
}

pub(super) fn write_metadata(store: &Path, arrays: &[ArraySpec]) -> Result<()> {
    let mut groups = BTreeSet::new();
    let mut finished = Vec::new();
    for spec in arrays {
        groups.extend(spec.path.split('/').next());
        groups.extend(spec.statistics.then_some("statistics"));
        finished.extend(array_metadata(store, spec, 0, &[])?);
    }
    for group in groups {
        finished.extend(Finished::beside(store.join(group).join("zarr.json"), &group_metadata())?);
    }
    files::publish(&finished, store)
}

/// The `zarr.json` of an array and of its statistics for `n_row` rows, where they have to be replaced.
pub(super) fn array_metadata(
    store: &Path,
    spec: &ArraySpec,
    n_row: usize,
    errors: &[LayerError],
) -> Result<impl Iterator<Item = Finished>> {
    let json = spec.metadata(n_row, errors);
    let array = Finished::beside(store.join(&spec.path).join("zarr.json"), &json)?;
    let statistics = if spec.statistics {
        let file = spec.statistics_folder(store).join("zarr.json");
        Finished::beside(file, &spec.statistics_metadata(n_row))?
    } else {
        None
    };
    Ok(array.into_iter().chain(statistics))
}

/// Takes the writer's lock and removes what a crash left: the staging folder's files, which hold nothing that a
/// commit promises, and files that never got their name.
fn lock_and_clean(folders: &Folders) -> Result<Lock> {
    let lock = Lock::take(folders, "remove this object and go on with --resume")?;
    // An object never goes by another name before it has its own.
    if !objects::is_url(&folders.store) {
        remove_unnamed(&folders.store)?;
    }
    folders.clean()?;
    Ok(lock)
}

/// Removes temporary files that a crash left beside the files that they were to become. User tables and results
/// are not the writer's: other processes may be writing those.
fn remove_unnamed(store: &Path) -> Result<()> {
    for folder in ["commits", "activations", "index", "statistics"] {
        let folder = store.join(folder);
        for child in files::children(&folder)? {
            if child.is_dir() {
                files::remove_temporary(&child)?;
            }
        }
        files::remove_temporary(&folder)?;
    }
    files::remove_temporary(&store.join("tables/examples"))?;
    files::remove_temporary(&store.join("tables/tokens"))
}
