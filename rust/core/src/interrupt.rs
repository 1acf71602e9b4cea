//! Ending a long computation early: whoever embeds the crate says how to find out that the user wants to.

use std::sync::OnceLock;

use crate::error::{Error, Result};

static ASK: OnceLock<fn() -> bool> = OnceLock::new();

/// From now on kernels and streams call `ask` between blocks and passes, on the thread that called them, and end
/// with `Error::Interrupted` once it says so. The first call counts.
pub fn ask_with(ask: fn() -> bool) {
    // Set before: a second interpreter asks in the same way.
    let _ = ASK.set(ask);
}

/// Fails if the user wants to stop.
pub(crate) fn check() -> Result<()> {
    if ASK.get().is_some_and(|ask| ask()) { Err(Error::Interrupted) } else { Ok(()) }
}
