//! `residuum_counters(store)`: what this process has read from a store so far, in bytes, not seconds.

use std::sync::Arc;

use residuum_core::Store;

use crate::failure::Result;
use crate::ffi::table::TableFunction;
use crate::ffi::types::SqlType;
use crate::ffi::value::Arguments;
use crate::ffi::vector::OutputChunk;
use crate::listing::Listing;
use crate::registry;

/// One bound call.
#[derive(Debug)]
pub(crate) struct Counters {
    store: Arc<Store>,
}

const COLUMNS: [&str; 3] = ["bytes_read", "chunks_decoded", "rows_read"];

impl TableFunction for Counters {
    const NAME: &'static str = "residuum_counters";
    const POSITIONAL: &'static [SqlType] = &[SqlType::Varchar];
    const NAMED: &'static [(&'static str, SqlType)] = &[];
    type Scan = Listing<[u64; 3]>;
    type Worker = ();

    fn bind(arguments: &Arguments) -> Result<Self> {
        Ok(Self { store: registry::open(&arguments.text(0, "store")?)? })
    }

    fn columns(&self) -> Vec<(String, SqlType)> {
        COLUMNS.iter().map(|&name| (name.to_owned(), SqlType::BigInt)).collect()
    }

    fn n_row(&self) -> Option<u64> {
        Some(1)
    }

    fn start(&self, projection: &[usize]) -> Result<Listing<[u64; 3]>> {
        let counters = self.store.counters();
        let now = [counters.bytes_read(), counters.chunks_decoded(), counters.rows_read()];
        Ok(Listing::new(projection, vec![now]))
    }

    fn n_thread(&self, _scan: &Listing<[u64; 3]>) -> usize {
        1
    }

    fn worker(&self) -> Result<()> {
        Ok(())
    }

    fn fill(
        &self,
        scan: &Listing<[u64; 3]>,
        (): &mut (),
        out: &mut OutputChunk<'_>,
    ) -> Result<usize> {
        scan.fill(out, |out, index, column, rows| {
            let mut into = out.column(index, SqlType::BigInt, rows.len())?;
            for (slot, row) in into.integers()?.iter_mut().zip(rows) {
                *slot = i64::try_from(row[column]).unwrap_or(i64::MAX);
            }
            Ok(())
        })
    }
}
