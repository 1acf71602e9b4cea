//! Stores that this process has open, by path: a store is opened once and shared by all queries and
//! threads, and opened again when it has a newer commit or another store has taken its place.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use residuum_core::{Store, objects};

use crate::failure::{Failure, Result};

static STORES: LazyLock<Mutex<BTreeMap<PathBuf, Opened>>> = LazyLock::new(Mutex::default);

#[derive(Debug)]
struct Opened {
    store: Arc<Store>,
    root: RootFile,
    /// When it was last found to be current.
    looked: Instant,
}

/// How long a store in a bucket counts as current without a look, which is a request: `DuckDB` asks for every few
/// thousand rows.
const CURRENT: Duration = Duration::from_secs(1);

/// What tells the root file of a store from that of one that replaced it.
#[derive(Debug, PartialEq, Eq)]
struct RootFile {
    modified: Option<SystemTime>,
    length: u64,
    etag: Option<String>,
}

impl RootFile {
    fn of(store: &Path) -> Option<Self> {
        if objects::is_url(store) {
            // Whoever opens the store says what is wrong with it.
            let found = objects::stamp(&store.join("zarr.json")).ok()??;
            let (modified, length) = (Some(found.modified), found.len);
            return Some(Self { modified, length, etag: found.etag });
        }
        let metadata = fs::metadata(store.join("zarr.json")).ok()?;
        Some(Self { modified: metadata.modified().ok(), length: metadata.len(), etag: None })
    }
}

/// The store at `path`, at its last commit.
///
/// # Errors
/// There is no folder at `path`, or it is not a readable store.
pub(crate) fn open(path: &str) -> Result<Arc<Store>> {
    let remote = objects::is_url(Path::new(path));
    let folder = if remote { Ok(PathBuf::from(path)) } else { fs::canonicalize(path) }
        .map_err(|error| Failure::new(format!("{path} cannot be opened as a store: {error}")))?;
    // A panic while the map is locked cannot leave it half-changed: entries go in whole.
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(opened) = stores.get(&folder)
        && remote
        && opened.looked.elapsed() < CURRENT
    {
        return Ok(Arc::clone(&opened.store));
    }
    let root = RootFile::of(&folder);
    if let Some(opened) = stores.get_mut(&folder)
        && Some(&opened.root) == root.as_ref()
        && opened.store.is_current()?
    {
        opened.looked = Instant::now();
        return Ok(Arc::clone(&opened.store));
    }
    stores.remove(&folder);
    let store = Arc::new(Store::open(&folder)?);
    if let Some(root) = root {
        stores.insert(folder, Opened { store: Arc::clone(&store), root, looked: Instant::now() });
    }
    Ok(store)
}
