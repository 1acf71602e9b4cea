//! The only code that calls `DuckDB`'s C API.
//!
//! A function of the extension is a type that implements [`table::TableFunction`] or
//! [`scalar::ScalarFunction`]; everything it sees is safe: arguments ([`value`]), columns to read
//! and to fill ([`vector`]). The trampolines here turn failures and panics into SQL errors, so that
//! nothing unwinds into `DuckDB`.
//!
//! ```text
//! DuckDB ──C callback──▶ table / scalar / replacement ──safe call──▶ activations, vec, sites, …
//!                               │ types, value, vector: owned handles and typed slices
//! ```
//!
//! Only entries of the C API that exist since version 1.2.0 are called: that is the version in the
//! file's footer, and later slots of the function table may be absent in the host.

pub(crate) mod connection;
mod entry;
pub(crate) mod guard;
pub(crate) mod replacement;
pub(crate) mod scalar;
pub(crate) mod table;
pub(crate) mod types;
pub(crate) mod value;
pub(crate) mod vector;
