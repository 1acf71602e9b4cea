//! The argument `directions`: vectors of the joint space, or a store of texts that holds them.

use residuum_core::{Rows, Store};
use serde_json::Value as Json;

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
    images: &Store,
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
        _ => of_texts(&value.text(), images, d_embed)?,
    };
    if names.is_empty() {
        return Err(Failure::new("`directions` is empty: give one at least"));
    }
    if !vectors.iter().all(|value| value.is_finite()) {
        return Err(Failure::new("`directions` holds NaN or infinity"));
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

fn of_texts(path: &str, images: &Store, d_embed: usize) -> Result<(Vec<u64>, Vec<f32>)> {
    let store = registry::open(path)?;
    let site = store.site("pooled")?;
    check_texts(path, &store, images)?;
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

/// Refuses what are no texts, or texts of another checkpoint: their space has the same width only.
///
/// Hashes of models that were handed over loaded say nothing, each tower may have its own.
fn check_texts(path: &str, texts: &Store, images: &Store) -> Result<()> {
    let of = |store: &Store, at| {
        store.attributes().pointer(at).and_then(Json::as_str).unwrap_or_default().to_owned()
    };
    let family = of(texts, "/model/family");
    if family != "clip_text" {
        return Err(Failure::new(format!(
            "{path} holds {family}, not texts: capture texts with the text tower of the model"
        )));
    }
    let hashes = [of(texts, "/model/weights_hash"), of(images, "/model/weights_hash")];
    if hashes[0] != hashes[1] && hashes.iter().all(|hash| hash.starts_with("sha256-files:")) {
        return Err(Failure::new(format!(
            "the texts of {path} are of another model than the images of {}: capture them with the \
             text tower of the same checkpoint",
            images.path().display()
        )));
    }
    Ok(())
}

fn arrays() -> Failure {
    Failure::new(
        "DuckDB hands FLOAT[n] over in no way that can be read: cast `directions` to FLOAT[][]",
    )
}
