//! `residuum_head_logits(store, tokens := …)`: what each head adds directly to the logits of tokens.
//!
//! Direct logit attribution: the final norm's divisor is held at its captured value, so that a head's
//! share is `z @ W_O[head] @ direction / divisor`, the direction being the token's column of the
//! unembedding seen through the norm. A soft-capped logit is attributed before the cap.

use std::ops::Range;
use std::sync::Arc;

use residuum_core::kernels::attribution::{attribution, fold, readout as through_heads};
use residuum_core::stream::{Readout, Residual, final_residual};
use residuum_core::{SiteArray, Store};

use crate::blocks::Cursor;
use crate::failure::{Failure, Result};
use crate::ffi::table::TableFunction;
use crate::ffi::types::SqlType;
use crate::ffi::value::Arguments;
use crate::ffi::vector::{Column, OutputChunk, bigint};
use crate::readout::{check_heads_add_up, read_layer, read_residual, unembedding_shape};
use crate::registry;
use crate::selection::{Layout, layers, rows};
use crate::spans::Spans;

/// Bytes of `z` and of results in memory at once; it bounds the rows of a block.
const BUDGET_BYTES: usize = 64 << 20;
const MAX_BLOCK_ROWS: usize = 4096;

/// One bound call.
#[derive(Debug)]
pub(crate) struct HeadLogits {
    store: Arc<Store>,
    site: Arc<SiteArray>,
    layout: Layout,
    rows: Spans,
    layers: Vec<usize>,
    tokens: Vec<usize>,
    final_stream: Residual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Row,
    Layer,
    Head,
    TokenId,
    Logit,
}

const COLUMNS: &[(&str, SqlType, Content)] = &[
    ("row", SqlType::BigInt, Content::Row),
    ("layer", SqlType::BigInt, Content::Layer),
    ("head", SqlType::BigInt, Content::Head),
    ("token_id", SqlType::BigInt, Content::TokenId),
    ("logit", SqlType::Float, Content::Logit),
];

/// One execution.
#[derive(Debug)]
pub(crate) struct Scan {
    projection: Vec<usize>,
    /// Absent where the query uses no logits.
    directions: Option<Directions>,
}

/// The directions of the tokens, taken through each layer's heads.
#[derive(Debug)]
struct Directions {
    readout: Readout,
    /// By position in the call's layers: `[head, d_head, token]`.
    layers: Vec<Vec<f32>>,
}

/// The logits of some rows: by position in the call's layers, `[row, head, token]`.
#[derive(Debug)]
pub(crate) struct Block {
    rows: Range<usize>,
    layers: Vec<Vec<f32>>,
}

impl TableFunction for HeadLogits {
    const NAME: &'static str = "residuum_head_logits";
    const POSITIONAL: &'static [SqlType] = &[SqlType::Varchar];
    const NAMED: &'static [(&'static str, SqlType)] = &[
        ("tokens", SqlType::BigIntList),
        ("layers", SqlType::BigIntList),
        ("rows", SqlType::BigIntList),
    ];
    type Scan = Scan;
    type Worker = Cursor<Block>;

    fn bind(arguments: &Arguments) -> Result<Self> {
        let store = registry::open(&arguments.text(0, "store")?)?;
        let site = Arc::clone(store.site("z")?);
        let layout = Layout::of(site.spec());
        let (_, d_vocab) = unembedding_shape(&store)?;
        check_heads_add_up(&store)?;
        let tokens = arguments.indices("tokens")?.ok_or_else(|| {
            Failure::new("residuum_head_logits needs `tokens := [id, …]`, the tokens to explain")
        })?;
        let tokens: Vec<usize> =
            tokens.into_iter().map(|token| usize::try_from(token).unwrap_or(usize::MAX)).collect();
        if let Some(token) = tokens.iter().find(|&&token| token >= d_vocab) {
            return Err(Failure::new(format!(
                "token {token} does not exist: the vocabulary has {d_vocab} tokens, from 0"
            )));
        }
        let final_stream = final_residual(&store)?;
        let rows = Spans::new(rows(arguments, &site)?, site.n_row(), layout.chunk_rows);
        let layers = layers(arguments, &site)?;
        Ok(Self { store, site, layout, rows, layers, tokens, final_stream })
    }

    fn columns(&self) -> Vec<(String, SqlType)> {
        COLUMNS.iter().map(|&(name, sql_type, _)| (name.to_owned(), sql_type)).collect()
    }

    fn n_row(&self) -> Option<u64> {
        Some((self.rows.n_row() * self.per_row()) as u64)
    }

    fn start(&self, projection: &[usize]) -> Result<Scan> {
        let computes = projection.iter().any(|&column| COLUMNS[column].2 == Content::Logit);
        let directions = computes.then(|| self.directions()).transpose()?;
        Ok(Scan { projection: projection.to_vec(), directions })
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
        let bytes = (self.per_row() + self.layout.row_len()) * size_of::<f32>();
        let block_rows = (BUDGET_BYTES / bytes.max(1)).clamp(1, MAX_BLOCK_ROWS);
        let compute = |rows| self.compute(scan, rows);
        let len = |block: &Block| block.rows.len() * self.per_row();
        let Some((block, range)) = worker.next(self.rows.n_row(), block_rows, compute, len)? else {
            return Ok(0);
        };
        for (index, &column) in scan.projection.iter().enumerate() {
            let (_, sql_type, content) = COLUMNS[column];
            let mut column = out.column(index, sql_type, range.len())?;
            self.write(block, content, range.clone(), &mut column)?;
        }
        Ok(range.len())
    }
}

impl HeadLogits {
    /// Rows of SQL per selected row.
    fn per_row(&self) -> usize {
        self.layers.len() * self.layout.n_head() * self.tokens.len()
    }

    fn directions(&self) -> Result<Directions> {
        let readout = Readout::load(&self.store)?;
        let d_model = readout.d_model();
        let folded = fold(&readout.norm, &readout.directions(&self.tokens)?, d_model)?;
        let (n_head, d_head) = (self.layout.n_head(), self.layout.width);
        let w_o = self.store.weights()?.f32("W_O")?;
        let of_layer = n_head * d_head * d_model;
        let n_layer = self.site.spec().n_layer.unwrap_or(1);
        if w_o.data.len() != n_layer * of_layer {
            return Err(Failure::new(format!(
                "W_O has shape {:?}, but z has {n_layer} layers, {n_head} heads and d_head {d_head}",
                w_o.shape
            )));
        }
        let through = |&layer: &usize| {
            let w_o = &w_o.data[layer * of_layer..(layer + 1) * of_layer];
            Ok(through_heads(w_o, &folded.directions, n_head, d_head, d_model)?)
        };
        let layers = self.layers.iter().map(through).collect::<Result<_>>()?;
        Ok(Directions { readout, layers })
    }

    fn compute(&self, scan: &Scan, rows: Range<usize>) -> Result<Block> {
        let Some(directions) = &scan.directions else {
            return Ok(Block { rows, layers: Vec::new() });
        };
        let (n_row, n_head, d_head) = (rows.len(), self.layout.n_head(), self.layout.width);
        let stream = read_residual(&self.final_stream, self.rows.rows(rows.clone()), n_row)?;
        let scale = directions.readout.norm.scale(&stream, directions.readout.d_model())?;
        let mut logits = Vec::with_capacity(self.layers.len());
        for (&layer, through) in self.layers.iter().zip(&directions.layers) {
            let z = read_layer(&self.site, self.rows.rows(rows.clone()), n_row, Some(layer))?;
            let mut out = vec![0.0; n_row * n_head * self.tokens.len()];
            attribution(&z, through, Some(&scale), n_head, d_head, &mut out)?;
            logits.push(out);
        }
        Ok(Block { rows, layers: logits })
    }

    /// Writes items `range` of a block, in the order row, layer, head, token.
    fn write(
        &self,
        block: &Block,
        content: Content,
        range: Range<usize>,
        column: &mut Column<'_>,
    ) -> Result<()> {
        let (n_layer, per_layer) = (self.layers.len(), self.layout.n_head() * self.tokens.len());
        let place = |item: usize| {
            let (within, place) = (item % per_layer, item / per_layer);
            (place / n_layer, place % n_layer, within)
        };
        if content == Content::Logit {
            for (slot, item) in column.floats()?.iter_mut().zip(range) {
                let (row, layer, within) = place(item);
                *slot = block.layers[layer][row * per_layer + within];
            }
            return Ok(());
        }
        for (slot, item) in column.integers()?.iter_mut().zip(range) {
            let (row, layer, within) = place(item);
            let number = match content {
                Content::Row => self.rows.row(block.rows.start + row),
                Content::Layer => self.layers[layer],
                Content::Head => within / self.tokens.len(),
                Content::TokenId | Content::Logit => self.tokens[within % self.tokens.len()],
            };
            *slot = bigint(number);
        }
        Ok(())
    }
}
