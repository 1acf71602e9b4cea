//! Fills arrays from many threads within a memory budget, and makes commits.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

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
    /// Background threads; at least one is used.
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
    /// Rows that readers shall see, per row space.
    pub rows: RowCounts,
    /// Examples in the tables.
    pub n_example: u64,
    /// Parquet parts, by table; durable already.
    pub tables: BTreeMap<String, Vec<String>>,
    /// True if the capture is done.
    pub complete: bool,
    /// True to publish the partly filled last shards, so that rows beyond the last full shard can be seen.
    pub publish_tail: bool,
    /// What the capture needs to go on.
    pub resume: Value,
}

/// Values that are not numbers, in one layer of one array, among the rows written by this writer.
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

/// Writes rows of a store's arrays. Shared between threads; dropping it without a commit loses only
/// what was not committed.
#[derive(Debug)]
pub struct Writer {
    arrays: Vec<ArraySpec>,
    commit: Commit,
}

fn unfinished() -> Error {
    Error::BadCommit { why: "the writer is being built".into() }
}

#[allow(missing_docs, clippy::missing_errors_doc, clippy::unused_self, reason = "skeleton")]
impl Writer {
    pub fn create(_path: &Path, _arrays: Vec<ArraySpec>, _options: WriterOptions) -> Result<Self> {
        Err(unfinished())
    }
    pub fn open(_path: &Path, _options: WriterOptions) -> Result<Self> {
        Err(unfinished())
    }
    pub fn arrays(&self) -> &[ArraySpec] {
        &self.arrays
    }
    pub fn last_commit(&self) -> Commit {
        self.commit.clone()
    }
    pub fn physical_rows(&self, space: RowSpace) -> usize {
        self.commit.physical_rows.get(space)
    }
    pub fn write(&self, _array: usize, _layer: usize, _src: Source<'_>, _row_len: usize, _runs: &[Run]) -> Result<()> {
        Err(unfinished())
    }
    pub fn sealed_rows(&self, _space: RowSpace) -> Result<usize> {
        Err(unfinished())
    }
    pub fn flush(&self) -> Result<()> {
        Err(unfinished())
    }
    pub fn commit(&self, _request: CommitRequest) -> Result<Commit> {
        Err(unfinished())
    }
    pub fn nonfinite(&self) -> Vec<NonFinite> {
        Vec::new()
    }
}
