//! Which stored rows go where: the rows of one read, in the order in which they are stored, and the output
//! that they fill.

use std::marker::PhantomData;

use super::array::Rows;

/// Stored rows that are neighbours in a chunk and in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// First row, counted over the whole array.
    pub(crate) row: usize,
    /// First row of the output.
    pub(crate) out: usize,
    pub(crate) n: usize,
}

/// Cuts the rows of a read into runs, in the order of the stored rows; every output row is in one of them.
pub(crate) fn runs(rows: &Rows<'_>, n_row: usize, chunk_rows: usize) -> Vec<Run> {
    match rows {
        Rows::All => range_runs(0, n_row, chunk_rows),
        Rows::Range(range) => range_runs(range.start, range.end, chunk_rows),
        Rows::Index(index) if index.is_sorted() => {
            index_runs(index.iter().copied().zip(0..), chunk_rows)
        }
        Rows::Index(index) => {
            let mut places: Vec<(u64, usize)> = index.iter().copied().zip(0..).collect();
            places.sort_unstable();
            index_runs(places.into_iter(), chunk_rows)
        }
    }
}

fn range_runs(start: usize, end: usize, chunk_rows: usize) -> Vec<Run> {
    let mut runs = Vec::with_capacity((end - start) / chunk_rows + 2);
    let mut row = start;
    while row < end {
        let stop = (row / chunk_rows + 1).saturating_mul(chunk_rows).min(end);
        runs.push(Run { row, out: row - start, n: stop - row });
        row = stop;
    }
    runs
}

fn index_runs(places: impl Iterator<Item = (u64, usize)>, chunk_rows: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::with_capacity(places.size_hint().0);
    for (row, out) in places {
        // Checked to be below the number of rows, so that it fits.
        let row = usize::try_from(row).unwrap_or(usize::MAX);
        match runs.last_mut() {
            Some(run)
                if run.row + run.n == row
                    && run.out + run.n == out
                    && !row.is_multiple_of(chunk_rows) =>
            {
                run.n += 1;
            }
            _ => runs.push(Run { row, out, n: 1 }),
        }
    }
    runs
}

/// Distinct rows in runs that are sorted by row.
pub(crate) fn distinct(runs: &[Run]) -> usize {
    let (mut end, mut rows) = (0, 0);
    for run in runs {
        let stop = run.row + run.n;
        rows += stop.saturating_sub(end.max(run.row));
        end = end.max(stop);
    }
    rows
}

/// The output `[row, layer, cell]` of one read, filled by several threads at once.
#[derive(Debug)]
pub(crate) struct Cells<'o, T> {
    start: *mut T,
    n_row: usize,
    n_layer: usize,
    cell: usize,
    out: PhantomData<&'o mut [T]>,
}

#[allow(unsafe_code, reason = "threads fill parts of one array that no slice can be split into")]
mod shared {
    use super::{Cells, PhantomData};

    // SAFETY: a cell is lent to one thread only; see `lend`.
    unsafe impl<T: Send> Sync for Cells<'_, T> {}

    impl<'o, T> Cells<'o, T> {
        /// Takes an output of `n_row × n_layer × cell` values.
        pub(crate) fn new(out: &'o mut [T], n_layer: usize, cell: usize) -> Self {
            let n_row = out.len() / (n_layer * cell).max(1);
            Self { start: out.as_mut_ptr(), n_row, n_layer, cell, out: PhantomData }
        }

        /// The cell of one layer in an output row, and those of the next `n - 1` rows if there is but one layer.
        ///
        /// Only for the copies of one read, whose runs or blocks hold every output row once and ask once for each
        /// layer of it: no part of a result is asked for again.
        #[allow(clippy::mut_from_ref, reason = "no two of them overlap")]
        pub(crate) fn lend(&self, row: usize, n: usize, layer: usize) -> &mut [T] {
            assert!(layer < self.n_layer && n <= self.n_row && row <= self.n_row - n);
            assert!(n == 1 || self.n_layer == 1, "rows of several layers do not lie together");
            // SAFETY: the place lies in the output, as was just checked; nobody else has it, as is said above.
            unsafe {
                let first = self.start.add((row * self.n_layer + layer) * self.cell);
                std::slice::from_raw_parts_mut(first, n * self.cell)
            }
        }
    }
}

impl<T> Cells<'_, T> {
    /// Whether the cells of neighbouring rows lie together.
    pub(crate) fn is_one_layer(&self) -> bool {
        self.n_layer == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_chunks() {
        let cut = runs(&Rows::Range(3..9), 20, 4);
        let expected = [(3, 0, 1), (4, 1, 4), (8, 5, 1)].map(|(row, out, n)| Run { row, out, n });
        assert_eq!(cut, expected);
        assert_eq!(runs(&Rows::All, 0, 4), []);
    }

    #[test]
    fn any_order_is_read_in_stored_order() {
        let cut = runs(&Rows::Index(&[5, 6, 2, 7, 8, 6]), 20, 4);
        let expected = [(2, 2, 1), (5, 0, 2), (6, 5, 1), (7, 3, 1), (8, 4, 1)]
            .map(|(row, out, n)| Run { row, out, n });
        assert_eq!(cut, expected);
        assert_eq!(distinct(&cut), 5);
        assert_eq!(runs(&Rows::Index(&[1, 2, 3, 4]), 20, 4).len(), 2);
    }
}
