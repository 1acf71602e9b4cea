//! How a store goes from its residual stream to logits: the final norm and the unembedding.

use std::sync::Arc;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::kernels::lens::Unembed;
use crate::kernels::matmul::MatRef;
use crate::kernels::norm::{Norm, NormKind, narrow};
use crate::store::array::SiteArray;
use crate::store::open::Store;
use crate::store::weights::Weights;

/// The final norm, the unembedding and its settings, in memory.
#[derive(Debug, Clone)]
pub struct Readout {
    /// The final norm.
    pub norm: Norm,
    /// Factor on the logits.
    pub logit_scale: f32,
    /// Cap on the logits, where the model has one.
    pub softcap: Option<f32>,
    /// `W_U [d_model, d_vocab]`
    w_u: Vec<f32>,
    /// `b_U [d_vocab]`
    b_u: Option<Vec<f32>>,
    d_model: usize,
    d_vocab: usize,
}

impl Readout {
    /// Reads the weights of `store` and `model.readout` of its attributes.
    ///
    /// # Errors
    /// If the model has no unembedding, or its settings are missing or wrong.
    pub fn load(store: &Store) -> Result<Self> {
        let weights = store.weights()?;
        let Some(&[d_model, d_vocab]) = weights.shape("W_U") else {
            return Err(Error::argument(format!(
                "the model in {} has no unembedding W_U, so that there are no logits",
                store.path().display()
            )));
        };
        let settings = Settings::of(store)?;
        Ok(Self {
            norm: final_norm(&settings, &weights)?,
            logit_scale: settings.number("logit_scale")?.unwrap_or(1.0),
            softcap: settings.number("logit_softcap")?,
            w_u: weights.f32("W_U")?.data,
            b_u: optional(&weights, "b_U")?,
            d_model,
            d_vocab,
        })
    }

    /// Length of a residual row.
    pub fn d_model(&self) -> usize {
        self.d_model
    }

    /// Number of tokens.
    pub fn d_vocab(&self) -> usize {
        self.d_vocab
    }

    /// The unembedding, for the lens kernel.
    ///
    /// # Errors
    /// If the length of `W_U` is not that of its shape.
    pub fn unembed(&self) -> Result<Unembed<'_>> {
        Ok(Unembed {
            weight: MatRef::new(&self.w_u, self.d_model, self.d_vocab)?,
            bias: self.b_u.as_deref(),
            logit_scale: self.logit_scale,
            softcap: self.softcap,
        })
    }

    /// Columns `tokens` of the unembedding, times the logit scale: `[d_model, token]`.
    ///
    /// # Errors
    /// If a token is not in the vocabulary.
    pub fn directions(&self, tokens: &[usize]) -> Result<Vec<f32>> {
        if let Some(token) = tokens.iter().find(|&&token| token >= self.d_vocab) {
            let d_vocab = self.d_vocab;
            let what = format!("token {token} is not in the vocabulary of {d_vocab} tokens");
            return Err(Error::argument(what));
        }
        let column = |row: &[f32]| -> Vec<f32> {
            tokens.iter().map(|&token| row[token] * self.logit_scale).collect()
        };
        Ok(self.w_u.chunks_exact(self.d_vocab.max(1)).flat_map(column).collect())
    }
}

/// The final norm of the model in `store`.
///
/// # Errors
/// If its settings are missing or wrong.
pub(super) fn norm_of(store: &Store, weights: &Weights) -> Result<Norm> {
    final_norm(&Settings::of(store)?, weights)
}

fn final_norm(settings: &Settings<'_>, weights: &Weights) -> Result<Norm> {
    Ok(Norm {
        kind: settings.norm()?,
        eps: settings.number("eps")?.unwrap_or(0.0),
        offset: settings.number("norm_offset")?.unwrap_or(0.0),
        weight: optional(weights, "ln_final.w")?,
        bias: optional(weights, "ln_final.b")?,
    })
}

/// `model.readout` of the store's attributes.
struct Settings<'a> {
    store: &'a Store,
    values: &'a Value,
}

impl<'a> Settings<'a> {
    fn of(store: &'a Store) -> Result<Self> {
        let values = store.attributes().pointer("/model/readout");
        let values = values.ok_or_else(|| Self::wrong(store, "`model.readout` is missing"))?;
        Ok(Self { store, values })
    }

    fn wrong(store: &Store, what: &str) -> Error {
        Error::damaged(&store.path().join("zarr.json"), what)
    }

    fn norm(&self) -> Result<NormKind> {
        let name = self.values.get("norm").and_then(Value::as_str);
        NormKind::parse(name.unwrap_or_default())
            .map_err(|error| Self::wrong(self.store, &format!("`model.readout.norm`: {error}")))
    }

    /// Absent and null are both no number.
    fn number(&self, name: &str) -> Result<Option<f32>> {
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_f64().map(narrow).map(Some).ok_or_else(|| {
                Self::wrong(self.store, &format!("`model.readout.{name}` is {value}, not a number"))
            }),
        }
    }
}

fn optional(weights: &Weights, name: &str) -> Result<Option<Vec<f32>>> {
    weights.shape(name).map(|_| Ok(weights.f32(name)?.data)).transpose()
}

/// Where the residual stream after some block is stored.
#[derive(Debug, Clone)]
pub struct Residual {
    /// The site that holds it.
    pub site: Arc<SiteArray>,
    /// The layer of that site; 0 where it has no layer axis.
    pub layer: usize,
}

/// The residual stream after block `layer`: `resid_post[layer]`, or what equals it:
/// `resid_pre[layer + 1]`, or `resid_final` after the last block.
///
/// # Errors
/// If none of them was captured; the error names them.
pub fn residual(store: &Store, layer: usize) -> Result<Residual> {
    let n_layer = store.attributes().pointer("/model/n_layer").and_then(Value::as_u64);
    let place = |name: &str, layer: usize| {
        let site = store.site(name).ok()?;
        site.spec().layers.contains(&layer).then(|| Residual { site: Arc::clone(site), layer })
    };
    let found = place("resid_post", layer).or_else(|| place("resid_pre", layer + 1));
    if let Some(found) = found {
        return Ok(found);
    }
    if n_layer == Some(layer as u64 + 1) {
        return final_residual(store);
    }
    Err(Error::argument(format!(
        "the residual stream after layer {layer} was not captured in {}: it needs layer {layer} of \
         `resid_post` or layer {} of `resid_pre`",
        store.path().display(),
        layer + 1
    )))
}

/// The residual stream before the final norm: `resid_final`, or the last layer of `resid_post`.
///
/// # Errors
/// If neither was captured.
pub fn final_residual(store: &Store) -> Result<Residual> {
    if let Ok(site) = store.site("resid_final") {
        return Ok(Residual { site: Arc::clone(site), layer: 0 });
    }
    let last = store.site("resid_post").ok().and_then(|site| {
        let layer = site.spec().n_layer?.checked_sub(1)?;
        site.spec().layers.contains(&layer).then(|| Residual { site: Arc::clone(site), layer })
    });
    last.ok_or_else(|| {
        Error::argument(format!(
            "the residual stream before the final norm was not captured in {}: it needs \
             `resid_final` or the last layer of `resid_post`",
            store.path().display()
        ))
    })
}
