//! Translators of a tuned lens: the affine maps that a row goes through before the final norm.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::kernels::matmul::{MatRef, matmul};
use crate::store::open::Store;

/// The maps of some layers; the last layer, which is the model's own output, has none.
#[derive(Debug, Clone)]
pub struct Translators {
    d_model: usize,
    /// Weight `[d_model, d_model]` and bias by layer.
    layers: BTreeMap<usize, (Vec<f32>, Vec<f32>)>,
}

impl Translators {
    /// Reads what the lens `name` of a store has for `layers`: layer l is state l + 1 of the lens.
    ///
    /// # Errors
    /// If there is no such lens, it was not trained at a layer, or is of another width.
    pub fn load(
        store: &Store,
        name: &str,
        layers: impl IntoIterator<Item = usize>,
        d_model: usize,
    ) -> Result<Self> {
        let file = store.lens(name)?;
        let n_layer = store.attributes().pointer("/model/n_layer").and_then(Value::as_u64);
        let mut found = BTreeMap::new();
        for layer in layers {
            let state = layer + 1;
            if Some(state as u64) == n_layer {
                continue;
            }
            let (weight, bias) = (format!("{state}.weight"), format!("{state}.bias"));
            let shapes = (file.shape(&weight), file.shape(&bias));
            if shapes != (Some(&[d_model, d_model]), Some(&[d_model])) {
                return Err(Error::argument(format!(
                    "the lens `{name}` in {} has no translator that is {d_model} wide for layer \
                     {layer} (state {state}): leave that layer out, or train it",
                    store.path().display()
                )));
            }
            found.insert(layer, (file.f32(&weight)?.data, file.f32(&bias)?.data));
        }
        Ok(Self { d_model, layers: found })
    }

    /// Rows `[row, d_model]` of a layer, translated: `x + x @ weight.T + bias`.
    ///
    /// # Errors
    /// If the length is not whole rows.
    pub fn apply(&self, layer: usize, x: Vec<f32>) -> Result<Vec<f32>> {
        let Some((weight, bias)) = self.layers.get(&layer) else { return Ok(x) };
        let d_model = self.d_model;
        let rows = MatRef::new(&x, x.len() / d_model.max(1), d_model)?;
        let mut out = vec![0.0; x.len()];
        matmul(rows, MatRef::transposed(weight, d_model, d_model)?, &mut out)?;
        for (out, x) in out.chunks_exact_mut(d_model).zip(x.chunks_exact(d_model)) {
            for ((out, x), bias) in out.iter_mut().zip(x).zip(bias) {
                *out += x + bias;
            }
        }
        Ok(out)
    }
}
