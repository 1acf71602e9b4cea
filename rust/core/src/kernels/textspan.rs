//! The texts that span what a head says: a greedy basis of text directions, found on its covariance.
//!
//! `TextSpan` (Gandelsman et al. 2024, section 4) takes the text along which a head's outputs vary
//! most, takes that direction out of outputs and texts, and goes on. The variance along `t` is
//! `t . G t` with the covariance `G`, so outputs are needed for `G` alone: a step costs three
//! products of length `d` a text, however many images there were.

use rayon::prelude::*;

use super::check::{elements, rows_of, same_len};
use crate::Result;
use crate::vector::widest;

/// Texts whose scores one task brings up to date.
const TEXT_BLOCK: usize = 512;
/// A step that explains less of the variance than this finds rounding errors, and is not made.
const LEAST: f64 = 1e-12;
/// A text of whose squared length less than this share is left is spanned by those before it: what
/// is left is rounding, of texts that come in f32.
const SPANNED: f64 = 1e-12;

/// The texts of one head, in the order in which they were picked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TextBasis {
    /// Numbers of the texts.
    pub texts: Vec<usize>,
    /// The variance that each takes away, in the units of the covariance.
    pub explained: Vec<f64>,
    /// `[pick, d]`: unit vectors at right angles, what is left of each text after those before it.
    pub directions: Vec<f64>,
    /// The variance there was: the covariance's trace.
    pub total: f64,
}

/// Picks up to `n_pick` of the texts `[text, d]` by the covariance `[d, d]` of a head's outputs, both
/// in the same coordinates; of equal scores the first text. Fewer are picked where nothing is left.
///
/// # Errors
/// If the covariance is not `[d, d]`, or the texts are not whole rows.
pub fn textspan(texts: &[f32], covariance: &[f64], d: usize, n_pick: usize) -> Result<TextBasis> {
    same_len("covariance", covariance.len(), elements(&[d, d])?)?;
    let n_text = rows_of("texts", texts.len(), d)?;
    let mut left = Left {
        d,
        texts: texts.iter().copied().map(f64::from).collect(),
        covariance: covariance.to_vec(),
        scores: vec![0.0; n_text],
        lengths: texts.chunks_exact(d.max(1)).map(|text| [square(text); 2]).collect(),
    };
    left.score();
    let total: f64 = (0..d).map(|i| covariance[i * d + i]).sum();
    let mut basis = TextBasis { total, ..TextBasis::default() };
    while basis.texts.len() < n_pick {
        let Some(text) = left.best() else { break };
        let direction = left.direction(text);
        let Some(taken) =
            direction.and_then(|unit| left.take(&unit, LEAST * total).map(|v| (unit, v)))
        else {
            break;
        };
        basis.texts.push(text);
        basis.directions.extend(taken.0);
        basis.explained.push(taken.1);
    }
    Ok(basis)
}

/// Its squared length.
fn square(text: &[f32]) -> f64 {
    text.iter().map(|&value| f64::from(value) * f64::from(value)).sum()
}

/// What the picks so far have left of texts and covariance.
struct Left {
    d: usize,
    /// `[text, d]`
    texts: Vec<f64>,
    /// `[d, d]`
    covariance: Vec<f64>,
    /// `[text]`: the variance along each text, which is not of unit length; NaN where the text is
    /// spanned by the picks.
    scores: Vec<f64>,
    /// `[text]`: squared lengths, at first and of what is left.
    lengths: Vec<[f64; 2]>,
}

impl Left {
    fn score(&mut self) {
        let (d, covariance) = (self.d, &self.covariance);
        let blocks = self.scores.par_chunks_mut(TEXT_BLOCK);
        let texts = self.texts.par_chunks(TEXT_BLOCK * d.max(1));
        blocks.zip(texts).for_each(|(scores, texts)| {
            let mut through = vec![0.0; d];
            widest!({
                for (score, text) in scores.iter_mut().zip(texts.chunks_exact(d)) {
                    through.fill(0.0);
                    for (&value, row) in text.iter().zip(covariance.chunks_exact(d)) {
                        through.iter_mut().zip(row).for_each(|(out, &g)| *out += value * g);
                    }
                    *score = text.iter().zip(&through).map(|(a, b)| a * b).sum();
                }
            });
        });
    }

    /// The text with the highest score, the first of equal ones; none where all are NaN.
    fn best(&self) -> Option<usize> {
        let better = |best: Option<(usize, f64)>, (text, &score): (usize, &f64)| match best {
            Some((_, highest)) if score <= highest => best,
            _ if score.is_nan() => best,
            _ => Some((text, score)),
        };
        self.scores.iter().enumerate().fold(None, better).map(|(text, _)| text)
    }

    /// What is left of a text, as a unit vector; none where nothing is.
    fn direction(&self, text: usize) -> Option<Vec<f64>> {
        let row = &self.texts[text * self.d..][..self.d];
        let length = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        (length > 0.0).then(|| row.iter().map(|value| value / length).collect())
    }

    /// Takes a unit direction out of covariance, texts and scores; returns the variance along it, or
    /// nothing, with all left as it was, where that is no more than `least`.
    fn take(&mut self, unit: &[f64], least: f64) -> Option<f64> {
        let d = self.d;
        let dot = |row: &[f64]| row.iter().zip(unit).map(|(a, b)| a * b).sum::<f64>();
        let along: Vec<f64> = self.covariance.chunks_exact(d).map(dot).collect(); // G u
        let variance = dot(&along); // u . G u
        if variance.is_nan() || variance <= least {
            return None;
        }
        self.take_from_texts(unit, &along, variance);
        // (I - u u') G (I - u u')
        for (i, row) in self.covariance.chunks_exact_mut(d).enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                *value += variance * unit[i] * unit[j] - unit[i] * along[j] - along[i] * unit[j];
            }
        }
        Some(variance)
    }

    /// With `a = t . u`: the text becomes `t - a u` and its score, by the covariance before,
    /// `t . G t - 2 a (t . G u) + a^2 (u . G u)`.
    fn take_from_texts(&mut self, unit: &[f64], along: &[f64], variance: f64) {
        let d = self.d;
        let blocks = self.scores.par_chunks_mut(TEXT_BLOCK);
        let texts = self.texts.par_chunks_mut(TEXT_BLOCK * d);
        let lengths = self.lengths.par_chunks_mut(TEXT_BLOCK);
        blocks.zip(texts).zip(lengths).for_each(|((scores, texts), lengths)| {
            widest!({
                let texts = texts.chunks_exact_mut(d);
                for ((score, text), [first, left]) in scores.iter_mut().zip(texts).zip(lengths) {
                    let [share, crossed] = two_dots(text, unit, along);
                    *score += share * (share * variance - 2.0 * crossed);
                    text.iter_mut().zip(unit).for_each(|(value, &u)| *value -= share * u);
                    *left -= share * share;
                    if *left <= SPANNED * *first {
                        *score = f64::NAN;
                    }
                }
            });
        });
    }
}

/// Sums that are added up side by side: one chain of additions would wait for each.
const LANE: usize = 8;

/// `a . b` and `a . c`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn two_dots(a: &[f64], b: &[f64], c: &[f64]) -> [f64; 2] {
    let mut sums = [[0.0; LANE]; 2];
    for ((a, b), c) in a.chunks(LANE).zip(b.chunks(LANE)).zip(c.chunks(LANE)) {
        for (lane, ((a, b), c)) in a.iter().zip(b).zip(c).enumerate() {
            sums[0][lane] += a * b;
            sums[1][lane] += a * c;
        }
    }
    sums.map(|lanes| lanes.iter().sum())
}
