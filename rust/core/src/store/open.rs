//! A store opened for reading, at its last commit.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use serde_json::Value;

use super::{
    array::SiteArray,
    commit::{self, Commit},
    counters::Counters,
    files,
    objects::{self, Stamp},
    spec::ArraySpec,
    statistics::Statistics,
    weights::Weights,
};
use crate::{
    error::{Error, Result},
    site::Site,
};

/// The store format this version writes, and the newest it reads.
pub const FORMAT: u64 = 1;

/// A store, as its last commit left it. Cheap to share between threads; later commits are not seen.
pub struct Store {
    path: PathBuf,
    attributes: Value,
    commit: Commit,
    newest: u64,
    /// What tells the record of an interrupted capture from a later one, if there was one.
    interrupted: Option<Stamp>,
    sites: BTreeMap<Site, Arc<SiteArray>>,
    target: Option<Arc<SiteArray>>,
    vocabulary: OnceLock<Arc<Vec<String>>>,
    counters: Arc<Counters>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path)
            .field("commit", &self.commit.commit)
            .field("sites", &self.sites())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store at its newest valid commit.
    ///
    /// # Errors
    /// `NotAStore` without our marker, `NewerFormat`, `Missing` without a commit or an array it promises,
    /// `Damaged` where metadata is unreadable, contradicts the commit or states impossible lengths.
    pub fn open(path: &Path) -> Result<Self> {
        let attributes = read_attributes(path)?;
        // Looked at before it is read: a record written in between is then taken for a newer one.
        let interrupted = files::stamp(&commit::interrupted_file(path))?;
        let latest = commit::latest(path)?;
        let newest = latest.damaged.first().copied().unwrap_or(latest.numbered.commit);
        let commit = latest.interrupted.unwrap_or(latest.numbered);
        let counters = Arc::new(Counters::default());
        let mut sites = BTreeMap::new();
        let mut target = None;
        for name in commit.arrays.keys() {
            let array = open_array(path, name, &commit, &counters)?;
            array.check_present()?;
            match name.strip_prefix("activations/") {
                Some(site) => {
                    sites.insert(site.parse()?, Arc::new(array));
                }
                None => target = Some(Arc::new(array)),
            }
        }
        let vocabulary = OnceLock::new();
        let path = path.to_owned();
        Ok(Self {
            path,
            attributes,
            commit,
            newest,
            interrupted,
            sites,
            target,
            vocabulary,
            counters,
        })
    }

    /// The store's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `attributes.residuum` of the root group: format, model, capture.
    pub fn attributes(&self) -> &Value {
        &self.attributes
    }

    /// The commit that this view shows.
    pub fn commit(&self) -> &Commit {
        &self.commit
    }

    /// Names of the captured sites, in the order a pass reaches them.
    pub fn sites(&self) -> Vec<&str> {
        self.sites.keys().map(|site| site.as_str()).collect()
    }

    /// The array of a site.
    ///
    /// # Errors
    /// `UnknownSite` for a name that is none, `SiteNotCaptured` for a site that is not here.
    pub fn site(&self, name: &str) -> Result<&Arc<SiteArray>> {
        let site: Site = name.parse()?;
        self.sites.get(&site).ok_or_else(|| Error::SiteNotCaptured {
            name: name.to_owned(),
            captured: self.sites().into_iter().map(ToOwned::to_owned).collect(),
        })
    }

    /// `index/target`: per token row the id of the token that follows it, -1 at an example's end.
    pub fn target(&self) -> Option<&Arc<SiteArray>> {
        self.target.as_ref()
    }

    /// The per-chunk statistics of a site; `None` where the site keeps none.
    ///
    /// # Errors
    /// As `site`.
    pub fn statistics(&self, site: &str) -> Result<Option<Statistics>> {
        self.site(site)?.statistics()
    }

    /// Whether the store keeps readout weights; one that was imported need not.
    ///
    /// # Errors
    /// `Remote` if the server of a store in a bucket refuses.
    pub fn has_weights(&self) -> Result<bool> {
        files::exists(&self.path.join("weights").join("readout.safetensors"))
    }

    /// The readout weights, tensor by tensor.
    ///
    /// # Errors
    /// If `weights/readout.safetensors` is absent or its header is not believable.
    pub fn weights(&self) -> Result<Weights> {
        Weights::open(&self.path.join("weights").join("readout.safetensors"))
    }

    /// The tensors of a tuned lens of that name, `lenses/<name>.safetensors`.
    ///
    /// # Errors
    /// If there is none, or its header is not believable.
    pub fn lens(&self, name: &str) -> Result<Weights> {
        let path = self.path.join("lenses").join(format!("{name}.safetensors"));
        let plain = !name.is_empty() && !name.contains(['/', '\\']);
        if !plain || !files::exists(&path)? {
            return Err(Error::argument(format!(
                "{} has no lens `{name}`: train one with `residuum run tuned_lens {0}`, or save a \
                 published one with residuum.lenses.save",
                self.path.display()
            )));
        }
        Weights::open(&path)
    }

    /// The decoded text of every token id; read once.
    ///
    /// # Errors
    /// If `weights/vocabulary.json` is absent or not an array of strings.
    pub fn vocabulary(&self) -> Result<Arc<Vec<String>>> {
        if let Some(words) = self.vocabulary.get() {
            return Ok(Arc::clone(words));
        }
        let file = self.path.join("weights").join("vocabulary.json");
        let words = read_vocabulary(&file)?;
        Ok(Arc::clone(self.vocabulary.get_or_init(|| Arc::new(words))))
    }

    /// The Parquet files of a table, whole, in the order of their rows; none of a table that is not there.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn table_files(&self, table: &str) -> Result<Vec<Vec<u8>>> {
        let folder = self.path.join("tables").join(table);
        let parts = self.commit.tables.get(table);
        parts.into_iter().flatten().map(|part| super::blob::whole(&folder.join(part))).collect()
    }

    /// What has been read through this store so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// True while no newer commit has appeared; two looks at the file system.
    ///
    /// # Errors
    /// `Remote` if the server of a store in a bucket refuses.
    pub fn is_current(&self) -> Result<bool> {
        Ok(!files::exists(&commit::file(&self.path, self.newest.saturating_add(1)))?
            && files::stamp(&commit::interrupted_file(&self.path))? == self.interrupted)
    }
}

/// Reads `weights/vocabulary.json`.
pub(crate) fn read_vocabulary(file: &Path) -> Result<Vec<String>> {
    let bytes = files::read_small(file)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::damaged(file, format!("it is no array of strings: {error}")))
}

/// `attributes.residuum` of a store's root, checked for the format.
pub(crate) fn read_attributes(path: &Path) -> Result<Value> {
    let not = |why: &str| Error::NotAStore { path: path.to_owned(), why: why.to_owned() };
    if objects::is_url(path) {
        objects::check(path)?;
    }
    let file = path.join("zarr.json");
    let text = match files::read_small(&file) {
        Ok(text) => text,
        Err(_) if path.is_file() => return Err(not("it is a file, and a store is a folder")),
        Err(error) if !error.is_not_found() => return Err(error),
        Err(_) if objects::is_url(path) || path.exists() => {
            return Err(not("it holds no zarr.json"));
        }
        Err(_) => return Err(not("there is no such folder")),
    };
    let mut root: Value = serde_json::from_slice(&text)
        .map_err(|error| Error::damaged(&file, format!("it is no JSON: {error}")))?;
    let residuum = root
        .pointer_mut("/attributes/residuum")
        .map(Value::take)
        .ok_or_else(|| not("its zarr.json lacks the attribute `residuum`"))?;
    match residuum.get("format").and_then(Value::as_u64) {
        Some(FORMAT) => Ok(residuum),
        Some(found) if found > FORMAT => {
            Err(Error::NewerFormat { path: file, found, supported: FORMAT })
        }
        _ => Err(Error::damaged(&file, "attributes.residuum.format is no format of ours")),
    }
}

/// The `zarr.json` of an array that a commit names, and where it lies.
pub(crate) fn array_json(store: &Path, name: &str, commit: &Commit) -> Result<(PathBuf, Vec<u8>)> {
    // Names become paths: only the two shapes that we write get that far.
    let known = name == "index/target"
        || name.strip_prefix("activations/").is_some_and(|site| site.parse::<Site>().is_ok());
    if !known {
        return Err(Error::damaged(
            &commit::file(store, commit.commit),
            format!("it names `{name}`, which is no array of ours"),
        ));
    }
    let file = store.join(name).join("zarr.json");
    let json = files::read_small(&file).map_err(|error| {
        let why = format!("commit {} holds `{name}`", commit.commit);
        if error.is_not_found() { Error::Missing { path: file.clone(), why } } else { error }
    })?;
    Ok((file, json))
}

/// Opens one array that a commit names, and checks both against each other.
pub(crate) fn open_array(
    store: &Path,
    name: &str,
    commit: &Commit,
    counters: &Arc<Counters>,
) -> Result<SiteArray> {
    let record = commit::file(store, commit.commit);
    let (file, json) = array_json(store, name, commit)?;
    let (mut spec, stated) = ArraySpec::parse(&file, name, &json)?;
    let rows = commit.rows.get(spec.row_space);
    if stated < rows {
        return Err(Error::damaged(
            &file,
            format!("its shape has {stated} rows but commit {} has {rows}", commit.commit),
        ));
    }
    // The file is replaced before the record that adds layers is written: it may list more.
    if let Some(layers) = commit.arrays.get(name).and_then(|array| array.layers.as_ref()) {
        if !layers.iter().all(|layer| spec.layers.contains(layer)) {
            return Err(Error::damaged(&file, "it lacks layers that the last commit has"));
        }
        spec.layers.clone_from(layers);
        spec.check().map_err(|error| Error::damaged(&record, error.to_string()))?;
    }
    let physical = commit.physical_rows.get(spec.row_space);
    let array = SiteArray::new(store, spec, rows, physical, counters).ok_or_else(|| {
        Error::damaged(&record, format!("{rows} rows of `{name}` cannot be addressed"))
    })?;
    Ok(array.with_errors(ArraySpec::parse_errors(&json)))
}
