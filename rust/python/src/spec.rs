//! What an array is, built in Python before a store is created.

use pyo3::prelude::*;
use residuum_core::{ArraySpec as CoreSpec, Codec, Dtype, Site};

use crate::{
    call::detached,
    error::{argument, to_python},
};

/// Description of one array of a store: everything about it except how many rows it has.
#[pyclass(frozen, module = "residuum._residuum")]
pub(crate) struct ArraySpec {
    pub(crate) core: CoreSpec,
}

#[pymethods]
impl ArraySpec {
    /// The usual description of a site's array; names, cut and statistics follow from the site.
    #[staticmethod]
    #[pyo3(signature = (site, dtype, n_layer, layers, inner, *, shard_rows, chunk_rows, codec))]
    #[allow(clippy::too_many_arguments, reason = "one keyword per property of the array")]
    fn for_site(
        py: Python<'_>,
        site: &str,
        dtype: &str,
        n_layer: Option<usize>,
        layers: Vec<usize>,
        inner: Vec<usize>,
        shard_rows: usize,
        chunk_rows: Option<usize>,
        codec: &str,
    ) -> PyResult<Self> {
        let (dtype, codec) = (parse_dtype(py, dtype)?, parse_codec(py, codec)?);
        let site: Site = site.parse().map_err(|error| to_python(py, &error))?;
        let n_layer = n_layer.unwrap_or(0);
        detached(py, || {
            let mut core =
                CoreSpec::for_site(site, dtype, n_layer, &layers, &inner, shard_rows, codec)?;
            core.chunk_rows = chunk_rows.unwrap_or(core.chunk_rows);
            core.check()?;
            Ok(Self { core })
        })
    }

    /// The description of `index/target`.
    #[staticmethod]
    #[pyo3(signature = (*, shard_rows, codec))]
    fn for_target(py: Python<'_>, shard_rows: usize, codec: &str) -> PyResult<Self> {
        let codec = parse_codec(py, codec)?;
        detached(py, || Ok(Self { core: CoreSpec::for_target(shard_rows, codec)? }))
    }
}

fn parse_dtype(py: Python<'_>, name: &str) -> PyResult<Dtype> {
    Dtype::parse(name).filter(|dtype| *dtype != Dtype::I32).ok_or_else(|| {
        argument(
            py,
            format!(
                "{name:?} is no dtype of a site; those are float32, float16, bfloat16 and int8"
            ),
        )
    })
}

fn parse_codec(py: Python<'_>, name: &str) -> PyResult<Codec> {
    match name {
        "none" => Ok(Codec::None),
        "zstd" => Ok(Codec::Zstd),
        _ => Err(argument(py, format!("{name:?} is no codec; those are none and zstd"))),
    }
}
