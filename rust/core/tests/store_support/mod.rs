//! What the store tests share: a store's root, arrays of odd shapes, values that tell where they belong.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use residuum_core::{
    ArraySpec, Codec, CommitRequest, Dtype, RowCounts, Run, Site, Source, Writer, WriterOptions,
};

pub(crate) const N_LAYER: usize = 3;
pub(crate) const N_HEAD: usize = 5;
pub(crate) const D_HEAD: usize = 7;
pub(crate) const SHARD_ROWS: usize = 16;
pub(crate) const CHUNK_ROWS: usize = 4;
pub(crate) const N_ROW: usize = 37;

pub(crate) const OPTIONS: WriterOptions = WriterOptions { memory_bytes: 1 << 20, threads: 2 };

/// A folder with a root `zarr.json`, as Python writes it. In memory where that is to be had: thousands of
/// small files are made durable here, which a disk takes minutes for.
pub(crate) fn root() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let folder = folder.unwrap();
    make_root(folder.path());
    folder
}

pub(crate) fn make_root(path: &Path) {
    fs::create_dir_all(path).unwrap();
    let text = r#"{"zarr_format": 3, "node_type": "group", "attributes": {"residuum": {"format": 1, "model": {"name": "tiny"}}}}"#;
    fs::write(path.join("zarr.json"), text).unwrap();
}

/// The odd-shaped arrays: every dtype, with and without layers and heads, both row spaces.
pub(crate) fn arrays(codec: Codec) -> Vec<ArraySpec> {
    let z = [N_HEAD, D_HEAD];
    let site = |site, dtype, inner: &[usize]| {
        ArraySpec::for_site(site, dtype, N_LAYER, &[0, 2], inner, SHARD_ROWS, codec).unwrap()
    };
    let mut arrays = vec![
        site(Site::Z, Dtype::F16, &z),
        site(Site::ResidPost, Dtype::Bf16, &[11]),
        site(Site::Pattern, Dtype::F32, &[N_HEAD, 9]),
        site(Site::ResidFinal, Dtype::F32, &[11]),
        site(Site::Pooled, Dtype::F32, &[3]),
        ArraySpec::for_target(SHARD_ROWS, codec).unwrap(),
    ];
    for array in &mut arrays {
        array.chunk_rows = CHUNK_ROWS;
    }
    arrays
}

/// The value of an element: small integers, exact in every dtype, different for neighbours on every axis.
pub(crate) fn value(array: usize, layer: usize, row: usize, element: usize) -> f32 {
    let mixed = (array * 31 + layer * 17 + row * 13 + element * 7) % 251;
    f32::from(u8::try_from(mixed).unwrap()) - 125.0
}

/// All of one row.
pub(crate) fn row_values(spec: &ArraySpec, array: usize, layer: usize, row: usize) -> Vec<f32> {
    (0..spec.row_len()).map(|element| value(array, layer, row, element)).collect()
}

/// Layers to write: the captured ones, or 0.
pub(crate) fn layers(spec: &ArraySpec) -> Vec<usize> {
    if spec.n_layer.is_some() { spec.layers.clone() } else { vec![0] }
}

/// Writes the given rows of one layer of `arrays()[array]` in one call, in the order given.
pub(crate) fn write_rows(
    writer: &Writer,
    array: usize,
    layer: usize,
    rows: &[usize],
) -> residuum_core::Result<()> {
    let spec = arrays(Codec::None).swap_remove(array);
    let data: Vec<f32> =
        rows.iter().flat_map(|&row| row_values(&spec, array, layer, row)).collect();
    let runs: Vec<Run> =
        rows.iter().enumerate().map(|(src_row, &dst_row)| Run { src_row, dst_row, n: 1 }).collect();
    let number = writer.array_number(&spec.path).unwrap();
    if spec.dtype == Dtype::I32 {
        #[allow(clippy::cast_possible_truncation, reason = "small whole numbers")]
        let data: Vec<i32> = data.iter().map(|&x| x as i32).collect();
        writer.write(number, layer, Source::I32(&data), spec.row_len(), &runs)
    } else {
        writer.write(number, layer, Source::F32(&data), spec.row_len(), &runs)
    }
}

/// Writes rows `rows` of every array and layer.
pub(crate) fn write_all(writer: &Writer, rows: std::ops::Range<usize>) {
    let rows: Vec<usize> = rows.collect();
    for (array, spec) in arrays(Codec::None).iter().enumerate() {
        for layer in layers(spec) {
            write_rows(writer, array, layer, &rows).unwrap();
        }
    }
}

/// A request that shows `n` rows in both spaces.
pub(crate) fn request(n: usize, complete: bool) -> CommitRequest {
    CommitRequest {
        rows: RowCounts { token: n, example: n },
        n_example: n as u64,
        complete,
        publish_tail: true,
        ..CommitRequest::default()
    }
}

/// A complete store of `n` rows.
pub(crate) fn full_store(codec: Codec, n: usize) -> tempfile::TempDir {
    let folder = root();
    let writer = Writer::create(folder.path(), arrays(codec), OPTIONS).unwrap();
    write_all(&writer, 0..n);
    writer.commit(request(n, true)).unwrap();
    folder
}

/// Every file below activations, statistics and index, by relative path.
pub(crate) fn tree(store: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in ["activations", "statistics", "index"] {
        // Of a store of one array only some of them are there.
        if store.join(folder).is_dir() {
            walk(&store.join(folder), store, &mut files);
        }
    }
    files
}

fn walk(folder: &Path, store: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, store, files);
        } else {
            files.insert(path.strip_prefix(store).unwrap().to_owned(), fs::read(&path).unwrap());
        }
    }
}

/// Fails with the paths that differ, not with their bytes.
pub(crate) fn assert_same_tree(left: &Path, right: &Path) {
    let (left, right) = (tree(left), tree(right));
    assert_eq!(left.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>());
    let differing: Vec<_> = left.iter().filter(|(path, bytes)| right[*path] != **bytes).collect();
    let names: Vec<_> = differing.iter().map(|(path, _)| path).collect();
    assert!(names.is_empty(), "these files differ: {names:?}");
}
