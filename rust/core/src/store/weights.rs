//! The readout weights: tensors of `weights/readout.safetensors`, read one at a time as `f32`.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};

use super::{
    blob::Blob,
    dtype::{Dtype, Element},
};
use crate::error::{Error, Result};

/// The largest header that is read; the format itself allows no more.
const MAX_HEADER: u64 = 100_000_000;

/// One tensor, widened.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its shape, as stored.
    pub shape: Vec<usize>,
    /// Its elements, row-major.
    pub data: Vec<f32>,
}

/// An open safetensors file.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    file: Blob,
    metadata: Metadata,
    data_start: u64,
}

impl Weights {
    /// Opens the file and checks its header against its length.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = Blob::open(path)?;
        let length = file.length(path)?;
        let mut prefix = [0; 8];
        file.read_at(path, &mut prefix, 0)?;
        let header = u64::from_le_bytes(prefix);
        if header > MAX_HEADER || header > length.saturating_sub(8) {
            return Err(Error::damaged(path, format!("its header claims {header} bytes")));
        }
        let bad = |error: String| Error::damaged(path, format!("its header is wrong: {error}"));
        let mut bytes = vec![0; usize::try_from(header).map_err(|e| bad(e.to_string()))?];
        file.read_at(path, &mut bytes, 8)?;
        // Deserialising checks offsets, shapes and overflow; the total length is checked here.
        let metadata: Metadata = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        let data = metadata.data_len() as u64;
        if 8 + header + data != length {
            return Err(Error::damaged(
                path,
                format!("it is {length} bytes long but its header describes {}", 8 + header + data),
            ));
        }
        Ok(Self { path: path.to_owned(), file, metadata, data_start: 8 + header })
    }

    /// Names of the tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.metadata.offset_keys();
        names.sort_unstable();
        names
    }

    /// The shape of a tensor, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.metadata.info(name).map(|info| info.shape.as_slice())
    }

    /// Reads one tensor as `f32`.
    ///
    /// # Errors
    /// `NoTensor` for an unknown name, `Dtype` for a type other than F32, F16, BF16, `Io` or `Damaged`.
    pub fn f32(&self, name: &str) -> Result<Tensor> {
        let info = self.metadata.info(name).ok_or_else(|| Error::NoTensor {
            path: self.path.clone(),
            name: name.to_owned(),
            known: self.names(),
        })?;
        let dtype = dtype_of(info).ok_or_else(|| Error::Dtype {
            array: name.to_owned(),
            stored: "another dtype than F32, F16 or BF16",
            verb: "read as",
            asked: "f32",
        })?;
        let (start, end) = info.data_offsets;
        let mut data = vec![0.0; (end - start) / dtype.size()];
        let at_a_time = self.file.block_bytes();
        let mut block = vec![0; at_a_time.min(end - start)];
        for (i, out) in data.chunks_mut(at_a_time / dtype.size()).enumerate() {
            let bytes = &mut block[..out.len() * dtype.size()];
            let offset = self.data_start + (start + i * at_a_time) as u64;
            self.file.read_at(&self.path, bytes, offset)?;
            f32::decode(dtype, &[], bytes, out);
        }
        Ok(Tensor { shape: info.shape.clone(), data })
    }
}

fn dtype_of(info: &TensorInfo) -> Option<Dtype> {
    match info.dtype {
        safetensors::Dtype::F32 => Some(Dtype::F32),
        safetensors::Dtype::F16 => Some(Dtype::F16),
        safetensors::Dtype::BF16 => Some(Dtype::Bf16),
        _ => None,
    }
}
