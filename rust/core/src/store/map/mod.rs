//! Published files as memory: read without a copy, and without a call for each row.

mod guard;

use std::{
    cell::RefCell,
    fs::{self, File},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use memmap2::{Mmap, MmapOptions};

use self::guard::Watch;
use super::{
    files,
    objects::{Fetching, Object},
};
use crate::error::{Error, Result};

/// Bytes that are mapped now, in all stores.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    // What is read of files that are not mapped.
    static BUFFER: RefCell<Vec<u8>> = RefCell::default();
}

/// A published file. Such files are replaced whole, never changed; one that is cut short all the same gives an
/// error, where a plain map would kill the process.
#[derive(Debug)]
pub(crate) struct Map {
    path: PathBuf,
    len: usize,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mapped),
    /// Where the process may not map as much: each read is a call.
    Read(File),
    /// In a bucket: each read is a request.
    Object(Object),
}

#[derive(Debug)]
struct Mapped {
    // Before `bytes`, and so dropped before: addresses are watched while they are ours.
    watch: Watch,
    bytes: Mmap,
}

impl Map {
    /// Takes an open file of `len` bytes.
    pub(crate) fn new(file: File, path: &Path, len: usize) -> Self {
        let bytes = Mapped::new(&file, len).map_or(Bytes::Read(file), Bytes::Mapped);
        Self { path: path.to_owned(), len, bytes }
    }

    /// Bytes of the file when it was opened.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes an open object.
    pub(crate) fn object(object: Object, path: &Path, len: usize) -> Self {
        Self { path: path.to_owned(), len, bytes: Bytes::Object(object) }
    }

    /// Whether the file is kept open.
    pub(crate) fn holds_file(&self) -> bool {
        matches!(self.bytes, Bytes::Read(_))
    }

    /// Asks for sorted ranges of an object; a file's bytes are at hand.
    pub(crate) fn fetch(&self, ranges: Vec<Range<u64>>) -> Result<Fetching> {
        match &self.bytes {
            Bytes::Object(object) => object.fetch(ranges),
            _ => Err(Error::io(&self.path, io::ErrorKind::Unsupported.into())),
        }
    }

    /// Calls `work` with some of the bytes. If the file was cut short they may be nonsense: then this fails,
    /// whatever `work` said.
    pub(crate) fn read<R>(&self, range: Range<usize>, work: impl FnOnce(&[u8]) -> R) -> Result<R> {
        match &self.bytes {
            Bytes::Mapped(_) => {
                let done = work(self.mapped(range)?);
                self.check()?;
                Ok(done)
            }
            Bytes::Read(file) => self
                .buffered(range, work, |out, offset| files::read_at(file, &self.path, out, offset)),
            Bytes::Object(object) => {
                self.buffered(range, work, |out, offset| object.read_at(out, offset))
            }
        }
    }

    fn buffered<R>(
        &self,
        range: Range<usize>,
        work: impl FnOnce(&[u8]) -> R,
        fill: impl FnOnce(&mut [u8], u64) -> Result<()>,
    ) -> Result<R> {
        self.check_range(&range)?;
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(range.len(), 0);
            fill(buffer, range.start as u64)?;
            Ok(work(buffer))
        })
    }

    /// Some of the bytes of a file that is mapped; what was read of them counts once `check` has passed.
    pub(crate) fn mapped(&self, range: Range<usize>) -> Result<&[u8]> {
        self.check_range(&range)?;
        match &self.bytes {
            Bytes::Mapped(map) => Ok(&map.bytes[range]),
            _ => Err(Error::io(&self.path, io::ErrorKind::Unsupported.into())),
        }
    }

    /// Fails if the file was cut short while its bytes were read.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.bytes {
            Bytes::Mapped(map) if map.watch.is_broken() => {
                // A disk that cannot read a page gives the same signal.
                let is_whole =
                    fs::metadata(&self.path).is_ok_and(|meta| meta.len() >= self.len as u64);
                let why = if is_whole {
                    "the disk could not read some of it"
                } else {
                    "it was cut short while it was read"
                };
                Err(Error::damaged(&self.path, why))
            }
            _ => Ok(()),
        }
    }

    fn check_range(&self, range: &Range<usize>) -> Result<()> {
        if range.end > self.len {
            return Err(Error::damaged(&self.path, format!("it ends before byte {}", range.end)));
        }
        Ok(())
    }

    /// Whether reading touches nothing but what is asked for.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self.bytes, Bytes::Mapped(_))
    }

    /// Has the system begin to bring a range in, and does not wait for it.
    pub(crate) fn will_read(&self, range: Range<usize>) {
        if let Bytes::Mapped(map) = &self.bytes {
            // Without it each page is waited for by itself.
            let _ = map.bytes.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        }
    }

    /// Asks the system to bring a range in, where it knows how to; reading then does not stop at every page.
    pub(crate) fn will_need(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        if let Bytes::Mapped(map) = &self.bytes {
            // A kernel that does not know it reads page by page.
            let _ = map.bytes.advise_range(memmap2::Advice::PopulateRead, range.start, range.len());
        }
    }
}

impl Mapped {
    #[allow(unsafe_code, reason = "a map is only as unchanging as its file")]
    fn new(file: &File, len: usize) -> io::Result<Self> {
        if MAPPED.load(Relaxed).saturating_add(len) > most_mapped() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        // SAFETY: nobody writes to a published file; one that is cut short all the same is caught by `watch`.
        let bytes = unsafe { MmapOptions::new().len(len).map(file)? };
        let watch = Watch::new(bytes.as_ptr(), len)?;
        MAPPED.fetch_add(len, Relaxed);
        Ok(Self { watch, bytes })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        MAPPED.fetch_sub(self.bytes.len(), Relaxed);
    }
}

/// Bytes that may be mapped: a quarter of the addresses that the process was given, if they were counted.
fn most_mapped() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| guard::address_limit().map_or(usize::MAX, |limit| limit / 4))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn file(len: usize) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shard");
        std::fs::write(&path, vec![7; len]).unwrap();
        (folder, path)
    }

    #[test]
    fn a_file_cut_short_under_its_map_is_an_error() {
        let (_folder, path) = file(1 << 20);
        let map = Map::new(File::open(&path).unwrap(), &path, 1 << 20);
        assert!(matches!(map.bytes, Bytes::Mapped(_)));
        let sum = |bytes: &[u8]| bytes.iter().map(|&b| u64::from(b)).sum::<u64>();
        assert_eq!(map.read(0..1 << 20, sum).unwrap(), 7 << 20);
        File::options().write(true).open(&path).unwrap().set_len(5000).unwrap();
        let error = map.read(0..1 << 20, sum).unwrap_err().to_string();
        assert!(error.contains("cut short"), "{error}");
        // Another one is as good as before.
        let (_folder, path) = file(1 << 16);
        let map = Map::new(File::open(&path).unwrap(), &path, 1 << 16);
        assert_eq!(map.read(1..1 << 16, sum).unwrap(), 7 * 65535);
        assert!(map.read(1..(1 << 16) + 1, sum).is_err());
    }

    #[test]
    fn a_page_that_does_not_come_from_a_whole_file_is_the_disks() {
        let (_folder, path) = file(1 << 20);
        let map = Map::new(File::open(&path).unwrap(), &path, 1 << 20);
        let resize = |len| File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
        // The signal is that of a disk which cannot read; here it is a page that was away for a moment.
        let work = |bytes: &[u8]| {
            resize(5000);
            let last = bytes[bytes.len() - 1];
            resize(1 << 20);
            last
        };
        let error = map.read(0..1 << 20, work).unwrap_err().to_string();
        assert!(error.contains("the disk could not read"), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_mapped_is_read() {
        let (_folder, path) = file(100);
        let opened = File::open(&path).unwrap();
        let map = Map { path: path.clone(), len: 100, bytes: Bytes::Read(opened) };
        assert_eq!(map.read(10..20, <[u8]>::to_vec).unwrap(), vec![7; 10]);
        assert!(map.read(90..101, <[u8]>::len).is_err());
    }
}
