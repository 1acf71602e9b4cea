//! One client per bucket, and the threads that its requests run on.

use std::{
    collections::HashMap,
    ffi::OsString,
    future::Future,
    path::Path,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    time::Duration,
};

use object_store::{
    BackoffConfig, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path as Key,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
    task::JoinHandle,
};

use super::{failure::failed, split};
use crate::{
    error::{Error, Result},
    interrupt,
};

/// Requests under way at a time, over all buckets.
pub(super) const REQUESTS: usize = 32;
/// Threads that requests run on; they only move bytes.
const THREADS: usize = 2;
/// How often a request that is waited for asks whether the user wants to stop.
const ASK: Duration = Duration::from_millis(100);

/// Lets `REQUESTS` requests run at a time.
pub(super) static SLOTS: Semaphore = Semaphore::const_new(REQUESTS);

/// The settings that a client was made of, with its bucket.
type Settings = (String, Vec<(OsString, OsString)>);

static CLIENTS: LazyLock<Mutex<HashMap<Settings, Arc<AmazonS3>>>> = LazyLock::new(Mutex::default);

static RUNTIME: LazyLock<std::io::Result<Runtime>> = LazyLock::new(|| {
    // Two libraries in one program may each choose a provider; the first choice serves both.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("residuum-s3")
        .enable_all()
        .build()
});

/// Where an object is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(super) bucket: Arc<AmazonS3>,
    pub(super) key: Key,
}

impl Place {
    /// The place of a URL, by the environment's `AWS_` variables.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let (bucket, key) = split(path)?;
        Ok(Self { bucket: client(path, bucket)?, key })
    }
}

/// The client of a bucket. One is made for each environment: a program may change its credentials.
fn client(path: &Path, bucket: String) -> Result<Arc<AmazonS3>> {
    let mut variables: Vec<_> = std::env::vars_os()
        .filter(|(name, _)| name.to_string_lossy().starts_with("AWS_"))
        .collect();
    variables.sort_unstable();
    let settings = (bucket, variables);
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(client) = clients.get(&settings) {
        return Ok(Arc::clone(client));
    }
    check_endpoint(path, &settings.1)?;
    // Before the client, which needs what is chosen there.
    runtime(path)?;
    let client = Arc::new(build(&settings).map_err(|error| failed(path, error))?);
    clients.insert(settings, Arc::clone(&client));
    Ok(client)
}

/// Refuses an endpoint that is no URL, with which the client would panic at its first request.
fn check_endpoint(path: &Path, variables: &[(OsString, OsString)]) -> Result<()> {
    for (name, value) in variables {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        let is_url = ["http://", "https://"].iter().any(|scheme| value.starts_with(scheme));
        if name.starts_with("AWS_ENDPOINT") && !value.is_empty() && !is_url {
            let what = format!("{name} is {value:?}, but must begin with http:// or https://");
            return Err(Error::Remote { path: path.to_owned(), what });
        }
    }
    Ok(())
}

fn build((bucket, variables): &Settings) -> object_store::Result<AmazonS3> {
    let builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
    // Who names an endpoint without TLS wants it; the variable AWS_ALLOW_HTTP says so for redirects too.
    let plain = variables.iter().any(|(name, value)| {
        name.to_string_lossy().starts_with("AWS_ENDPOINT")
            && value.to_string_lossy().starts_with("http://")
    });
    let builder = if plain { builder.with_allow_http(true) } else { builder };
    // A server that is not there should be reported in seconds, a busy one waited for.
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(5),
        base: 2.0,
    };
    let retry = RetryConfig { backoff, max_retries: 4, retry_timeout: Duration::from_secs(60) };
    builder.with_retry(retry).build()
}

fn runtime(path: &Path) -> Result<&'static Runtime> {
    RUNTIME.as_ref().map_err(|error| Error::io(path, error.kind().into()))
}

/// A request under way; given up when it is dropped.
#[derive(Debug)]
pub(super) struct Pending<T> {
    receive: Receiver<object_store::Result<T>>,
    task: JoinHandle<()>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    Store(object_store::Error),
    Interrupted,
    /// The runtime is gone, or a request panicked.
    Lost,
}

impl From<object_store::Error> for Failed {
    fn from(error: object_store::Error) -> Self {
        Self::Store(error)
    }
}

/// Begins a request.
pub(super) fn start<T: Send + 'static>(
    work: impl Future<Output = object_store::Result<T>> + Send + 'static,
) -> std::result::Result<Pending<T>, Failed> {
    let runtime = RUNTIME.as_ref().map_err(|_| Failed::Lost)?;
    let (send, receive) = sync_channel(1);
    let task = runtime.spawn(async move {
        let done = work.await;
        // Nobody waits any more: then nobody misses it.
        let _ = send.send(done);
    });
    Ok(Pending { receive, task })
}

impl<T> Pending<T> {
    /// Waits for the answer, or until the user wants to stop.
    pub(super) fn wait(self) -> std::result::Result<T, Failed> {
        loop {
            match self.receive.recv_timeout(ASK) {
                Ok(done) => return done.map_err(Failed::Store),
                Err(RecvTimeoutError::Disconnected) => return Err(Failed::Lost),
                Err(RecvTimeoutError::Timeout) => {
                    interrupt::check().map_err(|_| Failed::Interrupted)?;
                }
            }
        }
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Makes a request and waits for its answer.
pub(super) fn wait<T: Send + 'static>(
    work: impl Future<Output = object_store::Result<T>> + Send + 'static,
) -> std::result::Result<T, Failed> {
    start(work)?.wait()
}
