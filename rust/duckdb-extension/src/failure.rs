//! Why a query cannot be answered: one sentence that `DuckDB` shows to the user.

use std::fmt;

/// What a callback returns.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// A message for the user; `DuckDB` puts the kind of error ("Binder Error: ") before it.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    /// A failure that says `message`.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl From<residuum_core::Error> for Failure {
    fn from(error: residuum_core::Error) -> Self {
        Self(error.to_string())
    }
}
