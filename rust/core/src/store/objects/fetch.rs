//! Ranges of an object on their way, and the ranges when they have come.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use object_store::{GetOptions, GetRange, ObjectStore};

use super::{
    Object,
    client::{Pending, SLOTS, start},
    failure::{failed, short},
    ranges::cut,
};
use crate::error::{Error, Result};

/// The most bytes of one request: longer ranges come as several, side by side.
pub(crate) const REQUEST_BYTES: u64 = 16 << 20;

/// Ranges of one object that were asked for.
#[derive(Debug)]
pub(crate) struct Fetching {
    path: PathBuf,
    parts: Vec<(Range<u64>, Pending<bytes::Bytes>)>,
}

impl Fetching {
    pub(super) fn begin(object: &Object, ranges: Vec<Range<u64>>) -> Result<Self> {
        let begin = |range: Range<u64>| {
            let (place, if_match) = (object.place.clone(), object.etag.clone());
            let wanted = Some(GetRange::Bounded(range.clone()));
            let pending = start(async move {
                // Closed never.
                let _slot = SLOTS.acquire().await;
                let options = GetOptions { range: wanted, if_match, ..GetOptions::default() };
                place.bucket.get_opts(&place.key, options).await?.bytes().await
            });
            Ok((range, pending.map_err(|error| failed(&object.path, error))?))
        };
        let parts = cut(&ranges, REQUEST_BYTES).into_iter().map(begin).collect::<Result<_>>()?;
        Ok(Self { path: object.path.clone(), parts })
    }

    /// Waits until all of them are here.
    pub(crate) fn wait(self) -> Result<Fetched> {
        let mut parts = Vec::with_capacity(self.parts.len());
        for (range, pending) in self.parts {
            let bytes = pending.wait().map_err(|error| failed(&self.path, error))?;
            if bytes.len() as u64 != range.end - range.start {
                return Err(short(&self.path, range.end));
            }
            parts.push((range.start, bytes));
        }
        Ok(Fetched { path: self.path, parts })
    }
}

/// Bytes of an object in memory, sorted by where they begin.
#[derive(Debug)]
pub(crate) struct Fetched {
    path: PathBuf,
    parts: Vec<(u64, bytes::Bytes)>,
}

impl Fetched {
    /// The last bytes of an object of `len`.
    pub(super) fn tail(path: &Path, len: u64, bytes: bytes::Bytes) -> Self {
        let start = len.saturating_sub(bytes.len() as u64);
        Self { path: path.to_owned(), parts: vec![(start, bytes)] }
    }

    /// Cuts an object's tail in two at byte `at` of the object.
    pub(crate) fn split_at(self, at: u64) -> Result<(Self, bytes::Bytes)> {
        let Self { path, mut parts } = self;
        let Some((start, bytes)) = parts.first_mut() else { return Err(short(&path, at)) };
        let n = at.checked_sub(*start).and_then(|n| usize::try_from(n).ok());
        let Some(n) = n.filter(|n| *n <= bytes.len()) else { return Err(short(&path, at)) };
        let behind = bytes.split_off(n);
        Ok((Self { path, parts }, behind))
    }

    /// Whether one request brought all of a range.
    pub(crate) fn holds(&self, range: &Range<u64>) -> bool {
        let has = |(start, bytes): &(u64, bytes::Bytes)| {
            *start <= range.start && range.end <= start + bytes.len() as u64
        };
        self.parts.iter().any(has)
    }

    /// Bytes that came.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Calls `work` with some of the bytes: a copy only where a request ends among them.
    pub(crate) fn with<R>(&self, range: Range<usize>, work: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let (start, n) = (range.start as u64, range.len());
        let part = self.parts.partition_point(|(first, _)| *first <= start).saturating_sub(1);
        if let Some((first, bytes)) = self.parts.get(part)
            && let Some(skip) = start.checked_sub(*first).and_then(|n| usize::try_from(n).ok())
            && let Some(found) = bytes.get(skip..skip + n)
        {
            return Ok(work(found));
        }
        let mut joined = vec![0; n];
        self.copy(start, &mut joined)?;
        Ok(work(&joined))
    }

    /// Fills `out` with the bytes from `offset` on.
    pub(crate) fn copy(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut done = 0;
        for (first, bytes) in &self.parts {
            let at = offset + done as u64;
            let Some(skip) = at.checked_sub(*first).and_then(|n| usize::try_from(n).ok()) else {
                break;
            };
            let Some(found) = bytes.get(skip..) else { continue };
            let n = found.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&found[..n]);
            done += n;
        }
        if done < out.len() { Err(missing(&self.path, offset + done as u64)) } else { Ok(()) }
    }
}

fn missing(path: &Path, at: u64) -> Error {
    Error::damaged(path, format!("byte {at} was not asked for"))
}
