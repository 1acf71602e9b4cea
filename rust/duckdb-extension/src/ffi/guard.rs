//! Panics and strings at the border: nothing unwinds into `DuckDB`, every message is a C string.

use std::any::Any;
use std::ffi::{CString, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::failure::{Failure, Result};

/// Runs `body` and turns a panic into a failure.
///
/// State that a panicking callback leaves behind is dropped or never used again, because `DuckDB`
/// ends the query at the first error; that is why asserting unwind safety is right.
pub(crate) fn guarded<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        Err(Failure::new(format!("internal error in residuum: {}", panic_text(payload.as_ref()))))
    })
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// `text` as a C string; what follows a NUL is cut.
pub(crate) fn c_string(text: &str) -> CString {
    let bytes: Vec<u8> = text.bytes().take_while(|&byte| byte != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

/// Hands `value` to `DuckDB`, which gives it back to [`drop_boxed`].
pub(crate) fn into_raw<T>(value: T) -> *mut c_void {
    Box::into_raw(Box::new(value)).cast()
}

/// The callback with which `DuckDB` drops what [`into_raw`] made.
///
/// # Safety
/// `pointer` comes from `into_raw::<T>` and is not used afterwards.
pub(crate) unsafe extern "C" fn drop_boxed<T>(pointer: *mut c_void) {
    // SAFETY: the caller hands back what `into_raw::<T>` made, once; `DuckDB` calls a delete
    // callback once per pointer.
    let value = unsafe { Box::from_raw(pointer.cast::<T>()) };
    // A destructor that panics must not unwind into C++; there is nobody to tell.
    let _ = guarded(move || {
        drop(value);
        Ok(())
    });
}
