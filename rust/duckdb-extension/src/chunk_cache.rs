//! The last chunks that a thread decoded.
//!
//! `DuckDB` calls a scalar function with 2048 rows at a time, and a chunk of a site with heads holds
//! more vectors than that: without this, each such chunk would be decoded again for every call.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use residuum_core::SiteArray;

use crate::failure::Result;
use crate::selection::Layout;

/// Decoded bytes that a thread keeps, at most, beside the chunk in use. Small, so that the chunks of
/// a long scan stay in the processor's cache while they are copied from.
const BUDGET_BYTES: usize = 8 << 20;

thread_local! {
    static CACHE: RefCell<VecDeque<Entry>> = const { RefCell::new(VecDeque::new()) };
}

struct Entry {
    site: Weak<SiteArray>,
    layer: usize,
    chunk: usize,
    /// `[row of the chunk, head, feature]`
    values: Arc<Vec<f32>>,
}

impl Entry {
    fn is(&self, site: &Arc<SiteArray>, layer: usize, chunk: usize) -> bool {
        self.layer == layer
            && self.chunk == chunk
            && std::ptr::eq(self.site.as_ptr(), Arc::as_ptr(site))
    }
}

/// Chunk number `chunk` of `site` at `layer`: `[row of the chunk, head, feature]`.
pub(crate) fn chunk(
    site: &Arc<SiteArray>,
    layout: &Layout,
    layer: usize,
    chunk: usize,
) -> Result<Arc<Vec<f32>>> {
    let cached = CACHE.with_borrow(|cache| {
        let found = cache.iter().find(|entry| entry.is(site, layer, chunk));
        found.map(|entry| Arc::clone(&entry.values))
    });
    if let Some(values) = cached {
        return Ok(values);
    }
    let first = chunk * layout.chunk_rows;
    let end = (first + layout.chunk_rows).min(site.n_row());
    let mut values = CACHE.with_borrow_mut(make_room);
    values.resize((end - first) * layout.row_len(), 0.0);
    site.read_block_f32(first..end, layer, &mut values)?;
    let values = Arc::new(values);
    let entry = Entry { site: Arc::downgrade(site), layer, chunk, values: Arc::clone(&values) };
    CACHE.with_borrow_mut(|cache| cache.push_back(entry));
    Ok(values)
}

/// Drops the oldest chunks beyond the budget and those of closed stores; gives back the memory of
/// one of them to be filled anew.
fn make_room(cache: &mut VecDeque<Entry>) -> Vec<f32> {
    let bytes = |entry: &Entry| entry.values.capacity() * size_of::<f32>();
    cache.retain(|entry| entry.site.strong_count() > 0);
    let mut memory = Vec::new();
    while cache.iter().map(bytes).sum::<usize>() > BUDGET_BYTES {
        let oldest = cache.pop_front().and_then(|entry| Arc::into_inner(entry.values));
        memory = oldest.unwrap_or_default();
    }
    memory
}
