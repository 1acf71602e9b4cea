//! What heads look at, summed over examples.

use std::sync::{Mutex, PoisonError};

use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::{prelude::*, types::PyDict};
use residuum_core::kernels::attention_roles::{Attention, AttentionRoles as CoreRoles, Role};

use crate::{
    call::detached,
    error::argument,
    matrix::{Floats, slice},
};

/// Sums of attention by role and head; examples are added one at a time.
#[pyclass(frozen, module = "residuum._residuum")]
pub(crate) struct AttentionRoles {
    core: Mutex<CoreRoles>,
}

#[pymethods]
impl AttentionRoles {
    /// Nothing seen yet.
    #[new]
    fn new(n_head: usize) -> Self {
        Self { core: Mutex::new(CoreRoles::new(n_head)) }
    }

    /// Adds one example: `pattern [query, head, key]`, `positions [query]`, `token_ids [token]`,
    /// `marked [token]`.
    fn push(
        &self,
        py: Python<'_>,
        pattern: Floats<'_>,
        positions: PyReadonlyArray1<'_, i64>,
        token_ids: PyReadonlyArray1<'_, i32>,
        marked: Option<PyReadonlyArray1<'_, bool>>,
    ) -> PyResult<()> {
        let wrong = |_| argument(py, "an array is not contiguous");
        let positions = positions.as_slice().map_err(wrong)?;
        let positions: Vec<usize> = positions
            .iter()
            .map(|&at| {
                usize::try_from(at).map_err(|_| argument(py, format!("position {at} is negative")))
            })
            .collect::<PyResult<_>>()?;
        let marked = marked.as_ref().map(|marked| marked.as_slice().map_err(wrong)).transpose()?;
        let attention = Attention {
            pattern: slice(py, &pattern)?,
            positions: &positions,
            token_ids: token_ids.as_slice().map_err(wrong)?,
            marked,
        };
        detached(py, || self.core.lock().unwrap_or_else(PoisonError::into_inner).push(attention))
    }

    /// By role, the mean over queries `[head]` and the number of queries `[head]`.
    fn means<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let dict = PyDict::new(py);
        for role in Role::ALL {
            let pair =
                (core.mean(role).into_pyarray(py), core.count(role).to_vec().into_pyarray(py));
            dict.set_item(role.name(), pair)?;
        }
        Ok(dict)
    }
}
