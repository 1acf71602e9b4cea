//! Nearest rows of a store: the answer of a full comparison, from the chunks that can hold it.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod kernels_common;
mod store_support;

use kernels_common::{cases, uniform};
use proptest::prelude::*;
use residuum_core::kernels::knn::{Metric, NO_ROW, knn};
use residuum_core::{ArraySpec, Codec, Dtype, Run, Site, Source, Store, Writer, stream};
use store_support::{CHUNK_ROWS, OPTIONS, SHARD_ROWS, request, root};

const D: usize = 11;
const BUDGET: usize = 1 << 20;
const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::L2];

/// `resid_final` with the rows `[row, D]`, in chunks of `CHUNK_ROWS`.
fn store_of(rows: &[f32]) -> (tempfile::TempDir, Store) {
    let folder = root();
    let site = Site::ResidFinal;
    let spec = ArraySpec::for_site(site, Dtype::F32, 1, &[], &[D], SHARD_ROWS, Codec::None);
    let mut spec = spec.unwrap();
    spec.chunk_rows = CHUNK_ROWS;
    let n = rows.len() / D;
    let writer = Writer::create(folder.path(), vec![spec], OPTIONS).unwrap();
    writer.write(0, 0, Source::F32(rows), D, &[Run { src_row: 0, dst_row: 0, n }]).unwrap();
    writer.commit(request(n, true)).unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

/// Rows around a centre of their own for each group of as many rows as a chunk has.
fn grouped(seed: u64, n_chunk: usize, spread: f32) -> Vec<f32> {
    let (centres, noise) =
        (uniform(seed, n_chunk * D), uniform(seed + 1, n_chunk * CHUNK_ROWS * D));
    let centre = |at: usize| centres[at / (CHUNK_ROWS * D) * D + at % D];
    noise.iter().enumerate().map(|(at, x)| 10.0 * centre(at) + spread * x).collect()
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn the_answer_is_that_of_a_full_comparison(
        seed in 0usize..1000,
        n_row in 1usize..90,
        spread in prop_oneof![Just(0.0f32), Just(0.1), Just(5.0)],
        k in 1usize..100,
        own in any::<bool>(),
    ) {
        let mut rows = grouped(seed as u64, 23, spread);
        rows.truncate(n_row * D);
        rows[seed % (n_row * D)] = [f32::NAN, f32::INFINITY, 0.0][seed % 3];
        let query = if own { rows[..D].to_vec() } else { uniform(seed as u64 + 2, D) };
        let (_folder, store) = store_of(&rows);
        let site = store.site("resid_final").unwrap();
        for metric in METRICS {
            let found = stream::knn(site, 0, &query, metric, k, BUDGET).unwrap();
            let expected = knn(&rows, &query, D, metric, k).unwrap();
            prop_assert_eq!(&found.rows, &expected.rows);
            // NaN stands where there is no row.
            let bits = |scores: &[f32]| scores.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&found.scores), bits(&expected.scores));
        }
    }
}

#[test]
fn chunks_that_cannot_hold_a_winner_are_not_read() {
    let rows = grouped(3, 20, 0.1);
    let mut feature = vec![0.0; D];
    feature[4] = 1.0;
    for (metric, query) in
        [(Metric::Dot, feature.as_slice()), (Metric::L2, &rows[..D]), (Metric::Cosine, &rows[..D])]
    {
        let (_folder, store) = store_of(&rows);
        let site = store.site("resid_final").unwrap();
        let found = stream::knn(site, 0, query, metric, 3, BUDGET).unwrap();
        assert_eq!(found, knn(&rows, query, D, metric, 3).unwrap());
        let read = store.counters().chunks_decoded();
        assert!(read <= 6, "{metric:?}: {read} of 20 chunks were read");
    }
}

#[test]
fn a_list_as_long_as_the_rows_needs_them_all() {
    let rows = grouped(5, 6, 0.1);
    let (_folder, store) = store_of(&rows);
    let site = store.site("resid_final").unwrap();
    let found = stream::knn(site, 0, &rows[..D], Metric::L2, 1000, BUDGET).unwrap();
    assert_eq!(found.k, 6 * CHUNK_ROWS);
    assert!(!found.rows.contains(&NO_ROW));
    assert_eq!(store.counters().chunks_decoded(), 6);
}
