//! A block's parts over packed rows; which rows these are is planned in Python.

use numpy::{PyReadonlyArray1, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;
use residuum_core::replay::{
    activation::Activation,
    attention::{Attention, Heads, Keys, Look, Rows, Seen},
    gather::gather,
    linear::{Then, linear},
    rotary::Rotary,
    weight::{Halves, Weight},
};

use crate::{
    call::detached,
    error::{argument, to_python},
    matrix::{Floats, FloatsOut, matrix, optional, slice, slice_mut, width},
};

/// Keys and values.
type Pair<'py> = (Floats<'py>, Floats<'py>);
type Numbers<'py> = PyReadonlyArray1<'py, u32>;

/// Weights of 32 bits, or the raw ones of 16.
#[derive(FromPyObject)]
pub(crate) enum Weights<'py> {
    F32(Floats<'py>),
    U16(PyReadonlyArrayDyn<'py, u16>),
}

/// `x [row, in] @ w + b` into `out [row, out]`; `w` is `[in, out]`, or `transposed`.
///
/// `then` is the name of an activation function, what is done with `out` (`multiply` it, or `add` to
/// it), or nothing.
#[pyfunction]
#[pyo3(signature = (x, w, b, out, *, transposed, brain, then))]
#[allow(clippy::too_many_arguments, reason = "one for each operand")]
pub(crate) fn replay_linear(
    py: Python<'_>,
    x: Floats<'_>,
    w: Weights<'_>,
    b: Option<Floats<'_>>,
    mut out: FloatsOut<'_>,
    transposed: bool,
    brain: bool,
    then: Option<&str>,
) -> PyResult<()> {
    let failed = |error| to_python(py, &error);
    let weight = match &w {
        Weights::F32(w) => Weight::F32(matrix(py, w, transposed)?),
        Weights::U16(w) => {
            let &[first, second] = w.shape() else {
                return Err(argument(py, format!("a matrix has 2 axes, not {}", w.ndim())));
            };
            let (rows, cols) = if transposed { (second, first) } else { (first, second) };
            let bits = w.as_slice().map_err(|_| argument(py, "an array is not C-contiguous"))?;
            Weight::Half(Halves::new(bits, rows, cols, transposed, brain).map_err(failed)?)
        }
    };
    let then = match then {
        Some("multiply") => Then::Multiply,
        Some("add") => Then::Add,
        name => Then::Put(Activation::parse(name).map_err(failed)?),
    };
    let (x, b, out) = (slice(py, &x)?, optional(py, b.as_ref())?, slice_mut(py, &mut out)?);
    detached(py, || linear(x, weight, b, then, out))
}

/// Rows of `first` and `second`, one after the other, that `index` names, into `out`.
#[pyfunction]
pub(crate) fn replay_gather(
    py: Python<'_>,
    first: Floats<'_>,
    second: Floats<'_>,
    index: PyReadonlyArray1<'_, i64>,
    mut out: FloatsOut<'_>,
) -> PyResult<()> {
    let (width, index) = (width(&first), index.as_slice()?);
    let (first, second, out) = (slice(py, &first)?, slice(py, &second)?, slice_mut(py, &mut out)?);
    detached(py, || gather(first, second, index, width, out))
}

/// Rotates `x [row, head, d_head]` in place by `position [row]`.
#[pyfunction]
#[pyo3(signature = (x, position, inv_freq, *, scaling, interleaved))]
pub(crate) fn replay_rotate(
    py: Python<'_>,
    mut x: FloatsOut<'_>,
    position: PyReadonlyArray1<'_, i64>,
    inv_freq: Floats<'_>,
    scaling: f32,
    interleaved: bool,
) -> PyResult<()> {
    let &[_, n_head, d_head] = x.shape() else {
        return Err(argument(py, format!("heads have 3 axes, not {}", x.ndim())));
    };
    let rotary = Rotary { inv_freq: slice(py, &inv_freq)?, scaling, interleaved };
    let position = position.as_slice()?;
    let x = slice_mut(py, &mut x)?;
    detached(py, || rotary.rotate(x, position, n_head, d_head))
}

/// Attention over the keys of a batch of replays.
#[pyclass(frozen, module = "residuum._residuum")]
pub(crate) struct ReplayAttention {
    heads: Heads,
    look: Look,
    run: Vec<u32>,
    token: Vec<u32>,
    example: Vec<u32>,
    start: Vec<u32>,
    own: Vec<u32>,
    n_token: usize,
}

#[pymethods]
impl ReplayAttention {
    /// `run`, `token` `[row]` are the queries'; `example [run]`, `start [example + 1]` where cached
    /// keys lie; `own [run, token]` numbers the keys that runs computed, 2^32 - 1 where they did not.
    #[new]
    #[pyo3(signature = (heads, *, scaling, softcap, window, causal, run, token, example, start, own, n_token))]
    #[allow(clippy::too_many_arguments, reason = "one for each number")]
    fn new(
        heads: (usize, usize, usize),
        scaling: f32,
        softcap: Option<f32>,
        window: Option<usize>,
        causal: bool,
        run: Numbers<'_>,
        token: Numbers<'_>,
        example: Numbers<'_>,
        start: Numbers<'_>,
        own: Numbers<'_>,
        n_token: usize,
    ) -> PyResult<Self> {
        let (n_head, n_kv_head, d_head) = heads;
        Ok(Self {
            heads: Heads { n_head, n_kv_head, d_head },
            look: Look { scaling, softcap, window, causal },
            run: run.as_slice()?.to_vec(),
            token: token.as_slice()?.to_vec(),
            example: example.as_slice()?.to_vec(),
            start: start.as_slice()?.to_vec(),
            own: own.as_slice()?.to_vec(),
            n_token,
        })
    }

    /// z of `q`, both `[row, head, d_head]`, into `out`; keys and values are `[key, kv_head, d_head]`.
    fn attend(
        &self,
        py: Python<'_>,
        q: Floats<'_>,
        cached: Pair<'_>,
        own: Pair<'_>,
        out: FloatsOut<'_>,
    ) -> PyResult<()> {
        self.through(py, &q, &cached, &own, out, Attention::attend)
    }

    /// The pattern of `q`, `[row, head, token]`, into `out`.
    fn pattern(
        &self,
        py: Python<'_>,
        q: Floats<'_>,
        cached: Pair<'_>,
        own: Pair<'_>,
        out: FloatsOut<'_>,
    ) -> PyResult<()> {
        self.through(py, &q, &cached, &own, out, Attention::pattern)
    }

    /// z of a pattern `[row, head, token]`, into `out`.
    fn mix(
        &self,
        py: Python<'_>,
        pattern: Floats<'_>,
        cached: Pair<'_>,
        own: Pair<'_>,
        out: FloatsOut<'_>,
    ) -> PyResult<()> {
        self.through(py, &pattern, &cached, &own, out, Attention::mix)
    }
}

impl ReplayAttention {
    /// One of the core's three ways through attention.
    fn through<'a>(
        &'a self,
        py: Python<'_>,
        input: &Floats<'_>,
        cached: &'a Pair<'_>,
        own: &'a Pair<'_>,
        mut out: FloatsOut<'_>,
        way: fn(&Attention<'a>, &[f32], &mut [f32]) -> residuum_core::Result<()>,
    ) -> PyResult<()> {
        let (cached, own) = (keys(py, cached)?, keys(py, own)?);
        let (input, out) = (slice(py, input)?, slice_mut(py, &mut out)?);
        detached(py, || way(&self.over(cached, own)?, input, out))
    }

    fn over<'a>(&'a self, cached: Keys<'a>, own: Keys<'a>) -> residuum_core::Result<Attention<'a>> {
        let rows = Rows { run: &self.run, token: &self.token };
        let seen = Seen {
            example: &self.example,
            start: &self.start,
            own: &self.own,
            n_token: self.n_token,
        };
        Attention::new(self.heads, self.look, rows, cached, own, seen)
    }
}

fn keys<'a>(py: Python<'_>, pair: &'a Pair<'_>) -> PyResult<Keys<'a>> {
    Ok(Keys { k: slice(py, &pair.0)?, v: slice(py, &pair.1)? })
}
