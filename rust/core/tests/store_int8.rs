//! Codes of eight bits: what comes back is what the definition says, off by half a scale at most, and how far off all
//! of it is stands in the store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::float_cmp,
    reason = "a test fails by panicking; both sides are computed in the same steps"
)]

mod store_support;

use std::{fs, path::Path};

use proptest::prelude::*;
use residuum_core::{
    ArraySpec, Codec, Dtype, Error, Rows, Run, Site, Source, Store, Writer, verify,
};
use store_support::{
    CHUNK_ROWS, D_HEAD, N_HEAD, N_LAYER, OPTIONS, SHARD_ROWS, layers, request, root,
};

const CODECS: [Codec; 2] = [Codec::None, Codec::Zstd];
const ROW_LEN: usize = N_HEAD * D_HEAD;

fn z_spec(codec: Codec) -> ArraySpec {
    let inner = [N_HEAD, D_HEAD];
    let spec = ArraySpec::for_site(Site::Z, Dtype::I8, N_LAYER, &[0, 2], &inner, SHARD_ROWS, codec);
    ArraySpec { chunk_rows: CHUNK_ROWS, ..spec.unwrap() }
}

/// A store of one array of codes whose layers hold the same rows, `[row, ROW_LEN]`, written in pieces.
fn store_of(spec: &ArraySpec, rows: &[f32], piece: usize) -> tempfile::TempDir {
    let folder = root();
    let writer = Writer::create(folder.path(), vec![spec.clone()], OPTIONS).unwrap();
    let n_row = rows.len() / spec.row_len();
    // From the last piece to the first: rows come in any order.
    for start in (0..n_row).step_by(piece).rev() {
        let run = Run { src_row: start, dst_row: start, n: piece.min(n_row - start) };
        for layer in layers(spec) {
            writer.write(0, layer, Source::F32(rows), spec.row_len(), &[run]).unwrap();
        }
    }
    writer.commit(request(n_row, true)).unwrap();
    folder
}

/// The definition: what each value decodes to, and the scale of its column in its chunk.
fn naive(rows: &[f32], row_len: usize) -> Vec<(f32, f32)> {
    let column = |chunk: &[f32], at: usize| -> f32 {
        let values = chunk.iter().skip(at % row_len).step_by(row_len);
        let largest = values.filter(|x| x.is_finite()).fold(0.0_f32, |m, x| m.max(x.abs()));
        largest / 127.0
    };
    let chunks = rows.chunks(CHUNK_ROWS * row_len);
    let decoded = chunks.flat_map(|chunk| {
        chunk.iter().enumerate().map(move |(at, x)| {
            let scale = column(chunk, at);
            let code = if scale == 0.0 { 0.0 } else { (x / scale).round_ties_even() };
            (if x.is_finite() { code * scale } else { f32::NAN }, scale)
        })
    });
    decoded.collect()
}

fn same(left: f32, right: f32) -> bool {
    left == right || (left.is_nan() && right.is_nan())
}

/// Rows of columns of every kind: usual, all zero, constant, a thousand times larger, sometimes not finite.
fn some_rows() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![20 => -3.0_f32..3.0, 1 => Just(f32::NAN), 1 => Just(f32::INFINITY)];
    (1_usize..40).prop_flat_map(move |n_row| {
        prop::collection::vec(value.clone(), n_row * ROW_LEN).prop_map(|mut rows| {
            for row in rows.chunks_exact_mut(ROW_LEN) {
                (row[0], row[1]) = (0.0, 7.5);
                row[2] *= 1000.0;
                row[3] = f32::NAN;
            }
            rows
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn values_come_back_as_defined(
        rows in some_rows(),
        piece in 1_usize..9,
        zstd in any::<bool>(),
        wanted in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
    ) {
        let spec = z_spec(CODECS[usize::from(zstd)]);
        let folder = store_of(&spec, &rows, piece);
        prop_assert_eq!(verify(folder.path()).unwrap().problems, vec![]);
        let store = Store::open(folder.path()).unwrap();
        let z = store.site("z").unwrap();
        let expected = naive(&rows, ROW_LEN);
        let mut all = vec![0.0; rows.len()];
        z.read(Rows::All, &[2], None, &mut all).unwrap();
        for ((x, found), (decoded, scale)) in rows.iter().zip(&all).zip(&expected) {
            prop_assert!(same(*found, *decoded), "{x}: {found}, not {decoded}");
            prop_assert!(!x.is_finite() || (x - found).abs() <= scale * 0.500_01);
        }
        // Rows in any order, layers across, heads picked.
        let n_row = rows.len() / ROW_LEN;
        let picked: Vec<u64> = wanted.iter().map(|index| index.index(n_row) as u64).collect();
        let heads = [4, 0, 1];
        let mut out = vec![0.0; picked.len() * 2 * heads.len() * D_HEAD];
        let mut values = out.clone();
        z.read(Rows::Index(&picked), &[2, 0], Some(&heads), &mut out).unwrap();
        let cells = values.chunks_exact_mut(D_HEAD);
        let heads = picked.iter().flat_map(|row| [*row; 2]).flat_map(|r| heads.map(|h| (r, h)));
        for (cell, (row, head)) in cells.zip(heads) {
            let first = usize::try_from(row).unwrap() * ROW_LEN + head * D_HEAD;
            cell.copy_from_slice(&all[first..first + D_HEAD]);
        }
        prop_assert!(out.iter().zip(&values).all(|(a, b)| same(*a, *b)));
    }

    #[test]
    fn the_stated_error_is_the_measured_one(rows in some_rows(), piece in 1_usize..9) {
        let spec = z_spec(Codec::None);
        let folder = store_of(&spec, &rows, piece);
        let store = Store::open(folder.path()).unwrap();
        let z = store.site("z").unwrap();
        let mut found = vec![0.0; rows.len()];
        z.read(Rows::All, &[0], None, &mut found).unwrap();
        let pairs = || rows.iter().zip(&found).filter(|(x, _)| x.is_finite());
        let errors = || pairs().map(|(x, y)| f64::from((x - y).abs()));
        let sum = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
        let (of_errors, of_values) =
            (sum(&mut errors()), sum(&mut pairs().map(|(x, _)| f64::from(*x))));
        prop_assert_eq!(z.errors().len(), 2);
        let stated = z.errors()[0];
        let relative = (of_errors / of_values).sqrt();
        prop_assert!((stated.relative_rms - relative).abs() <= 1e-9 * relative);
        let most = errors().fold(0.0, f64::max);
        prop_assert!((stated.max - most).abs() <= 1e-12 * most);
        // And by column in the statistics.
        let kept = store.statistics("z").unwrap().unwrap();
        let statistics = kept.read(0..kept.n_chunk(), 0).unwrap();
        prop_assert_eq!(kept.n_statistic(), 7);
        for (chunk, stated) in statistics.chunks_exact(7 * ROW_LEN).enumerate() {
            let first = chunk * CHUNK_ROWS * ROW_LEN;
            for column in 0..ROW_LEN {
                let places = || (first + column..rows.len().min(first + CHUNK_ROWS * ROW_LEN))
                    .step_by(ROW_LEN).filter(|at| rows[*at].is_finite());
                let most = places().map(|at| (rows[at] - found[at]).abs()).fold(0.0, f32::max);
                let m2 = sum(&mut places().map(|at| f64::from(rows[at] - found[at])));
                prop_assert_eq!(stated[5 * ROW_LEN + column], most);
                let stated_m2 = f64::from(stated[6 * ROW_LEN + column]);
                prop_assert!((stated_m2 - m2).abs() <= 1e-6 * m2);
                let least = places().map(|at| found[at]).fold(f32::NAN, f32::min);
                prop_assert!(same(stated[column], least), "min of decoded values");
            }
        }
    }
}

#[test]
fn a_tail_that_was_published_goes_on() {
    for codec in CODECS {
        let rows: Vec<f32> = (0..37 * ROW_LEN).map(|i| (i * 7919 % 1009) as f32 - 500.0).collect();
        let spec = z_spec(codec);
        let folder = root();
        let writer = Writer::create(folder.path(), vec![spec.clone()], OPTIONS).unwrap();
        for (start, end) in [(0, 6), (6, 18), (18, 37)] {
            let run = Run { src_row: start, dst_row: start, n: end - start };
            for layer in [0, 2] {
                writer.write(0, layer, Source::F32(&rows), ROW_LEN, &[run]).unwrap();
            }
            writer.commit(request(end, end == 37)).unwrap();
        }
        store_support::assert_same_tree(folder.path(), store_of(&spec, &rows, 5).path());
    }
}

#[test]
fn a_row_costs_its_codes_and_the_scales_once() {
    let rows: Vec<f32> = (0..37 * ROW_LEN).map(|i| i as f32).collect();
    let folder = store_of(&z_spec(Codec::None), &rows, 37);
    let store = Store::open(folder.path()).unwrap();
    let z = store.site("z").unwrap();
    let n_chunk = SHARD_ROWS / CHUNK_ROWS;
    let once = n_chunk * 16 + 4 + n_chunk * 7 * ROW_LEN * 4 + 4;
    let mut out = vec![0.0_f32; ROW_LEN];
    z.read(Rows::Index(&[17]), &[2], None, &mut out).unwrap();
    assert_eq!(store.counters().bytes_read(), (once + ROW_LEN) as u64);
    z.read(Rows::Index(&[22]), &[2], None, &mut out).unwrap();
    z.read(Rows::Index(&[22]), &[2], Some(&[1]), &mut out[..D_HEAD]).unwrap();
    assert_eq!(store.counters().bytes_read(), (once + 2 * ROW_LEN + D_HEAD) as u64);
}

#[test]
fn a_scale_for_each_column_keeps_small_columns_beside_large_ones() {
    // As in the residual stream of a language model: two columns are 500 times larger than the others.
    let (d, n_row) = (64, SHARD_ROWS);
    let wave = |i: usize| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) * 2.0;
    let mut rows: Vec<f32> = (0..n_row * d).map(wave).collect();
    for row in rows.chunks_exact_mut(d) {
        row[5] *= 500.0;
        row[40] *= 500.0;
    }
    let spec =
        ArraySpec::for_site(Site::Embed, Dtype::I8, 1, &[], &[d], SHARD_ROWS, Codec::None).unwrap();
    let folder = store_of(&spec, &rows, n_row);
    let store = Store::open(folder.path()).unwrap();
    let mut by_column = vec![0.0; rows.len()];
    store.site("embed").unwrap().read_block_f32(0..n_row, 0, &mut by_column).unwrap();
    let by_row: Vec<f32> = rows
        .chunks_exact(d)
        .flat_map(|row| {
            let scale = row.iter().fold(0.0_f32, |m, x| m.max(x.abs())) / 127.0;
            row.iter().map(move |x| (x / scale).round() * scale)
        })
        .collect();
    // Over the usual columns alone, which both have to keep.
    let relative = |found: &[f32]| {
        let usual = rows.iter().zip(found).enumerate().filter(|(i, _)| ![5, 40].contains(&(i % d)));
        let (errors, values) = usual.fold((0.0, 0.0), |(e, v), (_, (x, y))| {
            (e + f64::from(x - y).powi(2), v + f64::from(*x).powi(2))
        });
        (errors / values).sqrt()
    };
    let (by_column, by_row) = (relative(&by_column), relative(&by_row));
    assert!(by_column < 0.006 && by_row > 0.5, "{by_column} by column, {by_row} by row");
}

#[test]
fn what_cannot_be_is_refused() {
    let rows = vec![1.0_f32; 5 * ROW_LEN];
    let folder = store_of(&z_spec(Codec::None), &rows, 5);
    let store = Store::open(folder.path()).unwrap();
    let z = store.site("z").unwrap();
    let raw = z.read(Rows::All, &[0], None, &mut vec![0_u16; 5 * ROW_LEN]).unwrap_err();
    assert!(matches!(raw, Error::Dtype { stored: "int8", .. }), "{raw}");
    let before = tree_of(folder.path());
    let opened = Writer::open(folder.path(), OPTIONS).unwrap_err();
    let grown = ArraySpec::for_site(Site::Embed, Dtype::F32, 1, &[], &[3], 16, Codec::None);
    let grown = Writer::grow(folder.path(), vec![grown.unwrap()], serde_json::Value::Null, OPTIONS);
    for error in [opened, grown.unwrap_err()] {
        assert!(matches!(error, Error::LossyStore { .. }), "{error}");
        assert!(error.to_string().contains("export that again"), "{error}");
    }
    assert_eq!(tree_of(folder.path()), before);
    let pattern = ArraySpec::for_site(Site::Pattern, Dtype::I8, 1, &[0], &[2, 3], 16, Codec::None);
    assert!(pattern.unwrap_err().to_string().contains("scales"));
}

fn tree_of(store: &Path) -> usize {
    fs::read_dir(store).unwrap().count()
}

#[test]
fn statistics_that_are_gone_or_altered_are_damage() {
    let rows: Vec<f32> = (0..20 * ROW_LEN).map(|i| i as f32).collect();
    let key = "statistics/z/c/1/2/0/0";
    let good = store_of(&z_spec(Codec::None), &rows, 20);
    let bytes = fs::read(good.path().join(key)).unwrap();
    let read = |folder: &Path| {
        let store = Store::open(folder).unwrap();
        let z = store.site("z").unwrap();
        z.read(Rows::Index(&[17]), &[2], None, &mut [0.0_f32; ROW_LEN])
    };
    assert!(read(good.path()).is_ok());
    // A scale that is another, with a checksum that holds: its chunk's statistics do not fit any more.
    let mut scaled = bytes[..bytes.len() - 4].to_vec();
    scaled[4 * ROW_LEN * 4..][..4].copy_from_slice(&5.0_f32.to_le_bytes());
    scaled.extend(crc32c::crc32c(&scaled).to_le_bytes());
    let mut flipped = bytes.clone();
    flipped[4 * ROW_LEN * 4] ^= 1;
    let cases: [(Option<&[u8]>, bool, &str); 4] = [
        (None, false, "z"),
        (Some(&flipped), false, "checksum"),
        (Some(&bytes[..bytes.len() - 8]), false, "long"),
        (Some(&scaled), true, "differs"),
    ];
    for (altered, is_read, what) in cases {
        match altered {
            Some(altered) => fs::write(good.path().join(key), altered).unwrap(),
            None => fs::remove_file(good.path().join(key)).unwrap(),
        }
        assert_eq!(read(good.path()).is_ok(), is_read, "{what}");
        let problems = verify(good.path()).unwrap().problems;
        assert!(!problems.is_empty() && problems[0].file == key, "{what}: {problems:?}");
        fs::write(good.path().join(key), &bytes).unwrap();
    }
    assert!(verify(good.path()).unwrap().problems.is_empty());
}
