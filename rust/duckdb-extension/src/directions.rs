//! The argument `directions`: vectors of the joint space, or a store of texts that holds them.

use residuum_core::Rows;

use crate::examples::Examples;
use crate::failure::{Failure, Result};
use crate::ffi::value::{Arguments, Kind, Value, float_elements};
use crate::readout::read_layer;
use crate::registry;

/// Numbers of the directions, and the directions `[direction, d_embed]`.
///
/// A list of vectors is taken as it is, numbered from 0; one vector is a list of it. The path of a
/// store with the site `pooled` gives a unit vector for each of its examples, with its number.
///
/// # Errors
/// If the argument was left out, is neither, or its vectors are of another width.
pub(crate) fn directions(
    arguments: &Arguments,
    function: &str,
    d_embed: usize,
) -> Result<(Vec<u64>, Vec<f32>)> {
    let Some(value) = arguments.option("directions") else {
        return Err(Failure::new(format!(
            "{function} needs `directions := …`: vectors [[…], …] of {d_embed} numbers, or the path \
             of a store of texts (site pooled)"
        )));
    };
    let (names, vectors) = match value.kind() {
        Kind::List => listed(&value, d_embed)?,
        Kind::Array => return Err(arrays()),
        _ => of_texts(&value.text(), d_embed)?,
    };
    if names.is_empty() {
        return Err(Failure::new("`directions` is empty: give one at least"));
    }
    Ok((names, vectors))
}

fn listed(value: &Value, d_embed: usize) -> Result<(Vec<u64>, Vec<f32>)> {
    let elements: Vec<Option<Value>> = value.elements().collect();
    let kinds: Vec<Kind> = elements.iter().flatten().map(Value::kind).collect();
    if kinds.contains(&Kind::Array) {
        return Err(arrays());
    }
    let vectors = if kinds.contains(&Kind::List) {
        let read = |element: &Option<Value>| match element {
            Some(vector) => float_elements(vector, "directions"),
            None => Err(Failure::new("`directions` holds a NULL")),
        };
        elements.iter().map(read).collect::<Result<Vec<_>>>()?
    } else if elements.is_empty() {
        Vec::new()
    } else {
        vec![float_elements(value, "directions")?]
    };
    if let Some(vector) = vectors.iter().find(|vector| vector.len() != d_embed) {
        let n = vector.len();
        return Err(Failure::new(format!(
            "a direction has {n} numbers, but the joint space of the model is {d_embed} wide"
        )));
    }
    Ok(((0..vectors.len() as u64).collect(), vectors.concat()))
}

fn of_texts(path: &str, d_embed: usize) -> Result<(Vec<u64>, Vec<f32>)> {
    let store = registry::open(path)?;
    let site = store.site("pooled")?;
    if site.spec().row_len() != d_embed {
        let n = site.spec().row_len();
        return Err(Failure::new(format!(
            "texts of {path} are {n} wide, but the joint space of the model is {d_embed} wide: \
             capture them with the text tower of the same model"
        )));
    }
    let examples = Examples::of(&store)?;
    let rows = &examples.example_row;
    let mut vectors = read_layer(site, Rows::Index(rows), rows.len(), None)?;
    for vector in vectors.chunks_exact_mut(d_embed.max(1)) {
        let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        for value in vector {
            *value /= length;
        }
    }
    Ok((examples.example, vectors))
}

fn arrays() -> Failure {
    Failure::new(
        "DuckDB hands FLOAT[n] over in no way that can be read: cast `directions` to FLOAT[][]",
    )
}
