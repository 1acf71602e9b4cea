//! Files: bounded reads, atomic writes, positional I/O that names the path when it fails.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{ErrorKind, Write},
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use super::objects::{self, Stamp};
use crate::error::{Error, Result};

/// The largest metadata file that is read into memory.
const MAX_SMALL: u64 = 1 << 28;

/// Reads a metadata file whole, refusing one of absurd size.
pub(crate) fn read_small(path: &Path) -> Result<Vec<u8>> {
    if objects::is_url(path) {
        return objects::read(path, MAX_SMALL);
    }
    let file = open(path)?;
    let length = length(&file, path)?;
    if length > MAX_SMALL {
        return Err(Error::damaged(path, format!("{length} bytes are too many for this file")));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    read_at(&file, path, &mut bytes, 0)?;
    Ok(bytes)
}

/// Opens a file for reading.
pub(crate) fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| Error::io(path, error))
}

/// Opens a file for reading and writing, creating it and its folders where they are not there.
pub(crate) fn open_write(path: &Path) -> Result<File> {
    let try_open =
        || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    match try_open() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create_parent(path)?;
            try_open().map_err(|error| Error::io(path, error))
        }
        other => other.map_err(|error| Error::io(path, error)),
    }
}

/// The file's length in bytes.
pub(crate) fn length(file: &File, path: &Path) -> Result<u64> {
    Ok(file.metadata().map_err(|error| Error::io(path, error))?.len())
}

/// Fills `out` from `offset`; a file that ends before is damaged.
pub(crate) fn read_at(file: &File, path: &Path, out: &mut [u8], offset: u64) -> Result<()> {
    file.read_exact_at(out, offset).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => Error::damaged(
            path,
            format!("it ends before byte {}", offset.saturating_add(out.len() as u64)),
        ),
        _ => Error::io(path, error),
    })
}

/// Has the system read what is asked for of a file and no more; where that cannot be said, it reads more.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "std has no call for it")]
pub(crate) fn reads_alone(file: &File) {
    use std::os::fd::AsRawFd;
    // SAFETY: it is given an open file, and touches no memory of ours.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn reads_alone(_: &File) {}

/// Writes all of `bytes` at `offset`.
pub(crate) fn write_at(file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
    file.write_all_at(bytes, offset).map_err(|error| Error::io(path, error))
}

/// Creates the folder a file is to lie in.
pub(crate) fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(|error| Error::io(parent, error))
}

/// Makes a folder's entries durable.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    open(path)?.sync_all().map_err(|error| Error::io(path, error))
}

/// Begins to write a range to the disk, so that little is left to wait for when the file is made durable.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "a call to the system")]
pub(crate) fn begin_sync(file: &File, offset: u64, len: usize) {
    let (Ok(offset), Ok(len)) = (offset.try_into(), len.try_into()) else { return };
    // SAFETY: the descriptor is open as long as `file` is. A failure is found when the file is made durable.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn begin_sync(_: &File, _: u64, _: usize) {}

/// Makes a file's bytes durable.
pub(crate) fn sync(file: &File, path: &Path) -> Result<()> {
    file.sync_all().map_err(|error| Error::io(path, error))
}

/// Makes many files or folders durable. At once, because a journal takes many together as fast as one.
pub(crate) fn sync_many(paths: &[PathBuf]) -> Result<()> {
    const THREADS: usize = 16;
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let work = || {
        while let Some(path) = paths.get(next.fetch_add(1, Relaxed)) {
            if let Err(error) = sync_folder(path) {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..THREADS.min(paths.len()) {
            scope.spawn(work);
        }
        work();
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// A finished file that is to take a public place.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) from: PathBuf,
    pub(crate) to: PathBuf,
    /// True if its bytes are durable already.
    pub(crate) durable: bool,
}

impl Finished {
    /// Writes `bytes` beside `path`, to replace it; `None` if the file holds these bytes already. An object is
    /// replaced whole, at once.
    pub(crate) fn beside(path: PathBuf, bytes: &[u8]) -> Result<Option<Self>> {
        if objects::is_url(&path) {
            if !exists(&path)? || read_small(&path)? != bytes {
                objects::put(&path, bytes.to_vec())?;
            }
            return Ok(None);
        }
        if fs::read(&path).is_ok_and(|there| there == bytes) {
            return Ok(None);
        }
        create_parent(&path)?;
        let from = temp_name(&path);
        fs::write(&from, bytes).map_err(|error| Error::io(&from, error))?;
        Ok(Some(Self { from, to: path, durable: false }))
    }
}

/// Uploads files that are to be objects, in their order, and removes them here; leaves the others alone. Done in
/// the background, so that a commit need not wait and little lies in the staging folder.
pub(crate) fn send(finished: Vec<Finished>) -> Result<Vec<Finished>> {
    let mut here = Vec::new();
    for file in finished {
        if objects::is_url(&file.to) {
            objects::put_file(&file.from, &file.to)?;
            remove(&file.from)?;
        } else {
            here.push(file);
        }
    }
    Ok(here)
}

/// Makes files durable, moves each to its place (replacing what was there), and makes that durable too.
///
/// Readers see the old bytes or the new ones; a crash leaves one of the two. `below` is a folder above all
/// of them that exists durably.
pub(crate) fn publish(finished: &[Finished], below: &Path) -> Result<()> {
    let fresh = finished.iter().filter(|file| !file.durable);
    sync_many(&fresh.map(|file| file.from.clone()).collect::<Vec<_>>())?;
    let mut folders = Vec::new();
    for Finished { from, to, .. } in finished {
        create_parent(to)?;
        fs::rename(from, to).map_err(|error| Error::io(to, error))?;
        folders.extend(
            to.ancestors().skip(1).take_while(|p| p.starts_with(below)).map(Path::to_owned),
        );
    }
    folders.sort_unstable();
    folders.dedup();
    sync_many(&folders)
}

/// Writes a new file so that it is there whole or not at all; fails if it is there already.
pub(crate) fn create_new_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    if objects::is_url(path) {
        return objects::create(path, bytes.to_vec());
    }
    create_parent(path)?;
    let temp = temp_name(path);
    let written = File::create(&temp)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::hard_link(&temp, path))
        .map_err(|error| Error::io(path, error));
    let removed = remove(&temp);
    // The first error is the one to report; a leftover temporary file is ignored by readers.
    written?;
    removed?;
    sync_folder(path.parent().unwrap_or(path))
}

/// What tells a file from the one that took its place; `None` where there is none.
pub(crate) fn stamp(path: &Path) -> Result<Option<Stamp>> {
    if objects::is_url(path) {
        return objects::stamp(path);
    }
    let found = |metadata: Metadata| {
        let modified = metadata.modified().ok()?;
        Some(Stamp { modified, len: metadata.len(), etag: None })
    };
    Ok(fs::metadata(path).ok().and_then(found))
}

/// Whether there is a file.
pub(crate) fn exists(path: &Path) -> Result<bool> {
    if objects::is_url(path) { Ok(objects::stamp(path)?.is_some()) } else { Ok(path.exists()) }
}

/// The first of these files that is not there.
pub(crate) fn first_missing(paths: &[PathBuf]) -> Result<Option<PathBuf>> {
    if paths.first().is_some_and(|path| objects::is_url(path)) {
        return objects::first_missing(paths);
    }
    Ok(paths.iter().find(|path| !path.is_file()).cloned())
}

fn temp_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Paths of all that is in a folder; none if there is no folder.
pub(crate) fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    if objects::is_url(folder) {
        return objects::children(folder);
    }
    let fail = |error| Error::io(folder, error);
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(fail)?.path())).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(fail(error)),
    }
}

/// Removes the files in a folder that were to get their names later, as `temp_name` calls them.
pub(crate) fn remove_temporary(folder: &Path) -> Result<()> {
    for path in children(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes a folder and all in it; fine if it is not there.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    if objects::is_url(path) {
        return objects::remove_tree(path);
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path, error)),
        _ => Ok(()),
    }
}

/// Removes a file; fine if it is not there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    if objects::is_url(path) {
        return objects::remove(path);
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path, error)),
        _ => Ok(()),
    }
}
