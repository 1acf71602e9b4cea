//! A loadable `DuckDB` extension that answers SQL from residuum stores, without the model.
//!
//! One file serves `DuckDB` 1.5 and 2.0, in Python and on the command line: it uses the stable C API of
//! version 1.2. A function of ours is a type in a file of its own; `ffi` turns it into callbacks.
//!
//! ```text
//! DuckDB ──▶ ffi ──▶ activations · vec · sites · counters · head_logits · lens · nearest
//!                        │ selection, spans: what a call asks for
//!                        └──▶ registry ──▶ residuum_core::{Store, kernels, stream}
//! ```

mod activations;
mod blocks;
mod chunk_cache;
mod clip;
mod counters;
mod directions;
mod examples;
mod failure;
#[allow(unsafe_code, reason = "the one place that calls DuckDB's C API; see its first lines")]
mod ffi;
mod head_logits;
mod lens;
mod listing;
mod nearest;
mod readout;
mod registry;
mod selection;
mod sites;
mod spans;
mod vec;
mod vectors;

use failure::Result;
use ffi::connection::Connection;

/// Registers everything that the extension offers.
fn register(connection: &Connection) -> Result<()> {
    connection.register_table::<activations::Activations>()?;
    connection.register_table::<clip::Contributions<clip::OfHeads>>()?;
    connection.register_table::<clip::Contributions<clip::OfPatches>>()?;
    connection.register_table::<counters::Counters>()?;
    connection.register_table::<head_logits::HeadLogits>()?;
    connection.register_table::<lens::Lens<lens::Logit>>()?;
    connection.register_table::<lens::Lens<lens::Tuned>>()?;
    connection.register_table::<nearest::Nearest>()?;
    connection.register_table::<sites::Sites>()?;
    connection.register_scalar(vec::Vector::list())?;
    for function in vec::Vector::arrays() {
        connection.register_scalar(function)?;
    }
    connection.add_replacement::<sites::StoreFolder>();
    Ok(())
}
