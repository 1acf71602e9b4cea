//! A matrix of weights as it lies in a model's file.

use half::{bf16, f16, slice::HalfBitsSliceExt, slice::HalfFloatSliceExt};
use rayon::prelude::*;

use crate::Result;
use crate::kernels::check::{elements, same_len};
use crate::kernels::matmul::MatRef;

/// Weights `[in, out]`; 16 bits are widened when they are used.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// 32 bits.
    F32(MatRef<'a>),
    /// 16 bits.
    Half(Halves<'a>),
}

impl Weight<'_> {
    /// Lengths of `[in, out]`.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::F32(matrix) => (matrix.rows(), matrix.cols()),
            Self::Half(halves) => (halves.rows, halves.cols),
        }
    }
}

/// A matrix of 16-bit numbers.
#[derive(Debug, Clone, Copy)]
pub struct Halves<'a> {
    bits: &'a [u16],
    rows: usize,
    cols: usize,
    transposed: bool,
    brain: bool,
}

impl<'a> Halves<'a> {
    /// `bits` holds `[rows, cols]`, or, `transposed`, `[cols, rows]`, row after row; `brain` says
    /// that they are bfloat16 rather than IEEE halves.
    ///
    /// # Errors
    /// If the length of `bits` is not `rows * cols`.
    pub fn new(
        bits: &'a [u16],
        rows: usize,
        cols: usize,
        transposed: bool,
        brain: bool,
    ) -> Result<Self> {
        same_len("matrix", bits.len(), elements(&[rows, cols])?)?;
        Ok(Self { bits, rows, cols, transposed, brain })
    }

    /// Columns `start .. start + cols` in 32 bits, into `wide`; gives the matrix of them.
    pub(crate) fn columns<'w>(
        &self,
        start: usize,
        cols: usize,
        wide: &'w mut Vec<f32>,
    ) -> Result<MatRef<'w>> {
        wide.resize(self.rows * cols, 0.0);
        if self.transposed {
            let bits = &self.bits[start * self.rows..][..cols * self.rows];
            let row = self.rows.max(1);
            wide.par_chunks_mut(row).zip(bits.par_chunks(row)).for_each(|(wide, bits)| {
                self.widen(bits, wide);
            });
            return MatRef::transposed(wide, self.rows, cols);
        }
        wide.par_chunks_mut(cols.max(1)).enumerate().for_each(|(row, wide)| {
            self.widen(&self.bits[row * self.cols + start..][..cols], wide);
        });
        MatRef::new(wide, self.rows, cols)
    }

    fn widen(&self, bits: &[u16], wide: &mut [f32]) {
        if self.brain {
            for (wide, &bits) in wide.iter_mut().zip(bits) {
                *wide = bf16::from_bits(bits).to_f32();
            }
        } else {
            let halves: &[f16] = bits.reinterpret_cast();
            halves.convert_to_f32_slice(wide);
        }
    }
}
