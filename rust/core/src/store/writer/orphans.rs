//! Removing what no commit speaks of: shards beyond the last one, layers and arrays that were never finished.

use std::path::Path;

use crate::{
    error::Result,
    store::{commit::Commit, files, objects, spec::ArraySpec},
};

/// An array's spec, and the rows of it in shards that count.
type Kept<'a> = (&'a ArraySpec, usize);

/// Removes shards, and their statistics, that a crash left: they lie wholly beyond the commit `last`, or in layers
/// or arrays that are neither `stored` nor `growing` there.
pub(super) fn remove(
    store: &Path,
    last: &Commit,
    stored: &[ArraySpec],
    growing: &[ArraySpec],
) -> Result<()> {
    let there = stored.iter().map(|spec| (spec, last.physical_rows.get(spec.row_space)));
    let coming = growing.iter().map(|spec| (spec, last.published_rows().get(spec.row_space)));
    let kept: Vec<Kept> = there.chain(coming).collect();
    for group in ["activations", "index", "statistics"] {
        for folder in files::children(&store.join(group))? {
            let name = folder.file_name().and_then(|name| name.to_str());
            let (Some(name), true) = (name, is_folder(&folder)) else { continue };
            let path = if group == "index" { "index" } else { "activations" };
            let path = format!("{path}/{name}");
            let mine: Vec<Kept> = kept.iter().copied().filter(|(s, _)| s.path == path).collect();
            if mine.is_empty() {
                files::remove_tree(&folder)?;
            } else {
                clean(&folder.join("c"), &mine)?;
            }
        }
    }
    Ok(())
}

/// Removes shards of one array that are not kept.
fn clean(shards: &Path, kept: &[Kept]) -> Result<()> {
    let layered = kept.iter().any(|(spec, _)| spec.n_layer.is_some());
    if objects::is_url(shards) {
        return clean_objects(shards, kept, layered);
    }
    for path in files::children(shards)? {
        let Some(shard) = number(&path) else { continue };
        if !layered {
            remove_unless(&path, kept.iter().any(|kept| holds(kept, shard)))?;
            continue;
        }
        for child in files::children(&path)? {
            let Some(layer) = number(&child) else { continue };
            let mut owners = kept.iter().filter(|(spec, _)| spec.layers.contains(&layer));
            remove_unless(&child, owners.any(|kept| holds(kept, shard)))?;
        }
        if files::children(&path)?.is_empty() {
            files::remove_tree(&path)?;
        }
    }
    Ok(())
}

/// The same in a bucket, where one list tells of all of them.
fn clean_objects(shards: &Path, kept: &[Kept], layered: bool) -> Result<()> {
    for (object, _) in objects::list(shards)? {
        let mut key = object.strip_prefix(shards).into_iter().flatten().map(Path::new);
        let Some(shard) = key.next().and_then(number) else { continue };
        let layer = key.next().and_then(number);
        let is_kept = kept.iter().any(|one| {
            (!layered || layer.is_some_and(|layer| one.0.layers.contains(&layer)))
                && holds(one, shard)
        });
        if !is_kept {
            files::remove(&object)?;
        }
    }
    Ok(())
}

fn holds((spec, rows): &Kept, shard: usize) -> bool {
    shard < rows.div_ceil(spec.shard_rows)
}

fn remove_unless(path: &Path, kept: bool) -> Result<()> {
    match kept {
        true => Ok(()),
        false if is_folder(path) => files::remove_tree(path),
        false => files::remove(path),
    }
}

/// Whether a path has others below. That of an object does not say, but there is only one that has not.
fn is_folder(path: &Path) -> bool {
    if objects::is_url(path) { !path.ends_with("zarr.json") } else { path.is_dir() }
}

fn number(path: &Path) -> Option<usize> {
    path.file_name()?.to_str()?.parse().ok()
}
