//! What attention heads look at, from attention patterns and token ids.
//!
//! Sums and counts are kept, not means, so that examples can be added in any grouping.

use rayon::prelude::*;

use super::check::{same_axis, same_len};
use super::vector;
use crate::{Error, Result};

/// What a head may be looking at. Position 0 is left out of every role: under a causal mask it can
/// see only itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The token before the query.
    PreviousToken,
    /// Position 0.
    FirstToken,
    /// The query itself.
    CurrentToken,
    /// Earlier tokens with the query's id; over queries that have one.
    DuplicateToken,
    /// Tokens that follow, before the query, an earlier token with the query's id; over queries
    /// that have one.
    Induction,
    /// Keys that the caller marked, such as separators.
    Marked,
    /// Not a share of attention but the entropy of its distribution over keys, in nats.
    Entropy,
}

impl Role {
    /// All roles, in the order of their sums.
    pub const ALL: [Self; 7] = [
        Self::PreviousToken,
        Self::FirstToken,
        Self::CurrentToken,
        Self::DuplicateToken,
        Self::Induction,
        Self::Marked,
        Self::Entropy,
    ];

    /// The name used in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::PreviousToken => "previous_token",
            Self::FirstToken => "first_token",
            Self::CurrentToken => "current_token",
            Self::DuplicateToken => "duplicate_token",
            Self::Induction => "induction",
            Self::Marked => "marked",
            Self::Entropy => "entropy",
        }
    }
}

/// One example's attention in one layer.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// `[query, head, key]`; `key` may be wider than the example, the rest is not read.
    pub pattern: &'a [f32],
    /// `[query]` positions of the stored queries within the example.
    pub positions: &'a [usize],
    /// `[token]` ids of all tokens of the example.
    pub token_ids: &'a [i32],
    /// `[token]` keys that count for [`Role::Marked`]; none if absent.
    pub marked: Option<&'a [bool]>,
}

/// Sums over queries, per role and head.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionRoles {
    n_head: usize,
    /// `[role, head]`
    sums: Vec<f64>,
    /// `[role, head]` queries behind each sum.
    counts: Vec<u64>,
    /// `[head]` queries left out because of NaN or infinity in their attention.
    skipped: Vec<u64>,
}

/// Keys of one query that have a role by their token.
#[derive(Debug, Default)]
struct Keys {
    duplicate: Vec<usize>,
    induction: Vec<usize>,
}

impl AttentionRoles {
    /// Nothing seen yet.
    pub fn new(n_head: usize) -> Self {
        let len = Role::ALL.len() * n_head;
        Self { n_head, sums: vec![0.0; len], counts: vec![0; len], skipped: vec![0; n_head] }
    }

    /// Adds one example's attention. Queries with NaN or infinity in a head are left out there.
    ///
    /// # Errors
    /// If the pattern does not divide into queries, heads and keys, has fewer keys than the example
    /// tokens, or a position lies outside the example.
    pub fn push(&mut self, attention: Attention<'_>) -> Result<()> {
        let Attention { pattern, positions, token_ids, marked } = attention;
        let n_token = token_ids.len();
        if let Some(marked) = marked {
            same_axis("token", ("token_ids", n_token), ("marked", marked.len()))?;
        }
        if let Some(outside) = positions.iter().find(|&&at| at >= n_token) {
            let what = format!("query {outside} lies outside an example of {n_token} tokens");
            return Err(Error::argument(what));
        }
        let n_line = positions.len() * self.n_head;
        let n_key = pattern.len().checked_div(n_line).unwrap_or(0);
        same_len("pattern", pattern.len(), n_line * n_key)?;
        if n_line > 0 && n_key < n_token {
            return Err(Error::AxisMismatch {
                axis: "key",
                left: ("pattern", n_key),
                right: ("token_ids", n_token),
            });
        }
        let marked: Vec<usize> = marked.map_or_else(Vec::new, marks);
        for (query, &position) in positions.iter().enumerate().filter(|(_, at)| **at > 0) {
            let keys = Keys::of(position, token_ids);
            for head in 0..self.n_head {
                let line = &pattern[(query * self.n_head + head) * n_key..][..n_token];
                self.add(head, position, line, &keys, &marked);
            }
        }
        Ok(())
    }

    /// Joins what was seen elsewhere.
    ///
    /// # Errors
    /// If the number of heads differs.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        same_axis("head", ("roles", self.n_head), ("other roles", other.n_head))?;
        self.sums.iter_mut().zip(&other.sums).for_each(|(mine, theirs)| *mine += theirs);
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.skipped.iter_mut().zip(&other.skipped).for_each(|(mine, theirs)| *mine += theirs);
        Ok(())
    }

    /// `[head]` sums of `role` over queries.
    pub fn sum(&self, role: Role) -> &[f64] {
        &self.sums[self.span(role)]
    }

    /// `[head]` queries behind [`Self::sum`].
    pub fn count(&self, role: Role) -> &[u64] {
        &self.counts[self.span(role)]
    }

    /// `[head]` means of `role`; NaN where no query has it.
    pub fn mean(&self, role: Role) -> Vec<f64> {
        let pairs = self.sum(role).iter().zip(self.count(role));
        pairs.map(|(sum, &count)| sum / count as f64).collect()
    }

    /// `[head]` queries left out because of NaN or infinity.
    pub fn skipped(&self) -> &[u64] {
        &self.skipped
    }

    fn span(&self, role: Role) -> std::ops::Range<usize> {
        let start = role as usize * self.n_head;
        start..start + self.n_head
    }

    /// Adds one line `[token]` of attention.
    fn add(&mut self, head: usize, position: usize, line: &[f32], keys: &Keys, marked: &[usize]) {
        let (total, entropy) = vector::widest(|| sums(line));
        if !total.is_finite() {
            self.skipped[head] += 1;
            return;
        }
        let share = |keys: &[usize]| keys.iter().map(|&key| f64::from(line[key])).sum::<f64>();
        let by_token = |keys: &[usize]| (!keys.is_empty()).then(|| share(keys));
        let values = [
            (Role::PreviousToken, Some(f64::from(line[position - 1]))),
            (Role::FirstToken, Some(f64::from(line[0]))),
            (Role::CurrentToken, Some(f64::from(line[position]))),
            (Role::DuplicateToken, by_token(&keys.duplicate)),
            (Role::Induction, by_token(&keys.induction)),
            (Role::Marked, Some(share(marked))),
            (Role::Entropy, Some(entropy)),
        ];
        for (role, value) in values {
            if let Some(value) = value {
                let at = role as usize * self.n_head + head;
                self.sums[at] += value;
                self.counts[at] += 1;
            }
        }
    }
}

impl Keys {
    fn of(position: usize, token_ids: &[i32]) -> Self {
        let id = token_ids[position];
        let duplicate: Vec<usize> =
            (0..position).filter(|&earlier| token_ids[earlier] == id).collect();
        let next = |&earlier: &usize| (earlier + 1 < position).then_some(earlier + 1);
        let induction = duplicate.iter().filter_map(next).collect();
        Self { duplicate, induction }
    }
}

fn marks(marked: &[bool]) -> Vec<usize> {
    (0..marked.len()).filter(|&key| marked[key]).collect()
}

/// Sum of a line of attention, and its entropy; shares of zero add nothing.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn sums(line: &[f32]) -> (f64, f64) {
    let total = vector::sum_by(line, |share| share);
    // The logarithm of a share of zero is finite here, so the product is zero.
    let entropy = vector::sum_by_narrow(line, |share| share * vector::ln(share));
    (total, -entropy)
}

/// Adds up patterns `[query, head, key]` of many examples; see [`AttentionRoles::push`].
///
/// # Errors
/// As [`AttentionRoles::push`].
pub fn attention_roles(examples: &[Attention<'_>], n_head: usize) -> Result<AttentionRoles> {
    let parts: Vec<AttentionRoles> = examples
        .par_iter()
        .map(|&example| {
            let mut part = AttentionRoles::new(n_head);
            part.push(example)?;
            Ok(part)
        })
        .collect::<Result<_>>()?;
    let mut total = AttentionRoles::new(n_head);
    parts.iter().try_for_each(|part| total.merge(part))?;
    Ok(total)
}
