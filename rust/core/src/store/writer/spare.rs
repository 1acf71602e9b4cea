//! Buffers of jobs that are done, for the jobs to come: new memory costs more than the copy into it.

use std::sync::{Mutex, PoisonError};

/// Empty buffers of at most so many bytes together.
#[derive(Debug)]
pub(super) struct Spare {
    kept: Mutex<Kept>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Kept {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Spare {
    pub(super) fn new(limit: usize) -> Self {
        Self { kept: Mutex::default(), limit }
    }

    /// An empty buffer with room for `n_bytes`.
    pub(super) fn take(&self, n_bytes: usize) -> Vec<u8> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is too large would hold more memory than was reserved for the job.
        let fits =
            |buffer: &Vec<u8>| (n_bytes..=n_bytes + n_bytes / 8).contains(&buffer.capacity());
        let Some(at) = kept.buffers.iter().position(fits) else {
            return Vec::with_capacity(n_bytes);
        };
        let buffer = kept.buffers.swap_remove(at);
        kept.bytes -= buffer.capacity();
        buffer
    }

    /// Keeps a buffer, in the place of older ones where there are too many.
    pub(super) fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += buffer.capacity();
        kept.buffers.push(buffer);
        while kept.bytes > self.limit {
            kept.bytes -= kept.buffers.remove(0).capacity();
        }
    }
}
