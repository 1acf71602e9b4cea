//! What the functions about logits share: checks that need no weights, and rows of one layer.

use residuum_core::stream::Residual;
use residuum_core::{Rows, SiteArray, Store};
use serde_json::Value;

use crate::failure::{Failure, Result};

/// `(d_model, d_vocab)` of the store's unembedding; reads no weights.
///
/// # Errors
/// The model has no unembedding.
pub(crate) fn unembedding_shape(store: &Store) -> Result<(usize, usize)> {
    // A model without readout weights, such as an encoder of images, has no such file.
    let weights = store.has_weights()?.then(|| store.weights()).transpose()?;
    match weights.as_ref().and_then(|weights| weights.shape("W_U")) {
        Some(&[d_model, d_vocab]) => Ok((d_model, d_vocab)),
        _ => Err(Failure::new(format!(
            "the model in {} has no unembedding W_U, so that there are no logits: capture a model \
             with a language-model head",
            store.path().display()
        ))),
    }
}

/// Refuses models whose blocks norm what heads give, because their heads do not sum to the stream.
pub(crate) fn check_heads_add_up(store: &Store) -> Result<()> {
    let settings = store.attributes().pointer("/model/readout");
    let norms =
        |what| settings.and_then(|all| all.get(what)).and_then(Value::as_bool) == Some(true);
    let what = match (norms("post_norm"), norms("branch_norm")) {
        (true, _) => "their output (post-norm)",
        (_, true) => "what their heads give",
        _ => return Ok(()),
    };
    Err(Failure::new(format!(
        "the blocks of the model in {} norm {what}, so that heads do not add up to logits",
        store.path().display()
    )))
}

/// Reads rows of the residual stream: `[row, d_model]`, not normed.
pub(crate) fn read_residual(place: &Residual, rows: Rows<'_>, n_row: usize) -> Result<Vec<f32>> {
    read_layer(&place.site, rows, n_row, place.site.spec().n_layer.map(|_| place.layer))
}

/// Reads rows of one layer, `None` where the site has no layer axis: `[row, row_len]`.
pub(crate) fn read_layer(
    site: &SiteArray,
    rows: Rows<'_>,
    n_row: usize,
    layer: Option<usize>,
) -> Result<Vec<f32>> {
    let mut out = vec![0.0_f32; n_row * site.spec().row_len()];
    site.read(rows, layer.as_slice(), None, &mut out)?;
    Ok(out)
}
