//! Arrays in, arrays out, one noun per file. No I/O, no paths, no configuration.
//!
//! Arrays are f32 slices, row-major, with the axes named in each function's documentation; long
//! sums are f64. Results do not depend on the number of threads. A NaN in a row makes that row's
//! results NaN (or leaves the row out, where results are over all rows), never another row's.

pub mod attribution;
pub(crate) mod check;
pub mod image_patch_maps;
pub mod kmeans;
pub mod knn;
pub mod lens;
pub mod matmul;
pub mod moments;
pub mod norm;
pub mod pca;
pub mod subset_scores;
pub mod textspan;
