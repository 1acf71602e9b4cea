//! `residuum_sites(store)`: what a store holds, one row a site. Also what `FROM 'run.residuum'` means.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use residuum_core::{SiteArray, Store, objects};

use crate::failure::Result;
use crate::ffi::replacement::ReplacementScan;
use crate::ffi::scalar::ScalarFunction;
use crate::ffi::table::TableFunction;
use crate::ffi::types::SqlType;
use crate::ffi::value::Arguments;
use crate::ffi::vector::{OutputChunk, bigint};
use crate::listing::Listing;
use crate::registry;
use crate::selection::Layout;
use crate::vec::Vector;

/// One bound call.
#[derive(Debug)]
pub(crate) struct Sites {
    store: Arc<Store>,
}

/// One site.
#[derive(Debug)]
pub(crate) struct Entry {
    name: String,
    axes: Vec<String>,
    shape: Vec<i64>,
    dtype: &'static str,
    layers: Option<Vec<i64>>,
    bytes: i64,
    vec_type: String,
    /// The function that reads a vector of this type with the least work.
    vec_function: String,
}

const COLUMNS: &[(&str, SqlType)] = &[
    ("site", SqlType::Varchar),
    ("axes", SqlType::VarcharList),
    ("shape", SqlType::BigIntList),
    ("dtype", SqlType::Varchar),
    ("layers", SqlType::BigIntList),
    ("bytes", SqlType::BigInt),
    ("vec_type", SqlType::Varchar),
    ("vec_function", SqlType::Varchar),
];

impl TableFunction for Sites {
    const NAME: &'static str = "residuum_sites";
    const POSITIONAL: &'static [SqlType] = &[SqlType::Varchar];
    const NAMED: &'static [(&'static str, SqlType)] = &[];
    type Scan = Listing<Entry>;
    type Worker = ();

    fn bind(arguments: &Arguments) -> Result<Self> {
        Ok(Self { store: registry::open(&arguments.text(0, "store")?)? })
    }

    fn columns(&self) -> Vec<(String, SqlType)> {
        COLUMNS.iter().map(|&(name, sql_type)| (name.to_owned(), sql_type)).collect()
    }

    fn n_row(&self) -> Option<u64> {
        Some(self.store.sites().len() as u64)
    }

    fn start(&self, projection: &[usize]) -> Result<Listing<Entry>> {
        let names = self.store.sites();
        let entries = names.into_iter().map(|name| Ok(Entry::of(self.store.site(name)?)));
        Ok(Listing::new(projection, entries.collect::<Result<_>>()?))
    }

    fn n_thread(&self, _scan: &Listing<Entry>) -> usize {
        1
    }

    fn worker(&self) -> Result<()> {
        Ok(())
    }

    fn fill(&self, scan: &Listing<Entry>, (): &mut (), out: &mut OutputChunk<'_>) -> Result<usize> {
        scan.fill(out, write)
    }
}

impl Entry {
    fn of(site: &SiteArray) -> Self {
        let spec = site.spec();
        let shape = site.shape();
        let width = Layout::of(spec).width;
        let n_stored_layer = spec.n_layer.map_or(1, |_| spec.layers.len());
        Self {
            name: site.name().to_owned(),
            axes: spec.dimension_names.clone(),
            shape: shape.into_iter().map(bigint).collect(),
            dtype: spec.dtype.as_str(),
            layers: spec.n_layer.map(|_| spec.layers.iter().copied().map(bigint).collect()),
            bytes: bigint(site.n_row() * n_stored_layer * spec.row_bytes()),
            vec_type: SqlType::floats(width).sql(),
            vec_function: Vector::for_width(width).name(),
        }
    }
}

/// Writes column number `column` of `entries` into the projected column `index`.
fn write(out: &mut OutputChunk<'_>, index: usize, column: usize, entries: &[Entry]) -> Result<()> {
    let (_, sql_type) = COLUMNS[column];
    let mut into = out.column(index, sql_type, entries.len())?;
    for (row, entry) in entries.iter().enumerate() {
        match column {
            0 => into.set_text(row, &entry.name)?,
            1 => into.push_texts(row, &entry.axes)?,
            2 => into.push_integers(row, &entry.shape)?,
            3 => into.set_text(row, entry.dtype)?,
            4 => match &entry.layers {
                Some(layers) => into.push_integers(row, layers)?,
                None => into.set_null(row)?,
            },
            5 => into.integers()?[row] = entry.bytes,
            6 => into.set_text(row, &entry.vec_type)?,
            _ => into.set_text(row, &entry.vec_function)?,
        }
    }
    Ok(())
}

/// The longest root of a store that a replacement scan reads.
const MAX_ROOT: u64 = 1 << 24;

/// Lets `FROM 'run.residuum'` list the sites of the store in that folder or bucket.
#[derive(Debug)]
pub(crate) struct StoreFolder;

impl ReplacementScan for StoreFolder {
    const FUNCTION: &'static str = Sites::NAME;

    /// Only folders whose `zarr.json` carries our attribute: other extensions read Zarr too.
    fn claims(name: &str) -> bool {
        let path = Path::new(name);
        let root = path.join("zarr.json");
        let text = if objects::is_url(path) {
            // A request only for what can be a store: other extensions read other files of a bucket.
            let can_be = path.extension().is_none_or(|extension| extension == "residuum");
            can_be.then(|| objects::read(&root, MAX_ROOT).ok()).flatten()
        } else {
            fs::read(root).ok()
        };
        let Some(text) = text else { return false };
        serde_json::from_slice::<serde_json::Value>(&text)
            .is_ok_and(|root| root.pointer("/attributes/residuum").is_some())
    }
}
