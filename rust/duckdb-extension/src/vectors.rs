//! Lengths and products of single vectors, in f32 with a fixed order of summation.

/// Partial sums of a product, so that the compiler can use wide instructions.
const LANES: usize = 16;

/// The product of two vectors of equal length: `[feature]`, `[feature]`.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// The Euclidean length of a vector: `[feature]`.
pub(crate) fn norm(a: &[f32]) -> f32 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers: every sum is exact, so that its order is no matter.
    fn whole(n: usize, step: usize) -> Vec<f32> {
        (0..n).map(|i| (i * step % 13) as f32 - 6.0).collect()
    }

    #[test]
    fn dot_and_norm_are_their_definitions() {
        for n in [0, 1, 7, 16, 35, 64, 100] {
            let (a, b) = (whole(n, 5), whole(n, 3));
            let naive: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            assert!((dot(&a, &b) - naive).abs() < f32::EPSILON, "length {n}");
            let squares: f32 = a.iter().map(|a| a * a).sum();
            assert!((norm(&a) - squares.sqrt()).abs() < f32::EPSILON, "length {n}");
        }
    }

    #[test]
    fn nan_stays_nan() {
        assert!(norm(&[1.0, f32::NAN, 2.0]).is_nan());
    }
}
