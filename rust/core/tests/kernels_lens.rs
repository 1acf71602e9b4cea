//! `kernels::lens` against logits formed in full.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]
#![allow(clippy::float_cmp, reason = "these values are promised exactly")]

mod kernels_common;

use kernels_common::{assert_close, cases, naive_matmul, transpose, uniform, with_threads};
use proptest::prelude::*;
use residuum_core::kernels::lens::{
    Gradient, Judgement, LensStats, NO_TOKEN, Teacher, Unembed, lens, lens_gradients, lens_judge,
    lens_layers,
};
use residuum_core::kernels::matmul::MatRef;

/// The definitions, over logits `[row, d_vocab]` in f64.
struct Naive {
    logits: Vec<Vec<f64>>,
}

impl Naive {
    fn new(
        x: &[f32],
        w_u: &[f32],
        d: usize,
        vocab: usize,
        finish: impl Fn(usize, f64) -> f64,
    ) -> Self {
        let rows = x.len() / d;
        let flat = naive_matmul(x, w_u, rows, d, vocab);
        let finish = |row: &[f64]| row.iter().enumerate().map(|(i, &v)| finish(i, v)).collect();
        Self { logits: flat.chunks(vocab).map(finish).collect() }
    }

    fn log_softmax(row: &[f64]) -> Vec<f64> {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        row.iter().map(|x| x - lse).collect()
    }

    fn lse(&self) -> Vec<f64> {
        self.logits.iter().map(|row| row[0] - Self::log_softmax(row)[0]).collect()
    }

    fn entropy(&self) -> Vec<f64> {
        let term = |logp: &f64| -logp.exp() * logp;
        self.logits.iter().map(|row| Self::log_softmax(row).iter().map(term).sum()).collect()
    }

    fn kl_from(&self, reference: &Self) -> Vec<f64> {
        let kl = |(row, reference): (&Vec<f64>, &Vec<f64>)| {
            let (q, p) = (Self::log_softmax(row), Self::log_softmax(reference));
            p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum()
        };
        self.logits.iter().zip(&reference.logits).map(kl).collect()
    }
}

/// Checks everything that does not hinge on near-ties against the definition, and what does
/// against the logits that the kernel itself reports.
fn check(stats: &LensStats, naive: &Naive, targets: &[i32], tolerance: f64) {
    assert_close(&stats.lse, &naive.lse(), tolerance);
    assert_close(&stats.entropy, &naive.entropy(), 4.0 * tolerance);
    for (row, logits) in naive.logits.iter().enumerate() {
        let mut sorted = logits.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let at = row * stats.k..(row + 1) * stats.k;
        assert_close(&stats.top_logits[at.clone()], &sorted[..stats.k], tolerance);
        for (&id, &logit) in stats.top_ids[at.clone()].iter().zip(&stats.top_logits[at.clone()]) {
            assert_close(&[logit], &[logits[id as usize]], tolerance);
        }
        let mut ids = stats.top_ids[at.clone()].to_vec();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), stats.k, "a token twice in one list");
        check_target(stats, row, logits, targets[row], tolerance);
    }
}

fn check_target(stats: &LensStats, row: usize, logits: &[f64], target: i32, tolerance: f64) {
    let Ok(target) = usize::try_from(target) else {
        assert!(stats.target_logit[row].is_nan() && stats.target_logprob[row].is_nan());
        assert_eq!(stats.target_rank[row], NO_TOKEN);
        return;
    };
    let logp = Naive::log_softmax(logits)[target];
    assert_close(&stats.target_logit[row..=row], &[logits[target]], tolerance);
    assert_close(&stats.target_logprob[row..=row], &[logp], 2.0 * tolerance);
    let ahead = |margin: f64| logits.iter().filter(|&&x| x > logits[target] + margin).count();
    let rank = stats.target_rank[row] as usize;
    // Tokens closer than rounding may fall either way, but the target is never its own rival.
    assert!(ahead(2.0 * tolerance) <= rank && rank < ahead(-2.0 * tolerance), "rank {rank}");
    let place = stats.top_ids[row * stats.k..(row + 1) * stats.k].iter();
    let place = place.clone().position(|&id| id as usize == target);
    assert_eq!(place, (rank < stats.k).then_some(rank), "rank and top list disagree");
}

fn targets(seed: u64, rows: usize, vocab: usize) -> Vec<i32> {
    let pick = |value: f32| (f32::midpoint(value, 1.0) * (vocab as f32 + 1.0)) as i32 - 1;
    uniform(seed, rows).into_iter().map(|value| pick(value).min(vocab as i32 - 1)).collect()
}

/// Logits are sums of d products below 1: (d^2 / 2) eps bounds them, and every statistic moves by
/// at most as much as the logits (the entropy a few times that), plus rounding of the result.
fn tolerance(d: usize) -> f64 {
    f64::from(f32::EPSILON) * ((d * d) as f64 / 2.0 + 16.0)
}

proptest! {
    #![proptest_config(cases(40))]
    #[test]
    fn equals_full_logits(
        rows in 0_usize..12, d in 1_usize..24, vocab in 1_usize..1300, k in 0_usize..9, seed: u64,
    ) {
        let (x, w) = (uniform(seed, rows * d), uniform(seed ^ 1, d * vocab));
        let reference = uniform(seed ^ 3, rows * d);
        let targets = targets(seed ^ 2, rows, vocab);
        let naive = Naive::new(&x, &w, d, vocab, |_, logit| logit);
        let kl = naive.kl_from(&Naive::new(&reference, &w, d, vocab, |_, logit| logit));
        let w_t = transpose(&w, d, vocab);
        for w in [MatRef::new(&w, d, vocab).unwrap(), MatRef::transposed(&w_t, d, vocab).unwrap()] {
            let stats =
                lens(&x, Some(&reference), Some(&targets), Unembed::new(w), k).unwrap();
            prop_assert_eq!(stats.k, k.min(vocab));
            check(&stats, &naive, &targets, tolerance(d));
            assert_close(&stats.kl_to_reference, &kl, 4.0 * tolerance(d));
        }
    }
}

#[test]
fn crosses_row_blocks_and_tiles() {
    let (rows, d, vocab) = (300, 5, 1601);
    let (x, w) = (uniform(1, rows * d), uniform(2, d * vocab));
    let targets = targets(3, rows, vocab);
    let naive = Naive::new(&x, &w, d, vocab, |_, logit| logit);
    let unembed = Unembed::new(MatRef::new(&w, d, vocab).unwrap());
    check(&lens(&x, None, Some(&targets), unembed, 5).unwrap(), &naive, &targets, tolerance(d));
}

#[test]
fn bias_scale_and_cap_apply_in_that_order() {
    let (rows, d, vocab) = (7, 11, 700);
    let (x, w, bias) = (uniform(1, rows * d), uniform(2, d * vocab), uniform(3, vocab));
    let targets = targets(4, rows, vocab);
    let naive = Naive::new(&x, &w, d, vocab, |id, logit| {
        1.5 * ((logit + f64::from(bias[id])) * 3.0 / 1.5).tanh()
    });
    let unembed = Unembed {
        weight: MatRef::new(&w, d, vocab).unwrap(),
        bias: Some(&bias),
        logit_scale: 3.0,
        softcap: Some(1.5),
    };
    let stats = lens(&x, None, Some(&targets), unembed, 0).unwrap();
    // tanh is good to 3e-7 of the cap; the scale triples the error of the logits before it.
    let tolerance = 3.0 * tolerance(d) + 1e-6;
    assert_close(&stats.lse, &naive.lse(), tolerance);
    assert_close(&stats.entropy, &naive.entropy(), 4.0 * tolerance);
    assert!(stats.top_ids.is_empty());
}

#[test]
fn large_logits_do_not_overflow() {
    // exp(400) is beyond f32: only differences may be exponentiated.
    let (x, w) = (vec![400.0, -400.0], vec![1.0, 0.5, 0.0]);
    let unembed = Unembed::new(MatRef::new(&w, 1, 3).unwrap());
    let stats = lens(&x, Some(&[-400.0, 400.0]), Some(&[0, 2]), unembed, 3).unwrap();
    assert_eq!(stats.lse, [400.0, 0.0]);
    // The smallest share the kernel knows is 1e-38 a token.
    assert!(stats.entropy.iter().all(|&entropy| (0.0..1e-30).contains(&entropy)));
    assert_eq!(stats.top_ids, [0, 1, 2, 2, 1, 0]);
    assert_eq!(stats.target_rank, [0, 0]);
    // Each distribution is one token; the other gives that token e^-400.
    assert_eq!(stats.kl_to_reference, [400.0, 400.0]);
}

#[test]
fn equal_logits_rank_by_lower_id() {
    // Vocabulary of 1100, all logits equal except token 700, which is best.
    let mut w = vec![1.0; 1100];
    w[700] = 2.0;
    let unembed = Unembed::new(MatRef::new(&w, 1, 1100).unwrap());
    let stats = lens(&[1.0, 1.0, 1.0], None, Some(&[0, 700, 1099]), unembed, 3).unwrap();
    assert_eq!(stats.top_ids, [700, 0, 1].repeat(3));
    assert_eq!(stats.target_rank, [1, 0, 1099]);
}

#[test]
fn the_target_never_counts_itself() {
    // A wide product, where a target logit computed apart differs in its last bits.
    let (rows, d, vocab) = (64, 257, 999);
    let (x, w) = (uniform(1, rows * d), uniform(2, d * vocab));
    let unembed = Unembed::new(MatRef::new(&w, d, vocab).unwrap());
    let best = lens(&x, None, None, unembed, 1).unwrap();
    let targets: Vec<i32> = best.top_ids.iter().map(|&id| id as i32).collect();
    let stats = lens(&x, None, Some(&targets), unembed, 1).unwrap();
    assert_eq!(stats.target_rank, vec![0; rows]);
    assert_eq!(stats.target_logit, stats.top_logits);
    assert_eq!(stats.target_logprob, stats.top_logprobs);
}

#[test]
fn a_layer_that_is_the_reference_has_no_divergence() {
    let (rows, d, vocab) = (5, 9, 613);
    let (early, last, w) = (uniform(1, rows * d), uniform(2, rows * d), uniform(3, d * vocab));
    let unembed = Unembed::new(MatRef::new(&w, d, vocab).unwrap());
    let shared = lens_layers(&[&early, &last], Some(&last), None, unembed, 4).unwrap();
    let copy = last.clone();
    let apart = lens_layers(&[&early, &copy], Some(&last), None, unembed, 4).unwrap();
    assert_eq!(shared, apart);
    // Both log-sum-exps come from the same numbers; only the f64 sums may round apart.
    assert!(shared[1].kl_to_reference.iter().all(|&kl| kl < 1e-12));
    assert!(shared[0].kl_to_reference.iter().all(|&kl| kl > 1e-3));
    assert!(shared[0].target_rank.is_empty());
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let (rows, d, vocab) = (270, 6, 2100);
    let (x, last, w) = (uniform(1, rows * d), uniform(2, rows * d), uniform(3, d * vocab));
    let targets = targets(4, rows, vocab);
    let run = |threads| {
        let unembed = Unembed::new(MatRef::new(&w, d, vocab).unwrap());
        with_threads(threads, || lens(&x, Some(&last), Some(&targets), unembed, 5)).unwrap()
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn nan_rows_are_nan_and_alone() {
    let (d, vocab) = (3, 600);
    let mut x = uniform(1, 3 * d);
    let w = uniform(2, d * vocab);
    let unembed = Unembed::new(MatRef::new(&w, d, vocab).unwrap());
    let clean = lens(&x, Some(&x), Some(&[5, 5, 5]), unembed, 2).unwrap();
    x[d] = f32::NAN;
    let stats = lens(&x, Some(&x.clone()), Some(&[5, 5, 5]), unembed, 2).unwrap();
    assert!(stats.lse[1].is_nan() && stats.entropy[1].is_nan());
    assert!(stats.kl_to_reference[1].is_nan() && stats.target_logprob[1].is_nan());
    assert_eq!(stats.target_rank[1], NO_TOKEN);
    assert_eq!(stats.top_ids[2..4], [NO_TOKEN, NO_TOKEN]);
    assert!(stats.top_logits[2..4].iter().all(|logit| logit.is_nan()));
    for row in [0, 2] {
        assert_eq!(stats.lse[row].to_bits(), clean.lse[row].to_bits());
        assert_eq!(stats.target_rank[row], clean.target_rank[row]);
    }
}

#[test]
fn masked_tokens_have_no_share() {
    // A bias of -inf takes a token out of the vocabulary; the rest is a softmax of two.
    let (w, bias) = (vec![1.0, 2.0, 3.0], [0.0, f32::NEG_INFINITY, 0.0]);
    let unembed = Unembed { bias: Some(&bias), ..Unembed::new(MatRef::new(&w, 1, 3).unwrap()) };
    let stats = lens(&[1.0], Some(&[0.5]), Some(&[1]), unembed, 3).unwrap();
    let lse = (1.0_f64.exp() + 3.0_f64.exp()).ln();
    assert_close(&stats.lse, &[lse], 1e-6);
    let (p, q) = (1.0 / (1.0 + 2.0_f64.exp()), 1.0 / (1.0 + 1.0_f64.exp()));
    assert_close(&stats.entropy, &[-p * p.ln() - (1.0 - p) * (1.0 - p).ln()], 1e-6);
    let kl = q * (q / p).ln() + (1.0 - q) * ((1.0 - q) / (1.0 - p)).ln();
    assert_close(&stats.kl_to_reference, &[kl], 1e-6);
    assert_eq!(stats.top_ids, [2, 0, NO_TOKEN]);
    assert_eq!(stats.target_logprob, [f32::NEG_INFINITY]);
    assert_eq!(stats.target_rank, [2]);
}

#[test]
fn arguments_that_do_not_fit_are_named() {
    let w = vec![0.0; 12];
    let unembed = Unembed::new(MatRef::new(&w, 3, 4).unwrap());
    let error = lens(&[0.0; 6], None, Some(&[0, 4]), unembed, 1).unwrap_err().to_string();
    assert_eq!(error, "target token 4 is not in the vocabulary of 4 tokens");
    assert!(lens(&[0.0; 7], None, None, unembed, 1).is_err());
    assert!(lens(&[0.0; 6], Some(&[0.0; 3]), None, unembed, 1).is_err());
    assert!(lens(&[0.0; 6], None, Some(&[0]), unembed, 1).is_err());
    let short = Unembed { bias: Some(&[0.0]), ..unembed };
    assert!(lens(&[0.0; 6], None, None, short, 1).is_err());
}

/// Losses and gradients of one layer.
fn learnt(x: &[f32], teacher: Teacher<'_>, unembed: Unembed<'_>) -> (Vec<f32>, Vec<f32>) {
    let (mut loss, mut gradient) = (vec![0.0; x.len() / unembed.weight.rows()], vec![0.0; x.len()]);
    let out = Gradient { loss: &mut loss, gradient: &mut gradient };
    lens_gradients(&[x], teacher, unembed, &mut [out]).unwrap();
    (loss, gradient)
}

#[test]
fn gradients_are_those_of_the_definition() {
    // More than a block of rows, and a vocabulary that is no multiple of lanes or tiles.
    let (rows, d, vocab) = (131, 7, 1043);
    let (x, last, w) = (uniform(1, rows * d), uniform(2, rows * d), uniform(3, d * vocab));
    let bias = uniform(4, vocab);
    let mut targets = targets(5, rows, vocab);
    targets[3] = -1;
    for (scale, cap) in [(1.0, None), (0.5, Some(2.0))] {
        let weight = MatRef::new(&w, d, vocab).unwrap();
        let unembed = Unembed { weight, bias: Some(&bias), logit_scale: scale, softcap: cap };
        let finish = |id: usize, v: f64| {
            let logit = (v + f64::from(bias[id])) * f64::from(scale);
            cap.map_or(logit, |cap| f64::from(cap) * (logit / f64::from(cap)).tanh())
        };
        let (naive, taught) =
            (Naive::new(&x, &w, d, vocab, finish), Naive::new(&last, &w, d, vocab, finish));
        let slope = |row: usize, id: usize| {
            let slope = |cap: f32| 1.0 - (naive.logits[row][id] / f64::from(cap)).powi(2);
            cap.map_or(1.0, slope) * f64::from(scale)
        };
        // By the weights `p` of the loss `-sum p ln q`, which sum to 1 or to 0.
        let expected = |row: usize, p: &[f64]| -> Vec<f64> {
            let (q, sum) = (Naive::log_softmax(&naive.logits[row]), p.iter().sum::<f64>());
            let differs: Vec<f64> =
                (0..vocab).map(|id| (q[id].exp() * sum - p[id]) * slope(row, id)).collect();
            let along = |i: usize| {
                let w = &w[i * vocab..(i + 1) * vocab];
                differs.iter().zip(w).map(|(g, &w)| g * f64::from(w)).sum()
            };
            (0..d).map(along).collect()
        };
        let (loss, gradient) = learnt(&x, Teacher::Rows(&last), unembed);
        assert_close(&loss, &naive.kl_from(&taught), 1e-5);
        for row in 0..rows {
            let p: Vec<f64> =
                Naive::log_softmax(&taught.logits[row]).into_iter().map(f64::exp).collect();
            assert_close(&gradient[row * d..(row + 1) * d], &expected(row, &p), 1e-5);
        }
        let (loss, gradient) = learnt(&x, Teacher::Tokens(&targets), unembed);
        for (row, &target) in targets.iter().enumerate() {
            let mut p = vec![0.0; vocab];
            let mut surprise = 0.0;
            if target >= 0 {
                p[target as usize] = 1.0;
                surprise = -Naive::log_softmax(&naive.logits[row])[target as usize];
            }
            assert_close(&loss[row..=row], &[surprise], 1e-5);
            assert_close(&gradient[row * d..(row + 1) * d], &expected(row, &p), 1e-5);
        }
    }
}

#[test]
fn gradients_do_not_depend_on_threads_or_on_other_rows() {
    let (rows, d, vocab) = (300, 5, 700);
    let (mut x, last, w) = (uniform(1, rows * d), uniform(2, rows * d), uniform(3, d * vocab));
    let unembed = Unembed::new(MatRef::new(&w, d, vocab).unwrap());
    let run =
        |x: &[f32], threads| with_threads(threads, || learnt(x, Teacher::Rows(&last), unembed));
    let clean = run(&x, 1);
    assert_eq!(clean, run(&x, 3));
    x[d] = f32::NAN;
    let (loss, gradient) = run(&x, 2);
    assert!(loss[1].is_nan() && gradient[d..2 * d].iter().all(|value| value.is_nan()));
    assert_eq!((&loss[2..], &gradient[2 * d..]), (&clean.0[2..], &clean.1[2 * d..]));
}

#[test]
fn a_masked_token_has_no_part_in_a_gradient() {
    let (w, bias) = (vec![1.0, 2.0, 3.0], [0.0, f32::NEG_INFINITY, 0.0]);
    let unembed = Unembed { bias: Some(&bias), ..Unembed::new(MatRef::new(&w, 1, 3).unwrap()) };
    let (loss, gradient) = learnt(&[1.0], Teacher::Rows(&[0.5]), unembed);
    let (q, p) = (1.0 / (1.0 + 2.0_f64.exp()), 1.0 / (1.0 + 1.0_f64.exp()));
    let kl = p * (p / q).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - q)).ln();
    assert_close(&loss, &[kl], 1e-6);
    assert_close(&gradient, &[(q - p) + 3.0 * (p - q)], 1e-6);
}

#[test]
fn gradients_refuse_what_does_not_fit() {
    let w = vec![0.0; 12];
    let unembed = Unembed::new(MatRef::new(&w, 3, 4).unwrap());
    let (mut loss, mut gradient) = (vec![0.0; 2], vec![0.0; 6]);
    let mut refused = |x: &[f32], teacher: Teacher<'_>, losses: usize| {
        let out = Gradient { loss: &mut loss[..losses], gradient: &mut gradient };
        lens_gradients(&[x], teacher, unembed, &mut [out]).is_err()
    };
    assert!(!refused(&[0.0; 6], Teacher::Rows(&[0.0; 6]), 2));
    assert!(refused(&[0.0; 6], Teacher::Rows(&[0.0; 3]), 2));
    assert!(refused(&[0.0; 6], Teacher::Tokens(&[0, 4]), 2));
    assert!(refused(&[0.0; 6], Teacher::Tokens(&[0]), 2));
    assert!(refused(&[0.0; 6], Teacher::Rows(&[0.0; 6]), 1));
    assert!(lens_gradients(&[&[0.0; 6]], Teacher::Tokens(&[0, 1]), unembed, &mut []).is_err());
}

/// What `lens_judge` says of one layer.
#[derive(Debug, Clone, PartialEq)]
struct Judged {
    kl: Vec<f32>,
    entropy: Vec<f32>,
    top: Vec<u32>,
    target_logprob: Vec<f32>,
    marginal: Vec<f64>,
}

fn judged(
    layers: &[&[f32]],
    reference: &[f32],
    targets: Option<&[i32]>,
    unembed: Unembed<'_>,
) -> Vec<Judged> {
    let (rows, vocab) = (reference.len() / unembed.weight.rows(), unembed.weight.cols());
    let mut found = vec![
        Judged {
            kl: vec![0.0; rows],
            entropy: vec![0.0; rows],
            top: vec![0; rows],
            target_logprob: vec![0.0; rows],
            marginal: vec![0.0; vocab],
        };
        layers.len()
    ];
    let mut out: Vec<Judgement<'_>> = found
        .iter_mut()
        .map(|of| Judgement {
            kl: &mut of.kl,
            entropy: &mut of.entropy,
            top: &mut of.top,
            target_logprob: &mut of.target_logprob,
            marginal: &mut of.marginal,
        })
        .collect();
    lens_judge(layers, reference, targets, unembed, &mut out).unwrap();
    found
}

#[test]
fn a_judgement_is_that_of_the_statistics_and_sums_softmaxes() {
    // More than a block of rows, and a vocabulary that is no multiple of lanes or tiles.
    let (rows, d, vocab) = (150, 6, 1043);
    let (x, y, last) = (uniform(1, rows * d), uniform(5, rows * d), uniform(4, rows * d));
    let (w, bias) = (uniform(2, d * vocab), uniform(3, vocab));
    let mut targets = targets(6, rows, vocab);
    targets[7] = -1;
    let weight = MatRef::new(&w, d, vocab).unwrap();
    let unembed = Unembed { weight, bias: Some(&bias), logit_scale: 0.5, softcap: Some(3.0) };
    let layers: [&[f32]; 3] = [&x, &y, &last];
    let run = |threads| with_threads(threads, || judged(&layers, &last, Some(&targets), unembed));
    let found = run(1);
    // NaN is not equal to itself, but reads the same.
    assert!(format!("{found:?}") == format!("{:?}", run(3)), "it depends on threads");
    let want = lens_layers(&layers, Some(&last), Some(&targets), unembed, 1).unwrap();
    let wide = |values: &[f32]| -> Vec<f64> { values.iter().map(|&v| f64::from(v)).collect() };
    let finish = |id: usize, v: f64| 3.0 * ((v + f64::from(bias[id])) * 0.5 / 3.0).tanh();
    for (x, (got, want)) in layers.iter().zip(found.iter().zip(&want)) {
        assert_close(&got.kl, &wide(&want.kl_to_reference), 1e-5);
        assert_close(&got.entropy, &wide(&want.entropy), 1e-5);
        assert_eq!(got.top, want.top_ids);
        assert!(got.target_logprob[7].is_nan() && want.target_logprob[7].is_nan());
        assert_close(&got.target_logprob[8..], &wide(&want.target_logprob[8..]), 1e-5);
        let mut expected = vec![0.0; vocab];
        for row in &Naive::new(x, &w, d, vocab, finish).logits {
            let q = Naive::log_softmax(row);
            expected.iter_mut().zip(q).for_each(|(sum, q)| *sum += q.exp());
        }
        let narrow: Vec<f32> = got.marginal.iter().map(|&sum| sum as f32).collect();
        assert_close(&narrow, &expected, 1e-5);
    }
    assert!(found[2].kl.iter().all(|&kl| (0.0..1e-6).contains(&kl)));
}

#[test]
fn a_judgement_of_nan_is_nan_and_other_rows_are_as_they_were() {
    let (rows, d, vocab) = (70, 3, 40);
    let (mut x, last, w) = (uniform(1, rows * d), uniform(2, rows * d), uniform(3, d * vocab));
    let unembed = Unembed::new(MatRef::new(&w, d, vocab).unwrap());
    let clean = judged(&[&x], &last, None, unembed).remove(0);
    assert!(clean.target_logprob.iter().all(|value| value.is_nan()));
    x[d] = f32::NAN;
    let found = judged(&[&x], &last, None, unembed).remove(0);
    assert!(found.kl[1].is_nan() && found.entropy[1].is_nan());
    assert_eq!(found.top[1], NO_TOKEN);
    assert!(found.marginal.iter().all(|sum| sum.is_nan()));
    assert_eq!((&found.kl[2..], &found.top[2..]), (&clean.kl[2..], &clean.top[2..]));
}

#[test]
fn a_judgement_refuses_what_does_not_fit() {
    let w = vec![0.0; 12];
    let unembed = Unembed::new(MatRef::new(&w, 3, 4).unwrap());
    let refused = |reference: &[f32], targets: Option<&[i32]>, rows: usize, vocab: usize| {
        let (mut kl, mut entropy) = (vec![0.0; rows], vec![0.0; 2]);
        let (mut top, mut target_logprob) = (vec![0; 2], vec![0.0; 2]);
        let mut marginal = vec![0.0; vocab];
        let out = Judgement {
            kl: &mut kl,
            entropy: &mut entropy,
            top: &mut top,
            target_logprob: &mut target_logprob,
            marginal: &mut marginal,
        };
        lens_judge(&[&[0.0; 6]], reference, targets, unembed, &mut [out]).is_err()
    };
    assert!(!refused(&[0.0; 6], Some(&[0, -1]), 2, 4));
    assert!(refused(&[0.0; 3], None, 2, 4));
    assert!(refused(&[0.0; 6], Some(&[0]), 2, 4));
    assert!(refused(&[0.0; 6], Some(&[0, 4]), 2, 4));
    assert!(refused(&[0.0; 6], None, 1, 4));
    assert!(refused(&[0.0; 6], None, 2, 3));
    assert!(lens_judge(&[&[0.0; 6]], &[0.0; 6], None, unembed, &mut []).is_err());
}
