//! A new store in a bucket: made as a folder, then uploaded, its root last, so that whoever sees it can open it.

use std::path::{Path, PathBuf};

use super::{
    Writer,
    lock::{LOCK, Lock},
    stage::Folders,
};
use crate::{
    error::{Error, Result},
    store::{files, objects},
};

/// What a store's folders are called.
const FOLDERS: [&str; 6] = ["activations", "index", "statistics", "weights", "tables", "commits"];

impl Writer {
    /// Uploads the store in `folder` to be the store at the URL `store`, where there is none.
    ///
    /// What a writer that was killed in the middle of this left there is removed first.
    ///
    /// # Errors
    /// `StoreExists`, `NotAStore` if something else is there, `Remote` if the server refuses or another writer has locked the place, `Io`.
    pub fn upload(folder: &Path, store: &Path) -> Result<()> {
        let exists = || Error::StoreExists { path: store.to_owned() };
        let there = objects::list(store)?;
        if there.iter().any(|(object, _)| *object == store.join("zarr.json")) {
            return Err(exists());
        }
        let lock = store.join("staging").join(LOCK);
        if !there.is_empty() && !there.iter().any(|(object, _)| *object == lock) {
            let why = "other objects lie there: choose another name".to_owned();
            return Err(Error::NotAStore { path: store.to_owned(), why });
        }
        let if_gone = format!("remove everything below {}/ and capture again", store.display());
        let _lock = Lock::take(&Folders::of(store), &if_gone)?;
        let made = send(folder, store).and_then(|()| {
            let root = files::read_small(&folder.join("zarr.json"))?;
            objects::create_new(&store.join("zarr.json"), root)
        });
        match made {
            Ok(true) => Ok(()),
            Ok(false) => Err(exists()),
            Err(error) => {
                // Else they would be in the way of the next attempt, which finds no lock beside them.
                let _ = FOLDERS.iter().try_for_each(|name| files::remove_tree(&store.join(name)));
                Err(error)
            }
        }
    }
}

/// Uploads everything but the root.
fn send(folder: &Path, store: &Path) -> Result<()> {
    for name in FOLDERS {
        files::remove_tree(&store.join(name))?;
        for file in below(&folder.join(name))? {
            let name = file.strip_prefix(folder).unwrap_or(&file);
            objects::put_file(&file, &store.join(name))?;
        }
    }
    Ok(())
}

/// Every file below a folder.
fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in files::children(folder)? {
        if path.is_dir() {
            found.extend(below(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}
