//! Scalar functions: the trait, and the C callback made from it.

use libduckdb_sys as duckdb;

use super::guard::{c_string, drop_boxed, guarded, into_raw};
use super::types::{LogicalType, SqlType};
use super::vector::{Column, Input};
use crate::failure::Result;

/// A scalar function with one or more overloads and one result type.
pub(crate) trait ScalarFunction: Clone + Send + Sync + 'static {
    /// Its name in SQL.
    fn name(&self) -> String;
    /// Argument types of each overload.
    fn overloads(&self) -> &'static [&'static [SqlType]];
    /// The result type.
    fn result(&self) -> SqlType;
    /// Computes one chunk of results.
    fn call(&self, input: &Input<'_>, out: &mut Column<'_>) -> Result<()>;
}

/// An owned set of overloads of `DuckDB`.
#[derive(Debug)]
pub(super) struct Set(duckdb::duckdb_scalar_function_set);

impl Set {
    pub(super) fn raw(&self) -> duckdb::duckdb_scalar_function_set {
        self.0
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        // SAFETY: we own the handle and it is destroyed once.
        unsafe { duckdb::duckdb_destroy_scalar_function_set(&raw mut self.0) };
    }
}

/// `DuckDB`'s object for all overloads of `function`.
pub(super) fn scalar_set<F: ScalarFunction>(function: F) -> Set {
    let name = c_string(&function.name());
    // SAFETY: the name is copied.
    let set = Set(unsafe { duckdb::duckdb_create_scalar_function_set(name.as_ptr()) });
    for overload in function.overloads() {
        let result = LogicalType::new(function.result());
        // SAFETY: all handles are live, strings and types are copied, the callback is a function of
        // this library, and the extra info is freed by its delete callback; the set keeps a copy of
        // the overload, which shares the extra info.
        unsafe {
            let mut raw = duckdb::duckdb_create_scalar_function();
            duckdb::duckdb_scalar_function_set_name(raw, name.as_ptr());
            for &sql_type in *overload {
                let sql_type = LogicalType::new(sql_type);
                duckdb::duckdb_scalar_function_add_parameter(raw, sql_type.raw());
            }
            duckdb::duckdb_scalar_function_set_return_type(raw, result.raw());
            let extra = into_raw(function.clone());
            duckdb::duckdb_scalar_function_set_extra_info(raw, extra, Some(drop_boxed::<F>));
            duckdb::duckdb_scalar_function_set_function(raw, Some(call::<F>));
            duckdb::duckdb_add_scalar_function_to_set(set.0, raw);
            duckdb::duckdb_destroy_scalar_function(&raw mut raw);
        }
    }
    set
}

/// # Safety
/// Called by `DuckDB` with a live function info, input chunk and result vector.
unsafe extern "C" fn call<F: ScalarFunction>(
    info: duckdb::duckdb_function_info,
    chunk: duckdb::duckdb_data_chunk,
    result: duckdb::duckdb_vector,
) {
    let outcome = guarded(|| {
        // SAFETY: the extra info was set to an `F` when the function was made and lives with it.
        let function = unsafe { &*duckdb::duckdb_scalar_function_get_extra_info(info).cast::<F>() };
        // SAFETY: DuckDB lends the flattened chunk to this callback.
        let input = unsafe { Input::new(chunk) };
        // SAFETY: the result vector has room for as many rows as the input has.
        let mut out = unsafe { Column::new(result, function.result(), input.n_row()) }?;
        function.call(&input, &mut out)
    });
    if let Err(failure) = outcome {
        let message = c_string(&failure.to_string());
        // SAFETY: `info` is live; the message is copied.
        unsafe { duckdb::duckdb_scalar_function_set_error(info, message.as_ptr()) };
    }
}
