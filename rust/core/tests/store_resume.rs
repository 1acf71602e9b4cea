//! A writer that dies leaves a store at its last commit, and what is written after it ends in the same bytes.
//!
//! Dropping a `Writer` without a commit is what a crash looks like from outside: staging files stay, shards
//! that were renamed before the record stay. The oracle is a store written in one go, compared file by file.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod store_support;

use std::{fs, ops::Range};

use proptest::{prelude::*, test_runner::Config};
use residuum_core::{
    Codec, CommitRequest, Error, RowCounts, RowSpace, Rows, Store, Writer, verify,
};
use store_support::{
    N_ROW, OPTIONS, SHARD_ROWS, arrays, assert_same_tree, full_store, layers, request, root,
    row_values, tree, write_all, write_rows,
};

/// Checks what a reader sees against the values written, and that nothing is damaged.
fn assert_holds(path: &std::path::Path, codec: Codec, n: usize) {
    let problems = verify(path).unwrap().problems;
    assert!(problems.is_empty(), "{problems:?}");
    let store = Store::open(path).unwrap();
    for (number, spec) in arrays(codec).iter().enumerate().filter(|(_, s)| s.name() != "target") {
        for layer in layers(spec) {
            let mut out = vec![0.0; n * spec.row_len()];
            let site = store.site(spec.name()).unwrap();
            assert_eq!(site.n_row(), n);
            site.read_block_f32(0..n, layer, &mut out).unwrap();
            let expected: Vec<f32> =
                (0..n).flat_map(|row| row_values(spec, number, layer, row)).collect();
            assert_eq!(out, expected, "{} layer {layer}", spec.path);
        }
    }
}

/// A writer's life: from where it goes on, how far it writes, what it commits, and that it dies then.
fn sitting(path: &std::path::Path, rows: Range<usize>, commit: Option<(usize, bool)>) {
    let writer = Writer::open(path, OPTIONS).unwrap();
    write_all(&writer, rows);
    if let Some((n, tail)) = commit {
        writer.commit(CommitRequest { publish_tail: tail, ..request(n, false) }).unwrap();
    }
}

#[test]
fn a_partial_tail_goes_on_to_the_same_bytes() {
    for codec in [Codec::None, Codec::Zstd] {
        let whole = full_store(codec, N_ROW);
        for cut in [1, 3, 4, 15, 16, 17, 20, 32, 35] {
            let folder = root();
            drop(Writer::create(folder.path(), arrays(codec), OPTIONS).unwrap());
            sitting(folder.path(), 0..cut, Some((cut, true)));
            assert_holds(folder.path(), codec, cut);
            assert_same_tree(folder.path(), full_store(codec, cut).path());
            let writer = Writer::open(folder.path(), OPTIONS).unwrap();
            assert!(!folder.path().join("staging/activations.z").exists());
            // Rows that are there are handed over again, and dropped.
            write_all(&writer, cut / 2..N_ROW);
            writer.commit(request(N_ROW, true)).unwrap();
            assert_holds(folder.path(), codec, N_ROW);
            assert_same_tree(folder.path(), whole.path());
            assert!(!folder.path().join("staging").exists());
        }
    }
}

#[test]
fn rows_are_kept_at_full_shards_until_the_tail_is_published() {
    let folder = root();
    let writer = Writer::create(folder.path(), arrays(Codec::None), OPTIONS).unwrap();
    write_all(&writer, 0..N_ROW);
    writer.flush().unwrap();
    assert_eq!(writer.sealed_rows(RowSpace::Token).unwrap(), 2 * SHARD_ROWS);
    let refused = writer.commit(CommitRequest { publish_tail: false, ..request(33, false) });
    assert!(matches!(refused, Err(Error::BadCommit { .. })));
    let commit =
        writer.commit(CommitRequest { publish_tail: false, ..request(30, false) }).unwrap();
    assert_eq!((commit.commit, commit.rows.token, commit.physical_rows.token), (1, 30, 32));
    assert_holds(folder.path(), Codec::None, 30);
    let refused = writer.commit(request(29, false));
    assert!(matches!(refused, Err(Error::BadCommit { .. })));
    writer.commit(request(N_ROW, true)).unwrap();
    assert!(matches!(write_rows(&writer, 0, 0, &[40]), Err(Error::WriterStopped { .. })));
    drop(writer);
    assert_same_tree(folder.path(), full_store(Codec::None, N_ROW).path());
}

#[test]
fn a_missing_row_is_named_and_the_store_stays() {
    let folder = root();
    let writer = Writer::create(folder.path(), arrays(Codec::None), OPTIONS).unwrap();
    write_all(&writer, 0..5);
    writer.commit(request(5, false)).unwrap();
    write_all(&writer, 6..12);
    let message = writer.commit(request(12, false)).unwrap_err().to_string();
    assert!(message.contains("row 5 of `"), "{message}");
    assert!(matches!(writer.commit(request(5, false)), Err(Error::WriterStopped { .. })));
    drop(writer);
    assert_holds(folder.path(), Codec::None, 5);
}

#[test]
fn a_row_written_twice_is_an_error() {
    for row in [2, 20] {
        let folder = root();
        let writer = Writer::create(folder.path(), arrays(Codec::None), OPTIONS).unwrap();
        write_rows(&writer, 0, 2, &(0..17).chain([20]).collect::<Vec<_>>()).unwrap();
        let second = write_rows(&writer, 0, 2, &[row]).and_then(|()| writer.flush());
        let message = second.unwrap_err().to_string();
        assert_eq!(message, format!("row {row} of `activations/z`, layer 2, was written twice"));
        assert!(matches!(writer.flush(), Err(Error::WriterStopped { .. })));
    }
}

#[test]
fn one_writer_at_a_time() {
    let folder = full_store(Codec::None, 5);
    let writer = Writer::open(folder.path(), OPTIONS).unwrap();
    let message = Writer::open(folder.path(), OPTIONS).unwrap_err().to_string();
    assert!(message.contains("writer.lock") && message.contains("another process"), "{message}");
    drop(writer);
    Writer::open(folder.path(), OPTIONS).unwrap();
    assert!(matches!(
        Writer::create(folder.path(), arrays(Codec::None), OPTIONS),
        Err(Error::StoreExists { .. })
    ));
}

#[test]
fn shards_that_outran_their_commit_are_no_harm() {
    for codec in [Codec::None, Codec::Zstd] {
        // As after a crash between the renames and the record: files of 37 rows, record of 18.
        let folder = root();
        drop(Writer::create(folder.path(), arrays(codec), OPTIONS).unwrap());
        sitting(folder.path(), 0..18, Some((18, true)));
        let before = tree(folder.path());
        sitting(folder.path(), 18..N_ROW, Some((N_ROW, true)));
        fs::remove_file(folder.path().join("commits/00000002.json")).unwrap();
        assert_holds(folder.path(), codec, 18);
        // Or before the statistics were renamed, which are after their shard.
        for (file, bytes) in before.iter().filter(|(file, _)| file.starts_with("statistics")) {
            fs::write(folder.path().join(file), bytes).unwrap();
        }
        assert_holds(folder.path(), codec, 18);
        // Nothing new: what the crash left is undone.
        sitting(folder.path(), 0..0, Some((18, true)));
        assert_same_tree(folder.path(), full_store(codec, 18).path());
        sitting(folder.path(), 0..N_ROW, Some((N_ROW, true)));
        assert_same_tree(folder.path(), full_store(codec, N_ROW).path());
    }
}

#[test]
fn too_small_a_budget_is_refused_by_number() {
    let folder = root();
    let options = residuum_core::WriterOptions { memory_bytes: 1000, threads: 2 };
    let message =
        Writer::create(folder.path(), arrays(Codec::None), options).unwrap_err().to_string();
    assert!(message.contains("1000") && message.contains("too small"), "{message}");
    assert!(!folder.path().join("commits").exists());
}

/// One layer of one array, a permutation of its rows, cut into calls.
fn calls() -> impl Strategy<Value = Vec<Vec<usize>>> {
    (Just((0..N_ROW).collect::<Vec<usize>>()).prop_shuffle(), prop::collection::vec(0..N_ROW, 0..6))
        .prop_map(|(rows, mut cuts)| {
            cuts.push(0);
            cuts.push(N_ROW);
            cuts.sort_unstable();
            cuts.windows(2).map(|pair| rows[pair[0]..pair[1]].to_vec()).collect()
        })
}

proptest! {
    #![proptest_config(Config { cases: 24, failure_persistence: None, ..Config::default() })]

    /// Rows in any order, from several threads, in calls of any size, give the bytes of a store written in order.
    #[test]
    fn the_order_of_rows_leaves_no_trace(plans in prop::collection::vec(calls(), 6), zstd in any::<bool>()) {
        let codec = if zstd { Codec::Zstd } else { Codec::None };
        let folder = root();
        let writer = Writer::create(folder.path(), arrays(codec), OPTIONS).unwrap();
        std::thread::scope(|scope| {
            for (array, plan) in plans.iter().enumerate() {
                let writer = &writer;
                scope.spawn(move || {
                    for rows in plan {
                        for layer in layers(&arrays(codec)[array]) {
                            write_rows(writer, array, layer, rows).unwrap();
                        }
                    }
                });
            }
        });
        writer.commit(request(N_ROW, true)).unwrap();
        assert_same_tree(folder.path(), full_store(codec, N_ROW).path());
    }

    /// Whatever is committed between deaths, the end is the bytes of an uninterrupted run.
    #[test]
    fn deaths_leave_no_trace(
        stops in prop::collection::vec((0..=N_ROW, any::<bool>(), any::<bool>()), 1..4),
        zstd in any::<bool>(),
    ) {
        let codec = if zstd { Codec::Zstd } else { Codec::None };
        let folder = root();
        drop(Writer::create(folder.path(), arrays(codec), OPTIONS).unwrap());
        let mut visible = 0;
        for (stop, commits, tail) in stops {
            let stop = stop.max(visible);
            let shown = if tail { stop } else { (stop / SHARD_ROWS * SHARD_ROWS).max(visible) };
            sitting(folder.path(), 0..stop, commits.then_some((shown, tail)));
            if commits {
                visible = shown;
            }
            assert_holds(folder.path(), codec, visible);
        }
        let writer = Writer::open(folder.path(), OPTIONS).unwrap();
        write_all(&writer, 0..N_ROW);
        writer.commit(request(N_ROW, true)).unwrap();
        assert_same_tree(folder.path(), full_store(codec, N_ROW).path());
    }
}

#[test]
fn what_an_interrupted_capture_saved_counts_until_the_next_commit() {
    for codec in [Codec::None, Codec::Zstd] {
        let folder = root();
        let path = folder.path();
        let saved = path.join("commits/interrupted.json");
        drop(Writer::create(path, arrays(codec), OPTIONS).unwrap());
        sitting(path, 0..16, Some((16, false)));
        let reader = Store::open(path).unwrap();
        for n in [18, 30] {
            let writer = Writer::open(path, OPTIONS).unwrap();
            assert_eq!(writer.last_commit().rows.token, 16);
            write_all(&writer, 0..n);
            let commit =
                writer.commit(CommitRequest { interrupted: true, ..request(n, false) }).unwrap();
            assert_eq!((commit.commit, commit.rows.token), (1, n));
            drop(writer);
            assert!(saved.exists() && !reader.is_current().unwrap());
            assert_holds(path, codec, n);
        }
        let reader = Store::open(path).unwrap();
        assert!(reader.is_current().unwrap());
        // What was saved need not be written again: those rows are dropped, others would be missed.
        let writer = Writer::open(path, OPTIONS).unwrap();
        write_all(&writer, 30..N_ROW);
        let commit = writer.commit(request(N_ROW, true)).unwrap();
        assert_eq!((commit.commit, commit.rows.token), (2, N_ROW));
        assert!(!saved.exists() && !reader.is_current().unwrap());
        assert_holds(path, codec, N_ROW);
        assert_same_tree(path, full_store(codec, N_ROW).path());
    }
}

#[test]
fn a_damaged_record_of_an_interrupted_capture_is_reported_and_saves_nothing() {
    let folder = root();
    let path = folder.path();
    drop(Writer::create(path, arrays(Codec::None), OPTIONS).unwrap());
    sitting(path, 0..16, Some((16, false)));
    let saved = path.join("commits/interrupted.json");
    fs::write(&saved, "{").unwrap();
    let problems = verify(path).unwrap().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(Store::open(path).unwrap().commit().rows.token, 16);
    // One of an older commit, which a crash can leave, is nothing to report.
    fs::copy(path.join("commits/00000000.json"), &saved).unwrap();
    assert_holds(path, Codec::None, 16);
}

#[test]
fn what_a_crash_left_without_a_name_is_removed() {
    let folder = root();
    let path = folder.path();
    drop(Writer::create(path, arrays(Codec::None), OPTIONS).unwrap());
    fs::create_dir_all(path.join("tables/tokens")).unwrap();
    fs::create_dir_all(path.join("tables/labels")).unwrap();
    let left = ["commits/.x.tmp", "activations/z/.x.tmp", "tables/tokens/.x.tmp"];
    for file in left.iter().chain(&["tables/labels/.x.tmp"]) {
        fs::write(path.join(file), "x").unwrap();
    }
    drop(Writer::open(path, OPTIONS).unwrap());
    assert!(left.iter().all(|file| !path.join(file).exists()));
    assert!(path.join("tables/labels/.x.tmp").exists(), "another process may be writing it");
}

#[test]
fn row_spaces_grow_apart() {
    let folder = root();
    let writer = Writer::create(folder.path(), arrays(Codec::None), OPTIONS).unwrap();
    for (array, spec) in arrays(Codec::None).iter().enumerate() {
        let n = if spec.name() == "pooled" { 3 } else { 20 };
        for layer in layers(spec) {
            write_rows(&writer, array, layer, &(0..n).collect::<Vec<_>>()).unwrap();
        }
    }
    let rows = RowCounts { token: 20, example: 3 };
    let commit = writer.commit(CommitRequest { rows, ..request(0, true) }).unwrap();
    assert_eq!(commit.physical_rows, rows);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!((store.site("z").unwrap().n_row(), store.site("pooled").unwrap().n_row()), (20, 3));
    let mut out = vec![0.0_f32; 9];
    store.site("pooled").unwrap().read(Rows::All, &[], None, &mut out).unwrap();
    assert!(verify(folder.path()).unwrap().problems.is_empty());
}
