//! What each head adds to the logits of some tokens, over a store.

use std::ops::Range;

use super::readout::{Readout, final_residual};
use super::{block_rows, blocks};
use crate::error::{Error, Result};
use crate::kernels::attribution::{attribution, fold, readout as through_heads};
use crate::store::open::Store;

/// Head logits of one block of rows.
#[derive(Debug)]
pub struct HeadLogits {
    /// The rows of the store.
    pub rows: Range<usize>,
    /// `[row, head, token]`, the final norm's divisor frozen at the row's own.
    pub logits: Vec<f32>,
}

/// Hands the contributions of the heads of `layer` to the logits of `tokens` to `work`, block by
/// block.
///
/// # Errors
/// If `z` or the final residual was not captured, the model has no unembedding, heads do not write
/// to the stream through `W_O`, a row does not fit the budget, reading fails, or `work` returns an
/// error.
pub fn head_logits(
    store: &Store,
    layer: usize,
    tokens: &[usize],
    rows: Range<usize>,
    budget: usize,
    mut work: impl FnMut(HeadLogits) -> Result<()>,
) -> Result<()> {
    let readout = Readout::load(store)?;
    let d_model = readout.d_model();
    let z = store.site("z")?;
    let &[n_head, d_head] = z.spec().inner.as_slice() else {
        return Err(Error::argument("the rows of `z` are not [head, d_head]"));
    };
    let last = final_residual(store)?;
    let folded = fold(&readout.norm, &readout.directions(tokens)?, d_model)?;
    let w_o = output_weights(store, layer, [n_head, d_head, d_model])?;
    let directions = through_heads(&w_o, &folded.directions, n_head, d_head, d_model)?;
    let bytes_per_row = 4 * (n_head * (d_head + tokens.len()) + d_model);
    let block = block_rows(z, bytes_per_row, budget)?;
    for rows in blocks(rows, block) {
        let mut values = vec![0.0; rows.len() * n_head * d_head];
        z.read_block_f32(rows.clone(), layer, &mut values)?;
        let mut stream = vec![0.0; rows.len() * d_model];
        last.site.read_block_f32(rows.clone(), last.layer, &mut stream)?;
        let scale = readout.norm.scale(&stream, d_model)?;
        let mut logits = vec![0.0; rows.len() * n_head * tokens.len()];
        attribution(&values, &directions, Some(&scale), n_head, d_head, &mut logits)?;
        work(HeadLogits { rows, logits })?;
    }
    Ok(())
}

/// `W_O [head, d_head, d_model]` of one layer.
fn output_weights(store: &Store, layer: usize, shape: [usize; 3]) -> Result<Vec<f32>> {
    let weights = store.weights()?;
    let tensor = weights.f32("W_O")?;
    let width = shape.iter().product::<usize>();
    if tensor.shape.get(1..) != Some(&shape[..]) || layer >= tensor.shape[0] {
        return Err(Error::argument(format!(
            "W_O of {} has shape {:?}, but layer {layer} of z needs [layer, head, d_head, d_model] \
             ending in {shape:?}",
            store.path().display(),
            tensor.shape
        )));
    }
    Ok(tensor.data[layer * width..(layer + 1) * width].to_vec())
}
