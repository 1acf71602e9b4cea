//! `kernels::attention_roles`: 32 examples of 128 tokens, 12 heads.

#![allow(clippy::unwrap_used, reason = "a bench may fail loudly")]

mod bench_common;

use bench_common::{assert_near, time, uniform};
use residuum_core::kernels::attention_roles::{Attention, Role, attention_roles};

const EXAMPLES: usize = 32;
const HEADS: usize = 12;
const TOKENS: usize = 128;

fn main() {
    let len = TOKENS * HEADS * TOKENS;
    let share = 1.0 / TOKENS as f32;
    let pattern: Vec<f32> =
        uniform(1, EXAMPLES * len).iter().map(|value| share * (1.0 + value / 1e3)).collect();
    let positions: Vec<usize> = (0..TOKENS).collect();
    let token_ids: Vec<i32> = (0..29).cycle().take(TOKENS).collect();
    let examples: Vec<Attention<'_>> = pattern
        .chunks(len)
        .map(|pattern| Attention {
            pattern,
            positions: &positions,
            token_ids: &token_ids,
            marked: None,
        })
        .collect();
    let roles = attention_roles(&examples, HEADS).unwrap();
    assert_near(roles.mean(Role::PreviousToken)[0], f64::from(share), 1e-5);
    assert_near(roles.mean(Role::Entropy)[0], (TOKENS as f64).ln(), 1e-3);
    time("attention roles", 0.0, 4 * pattern.len(), || attention_roles(&examples, HEADS).unwrap());
}
