//! Open a store, locate chunks, read and write them. No maths beyond per-chunk statistics.
//!
//! ```text
//! open ──▶ commit (what is visible)         writer/  queue ─▶ worker ─▶ lane ─▶ published shard
//!   └────▶ array ──▶ index ──▶ files, objects                   └─▶ statistics ──┘
//!            └─────▶ spec (zarr.json)       verify: everything above, read back
//! ```

pub(crate) mod array;
pub(crate) mod blob;
pub(crate) mod chunk;
pub(crate) mod commit;
pub(crate) mod counters;
pub(crate) mod dtype;
pub(crate) mod files;
pub(crate) mod gather;
pub(crate) mod index;
pub(crate) mod map;
pub(crate) mod objects;
pub(crate) mod open;
pub(crate) mod quantise;
pub(crate) mod read;
mod read_objects;
mod rows;
mod scales;
pub(crate) mod shards;
pub(crate) mod spec;
pub(crate) mod statistics;
pub(crate) mod verify;
mod verify_shard;
pub(crate) mod view;
pub(crate) mod weights;
pub(crate) mod writer;
