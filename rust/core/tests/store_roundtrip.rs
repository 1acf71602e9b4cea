//! What is written comes back: every dtype, axis and selection, and exactly the bytes needed are read.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::float_cmp,
    reason = "a test fails by panicking; values are small whole numbers"
)]

mod store_support;

use residuum_core::{
    ArraySpec, Codec, Dtype, Error, RowCounts, Rows, Run, Site, Source, Store, Writer, verify,
};
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
    assert!(store.is_current().unwrap());
    write_all(&writer, 18..37);
    writer.commit(request(37, true)).unwrap();
    assert!(!store.is_current().unwrap());
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

#[test]
fn statistics_pass_over_what_is_not_finite() {
    let folder = root();
    let spec = arrays(Codec::None).swap_remove(3);
    let row_len = spec.row_len();
    let writer = Writer::create(folder.path(), vec![spec], OPTIONS).unwrap();
    // Two chunks: feature 0 is never finite in the first, feature 1 only from its second row on.
    let mut data: Vec<f32> = (0..8 * row_len).map(|i| i as f32).collect();
    for row in 0..4 {
        data[row * row_len] = [f32::NAN, f32::INFINITY][row % 2];
    }
    data[1] = f32::NEG_INFINITY;
    let runs = [Run { src_row: 0, dst_row: 0, n: 8 }];
    writer.write(0, 0, Source::F32(&data), row_len, &runs).unwrap();
    // No array of this store has example rows; they are counted all the same.
    let rows = RowCounts { token: 8, example: 2 };
    let commit = writer.commit(residuum_core::CommitRequest { rows, ..request(0, true) }).unwrap();
    assert_eq!(commit.physical_rows, rows);
    let store = Store::open(folder.path()).unwrap();
    let statistics = store.statistics("resid_final").unwrap().unwrap().read(0..2, 0).unwrap();
    let at = |chunk: usize, statistic: usize, feature: usize| {
        statistics[(chunk * 4 + statistic) * row_len + feature]
    };
    assert!((0..4).all(|statistic| at(0, statistic, 0).is_nan()));
    // Feature 1 holds 12, 23, 34 in the first chunk.
    assert_eq!((at(0, 0, 1), at(0, 1, 1), at(0, 2, 1), at(0, 3, 1)), (12.0, 34.0, 23.0, 242.0));
    // Feature 0 holds 44, 55, 66, 77 in the second.
    assert_eq!((at(1, 0, 0), at(1, 1, 0), at(1, 2, 0), at(1, 3, 0)), (44.0, 77.0, 60.5, 605.0));
    assert!(verify(folder.path()).unwrap().problems.is_empty());
}

#[test]
fn statistics_of_many_features_and_rows_are_those_of_a_plain_loop() {
    // More features than a tile, more rows than a block, neither a multiple.
    let (d, n_row) = (131, 37);
    let spec =
        ArraySpec::for_site(Site::ResidFinal, Dtype::F32, 1, &[], &[d], 64, Codec::None).unwrap();
    let folder = root();
    let writer = Writer::create(folder.path(), vec![spec], OPTIONS).unwrap();
    let data: Vec<f32> = (0..n_row * d).map(|i| ((i * 7919) % 1009) as f32 + 4096.0).collect();
    let runs = [Run { src_row: 0, dst_row: 0, n: n_row }];
    writer.write(0, 0, Source::F32(&data), d, &runs).unwrap();
    writer.commit(request(n_row, true)).unwrap();
    let store = Store::open(folder.path()).unwrap();
    let found = store.statistics("resid_final").unwrap().unwrap().read(0..1, 0).unwrap();
    for f in 0..d {
        let column: Vec<f64> = (0..n_row).map(|row| f64::from(data[row * d + f])).collect();
        let mean = column.iter().sum::<f64>() / n_row as f64;
        let m2: f64 = column.iter().map(|x| (x - mean).powi(2)).sum();
        let relative = |found: f32, expected: f64| (f64::from(found) - expected).abs() / expected;
        // Both sums are exact to 1e-12 here; what is left is the rounding to single precision.
        assert!(relative(found[2 * d + f], mean) < 1e-7 && relative(found[3 * d + f], m2) < 1e-7);
        assert_eq!(f64::from(found[f]), column.iter().copied().fold(f64::INFINITY, f64::min));
        assert_eq!(f64::from(found[d + f]), column.iter().copied().fold(0.0, f64::max));
    }
}

#[test]
fn every_source_converts_as_its_definition_says() {
    let values = [0.0, -0.0, 1.0, 1.0 / 3.0, -65504.0, 65520.0, 6e-8, 1e-30, f64::INFINITY, 3.0e38];
    let n = values.len();
    #[allow(clippy::cast_possible_truncation, reason = "rounding to single is the definition")]
    let single: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    let half_bits: Vec<u16> = single.iter().map(|&v| half::f16::from_f32(v).to_bits()).collect();
    let brain_bits: Vec<u16> = single.iter().map(|&v| half::bf16::from_f32(v).to_bits()).collect();
    let wide_half: Vec<f32> = half_bits.iter().map(|&b| half::f16::from_bits(b).to_f32()).collect();
    let wide_brain: Vec<f32> =
        brain_bits.iter().map(|&b| half::bf16::from_bits(b).to_f32()).collect();
    let sources = [
        (Source::F32(&single), &single),
        (Source::F64(&values), &single),
        (Source::F16(&half_bits), &wide_half),
        (Source::Bf16(&brain_bits), &wide_brain),
    ];
    for (dtype, narrow) in [
        (Dtype::F32, (|v| v) as fn(f32) -> f32),
        (Dtype::F16, |v| half::f16::from_f32(v).to_f32()),
        (Dtype::Bf16, |v| half::bf16::from_f32(v).to_f32()),
    ] {
        for (source, wide) in &sources {
            let spec =
                ArraySpec::for_site(Site::ResidFinal, dtype, 1, &[], &[n], 4, Codec::None).unwrap();
            let folder = root();
            let writer = Writer::create(folder.path(), vec![spec], OPTIONS).unwrap();
            writer.write(0, 0, *source, n, &[Run { src_row: 0, dst_row: 0, n: 1 }]).unwrap();
            writer.commit(request(1, true)).unwrap();
            let mut out = vec![0.0_f32; n];
            let store = Store::open(folder.path()).unwrap();
            store.site("resid_final").unwrap().read_block_f32(0..1, 0, &mut out).unwrap();
            let expected: Vec<f32> = wide.iter().map(|&v| narrow(v)).collect();
            assert_eq!(out, expected, "{dtype:?} from {}", source.name());
        }
    }
    let spec = ArraySpec::for_target(4, Codec::None).unwrap();
    let folder = root();
    let writer = Writer::create(folder.path(), vec![spec], OPTIONS).unwrap();
    let refused =
        writer.write(0, 0, Source::F32(&[1.0]), 1, &[Run { src_row: 0, dst_row: 0, n: 1 }]);
    assert!(matches!(refused, Err(Error::Dtype { .. })));
}
