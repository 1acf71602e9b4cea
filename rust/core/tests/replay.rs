//! A block's parts beside their definitions, on random numbers and odd sizes.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod kernels_common;

use half::{bf16, f16};
use kernels_common::{assert_close, cases, naive_matmul, transpose, uniform};
use proptest::prelude::*;
use residuum_core::kernels::matmul::MatRef;
use residuum_core::replay::{
    activation::Activation,
    attention::{Attention, CACHED, Heads, Keys, Look, Rows, Seen},
    linear::{Then, linear},
    rotary::Rotary,
    weight::{Halves, Weight},
};

/// `x [row, in] @ w [in, out] + b`.
fn product(x: &[f32], w: &[f32], b: &[f32]) -> Vec<f64> {
    let (n_out, n_in) = (b.len(), w.len() / b.len());
    let mut out = naive_matmul(x, w, x.len() / n_in, n_in, n_out);
    for row in out.chunks_exact_mut(n_out) {
        for (out, &b) in row.iter_mut().zip(b) {
            *out += f64::from(b);
        }
    }
    out
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn linear_is_a_product(
        n_row in prop_oneof![Just(1_usize), 2..40_usize, Just(600)],
        n_in in 1..70_usize,
        n_out in prop_oneof![1..60_usize, Just(400), Just(769)],
        seed in any::<u64>(),
    ) {
        let (x, b) = (uniform(seed, n_row * n_in), uniform(seed ^ 1, n_out));
        // Numbers that both sorts of 16 bits hold exactly.
        let w = uniform(seed ^ 2, n_in * n_out);
        let w: Vec<f32> = w.iter().map(|&w| (w * 64.0).round() / 64.0).collect();
        let t = transpose(&w, n_in, n_out);
        let f16s = |w: &[f32]| -> Vec<u16> { w.iter().map(|&w| f16::from_f32(w).to_bits()).collect() };
        let bf16s = |w: &[f32]| -> Vec<u16> { w.iter().map(|&w| bf16::from_f32(w).to_bits()).collect() };
        let halves = (f16s(&w), f16s(&t), bf16s(&w), bf16s(&t));
        let weights = [
            Weight::F32(MatRef::new(&w, n_in, n_out).unwrap()),
            Weight::F32(MatRef::transposed(&t, n_in, n_out).unwrap()),
            Weight::Half(Halves::new(&halves.0, n_in, n_out, false, false).unwrap()),
            Weight::Half(Halves::new(&halves.1, n_in, n_out, true, false).unwrap()),
            Weight::Half(Halves::new(&halves.2, n_in, n_out, false, true).unwrap()),
            Weight::Half(Halves::new(&halves.3, n_in, n_out, true, true).unwrap()),
        ];
        let plain = product(&x, &w, &b);
        let rectified: Vec<f64> = plain.iter().map(|&x| x.max(0.0)).collect();
        let before = uniform(seed ^ 3, plain.len());
        let multiplied: Vec<f64> =
            plain.iter().zip(&before).map(|(x, &y)| x * f64::from(y)).collect();
        let added: Vec<f64> = plain.iter().zip(&before).map(|(x, &y)| x + f64::from(y)).collect();
        for weight in weights {
            for (then, want) in [
                (Then::Put(Activation::Identity), &plain),
                (Then::Put(Activation::Relu), &rectified),
                (Then::Multiply, &multiplied),
                (Then::Add, &added),
            ] {
                let mut out = before.clone();
                linear(&x, weight, Some(&b), then, &mut out).unwrap();
                assert_close(&out, want, 3e-5);
            }
            let mut bare = vec![0.0; plain.len()];
            linear(&x, weight, None, Then::Put(Activation::Identity), &mut bare).unwrap();
            assert_close(&bare, &product(&x, &w, &vec![0.0; n_out]), 3e-5);
        }
    }

    #[test]
    fn attention_is_its_definition(
        group in 1..4_usize,
        n_kv_head in 1..3_usize,
        d_head in prop_oneof![Just(7_usize), Just(16), Just(33)],
        causal in any::<bool>(),
        window in prop_oneof![Just(None), (1..6_usize).prop_map(Some)],
        softcap in prop_oneof![Just(None), Just(Some(2.0_f32))],
        seed in any::<u64>(),
    ) {
        let heads = Heads { n_head: group * n_kv_head, n_kv_head, d_head };
        let look = Look { scaling: 0.3, softcap, window, causal };
        check(&Case::draw(heads, look, seed));
    }
}

/// Two examples, three runs with keys of their own.
struct Case {
    heads: Heads,
    look: Look,
    run: Vec<u32>,
    token: Vec<u32>,
    example: Vec<u32>,
    start: Vec<u32>,
    own: Vec<u32>,
    n_token: usize,
    q: Vec<f32>,
    cached: (Vec<f32>, Vec<f32>),
    mine: (Vec<f32>, Vec<f32>),
}

impl Case {
    fn draw(heads: Heads, look: Look, seed: u64) -> Self {
        let drawn = uniform(seed, 60);
        let mut drawn = drawn.chunks_exact(2);
        let lengths = [9_u32, 6];
        let (example, n_token) = (vec![0_u32, 0, 1], 9);
        let (mut run, mut token, mut own, mut n_own) = (vec![], vec![], vec![CACHED; 27], 0);
        for number in 0..3_u32 {
            for at in 0..lengths[example[number as usize] as usize] {
                let Some(drawn) = drawn.next() else { continue };
                if drawn[0] > 0.2 {
                    run.push(number);
                    token.push(at);
                }
                if drawn[1] > 0.2 {
                    own[number as usize * n_token + at as usize] = n_own;
                    n_own += 1;
                }
            }
        }
        let width = heads.n_kv_head * heads.d_head;
        let keys = |seed, n| (uniform(seed, n * width), uniform(seed ^ 8, n * width));
        let (cached, mine) = (keys(seed ^ 16, 15), keys(seed ^ 32, n_own as usize));
        let q = uniform(seed ^ 4, run.len() * heads.n_head * heads.d_head);
        let start = vec![0, 9, 15];
        Self { heads, look, run, token, example, start, own, n_token, q, cached, mine }
    }

    fn attention(&self) -> Attention<'_> {
        Attention::new(
            self.heads,
            self.look,
            Rows { run: &self.run, token: &self.token },
            Keys { k: &self.cached.0, v: &self.cached.1 },
            Keys { k: &self.mine.0, v: &self.mine.1 },
            Seen {
                example: &self.example,
                start: &self.start,
                own: &self.own,
                n_token: self.n_token,
            },
        )
        .unwrap()
    }

    /// A key or value of a run at a token.
    fn at<'a>(
        &self,
        cached: &'a [f32],
        mine: &'a [f32],
        run: usize,
        token: usize,
        head: usize,
    ) -> &'a [f32] {
        let Heads { n_head, n_kv_head, d_head } = self.heads;
        let kv_head = head / (n_head / n_kv_head);
        let (values, key) = match self.own[run * self.n_token + token] {
            CACHED => (cached, self.start[self.example[run] as usize] as usize + token),
            key => (mine, key as usize),
        };
        &values[(key * n_kv_head + kv_head) * d_head..][..d_head]
    }

    /// Whether a query sees a key.
    fn sees(&self, run: usize, query: usize, key: usize) -> bool {
        let example = self.example[run] as usize;
        key < (self.start[example + 1] - self.start[example]) as usize
            && !(self.look.causal && key > query)
            && self.look.window.is_none_or(|window| key + window > query)
    }

    /// The pattern `[row, head, token]` in f64.
    fn pattern(&self) -> Vec<f64> {
        let Heads { n_head, d_head, .. } = self.heads;
        let mut pattern = Vec::new();
        for (row, (&run, &token)) in self.run.iter().zip(&self.token).enumerate() {
            for head in 0..n_head {
                let q = &self.q[(row * n_head + head) * d_head..][..d_head];
                let weights: Vec<f64> = (0..self.n_token)
                    .map(|key| {
                        if !self.sees(run as usize, token as usize, key) {
                            return 0.0;
                        }
                        let k = self.at(&self.cached.0, &self.mine.0, run as usize, key, head);
                        let dot: f64 =
                            q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                        let score = dot * f64::from(self.look.scaling);
                        self.look
                            .softcap
                            .map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                            .exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                pattern.extend(weights.iter().map(|weight| weight / total));
            }
        }
        pattern
    }

    /// What a pattern makes of the values, `[row, head, d_head]`.
    fn mixed(&self, pattern: &[f64]) -> Vec<f64> {
        let Heads { n_head, d_head, .. } = self.heads;
        let mut z = Vec::new();
        for (row, &run) in self.run.iter().enumerate() {
            for head in 0..n_head {
                let weights = &pattern[(row * n_head + head) * self.n_token..][..self.n_token];
                let mut sum = vec![0.0; d_head];
                for (token, &weight) in weights.iter().enumerate().filter(|(_, w)| **w != 0.0) {
                    let v = self.at(&self.cached.1, &self.mine.1, run as usize, token, head);
                    for (sum, &v) in sum.iter_mut().zip(v) {
                        *sum += weight * f64::from(v);
                    }
                }
                z.extend(sum);
            }
        }
        z
    }
}

fn check(case: &Case) {
    let attention = case.attention();
    let pattern = case.pattern();
    let mut found = vec![f32::NAN; pattern.len()];
    attention.pattern(&case.q, &mut found).unwrap();
    assert_close(&found, &pattern, 2e-6);
    let narrow = found;
    let want = case.mixed(&pattern);
    let mut z = vec![f32::NAN; want.len()];
    attention.attend(&case.q, &mut z).unwrap();
    assert_close(&z, &want, 5e-6);
    attention.mix(&narrow, &mut z).unwrap();
    assert_close(&z, &want, 5e-6);
}

#[test]
fn attention_refuses_keys_that_are_not_there() {
    let heads = Heads { n_head: 4, n_kv_head: 2, d_head: 7 };
    let look = Look { scaling: 0.3, softcap: None, window: None, causal: true };
    let refused = |change: &dyn Fn(&mut Case)| {
        let mut case = Case::draw(heads, look, 1);
        change(&mut case);
        let rows = Rows { run: &case.run, token: &case.token };
        let (cached, own) = (
            Keys { k: &case.cached.0, v: &case.cached.1 },
            Keys { k: &case.mine.0, v: &case.mine.1 },
        );
        let seen = Seen {
            example: &case.example,
            start: &case.start,
            own: &case.own,
            n_token: case.n_token,
        };
        Attention::new(case.heads, look, rows, cached, own, seen).is_err()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|case| case.run[0] = 3));
    assert!(refused(&|case| case.token[0] = 9));
    assert!(refused(&|case| case.example[0] = 2));
    assert!(refused(&|case| case.start[2] = 16));
    assert!(refused(&|case| case.own[0] = 1000));
    assert!(refused(&|case| case.heads.n_kv_head = 3));
    assert!(refused(&|case| case.cached.1.truncate(14)));
}

#[test]
fn rotation_turns_pairs() {
    let (inv_freq, d_head) = ([1.0_f32, 0.25], 7);
    let x = uniform(3, 3 * 2 * d_head);
    let position = [0_i64, 5, -2];
    for interleaved in [false, true] {
        let mut found = x.clone();
        let rotary = Rotary { inv_freq: &inv_freq, scaling: 1.5, interleaved };
        rotary.rotate(&mut found, &position, 2, d_head).unwrap();
        let mut want: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        for (row, &position) in position.iter().enumerate() {
            for head in 0..2 {
                let at = (row * 2 + head) * d_head;
                for (pair, &step) in inv_freq.iter().enumerate() {
                    let (i, j) =
                        if interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + 2) };
                    let (a, b) = (f64::from(x[at + i]), f64::from(x[at + j]));
                    let (sin, cos) = (position as f64 * f64::from(step)).sin_cos();
                    want[at + i] = 1.5 * (a * cos - b * sin);
                    want[at + j] = 1.5 * (b * cos + a * sin);
                }
            }
        }
        assert_close(&found, &want, 2e-6);
    }
    let rotary = Rotary { inv_freq: &[1.0; 4], scaling: 1.0, interleaved: false };
    assert!(rotary.rotate(&mut x.clone(), &position, 2, d_head).is_err());
}
