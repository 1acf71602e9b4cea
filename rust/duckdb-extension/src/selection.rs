//! Which part of a site a call asks for: its layers, rows and heads, checked once.

use residuum_core::{ArraySpec, SiteArray};

use crate::failure::{Failure, Result};
use crate::ffi::value::Arguments;
use crate::spans::Spans;

/// The axes of one site, as its columns show them.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Whether there is a layer axis.
    pub(crate) has_layer: bool,
    /// Name and length of the axis of heads, where there is one.
    pub(crate) head_axis: Option<(String, usize)>,
    /// Name of the last axis.
    pub(crate) feature_axis: String,
    /// Length of the last axis: elements of one vector.
    pub(crate) width: usize,
    /// Rows of one chunk.
    pub(crate) chunk_rows: usize,
}

impl Layout {
    /// The layout of the array that `spec` describes.
    pub(crate) fn of(spec: &ArraySpec) -> Self {
        let n_leading = spec.dimension_names.len() - spec.inner.len();
        let inner_names = &spec.dimension_names[n_leading..];
        let last = spec.inner.last().copied().unwrap_or(1);
        let head_axis = match (inner_names, spec.inner.as_slice()) {
            ([head, _], [n_head, _]) => Some((head.clone(), *n_head)),
            _ => None,
        };
        Self {
            has_layer: spec.n_layer.is_some(),
            head_axis,
            feature_axis: inner_names.last().cloned().unwrap_or_else(|| "value".into()),
            // An image's tokens and heads are one vector.
            width: if spec.inner.len() > 2 { spec.row_len() } else { last },
            chunk_rows: spec.chunk_rows.max(1),
        }
    }

    /// Heads of a row; 1 where there is no such axis.
    pub(crate) fn n_head(&self) -> usize {
        self.head_axis.as_ref().map_or(1, |(_, n_head)| *n_head)
    }

    /// Elements of a row of one layer.
    pub(crate) fn row_len(&self) -> usize {
        self.n_head() * self.width
    }
}

/// The rows, layers and heads of one site that a call asks for, each in ascending order.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// Rows, cut by chunk.
    pub(crate) spans: Spans,
    /// Layers; one entry, 0, where the site has no layer axis.
    pub(crate) layers: Vec<usize>,
    /// Heads; `None` where the site has no such axis.
    pub(crate) heads: Option<Vec<usize>>,
}

impl Selection {
    /// Reads the arguments `rows`, `layers` and `heads`.
    pub(crate) fn parse(arguments: &Arguments, site: &SiteArray, layout: &Layout) -> Result<Self> {
        Ok(Self {
            spans: Spans::new(rows(arguments, site)?, site.n_row(), layout.chunk_rows),
            layers: layers(arguments, site)?,
            heads: heads(arguments, site, layout)?,
        })
    }

    /// Selected heads of a row; 1 where there is no such axis.
    pub(crate) fn n_head(&self) -> usize {
        self.heads.as_ref().map_or(1, Vec::len)
    }
}

/// The argument `rows`, sorted, each number once; `None` for all rows.
pub(crate) fn rows(arguments: &Arguments, site: &SiteArray) -> Result<Option<Vec<u64>>> {
    let Some(rows) = arguments.indices("rows")?.map(sorted) else { return Ok(None) };
    if let Some(&row) = rows.last()
        && row >= site.n_row() as u64
    {
        return Err(beyond("row", row, site.name(), site.n_row()));
    }
    Ok(Some(rows))
}

/// The argument `layers`, sorted, each number once; all captured layers where it was left out.
pub(crate) fn layers(arguments: &Arguments, site: &SiteArray) -> Result<Vec<usize>> {
    let spec = site.spec();
    let asked = arguments.indices("layers")?;
    match (spec.n_layer, asked) {
        (None, None) => Ok(vec![0]),
        (None, Some(_)) => Err(Failure::new(format!(
            "site `{}` has no layer axis: leave `layers` out",
            site.name()
        ))),
        (Some(_), None) => Ok(sorted(spec.layers.clone())),
        (Some(_), Some(asked)) => {
            let layers: Vec<usize> = sorted(asked).into_iter().map(saturated).collect();
            for &layer in &layers {
                if !spec.layers.contains(&layer) {
                    return Err(site.layer_error(layer).into());
                }
            }
            Ok(layers)
        }
    }
}

fn heads(arguments: &Arguments, site: &SiteArray, layout: &Layout) -> Result<Option<Vec<usize>>> {
    let asked = arguments.indices("heads")?;
    let Some((axis, n_head)) = &layout.head_axis else {
        return match asked {
            None => Ok(None),
            Some(_) => Err(Failure::new(format!(
                "site `{}` has no head axis: leave `heads` out",
                site.name()
            ))),
        };
    };
    let heads: Vec<usize> = match asked {
        None => (0..*n_head).collect(),
        Some(asked) => sorted(asked).into_iter().map(saturated).collect(),
    };
    match heads.last() {
        Some(&head) if head >= *n_head => Err(beyond(axis, head, site.name(), *n_head)),
        _ => Ok(Some(heads)),
    }
}

/// The error for an index past the end of an axis.
pub(crate) fn beyond(
    axis: &str,
    index: impl std::fmt::Display,
    site: &str,
    length: usize,
) -> Failure {
    Failure::new(format!(
        "{axis} {index} does not exist: `{axis}` of site `{site}` has length {length}"
    ))
}

fn sorted<T: Ord>(mut numbers: Vec<T>) -> Vec<T> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn saturated(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
