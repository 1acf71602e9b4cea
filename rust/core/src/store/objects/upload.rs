//! Objects that are written: whole, and where that is asked for only if there is none of that name.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutPayload, UploadPart};
use tokio::runtime::Handle;

use super::{Place, client::wait, failure::failed, list};
use crate::error::{Error, Result};

/// Files up to this long are one request; longer ones are sent in parts of this length.
const PART_BYTES: u64 = 16 << 20;
/// Parts of one file that are on their way, and in memory, at a time.
const PARTS: usize = 4;

/// Writes an object, replacing one of that name.
pub(crate) fn put(path: &Path, bytes: Vec<u8>) -> Result<()> {
    put_as(path, bytes, PutMode::Overwrite)
}

/// Writes an object unless there is one of that name: then `Io` says that it exists already.
pub(crate) fn create(path: &Path, bytes: Vec<u8>) -> Result<()> {
    put_as(path, bytes, PutMode::Create)
}

/// Writes an object if there is none of that name; says whether it did.
///
/// # Errors
/// `Remote` if the server refuses or cannot be reached.
pub fn create_new(path: &Path, bytes: Vec<u8>) -> Result<bool> {
    match create(path, bytes) {
        Err(error) if error.is_already_there() => Ok(false),
        made => made.map(|()| true),
    }
}

fn put_as(path: &Path, bytes: Vec<u8>, mode: PutMode) -> Result<()> {
    let place = Place::of(path)?;
    wait(async move {
        place.bucket.put_opts(&place.key, PutPayload::from(bytes), mode.into()).await
    })
    .map_err(|error| failed(path, error))?;
    Ok(())
}

/// Copies a file to an object, replacing one of that name; readers see the old bytes or the new ones.
///
/// # Errors
/// `Remote` if the server refuses or cannot be reached, `Io` if the file cannot be read.
pub fn put_file(from: &Path, to: &Path) -> Result<()> {
    let fail = |error| Error::io(from, error);
    let mut file = File::open(from).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    if length > PART_BYTES {
        return put_in_parts(from, file, to);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.read_to_end(&mut bytes).map_err(fail)?;
    put(to, bytes)
}

fn put_in_parts(from: &Path, file: File, to: &Path) -> Result<()> {
    let place = Place::of(to)?;
    let sent = wait(async move {
        let mut upload = Upload(Some(place.bucket.put_multipart(&place.key).await?));
        match send_parts(file, |part| upload.parts().put_part(part)).await? {
            Ok(()) => upload.complete().await.map(Ok),
            Err(error) => Ok(Err(error)),
        }
    });
    sent.map_err(|error| failed(to, error))?.map_err(|error| Error::io(from, error))
}

/// An upload in parts. One that does not come to its end is given up: its parts would stay in the bucket unseen,
/// and be paid for.
struct Upload(Option<Box<dyn MultipartUpload>>);

impl Upload {
    fn parts(&mut self) -> &mut dyn MultipartUpload {
        self.0.as_deref_mut().unwrap_or_else(|| unreachable!("taken only at the end"))
    }

    async fn complete(mut self) -> object_store::Result<()> {
        self.parts().complete().await?;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Also dropped when the user gives up, on a thread of the runtime then too.
        if let (Some(mut upload), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move { upload.abort().await });
        }
    }
}

/// Sends a file's parts; the inner error is that of reading the file.
async fn send_parts(
    mut file: File,
    mut send: impl FnMut(PutPayload) -> UploadPart,
) -> object_store::Result<io::Result<()>> {
    let mut on_their_way: std::collections::VecDeque<_> = std::collections::VecDeque::new();
    loop {
        let mut part = Vec::new();
        if let Err(error) = Read::by_ref(&mut file).take(PART_BYTES).read_to_end(&mut part) {
            return Ok(Err(error));
        }
        if part.is_empty() {
            break;
        }
        if on_their_way.len() == PARTS {
            finish(on_their_way.pop_front()).await?;
        }
        on_their_way.push_back(tokio::spawn(send(PutPayload::from(part))));
    }
    while let Some(part) = on_their_way.pop_front() {
        finish(Some(part)).await?;
    }
    Ok(Ok(()))
}

async fn finish(
    part: Option<tokio::task::JoinHandle<object_store::Result<()>>>,
) -> object_store::Result<()> {
    match part {
        Some(part) => part.await?,
        None => Ok(()),
    }
}

/// Removes an object; fine if it is not there.
///
/// # Errors
/// `Remote` if the server refuses or cannot be reached.
pub fn remove(path: &Path) -> Result<()> {
    let place = Place::of(path)?;
    match wait(async move { place.bucket.delete(&place.key).await })
        .map_err(|error| failed(path, error))
    {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Removes an object and all below it; fine if there is nothing.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    let below: Vec<PathBuf> = list(path)?.into_iter().map(|(object, _)| object).collect();
    below.iter().try_for_each(|object| remove(object))?;
    remove(path)
}
