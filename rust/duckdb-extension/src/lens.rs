//! `residuum_logit_lens(store, …)`: what the model would predict if it stopped after each layer;
//! `residuum_tuned_lens(store, lens := …)`: the same through the translators of a tuned lens.
//!
//! `layer` l reads the stream that leaves block l (`resid_post[l]`, or what equals it) through the final
//! norm and the unembedding; the last layer gives the model's own logits. Logits exist a tile at a
//! time, inside the kernel.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use residuum_core::kernels::lens::{LensStats, NO_TOKEN, lens_layers};
use residuum_core::stream::{Readout, Residual, Translators, final_residual, residual};
use residuum_core::{SiteArray, Store};

use crate::blocks::Cursor;
use crate::failure::{Failure, Result};
use crate::ffi::table::TableFunction;
use crate::ffi::types::SqlType;
use crate::ffi::value::Arguments;
use crate::ffi::vector::{Column, OutputChunk, bigint};
use crate::readout::{read_residual, unembedding_shape};
use crate::registry;
use crate::selection::rows;
use crate::spans::Spans;

/// Rows computed together; the kernel's own tiles have as many.
const BLOCK_ROWS: usize = 256;
/// Bytes of residual rows in memory at once; it bounds how many layers are computed together.
const BUDGET_BYTES: usize = 128 << 20;
const DEFAULT_K: i64 = 5;

/// The lens that training saves unless told otherwise.
const DEFAULT_LENS: &str = "tuned";

/// What tells one lens function from the other.
pub(crate) trait Kind: Send + Sync + 'static {
    /// Its name in SQL.
    const NAME: &'static str;
    /// Names and types of the optional arguments.
    const NAMED: &'static [(&'static str, SqlType)];
    /// The lens that the call names, if it is of a kind that has one.
    fn lens(arguments: &Arguments) -> Option<String>;
}

/// The final norm and the unembedding alone.
#[derive(Debug)]
pub(crate) struct Logit;

impl Kind for Logit {
    const NAME: &'static str = "residuum_logit_lens";
    const NAMED: &'static [(&'static str, SqlType)] =
        &[("layers", SqlType::BigIntList), ("k", SqlType::BigInt), ("rows", SqlType::BigIntList)];

    fn lens(_: &Arguments) -> Option<String> {
        None
    }
}

/// Translators before them.
#[derive(Debug)]
pub(crate) struct Tuned;

impl Kind for Tuned {
    const NAME: &'static str = "residuum_tuned_lens";
    const NAMED: &'static [(&'static str, SqlType)] = &[
        ("lens", SqlType::Varchar),
        ("layers", SqlType::BigIntList),
        ("k", SqlType::BigInt),
        ("rows", SqlType::BigIntList),
    ];

    fn lens(arguments: &Arguments) -> Option<String> {
        let named = arguments.option("lens").map(|value| value.text());
        Some(named.unwrap_or_else(|| DEFAULT_LENS.to_owned()))
    }
}

/// One bound call.
#[derive(Debug)]
pub(crate) struct Lens<K> {
    store: Arc<Store>,
    rows: Spans,
    /// Layers in ascending order, each with the place of its stream.
    layers: Vec<(usize, Residual)>,
    k: usize,
    /// The name of the tuned lens whose translators come first.
    tuned: Option<String>,
    kind: PhantomData<K>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Row,
    Layer,
    Rank,
    TokenId,
    Token,
    Logit,
    Logprob,
    Entropy,
    KlToFinal,
    TargetRank,
    TargetLogprob,
}

const COLUMNS: &[(&str, SqlType, Content)] = &[
    ("row", SqlType::BigInt, Content::Row),
    ("layer", SqlType::BigInt, Content::Layer),
    ("rank", SqlType::BigInt, Content::Rank),
    ("token_id", SqlType::BigInt, Content::TokenId),
    ("token", SqlType::Varchar, Content::Token),
    ("logit", SqlType::Float, Content::Logit),
    ("logprob", SqlType::Float, Content::Logprob),
    ("entropy", SqlType::Float, Content::Entropy),
    ("kl_to_final", SqlType::Float, Content::KlToFinal),
    ("target_rank", SqlType::BigInt, Content::TargetRank),
    ("target_logprob", SqlType::Float, Content::TargetLogprob),
];

/// One execution. What the query does not use is absent.
#[derive(Debug)]
pub(crate) struct Scan {
    projection: Vec<usize>,
    readout: Option<Readout>,
    translators: Option<Translators>,
    words: Option<Arc<Vec<String>>>,
    final_stream: Option<Residual>,
    target: Option<Arc<SiteArray>>,
}

/// The lens of some rows, every layer.
#[derive(Debug)]
pub(crate) struct Block {
    rows: Range<usize>,
    /// By position in the call's layers; empty where nothing was computed.
    layers: Vec<LensStats>,
}

impl<K: Kind> TableFunction for Lens<K> {
    const NAME: &'static str = K::NAME;
    const POSITIONAL: &'static [SqlType] = &[SqlType::Varchar];
    const NAMED: &'static [(&'static str, SqlType)] = K::NAMED;
    type Scan = Scan;
    type Worker = Cursor<Block>;

    fn bind(arguments: &Arguments) -> Result<Self> {
        let store = registry::open(&arguments.text(0, "store")?)?;
        let (d_model, d_vocab) = unembedding_shape(&store)?;
        let layers = layers(arguments, &store)?;
        let k = arguments.option("k").map_or(DEFAULT_K, |value| value.integer());
        let k = usize::try_from(k).ok().filter(|&k| k > 0);
        let k = k.ok_or_else(|| Failure::new("`k` must be at least 1"))?.min(d_vocab);
        let site = match layers.first() {
            Some((_, place)) => Arc::clone(&place.site),
            None => final_residual(&store)?.site,
        };
        if d_model != site.spec().row_len() {
            return Err(Failure::new(format!(
                "axis `d_model` is {} in {} but {d_model} in W_U",
                site.spec().row_len(),
                site.name()
            )));
        }
        let rows = Spans::new(rows(arguments, &site)?, site.n_row(), site.spec().chunk_rows);
        let tuned = K::lens(arguments);
        if let Some(name) = &tuned {
            store.lens(name)?;
        }
        Ok(Self { store, rows, layers, k, tuned, kind: PhantomData })
    }

    fn columns(&self) -> Vec<(String, SqlType)> {
        COLUMNS.iter().map(|&(name, sql_type, _)| (name.to_owned(), sql_type)).collect()
    }

    fn n_row(&self) -> Option<u64> {
        Some((self.rows.n_row() * self.layers.len() * self.k) as u64)
    }

    fn start(&self, projection: &[usize]) -> Result<Scan> {
        let uses = |contents: &[Content]| {
            projection.iter().any(|&column| contents.contains(&COLUMNS[column].2))
        };
        let numbers = [Content::Row, Content::Layer, Content::Rank];
        let computes = projection.iter().any(|&column| !numbers.contains(&COLUMNS[column].2));
        let target = uses(&[Content::TargetRank, Content::TargetLogprob]);
        let readout = computes.then(|| Readout::load(&self.store)).transpose()?;
        let translators = match (&readout, &self.tuned) {
            (Some(readout), Some(name)) => {
                let layers = self.layers.iter().map(|&(layer, _)| layer);
                Some(Translators::load(&self.store, name, layers, readout.d_model())?)
            }
            _ => None,
        };
        Ok(Scan {
            projection: projection.to_vec(),
            readout,
            translators,
            words: uses(&[Content::Token]).then(|| self.store.vocabulary()).transpose()?,
            final_stream: uses(&[Content::KlToFinal])
                .then(|| final_residual(&self.store).ok())
                .flatten(),
            target: target.then(|| self.store.target().cloned()).flatten(),
        })
    }

    fn n_thread(&self, _scan: &Scan) -> usize {
        1
    }

    fn worker(&self) -> Result<Cursor<Block>> {
        Ok(Cursor::default())
    }

    fn fill(
        &self,
        scan: &Scan,
        worker: &mut Cursor<Block>,
        out: &mut OutputChunk<'_>,
    ) -> Result<usize> {
        let per_row = self.layers.len() * self.k;
        let compute = |rows| self.compute(scan, rows);
        let len = |block: &Block| block.rows.len() * per_row;
        let Some((block, range)) = worker.next(self.rows.n_row(), BLOCK_ROWS, compute, len)? else {
            return Ok(0);
        };
        for (index, &column) in scan.projection.iter().enumerate() {
            let (_, sql_type, content) = COLUMNS[column];
            let mut column = out.column(index, sql_type, range.len())?;
            for (at, item) in range.clone().enumerate() {
                self.write(scan, block, content, item, at, &mut column)?;
            }
        }
        Ok(range.len())
    }
}

impl<K: Kind> Lens<K> {
    fn compute(&self, scan: &Scan, rows: Range<usize>) -> Result<Block> {
        let Some(readout) = &scan.readout else { return Ok(Block { rows, layers: Vec::new() }) };
        let (n_row, d_model) = (rows.len(), readout.d_model());
        let normed = |raw: Vec<f32>| -> Result<Vec<f32>> {
            let mut out = vec![0.0; raw.len()];
            readout.norm.apply(&raw, d_model, &mut out)?;
            Ok(out)
        };
        let reference = match &scan.final_stream {
            Some(place) => {
                Some(normed(read_residual(place, self.rows.rows(rows.clone()), n_row)?)?)
            }
            None => None,
        };
        let targets = match &scan.target {
            Some(target) => {
                let mut ids = vec![0_i32; n_row];
                target.read(self.rows.rows(rows.clone()), &[], None, &mut ids)?;
                Some(ids)
            }
            None => None,
        };
        let together = (BUDGET_BYTES / (n_row * d_model * 2 * size_of::<f32>()).max(1)).max(1);
        let mut stats = Vec::with_capacity(self.layers.len());
        for layers in self.layers.chunks(together) {
            let states: Vec<Vec<f32>> = layers
                .iter()
                .map(|(layer, place)| {
                    let raw = read_residual(place, self.rows.rows(rows.clone()), n_row)?;
                    normed(match &scan.translators {
                        Some(translators) => translators.apply(*layer, raw)?,
                        None => raw,
                    })
                })
                .collect::<Result<_>>()?;
            let slices: Vec<&[f32]> = states.iter().map(Vec::as_slice).collect();
            // The kernel computes the reference's logits once if it is one of the layers.
            let is_last = |place: &Residual| {
                scan.final_stream.as_ref().is_some_and(|last| is_same(last, place))
            };
            let shared = layers.iter().position(|(_, place)| is_last(place));
            let reference = shared.map_or(reference.as_deref(), |at| Some(slices[at]));
            let targets = targets.as_deref();
            stats.extend(lens_layers(&slices, reference, targets, readout.unembed()?, self.k)?);
        }
        Ok(Block { rows, layers: stats })
    }

    /// Writes item `item` of a block, in the order row, layer, rank, as value `at` of `column`.
    fn write(
        &self,
        scan: &Scan,
        block: &Block,
        content: Content,
        item: usize,
        at: usize,
        column: &mut Column<'_>,
    ) -> Result<()> {
        let (rank, place) = (item % self.k, item / self.k);
        let (layer, row) = (place % self.layers.len(), place / self.layers.len());
        let stats = block.layers.get(layer);
        let top = |of: fn(&LensStats) -> &[f32]| stats.map(|s| of(s)[row * self.k + rank]);
        let one = |of: fn(&LensStats) -> &[f32]| stats.and_then(|s| of(s).get(row).copied());
        let id = stats.map(|s| s.top_ids[row * self.k + rank]).filter(|&id| id != NO_TOKEN);
        match content {
            Content::Row => set_integer(column, at, Some(self.rows.row(block.rows.start + row))),
            Content::Layer => set_integer(column, at, Some(self.layers[layer].0)),
            Content::Rank => set_integer(column, at, Some(rank)),
            Content::TokenId => set_integer(column, at, id.map(|id| id as usize)),
            Content::Token => {
                let words = scan.words.as_ref();
                match id.zip(words).and_then(|(id, words)| words.get(id as usize)) {
                    Some(word) => column.set_text(at, word),
                    None => column.set_null(at),
                }
            }
            Content::Logit => set_float(column, at, id.and(top(|s| &s.top_logits))),
            Content::Logprob => set_float(column, at, id.and(top(|s| &s.top_logprobs))),
            Content::Entropy => set_float(column, at, one(|s| &s.entropy)),
            Content::KlToFinal => set_float(column, at, one(|s| &s.kl_to_reference)),
            Content::TargetRank => {
                let rank = stats.and_then(|s| s.target_rank.get(row).copied());
                let rank = rank.filter(|&rank| rank != NO_TOKEN);
                set_integer(column, at, rank.map(|rank| rank as usize))
            }
            // NaN where the row has no target, which SQL calls NULL.
            Content::TargetLogprob => {
                let target_rank = stats.and_then(|s| s.target_rank.get(row).copied());
                let has_target = target_rank.is_some_and(|rank| rank != NO_TOKEN);
                let logprob = one(|s| &s.target_logprob).filter(|_| has_target);
                set_float(column, at, logprob)
            }
        }
    }
}

/// The argument `layers`, or all layers whose stream was captured, with the places of the streams.
fn layers(arguments: &Arguments, store: &Store) -> Result<Vec<(usize, Residual)>> {
    if let Some(mut asked) = arguments.indices("layers")? {
        asked.sort_unstable();
        asked.dedup();
        let find = |layer: u64| {
            let layer = usize::try_from(layer).unwrap_or(usize::MAX);
            Ok((layer, residual(store, layer)?))
        };
        return asked.into_iter().map(find).collect();
    }
    let n_layer = |name: &str| store.site(name).ok().and_then(|site| site.spec().n_layer);
    let n_layer = n_layer("resid_post").or_else(|| n_layer("resid_pre")).unwrap_or(0);
    let captured: Vec<_> =
        (0..n_layer).filter_map(|layer| Some((layer, residual(store, layer).ok()?))).collect();
    if captured.is_empty() {
        // The site that is missing, by name, and what there is instead.
        store.site("resid_post")?;
    }
    Ok(captured)
}

fn is_same(a: &Residual, b: &Residual) -> bool {
    a.layer == b.layer && Arc::ptr_eq(&a.site, &b.site)
}

fn set_integer(column: &mut Column<'_>, at: usize, value: Option<usize>) -> Result<()> {
    match value {
        Some(value) => {
            column.integers()?[at] = bigint(value);
            Ok(())
        }
        None => column.set_null(at),
    }
}

fn set_float(column: &mut Column<'_>, at: usize, value: Option<f32>) -> Result<()> {
    match value {
        Some(value) => {
            column.floats()?[at] = value;
            Ok(())
        }
        None => column.set_null(at),
    }
}
