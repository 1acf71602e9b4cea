//! A block's parts over packed rows, for passes that are recomputed from cached rows.
//!
//! Which rows go through which part is planned elsewhere; here are arrays in, arrays out, in f32.
//!
//! ```text
//! rows ─▶ norm ─▶ linear (q, k, v) ─▶ rotate ─▶ attend ─▶ linear ─▶ norm ─▶ linear, activation ─▶ linear
//! ```
//!
//! Results do not depend on the number of threads.

pub mod activation;
pub mod attention;
pub mod gather;
pub mod linear;
pub mod rotary;
pub mod weight;
