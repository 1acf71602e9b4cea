//! Attention of packed query rows over two sorts of keys.
//!
//! One are the cached keys of an example, which all its runs share, the others those that a run
//! computed itself; such a key hides the cached one of its token. Rows of one example are taken in
//! blocks, so that scores with the cached keys are matrix products.

use rayon::prelude::*;

use crate::kernels::check::{elements, rows_of, same_len};
use crate::kernels::matmul::{MatMut, MatRef, product};
use crate::vector::{self, LANE, exp, widest};
use crate::{Error, Result};

/// Query rows that one task takes.
const ROW_BLOCK: usize = 64;
/// In [`Seen::own`]: the cached key counts.
pub const CACHED: u32 = u32::MAX;

/// Lengths of the heads.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Of queries.
    pub n_head: usize,
    /// Of keys and values; each is looked at by `n_head / n_kv_head` heads.
    pub n_kv_head: usize,
    /// Features of one.
    pub d_head: usize,
}

/// How scores are made, and which of them count.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// A factor on query times key.
    pub scaling: f32,
    /// Bounds the scaled scores: `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// How many keys back a query sees, itself included.
    pub window: Option<usize>,
    /// Whether later keys are hidden.
    pub causal: bool,
}

/// Rows whose attention is computed, in the order of their runs.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Of each row.
    pub run: &'a [u32],
    /// Of each row.
    pub token: &'a [u32],
}

/// Keys, rotated, and values: `[key, kv_head, d_head]`.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
}

/// Which keys there are for each run.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The example of each run.
    pub example: &'a [u32],
    /// Where the cached keys of each example begin, and where the last one's end: `[example + 1]`.
    pub start: &'a [u32],
    /// Number of the own key at a token, or [`CACHED`]: `[run, token]`.
    pub own: &'a [u32],
    /// Tokens of a row of `own`.
    pub n_token: usize,
}

/// All that attention reads, checked.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    heads: Heads,
    look: Look,
    rows: Rows<'a>,
    cached: Keys<'a>,
    own: Keys<'a>,
    seen: Seen<'a>,
}

impl<'a> Attention<'a> {
    /// Checks that lengths agree and every number points into its array.
    ///
    /// # Errors
    /// If they do not.
    pub fn new(
        heads: Heads,
        look: Look,
        rows: Rows<'a>,
        cached: Keys<'a>,
        own: Keys<'a>,
        seen: Seen<'a>,
    ) -> Result<Self> {
        let Heads { n_head, n_kv_head, d_head } = heads;
        if n_kv_head == 0 || n_head % n_kv_head != 0 || d_head == 0 {
            return Err(Error::argument(format!("{n_head} heads cannot share {n_kv_head} keys")));
        }
        let width = n_kv_head * d_head;
        let n_cached = rows_of("cached keys", cached.k.len(), width)?;
        let n_own = rows_of("own keys", own.k.len(), width)?;
        same_len("cached values", cached.v.len(), cached.k.len())?;
        same_len("own values", own.v.len(), own.k.len())?;
        same_len("token", rows.token.len(), rows.run.len())?;
        same_len("own", seen.own.len(), elements(&[seen.example.len(), seen.n_token])?)?;
        let inside = rows.run.iter().all(|&run| (run as usize) < seen.example.len())
            && rows.token.iter().all(|&token| (token as usize) < seen.n_token)
            && seen.example.iter().all(|&example| (example as usize) + 1 < seen.start.len())
            && seen.start.is_sorted()
            && seen.start.last().is_none_or(|&end| end as usize <= n_cached)
            && seen.own.iter().all(|&key| key == CACHED || (key as usize) < n_own);
        if inside {
            Ok(Self { heads, look, rows, cached, own, seen })
        } else {
            Err(Error::argument("attention over rows or keys that are not there".to_owned()))
        }
    }

    /// z, `[row, head, d_head]`, of queries `q`, likewise.
    ///
    /// # Errors
    /// If lengths disagree.
    pub fn attend(&self, q: &[f32], z: &mut [f32]) -> Result<()> {
        let width = self.heads.n_head * self.heads.d_head;
        same_len("q", q.len(), elements(&[self.rows.run.len(), width])?)?;
        same_len("z", z.len(), q.len())?;
        self.by_block(z, width, |block, z| {
            let mut scratch = Scratch::default();
            for kv_head in 0..self.heads.n_kv_head {
                block.pattern(kv_head, q, &mut scratch);
                block.mix(kv_head, &mut scratch, z);
            }
        });
        Ok(())
    }

    /// The pattern, `[row, head, token]`, of queries `q` `[row, head, d_head]`.
    ///
    /// # Errors
    /// If lengths disagree.
    pub fn pattern(&self, q: &[f32], pattern: &mut [f32]) -> Result<()> {
        let n_token = self.seen.n_token;
        let Heads { n_head, d_head, .. } = self.heads;
        same_len("q", q.len(), elements(&[self.rows.run.len(), n_head, d_head])?)?;
        same_len("pattern", pattern.len(), elements(&[self.rows.run.len(), n_head, n_token])?)?;
        self.by_block(pattern, n_head * n_token, |block, out| {
            let mut scratch = Scratch::default();
            for kv_head in 0..self.heads.n_kv_head {
                block.pattern(kv_head, q, &mut scratch);
                block.each_head(kv_head, |place, row, head| {
                    let out = &mut out[(row * n_head + head) * n_token..][..n_token];
                    let (seen, unseen) = out.split_at_mut(block.n_key);
                    seen.copy_from_slice(&scratch.scores[place * block.n_key..][..block.n_key]);
                    unseen.fill(0.0);
                });
            }
        });
        Ok(())
    }

    /// z, `[row, head, d_head]`, of a pattern `[row, head, token]`.
    ///
    /// # Errors
    /// If lengths disagree.
    pub fn mix(&self, pattern: &[f32], z: &mut [f32]) -> Result<()> {
        let n_token = self.seen.n_token;
        let Heads { n_head, d_head, .. } = self.heads;
        same_len("z", z.len(), elements(&[self.rows.run.len(), n_head, d_head])?)?;
        same_len("pattern", pattern.len(), elements(&[self.rows.run.len(), n_head, n_token])?)?;
        self.by_block(z, n_head * d_head, |block, z| {
            let mut scratch = Scratch::default();
            for kv_head in 0..self.heads.n_kv_head {
                scratch.scores.resize(block.n_score(), 0.0);
                block.each_head(kv_head, |place, row, head| {
                    let from = &pattern[((block.first + row) * n_head + head) * n_token..];
                    scratch.scores[place * block.n_key..][..block.n_key]
                        .copy_from_slice(&from[..block.n_key]);
                });
                block.mix(kv_head, &mut scratch, z);
            }
        });
        Ok(())
    }

    /// Runs over blocks of rows of one example, each with its part of `out` `[row, width]`.
    fn by_block(
        &self,
        out: &mut [f32],
        width: usize,
        work: impl Fn(&Block<'_>, &mut [f32]) + Sync,
    ) {
        let mut parts = Vec::new();
        let mut rest = out;
        let mut first = 0;
        while first < self.rows.run.len() {
            let block = Block::at(self, first);
            let (part, later) = rest.split_at_mut(block.n_row * width);
            rest = later;
            first += block.n_row;
            parts.push((block, part));
        }
        parts.into_par_iter().for_each(|(block, part)| work(&block, part));
    }
}

/// What a task keeps between heads.
#[derive(Debug, Default)]
struct Scratch {
    /// Scaled queries of the heads that share a key, `[row, head, d_head]`.
    q: Vec<f32>,
    /// `[row, head, key]`: scores, then the pattern.
    scores: Vec<f32>,
    /// `[row, head, d_head]`.
    z: Vec<f32>,
}

/// Some rows of one example.
#[derive(Debug)]
struct Block<'a> {
    of: &'a Attention<'a>,
    first: usize,
    n_row: usize,
    /// Cached keys of the example: where they begin, and how many there are.
    start: usize,
    length: usize,
    /// Keys that any of the rows sees, from token 0.
    n_key: usize,
    /// Heads that share a key.
    group: usize,
}

impl<'a> Block<'a> {
    fn at(of: &'a Attention<'a>, first: usize) -> Self {
        let example = of.seen.example[of.rows.run[first] as usize];
        let same = of.rows.run[first..]
            .iter()
            .take(ROW_BLOCK)
            .take_while(|&&run| of.seen.example[run as usize] == example)
            .count();
        let start = of.seen.start[example as usize] as usize;
        let length = of.seen.start[example as usize + 1] as usize - start;
        let length = length.min(of.seen.n_token);
        let mut block = Self { of, first, n_row: same, start, length, n_key: length, group: 1 };
        block.group = of.heads.n_head / of.heads.n_kv_head;
        block.n_key = (0..same).map(|row| block.visible(row).1).max().unwrap_or(0);
        block
    }

    /// The keys that a row sees, as a range.
    fn visible(&self, row: usize) -> (usize, usize) {
        let token = self.of.rows.token[self.first + row] as usize;
        let end = if self.of.look.causal { (token + 1).min(self.length) } else { self.length };
        let begin = self.of.look.window.map_or(0, |window| (token + 1).saturating_sub(window));
        (begin.min(end), end)
    }

    /// The own keys of a row's run, by token, as far as any row sees.
    fn own(&self, row: usize) -> &'a [u32] {
        let run = self.of.rows.run[self.first + row] as usize;
        &self.of.seen.own[run * self.of.seen.n_token..][..self.n_key]
    }

    fn n_score(&self) -> usize {
        self.n_row * self.group * self.n_key
    }

    /// Calls with (place in scratch, row of the block, head) for the heads that share a key.
    fn each_head(&self, kv_head: usize, mut call: impl FnMut(usize, usize, usize)) {
        for row in 0..self.n_row {
            for one in 0..self.group {
                call(row * self.group + one, row, kv_head * self.group + one);
            }
        }
    }

    /// The cached keys or values of a head, `[key, d_head]`.
    fn cached(&self, values: &'a [f32], kv_head: usize) -> MatRef<'a> {
        let Heads { n_kv_head, d_head, .. } = self.of.heads;
        let from = (self.start * n_kv_head + kv_head) * d_head;
        MatRef::inside(&values[from.min(values.len())..], self.n_key, d_head, n_kv_head * d_head)
    }

    /// Queries to patterns, in scratch.
    fn pattern(&self, kv_head: usize, q: &[f32], scratch: &mut Scratch) {
        let Heads { n_head, d_head, .. } = self.of.heads;
        scratch.q.resize(self.n_row * self.group * d_head, 0.0);
        scratch.scores.resize(self.n_score(), 0.0);
        let scaling = self.of.look.scaling;
        self.each_head(kv_head, |place, row, head| {
            let from = &q[((self.first + row) * n_head + head) * d_head..][..d_head];
            for (to, &from) in scratch.q[place * d_head..][..d_head].iter_mut().zip(from) {
                *to = from * scaling;
            }
        });
        let rows = self.n_row * self.group;
        let n_key = self.n_key;
        product(
            MatRef::inside(&scratch.q, rows, d_head, d_head),
            self.cached(self.of.cached.k, kv_head).t(),
            &mut MatMut { data: &mut scratch.scores, rows, cols: n_key, row_stride: n_key },
        );
        widest!(self.each_head(kv_head, |place, row, _| {
            let q = &scratch.q[place * d_head..][..d_head];
            let scores = &mut scratch.scores[place * n_key..][..n_key];
            self.finish(kv_head, row, q, scores);
        }));
    }

    /// One row's scores to its pattern: own keys, cap, softmax over what is visible.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    fn finish(&self, kv_head: usize, row: usize, q: &[f32], scores: &mut [f32]) {
        let (begin, end) = self.visible(row);
        for (score, &key) in scores[begin..end].iter_mut().zip(&self.own(row)[begin..end]) {
            if key != CACHED {
                *score = dot(q, self.own_of(self.of.own.k, key, kv_head));
            }
        }
        scores[..begin].fill(0.0);
        scores[end..].fill(0.0);
        let scores = &mut scores[begin..end];
        if let Some(cap) = self.of.look.softcap {
            for score in &mut *scores {
                *score = vector::tanh(*score / cap) * cap;
            }
        }
        softmax(scores);
    }

    /// An own key or value.
    fn own_of(&self, values: &'a [f32], key: u32, kv_head: usize) -> &'a [f32] {
        let Heads { n_kv_head, d_head, .. } = self.of.heads;
        &values[(key as usize * n_kv_head + kv_head) * d_head..][..d_head]
    }

    /// Patterns in scratch to the block's part of z.
    fn mix(&self, kv_head: usize, scratch: &mut Scratch, z: &mut [f32]) {
        let Heads { n_head, d_head, .. } = self.of.heads;
        let (rows, n_key) = (self.n_row * self.group, self.n_key);
        // What goes to own keys is taken out of the scores, so that the product passes over it.
        widest!(self.each_head(kv_head, |place, row, head| {
            let z = &mut z[(row * n_head + head) * d_head..][..d_head];
            z.fill(0.0);
            let scores = &mut scratch.scores[place * n_key..][..n_key];
            for (weight, &key) in scores.iter_mut().zip(self.own(row)) {
                if key != CACHED {
                    let value = self.own_of(self.of.own.v, key, kv_head);
                    for (z, &value) in z.iter_mut().zip(value) {
                        *z += *weight * value;
                    }
                    *weight = 0.0;
                }
            }
        }));
        scratch.z.resize(rows * d_head, 0.0);
        product(
            MatRef::inside(&scratch.scores, rows, n_key, n_key),
            self.cached(self.of.cached.v, kv_head),
            &mut MatMut { data: &mut scratch.z, rows, cols: d_head, row_stride: d_head },
        );
        self.each_head(kv_head, |place, row, head| {
            let z = &mut z[(row * n_head + head) * d_head..][..d_head];
            for (z, &more) in z.iter_mut().zip(&scratch.z[place * d_head..]) {
                *z += more;
            }
        });
    }
}

/// Sum of products in f32, lane by lane; the slices are equally long.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANE];
    let (x_blocks, x_rest) = x.as_chunks::<LANE>();
    let (y_blocks, y_rest) = y.as_chunks::<LANE>();
    for (x, y) in x_blocks.iter().zip(y_blocks) {
        for ((lane, &x), &y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += x * y;
        }
    }
    let rest: f32 = x_rest.iter().zip(y_rest).map(|(&x, &y)| x * y).sum();
    vector::total(lanes) + rest
}

/// In place; NaN anywhere makes everything NaN.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn softmax(scores: &mut [f32]) {
    let most = vector::max(scores);
    for score in &mut *scores {
        *score = exp(*score - most);
    }
    let mut lanes = [0.0_f32; LANE];
    let (blocks, rest) = scores.as_chunks::<LANE>();
    for block in blocks {
        for (lane, &score) in lanes.iter_mut().zip(block) {
            *lane += score;
        }
    }
    let total = vector::total(lanes) + rest.iter().sum::<f32>();
    for score in scores {
        *score /= total;
    }
}
