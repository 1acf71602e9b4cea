//! The compiled module `residuum._residuum`: core types and functions, seen from Python.
//!
//! A binding converts its arguments, detaches from the interpreter, calls the core and maps the
//! error; `call::detached` does the two in the middle and the last, so that no binding forgets one.
//!
//! ```text
//! residuum.store ──▶ store.rs, writer.rs, objects.rs… ┐
//!                                                   ├──▶ call.rs ──▶ residuum_core
//! residuum.kernels ──▶ one file per kernel ─────────┘      │
//!                                                       error.rs ──▶ residuum.errors
//! ```

mod array;
mod attribution;
mod call;
mod clip;
mod error;
mod json;
mod kmeans;
mod knn;
mod lens;
mod matmul;
mod matrix;
mod moments;
mod norm;
mod objects;
mod replay;
mod spec;
mod store;
mod verify;
mod view;
mod writer;

use pyo3::prelude::*;

/// The compiled half of residuum; its public doors are `residuum.store` and `residuum.kernels`.
#[pymodule]
mod _residuum {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::attribution::attribution;
    #[pymodule_export]
    use crate::clip::{image_patch_maps, site_head_moments, subset_scores, textspan};
    #[pymodule_export]
    use crate::kmeans::{kmeans, site_kmeans};
    #[pymodule_export]
    use crate::knn::{knn, site_knn};
    #[pymodule_export]
    use crate::lens::{lens, lens_gradients, lens_judge};
    #[pymodule_export]
    use crate::matmul::matmul;
    #[pymodule_export]
    use crate::moments::{moments, pca, site_moments};
    #[pymodule_export]
    use crate::norm::Norm;
    #[pymodule_export]
    use crate::objects::{
        object_create, object_length, object_list, object_read, object_remove, object_upload,
    };
    #[pymodule_export]
    use crate::replay::{ReplayAttention, replay_gather, replay_linear, replay_rotate};
    #[pymodule_export]
    use crate::spec::ArraySpec;
    #[pymodule_export]
    use crate::store::{SiteArray, Store};
    #[pymodule_export]
    use crate::verify::verify;
    #[pymodule_export]
    use crate::view::ChunkView;
    #[pymodule_export]
    use crate::writer::Writer;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        residuum_core::interrupt::ask_with(crate::call::interrupted);
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
