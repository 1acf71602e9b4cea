//! The index at a shard's tail: where each inner chunk lies. Read as hostile, written exactly.

use std::{ops::Range, path::Path};

use super::{
    blob::Blob,
    spec::{ArraySpec, Codec},
};
use crate::error::{Error, Result};

/// Bytes of a checksum.
pub(crate) const CRC: usize = 4;
const ENTRY: usize = 16;

/// Where one inner chunk lies in its shard, checksum included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) nbytes: u64,
}

impl Entry {
    /// The chunk's bytes in its shard. They are bounded by the file's length when the index is read.
    pub(crate) fn range(self) -> Range<usize> {
        let at = |n| usize::try_from(n).unwrap_or(usize::MAX);
        at(self.offset)..at(self.offset + self.nbytes)
    }
}

/// The chunks of one shard, in order; `None` where a chunk is missing.
#[derive(Debug)]
pub(crate) struct ShardIndex {
    pub(crate) entries: Vec<Option<Entry>>,
}

/// Bytes of the index of a shard of this array.
pub(crate) fn index_bytes(spec: &ArraySpec) -> usize {
    spec.shard_chunks() * ENTRY + CRC
}

/// Where the index of a shard of `length` bytes starts.
pub(crate) fn index_start(spec: &ArraySpec, path: &Path, length: u64) -> Result<u64> {
    let size = index_bytes(spec);
    length.checked_sub(size as u64).ok_or_else(|| {
        Error::damaged(path, format!("{length} bytes are too few for its index of {size}"))
    })
}

impl ShardIndex {
    /// Reads and checks the index of an open shard of `length` bytes.
    pub(crate) fn read(spec: &ArraySpec, file: &Blob, path: &Path, length: u64) -> Result<Self> {
        let start = index_start(spec, path, length)?;
        let mut bytes = vec![0; index_bytes(spec)];
        file.read_at(path, &mut bytes, start)?;
        Self::parse(spec, path, start, &bytes)
    }

    /// Checks the bytes of an index that starts at byte `start` of its shard.
    pub(crate) fn parse(spec: &ArraySpec, path: &Path, start: u64, bytes: &[u8]) -> Result<Self> {
        let body = split_crc(bytes).ok_or_else(|| {
            Error::damaged(
                path,
                "the checksum of its index does not hold; the file is cut or altered",
            )
        })?;
        let (pairs, _) = body.as_chunks::<ENTRY>();
        let entries = pairs
            .iter()
            .enumerate()
            .map(|(chunk, raw)| parse_entry(spec, path, start, chunk, raw))
            .collect::<Result<_>>()?;
        Ok(Self { entries })
    }

    /// The index's bytes: entries, then their checksum.
    pub(crate) fn render(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.entries.len() * ENTRY + CRC);
        for entry in &self.entries {
            let (offset, nbytes) = entry.map_or((u64::MAX, u64::MAX), |e| (e.offset, e.nbytes));
            bytes.extend(offset.to_le_bytes());
            bytes.extend(nbytes.to_le_bytes());
        }
        append_crc(&mut bytes);
        bytes
    }

    /// The index of an uncompressed shard whose first `n` chunks are there, one after another.
    pub(crate) fn uncompressed(spec: &ArraySpec, n: usize) -> Self {
        let nbytes = (spec.chunk_bytes() + CRC) as u64;
        let entries = (0..spec.shard_chunks())
            .map(|i| (i < n).then_some(Entry { offset: i as u64 * nbytes, nbytes }))
            .collect();
        Self { entries }
    }
}

fn parse_entry(
    spec: &ArraySpec,
    path: &Path,
    end: u64,
    chunk: usize,
    raw: &[u8; ENTRY],
) -> Result<Option<Entry>> {
    let (halves, _) = raw.as_chunks::<8>();
    let (offset, nbytes) = (u64::from_le_bytes(halves[0]), u64::from_le_bytes(halves[1]));
    if offset == u64::MAX && nbytes == u64::MAX {
        return Ok(None);
    }
    let plain = spec.chunk_bytes() + CRC;
    let fits = match spec.codec {
        Codec::None => nbytes == plain as u64,
        Codec::Zstd => nbytes > CRC as u64 && nbytes <= encoded_bound(spec) as u64,
    };
    if !fits || offset.checked_add(nbytes).is_none_or(|stop| stop > end) {
        return Err(Error::damaged(
            path,
            format!(
                "its index puts chunk {chunk} at {nbytes} bytes from byte {offset}, which cannot be"
            ),
        ));
    }
    Ok(Some(Entry { offset, nbytes }))
}

/// The most bytes that a compressed chunk with its checksum can have.
pub(crate) fn encoded_bound(spec: &ArraySpec) -> usize {
    zstd::zstd_safe::compress_bound(spec.chunk_bytes()) + CRC
}

/// Appends the crc32c of what is there.
pub(crate) fn append_crc(bytes: &mut Vec<u8>) {
    let crc = crc32c::crc32c(bytes);
    bytes.extend(crc.to_le_bytes());
}

/// The body before the last four bytes, if they are its crc32c.
pub(crate) fn split_crc(bytes: &[u8]) -> Option<&[u8]> {
    let (body, crc) = bytes.split_last_chunk::<CRC>()?;
    (crc32c::crc32c(body) == u32::from_le_bytes(*crc)).then_some(body)
}

/// Decodes one stored chunk (checksum included) into `out`, which is exactly one chunk long.
///
/// `encoded` holds the bytes of the entry. Errors name the chunk.
pub(crate) fn decode_chunk(
    spec: &ArraySpec,
    path: &Path,
    chunk: usize,
    encoded: &[u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    let body = split_crc(encoded).ok_or_else(|| {
        Error::damaged(path, format!("the checksum of its chunk {chunk} does not hold"))
    })?;
    let size = spec.chunk_bytes();
    out.resize(size, 0);
    let bad = |what: String| Error::damaged(path, format!("its chunk {chunk} {what}"));
    match spec.codec {
        Codec::None if body.len() == size => out.copy_from_slice(body),
        Codec::None => return Err(bad(format!("has {} bytes instead of {size}", body.len()))),
        Codec::Zstd => {
            let n = zstd::bulk::decompress_to_buffer(body, out.as_mut_slice())
                .map_err(|error| bad(format!("cannot be decompressed: {error}")))?;
            if n != size {
                return Err(bad(format!("decompresses to {n} bytes instead of {size}")));
            }
        }
    }
    Ok(())
}

/// Encodes one whole chunk: compressed if the array says so, with its checksum.
pub(crate) fn encode_chunk(spec: &ArraySpec, path: &Path, chunk: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = match spec.codec {
        Codec::None => chunk.to_vec(),
        Codec::Zstd => zstd::bulk::compress(chunk, 1).map_err(|error| Error::io(path, error))?,
    };
    append_crc(&mut bytes);
    Ok(bytes)
}
