//! How a store of an encoder goes from the stream to the joint space of texts and images.

use crate::error::{Error, Result};
use crate::kernels::attribution::{fold, readout};
use crate::kernels::matmul::{MatRef, matmul};
use crate::kernels::norm::Norm;
use crate::store::open::Store;

/// The final norm, the projection behind it, and the heads' output weights.
#[derive(Debug, Clone)]
pub struct Projection {
    /// The final norm.
    pub norm: Norm,
    /// `W_proj [d_model, d_embed]`
    w_proj: Vec<f32>,
    /// `W_O [layer, head, d_head, d_model]`
    w_o: Vec<f32>,
    /// Layers, heads, `d_head`, `d_model`.
    shape: [usize; 4],
    d_embed: usize,
}

impl Projection {
    /// Reads the weights of `store`.
    ///
    /// # Errors
    /// If the model has no projection to a joint space, or its weights are of another shape.
    pub fn load(store: &Store) -> Result<Self> {
        let weights = store.weights()?;
        let (Some(&[d_model, d_embed]), Some(&[n_layer, n_head, d_head, width])) =
            (weights.shape("W_proj"), weights.shape("W_O"))
        else {
            return Err(Error::argument(format!(
                "the model in {} has no projection to a joint space of texts and images: capture \
                 CLIPModel or CLIPVisionModelWithProjection",
                store.path().display()
            )));
        };
        if width != d_model {
            let path = store.path().join("weights/readout.safetensors");
            return Err(Error::damaged(&path, "W_O and W_proj are of different widths"));
        }
        Ok(Self {
            norm: super::readout::norm_of(store, &weights)?,
            w_proj: weights.f32("W_proj")?.data,
            w_o: weights.f32("W_O")?.data,
            shape: [n_layer, n_head, d_head, d_model],
            d_embed,
        })
    }

    /// Width of the joint space.
    pub fn d_embed(&self) -> usize {
        self.d_embed
    }

    /// Layers, heads, `d_head`, `d_model`.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Directions `[direction, d_embed]` seen through the projection and the norm's gain and centring:
    /// `[d_model, direction]`, the argument of [`Self::readout`].
    ///
    /// # Errors
    /// If the directions are of another width.
    pub fn along(&self, directions: &[f32]) -> Result<Vec<f32>> {
        let [.., d_model] = self.shape;
        let n_direction = directions.len() / self.d_embed.max(1);
        let mut along = vec![0.0; d_model * n_direction];
        let w_proj = MatRef::new(&self.w_proj, d_model, self.d_embed)?;
        let given = MatRef::transposed(directions, self.d_embed, n_direction)?;
        matmul(w_proj, given, &mut along)?;
        Ok(fold(&self.norm, &along, d_model)?.directions)
    }

    /// What [`Self::along`] gives seen by the heads of a layer through `W_O`: `[head, d_head,
    /// direction]`.
    ///
    /// # Errors
    /// If the lengths do not match, or there is no such layer.
    pub fn readout(&self, layer: usize, along: &[f32]) -> Result<Vec<f32>> {
        let [n_layer, n_head, d_head, d_model] = self.shape;
        if layer >= n_layer {
            return Err(Error::argument(format!("layer {layer} of {n_layer} does not exist")));
        }
        let width = n_head * d_head * d_model;
        readout(&self.w_o[layer * width..][..width], along, n_head, d_head, d_model)
    }
}
