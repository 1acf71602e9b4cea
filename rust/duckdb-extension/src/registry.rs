//! Stores that this process has open, by path: a store is opened once and shared by all queries and
//! threads, and opened again when it has a newer commit or another store has taken its place.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use residuum_core::Store;

use crate::failure::{Failure, Result};

static STORES: LazyLock<Mutex<BTreeMap<PathBuf, Opened>>> = LazyLock::new(Mutex::default);

#[derive(Debug)]
struct Opened {
    store: Arc<Store>,
    root: RootFile,
}

/// What tells the root file of a store from that of one that replaced it.
#[derive(Debug, PartialEq, Eq)]
struct RootFile {
    modified: Option<SystemTime>,
    length: u64,
}

impl RootFile {
    fn of(store: &Path) -> Option<Self> {
        let metadata = fs::metadata(store.join("zarr.json")).ok()?;
        Some(Self { modified: metadata.modified().ok(), length: metadata.len() })
    }
}

/// The store at `path`, at its last commit.
///
/// # Errors
/// There is no folder at `path`, or it is not a readable store.
pub(crate) fn open(path: &str) -> Result<Arc<Store>> {
    let folder = fs::canonicalize(path)
        .map_err(|error| Failure::new(format!("{path} cannot be opened as a store: {error}")))?;
    let root = RootFile::of(&folder);
    // A panic while the map is locked cannot leave it half-changed: entries go in whole.
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(opened) = stores.get(&folder)
        && Some(&opened.root) == root.as_ref()
        && opened.store.is_current()
    {
        return Ok(Arc::clone(&opened.store));
    }
    stores.remove(&folder);
    let store = Arc::new(Store::open(&folder)?);
    if let Some(root) = root {
        stores.insert(folder, Opened { store: Arc::clone(&store), root });
    }
    Ok(store)
}
