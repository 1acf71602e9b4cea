//! A published file that is read by position, on disk or in a bucket.

use std::{fs::File, path::Path};

use super::{
    files,
    objects::{self, Object},
};
use crate::error::{Error, Result};

/// An open file. Read by position, not mapped: one that is cut short under us is an error, not a signal.
#[derive(Debug)]
pub(crate) enum Blob {
    File(File),
    Object(Object),
}

impl Blob {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(if objects::is_url(path) {
            Self::Object(Object::open(path)?)
        } else {
            Self::File(files::open(path)?)
        })
    }

    /// Its length in bytes; `path` is where it lies, for the error.
    pub(crate) fn length(&self, path: &Path) -> Result<u64> {
        match self {
            Self::File(file) => files::length(file, path),
            Self::Object(object) => Ok(object.len()),
        }
    }

    /// Fills `out` from `offset`; a file that ends before is damaged.
    pub(crate) fn read_at(&self, path: &Path, out: &mut [u8], offset: u64) -> Result<()> {
        match self {
            Self::File(file) => files::read_at(file, path, out, offset),
            Self::Object(object) => object.read_at(out, offset),
        }
    }

    /// Bytes to read at a time of something long: what the disk has at hand, or what a server sends side by side.
    pub(crate) fn block_bytes(&self) -> usize {
        match self {
            Self::File(_) => 1 << 20,
            Self::Object(_) => 32 << 20,
        }
    }
}

/// All bytes of a published file.
pub(crate) fn whole(path: &Path) -> Result<Vec<u8>> {
    let file = Blob::open(path)?;
    let length = file.length(path)?;
    let too_long = |_| Error::damaged(path, format!("it is {length} bytes long"));
    let mut bytes = vec![0; usize::try_from(length).map_err(too_long)?];
    file.read_at(path, &mut bytes, 0)?;
    Ok(bytes)
}
