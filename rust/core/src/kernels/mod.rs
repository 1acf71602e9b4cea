//! Arrays in, arrays out, one noun per file. No I/O, no paths, no configuration.
//!
//! Arrays are f32 slices, row-major, with the axes named in each function's documentation; long
//! sums are f64. Results do not depend on the number of threads. A NaN in a row makes that row's
//! results NaN, never another row's, unless a kernel says otherwise.

pub mod attribution;
mod check;
pub mod lens;
pub mod matmul;
pub mod norm;
mod vector;
