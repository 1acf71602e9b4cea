//! Principal components of a covariance.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::{Mat, MatRef, Par};

use super::check::{elements, same_len};
use crate::{Error, Result};

/// Directions of largest variance.
#[derive(Debug, Clone, PartialEq)]
pub struct Pca {
    /// `[component]` variances along the components, largest first; rounding below zero is cut.
    pub variances: Vec<f64>,
    /// `[component, d]` unit vectors; the entry of largest size is positive, so that the sign is
    /// settled.
    pub components: Vec<f64>,
    /// Sum of all `d` variances, for shares.
    pub total: f64,
}

/// The leading `n_component` (at most `d`) principal components of `covariance [d, d]`, of which
/// the lower triangle is read. One thread, so that the result depends on nothing else.
///
/// # Errors
/// If the length is not `d * d`, a value is NaN or infinite, or the iteration does not converge.
pub fn pca(covariance: &[f64], d: usize, n_component: usize) -> Result<Pca> {
    same_len("covariance", covariance.len(), elements(&[d, d])?)?;
    if let Some(at) = covariance.iter().position(|value| !value.is_finite()) {
        let (i, j) = (at / d, at % d);
        return Err(Error::argument(format!(
            "covariance [{i}, {j}] is {}: principal components need finite values",
            covariance[at]
        )));
    }
    if d == 0 {
        return Ok(Pca { variances: Vec::new(), components: Vec::new(), total: 0.0 });
    }
    let (values, vectors) = eigen(covariance, d)?;
    let n_component = n_component.min(d);
    let mut result = Pca { variances: Vec::new(), components: Vec::new(), total: 0.0 };
    result.total = values.column_vector().iter().map(|value| value.max(0.0)).sum();
    for component in (d - n_component..d).rev() {
        result.variances.push(values.column_vector()[component].max(0.0));
        let vector: Vec<f64> = (0..d).map(|i| vectors[(i, component)]).collect();
        let sign = sign(&vector);
        result.components.extend(vector.iter().map(|value| sign * value));
    }
    Ok(result)
}

/// Eigenvalues, smallest first, and their vectors in columns.
fn eigen(covariance: &[f64], d: usize) -> Result<(Diag<f64>, Mat<f64>)> {
    let matrix = MatRef::from_row_major_slice(covariance, d, d);
    let (mut values, mut vectors) = (Diag::<f64>::zeros(d), Mat::<f64>::zeros(d, d));
    let params = faer::Spec::default();
    let need = self_adjoint_evd_scratch::<f64>(d, ComputeEigenvectors::Yes, Par::Seq, params);
    let mut buffer = MemBuffer::new(need);
    self_adjoint_evd(
        matrix,
        values.as_mut(),
        Some(vectors.as_mut()),
        Par::Seq,
        MemStack::new(&mut buffer),
        params,
    )
    .map_err(|error| Error::argument(format!("no eigenvectors of the covariance: {error:?}")))?;
    Ok((values, vectors))
}

/// Makes the entry of largest size (the first of equals) positive.
fn sign(vector: &[f64]) -> f64 {
    let largest = vector.iter().fold(0.0_f64, |a, &b| if b.abs() > a.abs() { b } else { a });
    if largest < 0.0 { -1.0 } else { 1.0 }
}
