//! The one error of the crate: data, not sentences. Variants hold the numbers; `Display` makes the paragraph.

use std::{
    io,
    path::{Path, PathBuf},
};

/// What every fallible function of the crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong between a path on disk and an array in memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused; `is_disk_full` tells a full disk from the rest.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder the call was about.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A server that keeps objects refused, or could not be reached.
    #[error("{}: {what}", path.display())]
    Remote {
        /// The URL the request was about.
        path: PathBuf,
        /// What the server said and what can be done.
        what: String,
    },
    /// An object took the place of the one that was being read.
    #[error("{} was replaced while it was read: open the store again", path.display())]
    Replaced {
        /// The object's URL.
        path: PathBuf,
    },
    /// The user wanted to stop; see `interrupt`.
    #[error("interrupted")]
    Interrupted,
    /// The folder is not a residuum store.
    #[error("{} is not a residuum store: {why}", path.display())]
    NotAStore {
        /// The folder that was to be opened.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// A store already lies where one was to be made.
    #[error("{} already holds a store with commits; open it instead of creating it", path.display())]
    StoreExists {
        /// The store's folder.
        path: PathBuf,
    },
    /// The store was written by a newer residuum.
    #[error(
        "{} has store format {found}; this residuum reads format {supported}: install a newer one",
        path.display()
    )]
    NewerFormat {
        /// The file that names the format.
        path: PathBuf,
        /// The format found.
        found: u64,
        /// The newest format this version reads.
        supported: u64,
    },
    /// A file of the store says something impossible or its checksum does not hold.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file that the last commit promises is not there.
    #[error("{} is missing: {why}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Why it should be there.
        why: String,
    },
    /// Rows that are asked for where they lie, and lie nowhere as they are.
    #[error("`{array}` cannot be viewed: {why}; read it instead")]
    NotMapped {
        /// The array.
        array: String,
        /// Why not.
        why: String,
    },
    /// A name that is no site at all.
    #[error("`{name}` is not a site; the sites are {}", known.join(", "))]
    UnknownSite {
        /// The name asked for.
        name: String,
        /// Every site residuum knows.
        known: Vec<String>,
    },
    /// A site that this store does not hold.
    #[error("site `{name}` was not captured in this store; it holds {}", list(captured))]
    SiteNotCaptured {
        /// The site asked for.
        name: String,
        /// The sites captured.
        captured: Vec<String>,
    },
    /// A layer that this store does not hold.
    #[error(
        "layer {layer} of `{site}` was not captured; the captured layers are {}",
        numbers(captured)
    )]
    LayerNotCaptured {
        /// The site.
        site: String,
        /// The layer asked for.
        layer: usize,
        /// The layers captured.
        captured: Vec<usize>,
    },
    /// An index beyond the end of its axis.
    #[error("{axis} {index} is out of range for `{site}`, whose axis `{axis}` has length {length}")]
    OutOfRange {
        /// The array.
        site: String,
        /// The axis, in the singular.
        axis: String,
        /// The index asked for.
        index: u64,
        /// The axis's length.
        length: usize,
    },
    /// An axis was selected on that the site does not have.
    #[error("`{site}` has no axis `{axis}` to select on; its axes are {}", list(axes))]
    NoAxis {
        /// The array.
        site: String,
        /// The axis asked for.
        axis: String,
        /// The axes it has.
        axes: Vec<String>,
    },
    /// A buffer of the wrong length.
    #[error("{what} is {found} long but must be {expected}")]
    Length {
        /// Which buffer.
        what: String,
        /// Its length.
        found: usize,
        /// The length it must have.
        expected: usize,
    },
    /// An element type that the array cannot be read as or written from.
    #[error("`{array}` holds {stored} and cannot be {verb} {asked}")]
    Dtype {
        /// The array.
        array: String,
        /// The dtype on disk.
        stored: &'static str,
        /// "read as" or "written from".
        verb: &'static str,
        /// The other type.
        asked: &'static str,
    },
    /// A description of an array that cannot be stored.
    #[error("`{array}` cannot be stored: {why}")]
    BadSpec {
        /// The array.
        array: String,
        /// What is impossible.
        why: String,
    },
    /// A tensor that the weights file does not hold.
    #[error("{} has no tensor `{name}`; it holds {}", path.display(), list(known))]
    NoTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor asked for.
        name: String,
        /// The tensors it holds.
        known: Vec<String>,
    },
    /// Another process writes this store.
    #[error("{} is locked: another process is writing this store", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A row was handed to the writer twice.
    #[error("row {row} of `{array}`{} was written twice", layer_suffix(*layer))]
    RowTwice {
        /// The array.
        array: String,
        /// The layer, where the array has layers.
        layer: Option<usize>,
        /// The row.
        row: usize,
    },
    /// A commit covers a row that never came.
    #[error(
        "row {row} of `{array}`{} was never written, but the commit covers it",
        layer_suffix(*layer)
    )]
    RowMissing {
        /// The array.
        array: String,
        /// The layer, where the array has layers.
        layer: Option<usize>,
        /// The row.
        row: usize,
    },
    /// A commit that contradicts the one before or the state of the writer.
    #[error("cannot commit: {why}")]
    BadCommit {
        /// The contradiction.
        why: String,
    },
    /// Arrays or layers that cannot be added to the rows of a store.
    #[error("cannot add to the rows of {}: {why}", path.display())]
    CannotGrow {
        /// The store's folder.
        path: PathBuf,
        /// What stands in the way.
        why: String,
    },
    /// A store of int8 codes cannot be added to: what they lose was measured when it was made.
    #[error(
        "{}: `{array}` is int8, to which nothing can be added: add to the store that it was exported from, then \
         export that again",
        path.display()
    )]
    LossyStore {
        /// The store's folder.
        path: PathBuf,
        /// The first such array.
        array: String,
    },
    /// The memory budget is too small for even one row of one array.
    #[error("a memory budget of {budget} bytes is too small for `{array}`, which needs {needed}")]
    Budget {
        /// The array.
        array: String,
        /// The budget given.
        budget: usize,
        /// The least that would do.
        needed: usize,
    },
    /// Two arrays handed to a kernel disagree on the length of an axis they share.
    #[error("axis `{axis}` is {} in {} but {} in {}", left.1, left.0, right.1, right.0)]
    AxisMismatch {
        /// The axis.
        axis: &'static str,
        /// One array and its length.
        left: (&'static str, usize),
        /// The other array and its length.
        right: (&'static str, usize),
    },
    /// An argument of a kernel outside what it can compute with.
    #[error("{what}")]
    Argument {
        /// Which argument, its value and what would do.
        what: String,
    },
    /// The writer stopped at an earlier error, which was reported when it happened.
    #[error("the writer stopped at an earlier error: {first}")]
    WriterStopped {
        /// The earlier error, as text.
        first: String,
    },
}

impl Error {
    /// Wraps an I/O error with the path it was about.
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// Says what is wrong with a file of the store.
    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.into() }
    }

    /// Refuses an argument of a kernel.
    pub(crate) fn argument(what: impl Into<String>) -> Self {
        Self::Argument { what: what.into() }
    }

    /// True if there is nothing at the place that the error is about.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// True if something is there that was to be made.
    pub(crate) fn is_already_there(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    }

    /// True if an object was replaced between two reads of it.
    pub(crate) fn is_replaced(&self) -> bool {
        matches!(self, Self::Replaced { .. })
    }

    /// True if the disk or the user's quota is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// The file or folder the error is about, where there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Io { path, .. }
            | Self::Remote { path, .. }
            | Self::Replaced { path }
            | Self::NotAStore { path, .. }
            | Self::StoreExists { path }
            | Self::NewerFormat { path, .. }
            | Self::Damaged { path, .. }
            | Self::Missing { path, .. }
            | Self::NoTensor { path, .. }
            | Self::LossyStore { path, .. }
            | Self::Locked { path } => Some(path),
            _ => None,
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn numbers(values: &[usize]) -> String {
    list(&values.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn layer_suffix(layer: Option<usize>) -> String {
    layer.map_or_else(String::new, |layer| format!(", layer {layer},"))
}
