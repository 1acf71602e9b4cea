//! What is written comes back: every dtype, axis and selection, and exactly the bytes needed are read.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::float_cmp,
    reason = "a test fails by panicking; values are small whole numbers"
)]

mod store_support;

use residuum_core::{Codec, Dtype, Error, RowCounts, Rows, Run, Source, Store, Writer, verify};
use store_support::{
    CHUNK_ROWS, D_HEAD, N_HEAD, N_ROW, OPTIONS, SHARD_ROWS, arrays, full_store, layers, request,
    root, row_values, write_all, write_rows,
};

const CODECS: [Codec; 2] = [Codec::None, Codec::Zstd];

#[test]
fn every_array_comes_back() {
    for codec in CODECS {
        let folder = full_store(codec, N_ROW);
        let store = Store::open(folder.path()).unwrap();
        assert!(verify(folder.path()).unwrap().problems.is_empty());
        for (number, spec) in arrays(codec).iter().enumerate() {
            let array = match spec.name() {
                "target" => store.target().unwrap(),
                name => store.site(name).unwrap(),
            };
            assert_eq!(array.shape(), spec.shape(N_ROW));
            for layer in layers(spec) {
                let expected: Vec<f32> =
                    (0..N_ROW).flat_map(|row| row_values(spec, number, layer, row)).collect();
                let asked: &[usize] = if spec.n_layer.is_some() { &[layer] } else { &[] };
                if spec.dtype == Dtype::I32 {
                    let mut out = vec![0; expected.len()];
                    array.read(Rows::All, asked, None, &mut out).unwrap();
                    let out: Vec<f32> = out.iter().map(|&x: &i32| x as f32).collect();
                    assert_eq!(out, expected);
                } else {
                    let mut out = vec![0.0; expected.len()];
                    array.read(Rows::All, asked, None, &mut out).unwrap();
                    assert_eq!(out, expected, "{} layer {layer}", spec.path);
                    out.fill(0.0);
                    array.read_block_f32(3..29, layer, &mut out[..26 * spec.row_len()]).unwrap();
                    assert_eq!(
                        out[..26 * spec.row_len()],
                        expected[3 * spec.row_len()..29 * spec.row_len()]
                    );
                }
            }
        }
    }
}

#[test]
fn selections_keep_the_order_asked() {
    for codec in CODECS {
        let folder = full_store(codec, N_ROW);
        let store = Store::open(folder.path()).unwrap();
        let z = store.site("z").unwrap();
        let (rows, layers, heads) = ([36, 0, 17, 17, 3, 2, 16], [2, 0], [4, 0, 1]);
        let mut out = vec![0.0_f32; rows.len() * layers.len() * heads.len() * D_HEAD];
        z.read(Rows::Index(&rows), &layers, Some(&heads), &mut out).unwrap();
        let mut expected: Vec<f32> = Vec::new();
        for row in rows {
            for layer in layers {
                let row = row_values(z.spec(), 0, layer, usize::try_from(row).unwrap());
                for head in heads {
                    expected.extend(&row[head * D_HEAD..(head + 1) * D_HEAD]);
                }
            }
        }
        assert_eq!(out, expected);
    }
}

#[test]
fn sixteen_bit_patterns_survive() {
    let folder = root();
    let mut specs = arrays(Codec::None);
    for spec in &mut specs {
        spec.shard_rows = 1024;
    }
    let writer = Writer::create(folder.path(), specs.clone(), OPTIONS).unwrap();
    // Every bit pattern once, NaN payloads and infinities included, in both 16-bit formats.
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    for array in [0, 1] {
        let row_len = specs[array].row_len();
        let n = bits.len() / row_len;
        let runs = [Run { src_row: 0, dst_row: 0, n }];
        let source = if array == 0 { Source::F16(&bits) } else { Source::Bf16(&bits) };
        for layer in [0, 2] {
            writer.write(array, layer, source, row_len, &runs).unwrap();
        }
    }
    let rows = bits.len() / specs[0].row_len();
    for array in [2, 3, 5] {
        for layer in layers(&specs[array]) {
            write_rows(&writer, array, layer, &(0..rows).collect::<Vec<_>>()).unwrap();
        }
    }
    let rows_token = RowCounts { token: rows, example: 0 };
    writer.commit(residuum_core::CommitRequest { rows: rows_token, ..request(0, true) }).unwrap();
    let store = Store::open(folder.path()).unwrap();
    for (array, name) in ["z", "resid_post"].iter().enumerate() {
        let row_len = specs[array].row_len();
        let mut out = vec![0_u16; rows * row_len];
        store.site(name).unwrap().read(Rows::All, &[2], None, &mut out).unwrap();
        assert_eq!(out, bits[..rows * row_len]);
    }
    let mut wide = vec![0.0_f32; rows * specs[0].row_len()];
    store.site("z").unwrap().read(Rows::All, &[2], None, &mut wide).unwrap();
    for (value, &raw) in wide.iter().zip(&bits) {
        let expected = half::f16::from_bits(raw).to_f32();
        assert!(*value == expected || (value.is_nan() && expected.is_nan()), "{raw:#x}");
    }
    assert!(verify(folder.path()).unwrap().problems.is_empty());
}

#[test]
fn counters_count_the_bytes_needed() {
    let folder = full_store(Codec::None, N_ROW);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.counters().bytes_read(), 0);
    let z = store.site("z").unwrap();
    let row_bytes = (N_HEAD * D_HEAD * 2) as u64;
    let index_bytes = (SHARD_ROWS / CHUNK_ROWS * 16 + 4) as u64;
    let mut out = vec![0.0_f32; N_HEAD * D_HEAD];
    z.read(Rows::Index(&[17]), &[2], None, &mut out).unwrap();
    assert_eq!(store.counters().bytes_read(), row_bytes + index_bytes);
    assert_eq!((store.counters().chunks_decoded(), store.counters().rows_read()), (1, 1));
    // The index is in memory now; a whole chunk is read with its checksum.
    let mut out = vec![0.0_f32; 4 * N_HEAD * D_HEAD];
    z.read(Rows::Range(20..24), &[2], None, &mut out).unwrap();
    assert_eq!(store.counters().bytes_read(), 5 * row_bytes + index_bytes + 4);
    assert_eq!((store.counters().chunks_decoded(), store.counters().rows_read()), (2, 5));
    // One head of one row.
    z.read(Rows::Index(&[17]), &[2], Some(&[3]), &mut out[..D_HEAD]).unwrap();
    assert_eq!(store.counters().bytes_read(), 5 * row_bytes + index_bytes + 4 + 2 * D_HEAD as u64);
}

#[test]
fn wrong_questions_are_named() {
    let folder = full_store(Codec::None, N_ROW);
    let store = Store::open(folder.path()).unwrap();
    let z = store.site("z").unwrap();
    let mut out = vec![0.0_f32; N_HEAD * D_HEAD];
    let text = |result: residuum_core::Result<()>| result.unwrap_err().to_string();
    let message = text(z.read(Rows::Index(&[0]), &[1], None, &mut out));
    assert_eq!(message, "layer 1 of `z` was not captured; the captured layers are 0, 2");
    let message = text(z.read(Rows::Index(&[37]), &[2], None, &mut out));
    assert!(message.contains("row 37") && message.contains("37"), "{message}");
    let message = text(z.read(Rows::Index(&[0]), &[2], Some(&[5]), &mut out));
    assert!(message.contains("head 5") && message.contains("length 5"), "{message}");
    assert!(text(z.read(Rows::All, &[2], None, &mut out)).contains("must be 1295"));
    let pooled = store.site("pooled").unwrap();
    assert!(matches!(
        pooled.read(Rows::Index(&[0]), &[0], None, &mut out[..3]),
        Err(Error::NoAxis { .. })
    ));
    assert!(matches!(
        pooled.read(Rows::Index(&[0]), &[], Some(&[0]), &mut out[..3]),
        Err(Error::NoAxis { .. })
    ));
    assert!(matches!(
        z.read(Rows::Index(&[0]), &[0], None, &mut [0_i32; 35]),
        Err(Error::Dtype { .. })
    ));
    let message = store.site("resid_pre").unwrap_err().to_string();
    assert!(message.contains("resid_pre") && message.contains("z, resid_post"), "{message}");
    let message = store.site("resid_postt").unwrap_err().to_string();
    assert!(message.contains("resid_postt") && message.contains("mlp_post"), "{message}");
}

#[test]
fn a_reader_sees_its_own_commit_and_knows_of_newer_ones() {
    let folder = root();
    let writer = Writer::create(folder.path(), arrays(Codec::Zstd), OPTIONS).unwrap();
    write_all(&writer, 0..18);
    writer.commit(request(18, false)).unwrap();
    let store = Store::open(folder.path()).unwrap();
    let z = store.site("z").unwrap();
    let mut before = vec![0.0_f32; 18 * 35];
    z.read(Rows::All, &[0], None, &mut before).unwrap();
    assert!(store.is_current());
    write_all(&writer, 18..37);
    writer.commit(request(37, true)).unwrap();
    assert!(!store.is_current());
    // The tail shard was replaced under the open store: the same rows come back.
    let mut after = vec![0.0_f32; 18 * 35];
    z.read(Rows::All, &[0], None, &mut after).unwrap();
    assert_eq!(before, after);
    assert_eq!(
        (z.n_row(), Store::open(folder.path()).unwrap().site("z").unwrap().n_row()),
        (18, 37)
    );
}

#[test]
fn statistics_are_those_of_the_rows() {
    for codec in CODECS {
        let folder = full_store(codec, N_ROW);
        let store = Store::open(folder.path()).unwrap();
        assert!(store.statistics("pattern").unwrap().is_none());
        let statistics = store.statistics("resid_post").unwrap().unwrap();
        assert_eq!((statistics.n_chunk(), statistics.chunk_rows()), (10, CHUNK_ROWS));
        let spec = store.site("resid_post").unwrap().spec().clone();
        let rows: Vec<Vec<f32>> = (0..N_ROW).map(|row| row_values(&spec, 1, 2, row)).collect();
        let moments = statistics.moments(2).unwrap();
        assert_eq!(moments.n_row, N_ROW);
        for f in 0..spec.row_len() {
            let column: Vec<f64> = rows.iter().map(|row| f64::from(row[f])).collect();
            let mean = column.iter().sum::<f64>() / N_ROW as f64;
            let m2: f64 = column.iter().map(|x| (x - mean).powi(2)).sum();
            assert!((moments.mean[f] - mean).abs() < 1e-5);
            assert!((moments.m2[f] - m2).abs() < 1e-6 * m2);
            let min = column.iter().copied().fold(f64::INFINITY, f64::min);
            assert_eq!(f64::from(moments.min[f]), min);
        }
        // The last chunk holds one row: it is its own minimum, maximum and mean.
        let last = statistics.read(9..10, 2).unwrap();
        assert_eq!(last[..spec.row_len()], rows[36][..]);
        assert!(last[3 * spec.row_len()..].iter().all(|m2| *m2 == 0.0));
    }
}

#[test]
fn nonfinite_values_are_counted() {
    let folder = root();
    let specs = arrays(Codec::None);
    let writer = Writer::create(folder.path(), specs, OPTIONS).unwrap();
    let mut data = vec![1.0_f32; 6 * 11];
    data[3] = f32::NAN;
    data[14] = f32::INFINITY;
    data[15] = f32::NEG_INFINITY;
    let runs = [Run { src_row: 0, dst_row: 0, n: 6 }];
    writer.write(1, 2, Source::F32(&data), 11, &runs).unwrap();
    // Too large for half precision: infinite once stored.
    writer
        .write(0, 0, Source::F64(&[1e6; 35]), 35, &[Run { src_row: 0, dst_row: 5, n: 1 }])
        .unwrap();
    writer.flush().unwrap();
    let found: Vec<_> =
        writer.nonfinite().into_iter().map(|n| (n.array, n.layer, n.nan, n.inf)).collect();
    assert_eq!(
        found,
        [
            ("activations/z".to_owned(), Some(0), 0, 35),
            ("activations/resid_post".to_owned(), Some(2), 1, 2)
        ]
    );
}
