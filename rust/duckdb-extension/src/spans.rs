//! Selected rows, cut where the chunks of a site are cut, so that each chunk is one piece of work.

use std::ops::Range;

use residuum_core::Rows;

/// The selected rows in ascending order, in runs that each lie within one chunk.
#[derive(Clone, Debug)]
pub(crate) struct Spans {
    rows: Option<Vec<u64>>,
    /// For selected rows: where in `rows` each run begins, and the end.
    starts: Vec<usize>,
    n_row: usize,
    chunk_rows: usize,
}

/// One run: `n_row` of the selected rows, all in the chunk that begins with row `chunk_first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Index of the first row among the selected rows.
    pub(crate) first: usize,
    /// How many rows.
    pub(crate) n_row: usize,
    /// First row of the chunk.
    pub(crate) chunk_first: usize,
    /// Rows of the chunk; the last one can be short.
    pub(crate) chunk_len: usize,
}

impl Spans {
    /// Cuts `rows` (ascending; all of `n_row` where `None`) into runs of one chunk.
    pub(crate) fn new(rows: Option<Vec<u64>>, n_row: usize, chunk_rows: usize) -> Self {
        let mut starts = Vec::new();
        if let Some(rows) = &rows {
            let chunk_of = |index: usize| rows[index] / chunk_rows as u64;
            starts.extend((0..rows.len()).filter(|&i| i == 0 || chunk_of(i) != chunk_of(i - 1)));
            starts.push(rows.len());
        }
        Self { rows, starts, n_row, chunk_rows }
    }

    /// Number of runs.
    pub(crate) fn len(&self) -> usize {
        match self.rows {
            Some(_) => self.starts.len() - 1,
            None => self.n_row.div_ceil(self.chunk_rows),
        }
    }

    /// Run `index`, which is below [`Spans::len`].
    pub(crate) fn get(&self, index: usize) -> Span {
        let (first, n_row, chunk) = if self.rows.is_some() {
            let (first, end) = (self.starts[index], self.starts[index + 1]);
            (first, end - first, self.row(first) / self.chunk_rows)
        } else {
            let first = index * self.chunk_rows;
            (first, self.chunk_rows.min(self.n_row - first), index)
        };
        let chunk_first = chunk * self.chunk_rows;
        let chunk_len = self.chunk_rows.min(self.n_row - chunk_first);
        Span { first, n_row, chunk_first, chunk_len }
    }

    /// The row number of selected row `index`.
    pub(crate) fn row(&self, index: usize) -> usize {
        match &self.rows {
            // Checked against the number of rows, a `usize`, when the argument was read.
            Some(rows) => usize::try_from(rows[index]).unwrap_or(usize::MAX),
            None => index,
        }
    }

    /// Number of selected rows.
    pub(crate) fn n_row(&self) -> usize {
        self.rows.as_ref().map_or(self.n_row, Vec::len)
    }

    /// Selected rows `range`, to be read.
    pub(crate) fn rows(&self, range: Range<usize>) -> Rows<'_> {
        match &self.rows {
            Some(rows) => Rows::Index(&rows[range]),
            None => Rows::Range(range),
        }
    }

    /// Whether all rows are selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.rows.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_span() {
        let spans = Spans::new(None, 10, 4);
        let lengths: Vec<_> = (0..spans.len()).map(|i| spans.get(i).n_row).collect();
        assert_eq!(lengths, [4, 4, 2]);
        assert_eq!(spans.get(2), Span { first: 8, n_row: 2, chunk_first: 8, chunk_len: 2 });
    }

    #[test]
    fn selected_rows_are_grouped_by_chunk() {
        let spans = Spans::new(Some(vec![1, 3, 4, 9]), 10, 4);
        let found: Vec<_> = (0..spans.len()).map(|i| spans.get(i)).collect();
        let chunk =
            |first, n_row, chunk_first, chunk_len| Span { first, n_row, chunk_first, chunk_len };
        assert_eq!(found, [chunk(0, 2, 0, 4), chunk(2, 1, 4, 4), chunk(3, 1, 8, 2)]);
        assert_eq!(spans.row(3), 9);
    }

    #[test]
    fn nothing_has_no_spans() {
        assert_eq!(Spans::new(None, 0, 4).len(), 0);
        assert_eq!(Spans::new(Some(Vec::new()), 10, 4).len(), 0);
    }
}
