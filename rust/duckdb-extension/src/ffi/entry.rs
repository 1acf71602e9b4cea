//! The entry point that `DuckDB` looks up by the file's name: `residuum.duckdb_extension`.

use libduckdb_sys as duckdb;

use super::connection::Connection;
use super::guard::{c_string, guarded};
use crate::failure::{Failure, Result};

/// The C API that the functions of this crate stay within; also in the file's footer.
const API_VERSION: &str = "v1.2.0";

/// Called by `DuckDB` when the extension is loaded; false if the functions are not available.
///
/// # Safety
/// `info` and `access` are what `DuckDB` passes to an entry point of a C extension.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn residuum_init_c_api(
    info: duckdb::duckdb_extension_info,
    access: *const duckdb::duckdb_extension_access,
) -> bool {
    // SAFETY: both are live during the call, by the promise above.
    let outcome = guarded(|| unsafe { load(info, access) });
    let Err(failure) = outcome else { return true };
    let message = c_string(&failure.to_string());
    // SAFETY: `access` is live; the message is copied.
    unsafe {
        if let Some(set_error) = (*access).set_error {
            set_error(info, message.as_ptr());
        }
    }
    false
}

/// Fetches the API and registers the functions with the database that loads the extension.
///
/// # Safety
/// As `residuum_init_c_api`.
unsafe fn load(
    info: duckdb::duckdb_extension_info,
    access: *const duckdb::duckdb_extension_access,
) -> Result<()> {
    // SAFETY: `access` is live; the table it gives has at least the entries of `API_VERSION`, and
    // no others are called.
    let has_api = unsafe { duckdb::duckdb_rs_extension_api_init(info, access, API_VERSION) }
        .map_err(Failure::new)?;
    if !has_api {
        return Err(Failure::new(format!("this DuckDB does not serve the C API {API_VERSION}")));
    }
    // SAFETY: `access` is live.
    let get_database = unsafe { (*access).get_database };
    let get_database = get_database.ok_or_else(|| Failure::new("DuckDB names no database"))?;
    // SAFETY: `info` is live; a non-null result points at a handle that lives during the call.
    let connection = unsafe {
        let database = get_database(info);
        if database.is_null() {
            return Err(Failure::new("DuckDB gave no database to load into"));
        }
        Connection::new(*database)?
    };
    crate::register(&connection)
}
