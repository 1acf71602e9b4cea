//! One writer per store, held by a lock on `staging/writer.lock`.

use std::{
    fs::{File, TryLockError},
    os::unix::fs::MetadataExt,
    path::Path,
};

use crate::{
    error::{Error, Result},
    store::files,
};

/// Takes the lock, or says who has it. It is released when the file is dropped.
pub(super) fn take(staging: &Path) -> Result<File> {
    let path = staging.join("writer.lock");
    loop {
        let file = files::open_write(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { path }),
            Err(TryLockError::Error(error)) => return Err(Error::io(&path, error)),
        }
        // A writer that completes removes the folder: a lock on a file that is gone locks nothing.
        let held = file.metadata().map_err(|error| Error::io(&path, error))?.ino();
        if std::fs::metadata(&path).is_ok_and(|there| there.ino() == held) {
            return Ok(file);
        }
    }
}
