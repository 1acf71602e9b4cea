//! The store's reader and writer and the kernels: no Python, no `DuckDB`, no torch, no printing.
//!
//! A [`Store`] is a folder, or a prefix in a bucket, opened at its last [`Commit`]; a [`SiteArray`] is one Zarr array in it;
//! a [`Writer`] fills arrays from many threads and makes commits. [`kernels`] are arrays in, arrays out
//! and know nothing of stores. [`stream`] runs kernels over a store within a memory budget.
//!
//! ```text
//!            Writer ──shards, commits──▶ disk ──▶ Store ──▶ SiteArray::read ──▶ kernels
//!                                         │
//!                                      verify
//! ```

mod error;
pub mod interrupt;
pub mod kernels;
pub mod replay;
mod site;
mod store;
pub mod stream;
mod vector;

/// Single objects of a bucket, for what lies beside the arrays of a store. A path here is an `s3://` URL.
pub mod objects {
    pub use crate::store::objects::{
        Stamp, create_new, is_url, length, list, put_file, read, read_range, remove, stamp,
    };
}

pub use error::{Error, Result};
pub use site::{RowSpace, Site};
pub use store::{
    array::{Rows, SiteArray},
    commit::{Commit, CommitArray, Growth, RowCounts},
    counters::Counters,
    dtype::{Dtype, Element, Source},
    open::{FORMAT, Store},
    quantise::LayerError,
    spec::{ArraySpec, Codec},
    statistics::{Moments, Statistics},
    verify::{Problem, VerifyReport, verify},
    view::ChunkView,
    weights::{Tensor, Weights},
    writer::{CommitRequest, NonFinite, Run, Writer, WriterOptions},
};
