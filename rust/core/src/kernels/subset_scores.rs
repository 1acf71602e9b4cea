//! How well images are told apart without sets of components, for many sets at once.
//!
//! Logits are sums over components, so that a set's ablation is the logits less what each member
//! takes away. Sets in lexicographic order begin alike: what two neighbours share is not summed again.

use rayon::prelude::*;

use super::check::{elements, rows_of, same_len};
use crate::vector::widest;
use crate::{Error, Result};

/// Sets that one task goes through.
const SETS: usize = 256;

/// What is asked of every set.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'a> {
    /// `[image, class]`: logits with every component.
    pub logits: &'a [f32],
    /// `[component, image, class]`: what a component's ablation takes away.
    pub lost: &'a [f32],
    /// `[image]`: the class that each image is of.
    pub labels: &'a [u32],
    /// `[image]`: the group that each image is in.
    pub groups: &'a [u32],
    /// Classes.
    pub n_class: usize,
    /// Groups.
    pub n_group: usize,
}

/// Images of each group whose largest logit is their label's, `[set, group]`, where the components of
/// a set are ablated. `sets [set, size]` holds numbers of components; of equal logits the first counts.
///
/// # Errors
/// If lengths do not match the axes, or a number is out of range.
pub fn subset_scores(judged: Judged<'_>, sets: &[u32], size: usize) -> Result<Vec<u32>> {
    let Judged { logits, lost, labels, groups, n_class, n_group } = judged;
    let n_image = rows_of("logits", logits.len(), n_class)?;
    same_len("labels", labels.len(), n_image)?;
    same_len("groups", groups.len(), n_image)?;
    let n_component = rows_of("lost", lost.len(), logits.len())?;
    below("label", labels, n_class)?;
    below("group", groups, n_group)?;
    below("component", sets, n_component)?;
    let n_set = if size == 0 { 1 } else { rows_of("sets", sets.len(), size)? };
    let mut counts = vec![0; elements(&[n_set, n_group])?];
    if size == 0 {
        judged.count(logits, &mut counts);
        return Ok(counts);
    }
    let tasks = counts.par_chunks_mut(SETS * n_group.max(1)).zip(sets.par_chunks(SETS * size));
    tasks.for_each(|(counts, sets)| judged.run(sets, size, counts));
    Ok(counts)
}

impl Judged<'_> {
    fn run(&self, sets: &[u32], size: usize, counts: &mut [u32]) {
        let width = self.logits.len();
        // left[k]: logits without the first k + 1 members of the set at hand.
        let mut left = vec![vec![0.0_f32; width]; size];
        let mut before: &[u32] = &[];
        for (set, counts) in sets.chunks_exact(size).zip(counts.chunks_exact_mut(self.n_group)) {
            let shared = set.iter().zip(before).take_while(|(a, b)| a == b).count();
            for (member, &component) in set.iter().enumerate().skip(shared) {
                let lost = &self.lost[component as usize * width..][..width];
                let (done, rest) = left.split_at_mut(member);
                let from = done.last().map_or(self.logits, Vec::as_slice);
                widest!({
                    for ((out, &from), &lost) in rest[0].iter_mut().zip(from).zip(lost) {
                        *out = from - lost;
                    }
                });
            }
            self.count(&left[size - 1], counts);
            before = set;
        }
    }

    fn count(&self, logits: &[f32], counts: &mut [u32]) {
        if self.n_class == 2 {
            self.count_of_two(logits, counts);
            return;
        }
        let images = logits.chunks_exact(self.n_class).zip(self.labels).zip(self.groups);
        for ((logits, &label), &group) in images {
            let own = logits[label as usize];
            let (before, after) = logits.split_at(label as usize);
            let is_best = before.iter().all(|&other| other < own)
                && after.iter().skip(1).all(|&other| other <= own);
            counts[group as usize] += u32::from(is_best);
        }
    }

    /// [`Self::count`] without a branch that half of the images take.
    fn count_of_two(&self, logits: &[f32], counts: &mut [u32]) {
        let images = logits.chunks_exact(2).zip(self.labels).zip(self.groups);
        for ((logits, &label), &group) in images {
            let is_first = logits[1] <= logits[0];
            let is_second = logits[0] < logits[1];
            let is_best = if label == 0 { is_first } else { is_second };
            counts[group as usize] += u32::from(is_best);
        }
    }
}

fn below(what: &'static str, numbers: &[u32], end: usize) -> Result<()> {
    match numbers.iter().max() {
        Some(&most) if most as usize >= end => {
            Err(Error::argument(format!("{what} {most} does not exist: there are {end}")))
        }
        _ => Ok(()),
    }
}
