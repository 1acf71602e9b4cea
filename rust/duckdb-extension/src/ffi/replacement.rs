//! Replacement scans: what `FROM 'something'` means when no table has that name.

use std::ffi::{CStr, c_char, c_void};

use libduckdb_sys as duckdb;

use super::guard::{c_string, guarded};
use super::value::Value;

/// Decides whether a table name is ours.
pub(crate) trait ReplacementScan: 'static {
    /// The table function that answers.
    const FUNCTION: &'static str;

    /// Whether `FROM 'name'` becomes `FROM FUNCTION('name')`.
    fn claims(name: &str) -> bool;
}

/// # Safety
/// Called by `DuckDB` with a live info and a C string.
pub(super) unsafe extern "C" fn replace<R: ReplacementScan>(
    info: duckdb::duckdb_replacement_scan_info,
    table_name: *const c_char,
    _data: *mut c_void,
) {
    if table_name.is_null() {
        return;
    }
    // SAFETY: not null, and a C string during the callback.
    let Ok(name) = unsafe { CStr::from_ptr(table_name) }.to_str() else { return };
    // A panic means that the name is not claimed; the query then fails as if we were not there.
    if !guarded(|| Ok(R::claims(name))).unwrap_or(false) {
        return;
    }
    let (function, path) = (c_string(R::FUNCTION), Value::varchar(name));
    // SAFETY: `info` is live; name and value are copied.
    unsafe {
        duckdb::duckdb_replacement_scan_set_function_name(info, function.as_ptr());
        duckdb::duckdb_replacement_scan_add_parameter(info, path.raw());
    }
}
