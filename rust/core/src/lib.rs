//! The store's reader and writer and the kernels: no Python, no `DuckDB`, no torch, no printing.

pub mod kernels;
