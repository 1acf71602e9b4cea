//! The logit lens over a store.

use std::ops::Range;

use super::readout::{Readout, Residual, final_residual, residual};
use super::{block_rows, blocks};
use crate::error::Result;
use crate::interrupt;
use crate::kernels::lens::{LensStats, lens_layers};
use crate::store::array::{Rows, SiteArray};
use crate::store::open::Store;

/// The lens of one block of rows.
#[derive(Debug)]
pub struct LensBlock {
    /// The rows of the store.
    pub rows: Range<usize>,
    /// By position in the layers asked for; `kl_to_reference` is relative to the final residual.
    pub layers: Vec<LensStats>,
}

/// Reads `layers` of the residual stream through the final norm and the unembedding, block by
/// block, and hands each block to `work`. The rows' targets come from `index/target`, where the
/// store has it.
///
/// Within the budget lie the residual rows of a block, raw and normed; the readout (twice the size
/// of `W_U` while it is read) and the kernel's tiles come on top.
///
/// # Errors
/// If a layer or the final residual was not captured, the model has no unembedding, a row does not
/// fit the budget, reading fails, or `work` returns an error.
pub fn lens(
    store: &Store,
    layers: &[usize],
    rows: Range<usize>,
    k: usize,
    budget: usize,
    mut work: impl FnMut(LensBlock) -> Result<()>,
) -> Result<()> {
    let readout = Readout::load(store)?;
    let places: Vec<Residual> =
        layers.iter().map(|&layer| residual(store, layer)).collect::<Result<_>>()?;
    let last = final_residual(store)?;
    let bytes_per_row = 4 * readout.d_model() * (layers.len() + 2);
    let block = block_rows(&last.site, bytes_per_row, budget)?;
    for rows in blocks(rows, block) {
        let reference = normed(&readout, &last, rows.clone())?;
        let states: Vec<Option<Vec<f32>>> = places
            .iter()
            .map(|place| {
                let same = place.layer == last.layer && place.site.name() == last.site.name();
                (!same).then(|| normed(&readout, place, rows.clone())).transpose()
            })
            .collect::<Result<_>>()?;
        let slices: Vec<&[f32]> =
            states.iter().map(|state| state.as_deref().unwrap_or(&reference)).collect();
        let targets = store.target().map(|site| targets(site, rows.clone())).transpose()?;
        let unembed = readout.unembed()?;
        let layers = lens_layers(&slices, Some(&reference), targets.as_deref(), unembed, k)?;
        work(LensBlock { rows, layers })?;
        interrupt::check()?;
    }
    Ok(())
}

/// Rows `[row, d_model]` after the final norm.
fn normed(readout: &Readout, place: &Residual, rows: Range<usize>) -> Result<Vec<f32>> {
    let mut raw = vec![0.0; rows.len() * readout.d_model()];
    place.site.read_block_f32(rows, place.layer, &mut raw)?;
    let mut out = vec![0.0; raw.len()];
    readout.norm.apply(&raw, readout.d_model(), &mut out)?;
    Ok(out)
}

fn targets(site: &SiteArray, rows: Range<usize>) -> Result<Vec<i32>> {
    let mut ids = vec![0_i32; rows.len()];
    site.read(Rows::Range(rows), &[], None, &mut ids)?;
    Ok(ids)
}
