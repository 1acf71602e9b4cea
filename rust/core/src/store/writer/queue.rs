//! Jobs between the threads that hand rows over and those that write them, within a number of bytes.
//!
//! Bytes are reserved before a job's buffer is allocated and released after the job is done, so that the
//! sum of all buffers never exceeds the limit.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::error::{Error, Result};

/// A bounded queue that remembers the first failure.
#[derive(Debug)]
pub(super) struct Queue<J> {
    state: Mutex<State<J>>,
    /// Signalled when anything changes that a waiting thread could be waiting for.
    changed: Condvar,
    limit: usize,
}

#[derive(Debug)]
struct State<J> {
    jobs: VecDeque<Waiting<J>>,
    /// The files that threads are at work on.
    busy: Vec<usize>,
    /// Reserved bytes: of jobs being filled, queued or worked on.
    bytes: usize,
    /// A commit is being made: nobody may start to fill a job.
    paused: bool,
    closed: bool,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Waiting<J> {
    job: J,
    /// Reserved for it.
    bytes: usize,
    /// Number of the file that it goes to.
    file: usize,
}

#[derive(Debug)]
struct Failure {
    /// Handed to the first caller that asks; later ones get its text.
    error: Option<Error>,
    text: String,
}

impl<J> Queue<J> {
    pub(super) fn new(limit: usize) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            busy: Vec::new(),
            bytes: 0,
            paused: false,
            closed: false,
            failure: None,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), limit }
    }

    /// Waits for room for `bytes`, which are then this caller's to fill and push.
    pub(super) fn reserve(&self, bytes: usize) -> Result<()> {
        let mut state = self.wait(|s| s.paused || (s.bytes > 0 && s.bytes + bytes > self.limit))?;
        state.bytes += bytes;
        Ok(())
    }

    /// Returns an earlier failure.
    pub(super) fn check(&self) -> Result<()> {
        self.wait(|_| false).map(drop)
    }

    /// Queues a job whose `bytes` were reserved, for the file of that number.
    pub(super) fn push(&self, job: J, bytes: usize, file: usize) {
        self.lock().jobs.push_back(Waiting { job, bytes, file });
        self.changed.notify_all();
    }

    /// Runs jobs with `work` until the queue is closed. A failure empties the queue.
    pub(super) fn run(&self, mut work: impl FnMut(J) -> Result<()>) {
        while let Some(Waiting { job, bytes, file }) = self.pop() {
            let watch = PanicWatch(self);
            let done = work(job);
            std::mem::forget(watch);
            if let Err(error) = done {
                self.fail(error);
            }
            self.release(bytes, file);
        }
    }

    /// Waits until every reserved byte is released; returns an earlier failure.
    pub(super) fn flush(&self) -> Result<()> {
        self.wait(|s| s.bytes > 0).map(drop)
    }

    /// Flushes and keeps others from reserving until the guard is dropped.
    pub(super) fn pause(&self) -> Result<Pause<'_, J>> {
        let mut state = self.wait(|s| s.paused)?;
        state.paused = true;
        drop(state);
        let pause = Pause(self);
        self.flush()?;
        Ok(pause)
    }

    /// Records a failure, if it is the first, and forgets what is queued.
    pub(super) fn fail(&self, error: Error) {
        let mut state = self.lock();
        if state.failure.is_none() {
            state.failure = Some(Failure { text: error.to_string(), error: Some(error) });
        }
        let dropped: usize = state.jobs.drain(..).map(|waiting| waiting.bytes).sum();
        state.bytes -= dropped;
        drop(state);
        self.changed.notify_all();
    }

    /// Refuses everything from now on, with `why` as the reason.
    pub(super) fn stop(&self, why: &str) {
        let mut state = self.lock();
        if state.failure.is_none() {
            state.failure = Some(Failure { error: None, text: why.to_owned() });
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Ends `run` in every thread; queued jobs are forgotten.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The first job for a file that nobody is at work on, since two would wait for each other; or else the first.
    fn pop(&self) -> Option<Waiting<J>> {
        let mut state = self.lock();
        while !state.closed {
            let free = state.jobs.iter().position(|job| !state.busy.contains(&job.file));
            if let Some(job) = state.jobs.remove(free.unwrap_or(0)) {
                state.busy.push(job.file);
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    fn release(&self, bytes: usize, file: usize) {
        let mut state = self.lock();
        state.bytes -= bytes;
        let mine = state.busy.iter().position(|busy| *busy == file);
        mine.map(|mine| state.busy.swap_remove(mine));
        drop(state);
        self.changed.notify_all();
    }

    /// Waits while `busy` holds, unless something has failed.
    fn wait(&self, busy: impl Fn(&State<J>) -> bool) -> Result<MutexGuard<'_, State<J>>> {
        let mut state = self.lock();
        loop {
            if let Some(failure) = &mut state.failure {
                let stopped = Error::WriterStopped { first: failure.text.clone() };
                return Err(failure.error.take().unwrap_or(stopped));
            }
            if !busy(&state) {
                return Ok(state);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While this lives, nobody can reserve.
pub(super) struct Pause<'a, J>(&'a Queue<J>);

impl<J> Pause<'_, J> {
    /// Queues jobs that hold no rows and waits for them.
    pub(super) fn run_all(&self, jobs: impl Iterator<Item = J>) -> Result<()> {
        for (file, job) in jobs.enumerate() {
            self.0.lock().bytes += 1;
            self.0.push(job, 1, file);
        }
        self.0.flush()
    }
}

impl<J> Drop for Pause<'_, J> {
    fn drop(&mut self) {
        self.0.lock().paused = false;
        self.0.changed.notify_all();
    }
}

/// Dropped only when a job panics: others must not wait for it for ever.
struct PanicWatch<'a, J>(&'a Queue<J>);

impl<J> Drop for PanicWatch<'_, J> {
    fn drop(&mut self) {
        self.0.fail(Error::WriterStopped { first: "a background thread panicked".into() });
    }
}
