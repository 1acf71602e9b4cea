//! `residuum_clip_contributions(store, directions := …)` and `residuum_clip_patch_contributions(…)`:
//! what heads of a CLIP vision tower, and the tokens that they look at, add to an image's vector.
//!
//! With the final norm's divisor held at its captured value the vector is a sum over components; a
//! head's share along a direction is `z @ W_O[head] @ projection @ direction / divisor`, and that of
//! token i `pattern[i] * (v[i] @ …) / divisor` (Gandelsman et al. 2024). Computed when asked for,
//! from `z` or from `pattern` and values; never stored.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use residuum_core::kernels::attribution::attribution;
use residuum_core::kernels::image_patch_maps::{MapShape, image_patch_maps};
use residuum_core::stream::{Projection, Residual, final_residual};
use residuum_core::{Rows, SiteArray, Store};
use serde_json::Value as Json;

use crate::blocks::Cursor;
use crate::directions::directions;
use crate::examples::Examples;
use crate::failure::{Failure, Result};
use crate::ffi::table::TableFunction;
use crate::ffi::types::SqlType;
use crate::ffi::value::Arguments;
use crate::ffi::vector::{Column, OutputChunk, bigint};
use crate::readout::{read_layer, read_residual};
use crate::registry;
use crate::selection::layers;

/// Bytes of activations and results in memory at once; it bounds the images of a block.
const BUDGET_BYTES: usize = 64 << 20;
const MAX_BLOCK_IMAGES: usize = 4096;

/// Of what the shares are.
pub(crate) trait Part: Sized + Send + Sync + 'static {
    /// The function's name in SQL.
    const NAME: &'static str;
    /// The site whose layers can be asked for; it must be there.
    fn site(store: &Store) -> Result<Arc<SiteArray>>;
    /// Whether tokens are told apart.
    const TOKENS: bool;
    /// Those of some layers of the site of which all that is needed is there; one that was `asked` for
    /// has to be.
    fn layers(store: &Store, layers: Vec<usize>, asked: bool) -> Result<Vec<usize>>;
}

/// Shares of heads.
#[derive(Debug)]
pub(crate) struct OfHeads;

/// Shares of the tokens that heads look at.
#[derive(Debug)]
pub(crate) struct OfPatches;

impl Part for OfHeads {
    const NAME: &'static str = "residuum_clip_contributions";
    const TOKENS: bool = false;

    fn layers(_store: &Store, layers: Vec<usize>, _asked: bool) -> Result<Vec<usize>> {
        Ok(layers)
    }

    fn site(store: &Store) -> Result<Arc<SiteArray>> {
        Ok(Arc::clone(store.site("z")?))
    }
}

impl Part for OfPatches {
    const NAME: &'static str = "residuum_clip_patch_contributions";
    const TOKENS: bool = true;

    fn layers(store: &Store, layers: Vec<usize>, asked: bool) -> Result<Vec<usize>> {
        let pattern = store.site("pattern")?;
        let there = |layer: &usize| pattern.spec().layers.contains(layer);
        if let (true, Some(&layer)) = (asked, layers.iter().find(|layer| !there(layer))) {
            return Err(pattern.layer_error(layer).into());
        }
        let both: Vec<usize> = layers.into_iter().filter(there).collect();
        if both.is_empty() {
            return Err(Failure::new(format!(
                "{} has no layer with both `pattern` and values: capture --site pattern --site \
                 image_v",
                store.path().display()
            )));
        }
        Ok(both)
    }

    fn site(store: &Store) -> Result<Arc<SiteArray>> {
        let keys = store.attributes().pointer("/capture/keys").and_then(Json::as_str);
        if keys == Some("stored") {
            return Err(Failure::new(format!(
                "`pattern` in {} has stored tokens for keys alone: capture with keys='all'",
                store.path().display()
            )));
        }
        if let Ok(site) = store.site("image_v") {
            return Ok(Arc::clone(site));
        }
        let positions = store.attributes().pointer("/capture/positions").and_then(Json::as_str);
        match store.site("v") {
            Ok(site) if positions == Some("all") => Ok(Arc::clone(site)),
            _ => Err(Failure::new(format!(
                "{} has the values of class tokens alone, or none: capture --site image_v",
                store.path().display()
            ))),
        }
    }
}

/// One bound call.
#[derive(Debug)]
pub(crate) struct Contributions<P> {
    store: Arc<Store>,
    site: Arc<SiteArray>,
    final_stream: Residual,
    examples: Examples,
    layers: Vec<usize>,
    weights: Projection,
    /// Tokens of an image; 1 where they are not told apart.
    n_token: usize,
    /// `[direction, d_embed]`
    directions: Vec<f32>,
    /// What each direction is called.
    names: Vec<u64>,
    part: PhantomData<P>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Example,
    Layer,
    Head,
    Token,
    Direction,
    Value,
}

impl Content {
    fn of(tokens: bool) -> Vec<(&'static str, SqlType, Self)> {
        let all = [
            ("example", SqlType::BigInt, Self::Example),
            ("layer", SqlType::BigInt, Self::Layer),
            ("head", SqlType::BigInt, Self::Head),
            ("token", SqlType::BigInt, Self::Token),
            ("direction", SqlType::BigInt, Self::Direction),
            ("value", SqlType::Float, Self::Value),
        ];
        all.into_iter().filter(|(.., content)| tokens || *content != Self::Token).collect()
    }
}

/// One execution.
#[derive(Debug)]
pub(crate) struct Scan {
    projection: Vec<usize>,
    /// The directions taken through the heads, by position in the call's layers: `[head, d_head,
    /// direction]`; absent where the query uses no values.
    through: Option<Vec<Vec<f32>>>,
}

/// The shares of some images: by position in the call's layers, `[image, head, (token,) direction]`.
#[derive(Debug)]
pub(crate) struct Block {
    images: Range<usize>,
    layers: Vec<Vec<f32>>,
}

impl<P: Part> TableFunction for Contributions<P> {
    const NAME: &'static str = P::NAME;
    const POSITIONAL: &'static [SqlType] = &[SqlType::Varchar];
    const NAMED: &'static [(&'static str, SqlType)] = &[
        ("directions", SqlType::Any),
        ("layers", SqlType::BigIntList),
        ("examples", SqlType::BigIntList),
    ];
    type Scan = Scan;
    type Worker = Cursor<Block>;

    fn bind(arguments: &Arguments) -> Result<Self> {
        let store = registry::open(&arguments.text(0, "store")?)?;
        let weights = Projection::load(&store)?;
        store.site("z")?;
        let site = P::site(&store)?;
        let asked = arguments.option("layers").is_some();
        let layers = P::layers(&store, layers(arguments, &site)?, asked)?;
        let (names, directions) = directions(arguments, P::NAME, &store, weights.d_embed())?;
        let examples = chosen(arguments, class_tokens(&store)?)?;
        let final_stream = final_residual(&store)?;
        let key = |pattern: &SiteArray| pattern.spec().inner.last().copied().unwrap_or(1);
        let n_token = if P::TOKENS { key(store.site("pattern")?) } else { 1 };
        let part = PhantomData;
        Ok(Self {
            store,
            site,
            final_stream,
            examples,
            layers,
            weights,
            n_token,
            directions,
            names,
            part,
        })
    }

    fn columns(&self) -> Vec<(String, SqlType)> {
        let columns = Content::of(P::TOKENS).into_iter();
        columns.map(|(name, sql_type, _)| (name.to_owned(), sql_type)).collect()
    }

    fn n_row(&self) -> Option<u64> {
        Some((self.examples.example.len() * self.layers.len() * self.per_layer()) as u64)
    }

    fn start(&self, projection: &[usize]) -> Result<Scan> {
        let columns = Content::of(P::TOKENS);
        let computes = projection.iter().any(|&column| columns[column].2 == Content::Value);
        let through = computes.then(|| self.through()).transpose()?;
        Ok(Scan { projection: projection.to_vec(), through })
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
        let of_image =
            self.site.spec().row_len() * if self.site.name() == "v" { self.n_token } else { 1 };
        let bytes = (self.layers.len() * self.per_layer() + of_image) * size_of::<f32>();
        let block = (BUDGET_BYTES / bytes.max(1)).clamp(1, MAX_BLOCK_IMAGES);
        let compute = |images| self.compute(scan, images);
        let len = |block: &Block| block.images.len() * self.layers.len() * self.per_layer();
        let n_image = self.examples.example.len();
        let Some((block, range)) = worker.next(n_image, block, compute, len)? else {
            return Ok(0);
        };
        let columns = Content::of(P::TOKENS);
        for (index, &column) in scan.projection.iter().enumerate() {
            let (_, sql_type, content) = columns[column];
            let mut column = out.column(index, sql_type, range.len())?;
            self.write(block, content, range.clone(), &mut column)?;
        }
        Ok(range.len())
    }
}

impl<P: Part> Contributions<P> {
    /// Rows of SQL of a layer of an image.
    fn per_layer(&self) -> usize {
        let [_, n_head, ..] = self.weights.shape();
        n_head * self.n_token * self.names.len()
    }

    fn through(&self) -> Result<Vec<Vec<f32>>> {
        let along = self.weights.along(&self.directions)?;
        self.layers.iter().map(|&layer| Ok(self.weights.readout(layer, &along)?)).collect()
    }

    fn compute(&self, scan: &Scan, images: Range<usize>) -> Result<Block> {
        let Some(through) = &scan.through else {
            return Ok(Block { images, layers: Vec::new() });
        };
        let rows = &self.examples.first_row[images.clone()];
        let n = images.len();
        let [.., d_model] = self.weights.shape();
        let stream = read_residual(&self.final_stream, Rows::Index(rows), n)?;
        let scale = self.weights.norm.scale(&stream, d_model)?;
        let mut shares = Vec::with_capacity(self.layers.len());
        for (&layer, readout) in self.layers.iter().zip(through) {
            let mut out = vec![0.0; n * self.per_layer()];
            self.layer(layer, readout, images.clone(), &scale, &mut out)?;
            shares.push(out);
        }
        Ok(Block { images, layers: shares })
    }

    fn layer(
        &self,
        layer: usize,
        readout: &[f32],
        images: Range<usize>,
        scale: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        let [_, n_head, d_head, _] = self.weights.shape();
        let (rows, n) = (&self.examples.first_row[images.clone()], images.len());
        if !P::TOKENS {
            let z = read_layer(&self.site, Rows::Index(rows), n, Some(layer))?;
            return Ok(attribution(&z, readout, Some(scale), n_head, d_head, out)?);
        }
        let pattern = read_layer(self.store.site("pattern")?, Rows::Index(rows), n, Some(layer))?;
        let values: Vec<u64> = if self.site.name() == "v" {
            let tokens = 0..self.n_token as u64;
            rows.iter().flat_map(|row| tokens.clone().map(move |token| row + token)).collect()
        } else {
            self.examples.example_row[images].to_vec()
        };
        let v = read_layer(&self.site, Rows::Index(&values), values.len(), Some(layer))?;
        let n_direction = self.names.len();
        let shape = MapShape { n_token: self.n_token, n_head, d_head, n_direction };
        Ok(image_patch_maps(&pattern, &v, readout, Some(scale), shape, false, out)?)
    }

    /// Writes items `range` of a block, in the order image, layer, head, token, direction.
    fn write(
        &self,
        block: &Block,
        content: Content,
        range: Range<usize>,
        column: &mut Column<'_>,
    ) -> Result<()> {
        let (n_layer, per_layer) = (self.layers.len(), self.per_layer());
        let (n_token, n_direction) = (self.n_token, self.names.len());
        let place = |item: usize| {
            let (within, place) = (item % per_layer, item / per_layer);
            (place / n_layer, place % n_layer, within)
        };
        if content == Content::Value {
            for (slot, item) in column.floats()?.iter_mut().zip(range) {
                let (image, layer, within) = place(item);
                *slot = block.layers[layer][image * per_layer + within];
            }
            return Ok(());
        }
        for (slot, item) in column.integers()?.iter_mut().zip(range) {
            let (image, layer, within) = place(item);
            *slot = match content {
                Content::Example => signed(self.examples.example[block.images.start + image]),
                Content::Layer => bigint(self.layers[layer]),
                Content::Head => bigint(within / (n_token * n_direction)),
                Content::Token => bigint(within / n_direction % n_token),
                Content::Direction | Content::Value => signed(self.names[within % n_direction]),
            };
        }
        Ok(())
    }
}

/// The examples of a store, whose first rows are those of their class tokens.
fn class_tokens(store: &Store) -> Result<Examples> {
    let text = |at| store.attributes().pointer(at).and_then(Json::as_str);
    let family = text("/model/family").unwrap_or("no known model");
    if family != "clip_vision" {
        return Err(Failure::new(format!(
            "{} holds {family}; this asks the vision tower of a CLIP model",
            store.path().display()
        )));
    }
    match text("/capture/positions") {
        Some("all" | "first") => Examples::of(store),
        other => Err(Failure::new(format!(
            "{} has positions {}, so that class tokens may be missing: capture with positions \
             first, or all",
            store.path().display(),
            other.unwrap_or("unknown")
        ))),
    }
}

/// Those that the argument `examples` names; all where it was left out.
fn chosen(arguments: &Arguments, every: Examples) -> Result<Examples> {
    let Some(numbers) = arguments.indices("examples")? else { return Ok(every) };
    let mut some = Examples::default();
    for number in numbers {
        let at = every.example.binary_search(&number).map_err(|_| {
            let n = every.example.len();
            Failure::new(format!("example {number} does not exist: there are {n}, from 0"))
        })?;
        some.example.push(number);
        some.first_row.push(every.first_row[at]);
        some.example_row.push(every.example_row[at]);
    }
    Ok(some)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
