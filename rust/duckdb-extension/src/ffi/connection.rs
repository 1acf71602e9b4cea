//! The connection through which functions are registered when the extension is loaded.

use libduckdb_sys as duckdb;

use super::replacement::{ReplacementScan, replace};
use super::scalar::{ScalarFunction, scalar_set};
use super::table::{TableFunction, table_function};
use crate::failure::{Failure, Result};

/// A connection to the database that loads the extension.
#[derive(Debug)]
pub(crate) struct Connection {
    raw: duckdb::duckdb_connection,
    database: duckdb::duckdb_database,
}

impl Connection {
    /// Connects to `database`.
    ///
    /// # Safety
    /// `database` is a live handle for as long as the result, and the API table is initialised.
    pub(crate) unsafe fn new(database: duckdb::duckdb_database) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: `database` is live; `raw` is written before it is read.
        let state = unsafe { duckdb::duckdb_connect(database, &raw mut raw) };
        if state != duckdb::DuckDBSuccess {
            return Err(Failure::new("DuckDB gave no connection to register the functions with"));
        }
        Ok(Self { raw, database })
    }

    /// Registers the table function `F`.
    pub(crate) fn register_table<F: TableFunction>(&self) -> Result<()> {
        let function = table_function::<F>();
        // SAFETY: both handles are live; the catalog keeps a copy of the function.
        let state = unsafe { duckdb::duckdb_register_table_function(self.raw, function.raw()) };
        registered(state, F::NAME)
    }

    /// Registers every overload of the scalar function `function`.
    pub(crate) fn register_scalar<F: ScalarFunction>(&self, function: F) -> Result<()> {
        let name = function.name();
        let set = scalar_set(function);
        // SAFETY: both handles are live; the catalog keeps copies of the overloads.
        let state = unsafe { duckdb::duckdb_register_scalar_function_set(self.raw, set.raw()) };
        registered(state, &name)
    }

    /// Lets `R` answer for table names that the catalog does not know.
    pub(crate) fn add_replacement<R: ReplacementScan>(&self) {
        // SAFETY: the database handle is live and the callback is a function of this library, which
        // DuckDB never unloads; there is no extra data to delete.
        unsafe {
            duckdb::duckdb_add_replacement_scan(
                self.database,
                Some(replace::<R>),
                std::ptr::null_mut(),
                None,
            );
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: we own the connection and it is closed once.
        unsafe { duckdb::duckdb_disconnect(&raw mut self.raw) };
    }
}

fn registered(state: duckdb::duckdb_state, name: &str) -> Result<()> {
    if state == duckdb::DuckDBSuccess {
        return Ok(());
    }
    Err(Failure::new(format!("DuckDB refused the function `{name}`")))
}
