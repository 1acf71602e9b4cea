//! `kernels::matmul` against the definition.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod kernels_common;

use kernels_common::{assert_close, cases, naive_matmul, transpose, uniform, with_threads};
use proptest::prelude::*;
use residuum_core::kernels::matmul::{MatRef, matmul};

/// Rounding of a sum of `k` products of numbers up to 1 in size: at most k * eps each way.
fn tolerance(k: usize) -> f64 {
    (k as f64 + 1.0) * k as f64 * f64::from(f32::EPSILON) / 2.0 + 1e-7
}

fn check(m: usize, k: usize, n: usize) {
    let (a, b) = (uniform(1, m * k), uniform(2, k * n));
    let expected = naive_matmul(&a, &b, m, k, n);
    let b_t = transpose(&b, k, n);
    let a_ref = MatRef::new(&a, m, k).unwrap();
    for b_ref in [MatRef::new(&b, k, n).unwrap(), MatRef::transposed(&b_t, k, n).unwrap()] {
        let mut out = vec![f32::NAN; m * n];
        matmul(a_ref, b_ref, &mut out).unwrap();
        assert_close(&out, &expected, tolerance(k));
    }
}

proptest! {
    #![proptest_config(cases(48))]
    #[test]
    fn equals_the_definition(m in 0_usize..70, k in 0_usize..70, n in 0_usize..70) {
        check(m, k, n);
    }
}

#[test]
fn crosses_row_and_column_blocks() {
    check(1027, 7, 5);
    check(13, 7, 1601);
    check(1, 1, 1601);
    check(300, 530, 9);
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    for (m, k, n) in [(1301, 33, 17), (65, 40, 2000)] {
        let (a, b) = (uniform(3, m * k), uniform(4, k * n));
        let run = |threads| {
            with_threads(threads, || {
                let mut out = vec![0.0; m * n];
                let (a, b) = (MatRef::new(&a, m, k).unwrap(), MatRef::new(&b, k, n).unwrap());
                matmul(a, b, &mut out).unwrap();
                out
            })
        };
        assert_eq!(run(1), run(3));
    }
}

#[test]
fn strided_views_read_only_their_part() {
    // z [row 5, head 3, d_head 7]: head 1 of every row.
    let z = uniform(5, 5 * 3 * 7);
    let head: Vec<f32> = (0..5).flat_map(|row| z[row * 21 + 7..row * 21 + 14].to_vec()).collect();
    let b = uniform(6, 7 * 4);
    let mut out = vec![0.0; 5 * 4];
    let view = MatRef::with_stride(&z[7..], 5, 7, 21).unwrap();
    matmul(view, MatRef::new(&b, 7, 4).unwrap(), &mut out).unwrap();
    assert_close(&out, &naive_matmul(&head, &b, 5, 7, 4), tolerance(7));
}

#[test]
fn nan_stays_in_its_row() {
    let mut a = uniform(7, 3 * 5);
    a[5 + 2] = f32::NAN;
    let b = uniform(8, 5 * 4);
    let mut out = vec![0.0; 3 * 4];
    matmul(MatRef::new(&a, 3, 5).unwrap(), MatRef::new(&b, 5, 4).unwrap(), &mut out).unwrap();
    let nan: Vec<bool> = out.iter().map(|value| value.is_nan()).collect();
    assert_eq!(
        nan,
        [false, false, false, false, true, true, true, true, false, false, false, false]
    );
}

#[test]
fn shapes_that_disagree_are_named() {
    let data = vec![0.0; 12];
    let error = MatRef::new(&data, 3, 5).unwrap_err().to_string();
    assert!(error.contains("12") && error.contains("15"), "{error}");
    assert!(MatRef::with_stride(&data, 3, 5, 5).is_err());
    assert!(MatRef::new(&data, usize::MAX, 2).is_err());
    let (a, b) = (MatRef::new(&data, 3, 4).unwrap(), MatRef::new(&data, 3, 4).unwrap());
    let error = matmul(a, b, &mut [0.0; 12]).unwrap_err().to_string();
    assert_eq!(error, "axis `k` is 4 in a but 3 in b");
    assert!(matmul(a, b.t(), &mut [0.0; 8]).is_err());
}
