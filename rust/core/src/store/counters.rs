//! What a store has read so far, for tests and benchmarks that count bytes instead of seconds.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Running totals over all arrays of one open store. They only grow.
#[derive(Debug, Default)]
pub struct Counters {
    bytes_read: AtomicU64,
    chunks_decoded: AtomicU64,
    rows_read: AtomicU64,
}

impl Counters {
    /// Bytes taken from array files: chunk bytes, checksums and shard indexes.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Relaxed)
    }

    /// Inner chunks from which at least one row was taken, counted once per read call.
    pub fn chunks_decoded(&self) -> u64 {
        self.chunks_decoded.load(Relaxed)
    }

    /// Rows handed out, counted once per layer.
    pub fn rows_read(&self) -> u64 {
        self.rows_read.load(Relaxed)
    }

    pub(crate) fn add_bytes(&self, n: usize) {
        self.bytes_read.fetch_add(n as u64, Relaxed);
    }

    pub(crate) fn add_chunks(&self, n: usize) {
        self.chunks_decoded.fetch_add(n as u64, Relaxed);
    }

    pub(crate) fn add_rows(&self, n: usize) {
        self.rows_read.fetch_add(n as u64, Relaxed);
    }
}
