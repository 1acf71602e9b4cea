//! Stores written by every past format version stay readable and sound.
//!
//! `tests/golden` at the top of the repository holds them; its Python tests compare every value, this one
//! that verification, which recomputes checksums and statistics bit for bit, has nothing to say.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use residuum_core::{Store, verify};

#[test]
fn format_1_is_sound() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/format_1.residuum");
    let report = verify(&path).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert!(report.chunks > 0);
    let store = Store::open(&path).unwrap();
    assert!(!store.sites().is_empty());
    for name in store.sites() {
        let site = store.site(name).unwrap();
        let layer = site.spec().layers.first().copied().unwrap_or(0);
        let mut out = vec![f32::NAN; site.n_row() * site.spec().row_len()];
        site.read_block_f32(0..site.n_row(), layer, &mut out).unwrap();
        assert!(out.iter().all(|x| x.is_finite()), "{name}");
    }
}
