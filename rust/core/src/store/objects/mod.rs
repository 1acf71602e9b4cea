//! Stores in a bucket: what the store asks of files, asked of a server that speaks S3.
//!
//! A path that begins with `s3://` is an object's URL and goes through here; `files` and `shards` send it. Calls
//! wait for the server on the caller's thread; requests of one call run side by side.
//!
//! ```text
//! files ───▶ whole objects, lists, uploads ──▶ client (one per bucket) ──▶ runtime (threads of its own)
//! shards ──▶ Object ──▶ fetch (ranges, merged) ──▶ Fetched
//! ```

mod client;
mod failure;
mod fetch;
mod ranges;
mod upload;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::SystemTime,
};

use futures_util::TryStreamExt;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, path::Path as Key,
};

pub use self::upload::{create_new, put_file, remove};
use self::{
    client::{Pending, Place, SLOTS, start, wait},
    failure::{failed, if_found},
};
pub(crate) use self::{
    fetch::{Fetched, Fetching, REQUEST_BYTES},
    ranges::{MOST_GAP, merge},
    upload::{create, put, remove_tree},
};
use crate::error::{Error, Result};

/// What the URL of an object begins with.
const SCHEME: &str = "s3://";

/// Whether a path is the URL of an object.
pub fn is_url(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.starts_with(SCHEME))
}

/// An object that is read in parts. All of them come from the object as it was opened: one that took its place
/// since gives `Error::Replaced`.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    path: PathBuf,
    place: Place,
    len: u64,
    etag: Option<String>,
}

impl Object {
    /// Looks for the object; reads nothing of it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let place = Place::of(path)?;
        let meta = head(path, &place)?;
        Ok(Self { path: path.to_owned(), place, len: meta.size, etag: meta.e_tag })
    }

    /// Opens the object and reads its end, all of it if it is shorter, with one request.
    pub(crate) fn open_tail(path: &Path, tail: Tail) -> Result<Opening> {
        let place = Place::of(path)?;
        let (key, bucket) = (place.key.clone(), place.bucket.clone());
        let get = move |range| {
            let (key, bucket) = (key.clone(), bucket.clone());
            let options = GetOptions { range, ..GetOptions::default() };
            async move { bucket.get_opts(&key, options).await }
        };
        let last = Some(GetRange::Suffix(tail.bytes));
        let answer = start(async move {
            let _slot = SLOTS.acquire().await;
            let mut found = get(if tail.is_all { None } else { last.clone() }).await?;
            if found.range.end - found.range.start > tail.bytes {
                found = get(last).await?;
            }
            Ok((found.meta.clone(), found.bytes().await?))
        });
        let answer = answer.map_err(|error| failed(path, error))?;
        Ok(Opening { path: path.to_owned(), place, answer })
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` from `offset`; an object that ends before is damaged.
    pub(crate) fn read_at(&self, out: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.saturating_add(out.len() as u64);
        if end > self.len {
            return Err(Error::damaged(&self.path, format!("it ends before byte {end}")));
        }
        if !out.is_empty() {
            self.fetch(std::iter::once(offset..end).collect())?.wait()?.copy(offset, out)?;
        }
        Ok(())
    }

    /// Asks for ranges, which are sorted and lie in the object; they come while others are asked for.
    pub(crate) fn fetch(&self, ranges: Vec<Range<u64>>) -> Result<Fetching> {
        Fetching::begin(self, ranges)
    }
}

/// The end of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    /// How long it is.
    pub(crate) bytes: u64,
    /// Whether that should be all of the object: a request without a range is the cheapest to answer.
    pub(crate) is_all: bool,
}

impl Tail {
    /// The last bytes of a longer object.
    pub(crate) fn last(n: usize) -> Self {
        Self { bytes: n as u64, is_all: false }
    }
}

/// An object whose tail was asked for.
#[derive(Debug)]
pub(crate) struct Opening {
    path: PathBuf,
    place: Place,
    answer: Pending<(ObjectMeta, bytes::Bytes)>,
}

impl Opening {
    /// The object and its tail.
    pub(crate) fn wait(self) -> Result<(Object, Fetched)> {
        let Self { path, place, answer } = self;
        let (meta, tail) = answer.wait().map_err(|error| failed(&path, error))?;
        let fetched = Fetched::tail(&path, meta.size, tail);
        Ok((Object { path, place, len: meta.size, etag: meta.e_tag }, fetched))
    }
}

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// When it was last written.
    pub modified: SystemTime,
    /// Its length in bytes.
    pub len: u64,
    /// What its server says changes with its bytes.
    pub etag: Option<String>,
}

impl Stamp {
    fn of(meta: ObjectMeta) -> Self {
        Self { modified: meta.last_modified.into(), len: meta.size, etag: meta.e_tag }
    }
}

/// Reads an object whole, refusing one of more than `most` bytes before its bytes come.
///
/// # Errors
/// `Remote` if the server refuses or cannot be reached, `Io` if there is no such object, `Damaged` if it is too long.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let place = Place::of(path)?;
    let found = wait(async move {
        let found = place.bucket.get(&place.key).await?;
        let len = found.meta.size;
        Ok(if len > most { Err(len) } else { Ok(found.bytes().await?) })
    })
    .map_err(|error| failed(path, error))?;
    let too_long = |len| Error::damaged(path, format!("{len} bytes are too many for this file"));
    Ok(found.map_err(too_long)?.into())
}

/// When an object was written, and what tells it from the one before; `None` where there is none.
///
/// # Errors
/// `Remote` if the server refuses or cannot be reached.
pub fn stamp(path: &Path) -> Result<Option<Stamp>> {
    Ok(if_found(head(path, &Place::of(path)?))?.map(Stamp::of))
}

/// Length of an object in bytes; `None` where there is none.
///
/// # Errors
/// `Remote` if the server refuses or cannot be reached.
pub fn length(path: &Path) -> Result<Option<u64>> {
    Ok(stamp(path)?.map(|stamp| stamp.len))
}

/// The first of many objects that is not there; asks for them side by side.
pub(crate) fn first_missing(paths: &[PathBuf]) -> Result<Option<PathBuf>> {
    let places = paths.iter().map(|path| Place::of(path)).collect::<Result<Vec<_>>>()?;
    for (paths, places) in paths.chunks(client::REQUESTS).zip(places.chunks(client::REQUESTS)) {
        let asked = paths.iter().zip(places).map(|(path, place)| ask(path, place));
        let asked = asked.collect::<Result<Vec<_>>>()?;
        for (path, asked) in paths.iter().zip(asked) {
            match asked.wait().map_err(|error| failed(path, error)) {
                Ok(_) => {}
                Err(error) if error.is_not_found() => return Ok(Some(path.clone())),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(None)
}

/// URLs of what lies directly below a prefix: objects, and prefixes of others.
pub(crate) fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let place = Place::of(folder)?;
    let found = wait(async move { place.bucket.list_with_delimiter(Some(&place.key)).await })
        .map_err(|error| failed(folder, error))?;
    let objects = found.objects.into_iter().map(|meta| meta.location);
    let names = found.common_prefixes.into_iter().chain(objects);
    Ok(names.filter_map(|key| key.filename().map(|name| folder.join(name))).collect())
}

/// Part of an object; a range that it does not have is damage.
///
/// # Errors
/// `Remote` if the server refuses or cannot be reached, `Io` if there is no such object, `Damaged`.
pub fn read_range(path: &Path, range: Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0)];
    Object::open(path)?.read_at(&mut bytes, range.start)?;
    Ok(bytes)
}

/// All objects below a prefix, by URL, sorted.
///
/// # Errors
/// `Remote` if the server refuses or cannot be reached.
pub fn list(folder: &Path) -> Result<Vec<(PathBuf, Stamp)>> {
    let place = Place::of(folder)?;
    let below = place.key.clone();
    let found: Vec<ObjectMeta> =
        wait(async move { place.bucket.list(Some(&place.key)).try_collect().await })
            .map_err(|error| failed(folder, error))?;
    let named = |meta: ObjectMeta| {
        let rest = meta.location.prefix_match(&below)?;
        let names: Vec<_> = rest.map(|name| name.as_ref().to_owned()).collect();
        let url = names.iter().fold(folder.to_owned(), |path, name| path.join(name));
        Some((url, Stamp::of(meta)))
    };
    let mut objects: Vec<_> = found.into_iter().filter_map(named).collect();
    objects.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(objects)
}

fn head(path: &Path, place: &Place) -> Result<ObjectMeta> {
    ask(path, place)?.wait().map_err(|error| failed(path, error))
}

/// Asks what is known of an object.
fn ask(path: &Path, place: &Place) -> Result<Pending<ObjectMeta>> {
    let place = place.clone();
    start(async move { place.bucket.head(&place.key).await }).map_err(|error| failed(path, error))
}

/// Refuses a URL that no store can have.
pub(crate) fn check(store: &Path) -> Result<()> {
    split(store).map(drop)
}

/// Bucket and key of a URL.
fn split(path: &Path) -> Result<(String, Key)> {
    let text = path.to_string_lossy();
    let (bucket, key) =
        text.strip_prefix(SCHEME).unwrap_or(&text).split_once('/').unwrap_or_default();
    let bad = |why: &str| Error::Remote { path: path.to_owned(), what: why.to_owned() };
    if bucket.is_empty() || key.trim_matches('/').is_empty() {
        return Err(bad("a store in a bucket is named s3://<bucket>/<name>"));
    }
    let key = Key::parse(key).map_err(|error| bad(&format!("it names no object: {error}")))?;
    Ok((bucket.to_owned(), key))
}
