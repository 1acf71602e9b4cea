//! `kernels::attention_roles` against sums over every query and key.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]
#![allow(clippy::float_cmp, reason = "these values are promised exactly")]

mod kernels_common;

use kernels_common::{cases, uniform, with_threads};
use proptest::prelude::*;
use residuum_core::kernels::attention_roles::{Attention, AttentionRoles, Role, attention_roles};

struct Example {
    pattern: Vec<f32>,
    positions: Vec<usize>,
    token_ids: Vec<i32>,
    marked: Vec<bool>,
}

impl Example {
    /// Random attention; every `step`-th position stored, few different tokens.
    fn new(seed: u64, n_token: usize, n_head: usize, n_key: usize, step: usize) -> Self {
        let positions: Vec<usize> = (0..n_token).step_by(step).collect();
        let raw = uniform(seed, positions.len() * n_head * n_key);
        let pattern = raw
            .chunks(n_key.max(1))
            .flat_map(|line| {
                let line: Vec<f32> = line.iter().map(|value| value.max(0.0)).collect();
                let sum = line[..n_token].iter().sum::<f32>().max(1e-6);
                line.into_iter().map(move |value| value / sum)
            })
            .collect();
        let token_ids = uniform(seed ^ 1, n_token).iter().map(|v| (v * 3.0) as i32).collect();
        let marked = uniform(seed ^ 2, n_token).iter().map(|&value| value > 0.0).collect();
        Self { pattern, positions, token_ids, marked }
    }

    fn attention(&self) -> Attention<'_> {
        Attention {
            pattern: &self.pattern,
            positions: &self.positions,
            token_ids: &self.token_ids,
            marked: Some(&self.marked),
        }
    }
}

/// Whether `key` has the role for a query at `position`.
fn has_role(role: Role, example: &Example, position: usize, key: usize) -> bool {
    let ids = &example.token_ids;
    match role {
        Role::PreviousToken => key + 1 == position,
        Role::FirstToken => key == 0,
        Role::CurrentToken => key == position,
        Role::DuplicateToken => key < position && ids[key] == ids[position],
        Role::Induction => key > 0 && key < position && ids[key - 1] == ids[position],
        Role::Marked => example.marked[key],
        Role::Entropy => true,
    }
}

/// Sum and count of one role and head.
fn naive(example: &Example, n_head: usize, role: Role, head: usize) -> (f64, u64) {
    let n_token = example.token_ids.len();
    let n_key = example.pattern.len().checked_div(example.positions.len() * n_head).unwrap_or(0);
    let always = !matches!(role, Role::DuplicateToken | Role::Induction);
    let (mut sum, mut count) = (0.0, 0);
    for (query, &position) in example.positions.iter().enumerate().filter(|(_, p)| **p > 0) {
        let keys: Vec<usize> =
            (0..n_token).filter(|&key| has_role(role, example, position, key)).collect();
        count += u64::from(always || !keys.is_empty());
        for key in keys {
            let share = f64::from(example.pattern[(query * n_head + head) * n_key + key]);
            let entropy = if share > 0.0 { -share * share.ln() } else { 0.0 };
            sum += if role == Role::Entropy { entropy } else { share };
        }
    }
    (sum, count)
}

proptest! {
    #![proptest_config(cases(64))]
    #[test]
    fn equal_the_definitions(
        n_token in 0_usize..40, n_head in 1_usize..6, extra in 0_usize..5, step in 1_usize..4,
        seed: u64,
    ) {
        let example = Example::new(seed, n_token, n_head, n_token + extra, step);
        let mut roles = AttentionRoles::new(n_head);
        roles.push(example.attention()).unwrap();
        for role in Role::ALL {
            for head in 0..n_head {
                let (sum, count) = naive(&example, n_head, role, head);
                prop_assert_eq!(roles.count(role)[head], count, "{:?}", role);
                // Shares are read exactly and summed in f64; entropy has an f32 logarithm (3e-7
                // of a term of at most 1/e), up to 40 terms a line and 40 lines.
                let tolerance = if role == Role::Entropy { 2e-4 } else { 1e-12 };
                prop_assert!((roles.sum(role)[head] - sum).abs() <= tolerance, "{:?}", role);
            }
        }
    }
}

#[test]
fn a_perfect_head_of_each_kind_scores_one() {
    // Tokens a b c a b: queries 3 and 4 repeat 0 and 1.
    let token_ids = [5, 6, 7, 5, 6];
    let looks_at: [[usize; 5]; 4] =
        [[0, 0, 1, 2, 3], [0, 0, 0, 0, 0], [0, 1, 2, 0, 1], [0, 1, 2, 1, 2]];
    let mut pattern = vec![0.0; 5 * 4 * 5];
    for (head, keys) in looks_at.iter().enumerate() {
        for (query, &key) in keys.iter().enumerate() {
            pattern[(query * 4 + head) * 5 + key] = 1.0;
        }
    }
    let attention = Attention {
        pattern: &pattern,
        positions: &[0, 1, 2, 3, 4],
        token_ids: &token_ids,
        marked: None,
    };
    let roles = attention_roles(&[attention], 4).unwrap();
    assert_eq!(roles.mean(Role::PreviousToken)[0], 1.0);
    assert_eq!(roles.mean(Role::FirstToken)[1], 1.0);
    assert_eq!(roles.mean(Role::DuplicateToken)[2], 1.0);
    assert_eq!(roles.mean(Role::Induction)[3], 1.0);
    assert_eq!(roles.count(Role::Induction), [2; 4]);
    assert_eq!(roles.mean(Role::CurrentToken), [0.0, 0.0, 0.5, 0.5]);
    assert_eq!(roles.mean(Role::Marked), [0.0; 4]);
    assert!(roles.sum(Role::Entropy).iter().all(|sum| sum.abs() < 1e-6));
}

#[test]
fn examples_add_up_for_any_number_of_threads() {
    let examples: Vec<Example> =
        (0..23).map(|seed| Example::new(seed, 3 + seed as usize, 5, 30, 2)).collect();
    let attention: Vec<Attention<'_>> = examples.iter().map(Example::attention).collect();
    let one = with_threads(1, || attention_roles(&attention, 5)).unwrap();
    assert_eq!(one, with_threads(3, || attention_roles(&attention, 5)).unwrap());
    let mut halves = attention_roles(&attention[..9], 5).unwrap();
    halves.merge(&attention_roles(&attention[9..], 5).unwrap()).unwrap();
    for role in Role::ALL {
        assert_eq!(halves.count(role), one.count(role));
        for (a, b) in halves.sum(role).iter().zip(one.sum(role)) {
            assert!((a - b).abs() < 1e-9);
        }
    }
}

#[test]
fn a_nan_leaves_its_query_and_head_out() {
    let mut example = Example::new(1, 6, 3, 6, 1);
    example.pattern[(2 * 3 + 1) * 6 + 4] = f32::NAN;
    let mut roles = AttentionRoles::new(3);
    roles.push(example.attention()).unwrap();
    assert_eq!(roles.skipped(), [0, 1, 0]);
    assert_eq!(roles.count(Role::CurrentToken), [5, 4, 5]);
    assert!(roles.sum(Role::Entropy).iter().all(|sum| sum.is_finite()));
}

#[test]
fn arguments_that_do_not_fit_are_named() {
    let mut roles = AttentionRoles::new(2);
    let good = Attention { pattern: &[0.0; 6], positions: &[1], token_ids: &[1; 3], marked: None };
    roles.push(good).unwrap();
    let error = roles.push(Attention { positions: &[3], ..good }).unwrap_err().to_string();
    assert!(error.contains("query 3") && error.contains("3 tokens"), "{error}");
    assert!(roles.push(Attention { token_ids: &[1; 4], ..good }).is_err());
    assert!(roles.push(Attention { pattern: &[0.0; 7], ..good }).is_err());
    assert!(roles.push(Attention { marked: Some(&[true]), ..good }).is_err());
    assert!(roles.merge(&AttentionRoles::new(3)).is_err());
}
