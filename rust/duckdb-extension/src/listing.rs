//! A table function whose few rows are made at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::failure::Result;
use crate::ffi::vector::{OutputChunk, chunk_capacity};

/// One execution: the projected columns, and the rows that are left.
#[derive(Debug)]
pub(crate) struct Listing<R> {
    projection: Vec<usize>,
    rows: Vec<R>,
    next: AtomicUsize,
}

impl<R> Listing<R> {
    /// The listing of `rows` that shows the columns `projection`.
    pub(crate) fn new(projection: &[usize], rows: Vec<R>) -> Self {
        Self { projection: projection.to_vec(), rows, next: AtomicUsize::new(0) }
    }

    /// Fills one chunk; `write` writes a row into (chunk, column, position, rows in the chunk, row).
    pub(crate) fn fill(
        &self,
        out: &mut OutputChunk<'_>,
        write: impl Fn(&mut OutputChunk<'_>, usize, usize, &[R]) -> Result<()>,
    ) -> Result<usize> {
        let start = self.next.fetch_add(chunk_capacity(), Ordering::Relaxed).min(self.rows.len());
        let end = (start + chunk_capacity()).min(self.rows.len());
        let rows = &self.rows[start..end];
        if !rows.is_empty() {
            for (index, &column) in self.projection.iter().enumerate() {
                write(out, index, column, rows)?;
            }
        }
        Ok(rows.len())
    }
}
