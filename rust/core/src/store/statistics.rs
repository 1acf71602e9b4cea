//! Per-chunk statistics: min, max, mean and m2 of every feature, over the finite values of a chunk's rows.
//!
//! They are of the values that readers see: of codes those that are decoded. Scale, `error_max` and `error_m2`
//! follow them there; `quantise` makes those.
//!
//! `m2` is the sum of squared deviations from the mean. Sums are kept in `f64` and shifted by the first
//! finite value, which is itself one of the values, so that cancellation costs at most a factor of the
//! number of rows.

use std::{
    array::from_fn as array,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    blob::Blob,
    counters::Counters,
    dtype::{Dtype, Element},
    files,
    index::{CRC, split_crc},
    spec::ArraySpec,
};
use crate::{
    error::{Error, Result},
    vector::{self, widest},
};

/// Where a chunk's scales stand in its statistics.
const SCALE: usize = 4;

/// Rows decoded at a time.
const BLOCK: usize = 16;
/// Features whose running sums are worked on at a time, so that they stay in registers.
const TILE: usize = 32;

/// Accumulates one chunk's statistics; reusable, so that its buffers are allocated once per thread.
#[derive(Debug, Default)]
pub(crate) struct Accumulator {
    /// `[BLOCK, row_len]`.
    rows: Vec<f32>,
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
        row_len * (4 * BLOCK + 4 * 4 + 2 * 8)
    }

    /// Statistics of `rows` (`[row, row_len]`, little-endian `dtype`, with the `scales` of codes) appended to `out`
    /// as `[4, row_len]` `f32`.
    pub(crate) fn chunk(
        &mut self,
        dtype: Dtype,
        scales: &[u8],
        row_len: usize,
        rows: &[u8],
        out: &mut Vec<u8>,
    ) {
        self.reset(row_len);
        let row_bytes = row_len * dtype.size();
        // The first row gives the shifts, so it goes alone.
        let (first, rest) = rows.split_at(row_bytes.min(rows.len()));
        // Told from the stored bits, which are fewer; a code that stands for NaN is told from its value.
        let known = dtype != Dtype::I8 && count_nonfinite(dtype, rows) == (0, 0);
        for block in std::iter::once(first).chain(rest.chunks(BLOCK * row_bytes)) {
            let n = block.len() / row_bytes;
            f32::decode(dtype, scales, block, &mut self.rows[..n * row_len]);
            let finite = known || widest!(vector::is_finite(&self.rows[..n * row_len]));
            if finite && self.count.iter().all(|n| *n > 0) {
                self.add_finite(n);
            } else {
                self.add_any(n);
            }
        }
        self.render(out);
    }

    fn reset(&mut self, row_len: usize) {
        refill(&mut self.rows, BLOCK * row_len, 0.0);
        refill(&mut self.shift, row_len, 0.0);
        refill(&mut self.min, row_len, f32::INFINITY);
        refill(&mut self.max, row_len, f32::NEG_INFINITY);
        refill(&mut self.sum, row_len, 0.0);
        refill(&mut self.square, row_len, 0.0);
        refill(&mut self.count, row_len, 0);
    }

    /// Adds the block's first `n` rows, all finite, with every feature's shift known: the same sums in the
    /// same order as `add_any`, in loops that the compiler turns into vector instructions.
    fn add_finite(&mut self, n: usize) {
        widest!(self.add_rows(n));
        // At most a chunk's rows, which are at most 2^24.
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        self.count.iter_mut().for_each(|count| *count += n);
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    fn add_rows(&mut self, n: usize) {
        let row_len = self.shift.len();
        let whole = row_len / TILE * TILE;
        for first in (0..whole).step_by(TILE) {
            let mut tile = Tile::<TILE>::load(self, first);
            self.rows[..n * row_len].chunks_exact(row_len).for_each(|row| tile.add(&row[first..]));
            tile.store(self, first);
        }
        for first in whole..row_len {
            let mut tile = Tile::<1>::load(self, first);
            self.rows[..n * row_len].chunks_exact(row_len).for_each(|row| tile.add(&row[first..]));
            tile.store(self, first);
        }
    }

    /// Adds the finite values of the block's first `n` rows.
    fn add_any(&mut self, n: usize) {
        let row_len = self.shift.len();
        for row in 0..n {
            for i in 0..row_len {
                let x = self.rows[row * row_len + i];
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

/// Running sums of `N` neighbouring features, in registers while a block's rows are added.
struct Tile<const N: usize> {
    shift: [f64; N],
    sum: [f64; N],
    square: [f64; N],
    min: [f32; N],
    max: [f32; N],
}

impl<const N: usize> Tile<N> {
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    fn load(from: &Accumulator, first: usize) -> Self {
        Self {
            shift: array(|i| f64::from(from.shift[first + i])),
            sum: array(|i| from.sum[first + i]),
            square: array(|i| from.square[first + i]),
            min: array(|i| from.min[first + i]),
            max: array(|i| from.max[first + i]),
        }
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    fn add(&mut self, row: &[f32]) {
        let Some(values) = row.first_chunk::<N>() else { return };
        for (i, &x) in values.iter().enumerate() {
            let d = f64::from(x) - self.shift[i];
            self.sum[i] += d;
            self.square[i] += d * d;
            self.min[i] = if x < self.min[i] { x } else { self.min[i] };
            self.max[i] = if x > self.max[i] { x } else { self.max[i] };
        }
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    fn store(&self, to: &mut Accumulator, first: usize) {
        to.sum[first..first + N].copy_from_slice(&self.sum);
        to.square[first..first + N].copy_from_slice(&self.square);
        to.min[first..first + N].copy_from_slice(&self.min);
        to.max[first..first + N].copy_from_slice(&self.max);
    }
}

fn refill<T: Copy>(buffer: &mut Vec<T>, n: usize, value: T) {
    buffer.clear();
    buffer.resize(n, value);
}

/// Counts NaN and infinite values in little-endian `dtype` bytes.
pub(crate) fn count_nonfinite(dtype: Dtype, bytes: &[u8]) -> (u64, u64) {
    match dtype {
        Dtype::I32 | Dtype::I8 => (0, 0),
        Dtype::F16 => count16(bytes, 0x7c00),
        Dtype::Bf16 => count16(bytes, 0x7f80),
        Dtype::F32 => {
            let (words, _) = bytes.as_chunks::<4>();
            count(words, 0x7f80_0000, |raw| u32::from_le_bytes(*raw) & 0x7fff_ffff)
        }
    }
}

fn count16(bytes: &[u8], infinity: u16) -> (u64, u64) {
    let (words, _) = bytes.as_chunks::<2>();
    count(words, infinity, |raw| u16::from_le_bytes(*raw) & 0x7fff)
}

/// (NaN, infinite) words: `magnitude` is the pattern without its sign, larger than `infinity` for NaN.
fn count<W, M: Ord + Copy>(
    words: &[W],
    infinity: M,
    magnitude: impl Fn(&W) -> M + Copy,
) -> (u64, u64) {
    let (mut nan, mut inf) = (0, 0);
    for block in words.chunks(4096) {
        // Nearly always there are none, which a loop without branches or sums finds out fastest.
        if widest!(block.iter().fold(false, |any, word| any | (magnitude(word) >= infinity))) {
            for word in block {
                nan += u64::from(magnitude(word) > infinity);
                inf += u64::from(magnitude(word) == infinity);
            }
        }
    }
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
    /// Rows in the chunks that have a finite value of the feature, which its mean and `m2` are over.
    pub n_finite: Vec<usize>,
    /// Smallest finite value; NaN where there is none.
    pub min: Vec<f32>,
    /// Largest finite value; NaN where there is none.
    pub max: Vec<f32>,
    /// Mean, NaN where there is no finite value. Chunks are weighted by their rows, so that it is exact where all
    /// values are finite.
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
        let folder = spec.statistics_folder(store);
        Self { folder, spec, physical_rows, counters: Arc::clone(counters) }
    }

    /// Whether the store has them: other tools may write stores without.
    pub(crate) fn exist(&self) -> Result<bool> {
        files::exists(&self.folder.join("zarr.json"))
    }

    /// Rows per chunk.
    pub fn chunk_rows(&self) -> usize {
        self.spec.chunk_rows
    }

    /// Chunks that hold rows.
    pub fn n_chunk(&self) -> usize {
        self.physical_rows.div_ceil(self.spec.chunk_rows)
    }

    /// Numbers kept of each chunk and feature: min, max, mean, m2, and of int8 scale, `error_max`, `error_m2`.
    pub fn n_statistic(&self) -> usize {
        self.spec.statistic_names().len()
    }

    /// Reads `[chunk, statistic, feature]` of one layer; `layer` is 0 where there is no layer axis.
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
        let width = self.n_statistic() * self.spec.row_len();
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
                &[],
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
            n_finite: vec![0; f],
            min: vec![f32::NAN; f],
            max: vec![f32::NAN; f],
            mean: vec![f64::NAN; f],
            m2: vec![f64::NAN; f],
        };
        let step = self.spec.shard_chunks();
        for start in (0..self.n_chunk()).step_by(step) {
            let end = (start + step).min(self.n_chunk());
            let values = self.read(start..end, layer)?;
            for (chunk, statistics) in (start..end).zip(values.chunks_exact(self.n_statistic() * f))
            {
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
    /// Adds a chunk of `n` rows; `statistics` is `[statistic, feature]`. Features without a finite value are skipped.
    fn merge(&mut self, statistics: &[f32], n: usize) {
        let f = self.mean.len();
        self.n_row += n;
        for i in 0..f {
            let (min, max) = (statistics[i], statistics[f + i]);
            self.min[i] = self.min[i].min(min);
            self.max[i] = self.max[i].max(max);
            let (mean, m2) = (f64::from(statistics[2 * f + i]), f64::from(statistics[3 * f + i]));
            if mean.is_nan() {
                continue;
            }
            let before = self.n_finite[i];
            self.n_finite[i] += n;
            if before == 0 {
                (self.mean[i], self.m2[i]) = (mean, m2);
                continue;
            }
            let (n, before, total) = (n as f64, before as f64, self.n_finite[i] as f64);
            let delta = mean - self.mean[i];
            self.mean[i] += delta * n / total;
            self.m2[i] += m2 + delta * delta * before * n / total;
        }
    }
}

/// Bytes of a shard's statistics without their checksum.
pub(crate) fn shard_bytes(spec: &ArraySpec) -> usize {
    spec.shard_chunks() * chunk_bytes(spec)
}

/// Bytes of one chunk's statistics.
pub(crate) fn chunk_bytes(spec: &ArraySpec) -> usize {
    spec.statistic_names().len() * spec.row_len() * Dtype::F32.size()
}

/// Where the scales of a chunk stand in its shard's statistics.
pub(crate) fn scales_at(spec: &ArraySpec, chunk: usize) -> Range<usize> {
    let n = spec.row_len() * Dtype::F32.size();
    let start = chunk * chunk_bytes(spec) + SCALE * n;
    start..start + n
}

/// Reads one statistics file, `[chunk, statistic, feature]` as bytes, and checks its length and checksum.
pub(crate) fn read_shard(
    folder: &Path,
    spec: &ArraySpec,
    shard: usize,
    layer: Option<usize>,
) -> Result<Vec<u8>> {
    let mut bytes = read_file(&folder.join(ArraySpec::statistics_key(shard, layer)), spec)?;
    bytes.truncate(bytes.len() - CRC);
    Ok(bytes)
}

/// Reads one statistics file whole, its checksum too, which is checked.
pub(crate) fn read_file(path: &Path, spec: &ArraySpec) -> Result<Vec<u8>> {
    let absent =
        || Error::Missing { path: path.to_owned(), why: "its shard has statistics".into() };
    let file =
        Blob::open(path).map_err(|error| if error.is_not_found() { absent() } else { error })?;
    let mut bytes = vec![0; check_length(path, spec, file.length(path)?)?];
    file.read_at(path, &mut bytes, 0)?;
    check_sum(path, &bytes)?;
    Ok(bytes)
}

/// Checks the length of a statistics file, and returns it.
pub(crate) fn check_length(path: &Path, spec: &ArraySpec, length: u64) -> Result<usize> {
    let expected = shard_bytes(spec) + CRC;
    if length == expected as u64 {
        return Ok(expected);
    }
    Err(Error::damaged(path, format!("it is {length} bytes long instead of {expected}")))
}

/// Checks the bytes of a statistics file against the checksum at their end.
pub(crate) fn check_sum(path: &Path, bytes: &[u8]) -> Result<()> {
    match split_crc(bytes) {
        Some(_) => Ok(()),
        None => Err(Error::damaged(path, "its checksum does not hold")),
    }
}
