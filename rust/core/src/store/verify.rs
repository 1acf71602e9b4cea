//! Reads everything back and says all that is wrong, not only the first thing.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rayon::prelude::*;

use super::{
    blob::Blob,
    commit::{self, Commit},
    counters::Counters,
    files, objects,
    open::{open_array, read_attributes, read_vocabulary},
    spec::ArraySpec,
    verify_shard::ShardCheck,
    weights::Weights,
};
use crate::error::{Error, Result};

/// A store this broken needs no longer list.
const MAX_PROBLEMS: usize = 1000;
/// Shards handed to the thread pool at a time.
const BATCH: usize = 64;
/// First and last bytes of a Parquet file.
const PARQUET: &[u8; 4] = b"PAR1";

/// One thing that is wrong with a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, relative to the store.
    pub file: String,
    /// What is wrong with it.
    pub what: String,
}

/// What `verify` looked at and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Number of the commit that was verified.
    pub commit: u64,
    /// Files checked.
    pub files: u64,
    /// Inner chunks whose checksum was computed.
    pub chunks: u64,
    /// Bytes of the shards among those files.
    pub bytes: u64,
    /// Everything that is wrong, sorted by file; empty for a sound store.
    pub problems: Vec<Problem>,
}

/// Reads every byte of arrays that the last commit promises: checksums, indexes, sizes, statistics; parses
/// every commit record; looks for the table parts, and opens weights and vocabulary.
///
/// # Errors
/// Only if there is no store of a known format to verify; damage is reported, not returned.
pub fn verify(path: &Path) -> Result<VerifyReport> {
    read_attributes(path)?;
    let check = Check { store: path, report: Mutex::default() };
    if let Some(commit) = check.commits()? {
        check.note(|report| report.commit = commit.commit);
        check.tables(&commit);
        for name in commit.arrays.keys() {
            check.array(name, &commit);
        }
    }
    check.weights();
    let mut report = check.report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.problems.sort_unstable();
    report.problems.dedup();
    Ok(report)
}

/// A verification under way.
pub(super) struct Check<'a> {
    pub(super) store: &'a Path,
    report: Mutex<VerifyReport>,
}

impl Check<'_> {
    /// Updates the report.
    pub(super) fn note(&self, update: impl FnOnce(&mut VerifyReport)) {
        update(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Adds a problem with a file.
    pub(super) fn problem(&self, file: &Path, what: impl Into<String>) {
        let file = file.strip_prefix(self.store).unwrap_or(file).display().to_string();
        let what = what.into();
        self.note(|report| report.problems.push(Problem { file, what }));
    }

    /// Adds a problem that another function found, under its own file or else `file`.
    pub(super) fn error(&self, file: &Path, error: Error) {
        match error {
            Error::Damaged { path, what } | Error::Remote { path, what } => {
                self.problem(&path, what);
            }
            Error::Missing { path, why } => self.problem(&path, format!("it is missing: {why}")),
            Error::Io { path, source } => self.problem(&path, source.to_string()),
            other => self.problem(file, other.to_string()),
        }
    }

    fn n_problem(&self) -> usize {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).problems.len()
    }

    /// Reads every record; the newest valid one is what the rest is measured by.
    fn commits(&self) -> Result<Option<Commit>> {
        let numbers = commit::numbers(self.store)?;
        if numbers.is_empty() {
            self.problem(&self.store.join("commits"), "there is no commit record");
        }
        let mut newest = None;
        for number in numbers {
            let file = commit::file(self.store, number);
            self.note(|report| report.files += 1);
            match Commit::read(&file, number) {
                Ok(commit) => newest = Some(commit),
                Err(error @ Error::NewerFormat { .. }) => return Err(error),
                Err(error) => self.error(&file, error),
            }
        }
        let Some(number) = newest.as_ref().map(|commit| commit.commit) else { return Ok(None) };
        match commit::interrupted(self.store, number) {
            Ok(interrupted) => Ok(interrupted.or(newest)),
            Err(error @ Error::NewerFormat { .. }) => Err(error),
            Err(error) => {
                self.error(&commit::interrupted_file(self.store), error);
                Ok(newest)
            }
        }
    }

    /// Looks whether each table part is there and is framed as Parquet files are.
    fn tables(&self, commit: &Commit) {
        for (table, parts) in &commit.tables {
            for part in parts {
                self.note(|report| report.files += 1);
                let file = self.store.join("tables").join(table).join(part);
                if [table, part].iter().any(|name| name.contains('/') || *name == "..") {
                    self.problem(&file, "its name leads out of the tables");
                } else if let Err(error) = parquet_frame(&file) {
                    self.error(&file, error);
                }
            }
        }
    }

    fn weights(&self) {
        let folder = self.store.join("weights");
        let (tensors, words) = (folder.join("readout.safetensors"), folder.join("vocabulary.json"));
        self.optional(&tensors, |file| Weights::open(file).map(drop));
        self.optional(&words, |file| read_vocabulary(file).map(drop));
    }

    /// Reads a file that need not be there.
    fn optional(&self, file: &Path, read: impl FnOnce(&Path) -> Result<()>) {
        match files::exists(file) {
            Ok(false) => return,
            Ok(true) => self.note(|report| report.files += 1),
            Err(error) => return self.error(file, error),
        }
        read(file).unwrap_or_else(|error| self.error(file, error));
    }

    fn array(&self, name: &str, commit: &Commit) {
        self.note(|report| report.files += 1);
        let counters = Arc::new(Counters::default());
        let array = match open_array(self.store, name, commit, &counters) {
            Ok(array) => array,
            Err(error) => return self.error(&self.store.join(name).join("zarr.json"), error),
        };
        let (spec, rows) = (array.spec(), array.physical_rows());
        self.shape(name, array.n_row(), &spec.layers);
        self.statistics_metadata(spec);
        let shards = 0..rows.div_ceil(spec.shard_rows);
        for layer in spec.layer_keys() {
            for start in shards.clone().step_by(BATCH) {
                let batch = start..(start + BATCH).min(shards.end);
                batch.into_par_iter().for_each(|shard| {
                    let rows = (rows - shard * spec.shard_rows).min(spec.shard_rows);
                    ShardCheck { check: self, spec, layer, shard, rows }.run();
                });
                if self.n_problem() >= MAX_PROBLEMS {
                    let what =
                        format!("more than {MAX_PROBLEMS} problems; the rest was not looked at");
                    return self.problem(&self.store.join(name), what);
                }
            }
        }
    }

    /// Stock readers believe the file; only a writer that works or was killed may be ahead of its commit.
    fn shape(&self, name: &str, rows: usize, layers: &[usize]) {
        let file = self.store.join(name).join("zarr.json");
        let parsed = files::read_small(&file).and_then(|json| ArraySpec::parse(&file, name, &json));
        match parsed {
            Ok(_) if self.is_being_written() => {}
            Ok((_, stated)) if stated != rows => {
                self.problem(&file, format!("its shape has {stated} rows but the commit {rows}"));
            }
            Ok((spec, _)) if spec.layers != layers => {
                self.problem(&file, "its layers are not those of the commit");
            }
            Ok(_) => {}
            Err(error) => self.error(&file, error),
        }
    }

    /// Whether a writer is at work, or was killed at it.
    fn is_being_written(&self) -> bool {
        let folder = self.store.join("staging");
        // A bucket has no folders.
        let sign = if objects::is_url(&folder) { folder.join("writer.lock") } else { folder };
        files::exists(&sign).unwrap_or_else(|error| {
            self.error(&sign, error);
            true
        })
    }

    fn statistics_metadata(&self, spec: &ArraySpec) {
        if !spec.statistics {
            return;
        }
        self.note(|report| report.files += 1);
        let file = spec.statistics_folder(self.store).join("zarr.json");
        let parsed = files::read_small(&file).and_then(|bytes| {
            serde_json::from_slice::<serde_json::Value>(&bytes)
                .map_err(|error| Error::damaged(&file, format!("it is no JSON: {error}")))
        });
        match parsed {
            Ok(value) if spec.states_statistics(&value) => {}
            Ok(_) => self.problem(&file, "it does not describe the statistics of this site"),
            Err(error) => self.error(&file, error),
        }
    }
}

fn parquet_frame(path: &Path) -> Result<()> {
    let file = Blob::open(path)?;
    let length = file.length(path)?;
    let mut ends = [[0; 4]; 2];
    file.read_at(path, &mut ends[0], 0)?;
    file.read_at(path, &mut ends[1], length.saturating_sub(4))?;
    if length < 12 || ends.iter().any(|end| end != PARQUET) {
        return Err(Error::damaged(path, "it is no whole Parquet file"));
    }
    Ok(())
}
