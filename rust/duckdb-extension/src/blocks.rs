//! Work on blocks of selected rows, for functions whose kernels use all processors themselves: one
//! `DuckDB` thread computes a block, hands out its rows of SQL, computes the next.

use std::ops::Range;

use crate::failure::Result;
use crate::ffi::vector::chunk_capacity;

/// What a thread keeps: the block at hand and how much of it was handed out.
#[derive(Debug)]
pub(crate) struct Cursor<B> {
    block: Option<B>,
    n_done: usize,
    next: usize,
}

impl<B> Default for Cursor<B> {
    fn default() -> Self {
        Self { block: None, n_done: 0, next: 0 }
    }
}

impl<B> Cursor<B> {
    /// The next rows of SQL: a block and the range of its rows, at most a chunk; `None` at the end.
    ///
    /// `n_row` selected rows are cut into blocks of `block_rows`; `compute` makes a block from a
    /// range of them; `len` is how many rows of SQL a block has.
    pub(crate) fn next(
        &mut self,
        n_row: usize,
        block_rows: usize,
        compute: impl Fn(Range<usize>) -> Result<B>,
        len: impl Fn(&B) -> usize,
    ) -> Result<Option<(&B, Range<usize>)>> {
        loop {
            let n_left = self.block.as_ref().map_or(0, |block| len(block) - self.n_done);
            if n_left > 0 {
                let start = self.n_done;
                self.n_done += n_left.min(chunk_capacity());
                return Ok(self.block.as_ref().map(|block| (block, start..self.n_done)));
            }
            if self.next >= n_row {
                return Ok(None);
            }
            let rows = self.next..n_row.min(self.next + block_rows.max(1));
            self.next = rows.end;
            self.block = None;
            self.block = Some(compute(rows)?);
            self.n_done = 0;
        }
    }
}
