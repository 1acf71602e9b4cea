//! The captured model's way from the residual stream to logits: final norm, then unembedding.

use std::sync::Arc;

use residuum_core::kernels::lens::Unembed;
use residuum_core::kernels::matmul::MatRef;
use residuum_core::kernels::norm::{Norm, NormKind};
use residuum_core::{Rows, SiteArray, Store, Weights};
use serde_json::Value;

use crate::failure::{Failure, Result};

/// Norm, unembedding and settings, in memory.
#[derive(Debug)]
pub(crate) struct Readout {
    /// The final norm.
    pub(crate) norm: Norm,
    /// Factor on the logits.
    pub(crate) logit_scale: f32,
    softcap: Option<f32>,
    /// `[d_model, d_vocab]`
    w_u: Vec<f32>,
    b_u: Option<Vec<f32>>,
    d_model: usize,
    d_vocab: usize,
}

/// `(d_model, d_vocab)` of the store's unembedding; reads no weights.
///
/// # Errors
/// The model has no unembedding.
pub(crate) fn unembedding_shape(store: &Store) -> Result<(usize, usize)> {
    match store.weights()?.shape("W_U") {
        Some(&[d_model, d_vocab]) => Ok((d_model, d_vocab)),
        _ => Err(Failure::new(format!(
            "the model in {} has no unembedding W_U, so that there are no logits: capture a model \
             with a language-model head",
            store.path().display()
        ))),
    }
}

impl Readout {
    /// Reads the weights of `store`.
    pub(crate) fn load(store: &Store) -> Result<Self> {
        let (d_model, d_vocab) = unembedding_shape(store)?;
        let weights = store.weights()?;
        let settings = settings(store)?;
        let number = |name: &str, default: f64| narrow(number(settings, name).unwrap_or(default));
        let kind = settings.get("norm").and_then(Value::as_str).unwrap_or_default();
        Ok(Self {
            norm: Norm {
                kind: NormKind::parse(kind)?,
                eps: number("eps", 0.0),
                offset: number("norm_offset", 0.0),
                weight: optional(&weights, "ln_final.w")?,
                bias: optional(&weights, "ln_final.b")?,
            },
            logit_scale: number("logit_scale", 1.0),
            softcap: self::number(settings, "logit_softcap").map(narrow),
            w_u: weights.f32("W_U")?.data,
            b_u: optional(&weights, "b_U")?,
            d_model,
            d_vocab,
        })
    }

    /// Length of a residual row.
    pub(crate) fn d_model(&self) -> usize {
        self.d_model
    }

    /// The unembedding, for the lens kernel.
    pub(crate) fn unembed(&self) -> Result<Unembed<'_>> {
        Ok(Unembed {
            weight: MatRef::new(&self.w_u, self.d_model, self.d_vocab)?,
            bias: self.b_u.as_deref(),
            logit_scale: self.logit_scale,
            softcap: self.softcap,
        })
    }

    /// Columns `tokens` of the unembedding, times the logit scale: `[d_model, token]`.
    pub(crate) fn directions(&self, tokens: &[usize]) -> Vec<f32> {
        let rows = self.w_u.chunks_exact(self.d_vocab.max(1));
        rows.flat_map(|row| tokens.iter().map(move |&token| row[token] * self.logit_scale))
            .collect()
    }
}

/// The settings `readout` of the captured model.
pub(crate) fn settings(store: &Store) -> Result<&Value> {
    store.attributes().pointer("/model/readout").ok_or_else(|| {
        Failure::new(format!(
            "{} does not say how its model reads logits: `model.readout` is missing in zarr.json",
            store.path().display()
        ))
    })
}

fn number(settings: &Value, name: &str) -> Option<f64> {
    settings.get(name).and_then(Value::as_f64)
}

#[allow(clippy::cast_possible_truncation, reason = "settings such as 1e-5 are meant as f32")]
fn narrow(number: f64) -> f32 {
    number as f32
}

fn optional(weights: &Weights, name: &str) -> Result<Option<Vec<f32>>> {
    match weights.shape(name) {
        Some(_) => Ok(Some(weights.f32(name)?.data)),
        None => Ok(None),
    }
}

/// Where the last residual rows are: `resid_final`, or else the last layer of `resid_post`, which is
/// the same.
#[derive(Debug)]
pub(crate) struct Final {
    site: Arc<SiteArray>,
    layer: Option<usize>,
}

impl Final {
    /// The place in `store`; `None` if neither was captured.
    pub(crate) fn find(store: &Store) -> Option<Self> {
        if let Ok(site) = store.site("resid_final") {
            return Some(Self { site: Arc::clone(site), layer: None });
        }
        let site = store.site("resid_post").ok()?;
        let last = site.spec().n_layer?.checked_sub(1)?;
        let captured = site.spec().layers.contains(&last);
        captured.then(|| Self { site: Arc::clone(site), layer: Some(last) })
    }

    /// The layer of `resid_post` that is read, if it is that site.
    pub(crate) fn layer(&self) -> Option<usize> {
        self.layer
    }

    /// Reads rows: `[row, d_model]`, not normed.
    pub(crate) fn read(&self, rows: Rows<'_>, n_row: usize) -> Result<Vec<f32>> {
        read_layer(&self.site, rows, n_row, self.layer)
    }
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
