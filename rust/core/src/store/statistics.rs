//! Per-chunk statistics: min, max, mean and m2 of every feature, over the finite values of a chunk's rows.
//!
//! `m2` is the sum of squared deviations from the mean. Sums are kept in `f64` and shifted by the first
//! finite value, which is itself one of the values, so that cancellation costs at most a factor of the
//! number of rows.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    counters::Counters,
    dtype::{Dtype, Element},
    files,
    index::{CRC, split_crc},
    spec::ArraySpec,
};
use crate::error::{Error, Result};

/// Numbers kept per chunk and feature: min, max, mean, m2.
pub(crate) const N_STATISTIC: usize = 4;

/// Accumulates one chunk's statistics; reusable, so that its buffers are allocated once per thread.
#[derive(Debug, Default)]
pub(crate) struct Accumulator {
    row: Vec<f32>,
    shift: Vec<f32>,
    min: Vec<f32>,
    max: Vec<f32>,
    sum: Vec<f64>,
    square: Vec<f64>,
    count: Vec<u32>,
}

impl Accumulator {
    /// Bytes that the buffers take for rows of `row_len` features.
    pub(crate) fn bytes(row_len: usize) -> usize {
        row_len * (4 * 4 + 2 * 8 + 4)
    }

    /// Statistics of `rows` (`[row, row_len]`, little-endian `dtype`) appended to `out` as `[4, row_len]` `f32`.
    pub(crate) fn chunk(&mut self, dtype: Dtype, row_len: usize, rows: &[u8], out: &mut Vec<u8>) {
        self.reset(row_len);
        for row in rows.chunks_exact(row_len * dtype.size()) {
            f32::decode(dtype, row, &mut self.row);
            if self.row.iter().all(|x| x.is_finite()) && self.count[0] > 0 {
                self.add_finite();
            } else {
                self.add_any();
            }
        }
        self.render(out);
    }

    fn reset(&mut self, row_len: usize) {
        for buffer in [&mut self.row, &mut self.shift] {
            buffer.clear();
            buffer.resize(row_len, 0.0);
        }
        self.min.clear();
        self.min.resize(row_len, f32::INFINITY);
        self.max.clear();
        self.max.resize(row_len, f32::NEG_INFINITY);
        for buffer in [&mut self.sum, &mut self.square] {
            buffer.clear();
            buffer.resize(row_len, 0.0);
        }
        self.count.clear();
        self.count.resize(row_len, 0);
    }

    /// Adds a row without a test per value; only called when every feature has its shift.
    fn add_finite(&mut self) {
        let sums = self.sum.iter_mut().zip(&mut self.square);
        let range = self.min.iter_mut().zip(&mut self.max).zip(&mut self.count);
        for (((x, shift), (sum, square)), ((min, max), count)) in
            self.row.iter().zip(&self.shift).zip(sums).zip(range)
        {
            let d = f64::from(*x) - f64::from(*shift);
            *sum += d;
            *square += d * d;
            *min = if *x < *min { *x } else { *min };
            *max = if *x > *max { *x } else { *max };
            *count += 1;
        }
    }

    fn add_any(&mut self) {
        for (i, &x) in self.row.iter().enumerate() {
            if !x.is_finite() {
                continue;
            }
            if self.count[i] == 0 {
                self.shift[i] = x;
            }
            let d = f64::from(x) - f64::from(self.shift[i]);
            self.sum[i] += d;
            self.square[i] += d * d;
            self.min[i] = if x < self.min[i] { x } else { self.min[i] };
            self.max[i] = if x > self.max[i] { x } else { self.max[i] };
            self.count[i] += 1;
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "statistics are stored in single precision")]
    fn render(&self, out: &mut Vec<u8>) {
        let present = |i: usize, x: f32| if self.count[i] == 0 { f32::NAN } else { x };
        let n = |i: usize| f64::from(self.count[i].max(1));
        let features = 0..self.count.len();
        let mut put = |value: f32| out.extend(value.to_le_bytes());
        features.clone().for_each(|i| put(present(i, self.min[i])));
        features.clone().for_each(|i| put(present(i, self.max[i])));
        for i in features.clone() {
            put(present(i, (f64::from(self.shift[i]) + self.sum[i] / n(i)) as f32));
        }
        for i in features {
            let m2 = self.square[i] - self.sum[i] * self.sum[i] / n(i);
            put(present(i, m2.max(0.0) as f32));
        }
    }
}

/// Counts NaN and infinite values in little-endian `dtype` bytes.
pub(crate) fn count_nonfinite(dtype: Dtype, bytes: &[u8]) -> (u64, u64) {
    let (words, _) = bytes.as_chunks::<2>();
    match dtype {
        Dtype::I32 => (0, 0),
        Dtype::F16 => count16(words, 0x7c00),
        Dtype::Bf16 => count16(words, 0x7f80),
        Dtype::F32 => {
            let (words, _) = bytes.as_chunks::<4>();
            let magnitude = |raw: &[u8; 4]| u32::from_le_bytes(*raw) & 0x7fff_ffff;
            let nan: u64 = words.iter().map(|raw| u64::from(magnitude(raw) > 0x7f80_0000)).sum();
            let inf = words.iter().map(|raw| u64::from(magnitude(raw) == 0x7f80_0000)).sum();
            (nan, inf)
        }
    }
}

/// `infinity` is the bit pattern of infinity; larger magnitudes are NaN.
fn count16(words: &[[u8; 2]], infinity: u16) -> (u64, u64) {
    let magnitude = |raw: &[u8; 2]| u16::from_le_bytes(*raw) & 0x7fff;
    let nan: u64 = words.iter().map(|raw| u64::from(magnitude(raw) > infinity)).sum();
    let inf = words.iter().map(|raw| u64::from(magnitude(raw) == infinity)).sum();
    (nan, inf)
}

/// The stored statistics of one site.
#[derive(Debug)]
pub struct Statistics {
    folder: PathBuf,
    spec: Arc<ArraySpec>,
    physical_rows: usize,
    counters: Arc<Counters>,
}

/// Statistics of all physical rows of one layer, merged over chunks. Every field is `[feature]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Rows that were merged.
    pub n_row: usize,
    /// Smallest finite value; NaN where there is none.
    pub min: Vec<f32>,
    /// Largest finite value; NaN where there is none.
    pub max: Vec<f32>,
    /// Mean. Chunks are weighted by their rows, so that it is exact where all values are finite.
    pub mean: Vec<f64>,
    /// Sum of squared deviations from the mean.
    pub m2: Vec<f64>,
}

impl Statistics {
    pub(crate) fn new(
        store: &Path,
        spec: Arc<ArraySpec>,
        physical_rows: usize,
        counters: &Arc<Counters>,
    ) -> Self {
        let folder = store.join("statistics").join(spec.name());
        Self { folder, spec, physical_rows, counters: Arc::clone(counters) }
    }

    /// Rows per chunk.
    pub fn chunk_rows(&self) -> usize {
        self.spec.chunk_rows
    }

    /// Chunks that hold rows.
    pub fn n_chunk(&self) -> usize {
        self.physical_rows.div_ceil(self.spec.chunk_rows)
    }

    /// Reads `[chunk, 4, feature]` (min, max, mean, m2) of one layer; `layer` is 0 where there is no layer axis.
    ///
    /// # Errors
    /// For a layer that was not captured, a chunk out of range, or a file that is missing or altered.
    pub fn read(&self, chunks: Range<usize>, layer: usize) -> Result<Vec<f32>> {
        let key = self.layer_key(layer)?;
        if chunks.end > self.n_chunk() {
            return Err(Error::OutOfRange {
                site: self.spec.name().to_owned(),
                axis: "row_chunk".into(),
                index: chunks.end as u64 - 1,
                length: self.n_chunk(),
            });
        }
        let width = N_STATISTIC * self.spec.row_len();
        let mut values = Vec::new();
        let mut next = chunks.start;
        while next < chunks.end {
            let (shard, first) = (next / self.spec.shard_chunks(), next % self.spec.shard_chunks());
            let n = (self.spec.shard_chunks() - first).min(chunks.end - next);
            let bytes = read_shard(&self.folder, &self.spec, shard, key)?;
            self.counters.add_bytes(bytes.len() + CRC);
            let start = values.len();
            values.resize(start + n * width, 0.0);
            f32::decode(
                Dtype::F32,
                &bytes[first * width * 4..][..n * width * 4],
                &mut values[start..],
            );
            next += n;
        }
        Ok(values)
    }

    /// Merges all chunks of one layer.
    ///
    /// # Errors
    /// As `read`.
    pub fn moments(&self, layer: usize) -> Result<Moments> {
        let f = self.spec.row_len();
        let mut all = Moments {
            n_row: 0,
            min: vec![f32::NAN; f],
            max: vec![f32::NAN; f],
            mean: vec![0.0; f],
            m2: vec![0.0; f],
        };
        let step = self.spec.shard_chunks();
        for start in (0..self.n_chunk()).step_by(step) {
            let end = (start + step).min(self.n_chunk());
            let values = self.read(start..end, layer)?;
            for (chunk, statistics) in (start..end).zip(values.chunks_exact(N_STATISTIC * f)) {
                let first = chunk * self.spec.chunk_rows;
                all.merge(statistics, self.spec.chunk_rows.min(self.physical_rows - first));
            }
        }
        Ok(all)
    }

    fn layer_key(&self, layer: usize) -> Result<Option<usize>> {
        let known = match self.spec.n_layer {
            Some(_) => self.spec.layers.binary_search(&layer).is_ok(),
            None => layer == 0,
        };
        if known {
            return Ok(self.spec.n_layer.map(|_| layer));
        }
        Err(Error::LayerNotCaptured {
            site: self.spec.name().to_owned(),
            layer,
            captured: self.spec.layers.clone(),
        })
    }
}

impl Moments {
    /// Adds a chunk of `n` rows; `statistics` is `[4, feature]`. Features without a finite value are skipped.
    fn merge(&mut self, statistics: &[f32], n: usize) {
        let f = self.mean.len();
        let total = (self.n_row + n) as f64;
        for i in 0..f {
            let (min, max) = (statistics[i], statistics[f + i]);
            self.min[i] = self.min[i].min(min);
            self.max[i] = self.max[i].max(max);
            let (mean, m2) = (f64::from(statistics[2 * f + i]), f64::from(statistics[3 * f + i]));
            if mean.is_nan() {
                continue;
            }
            let delta = mean - self.mean[i];
            self.mean[i] += delta * n as f64 / total;
            self.m2[i] += m2 + delta * delta * self.n_row as f64 * n as f64 / total;
        }
        self.n_row += n;
    }
}

/// Bytes of a shard's statistics without their checksum.
pub(crate) fn shard_bytes(spec: &ArraySpec) -> usize {
    spec.shard_chunks() * chunk_bytes(spec)
}

/// Bytes of one chunk's statistics.
pub(crate) fn chunk_bytes(spec: &ArraySpec) -> usize {
    N_STATISTIC * spec.row_len() * Dtype::F32.size()
}

/// Reads one statistics file, `[chunk, 4, feature]` as bytes, and checks its length and checksum.
pub(crate) fn read_shard(
    folder: &Path,
    spec: &ArraySpec,
    shard: usize,
    layer: Option<usize>,
) -> Result<Vec<u8>> {
    let path = folder.join(ArraySpec::statistics_key(shard, layer));
    let file = files::open(&path)?;
    let (length, expected) = (files::length(&file, &path)?, shard_bytes(spec) + CRC);
    if length != expected as u64 {
        return Err(Error::damaged(
            &path,
            format!("it is {length} bytes long instead of {expected}"),
        ));
    }
    let mut bytes = vec![0; expected];
    files::read_at(&file, &path, &mut bytes, 0)?;
    if split_crc(&bytes).is_none() {
        return Err(Error::damaged(&path, "its checksum does not hold"));
    }
    bytes.truncate(expected - CRC);
    Ok(bytes)
}
