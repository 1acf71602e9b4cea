//! One writer per store, held by a lock on `writer.lock` in the staging folder, and for a store in a bucket by an
//! object of that name too.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::stage::Folders;
use crate::{
    error::{Error, Result},
    store::{files, objects},
};

/// What the lock is called, on disk and in a bucket.
pub(super) const LOCK: &str = "writer.lock";

/// The right to write a store, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    /// Before `_file`, and so dropped before: whoever gets the file's lock can lock the bucket's store again.
    object: Option<ObjectLock>,
    _file: File,
}

impl Lock {
    /// Takes the locks, or says who has them, and for a bucket what to do `if_gone`.
    pub(super) fn take(folders: &Folders, if_gone: &str) -> Result<Self> {
        let (file, path) = lock_file(&folders.staging)?;
        let object = objects::is_url(&folders.store)
            .then(|| ObjectLock::take(folders, &file, &path, if_gone))
            .transpose()?;
        Ok(Self { object, _file: file })
    }
}

impl Lock {
    /// Fails if someone removed the lock on a store in a bucket: what is written from then on could be lost.
    pub(super) fn check(&self) -> Result<()> {
        self.object.as_ref().map_or(Ok(()), ObjectLock::check)
    }
}

/// Locks the file in the staging folder. The lock is released when the file is dropped.
fn lock_file(staging: &Path) -> Result<(File, PathBuf)> {
    let path = staging.join(LOCK);
    loop {
        let file = files::open_write(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { path }),
            Err(TryLockError::Error(error)) => return Err(Error::io(&path, error)),
        }
        // A writer that completes removes the folder: a lock on a file that is gone locks nothing.
        let held = file.metadata().map_err(|error| Error::io(&path, error))?.ino();
        if fs::metadata(&path).is_ok_and(|there| there.ino() == held) {
            return Ok((file, path));
        }
    }
}

/// The lock on a store in a bucket: an object that is made only if it is not there. It holds a number drawn by
/// its writer, which the file in the staging folder holds too, so that a writer which was killed leaves a lock that
/// the next one from the same folder knows for its own.
#[derive(Debug)]
struct ObjectLock {
    object: PathBuf,
    number: Vec<u8>,
    folders: Folders,
}

impl ObjectLock {
    fn take(folders: &Folders, file: &File, path: &Path, if_gone: &str) -> Result<Self> {
        let object = folders.store.join("staging").join(LOCK);
        let mine = files::read_small(path)?;
        let mine = if mine.is_empty() {
            let drawn = format!("{:032x}\n", rand::random::<u128>()).into_bytes();
            files::write_at(file, path, &drawn, 0)?;
            drawn
        } else {
            mine
        };
        match objects::create(&object, mine.clone()) {
            Err(error) if error.is_already_there() && files::read_small(&object)? == mine => {}
            Err(error) if error.is_already_there() => return Err(taken(object, if_gone)),
            made => made?,
        }
        Ok(Self { object, number: mine, folders: folders.clone() })
    }
}

impl ObjectLock {
    fn check(&self) -> Result<()> {
        match files::read_small(&self.object) {
            Ok(there) if there == self.number => Ok(()),
            Err(error) if !error.is_not_found() => Err(error),
            _ => {
                let lock = self.object.display();
                let why = format!(
                    "{lock} is not this writer's any more: another one may have written meanwhile; \
                     open the store again and go on from its last commit"
                );
                Err(Error::BadCommit { why })
            }
        }
    }
}

impl Drop for ObjectLock {
    fn drop(&mut self) {
        // One that stays says in its error how to remove it.
        if self.check().is_ok() {
            let _ = files::remove(&self.object);
        }
        // Nothing that is left in the folder is needed.
        let _ = self.folders.clean();
        let _ = files::remove(&self.folders.staging.join(LOCK));
        let _ = fs::remove_dir(&self.folders.staging);
    }
}

fn taken(object: PathBuf, if_gone: &str) -> Error {
    let what = format!("another writer has locked this store; if that one is gone, {if_gone}");
    Error::Remote { path: object, what }
}
