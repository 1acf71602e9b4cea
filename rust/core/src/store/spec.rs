//! What an array is: its shape, cut, dtype and codec, and how `zarr.json` says so.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    dtype::{Dtype, NAN_CODE},
    quantise::LayerError,
};
use crate::{
    error::{Error, Result},
    site::{RowSpace, Site},
};

/// Rows a chunk has at most.
const MAX_CHUNK_ROWS: usize = 256;
/// Bytes a chunk should not exceed, unless a single row does.
const CHUNK_BYTES: usize = 4 << 20;
/// The largest row, and so the largest chunk, that is believed.
const MAX_ROW_BYTES: usize = 1 << 30;
/// The most rows a shard may have: bounds the bookkeeping per shard.
const MAX_SHARD_ROWS: usize = 1 << 24;
/// The most chunks a shard may have: bounds its index to 16 MiB.
const MAX_SHARD_CHUNKS: usize = 1 << 20;
/// The most layers that are believed.
const MAX_LAYERS: usize = 1 << 16;
/// Statistics of every array that keeps any: min, max, mean, m2.
const N_STATISTIC: usize = 4;

/// How chunk bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Plain bytes and a checksum: single rows can be read.
    None,
    /// zstd at level 1 and a checksum: whole chunks only.
    Zstd,
}

impl Codec {
    /// The name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zstd => "zstd",
        }
    }
}

/// One array of a store: everything about it except how many rows it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArraySpec {
    /// Folder below the store: `activations/<site>` or `index/target`.
    pub path: String,
    /// What a row stands for.
    pub row_space: RowSpace,
    /// Type of the elements on disk.
    pub dtype: Dtype,
    /// Length of the layer axis: the model's, captured or not. `None` where there is no such axis.
    pub n_layer: Option<usize>,
    /// The captured layers, ascending. Empty where there is no layer axis.
    pub layers: Vec<usize>,
    /// Lengths of the axes after `row` and `layer`. Empty for `index/target`.
    pub inner: Vec<usize>,
    /// Names of all axes, `row` first.
    pub dimension_names: Vec<String>,
    /// Rows per inner chunk.
    pub chunk_rows: usize,
    /// Rows per shard; one number for the whole store.
    pub shard_rows: usize,
    /// How chunks are packed.
    pub codec: Codec,
    /// True if min, max, mean and m2 are kept per chunk and feature; codes cannot be without.
    pub statistics: bool,
}

impl ArraySpec {
    /// The usual description of a site's array: names, layer axis, cut and statistics follow from the site.
    ///
    /// # Errors
    /// If lengths are zero, too large, or do not fit the site's axes.
    pub fn for_site(
        site: Site,
        dtype: Dtype,
        n_layer: usize,
        layers: &[usize],
        inner: &[usize],
        shard_rows: usize,
        codec: Codec,
    ) -> Result<Self> {
        let row_bytes = inner.iter().product::<usize>().saturating_mul(dtype.size());
        let spec = Self {
            path: format!("activations/{site}"),
            row_space: site.row_space(),
            dtype,
            n_layer: site.has_layer().then_some(n_layer),
            layers: if site.has_layer() { layers.to_vec() } else { Vec::new() },
            inner: inner.to_vec(),
            dimension_names: names(site.axes()),
            chunk_rows: chunk_rows(row_bytes, shard_rows),
            shard_rows,
            codec,
            statistics: site.has_statistics(),
        };
        spec.check().map(|()| spec)
    }

    /// The description of `index/target`: per token row the id of the token that follows.
    ///
    /// # Errors
    /// If `shard_rows` is zero or too large.
    pub fn for_target(shard_rows: usize, codec: Codec) -> Result<Self> {
        let spec = Self {
            path: "index/target".to_owned(),
            row_space: RowSpace::Token,
            dtype: Dtype::I32,
            n_layer: None,
            layers: Vec::new(),
            inner: Vec::new(),
            dimension_names: names(&[]),
            chunk_rows: chunk_rows(Dtype::I32.size(), shard_rows),
            shard_rows,
            codec,
            statistics: false,
        };
        spec.check().map(|()| spec)
    }

    /// Elements in one row of one layer: the product of `inner`.
    pub fn row_len(&self) -> usize {
        self.inner.iter().product()
    }

    /// Bytes of one row of one layer.
    pub fn row_bytes(&self) -> usize {
        self.row_len() * self.dtype.size()
    }

    /// Bytes of one row of one layer until its chunk is full.
    pub(crate) fn staged_row_bytes(&self) -> usize {
        self.row_len() * self.dtype.staged().size()
    }

    /// Whether a chunk's bytes are made when all of its rows are there; else each row has its place from the start.
    pub(crate) fn is_packed(&self) -> bool {
        self.codec == Codec::Zstd || self.dtype == Dtype::I8
    }

    /// What `statistics/<site>` holds of each chunk and feature, in this order.
    pub(crate) fn statistic_names(&self) -> &'static [&'static str] {
        const NAMES: [&str; 7] = ["min", "max", "mean", "m2", "scale", "error_max", "error_m2"];
        if self.dtype == Dtype::I8 { &NAMES } else { &NAMES[..N_STATISTIC] }
    }

    /// Bytes of one decoded chunk.
    pub fn chunk_bytes(&self) -> usize {
        self.row_bytes() * self.chunk_rows
    }

    /// Chunks in a full shard.
    pub fn shard_chunks(&self) -> usize {
        self.shard_rows / self.chunk_rows
    }

    /// The site's or index's own name: the last part of `path`.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// The axes that a head selection applies to: `head` or `kv_head`, first of `inner`.
    pub fn head_axis(&self) -> Option<&str> {
        let first = 1 + usize::from(self.n_layer.is_some());
        self.dimension_names
            .get(first)
            .map(String::as_str)
            .filter(|n| matches!(*n, "head" | "kv_head"))
    }

    /// The full shape at `n_row` rows: `[row, layer?, ...inner]`.
    pub fn shape(&self, n_row: usize) -> Vec<usize> {
        std::iter::once(n_row).chain(self.n_layer).chain(self.inner.iter().copied()).collect()
    }

    /// Layer coordinates that have shards: the captured layers, or `None` once without a layer axis.
    pub(crate) fn layer_keys(&self) -> Vec<Option<usize>> {
        if self.n_layer.is_some() {
            self.layers.iter().copied().map(Some).collect()
        } else {
            vec![None]
        }
    }

    /// Path of a shard below the array's folder: `c/<shard>/<layer>/0…`.
    pub(crate) fn shard_key(&self, shard: usize, layer: Option<usize>) -> String {
        let layer = layer.map_or_else(String::new, |layer| format!("/{layer}"));
        format!("c/{shard}{layer}{}", "/0".repeat(self.inner.len()))
    }

    /// Where the site's statistics lie in a store.
    pub(crate) fn statistics_folder(&self, store: &Path) -> PathBuf {
        store.join("statistics").join(self.name())
    }

    /// Path of a shard's statistics below `statistics/<site>`.
    pub(crate) fn statistics_key(shard: usize, layer: Option<usize>) -> String {
        let layer = layer.map_or_else(String::new, |layer| format!("/{layer}"));
        format!("c/{shard}{layer}/0/0")
    }

    /// Checks every length and name, so that the arithmetic above cannot overflow.
    ///
    /// # Errors
    /// `BadSpec` that names the first impossible thing.
    pub fn check(&self) -> Result<()> {
        self.problem().map_or(Ok(()), |why| Err(Error::BadSpec { array: self.path.clone(), why }))
    }

    fn problem(&self) -> Option<String> {
        self.name_problem()
            .or_else(|| self.length_problem())
            .or_else(|| self.layer_problem())
            .or_else(|| self.scale_problem())
    }

    fn name_problem(&self) -> Option<String> {
        let axes: Vec<String> = match self.path.strip_prefix("activations/") {
            Some(name) => match name.parse::<Site>() {
                Ok(site) => names(site.axes()),
                Err(error) => return Some(error.to_string()),
            },
            None if self.path == "index/target" => names(&[]),
            None => return Some("its path is neither activations/<site> nor index/target".into()),
        };
        if self.dimension_names != axes {
            return Some(format!(
                "its axes are [{}] but must be [{}]",
                self.dimension_names.join(", "),
                axes.join(", ")
            ));
        }
        let n_axes = 1 + usize::from(self.n_layer.is_some()) + self.inner.len();
        (n_axes != axes.len()).then(|| {
            format!("it has {n_axes} lengths for the {} axes [{}]", axes.len(), axes.join(", "))
        })
    }

    fn length_problem(&self) -> Option<String> {
        let Some(row) = self
            .inner
            .iter()
            .try_fold(self.dtype.staged().size(), |bytes, n| bytes.checked_mul(*n))
            .filter(|bytes| (1..=MAX_ROW_BYTES).contains(bytes))
        else {
            return Some(format!("a row of {:?} elements is empty or too large", self.inner));
        };
        if !(1..=MAX_SHARD_ROWS).contains(&self.shard_rows) {
            return Some(format!("{} rows per shard are none or too many", self.shard_rows));
        }
        if self.chunk_rows == 0 || !self.shard_rows.is_multiple_of(self.chunk_rows) {
            return Some(format!(
                "{} rows per chunk do not divide {} rows per shard",
                self.chunk_rows, self.shard_rows
            ));
        }
        if self.shard_rows / self.chunk_rows > MAX_SHARD_CHUNKS {
            return Some(format!("{} rows per chunk cut a shard too finely", self.chunk_rows));
        }
        let chunk = row.checked_mul(self.chunk_rows).filter(|bytes| *bytes <= MAX_ROW_BYTES);
        let shard = row.checked_mul(self.shard_rows).filter(|bytes| *bytes <= usize::MAX >> 8);
        if chunk.is_none() || shard.is_none() {
            return Some(format!(
                "a chunk of {} rows of {row} bytes is too large",
                self.chunk_rows
            ));
        }
        None
    }

    fn layer_problem(&self) -> Option<String> {
        let Some(n_layer) = self.n_layer else {
            return (!self.layers.is_empty()).then(|| "it has layers but no layer axis".into());
        };
        if !(1..=MAX_LAYERS).contains(&n_layer) {
            return Some(format!("{n_layer} layers are none or too many"));
        }
        if !self.layers.is_sorted_by(|a, b| a < b)
            || self.layers.last().is_some_and(|l| *l >= n_layer)
        {
            return Some(format!("its layers {:?} are not ascending below {n_layer}", self.layers));
        }
        self.layers.is_empty().then(|| "no layer of it is captured".into())
    }

    fn scale_problem(&self) -> Option<String> {
        (self.dtype == Dtype::I8 && !self.statistics)
            .then(|| "int8 has its scales in the statistics, which it does not keep".into())
    }

    /// The array's `zarr.json` at `n_row` rows; the same bytes for the same description. `errors` are what is known
    /// to be lost of each layer of a lossy array.
    pub(crate) fn metadata(&self, n_row: usize, errors: &[LayerError]) -> Vec<u8> {
        let mut shard = self.shape(self.shard_rows);
        let mut chunk = self.shape(self.chunk_rows);
        if self.n_layer.is_some() {
            shard[1] = 1;
            chunk[1] = 1;
        }
        let mut codecs = vec![bytes_codec()];
        if self.codec == Codec::Zstd {
            codecs.push(json!({"name": "zstd", "configuration": {"level": 1, "checksum": false}}));
        }
        codecs.push(json!({"name": "crc32c"}));
        let sharding = json!({
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": chunk,
                "codecs": codecs,
                "index_codecs": [bytes_codec(), {"name": "crc32c"}],
                "index_location": "end",
            },
        });
        let fill = match self.dtype {
            Dtype::I32 => json!(-1),
            Dtype::I8 => json!(NAN_CODE),
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 => json!("NaN"),
        };
        let mut attributes = serde_json::Map::new();
        if self.n_layer.is_some() {
            attributes.insert("layers".into(), json!(self.layers));
        }
        attributes.insert("row_space".into(), json!(self.row_space.as_str()));
        if !errors.is_empty() {
            attributes.insert("error".into(), json!(errors));
        }
        ArrayMetadata::new(self.shape(n_row), self.dtype.as_str(), shard, fill, vec![sharding])
            .with(self.dimension_names.clone(), Value::Object(attributes))
            .render()
    }

    /// `statistics/<site>`'s `zarr.json` at `n_row` rows.
    pub(crate) fn statistics_metadata(&self, n_row: usize) -> Vec<u8> {
        let layered = self.n_layer.is_some();
        let axes = |n_chunk: usize, n_layer: usize| -> Vec<usize> {
            let layer = layered.then_some(n_layer);
            std::iter::once(n_chunk)
                .chain(layer)
                .chain([self.statistic_names().len(), self.row_len()])
                .collect()
        };
        let shape = axes(n_row.div_ceil(self.chunk_rows), self.n_layer.unwrap_or(1));
        let chunk = axes(self.shard_chunks(), 1);
        let mut dimension_names = vec!["row_chunk".to_owned()];
        if layered {
            dimension_names.push("layer".into());
        }
        dimension_names.extend(["statistic".into(), "feature".into()]);
        let attributes = json!({
            "chunk_rows": self.chunk_rows,
            "statistic": self.statistic_names(),
        });
        let codecs = vec![bytes_codec(), json!({"name": "crc32c"})];
        ArrayMetadata::new(shape, Dtype::F32.as_str(), chunk, json!("NaN"), codecs)
            .with(dimension_names, attributes)
            .render()
    }

    /// True if `value` is `statistics_metadata` at some number of rows.
    pub(crate) fn states_statistics(&self, value: &Value) -> bool {
        let stated = value.pointer("/shape/0").and_then(Value::as_u64);
        let Some(n_chunk) = stated.and_then(|n| usize::try_from(n).ok()) else { return false };
        let Some(n_row) = n_chunk.checked_mul(self.chunk_rows) else { return false };
        serde_json::from_slice::<Value>(&self.statistics_metadata(n_row))
            .is_ok_and(|ours| ours == *value)
    }

    /// What a lossy array's `zarr.json` says is lost of each layer, in the order of its `layers`; nothing where it
    /// does not say.
    pub(crate) fn parse_errors(bytes: &[u8]) -> Vec<LayerError> {
        let stated = |value: Value| value.pointer("/attributes/error").cloned();
        let value = serde_json::from_slice(bytes).ok().and_then(stated);
        value.and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default()
    }

    /// Reads an array's `zarr.json`; returns the description and the stated number of rows.
    pub(crate) fn parse(file: &Path, path: &str, bytes: &[u8]) -> Result<(Self, usize)> {
        let meta: ArrayMetadata = serde_json::from_slice(bytes)
            .map_err(|error| Error::damaged(file, format!("it is no array metadata: {error}")))?;
        let bad = |what: &str| Error::damaged(file, what);
        if meta.zarr_format != 3 || meta.node_type != "array" {
            return Err(bad("it does not describe a Zarr v3 array"));
        }
        let dtype = Dtype::parse(&meta.data_type)
            .ok_or_else(|| bad(&format!("data type `{}` is none of ours", meta.data_type)))?;
        if meta.chunk_key_encoding != key_encoding() || meta.chunk_grid.name != "regular" {
            return Err(bad("its chunk grid or chunk keys are not the ones residuum writes"));
        }
        let [codec] = meta.codecs.as_slice() else {
            return Err(bad("it must have exactly one codec, sharding_indexed"));
        };
        let (chunk, codec) = parse_sharding(codec).ok_or_else(|| bad("its codecs are unknown"))?;
        let dimension_names = meta.dimension_names.unwrap_or_default();
        let layered = dimension_names.get(1).is_some_and(|name| name == "layer");
        let inner_at = 1 + usize::from(layered);
        let shard = meta.chunk_grid.configuration.chunk_shape;
        let same_rank = shard.len() == meta.shape.len() && chunk.len() == meta.shape.len();
        if !same_rank || meta.shape.len() < inner_at {
            return Err(bad("its shape, shard and chunk differ in their number of axes"));
        }
        let rest =
            |cut: &[usize]| cut[inner_at..] == meta.shape[inner_at..] && (!layered || cut[1] == 1);
        if !rest(&shard) || !rest(&chunk) {
            return Err(bad("its shards must be one layer wide and whole in every inner axis"));
        }
        let attributes: ArrayAttributes = serde_json::from_value(meta.attributes)
            .map_err(|error| Error::damaged(file, format!("its attributes are wrong: {error}")))?;
        let site = path.strip_prefix("activations/").and_then(|name| name.parse::<Site>().ok());
        let spec = Self {
            path: path.to_owned(),
            row_space: attributes.row_space,
            dtype,
            n_layer: layered.then(|| meta.shape[1]),
            layers: attributes.layers.unwrap_or_default(),
            inner: meta.shape[inner_at..].to_vec(),
            dimension_names,
            chunk_rows: chunk[0],
            shard_rows: shard[0],
            codec,
            statistics: site.is_some_and(Site::has_statistics),
        };
        spec.check().map_err(|error| Error::damaged(file, error.to_string()))?;
        Ok((spec, meta.shape[0]))
    }
}

/// Rows per chunk: the largest power of two up to 256 whose bytes stay within 4 MiB and that divides a shard.
pub(crate) fn chunk_rows(row_bytes: usize, shard_rows: usize) -> usize {
    let mut rows = MAX_CHUNK_ROWS;
    while rows > 1
        && (row_bytes.saturating_mul(rows) > CHUNK_BYTES || !shard_rows.is_multiple_of(rows))
    {
        rows /= 2;
    }
    rows
}

fn names(axes: &[&str]) -> Vec<String> {
    std::iter::once("row").chain(axes.iter().copied()).map(ToOwned::to_owned).collect()
}

fn bytes_codec() -> Value {
    json!({"name": "bytes", "configuration": {"endian": "little"}})
}

fn key_encoding() -> Value {
    json!({"name": "default", "configuration": {"separator": "/"}})
}

/// The inner chunk shape and codec of a `sharding_indexed` codec, if it is one that residuum writes.
fn parse_sharding(codec: &Value) -> Option<(Vec<usize>, Codec)> {
    let configuration = codec.get("configuration")?;
    let names = |key: &str| -> Option<Vec<&str>> {
        configuration.get(key)?.as_array()?.iter().map(|c| c.get("name")?.as_str()).collect()
    };
    let known = codec.get("name")? == "sharding_indexed"
        && configuration.get("index_location")? == "end"
        && names("index_codecs")? == ["bytes", "crc32c"]
        && configuration.get("codecs")?.get(0)? == &bytes_codec()
        && configuration.get("index_codecs")?.get(0)? == &bytes_codec();
    let codec = match names("codecs")?.as_slice() {
        ["bytes", "crc32c"] => Codec::None,
        ["bytes", "zstd", "crc32c"] => Codec::Zstd,
        _ => return None,
    };
    let chunk = configuration.get("chunk_shape")?.as_array()?;
    let chunk = chunk.iter().map(|n| usize::try_from(n.as_u64()?).ok()).collect::<Option<_>>()?;
    known.then_some((chunk, codec))
}

#[derive(Deserialize)]
struct ArrayAttributes {
    row_space: RowSpace,
    layers: Option<Vec<usize>>,
}

/// `zarr.json` of an array; the order of the fields is the order in the file.
#[derive(Serialize, Deserialize)]
struct ArrayMetadata {
    zarr_format: u64,
    node_type: String,
    shape: Vec<usize>,
    data_type: String,
    chunk_grid: ChunkGrid,
    chunk_key_encoding: Value,
    fill_value: Value,
    codecs: Vec<Value>,
    attributes: Value,
    dimension_names: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct ChunkGrid {
    name: String,
    configuration: ChunkShape,
}

#[derive(Serialize, Deserialize)]
struct ChunkShape {
    chunk_shape: Vec<usize>,
}

impl ArrayMetadata {
    fn new(
        shape: Vec<usize>,
        data_type: &str,
        chunk_shape: Vec<usize>,
        fill_value: Value,
        codecs: Vec<Value>,
    ) -> Self {
        Self {
            zarr_format: 3,
            node_type: "array".into(),
            shape,
            data_type: data_type.into(),
            chunk_grid: ChunkGrid {
                name: "regular".into(),
                configuration: ChunkShape { chunk_shape },
            },
            chunk_key_encoding: key_encoding(),
            fill_value,
            codecs,
            attributes: Value::Null,
            dimension_names: None,
        }
    }

    fn with(self, dimension_names: Vec<String>, attributes: Value) -> Self {
        Self { attributes, dimension_names: Some(dimension_names), ..self }
    }

    fn render(&self) -> Vec<u8> {
        render(self)
    }
}

/// JSON as residuum writes it: two spaces of indentation and a final newline.
pub(crate) fn render(value: &impl Serialize) -> Vec<u8> {
    // Serialising plain structs and JSON values into memory cannot fail; an empty file would be found at once.
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// The `zarr.json` of a group without attributes.
pub(crate) fn group_metadata() -> Vec<u8> {
    render(&json!({"zarr_format": 3, "node_type": "group", "attributes": {}}))
}
