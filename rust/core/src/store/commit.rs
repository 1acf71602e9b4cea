//! Commit records: the only truth about how far a capture got.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    files::{self, Finished, read_small},
    open::FORMAT,
    spec::render,
};
use crate::{
    error::{Error, Result},
    site::RowSpace,
};

/// A number of rows per row space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    /// (example, token) pairs.
    pub token: usize,
    /// Distinct examples.
    pub example: usize,
}

impl RowCounts {
    /// The count of one space.
    pub fn get(&self, space: RowSpace) -> usize {
        match space {
            RowSpace::Token => self.token,
            RowSpace::Example => self.example,
        }
    }

    pub(crate) fn set(&mut self, space: RowSpace, n: usize) {
        match space {
            RowSpace::Token => self.token = n,
            RowSpace::Example => self.example = n,
        }
    }
}

/// What a commit says about one array.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitArray {
    /// The captured layers; absent where the array has no layer axis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
}

/// Arrays, or layers of arrays, on their way to rows that are there already. Readers see nothing of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// Rows that are done, from 0 on.
    pub rows: RowCounts,
    /// Rows in published shards; at least `rows`.
    pub physical_rows: RowCounts,
    /// Examples whose rows are done.
    pub n_example: u64,
    /// What is added, by path below the store.
    pub arrays: BTreeMap<String, CommitArray>,
}

/// One record of `commits/`: self-contained, the highest valid number is the store's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// Format of the store.
    pub format: u64,
    /// Number of the commit, from 0 (the empty store).
    pub commit: u64,
    /// True once the capture has nothing left to do.
    pub complete: bool,
    /// Rows that readers see.
    pub rows: RowCounts,
    /// Rows in published shards; at least `rows`.
    pub physical_rows: RowCounts,
    /// Examples in the tables.
    pub n_example: u64,
    /// The arrays, by path below the store.
    pub arrays: BTreeMap<String, CommitArray>,
    /// What is being added to the rows above, until it has all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth: Option<Growth>,
    /// Parquet parts, by table.
    pub tables: BTreeMap<String, Vec<String>>,
    /// What the capture needs to go on; opaque here.
    pub resume: Value,
}

impl Commit {
    /// Rows that the writer at this commit has done: of what is being added, where something is.
    pub(crate) fn done_rows(&self) -> RowCounts {
        self.growth.as_ref().map_or(self.rows, |growth| growth.rows)
    }

    /// Rows in published shards of the arrays that the writer at this commit writes.
    pub(crate) fn published_rows(&self) -> RowCounts {
        self.growth.as_ref().map_or(self.physical_rows, |growth| growth.physical_rows)
    }

    /// Sets `published_rows`.
    pub(crate) fn set_published_rows(&mut self, rows: RowCounts) {
        match &mut self.growth {
            Some(growth) => growth.physical_rows = rows,
            None => self.physical_rows = rows,
        }
    }

    /// Reads and checks the record of commit `number`.
    pub(crate) fn read(file: &Path, number: u64) -> Result<Self> {
        let commit = Self::parse(file)?;
        if commit.commit != number {
            let what = format!("it says commit {}, expected {number}", commit.commit);
            return Err(Error::damaged(file, what));
        }
        Ok(commit)
    }

    /// Reads and checks one record, whatever its number.
    fn parse(file: &Path) -> Result<Self> {
        let bytes = read_small(file)?;
        let bad = |what: String| Error::damaged(file, what);
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| bad(format!("no commit record: {error}")))?;
        let format = value.get("format").and_then(Value::as_u64).unwrap_or(0);
        if format > FORMAT {
            return Err(Error::NewerFormat {
                path: file.to_owned(),
                found: format,
                supported: FORMAT,
            });
        }
        let commit: Self = serde_json::from_value(value)
            .map_err(|error| bad(format!("no commit record: {error}")))?;
        if commit.format != FORMAT {
            return Err(bad(format!("it says format {}, expected {FORMAT}", commit.format)));
        }
        for space in RowSpace::ALL {
            if commit.physical_rows.get(space) < commit.rows.get(space) {
                return Err(bad(format!("it shows more {} rows than it stores", space.as_str())));
            }
            if commit.published_rows().get(space) > commit.physical_rows.get(space) {
                return Err(bad(format!("it adds to more {} rows than it has", space.as_str())));
            }
        }
        Ok(commit)
    }

    /// Writes the record under its number; never replaces one.
    pub(crate) fn publish(&self, store: &Path) -> Result<()> {
        let (file, record) = (file(store, self.commit), render(self));
        match files::create_new_atomic(&file, &record) {
            // A request that was made twice, because its first answer was lost, finds what it made itself.
            Err(error) if error.is_already_there() && read_small(&file)? != record => {
                let why = format!(
                    "another writer made commit {} of {} meanwhile; resume from there",
                    self.commit,
                    store.display()
                );
                return Err(Error::BadCommit { why });
            }
            Err(error) if !error.is_already_there() => return Err(error),
            _ => {}
        }
        // It is of an older commit now, so that readers leave it alone if it cannot be removed.
        let _ = files::remove(&interrupted_file(store));
        Ok(())
    }

    /// Writes the record of an interrupted capture, replacing an older one.
    pub(crate) fn publish_interrupted(&self, store: &Path) -> Result<()> {
        let file = interrupted_file(store);
        files::publish(&Vec::from_iter(Finished::beside(file, &render(self))?), store)
    }
}

/// The state of a store.
#[derive(Debug)]
pub(crate) struct Latest {
    /// The valid record with the highest number.
    pub(crate) numbered: Commit,
    /// What an interrupted capture saved beyond that.
    pub(crate) interrupted: Option<Commit>,
    /// Numbers above it whose records are damaged.
    pub(crate) damaged: Vec<u64>,
}

/// The file of commit `number`.
pub(crate) fn file(store: &Path, number: u64) -> PathBuf {
    store.join("commits").join(format!("{number:08}.json"))
}

/// The file of what an interrupted capture saved behind the last numbered commit.
pub(crate) fn interrupted_file(store: &Path) -> PathBuf {
    store.join("commits").join("interrupted.json")
}

/// Every commit file, ascending by number; other names are ignored.
pub(crate) fn numbers(store: &Path) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for path in files::children(&store.join("commits"))? {
        let name = path.file_name().and_then(|name| name.to_str());
        let stem = name.and_then(|name| name.strip_suffix(".json"));
        // Only names that we would write ourselves: eight digits or more, so that "+1.json" is not one.
        let digits = stem.filter(|s| s.len() >= 8 && s.bytes().all(|b| b.is_ascii_digit()));
        numbers.extend(digits.and_then(|s| s.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The newest valid records.
pub(crate) fn latest(store: &Path) -> Result<Latest> {
    let mut damaged = Vec::new();
    let mut first = None;
    for number in numbers(store)?.into_iter().rev() {
        match Commit::read(&file(store, number), number) {
            Ok(numbered) => {
                // One that is damaged saved nothing; `verify` reports it.
                let interrupted = match interrupted(store, number) {
                    Err(Error::Damaged { .. }) => None,
                    found => found?,
                };
                return Ok(Latest { numbered, interrupted, damaged });
            }
            Err(error @ Error::Damaged { .. }) => {
                damaged.push(number);
                first.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(first.unwrap_or_else(|| Error::Missing {
        path: store.join("commits"),
        why: "the store has no commit record, so nothing in it is complete; capture it again"
            .into(),
    }))
}

/// What an interrupted capture saved behind commit `number`. A crash can leave the record of an older one.
pub(crate) fn interrupted(store: &Path, number: u64) -> Result<Option<Commit>> {
    let file = interrupted_file(store);
    if !files::exists(&file)? {
        return Ok(None);
    }
    Commit::parse(&file).map(|commit| Some(commit).filter(|commit| commit.commit == number))
}
