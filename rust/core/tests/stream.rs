//! `stream` over a small store against the kernels on whole arrays: the cut into blocks may change
//! nothing beyond rounding.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]

mod kernels_common;

use std::{collections::HashMap, fs, path::Path};

use kernels_common::{assert_close, uniform};
use residuum_core::kernels::{
    attribution::{attribution, fold, readout as through_heads},
    kmeans::{KmeansOptions, kmeans},
    knn::{Metric, knn},
    lens::{Unembed, lens_layers},
    matmul::MatRef,
    norm::{Norm, NormKind},
};
use residuum_core::{
    ArraySpec, Codec, CommitRequest, Dtype, RowCounts, Run, Site, Source, Store, Writer,
    WriterOptions, stream,
};

const N_ROW: usize = 37;
const N_LAYER: usize = 3;
const N_HEAD: usize = 5;
const D_HEAD: usize = 7;
const D_MODEL: usize = 11;
const D_VOCAB: usize = 23;

/// What the store was made of.
struct Made {
    folder: tempfile::TempDir,
    /// `[layer][row, d_model]`, the last one also as `resid_final`.
    stream: Vec<Vec<f32>>,
    /// `[row, head, d_head]` of layer 2.
    z: Vec<f32>,
    targets: Vec<i32>,
    weights: HashMap<&'static str, (Vec<usize>, Vec<f32>)>,
    norm: Norm,
}

impl Made {
    /// `residual` is the site that holds layers 0 and 1: `resid_post` (0, 1) or `resid_pre` (1, 2).
    fn new(residual: Site) -> Self {
        let shift = usize::from(residual == Site::ResidPre);
        let weights = HashMap::from([
            ("W_U", (vec![D_MODEL, D_VOCAB], uniform(1, D_MODEL * D_VOCAB))),
            ("b_U", (vec![D_VOCAB], uniform(2, D_VOCAB))),
            ("W_O", {
                let shape = vec![N_LAYER, N_HEAD, D_HEAD, D_MODEL];
                (shape, uniform(3, N_LAYER * N_HEAD * D_HEAD * D_MODEL))
            }),
            ("ln_final.w", (vec![D_MODEL], uniform(4, D_MODEL))),
            ("ln_final.b", (vec![D_MODEL], uniform(5, D_MODEL))),
        ]);
        let made = Self {
            folder: tempfile::tempdir().unwrap(),
            stream: (0..N_LAYER).map(|l| uniform(10 + l as u64, N_ROW * D_MODEL)).collect(),
            z: uniform(20, N_ROW * N_HEAD * D_HEAD),
            targets: (0..N_ROW).map(|row| (row * 7 % D_VOCAB) as i32 - 1).collect(),
            norm: Norm {
                kind: NormKind::LayerNorm,
                eps: 1e-5,
                offset: 0.0,
                weight: Some(weights["ln_final.w"].1.clone()),
                bias: Some(weights["ln_final.b"].1.clone()),
            },
            weights,
        };
        made.write(residual, shift);
        made
    }

    fn write(&self, residual: Site, shift: usize) {
        let root = self.folder.path();
        let text = r#"{"zarr_format": 3, "node_type": "group", "attributes": {"residuum": {
            "format": 1, "model": {"n_layer": 3, "readout": {"norm": "layer_norm", "eps": 1e-5,
            "norm_offset": 0.0, "logit_scale": 0.5, "logit_softcap": null}}}}}"#;
        fs::write(root.join("zarr.json"), text).unwrap();
        self.write_weights(root);
        let site = |site, layers: &[usize], inner: &[usize]| {
            let spec =
                ArraySpec::for_site(site, Dtype::F32, N_LAYER, layers, inner, 16, Codec::None);
            let mut spec = spec.unwrap();
            spec.chunk_rows = 4;
            spec
        };
        let mut target = ArraySpec::for_target(16, Codec::None).unwrap();
        target.chunk_rows = 4;
        let arrays = vec![
            site(residual, &[shift, shift + 1], &[D_MODEL]),
            site(Site::ResidFinal, &[], &[D_MODEL]),
            site(Site::Z, &[2], &[N_HEAD, D_HEAD]),
            target,
        ];
        let options = WriterOptions { memory_bytes: 1 << 20, threads: 2 };
        let writer = Writer::create(root, arrays, options).unwrap();
        let runs = [Run { src_row: 0, dst_row: 0, n: N_ROW }];
        let write = |array, layer, source, len| writer.write(array, layer, source, len, &runs);
        write(0, shift, Source::F32(&self.stream[0]), D_MODEL).unwrap();
        write(0, shift + 1, Source::F32(&self.stream[1]), D_MODEL).unwrap();
        write(1, 0, Source::F32(&self.stream[2]), D_MODEL).unwrap();
        write(2, 2, Source::F32(&self.z), N_HEAD * D_HEAD).unwrap();
        write(3, 0, Source::I32(&self.targets), 1).unwrap();
        let request = CommitRequest {
            rows: RowCounts { token: N_ROW, example: 1 },
            n_example: 1,
            complete: true,
            publish_tail: true,
            ..CommitRequest::default()
        };
        writer.commit(request).unwrap();
    }

    fn write_weights(&self, root: &Path) {
        let bytes: HashMap<&str, Vec<u8>> = self
            .weights
            .iter()
            .map(|(&name, (_, data))| (name, data.iter().flat_map(|v| v.to_le_bytes()).collect()))
            .collect();
        let views = self.weights.iter().map(|(&name, (shape, _))| {
            let dtype = safetensors::Dtype::F32;
            (
                name,
                safetensors::tensor::TensorView::new(dtype, shape.clone(), &bytes[name]).unwrap(),
            )
        });
        let file = safetensors::serialize(views, None).unwrap();
        fs::create_dir_all(root.join("weights")).unwrap();
        fs::write(root.join("weights/readout.safetensors"), file).unwrap();
    }

    fn store(&self) -> Store {
        Store::open(self.folder.path()).unwrap()
    }

    fn normed(&self, layer: usize) -> Vec<f32> {
        let mut out = vec![0.0; N_ROW * D_MODEL];
        self.norm.apply(&self.stream[layer], D_MODEL, &mut out).unwrap();
        out
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Room for nine rows of the widest block that these tests read: two chunks of four.
const BUDGET: usize = 9 * 4 * D_MODEL * 5;

/// Sums of 11 terms of size up to a few, in another order.
const TOLERANCE: f64 = 1e-5;

#[test]
fn the_lens_equals_the_kernel_whatever_site_holds_the_stream() {
    for residual in [Site::ResidPost, Site::ResidPre] {
        let made = Made::new(residual);
        let normed: Vec<Vec<f32>> = (0..N_LAYER).map(|layer| made.normed(layer)).collect();
        let unembed = Unembed {
            weight: MatRef::new(&made.weights["W_U"].1, D_MODEL, D_VOCAB).unwrap(),
            bias: Some(&made.weights["b_U"].1),
            logit_scale: 0.5,
            softcap: None,
        };
        let layers: Vec<&[f32]> = normed.iter().map(Vec::as_slice).collect();
        let targets = Some(made.targets.as_slice());
        let expected = lens_layers(&layers, Some(&normed[2]), targets, unembed, 3).unwrap();
        let mut seen = 5;
        stream::lens(&made.store(), &[0, 1, 2], 5..N_ROW, 3, BUDGET, |block| {
            assert_eq!(block.rows.start, seen);
            assert!(block.rows.len() <= 9);
            seen = block.rows.end;
            for (found, expected) in block.layers.iter().zip(&expected) {
                let rows = block.rows.clone();
                assert_close(&found.lse, &wide(&expected.lse[rows.clone()]), TOLERANCE);
                assert_close(
                    &found.kl_to_reference,
                    &wide(&expected.kl_to_reference[rows.clone()]),
                    TOLERANCE,
                );
                assert_eq!(found.target_rank, expected.target_rank[rows.clone()]);
                assert_eq!(found.top_ids, expected.top_ids[rows.start * 3..rows.end * 3]);
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, N_ROW);
    }
}

#[test]
fn head_logits_equal_the_kernel() {
    let made = Made::new(Site::ResidPost);
    let tokens = [3, 0, 22];
    let w_u = &made.weights["W_U"].1;
    let directions: Vec<f32> =
        w_u.chunks(D_VOCAB).flat_map(|row| tokens.map(|token| row[token] * 0.5)).collect();
    let folded = fold(&made.norm, &directions, D_MODEL).unwrap();
    let w_o = &made.weights["W_O"].1[2 * N_HEAD * D_HEAD * D_MODEL..];
    let read = through_heads(w_o, &folded.directions, N_HEAD, D_HEAD, D_MODEL).unwrap();
    let scale = made.norm.scale(&made.stream[2], D_MODEL).unwrap();
    let mut expected = vec![0.0; N_ROW * N_HEAD * 3];
    attribution(&made.z, &read, Some(&scale), N_HEAD, D_HEAD, &mut expected).unwrap();
    let mut found = Vec::new();
    let budget = 9 * 4 * (N_HEAD * (D_HEAD + 3) + D_MODEL);
    stream::head_logits(&made.store(), 2, &tokens, 0..N_ROW, budget, |block| {
        assert_eq!(block.rows.start * N_HEAD * 3, found.len());
        found.extend(block.logits);
        Ok(())
    })
    .unwrap();
    assert_close(&found, &wide(&expected), TOLERANCE);
}

#[test]
fn nearest_rows_moments_and_clusters_stream() {
    let made = Made::new(Site::ResidPost);
    let store = made.store();
    let site = store.site("resid_post").unwrap();
    let x = &made.stream[1];
    let queries = &x[..2 * D_MODEL];
    let found = stream::knn(site, 1, queries, Metric::Cosine, 4, BUDGET).unwrap();
    assert_eq!(found, knn(x, queries, D_MODEL, Metric::Cosine, 4).unwrap());

    let moments = stream::moments(site, 1, 3..N_ROW, true, BUDGET).unwrap();
    assert_eq!(moments.count(), (N_ROW - 3) as u64);
    let n = (N_ROW - 3) as f64;
    let mean = x[3 * D_MODEL..].chunks(D_MODEL).map(|row| f64::from(row[2])).sum::<f64>() / n;
    assert!((moments.mean()[2] - mean).abs() < 1e-9);

    let options = KmeansOptions { k: 3, seed: 1, n_init: 2, max_iter: 30, tol: 0.0 };
    let (all, n_sample) = stream::cluster(site, 1, options, 1 << 20).unwrap();
    assert_eq!((all, n_sample), (kmeans(x, D_MODEL, options).unwrap(), N_ROW));
    let (sampled, n_sample) = stream::cluster(site, 1, options, BUDGET).unwrap();
    assert!(n_sample < N_ROW && sampled.labels.len() == N_ROW);
    let total: f64 = sampled.distance.iter().map(|&d| f64::from(d) * f64::from(d)).sum();
    assert!((sampled.inertia - total).abs() < 1e-4);
}

#[test]
fn moments_of_heads_are_those_of_scaled_rows() {
    let made = Made::new(Site::ResidPost);
    let store = made.store();
    let z = store.site("z").unwrap();
    // In no order, one of them twice.
    let rows = [5_u64, 36, 0, 12, 5, 30, 17, 8, 9, 21, 22];
    let scale: Vec<f32> = uniform(30, rows.len()).iter().map(|value| value + 1.5).collect();
    let n = rows.len() as f64;
    let of = |head: usize, feature: usize| -> Vec<f64> {
        let at = |row: u64| (row as usize * N_HEAD + head) * D_HEAD + feature;
        let scaled = rows.iter().zip(&scale).map(|(&row, scale)| made.z[at(row)] / scale);
        scaled.map(f64::from).collect()
    };
    // Room for one row, for a few that fill no chunk, for all.
    for budget in [8 * N_HEAD * D_HEAD, 3 * 8 * N_HEAD * D_HEAD, 1 << 20] {
        let moments = stream::head_moments(z, 2, &rows, &scale, budget).unwrap();
        assert_eq!(moments.len(), N_HEAD);
        for (head, moments) in moments.iter().enumerate() {
            assert_eq!(moments.count(), rows.len() as u64);
            let covariance = moments.covariance(0).unwrap();
            for i in 0..D_HEAD {
                let (x, mean) = (of(head, i), of(head, i).iter().sum::<f64>() / n);
                assert!((moments.mean()[i] - mean).abs() < 1e-6);
                for j in 0..D_HEAD {
                    let (y, other) = (of(head, j), of(head, j).iter().sum::<f64>() / n);
                    let products = x.iter().zip(&y).map(|(x, y)| (x - mean) * (y - other));
                    // Products of one block are f32, of values below 2.
                    let off = covariance[i * D_HEAD + j] - products.sum::<f64>() / n;
                    assert!(off.abs() < 2e-6, "head {head}, {i} and {j}: {off}");
                }
            }
        }
    }
    assert_eq!(stream::head_moments(z, 2, &[], &[], BUDGET).unwrap()[4].count(), 0);
}

#[test]
fn moments_of_heads_say_what_is_missing() {
    let made = Made::new(Site::ResidPost);
    let store = made.store();
    let (z, resid) = (store.site("z").unwrap(), store.site("resid_post").unwrap());
    let says = |found: residuum_core::Result<Vec<_>>| {
        found.map(|_: Vec<residuum_core::kernels::moments::Moments>| ()).unwrap_err().to_string()
    };
    let rows = [0_u64, 1];
    let no_heads = says(stream::head_moments(resid, 0, &rows, &[1.0; 2], BUDGET));
    assert!(no_heads.contains("the rows of `resid_post` are not heads"), "{no_heads}");
    let lengths = says(stream::head_moments(z, 2, &rows, &[1.0; 3], BUDGET));
    assert!(lengths.contains("divisors of rows"), "{lengths}");
    let budget = says(stream::head_moments(z, 2, &rows, &[1.0; 2], 8 * N_HEAD * D_HEAD - 1));
    assert!(budget.contains("budget of 279 bytes"), "{budget}");
    assert!(stream::head_moments(z, 1, &rows, &[1.0; 2], BUDGET).is_err(), "layer 1 is not there");
    assert!(stream::head_moments(z, 2, &[N_ROW as u64], &[1.0], BUDGET).is_err());
}

#[test]
fn each_chunk_is_read_once() {
    let made = Made::new(Site::ResidPost);
    let store = made.store();
    let site = store.site("resid_post").unwrap();
    let mut rows = 0;
    stream::for_each_block(site, 0, 0..N_ROW, BUDGET, |first, block| {
        assert_eq!(first, rows);
        rows += block.len() / D_MODEL;
        Ok(())
    })
    .unwrap();
    assert_eq!(store.counters().chunks_decoded(), (N_ROW as u64).div_ceil(4));
}

#[test]
fn what_is_missing_is_named() {
    let made = Made::new(Site::ResidPre);
    let store = made.store();
    let ignore = |_| Ok(());
    let error = stream::lens(&store, &[7], 0..N_ROW, 1, BUDGET, ignore).unwrap_err().to_string();
    assert!(error.contains("layer 7") && error.contains("layer 8 of `resid_pre`"), "{error}");
    let error = stream::lens(&store, &[0], 0..N_ROW, 1, 8, ignore).unwrap_err().to_string();
    assert!(error.contains("budget of 8 bytes"), "{error}");
    assert!(stream::head_logits(&store, 2, &[D_VOCAB], 0..N_ROW, BUDGET, |_| Ok(())).is_err());
    assert!(stream::head_logits(&store, 1, &[0], 0..N_ROW, BUDGET, |_| Ok(())).is_err());
    fs::remove_file(made.folder.path().join("weights/readout.safetensors")).unwrap();
    assert!(stream::lens(&made.store(), &[0], 0..N_ROW, 1, BUDGET, ignore).is_err());
}
