//! Damaged and hostile stores: every flipped byte is found, every cut is an error, no length is believed.
//!
//! Nothing here may panic, hang or allocate what a file merely claims.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod store_support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use residuum_core::{Codec, Error, Rows, Store, Writer, verify};
use store_support::{N_ROW, OPTIONS, arrays, full_store, make_root, tree};

/// Shards and statistics of a store.
fn data_files(store: &Path) -> Vec<PathBuf> {
    tree(store).into_keys().filter(|p| p.file_name().unwrap() != "zarr.json").collect()
}

fn problems(store: &Path) -> Vec<String> {
    let report = verify(store).unwrap();
    report.problems.iter().map(|problem| format!("{}: {}", problem.file, problem.what)).collect()
}

/// Reads every value that can be read as f32; only the error matters.
fn read_all(path: &Path) -> residuum_core::Result<()> {
    let store = Store::open(path)?;
    for name in store.sites() {
        let site = store.site(name)?;
        for layer in
            site.spec().layers.iter().copied().chain(site.spec().n_layer.is_none().then_some(0))
        {
            let mut out = vec![0.0; site.n_row() * site.spec().row_len()];
            site.read_block_f32(0..site.n_row(), layer, &mut out)?;
        }
    }
    Ok(())
}

#[test]
fn a_flipped_byte_anywhere_is_found() {
    for codec in [Codec::None, Codec::Zstd] {
        let folder = full_store(codec, 22);
        assert_eq!(problems(folder.path()), Vec::<String>::new());
        for file in data_files(folder.path()) {
            let path = folder.path().join(&file);
            let sound = fs::read(&path).unwrap();
            // A prime step, so that all kinds of place are met: values, checksums, index, its checksum.
            let places = (0..sound.len()).step_by(sound.len() / 23 + 1).chain([sound.len() - 1]);
            for place in places {
                let mut bytes = sound.clone();
                bytes[place] ^= 0x40;
                fs::write(&path, bytes).unwrap();
                let found = problems(folder.path());
                let name = file.display().to_string();
                assert!(
                    found.iter().any(|p| p.contains(&name)),
                    "byte {place} of {name}: {found:?}"
                );
            }
            fs::write(&path, sound).unwrap();
        }
        assert_eq!(problems(folder.path()), Vec::<String>::new());
    }
}

/// The last chunk is mostly filler: its rows are checked all the same, also in a store smaller than a chunk.
#[test]
fn a_flipped_value_in_the_last_chunk_is_an_error_to_readers() {
    for rows in [2, 22] {
        let folder = full_store(Codec::None, rows);
        let path = folder.path().join(format!("activations/z/c/{}/2/0/0", (rows - 1) / 16));
        let mut bytes = fs::read(&path).unwrap();
        // The last visible row of the last chunk; each chunk is followed by its 4-byte checksum.
        let (row_bytes, chunk) = (35 * 2, (rows - 1) % 16 / 4);
        bytes[chunk * (4 * row_bytes + 4) + (rows - 1) % 4 * row_bytes] ^= 0x40;
        fs::write(&path, bytes).unwrap();
        let error = read_all(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("checksum"), "{error}");
    }
}

#[test]
fn a_shape_that_is_ahead_of_the_commit_is_a_problem() {
    let folder = full_store(Codec::None, 22);
    let path = folder.path().join("activations/z/zarr.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("22", "23", 1)).unwrap();
    // A store that may still be written has a staging folder, and its shape may be ahead.
    fs::create_dir_all(folder.path().join("staging")).unwrap();
    assert_eq!(problems(folder.path()), Vec::<String>::new());
    fs::remove_dir_all(folder.path().join("staging")).unwrap();
    let found = problems(folder.path());
    assert!(found.len() == 1 && found[0].contains("its shape has 23 rows"), "{found:?}");
}

#[test]
fn a_cut_file_is_an_error_wherever_it_ends() {
    for codec in [Codec::None, Codec::Zstd] {
        let folder = full_store(codec, N_ROW);
        let path = folder.path().join("activations/z/c/0/2/0/0");
        let sound = fs::read(&path).unwrap();
        for length in (0..sound.len()).step_by(13).chain([sound.len() - 1]) {
            fs::write(&path, &sound[..length]).unwrap();
            let error = read_all(folder.path()).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("activations/z/c/0/2"), "{error}");
            assert!(problems(folder.path()).iter().any(|p| p.contains("activations/z/c/0/2")));
        }
        let mut longer = sound.clone();
        longer.splice(100..100, [7, 7]);
        fs::write(&path, &longer).unwrap();
        assert!(!problems(folder.path()).is_empty());
        fs::remove_file(&path).unwrap();
        assert!(matches!(read_all(folder.path()), Err(Error::Missing { .. })));
        assert!(
            problems(folder.path())[0].contains("missing")
                || problems(folder.path())[0].contains("No such")
        );
    }
}

#[test]
fn a_shard_cut_while_it_is_open_is_an_error() {
    let folder = full_store(Codec::None, N_ROW);
    let store = Store::open(folder.path()).unwrap();
    let z = store.site("z").unwrap();
    let mut out = vec![0.0_f32; 35];
    z.read(Rows::Index(&[0]), &[2], None, &mut out).unwrap();
    let path = folder.path().join("activations/z/c/0/2/0/0");
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(50).unwrap();
    assert!(matches!(z.read(Rows::Index(&[1]), &[2], None, &mut out), Err(Error::Damaged { .. })));
}

#[test]
fn all_problems_are_reported_not_only_the_first() {
    let folder = full_store(Codec::None, N_ROW);
    for file in ["activations/z/c/0/0/0/0", "activations/resid_post/c/1/2/0", "index/target/c/2"] {
        let path = folder.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        bytes[3] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    fs::write(folder.path().join("commits/00000000.json"), "{}").unwrap();
    let found = problems(folder.path());
    for expected in ["z/c/0/0", "resid_post/c/1/2", "target/c/2", "commits/00000000.json"] {
        assert!(found.iter().any(|p| p.contains(expected)), "{expected} in {found:?}");
    }
}

/// Replaces text in a file of a sound store and opens it.
fn open_altered(file: &str, from: &str, to: &str) -> (Error, Vec<String>) {
    let folder = full_store(Codec::None, 22);
    let path = folder.path().join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no {from}: {text}");
    fs::write(&path, text.replace(from, to)).unwrap();
    let error = read_all(folder.path()).expect_err(&format!("{file}: {from} -> {to}"));
    let found = match verify(folder.path()) {
        Ok(report) => report.problems.iter().map(|p| p.file.clone()).collect(),
        Err(error) => vec![error.to_string()],
    };
    assert!(!found.is_empty(), "{file}: {from} -> {to} was not found by verify");
    (error, found)
}

#[test]
fn hostile_metadata_is_refused() {
    let array = "activations/resid_post/zarr.json";
    let many = "999999999999999999";
    let cases = [
        // Row counts of shards and chunks: none, more than memory, more than numbers.
        ("16,\n        1,\n        11", "0,\n        1,\n        11".to_owned()),
        ("16,\n        1,\n        11", format!("{many},\n        1,\n        11")),
        ("16,\n        1,\n        11", "18446744073709551616,\n        1,\n        11".to_owned()),
        ("4,\n          1,\n          11", "0,\n          1,\n          11".to_owned()),
        ("4,\n          1,\n          11", format!("{many},\n          1,\n          11")),
        ("4,\n          1,\n          11", "3,\n          1,\n          11".to_owned()),
        // Features: in the shape only, and everywhere.
        ("22,\n    3,\n    11", format!("22,\n    3,\n    {many}")),
        ("11\n", format!("{many}\n")),
        ("22,\n    3,\n    11", "21,\n    3,\n    11".to_owned()),
        ("22,\n    3,\n    11", format!("22,\n    {many},\n    11")),
        ("22,\n    3,\n    11", "22,\n    2,\n    11".to_owned()),
        ("22,\n    3,\n    11", "-1,\n    3,\n    11".to_owned()),
        ("bfloat16", "complex64".to_owned()),
        ("\"row\",", "\"row\", \"token\",".to_owned()),
        ("sharding_indexed", "gzip".to_owned()),
        ("\"end\"", "\"start\"".to_owned()),
        ("\"crc32c\"", "\"zstd\"".to_owned()),
        ("\"little\"", "\"big\"".to_owned()),
        ("\"token\"", "\"batch\"".to_owned()),
        ("\"zarr_format\": 3", "\"zarr_format\": 4".to_owned()),
        ("{", "[".to_owned()),
    ];
    for (from, to) in cases {
        let (error, found) = open_altered(array, from, &to);
        assert!(matches!(error, Error::Damaged { .. }), "{from} -> {to}: {error}");
        assert!(error.to_string().contains("resid_post"), "{error}");
        assert!(found.iter().any(|file| file.contains("resid_post")), "{found:?}");
    }
}

#[test]
fn a_hostile_commit_is_refused() {
    let file = "commits/00000001.json";
    for many in ["999999999999999", "9223372036854775807"] {
        let (error, _) = open_altered(file, "22", many);
        assert!(matches!(error, Error::Damaged { .. } | Error::Missing { .. }), "{error}");
    }
    // Also where the array's own metadata agrees, nothing is allocated and verify comes to an end.
    let folder = full_store(Codec::None, 22);
    for name in ["activations/resid_post/zarr.json", file] {
        let path = folder.path().join(name);
        let text = fs::read_to_string(&path).unwrap().replace("22", "999999999999999");
        fs::write(path, text).unwrap();
    }
    assert!(Store::open(folder.path()).is_err());
    assert!(!problems(folder.path()).is_empty());
    let (error, _) = open_altered(file, "activations/z", "activations/../../z");
    assert!(error.to_string().contains("no array of ours"), "{error}");
    let (error, found) = open_altered(file, "\"format\": 1", "\"format\": 2");
    assert!(matches!(error, Error::NewerFormat { found: 2, supported: 1, .. }), "{error}");
    assert!(found[0].contains("format 2"));
}

#[test]
fn an_index_that_points_elsewhere_is_refused() {
    let folder = full_store(Codec::None, 22);
    let path = folder.path().join("activations/z/c/0/0/0/0");
    let sound = fs::read(&path).unwrap();
    let index_at = sound.len() - (4 * 16 + 4);
    // (offset, nbytes) of chunk 1, with the index's checksum made to hold.
    for (offset, nbytes) in
        [(u64::MAX - 1, 284), (284, u64::MAX - 5), (1 << 40, 284), (284, 285), (u64::MAX, 0)]
    {
        let mut bytes = sound.clone();
        bytes[index_at + 16..index_at + 24].copy_from_slice(&u64::to_le_bytes(offset));
        bytes[index_at + 24..index_at + 32].copy_from_slice(&u64::to_le_bytes(nbytes));
        let end = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[index_at..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let error = read_all(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(!problems(folder.path()).is_empty());
    }
}

#[test]
fn a_zstd_chunk_that_unpacks_to_more_is_refused() {
    let folder = full_store(Codec::Zstd, 22);
    let path = folder.path().join("activations/z/c/0/0/0/0");
    let sound = fs::read(&path).unwrap();
    let index = &sound[sound.len() - (4 * 16 + 4)..];
    let nbytes = usize::try_from(u64::from_le_bytes(index[8..16].try_into().unwrap())).unwrap();
    // A megabyte of zeros packs into less than the chunk's bytes; padded by a skippable frame to the same size.
    let mut bomb = zstd::bulk::compress(&vec![0; 1 << 20], 1).unwrap();
    let skip = nbytes - 4 - bomb.len() - 8;
    bomb.extend(0x184D_2A50_u32.to_le_bytes());
    bomb.extend(u32::try_from(skip).unwrap().to_le_bytes());
    bomb.resize(nbytes - 4, 0);
    let crc = crc32c::crc32c(&bomb);
    let mut bytes = sound.clone();
    bytes[..nbytes - 4].copy_from_slice(&bomb);
    bytes[nbytes - 4..nbytes].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let error = read_all(folder.path()).unwrap_err();
    assert!(error.to_string().contains("chunk 0"), "{error}");
}

#[test]
fn what_is_no_store_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| Store::open(path).unwrap_err();
    assert!(open(&folder.path().join("nowhere")).to_string().contains("no such folder"));
    assert!(matches!(open(folder.path()), Error::NotAStore { .. }));
    assert!(matches!(verify(folder.path()), Err(Error::NotAStore { .. })));
    fs::write(folder.path().join("zarr.json"), r#"{"zarr_format": 3, "attributes": {}}"#).unwrap();
    assert!(open(folder.path()).to_string().contains("lacks the attribute `residuum`"));
    fs::write(folder.path().join("zarr.json"), "not JSON").unwrap();
    assert!(matches!(open(folder.path()), Error::Damaged { .. }));
    let newer = r#"{"attributes": {"residuum": {"format": 7}}}"#;
    fs::write(folder.path().join("zarr.json"), newer).unwrap();
    assert!(matches!(open(folder.path()), Error::NewerFormat { found: 7, supported: 1, .. }));
    make_root(folder.path());
    assert!(open(folder.path()).to_string().contains("no commit record"));
    assert!(problems(folder.path())[0].contains("commits"));
}

#[test]
fn a_damaged_newest_commit_falls_back_and_is_reported() {
    let folder = full_store(Codec::None, 22);
    fs::write(folder.path().join("commits/00000002.json"), "{\"format\": 1").unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!((store.commit().commit, store.is_current().unwrap()), (1, true));
    assert!(problems(folder.path())[0].starts_with("commits/00000002.json"));
    // A writer goes on after it and does not reuse its number.
    let writer = Writer::open(folder.path(), OPTIONS).unwrap();
    assert_eq!(writer.commit(store_support::request(22, true)).unwrap().commit, 3);
    for number in [0, 1, 2, 3] {
        fs::write(folder.path().join(format!("commits/0000000{number}.json")), "").unwrap();
    }
    assert!(matches!(Store::open(folder.path()), Err(Error::Damaged { .. })));
}

#[test]
fn an_array_that_is_gone_is_named() {
    let folder = full_store(Codec::None, 22);
    fs::remove_dir_all(folder.path().join("activations/pattern")).unwrap();
    let error = Store::open(folder.path()).unwrap_err();
    assert!(
        matches!(error, Error::Missing { .. }) && error.to_string().contains("pattern"),
        "{error}"
    );
    assert!(problems(folder.path()).iter().any(|p| p.contains("pattern")));
}

#[test]
fn weights_with_a_lying_header_are_refused() {
    let folder = full_store(Codec::None, 5);
    let path = folder.path().join("weights/readout.safetensors");
    fs::create_dir(path.parent().unwrap()).unwrap();
    let header = |text: &str| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes
    };
    let good = r#"{"b_U":{"dtype":"F16","shape":[3],"data_offsets":[0,6]}}"#;
    let mut bytes = header(good);
    bytes.extend([0x00, 0x3c, 0x00, 0xc0, 0x00, 0x00]);
    fs::write(&path, &bytes).unwrap();
    let store = Store::open(folder.path()).unwrap();
    let tensor = store.weights().unwrap().f32("b_U").unwrap();
    assert_eq!((tensor.shape, tensor.data), (vec![3], vec![1.0, -2.0, 0.0]));
    let message = store.weights().unwrap().f32("W_U").unwrap_err().to_string();
    assert!(message.contains("`W_U`; it holds b_U"), "{message}");
    assert_eq!(problems(folder.path()), Vec::<String>::new());
    let lies = [
        bytes[..bytes.len() - 1].to_vec(),
        bytes[..9].to_vec(),
        bytes[..3].to_vec(),
        u64::MAX.to_le_bytes().to_vec(),
        header(r#"{"b_U":{"dtype":"F16","shape":[9223372036854775807,4],"data_offsets":[0,6]}}"#),
        header(r#"{"b_U":{"dtype":"F16","shape":[3],"data_offsets":[6,0]}}"#),
        header("nonsense"),
    ];
    for lie in lies {
        fs::write(&path, &lie).unwrap();
        assert!(matches!(store.weights(), Err(Error::Damaged { .. })), "{lie:?}");
        assert!(problems(folder.path()).iter().any(|p| p.contains("readout.safetensors")));
    }
}

#[test]
fn a_missing_table_part_is_found() {
    let folder = store_support::root();
    let writer = Writer::create(folder.path(), arrays(Codec::None), OPTIONS).unwrap();
    let mut request = store_support::request(0, true);
    for (table, parts) in [("examples", vec!["part-00000001.parquet"]), ("..", vec!["commits"])] {
        request.tables.insert(table.into(), parts.into_iter().map(String::from).collect());
    }
    writer.commit(request).unwrap();
    let found = problems(folder.path());
    assert_eq!(found.len(), 2, "{found:?}");
    let part = folder.path().join("tables/examples/part-00000001.parquet");
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(&part, b"PAR1 ... whatever ... PAR1").unwrap();
    assert_eq!(problems(folder.path()).len(), 1);
    fs::write(&part, b"PAR1 ... whatever ... ").unwrap();
    assert_eq!(problems(folder.path()).len(), 2);
}

#[test]
fn statistics_that_lie_are_found_though_their_checksum_holds() {
    let folder = full_store(Codec::None, 22);
    let path = folder.path().join("statistics/resid_post/c/1/2/0/0");
    let mut bytes = fs::read(&path).unwrap();
    // The mean of the second shard's first chunk.
    let place = 2 * 11 * 4;
    bytes[place] ^= 1;
    let end = bytes.len() - 4;
    let crc = crc32c::crc32c(&bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let found = problems(folder.path());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("statistics/resid_post/c/1/2") && found[0].contains("chunk 0"));
}
