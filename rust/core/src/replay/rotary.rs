//! Rotary positions: pairs of features turned by an angle that grows with the position.

use rayon::prelude::*;

use crate::Result;
use crate::kernels::check::{elements, same_len};
use crate::kernels::norm::narrow;

/// Rows that one task rotates.
const ROW_BLOCK: usize = 64;

/// How queries and keys are rotated.
#[derive(Debug, Clone, Copy)]
pub struct Rotary<'a> {
    /// The angle of one step, for each pair of features; those beyond the pairs are left.
    pub inv_freq: &'a [f32],
    /// A factor on sine and cosine.
    pub scaling: f32,
    /// Whether a pair is two neighbours; otherwise one of each half.
    pub interleaved: bool,
}

impl Rotary<'_> {
    /// Rotates `x [row, head, d_head]` in place by `position [row]`.
    ///
    /// Angles are f32 products, as in every library; sines and cosines are of these.
    ///
    /// # Errors
    /// If lengths disagree, or a head has fewer features than two a pair.
    pub fn rotate(
        &self,
        x: &mut [f32],
        position: &[i64],
        n_head: usize,
        d_head: usize,
    ) -> Result<()> {
        same_len("x", x.len(), elements(&[position.len(), n_head, d_head])?)?;
        let pairs = self.inv_freq.len();
        same_len("inv_freq", pairs, pairs.min(d_head / 2))?;
        let width = n_head * d_head;
        if x.is_empty() {
            return Ok(());
        }
        x.par_chunks_mut(ROW_BLOCK * width).zip(position.par_chunks(ROW_BLOCK)).for_each(
            |(x, position)| {
                let (mut cos, mut sin) = (vec![0.0; pairs], vec![0.0; pairs]);
                for (row, &position) in x.chunks_exact_mut(width).zip(position) {
                    self.angles(position, &mut cos, &mut sin);
                    for head in row.chunks_exact_mut(d_head) {
                        self.turn(head, &cos, &sin);
                    }
                }
            },
        );
        Ok(())
    }

    fn angles(&self, position: i64, cos: &mut [f32], sin: &mut [f32]) {
        let position = narrow(position as f64);
        for ((cos, sin), &step) in cos.iter_mut().zip(sin).zip(self.inv_freq) {
            let (s, c) = f64::from(position * step).sin_cos();
            (*sin, *cos) = (narrow(s) * self.scaling, narrow(c) * self.scaling);
        }
    }

    fn turn(&self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        let pairs = cos.len();
        if self.interleaved {
            for ((pair, &cos), &sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                let (a, b) = (pair[0], pair[1]);
                (pair[0], pair[1]) = (a * cos - b * sin, b * cos + a * sin);
            }
        } else {
            let (first, second) = head[..2 * pairs].split_at_mut(pairs);
            for (((a, b), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}
