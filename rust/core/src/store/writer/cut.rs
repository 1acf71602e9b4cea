//! A call's rows, cut at chunk borders into jobs.

use super::Run;
use crate::store::spec::ArraySpec;

/// Rows of one chunk, in row order, to be copied from one source.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The chunk, counted over the whole array.
    pub(super) chunk: usize,
    /// Neighbouring rows; `dst_row` counts over the whole array.
    pub(super) runs: Vec<Run>,
}

impl Piece {
    pub(super) fn n_row(&self) -> usize {
        self.runs.iter().map(|run| run.n).sum()
    }
}

/// Cuts `runs` into pieces of one chunk and at most `max_rows` rows; rows below `base` are dropped.
pub(super) fn cut(spec: &ArraySpec, base: usize, max_rows: usize, runs: &[Run]) -> Vec<Piece> {
    let mut parts = Vec::with_capacity(runs.len());
    for run in runs {
        let skip = base.saturating_sub(run.dst_row).min(run.n);
        split(
            spec,
            Run { src_row: run.src_row + skip, dst_row: run.dst_row + skip, n: run.n - skip },
            &mut parts,
        );
    }
    parts.sort_by_key(|part| part.dst_row);
    let mut pieces: Vec<Piece> = Vec::new();
    for mut part in parts {
        while part.n > 0 {
            let chunk = part.dst_row / spec.chunk_rows;
            let fits = pieces.last_mut().filter(|p| p.chunk == chunk && p.n_row() < max_rows);
            let Some(piece) = fits else {
                pieces.push(Piece { chunk, runs: Vec::new() });
                continue;
            };
            let n = part.n.min(max_rows - piece.n_row());
            piece.runs.push(Run { n, ..part });
            part = Run { src_row: part.src_row + n, dst_row: part.dst_row + n, n: part.n - n };
        }
    }
    pieces
}

/// Splits a run at chunk borders.
fn split(spec: &ArraySpec, mut run: Run, parts: &mut Vec<Run>) {
    while run.n > 0 {
        let n = run.n.min(spec.chunk_rows - run.dst_row % spec.chunk_rows);
        parts.push(Run { n, ..run });
        run = Run { src_row: run.src_row + n, dst_row: run.dst_row + n, n: run.n - n };
    }
}
