//! Table functions: the trait, and the C callbacks made from it.
//!
//! `bind` sees the arguments and names the columns, `start` begins one execution with the columns
//! that the query uses, each thread asks for a `worker` and calls `fill` until it gives no rows.

use libduckdb_sys as duckdb;

use super::guard::{c_string, drop_boxed, guarded, into_raw};
use super::types::{LogicalType, SqlType};
use super::value::Arguments;
use super::vector::OutputChunk;
use crate::failure::{Failure, Result};

/// A table function; the value is one bound call.
pub(crate) trait TableFunction: Send + Sync + Sized + 'static {
    /// Its name in SQL.
    const NAME: &'static str;
    /// Types of the positional arguments.
    const POSITIONAL: &'static [SqlType];
    /// Names and types of the optional arguments.
    const NAMED: &'static [(&'static str, SqlType)];
    /// One execution, shared by its threads.
    type Scan: Send + Sync + 'static;
    /// What one thread of an execution keeps between chunks.
    type Worker: Send + 'static;

    /// Checks the arguments.
    fn bind(arguments: &Arguments) -> Result<Self>;
    /// Names and types of the columns.
    fn columns(&self) -> Vec<(String, SqlType)>;
    /// The exact number of rows, where it is known.
    fn n_row(&self) -> Option<u64>;
    /// Begins an execution that produces the columns `projection`, in that order.
    fn start(&self, projection: &[usize]) -> Result<Self::Scan>;
    /// How many threads may work on `scan`.
    fn n_thread(&self, scan: &Self::Scan) -> usize;
    /// Begins the work of one thread.
    fn worker(&self) -> Result<Self::Worker>;
    /// Fills the next rows and says how many; none ends the thread's work.
    fn fill(
        &self,
        scan: &Self::Scan,
        worker: &mut Self::Worker,
        out: &mut OutputChunk<'_>,
    ) -> Result<usize>;
}

/// An owned table function of `DuckDB`.
#[derive(Debug)]
pub(super) struct Handle(duckdb::duckdb_table_function);

impl Handle {
    pub(super) fn raw(&self) -> duckdb::duckdb_table_function {
        self.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: we own the handle and it is destroyed once.
        unsafe { duckdb::duckdb_destroy_table_function(&raw mut self.0) };
    }
}

/// `DuckDB`'s object for `F`.
pub(super) fn table_function<F: TableFunction>() -> Handle {
    let name = c_string(F::NAME);
    // SAFETY: a constructor without arguments.
    let handle = Handle(unsafe { duckdb::duckdb_create_table_function() });
    // SAFETY: `handle` is live, strings and types outlive the calls, which copy them, and the
    // callbacks are functions of this library, which DuckDB never unloads.
    unsafe {
        duckdb::duckdb_table_function_set_name(handle.0, name.as_ptr());
        for &sql_type in F::POSITIONAL {
            let sql_type = LogicalType::new(sql_type);
            duckdb::duckdb_table_function_add_parameter(handle.0, sql_type.raw());
        }
        for &(name, sql_type) in F::NAMED {
            let (name, sql_type) = (c_string(name), LogicalType::new(sql_type));
            duckdb::duckdb_table_function_add_named_parameter(
                handle.0,
                name.as_ptr(),
                sql_type.raw(),
            );
        }
        duckdb::duckdb_table_function_set_bind(handle.0, Some(bind::<F>));
        duckdb::duckdb_table_function_set_init(handle.0, Some(start::<F>));
        duckdb::duckdb_table_function_set_local_init(handle.0, Some(worker::<F>));
        duckdb::duckdb_table_function_set_function(handle.0, Some(fill::<F>));
        duckdb::duckdb_table_function_supports_projection_pushdown(handle.0, true);
    }
    handle
}

/// What the callbacks share: the bound call and how many columns it has.
struct Bound<F> {
    function: F,
    n_column: usize,
}

/// # Safety
/// Called by `DuckDB` with a live bind info.
unsafe extern "C" fn bind<F: TableFunction>(info: duckdb::duckdb_bind_info) {
    let outcome = guarded(|| {
        // SAFETY: `info` is live during the callback, and the arguments do not leave it.
        let function = F::bind(&unsafe { Arguments::new(info) })?;
        let columns = function.columns();
        for (name, sql_type) in &columns {
            let (name, sql_type) = (c_string(name), LogicalType::new(*sql_type));
            // SAFETY: `info` is live; name and type outlive the call, which copies them.
            unsafe {
                duckdb::duckdb_bind_add_result_column(info, name.as_ptr(), sql_type.raw());
            }
        }
        if let Some(n_row) = function.n_row() {
            // SAFETY: `info` is live.
            unsafe { duckdb::duckdb_bind_set_cardinality(info, n_row, true) };
        }
        let bound = into_raw(Bound { function, n_column: columns.len() });
        // SAFETY: `info` is live and takes over `bound`, which its delete callback frees.
        unsafe { duckdb::duckdb_bind_set_bind_data(info, bound, Some(drop_boxed::<Bound<F>>)) };
        Ok(())
    });
    if let Err(failure) = outcome {
        let message = c_string(&failure.to_string());
        // SAFETY: `info` is live; the message is copied.
        unsafe { duckdb::duckdb_bind_set_error(info, message.as_ptr()) };
    }
}

/// # Safety
/// Called by `DuckDB` with a live init info after `bind::<F>` succeeded.
unsafe extern "C" fn start<F: TableFunction>(info: duckdb::duckdb_init_info) {
    let outcome = guarded(|| {
        // SAFETY: the bind data was set by `bind::<F>` and outlives the execution.
        let bound = unsafe { &*duckdb::duckdb_init_get_bind_data(info).cast::<Bound<F>>() };
        // SAFETY: `info` is live.
        let n = unsafe { duckdb::duckdb_init_get_column_count(info) };
        let column = |index| {
            // SAFETY: `info` is live; an index out of range gives 0.
            let column = unsafe { duckdb::duckdb_init_get_column_index(info, index) };
            usize::try_from(column).unwrap_or(usize::MAX)
        };
        let projection: Vec<usize> = (0..n).map(column).collect();
        if let Some(column) = projection.iter().find(|&&column| column >= bound.n_column) {
            return Err(Failure::new(format!("{} has no column number {column}", F::NAME)));
        }
        let scan = bound.function.start(&projection)?;
        let n_thread = bound.function.n_thread(&scan).max(1) as u64;
        // SAFETY: `info` is live and takes over the scan, which its delete callback frees.
        unsafe {
            duckdb::duckdb_init_set_max_threads(info, n_thread);
            duckdb::duckdb_init_set_init_data(info, into_raw(scan), Some(drop_boxed::<F::Scan>));
        }
        Ok(())
    });
    set_init_error(info, outcome);
}

/// # Safety
/// Called by `DuckDB` with a live init info after `start::<F>` succeeded.
unsafe extern "C" fn worker<F: TableFunction>(info: duckdb::duckdb_init_info) {
    let outcome = guarded(|| {
        // SAFETY: the bind data was set by `bind::<F>` and outlives the execution.
        let bound = unsafe { &*duckdb::duckdb_init_get_bind_data(info).cast::<Bound<F>>() };
        let worker = into_raw(bound.function.worker()?);
        // SAFETY: `info` is live and takes over the worker, which its delete callback frees.
        unsafe {
            duckdb::duckdb_init_set_init_data(info, worker, Some(drop_boxed::<F::Worker>));
        }
        Ok(())
    });
    set_init_error(info, outcome);
}

fn set_init_error(info: duckdb::duckdb_init_info, outcome: Result<()>) {
    if let Err(failure) = outcome {
        let message = c_string(&failure.to_string());
        // SAFETY: only called by the init callbacks, with their live `info`; the message is copied.
        unsafe { duckdb::duckdb_init_set_error(info, message.as_ptr()) };
    }
}

/// # Safety
/// Called by `DuckDB` with a live function info and chunk after the other callbacks succeeded.
unsafe extern "C" fn fill<F: TableFunction>(
    info: duckdb::duckdb_function_info,
    chunk: duckdb::duckdb_data_chunk,
) {
    // SAFETY: DuckDB lends the chunk to this callback alone.
    let mut out = unsafe { OutputChunk::new(chunk) };
    let outcome = guarded(|| {
        // SAFETY: set by `bind::<F>`, shared and immutable during the execution.
        let bound = unsafe { &*duckdb::duckdb_function_get_bind_data(info).cast::<Bound<F>>() };
        // SAFETY: set by `start::<F>`; `F::Scan` is `Sync`, so that threads may share it.
        let scan = unsafe { &*duckdb::duckdb_function_get_init_data(info).cast::<F::Scan>() };
        // SAFETY: set by `worker::<F>` for the thread that calls; no other thread gets it.
        let worker =
            unsafe { &mut *duckdb::duckdb_function_get_local_init_data(info).cast::<F::Worker>() };
        bound.function.fill(scan, worker, &mut out)
    });
    match outcome {
        Ok(n_row) => out.set_rows(n_row),
        Err(failure) => {
            out.set_rows(0);
            let message = c_string(&failure.to_string());
            // SAFETY: `info` is live; the message is copied.
            unsafe { duckdb::duckdb_function_set_error(info, message.as_ptr()) };
        }
    }
}
