//! Arrays and layers added to rows that are there: seen all at once, killed at any moment, the same bytes as a
//! store that was written with them from the start.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod store_support;

use std::{fs, path::Path};

use residuum_core::{ArraySpec, Codec, CommitRequest, Error, RowCounts, Store, Writer, verify};
use serde_json::Value;
use store_support::{
    N_ROW, OPTIONS, SHARD_ROWS, arrays, assert_same_tree, full_store, request, root, row_values,
    tree, write_all, write_rows,
};

/// The test's arrays but for those added later: no `z`, of `resid_post` layer 0 alone.
fn fewer(codec: Codec) -> Vec<ArraySpec> {
    let mut few = arrays(codec);
    few.retain(|spec| spec.name() != "z");
    few.iter_mut().find(|spec| spec.name() == "resid_post").unwrap().layers = vec![0];
    few
}

/// What is added later.
fn later(codec: Codec) -> Vec<ArraySpec> {
    let mut added = arrays(codec);
    added.retain(|spec| ["z", "resid_post"].contains(&spec.name()));
    added[1].layers = vec![2];
    added
}

/// A complete store of `fewer`.
fn small_store(codec: Codec) -> tempfile::TempDir {
    let folder = root();
    let writer = Writer::create(folder.path(), fewer(codec), OPTIONS).unwrap();
    let rows: Vec<usize> = (0..N_ROW).collect();
    for (array, spec) in arrays(codec).iter().enumerate() {
        let Some(there) = fewer(codec).into_iter().find(|it| it.path == spec.path) else {
            continue;
        };
        let layers = if there.n_layer.is_some() { there.layers } else { vec![0] };
        for layer in layers {
            write_rows(&writer, array, layer, &rows).unwrap();
        }
    }
    writer.commit(request(N_ROW, true)).unwrap();
    folder
}

/// Writes rows of what is added.
fn write_later(writer: &Writer, rows: std::ops::Range<usize>) {
    let rows: Vec<usize> = rows.collect();
    for (array, layer) in [(0, 0), (0, 2), (1, 2)] {
        write_rows(writer, array, layer, &rows).unwrap();
    }
}

/// A commit of the first `n` rows of what is added.
fn part(n: usize) -> CommitRequest {
    CommitRequest { publish_tail: false, ..request(n, false) }
}

fn sites(path: &Path) -> Vec<String> {
    Store::open(path).unwrap().sites().into_iter().map(ToOwned::to_owned).collect()
}

fn assert_sound(path: &Path) {
    let problems = verify(path).unwrap().problems;
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn grown_arrays_are_those_of_a_store_that_had_them_from_the_start() {
    for codec in [Codec::None, Codec::Zstd] {
        let folder = small_store(codec);
        let before = tree(folder.path());
        let old = Store::open(folder.path()).unwrap();
        let writer = Writer::grow(folder.path(), later(codec), Value::Null, OPTIONS).unwrap();
        assert!(!old.is_current().unwrap(), "the growth has a record of its own");
        write_later(&writer, 0..N_ROW);
        writer.flush().unwrap();
        writer.commit(part(SHARD_ROWS)).unwrap();
        let between = Store::open(folder.path()).unwrap();
        assert!(!between.commit().complete);
        assert_eq!(between.sites(), old.sites(), "nothing is seen before all rows are there");
        assert_eq!(between.site("resid_post").unwrap().spec().layers, [0]);
        assert_eq!(between.commit().rows, RowCounts { token: N_ROW, example: N_ROW });
        assert_sound(folder.path());
        let done = writer.commit(request(N_ROW, true)).unwrap();
        assert!(done.complete && done.growth.is_none());
        assert!(!folder.path().join("staging").exists());
        assert_same_tree(folder.path(), full_store(codec, N_ROW).path());
        assert_sound(folder.path());
        // Not a shard that was there has changed, and whoever has the old commit open goes on reading it.
        let after = tree(folder.path());
        let shards = before.keys().filter(|file| !file.ends_with("zarr.json"));
        assert!(shards.into_iter().all(|file| before[file] == after[file]));
        let spec = old.site("resid_post").unwrap().spec();
        let mut row = vec![0.0; spec.row_len()];
        old.site("resid_post").unwrap().read_block_f32(20..21, 0, &mut row).unwrap();
        assert_eq!(row, row_values(spec, 1, 0, 20));
        let refused = old.site("resid_post").unwrap().read_block_f32(20..21, 2, &mut row);
        assert!(matches!(refused, Err(Error::LayerNotCaptured { .. })));
        assert!(sites(folder.path()).contains(&"z".to_owned()));
    }
}

#[test]
fn a_growth_that_dies_goes_on_to_the_same_bytes() {
    for codec in [Codec::None, Codec::Zstd] {
        let whole = full_store(codec, N_ROW);
        for cut in [0, 5, 16, 20, 32, 36] {
            let folder = small_store(codec);
            let writer = Writer::grow(folder.path(), later(codec), Value::Null, OPTIONS).unwrap();
            write_later(&writer, 0..cut);
            writer.flush().unwrap();
            let full = cut / SHARD_ROWS * SHARD_ROWS;
            writer.commit(part(full)).unwrap();
            drop(writer);
            assert_sound(folder.path());
            let writer = Writer::open(folder.path(), OPTIONS).unwrap();
            let names: Vec<&str> = writer.arrays().map(ArraySpec::name).collect();
            assert_eq!(names, ["resid_post", "z"]);
            let growth = writer.last_commit().growth.unwrap();
            assert_eq!((growth.rows.token, growth.n_example), (full, full as u64));
            // Rows that are published are handed over again, and dropped.
            write_later(&writer, 0..N_ROW);
            writer.commit(request(N_ROW, true)).unwrap();
            drop(writer);
            assert_same_tree(folder.path(), whole.path());
            assert_sound(folder.path());
        }
    }
}

#[test]
fn a_crash_between_the_renames_and_the_record_is_no_harm() {
    for codec in [Codec::None, Codec::Zstd] {
        let folder = small_store(codec);
        let writer = Writer::grow(folder.path(), later(codec), Value::Null, OPTIONS).unwrap();
        write_later(&writer, 0..N_ROW);
        let done = writer.commit(request(N_ROW, true)).unwrap();
        drop(writer);
        fs::remove_file(folder.path().join(format!("commits/{:08}.json", done.commit))).unwrap();
        // Shards and `zarr.json` are ahead of the record, which says that nothing is done.
        let store = Store::open(folder.path()).unwrap();
        assert!(!store.commit().complete);
        assert_eq!(store.site("resid_post").unwrap().spec().layers, [0]);
        assert!(store.site("z").is_err());
        let writer = Writer::open(folder.path(), OPTIONS).unwrap();
        assert!(!folder.path().join("activations/z/c/0").exists(), "it is removed");
        assert!(!folder.path().join("activations/resid_post/c/0/2").exists());
        assert!(folder.path().join("activations/resid_post/c/0/0").exists());
        write_later(&writer, 0..N_ROW);
        writer.commit(request(N_ROW, true)).unwrap();
        assert_same_tree(folder.path(), full_store(codec, N_ROW).path());
    }
}

#[test]
fn what_a_growth_without_a_record_left_is_removed() {
    let folder = small_store(Codec::None);
    let before = tree(folder.path());
    let writer = Writer::grow(folder.path(), later(Codec::None), Value::Null, OPTIONS).unwrap();
    let begun = writer.last_commit().commit;
    write_later(&writer, 0..N_ROW);
    writer.commit(part(SHARD_ROWS)).unwrap();
    drop(writer);
    for number in begun..=begun + 1 {
        fs::remove_file(folder.path().join(format!("commits/{number:08}.json"))).unwrap();
    }
    drop(Writer::open(folder.path(), OPTIONS).unwrap());
    assert_eq!(tree(folder.path()), before);
}

#[test]
fn a_grown_store_takes_rows_again() {
    let folder = small_store(Codec::None);
    let writer = Writer::grow(folder.path(), later(Codec::None), Value::Null, OPTIONS).unwrap();
    write_later(&writer, 0..N_ROW);
    writer.commit(request(N_ROW, false)).unwrap();
    assert!(matches!(write_rows(&writer, 0, 0, &[1]), Err(Error::WriterStopped { .. })));
    drop(writer);
    let writer = Writer::open(folder.path(), OPTIONS).unwrap();
    assert_eq!(writer.arrays().len(), arrays(Codec::None).len());
    write_all(&writer, N_ROW..N_ROW + 3);
    writer.commit(request(N_ROW + 3, true)).unwrap();
    assert_same_tree(folder.path(), full_store(Codec::None, N_ROW + 3).path());
}

#[test]
fn a_growth_that_is_given_up_leaves_the_store_as_it_was() {
    let folder = small_store(Codec::None);
    let before = tree(folder.path());
    let writer = Writer::grow(folder.path(), later(Codec::None), Value::Null, OPTIONS).unwrap();
    write_later(&writer, 0..N_ROW);
    writer.flush().unwrap();
    writer.commit(part(SHARD_ROWS)).unwrap();
    let commit = writer.abandon(Value::Null).unwrap();
    assert!(commit.complete && commit.growth.is_none());
    assert!(matches!(write_rows(&writer, 0, 0, &[36]), Err(Error::WriterStopped { .. })));
    assert_eq!(tree(folder.path()), before);
    assert!(!folder.path().join("staging").exists());
    assert_sound(folder.path());
    drop(writer);
    let writer = Writer::open(folder.path(), OPTIONS).unwrap();
    assert!(matches!(writer.abandon(Value::Null), Err(Error::BadCommit { .. })));
}

#[test]
fn what_cannot_be_added_is_refused_and_nothing_is_written() {
    let folder = small_store(Codec::None);
    let before = tree(folder.path());
    let refused = |arrays: Vec<ArraySpec>| {
        let error = Writer::grow(folder.path(), arrays, Value::Null, OPTIONS).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::CannotGrow { .. }), "{text}");
        assert_eq!(tree(folder.path()), before);
        text
    };
    assert!(refused(Vec::new()).contains("nothing to add"));
    let there = fewer(Codec::None).into_iter().filter(|spec| spec.name() == "resid_post").collect();
    assert!(refused(there).contains("layer 0 of `activations/resid_post` is there already"));
    let flat = fewer(Codec::None).into_iter().filter(|spec| spec.name() == "resid_final").collect();
    assert!(refused(flat).contains("`activations/resid_final` is there already"));
    let mut other = later(Codec::None);
    other[1].codec = Codec::Zstd;
    let why = refused(other);
    assert!(
        why.contains("the codec of `activations/") && why.contains("is none, not zstd"),
        "{why}"
    );
    let mut cut = later(Codec::None);
    cut[0].shard_rows = 2 * SHARD_ROWS;
    assert!(refused(cut).contains("shards of `activations/z` would have 32 rows"));
    let writer = Writer::grow(folder.path(), later(Codec::None), Value::Null, OPTIONS).unwrap();
    let early = writer.commit(request(5, true)).unwrap_err().to_string();
    assert!(early.contains("37 token rows, not to 5"), "{early}");
    let beyond = writer.commit(request(N_ROW + 1, false)).unwrap_err().to_string();
    assert!(beyond.contains("37 token rows, not to 38"), "{beyond}");
    drop(writer);
    let error = Writer::grow(folder.path(), later(Codec::None), Value::Null, OPTIONS)
        .unwrap_err()
        .to_string();
    assert!(error.contains("other arrays are being added"), "{error}");
}

#[test]
fn a_store_whose_rows_are_unfinished_does_not_grow() {
    let folder = root();
    let writer = Writer::create(folder.path(), fewer(Codec::None), OPTIONS).unwrap();
    for (array, layer) in [(1, 0), (2, 0), (2, 2), (3, 0), (4, 0), (5, 0)] {
        write_rows(&writer, array, layer, &(0..N_ROW).collect::<Vec<_>>()).unwrap();
    }
    writer.flush().unwrap();
    writer.commit(CommitRequest { publish_tail: false, ..request(20, false) }).unwrap();
    drop(writer);
    let error = Writer::grow(folder.path(), later(Codec::None), Value::Null, OPTIONS)
        .unwrap_err()
        .to_string();
    assert!(error.contains("a capture of further rows was stopped"), "{error}");
}
