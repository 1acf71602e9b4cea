//! Rows as codes of eight bits: each column of a chunk has a scale of its own, and what is lost is measured.
//!
//! `value = code × scale`, with `scale = max|x| / 127` over the column's finite values, so that a code is off by at
//! most half a scale. A scale per column and not per row: the same few features of a stream are a hundred times
//! larger than the rest in every row, and would take all the codes of it.

use serde::{Deserialize, Serialize};

use super::dtype::{NAN_CODE, value_of};

/// The largest code.
const MAX_CODE: f32 = 127.0;
/// Added and taken away again, it leaves the nearest whole number; `round` would be a call for each value.
const ROUND: f32 = 12_582_912.0;

/// Makes codes of one chunk at a time; reusable, so that its buffers are allocated once per thread.
#[derive(Debug, Default)]
pub(crate) struct Quantiser {
    /// `[row, row_len]`.
    pub(crate) codes: Vec<u8>,
    scale: Vec<f32>,
    error_max: Vec<f32>,
    error_m2: Vec<f64>,
    value_m2: Vec<f64>,
    /// The scales as they are stored: `[row_len]` little-endian `f32`.
    pub(crate) scales: Vec<u8>,
}

impl Quantiser {
    /// Bytes that the buffers take for rows of `row_len` columns, without the codes.
    pub(crate) fn bytes(row_len: usize) -> usize {
        row_len * (3 * 4 + 2 * 8)
    }

    /// Makes codes of `rows` (`[row, row_len]`, little-endian `f32`); returns what that loses.
    pub(crate) fn chunk(&mut self, row_len: usize, rows: &[u8]) -> Loss {
        self.measure(row_len, rows);
        for buffer in [&mut self.error_m2, &mut self.value_m2] {
            buffer.clear();
            buffer.resize(row_len, 0.0);
        }
        self.error_max.clear();
        self.error_max.resize(row_len, 0.0);
        self.codes.clear();
        self.codes.resize(rows.len() / 4, 0);
        let mut n_finite = 0;
        let codes = self.codes.chunks_exact_mut(row_len);
        for (row, codes) in rows.chunks_exact(4 * row_len).zip(codes) {
            let columns = self.scale.iter().zip(&mut self.error_max);
            let sums = self.error_m2.iter_mut().zip(&mut self.value_m2);
            let values = row.as_chunks::<4>().0.iter().zip(codes);
            for (((raw, code), (scale, max)), (error_m2, value_m2)) in values.zip(columns).zip(sums)
            {
                let x = f32::from_le_bytes(*raw);
                let is_finite = x.is_finite();
                let packed = code_of(x, *scale);
                let error = if is_finite { (x - value_of(packed, *scale)).abs() } else { 0.0 };
                let x = if is_finite { f64::from(x) } else { 0.0 };
                *code = packed.cast_unsigned();
                *max = if error > *max { error } else { *max };
                *error_m2 += f64::from(error) * f64::from(error);
                *value_m2 += x * x;
                n_finite += u64::from(is_finite);
            }
        }
        Loss {
            n: n_finite,
            max: self.error_max.iter().copied().fold(0.0, f32::max),
            error_m2: self.error_m2.iter().sum(),
            value_m2: self.value_m2.iter().sum(),
        }
    }

    /// Finds the scale of each column.
    fn measure(&mut self, row_len: usize, rows: &[u8]) {
        self.scale.clear();
        self.scale.resize(row_len, 0.0);
        for row in rows.chunks_exact(4 * row_len) {
            for (largest, raw) in self.scale.iter_mut().zip(row.as_chunks::<4>().0) {
                let size = f32::from_le_bytes(*raw).abs();
                *largest = if size.is_finite() && size > *largest { size } else { *largest };
            }
        }
        self.scale.iter_mut().for_each(|largest| *largest = scale_for(*largest));
        self.scales.clear();
        self.scales.extend(self.scale.iter().flat_map(|scale| scale.to_le_bytes()));
    }

    /// Appends scale, `error_max` and `error_m2` to a chunk's other statistics, `[3, row_len]` `f32`.
    #[allow(clippy::cast_possible_truncation, reason = "statistics are stored in single precision")]
    pub(crate) fn render(&self, out: &mut Vec<u8>) {
        out.extend(&self.scales);
        out.extend(self.error_max.iter().flat_map(|x| x.to_le_bytes()));
        out.extend(self.error_m2.iter().flat_map(|x| (*x as f32).to_le_bytes()));
    }
}

/// The scale of a column whose values are at most that large: 0 where all are 0.
fn scale_for(largest: f32) -> f32 {
    if largest == 0.0 {
        return 0.0;
    }
    // Below the normal numbers a scale has too few digits of its own.
    let scale = (largest / MAX_CODE).max(f32::MIN_POSITIVE);
    // Rounded up, that of the largest numbers would decode to infinity.
    if (MAX_CODE * scale).is_finite() { scale } else { scale.next_down() }
}

#[allow(clippy::cast_possible_truncation, reason = "a quotient is at most 127, to rounding")]
fn code_of(x: f32, scale: f32) -> i8 {
    // A scale of 0 has no other values than 0; their quotient, NaN, is cast to 0.
    let code = ((x / scale + ROUND) - ROUND) as i8;
    if x.is_finite() { code } else { NAN_CODE }
}

/// What codes lose of the values that they stand for, summed over the finite ones.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Loss {
    n: u64,
    max: f32,
    error_m2: f64,
    value_m2: f64,
}

impl Loss {
    /// That of both together.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            n: self.n + other.n,
            max: self.max.max(other.max),
            error_m2: self.error_m2 + other.error_m2,
            value_m2: self.value_m2 + other.value_m2,
        }
    }

    /// As it is stated.
    pub(crate) fn stated(self) -> LayerError {
        let n = self.n.max(1) as f64;
        let relative =
            if self.value_m2 > 0.0 { (self.error_m2 / self.value_m2).sqrt() } else { 0.0 };
        LayerError {
            relative_rms: relative,
            rms: (self.error_m2 / n).sqrt(),
            max: f64::from(self.max),
        }
    }
}

/// How far the values of one layer of a lossy array are from those that it was made of, over the finite ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerError {
    /// Root mean square of the error, over that of the values; 0 where all values are 0.
    pub relative_rms: f64,
    /// Root mean square of the error.
    pub rms: f64,
    /// The largest error.
    pub max: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    #[test]
    fn extremes_decode_to_finite_values_within_half_a_scale() {
        let values = [0.0, -0.0, 1e-45, -3e-39, 1.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE];
        let mut quantiser = Quantiser::default();
        let _ = quantiser.chunk(values.len(), &bytes(&values));
        for ((x, scale), code) in values.iter().zip(&quantiser.scale).zip(&quantiser.codes) {
            let found = value_of(code.cast_signed(), *scale);
            assert!(found.is_finite() && (x - found).abs() <= scale * 0.500_001, "{x}: {found}");
        }
    }

    #[test]
    fn what_is_not_finite_is_nan_and_sets_no_scale() {
        let mut quantiser = Quantiser::default();
        let rows = [f32::NAN, 2.0, f32::INFINITY, -1.0];
        let loss = quantiser.chunk(2, &bytes(&rows));
        assert_eq!(
            quantiser.codes.iter().map(|c| c.cast_signed()).collect::<Vec<_>>(),
            [NAN_CODE, 127, NAN_CODE, -64]
        );
        assert_eq!((loss.n, quantiser.scale[0].to_bits()), (2, 0));
    }
}
