//! Element types on disk and in memory, and the conversions between them.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::error::{Error, Result};

/// The code that stands for NaN.
pub(crate) const NAN_CODE: i8 = i8::MIN;

/// The type of a stored array's elements. Little-endian on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// Signed 32-bit integers, for indexes.
    I32,
    /// Codes from -127 to 127, times a scale that each chunk has for each column: see `quantise`.
    I8,
}

impl Dtype {
    /// The name in `zarr.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::I32 => "int32",
            Self::I8 => "int8",
        }
    }

    /// The dtype with that name in `zarr.json`.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::F32, Self::F16, Self::Bf16, Self::I32, Self::I8]
            .into_iter()
            .find(|d| d.as_str() == name)
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 => 1,
        }
    }

    /// What rows are kept as until their chunk is full: codes need all of its rows.
    pub(crate) fn staged(self) -> Self {
        if self == Self::I8 { Self::F32 } else { self }
    }

    /// The bytes of the fill value: NaN or the code for it, or -1 for indexes. `fill()[..size()]` is meaningful.
    pub(crate) fn fill(self) -> [u8; 4] {
        match self {
            Self::F32 => [0, 0, 0xc0, 0x7f],
            Self::F16 => [0, 0x7e, 0, 0],
            Self::Bf16 => [0xc0, 0x7f, 0, 0],
            Self::I32 => [0xff; 4],
            Self::I8 => [NAN_CODE.to_le_bytes()[0], 0, 0, 0],
        }
    }

    /// Overwrites `bytes` with the fill value.
    pub(crate) fn fill_bytes(self, bytes: &mut [u8]) {
        let fill = self.fill();
        for element in bytes.chunks_exact_mut(self.size()) {
            element.copy_from_slice(&fill[..self.size()]);
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u16 {}
    impl Sealed for i32 {}
}

/// A type that stored elements can be read as: `f32` (widens exactly; codes: times their scale), `u16` (raw 16-bit patterns), `i32`.
pub trait Element: sealed::Sealed + Copy + Default + Send + Sync {
    /// The type's name in errors.
    const NAME: &'static str;

    /// True if elements of `dtype` can be read as `Self`.
    fn reads(dtype: Dtype) -> bool;

    /// Converts little-endian `bytes` of `dtype` into `out`; `bytes.len() == out.len() * dtype.size()`.
    ///
    /// `scales` holds the scales of codes, a little-endian `f32` for each column, and `bytes` rows of as many
    /// columns; other dtypes have none.
    fn decode(dtype: Dtype, scales: &[u8], bytes: &[u8], out: &mut [Self]);
}

impl Element for f32 {
    const NAME: &'static str = "f32";

    fn reads(dtype: Dtype) -> bool {
        dtype != Dtype::I32
    }

    fn decode(dtype: Dtype, scales: &[u8], bytes: &[u8], out: &mut [Self]) {
        match dtype {
            Dtype::F32 | Dtype::I32 => {
                for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = Self::from_le_bytes(*raw);
                }
            }
            Dtype::Bf16 => {
                for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = Self::from_bits(u32::from(u16::from_le_bytes(*raw)) << 16);
                }
            }
            Dtype::F16 => widen_f16(bytes, out),
            Dtype::I8 => multiply(scales, bytes, out),
        }
    }
}

/// Multiplies rows of codes by the scales of their columns.
fn multiply(scales: &[u8], codes: &[u8], out: &mut [f32]) {
    let (scales, _) = scales.as_chunks::<4>();
    let width = scales.len().max(1);
    for (values, codes) in out.chunks_exact_mut(width).zip(codes.chunks_exact(width)) {
        for ((value, code), scale) in values.iter_mut().zip(codes).zip(scales) {
            *value = value_of(code.cast_signed(), f32::from_le_bytes(*scale));
        }
    }
}

/// The number that a code of a column with that scale stands for.
pub(crate) fn value_of(code: i8, scale: f32) -> f32 {
    let value = f32::from(code) * scale;
    if code == NAN_CODE { f32::NAN } else { value }
}

/// Widens through `half`, which picks F16C at run time; in blocks, because it wants aligned input.
fn widen_f16(bytes: &[u8], out: &mut [f32]) {
    const BLOCK: usize = 256;
    let mut block = [f16::ZERO; BLOCK];
    for (values, raw) in out.chunks_mut(BLOCK).zip(bytes.chunks(BLOCK * 2)) {
        for (half, pair) in block.iter_mut().zip(raw.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(*pair);
        }
        block[..values.len()].convert_to_f32_slice(values);
    }
}

impl Element for u16 {
    const NAME: &'static str = "raw 16-bit values";

    fn reads(dtype: Dtype) -> bool {
        dtype.size() == 2
    }

    fn decode(_: Dtype, _: &[u8], bytes: &[u8], out: &mut [Self]) {
        for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *value = Self::from_le_bytes(*raw);
        }
    }
}

impl Element for i32 {
    const NAME: &'static str = "i32";

    fn reads(dtype: Dtype) -> bool {
        dtype == Dtype::I32
    }

    fn decode(_: Dtype, _: &[u8], bytes: &[u8], out: &mut [Self]) {
        for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = Self::from_le_bytes(*raw);
        }
    }
}

/// Rows handed to the writer: borrowed, row-major, converted to the array's dtype on the way.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Double precision; rounded once, to the stored dtype.
    F64(&'a [f64]),
    /// Bit patterns of IEEE halves.
    F16(&'a [u16]),
    /// Bit patterns of bfloat16.
    Bf16(&'a [u16]),
    /// Integers, for integer arrays only.
    I32(&'a [i32]),
}

impl Source<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::F64(x) => x.len(),
            Self::F16(x) | Self::Bf16(x) => x.len(),
            Self::I32(x) => x.len(),
        }
    }

    /// True if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type's name in errors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::F16(_) => "f16",
            Self::Bf16(_) => "bf16",
            Self::I32(_) => "i32",
        }
    }

    /// Refuses the one mixture that has no meaning: integers and floating point.
    pub(crate) fn check(&self, array: &str, dtype: Dtype) -> Result<()> {
        if matches!(self, Self::I32(_)) == (dtype == Dtype::I32) {
            return Ok(());
        }
        Err(Error::Dtype {
            array: array.to_owned(),
            stored: dtype.as_str(),
            verb: "written from",
            asked: self.name(),
        })
    }

    /// Appends elements `start..start + n` to `out` as little-endian `dtype`, which is none of codes. Call `check`
    /// before.
    pub(crate) fn encode(&self, dtype: Dtype, start: usize, n: usize, out: &mut Vec<u8>) {
        let range = start..start + n;
        match *self {
            Self::F32(x) => encode_f32(&x[range], dtype, out),
            Self::F64(x) => encode_f64(&x[range], dtype, out),
            Self::I32(x) => out.extend(x[range].iter().flat_map(|v| v.to_le_bytes())),
            Self::F16(x) if dtype == Dtype::F16 => put_u16(&x[range], out),
            Self::Bf16(x) if dtype == Dtype::Bf16 => put_u16(&x[range], out),
            Self::F16(x) => {
                let wide: Vec<f32> = x[range].iter().map(|&v| f16::from_bits(v).to_f32()).collect();
                encode_f32(&wide, dtype, out);
            }
            Self::Bf16(x) => {
                let wide: Vec<f32> =
                    x[range].iter().map(|&v| f32::from_bits(u32::from(v) << 16)).collect();
                encode_f32(&wide, dtype, out);
            }
        }
    }
}

fn put_u16(values: &[u16], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + values.len() * 2, 0);
    for (raw, value) in out[start..].as_chunks_mut::<2>().0.iter_mut().zip(values) {
        *raw = value.to_le_bytes();
    }
}

fn encode_f32(values: &[f32], dtype: Dtype, out: &mut Vec<u8>) {
    const BLOCK: usize = 256;
    match dtype {
        Dtype::F32 | Dtype::I32 | Dtype::I8 => {
            let start = out.len();
            out.resize(start + values.len() * 4, 0);
            for (raw, value) in out[start..].as_chunks_mut::<4>().0.iter_mut().zip(values) {
                *raw = value.to_le_bytes();
            }
        }
        Dtype::F16 => {
            let mut block = [f16::ZERO; BLOCK];
            for part in values.chunks(BLOCK) {
                block[..part.len()].convert_from_f32_slice(part);
                put_u16(block[..part.len()].reinterpret_cast(), out);
            }
        }
        Dtype::Bf16 => {
            let mut block = [bf16::ZERO; BLOCK];
            for part in values.chunks(BLOCK) {
                block[..part.len()].convert_from_f32_slice(part);
                put_u16(block[..part.len()].reinterpret_cast(), out);
            }
        }
    }
}

fn encode_f64(values: &[f64], dtype: Dtype, out: &mut Vec<u8>) {
    const BLOCK: usize = 256;
    match dtype {
        Dtype::F32 | Dtype::I32 | Dtype::I8 => {
            #[allow(clippy::cast_possible_truncation, reason = "rounding to single is the purpose")]
            let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            encode_f32(&narrow, Dtype::F32, out);
        }
        Dtype::F16 => {
            let mut block = [f16::ZERO; BLOCK];
            for part in values.chunks(BLOCK) {
                block[..part.len()].convert_from_f64_slice(part);
                put_u16(block[..part.len()].reinterpret_cast(), out);
            }
        }
        Dtype::Bf16 => {
            let mut block = [bf16::ZERO; BLOCK];
            for part in values.chunks(BLOCK) {
                block[..part.len()].convert_from_f64_slice(part);
                put_u16(block[..part.len()].reinterpret_cast(), out);
            }
        }
    }
}
