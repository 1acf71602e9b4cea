//! The normalisations of transformer blocks, over rows.

use rayon::prelude::*;

use super::check::{rows_of, same_axis, same_len};
use crate::vector::{self, widest};
use crate::{Error, Result};

/// Rows that one task normalises.
const ROW_BLOCK: usize = 64;

/// Which normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Subtract the mean, divide by the standard deviation.
    LayerNorm,
    /// Divide by the root of the mean square.
    RmsNorm,
    /// Leave the row as it is; the divisor is 1.
    None,
}

impl NormKind {
    /// Reads the name used in store metadata: `layer_norm`, `rms_norm` or `none`.
    ///
    /// # Errors
    /// If it is another word.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "layer_norm" => Ok(Self::LayerNorm),
            "rms_norm" => Ok(Self::RmsNorm),
            "none" => Ok(Self::None),
            other => Err(Error::argument(format!(
                "unknown norm `{other}`: expected `layer_norm`, `rms_norm` or `none`"
            ))),
        }
    }
}

/// A normalisation with its trained gain and shift.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Which normalisation.
    pub kind: NormKind,
    /// Added to the variance (or mean square) before the root.
    pub eps: f32,
    /// Added to every weight: 1 for models that store `gain - 1`, else 0.
    pub offset: f32,
    /// Gain `[d_model]`; absent means 1 (and then `offset` is not used).
    pub weight: Option<Vec<f32>>,
    /// Shift `[d_model]`; absent means 0.
    pub bias: Option<Vec<f32>>,
}

impl Norm {
    /// The identity.
    pub fn none() -> Self {
        Self { kind: NormKind::None, eps: 0.0, offset: 0.0, weight: None, bias: None }
    }

    /// The factor applied to feature `i` after the division.
    pub fn gain(&self, i: usize) -> f32 {
        match (self.kind, &self.weight) {
            (NormKind::None, _) | (_, None) => 1.0,
            (_, Some(weight)) => weight[i] + self.offset,
        }
    }

    /// The term added to feature `i` at the end.
    pub fn shift(&self, i: usize) -> f32 {
        match (self.kind, &self.bias) {
            (NormKind::None, _) | (_, None) => 0.0,
            (_, Some(bias)) => bias[i],
        }
    }

    /// Normalises `x [row, d_model]` into `out`, same shape. Statistics are f64.
    ///
    /// A row with NaN or infinity becomes NaN; a constant row under layer norm becomes the shift.
    ///
    /// # Errors
    /// If the lengths of `x`, `out`, the gain and the shift disagree with `d_model`.
    pub fn apply(&self, x: &[f32], d_model: usize, out: &mut [f32]) -> Result<()> {
        self.check(x, d_model)?;
        same_len("out", out.len(), x.len())?;
        if x.is_empty() {
            return Ok(());
        }
        let gain: Vec<f32> = (0..d_model).map(|i| self.gain(i)).collect();
        let shift: Vec<f32> = (0..d_model).map(|i| self.shift(i)).collect();
        let block = ROW_BLOCK * d_model;
        out.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(out, x)| {
            widest!({
                for (out, x) in out.chunks_exact_mut(d_model).zip(x.chunks_exact(d_model)) {
                    let (mean, scale) = self.statistics(x);
                    apply_row(x, mean, scale, &gain, &shift, out);
                }
            });
        });
        Ok(())
    }

    /// The divisor of every row of `x [row, d_model]`: what the store calls `norm_scale`.
    ///
    /// # Errors
    /// If the lengths of `x`, the gain and the shift disagree with `d_model`.
    pub fn scale(&self, x: &[f32], d_model: usize) -> Result<Vec<f32>> {
        let rows = self.check(x, d_model)?;
        let mut scales = vec![0.0; rows];
        scales.par_chunks_mut(ROW_BLOCK).zip(x.par_chunks((ROW_BLOCK * d_model).max(1))).for_each(
            |(scales, x)| {
                widest!({
                    for (scale, x) in scales.iter_mut().zip(x.chunks_exact(d_model)) {
                        *scale = narrow(self.statistics(x).1);
                    }
                });
            },
        );
        Ok(scales)
    }

    fn check(&self, x: &[f32], d_model: usize) -> Result<usize> {
        for (name, values) in [("norm weight", &self.weight), ("norm bias", &self.bias)] {
            if let Some(values) = values {
                same_axis("d_model", ("x", d_model), (name, values.len()))?;
            }
        }
        rows_of("x", x.len(), d_model)
    }

    /// What is subtracted and what divides, for one row.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    fn statistics(&self, x: &[f32]) -> (f64, f64) {
        let n = x.len() as f64;
        let eps = f64::from(self.eps);
        match self.kind {
            NormKind::LayerNorm => {
                let mean = vector::sum_by(x, |value| value) / n;
                let square = vector::sum_by(x, |value| (value - mean) * (value - mean));
                (mean, (square / n + eps).sqrt())
            }
            NormKind::RmsNorm => {
                let square = vector::sum_by(x, |value| value * value);
                (0.0, (square / n + eps).sqrt())
            }
            NormKind::None => (0.0, 1.0),
        }
    }
}

/// Layer norm of `x [row, d_model]` into `out`; `weight` and `bias` are `[d_model]`.
///
/// # Errors
/// As [`Norm::apply`].
pub fn layer_norm(
    x: &[f32],
    d_model: usize,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) -> Result<()> {
    let (weight, bias) = (weight.map(<[f32]>::to_vec), bias.map(<[f32]>::to_vec));
    Norm { kind: NormKind::LayerNorm, eps, offset: 0.0, weight, bias }.apply(x, d_model, out)
}

/// Root-mean-square norm of `x [row, d_model]` into `out`; the gain is `weight + offset`.
///
/// # Errors
/// As [`Norm::apply`].
pub fn rms_norm(
    x: &[f32],
    d_model: usize,
    weight: Option<&[f32]>,
    eps: f32,
    offset: f32,
    out: &mut [f32],
) -> Result<()> {
    let weight = weight.map(<[f32]>::to_vec);
    Norm { kind: NormKind::RmsNorm, eps, offset, weight, bias: None }.apply(x, d_model, out)
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
fn apply_row(x: &[f32], mean: f64, scale: f64, gain: &[f32], shift: &[f32], out: &mut [f32]) {
    for (((out, &x), &gain), &shift) in out.iter_mut().zip(x).zip(gain).zip(shift) {
        *out = narrow((f64::from(x) - mean) / scale) * gain + shift;
    }
}

/// To f32, rounding to nearest: the one place where the kernels narrow.
#[inline(always)]
#[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
#[allow(clippy::cast_possible_truncation, reason = "rounding is what is wanted")]
pub(crate) fn narrow(value: f64) -> f32 {
    value as f32
}
