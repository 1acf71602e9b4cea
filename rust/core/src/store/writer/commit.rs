//! Making a commit: tails, folders, shapes, and at last the record.

use super::{CommitRequest, Job, Writer, create::array_metadata};
use crate::{
    error::{Error, Result},
    site::RowSpace,
    store::{
        commit::{Commit, RowCounts},
        files::{self, Finished},
    },
};

impl Writer {
    /// Makes everything up to the requested rows durable and visible, and returns the record.
    ///
    /// Waits for the queue first; other threads' `write` waits until the commit is made. After a failed
    /// commit the writer takes nothing more; the store stays at the commit before.
    ///
    /// # Errors
    /// `BadCommit` if rows would disappear or are not published, `RowMissing` if `publish_tail` covers a row
    /// that never came, and any failure in the background.
    pub fn commit(&self, request: CommitRequest) -> Result<Commit> {
        let pause = self.shared.queue.pause()?;
        self.check_request(&request)?;
        let ends = self.ends(&request);
        let done = self.make_commit(&request, &pause);
        match &done {
            Err(error) => {
                self.shared.queue.stop(&format!("a commit failed: {error}"));
            }
            Ok(_) if ends => {
                self.shared.queue.stop("all is written; open the store again to add to it");
            }
            Ok(_) => {}
        }
        done
    }

    /// Refuses what can be refused before a file is touched; the writer goes on after that.
    fn check_request(&self, request: &CommitRequest) -> Result<()> {
        let bad = |why: String| Err(Error::BadCommit { why });
        for space in RowSpace::ALL {
            let (asked, before) =
                (request.rows.get(space), self.lock().last.done_rows().get(space));
            if asked < before {
                return bad(format!(
                    "{before} {} rows are committed already, not {asked}",
                    space.as_str()
                ));
            }
            let published = self.sealed(space).max(self.lock().last.published_rows().get(space));
            if !shows_tail(request, space) && self.has_lanes(space) && asked > published {
                return bad(format!(
                    "{asked} {} rows cannot be shown, only {published} lie in full shards",
                    space.as_str()
                ));
            }
        }
        self.check_growth(request)
    }

    fn make_commit(
        &self,
        request: &CommitRequest,
        pause: &super::queue::Pause<'_, Job>,
    ) -> Result<Commit> {
        self.lock.check()?;
        let lanes = self.shared.lanes.iter().enumerate();
        let tails = lanes.filter(|(_, it)| shows_tail(request, it.spec.row_space));
        let last = self.ends(request);
        pause.run_all(tails.map(|(lane, it)| Job::Tail {
            lane,
            visible: request.rows.get(it.spec.row_space),
            last,
        }))?;
        let before = self.lock().last.clone();
        let mut finished: Vec<Finished> =
            self.shared.lanes.iter().flat_map(super::Lane::take_finished).collect();
        finished.extend(self.metadata(request, &before)?);
        files::publish(&finished, &self.path)?;
        // Apart: the guard would live as long as the record's making, which locks again.
        let number = if request.interrupted { before.commit } else { self.lock().next };
        let commit = Commit {
            commit: number,
            complete: request.complete,
            resume: request.resume.clone(),
            ..self.advanced(request, before)
        };
        if request.interrupted {
            commit.publish_interrupted(&self.path)?;
            return Ok(commit);
        }
        commit.publish(&self.path)?;
        let mut state = self.lock();
        state.next += 1;
        state.last = commit.clone();
        drop(state);
        if request.complete {
            files::remove_tree(&self.staging)?;
        }
        Ok(commit)
    }

    /// The `zarr.json` files that the commit changes.
    fn metadata(&self, request: &CommitRequest, before: &Commit) -> Result<Vec<Finished>> {
        if before.growth.is_some() {
            return self.grown_metadata(request, before);
        }
        let mut finished = Vec::new();
        for (spec, first) in self.arrays.iter().zip(&self.first_lane) {
            let lanes = &self.shared.lanes[*first..first + spec.layer_keys().len()];
            let errors: Vec<_> = lanes.iter().filter_map(super::Lane::error).collect();
            let n_row = request.rows.get(spec.row_space);
            finished.extend(array_metadata(&self.path, spec, n_row, &errors)?);
        }
        Ok(finished)
    }

    /// The record before with the request's rows.
    fn advanced(&self, request: &CommitRequest, before: Commit) -> Commit {
        let physical_rows = self.physical_rows(request, &before);
        if before.growth.is_some() {
            return self.grown(request, before, physical_rows);
        }
        Commit {
            rows: request.rows,
            physical_rows,
            n_example: request.n_example,
            tables: request.tables.clone(),
            ..before
        }
    }

    /// What the record promises of the shards follows from the rows alone: more may be published, by how far the
    /// background threads got.
    fn physical_rows(&self, request: &CommitRequest, before: &Commit) -> RowCounts {
        let mut physical = RowCounts::default();
        for space in RowSpace::ALL {
            let asked = request.rows.get(space);
            let full =
                !shows_tail(request, space) && self.has_lanes(space) && asked <= self.sealed(space);
            let rows = if full { asked.next_multiple_of(self.shard_rows()) } else { asked };
            physical.set(space, rows.max(before.published_rows().get(space)));
        }
        physical
    }

    fn shard_rows(&self) -> usize {
        self.arrays.first().map_or(1, |spec| spec.shard_rows)
    }

    pub(super) fn has_lanes(&self, space: RowSpace) -> bool {
        self.shared.lanes.iter().any(|lane| lane.spec.row_space == space)
    }
}

/// Whether a commit publishes shards that are not full. Rows of examples are few: a shard of them can be a whole
/// capture, and is cheap to write again.
fn shows_tail(request: &CommitRequest, space: RowSpace) -> bool {
    request.publish_tail || request.interrupted || space == RowSpace::Example
}
