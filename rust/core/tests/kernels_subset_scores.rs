//! `kernels::subset_scores` against every set counted by itself: what neighbours share must not leak
//! into a set that does not have it, or a search would praise the wrong heads.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod kernels_common;

use kernels_common::{cases, uniform, with_threads};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use residuum_core::kernels::subset_scores::{Judged, subset_scores};

struct Given {
    logits: Vec<f32>,
    lost: Vec<f32>,
    labels: Vec<u32>,
    groups: Vec<u32>,
    n_class: usize,
    n_group: usize,
}

impl Given {
    /// Values are halves, so that logits are often equal and sums are exact in any order.
    fn new(seed: u64, [n_image, n_class, n_component, n_group]: [usize; 4]) -> Self {
        let halves = |seed, len| -> Vec<f32> {
            uniform(seed, len).iter().map(|value| (value * 4.0).round() / 2.0).collect()
        };
        let logits = halves(seed, n_image * n_class);
        let lost = halves(seed ^ 1, n_component * n_image * n_class);
        let (labels, groups) =
            (below(seed ^ 2, n_image, n_class), below(seed ^ 3, n_image, n_group));
        Self { logits, lost, labels, groups, n_class, n_group }
    }

    fn judged(&self) -> Judged<'_> {
        let Self { logits, lost, labels, groups, n_class, n_group } = self;
        Judged { logits, lost, labels, groups, n_class: *n_class, n_group: *n_group }
    }

    /// The first largest logit of each image is compared with its label; NaN is never right.
    fn naive(&self, sets: &[u32], size: usize) -> Vec<u32> {
        let width = self.logits.len();
        let n_set = sets.len().checked_div(size).unwrap_or(1);
        let mut counts = vec![0; n_set * self.n_group];
        for set in 0..n_set {
            let mut logits = self.logits.clone();
            for &member in &sets[set * size..][..size] {
                let lost = &self.lost[member as usize * width..][..width];
                logits.iter_mut().zip(lost).for_each(|(logit, lost)| *logit -= lost);
            }
            for (image, logits) in logits.chunks(self.n_class).enumerate() {
                let mut best = 0;
                for class in 1..self.n_class {
                    if logits[class] > logits[best] {
                        best = class;
                    }
                }
                if best == self.labels[image] as usize && !logits.iter().any(|l| l.is_nan()) {
                    counts[set * self.n_group + self.groups[image] as usize] += 1;
                }
            }
        }
        counts
    }
}

fn below(seed: u64, len: usize, end: usize) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(0..u32::try_from(end).unwrap())).collect()
}

proptest! {
    #![proptest_config(cases(96))]
    #[test]
    fn counts_are_those_of_each_set_by_itself(
        n_image in 1_usize..20, n_class in 1_usize..5, n_component in 1_usize..7,
        n_group in 1_usize..4, size in 0_usize..5, n_set in 0_usize..12, seed: u64,
    ) {
        let given = Given::new(seed, [n_image, n_class, n_component, n_group]);
        // In no order, with repeats.
        let sets = below(seed ^ 4, n_set * size, n_component);
        let found = subset_scores(given.judged(), &sets, size).unwrap();
        prop_assert_eq!(found, given.naive(&sets, size));
    }
}

/// All sets of three of sixteen components in lexicographic order: more than two tasks take.
fn triples() -> Vec<u32> {
    let mut sets = Vec::new();
    for a in 0..16 {
        for b in a + 1..16 {
            sets.extend((b + 1..16).flat_map(|c| [a, b, c]));
        }
    }
    sets
}

#[test]
fn neighbours_and_threads_change_nothing() {
    let given = Given::new(5, [33, 3, 16, 4]);
    let sets = triples();
    assert!(sets.len() / 3 > 2 * 256);
    let run = |threads| with_threads(threads, || subset_scores(given.judged(), &sets, 3)).unwrap();
    let one = run(1);
    assert_eq!(one, given.naive(&sets, 3));
    assert_eq!(one, run(3));
}

#[test]
fn of_equal_logits_the_first_counts() {
    let (logits, groups) = ([1.0; 6], [0, 1]);
    let judged = |labels| Judged {
        logits: &logits,
        lost: &[],
        labels,
        groups: &groups,
        n_class: 3,
        n_group: 2,
    };
    assert_eq!(subset_scores(judged(&[0, 1]), &[], 0).unwrap(), [1, 0]);
    assert_eq!(subset_scores(judged(&[2, 0]), &[], 0).unwrap(), [0, 1]);
}

#[test]
fn nan_is_never_right() {
    let mut given = Given::new(6, [9, 2, 3, 2]);
    given.logits[3] = f32::NAN;
    given.lost[18 + 10] = f32::NAN;
    given.labels = vec![0, 1, 0, 1, 0, 0, 1, 1, 0];
    let sets = [0, 1, 2];
    assert_eq!(subset_scores(given.judged(), &sets, 1).unwrap(), given.naive(&sets, 1));
}

#[test]
fn groups_without_images_are_empty_and_no_sets_give_nothing() {
    let mut given = Given::new(7, [5, 2, 2, 1]);
    given.n_group = 3;
    let found = subset_scores(given.judged(), &[1], 1).unwrap();
    assert_eq!((found.len(), &found[1..]), (3, &[0, 0][..]));
    assert!(subset_scores(given.judged(), &[], 2).unwrap().is_empty());
}

#[test]
fn numbers_out_of_range_and_wrong_lengths_are_errors() {
    let given = Given::new(8, [4, 3, 2, 2]);
    let says =
        |judged, sets: &[u32], size| subset_scores(judged, sets, size).unwrap_err().to_string();
    let judged = given.judged();
    assert_eq!(says(judged, &[0, 2], 1), "component 2 does not exist: there are 2");
    let labels = Judged { labels: &[0, 3, 1, 1], ..judged };
    assert_eq!(says(labels, &[0], 1), "label 3 does not exist: there are 3");
    let groups = Judged { groups: &[0, 0, 2, 1], ..judged };
    assert_eq!(says(groups, &[0], 1), "group 2 does not exist: there are 2");
    let few = Judged { labels: &[0, 1, 1], ..judged };
    assert!(says(few, &[0], 1).contains("labels"));
    let lost = Judged { lost: &given.lost[1..], ..judged };
    assert!(says(lost, &[0], 1).contains("lost"));
    assert!(says(judged, &[0, 1, 0], 2).contains("sets"));
}
