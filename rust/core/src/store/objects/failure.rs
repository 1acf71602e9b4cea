//! What a server's refusal means, in the crate's own words: the URL, the status, the remedy.

use std::{error::Error as _, io, path::Path};

use super::client::Failed;
use crate::error::{Error, Result};

/// The crate's error for a request about `path` that failed.
pub(super) fn failed(path: &Path, error: impl Into<Failed>) -> Error {
    match error.into() {
        Failed::Store(error) => translate(path, &error),
        Failed::Interrupted => Error::Interrupted,
        Failed::Lost => remote(path, "the request was lost with the thread that made it"),
    }
}

/// An object of which fewer bytes came than its server promised.
pub(super) fn short(path: &Path, end: u64) -> Error {
    Error::damaged(path, format!("it ends before byte {end}"))
}

fn translate(path: &Path, error: &object_store::Error) -> Error {
    use object_store::Error as E;
    let said = said(error);
    match error {
        // A list that is refused comes as `Generic`, with the server's answer in its words.
        E::NotFound { .. } | E::Generic { .. } if said.contains("NoSuchBucket") => {
            remote(path, "there is no such bucket (404): create it, or correct the URL")
        }
        E::NotFound { .. } => Error::io(path, io::ErrorKind::NotFound.into()),
        E::AlreadyExists { .. } => Error::io(path, io::ErrorKind::AlreadyExists.into()),
        E::Precondition { .. } | E::NotModified { .. } => Error::Replaced { path: path.to_owned() },
        _ if lacks_range(&said) => Error::damaged(path, "it has not the bytes that are read of it"),
        _ if is_denied(error, &said) => {
            let status = if matches!(error, E::Unauthenticated { .. }) { 401 } else { 403 };
            let what = format!(
                "access was denied ({status}): AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be \
                 those of someone who may do this in the bucket"
            );
            remote(path, &what)
        }
        _ if asks_for_credentials(&said) => remote(
            path,
            "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
             AWS_SKIP_SIGNATURE=true for a bucket that anyone may read",
        ),
        _ if is_unreachable(error) => {
            let what = format!(
                "its server cannot be reached ({}): correct AWS_ENDPOINT_URL, or AWS_REGION for \
                 Amazon's own",
                root(error)
            );
            remote(path, &what)
        }
        _ => remote(path, &said),
    }
}

fn remote(path: &Path, what: &str) -> Error {
    Error::Remote { path: path.to_owned(), what: what.to_owned() }
}

fn is_denied(error: &object_store::Error, said: &str) -> bool {
    use object_store::Error as E;
    let codes = ["<Code>AccessDenied", "<Code>InvalidAccessKeyId", "<Code>SignatureDoesNotMatch"];
    matches!(error, E::PermissionDenied { .. } | E::Unauthenticated { .. })
        || codes.iter().any(|code| said.contains(code))
}

/// Without keys the client asks the metadata service of Amazon's machines, which only those have.
fn asks_for_credentials(said: &str) -> bool {
    let signs = [
        "/latest/api/token",
        "/latest/meta-data",
        "Missing AccessKeyId",
        "Missing SecretAccessKey",
    ];
    signs.iter().any(|sign| said.contains(sign))
}

/// The answer for a range that begins behind an object's end; some servers send an empty object whole.
fn lacks_range(said: &str) -> bool {
    said.contains("416 Range Not Satisfiable") || said.contains("non-partial response")
}

fn is_unreachable(error: &object_store::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<object_store::client::HttpError>() {
            return http.kind() == object_store::client::HttpErrorKind::Connect;
        }
        cause = error.source();
    }
    false
}

/// The last cause, such as "Connection refused (os error 111)".
fn root(error: &object_store::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said = error.to_string();
        cause = error.source();
    }
    said
}

/// All that the client says, on one line.
fn said(error: &object_store::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `None` where there is nothing.
pub(crate) fn if_found<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
