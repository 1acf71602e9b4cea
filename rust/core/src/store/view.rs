//! The rows of one chunk where they lie: in the map of their shard, not copied.

use std::{ops::Range, sync::Arc};

use super::{array::SiteArray, dtype::Dtype, shards::OpenShard, spec::Codec};
use crate::error::{Error, Result};

/// The rows of one chunk of one layer, as bytes of their file. Keeps the map alive.
#[derive(Debug)]
pub struct ChunkView {
    shard: Arc<OpenShard>,
    bytes: Range<usize>,
    n_row: usize,
}

impl SiteArray {
    /// The visible rows of a chunk of one layer, which is 0 where there is no layer axis.
    ///
    /// # Errors
    /// `NotMapped` for chunks that are compressed, codes, in a bucket, or where the process may not map as much;
    /// as `read` for the layer and the shard; `OutOfRange` for a chunk behind the last row.
    pub fn view(&self, chunk: usize, layer: usize) -> Result<ChunkView> {
        let spec = self.spec();
        let (n_row, chunk_rows) = (self.n_row(), spec.chunk_rows);
        if chunk >= n_row.div_ceil(chunk_rows) {
            return Err(self.out_of_range("chunk", chunk as u64, n_row.div_ceil(chunk_rows)));
        }
        let not = |why: &str| Error::NotMapped { array: spec.path.clone(), why: why.to_owned() };
        match (spec.codec, spec.dtype) {
            (Codec::Zstd, _) => return Err(not("its chunks are compressed")),
            (_, Dtype::I8) => {
                return Err(not("it is int8, whose numbers are made when they are read"));
            }
            _ if !self.reads_rows_alone() => return Err(not("it lies in a bucket")),
            _ => {}
        }
        let shard = self.open_shard(chunk / spec.shard_chunks(), layer)?;
        if !shard.map.is_mapped() {
            return Err(not("the process may not map that much (ulimit -v)"));
        }
        let place = chunk % spec.shard_chunks();
        let Some(entry) = shard.index.entries[place] else {
            return Err(Error::damaged(&shard.path, format!("its index lacks chunk {place}")));
        };
        let n_row = chunk_rows.min(n_row - chunk * chunk_rows);
        let start = entry.range().start;
        Ok(ChunkView { shard, bytes: start..start + n_row * spec.row_bytes(), n_row })
    }
}

impl ChunkView {
    /// Rows in it.
    pub fn n_row(&self) -> usize {
        self.n_row
    }

    /// The stored numbers, little-endian. Zeros where the file was cut short since: `check` tells.
    ///
    /// # Errors
    /// `Damaged` if the shard ended before them when it was opened.
    pub fn bytes(&self) -> Result<&[u8]> {
        self.shard.map.mapped(self.bytes.clone())
    }

    /// Fails if the file was cut short while it was looked at.
    ///
    /// # Errors
    /// `Damaged` then.
    pub fn check(&self) -> Result<()> {
        self.shard.map.check()
    }
}
