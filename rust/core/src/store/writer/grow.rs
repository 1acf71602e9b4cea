//! Adding arrays, or layers of arrays, to rows that are there.
//!
//! ```text
//! grow ─▶ record with `growth`, no rows ─▶ write, commit as ever ─▶ … ─▶ tails too, all rows: `growth` becomes `arrays`
//! ```
//!
//! A shard holds one layer, so that none is rewritten. While the growth lasts, the writer's rows are those of the
//! new arrays alone; readers see the others, all rows of them.

use std::path::Path;

use serde_json::Value;

use super::{
    CommitRequest, Writer, WriterOptions,
    create::{
        Existing, Limits, array_metadata, check_arrays, commit_arrays, stored_arrays,
        write_metadata,
    },
    orphans,
};
use crate::{
    error::{Error, Result},
    site::RowSpace,
    store::{
        commit::{Commit, CommitArray, Growth, RowCounts},
        dtype::Dtype,
        files::{self, Finished},
        open::array_json,
        spec::ArraySpec,
    },
};

impl Writer {
    /// Begins to add arrays, or further layers of arrays, to the rows of a store, by a commit that says so.
    ///
    /// `arrays` lists for each array the new layers alone. The new arrays are seen once a commit covers all rows of
    /// the store; until then `open` goes on with them, and nothing else can be written. `resume` is what the
    /// record keeps for whoever goes on.
    ///
    /// # Errors
    /// `CannotGrow` while rows or other arrays are being added, or for an array that is there or differs in more
    /// than its layers from the one that is; and as `open`.
    pub fn grow(
        path: &Path,
        arrays: Vec<ArraySpec>,
        resume: Value,
        options: WriterOptions,
    ) -> Result<Self> {
        let found = Existing::look(path)?;
        if let Some(why) = obstacle(&found, &arrays) {
            return Err(Error::CannotGrow { path: path.to_owned(), why });
        }
        check_arrays(&arrays)?;
        Limits::new(&arrays, options)?;
        let is_new = |spec: &&ArraySpec| !found.last.arrays.contains_key(&spec.path);
        let new: Vec<ArraySpec> = arrays.iter().filter(is_new).cloned().collect();
        write_metadata(path, &new)?;
        let growth = Growth {
            rows: RowCounts::default(),
            physical_rows: RowCounts::default(),
            n_example: 0,
            arrays: commit_arrays(&arrays),
        };
        let begun = Commit {
            commit: found.next,
            complete: false,
            growth: Some(growth),
            resume,
            ..found.last
        };
        begun.publish(path)?;
        Self::start(found.folders, arrays, begun, found.next + 1, options, found.lock)
    }

    /// Gives up what is being added: the store is complete again, without it. The writer takes nothing more.
    ///
    /// # Errors
    /// `BadCommit` if nothing is being added, and `Io`.
    pub fn abandon(&self, resume: Value) -> Result<Commit> {
        let _pause = self.shared.queue.pause()?;
        let last = self.last_commit();
        if last.growth.is_none() {
            return Err(Error::BadCommit { why: "no array is being added".into() });
        }
        let next = self.lock().next;
        let commit = Commit { commit: next, complete: true, growth: None, resume, ..last };
        self.shared.queue.stop("what it was adding was given up");
        commit.publish(&self.path)?;
        orphans::remove(&self.path, &commit, &stored_arrays(&self.path, &commit)?, &[])?;
        files::remove_tree(&self.staging)?;
        Ok(commit)
    }

    /// Whether a commit ends what this writer was opened to do.
    pub(super) fn ends(&self, request: &CommitRequest) -> bool {
        let last = self.last_commit();
        request.complete || (last.growth.is_some() && self.ends_growth(request, &last))
    }

    /// Refuses to end before all rows are there, or to go beyond them.
    pub(super) fn check_growth(&self, request: &CommitRequest) -> Result<()> {
        let last = self.last_commit();
        if last.growth.is_none() {
            return Ok(());
        }
        for space in RowSpace::ALL.into_iter().filter(|space| self.has_lanes(*space)) {
            let (asked, all) = (request.rows.get(space), last.rows.get(space));
            if asked > all || (request.complete && asked < all) {
                let name = space.as_str();
                let why = format!("arrays are added to {all} {name} rows, not to {asked}");
                return Err(Error::BadCommit { why });
            }
        }
        Ok(())
    }

    /// The `zarr.json` files of arrays that have all rows now. Before that, stock readers see nothing of them.
    pub(super) fn grown_metadata(
        &self,
        request: &CommitRequest,
        before: &Commit,
    ) -> Result<Vec<Finished>> {
        let mut finished = Vec::new();
        if self.ends_growth(request, before) {
            for spec in &self.arrays {
                let whole = with_stored_layers(spec, before);
                let n_row = before.rows.get(spec.row_space);
                finished.extend(array_metadata(&self.path, &whole, n_row, &[])?);
            }
        }
        Ok(finished)
    }

    /// The record before with what was added since.
    pub(super) fn grown(
        &self,
        request: &CommitRequest,
        before: Commit,
        physical_rows: RowCounts,
    ) -> Commit {
        if !self.ends_growth(request, &before) {
            let growth = before.growth.map(|growth| Growth {
                rows: request.rows,
                physical_rows,
                n_example: request.n_example,
                ..growth
            });
            return Commit { growth, ..before };
        }
        let mut arrays = before.arrays.clone();
        for spec in &self.arrays {
            let whole = with_stored_layers(spec, &before);
            arrays.extend(commit_arrays(&[whole]));
        }
        Commit { arrays, growth: None, ..before }
    }

    /// Whether a commit makes the new arrays part of the store: not one on the way, though full shards may hold all
    /// rows by then, because its writer goes on.
    fn ends_growth(&self, request: &CommitRequest, before: &Commit) -> bool {
        request.publish_tail
            && !request.interrupted
            && RowSpace::ALL
                .into_iter()
                .filter(|space| self.has_lanes(*space))
                .all(|space| request.rows.get(space) == before.rows.get(space))
    }
}

/// The arrays that a commit says are being added.
pub(super) fn growing_arrays(path: &Path, last: &Commit) -> Result<Vec<ArraySpec>> {
    let Some(growth) = &last.growth else { return Ok(Vec::new()) };
    let mut specs = Vec::with_capacity(growth.arrays.len());
    for (name, CommitArray { layers }) in &growth.arrays {
        let (file, json) = array_json(path, name, last)?;
        let (mut spec, _) = ArraySpec::parse(&file, name, &json)?;
        spec.layers = layers.clone().unwrap_or_default();
        specs.push(spec);
    }
    check_arrays(&specs)?;
    Ok(specs)
}

/// An array with the layers that the commit has of it besides its own.
fn with_stored_layers(spec: &ArraySpec, commit: &Commit) -> ArraySpec {
    let stored = commit.arrays.get(&spec.path).and_then(|array| array.layers.clone());
    let mut layers = stored.unwrap_or_default();
    layers.extend(&spec.layers);
    layers.sort_unstable();
    layers.dedup();
    ArraySpec { layers, ..spec.clone() }
}

/// Why these arrays cannot be added, if they cannot.
fn obstacle(found: &Existing, arrays: &[ArraySpec]) -> Option<String> {
    if let Some(spec) = arrays.iter().find(|spec| spec.dtype == Dtype::I8) {
        return Some(format!("`{}` would be int8, which a new store alone can be", spec.path));
    }
    if found.last.growth.is_some() {
        return Some("other arrays are being added; go on with those first".into());
    }
    if found.last.rows != found.last.physical_rows {
        return Some("a capture of further rows was stopped; go on with that first".into());
    }
    if arrays.is_empty() {
        return Some("there is nothing to add".into());
    }
    arrays.iter().find_map(|new| found.stored.iter().find_map(|there| clash(there, new)))
}

/// What keeps an array from being added beside one that is there.
fn clash(there: &ArraySpec, new: &ArraySpec) -> Option<String> {
    if there.path != new.path {
        let differ = there.shard_rows != new.shard_rows;
        return differ.then(|| {
            format!(
                "shards of `{}` would have {} rows, those of `{}` have {}",
                new.path, new.shard_rows, there.path, there.shard_rows
            )
        });
    }
    if let Some(layer) = new.layers.iter().find(|layer| there.layers.contains(layer)) {
        return Some(format!("layer {layer} of `{}` is there already", new.path));
    }
    if new.n_layer.is_none() {
        return Some(format!("`{}` is there already", new.path));
    }
    let same = ArraySpec { layers: there.layers.clone(), ..new.clone() };
    (same != *there).then(|| {
        let differ = [
            ("dtype", new.dtype.as_str().to_owned(), there.dtype.as_str().to_owned()),
            ("codec", new.codec.as_str().to_owned(), there.codec.as_str().to_owned()),
            ("rows per chunk", new.chunk_rows.to_string(), there.chunk_rows.to_string()),
            ("shape of a row", format!("{:?}", new.inner), format!("{:?}", there.inner)),
            ("number of layers", format!("{:?}", new.n_layer), format!("{:?}", there.n_layer)),
        ];
        let differ = differ.iter().find(|(_, new, there)| new != there);
        match differ {
            Some((what, new_one, old)) => {
                format!("the {what} of `{}` is {old}, not {new_one}: ask for that", new.path)
            }
            None => format!("`{}` is there with other axes", new.path),
        }
    })
}
