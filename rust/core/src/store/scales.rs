//! The scales of a shard's codes: a part of its statistics, which are checked once and stay at hand.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use super::{
    counters::Counters,
    map::Map,
    objects,
    spec::ArraySpec,
    statistics::{check_length, check_sum, read_file, scales_at},
};
use crate::error::{Error, Result};

/// The scales of one shard, read when a row of it is.
#[derive(Debug)]
pub(crate) struct Scales {
    /// The shard's statistics.
    path: PathBuf,
    bytes: OnceLock<Bytes>,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Map),
    /// The whole file: of a bucket, or where the process may not map as much.
    Held(Vec<u8>),
}

impl Scales {
    /// Those in the statistics at `path`, which are not touched yet.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, bytes: OnceLock::new() }
    }

    /// Opens the statistics if that was not done before.
    pub(crate) fn load(&self, spec: &ArraySpec, counters: &Counters) -> Result<()> {
        if self.bytes.get().is_some() {
            return Ok(());
        }
        let opened = open(&self.path, spec).map_err(|error| self.absent(spec, error))?;
        // Another thread may have been faster; its bytes were counted.
        self.bytes.get_or_init(|| {
            counters.add_bytes(opened.len());
            opened
        });
        Ok(())
    }

    /// The scales of a chunk, a little-endian `f32` for each column, which count once `check` has passed.
    pub(crate) fn of(&self, spec: &ArraySpec, chunk: usize) -> Result<&[u8]> {
        let range = scales_at(spec, chunk);
        match self.bytes.get() {
            Some(Bytes::Mapped(map)) => map.mapped(range),
            Some(Bytes::Held(bytes)) => Ok(&bytes[range]),
            None => Ok(&[]),
        }
    }

    /// Fails if the file was cut short while its bytes were used.
    pub(crate) fn check(&self) -> Result<()> {
        match self.bytes.get() {
            Some(Bytes::Mapped(map)) => map.check(),
            _ => Ok(()),
        }
    }

    fn absent(&self, spec: &ArraySpec, error: Error) -> Error {
        if !error.is_not_found() {
            return error;
        }
        let why = format!("it holds the scales of `{}`", spec.path);
        Error::Missing { path: self.path.clone(), why }
    }
}

impl Bytes {
    fn len(&self) -> usize {
        match self {
            Self::Mapped(map) => map.len(),
            Self::Held(bytes) => bytes.len(),
        }
    }
}

fn open(path: &Path, spec: &ArraySpec) -> Result<Bytes> {
    if objects::is_url(path) {
        return Ok(Bytes::Held(read_file(path, spec)?));
    }
    let fail = |error| Error::io(path, error);
    let file = File::open(path).map_err(fail)?;
    let length = check_length(path, spec, file.metadata().map_err(fail)?.len())?;
    let map = Map::new(file, path, length);
    if !map.is_mapped() {
        return Ok(Bytes::Held(read_file(path, spec)?));
    }
    map.read(0..length, |bytes| check_sum(path, bytes))??;
    Ok(Bytes::Mapped(map))
}
