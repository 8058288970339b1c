//! Rows in the body of a response, in chunks as they come.
//!
//! A result that fits into one chunk needs no place. A longer one has a place among the results that are written, as long as a thread
//! writes it. A client that reads nothing for a while is given up: its result's place goes first, then its task.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::session::RunningStatement;
use gust_output::{OutputFormat, RowOutput, RowWriter, StreamError, write_statement};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::admission::{Admission, Permit};
use crate::door::Door;
use crate::run::{Asked, Done, Failure, Sink, TOO_MANY, gone, of_output, run, spawn};
use crate::spool::Spool;
use crate::tokens::Principal;

/// Bytes that are collected before they are sent.
const CHUNK_BYTES: usize = 64 << 10;

/// Chunks between the writer and the client. A client that reads slowly holds the query up.
const CHUNKS_QUEUED_MAX: usize = 4;

/// Part of an answer. The last one is an end or a failure.
#[derive(Debug)]
pub(crate) enum Part {
    /// The statement with the rows has started.
    Started {
        id: String,
    },
    Chunk(Bytes),
    End {
        done: Done,
        /// Last bytes of the rows.
        rest: Bytes,
    },
    Failed(Failure),
}

/// Starts a request's statements in a task of their own. They are cancelled when the receiver is dropped.
pub(crate) fn start(door: &Arc<Door>, asked: Asked, format: OutputFormat, permit: Permit) -> mpsc::Receiver<Part> {
    let (mut chunks, receiver) = Chunks::new(door, &asked.principal, format);
    let (of_task, principal) = (Arc::clone(door), asked.principal.clone());
    spawn(door, async move {
        let ended = Box::pin(run(&of_task, asked, &mut chunks)).await;
        // The next query may begin before this client has read its last rows.
        drop(permit);
        let last = match ended {
            Ok(done) => Part::End { done, rest: chunks.take_pending() },
            Err(failure) => Part::Failed(chunks.told(failure)),
        };
        chunks.end(&of_task, &principal, last).await;
    });
    receiver
}

/// Output of rows that sends them in chunks. It blocks while the client reads more slowly than the query runs.
#[derive(Debug, Clone)]
pub(crate) struct Chunks {
    parts: mpsc::Sender<Part>,
    format: OutputFormat,
    pending: Arc<Mutex<Vec<u8>>>,
    runtime: Handle,
    place: Arc<Place>,
    /// Longest time in which a client reads nothing, before its response is cut.
    stalled_max: Duration,
}

/// Place among the results that are written. A writer whose reader has stopped holds it until its thread ends.
#[derive(Debug)]
struct Place {
    results: Admission,
    user: String,
    state: Mutex<PlaceState>,
}

#[derive(Debug)]
enum PlaceState {
    /// The rows have fitted into one chunk until now.
    NotNeeded,
    Held {
        _permit: Permit,
    },
    Refused,
}

impl Place {
    fn state(&self) -> MutexGuard<'_, PlaceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the place, if it is not held. Returns false if there is none.
    fn take(&self) -> bool {
        let mut state = self.state();
        if let PlaceState::NotNeeded = *state {
            *state = self
                .results
                .take(&self.user)
                .map_or(PlaceState::Refused, |permit| PlaceState::Held { _permit: permit });
        }
        matches!(*state, PlaceState::Held { .. })
    }
}

impl Chunks {
    /// Makes an output whose chunks come out of the receiver.
    pub(crate) fn new(door: &Door, principal: &Principal, format: OutputFormat) -> (Self, mpsc::Receiver<Part>) {
        let (parts, receiver) = mpsc::channel(CHUNKS_QUEUED_MAX);
        let user = principal.user.clone().unwrap_or_default();
        let place = Place { results: door.results.clone(), user, state: Mutex::new(PlaceState::NotNeeded) };
        let (pending, runtime, stalled_max) = (Arc::default(), Handle::current(), door.stalled_max);
        (Self { parts, format, pending, runtime, place: Arc::new(place), stalled_max }, receiver)
    }

    /// Writes all rows of a statement that has ended.
    pub(crate) async fn write_all(self, door: Arc<Door>, principal: Principal, spool: Spool, done: Done) {
        drop(self.parts.send(Part::Started { id: done.id.clone() }).await);
        let mut writer = RowWriter::new(self.clone(), self.format);
        let writing = move || writer.write_rows(spool.schema(), spool.batches());
        let failed = match tokio::task::spawn_blocking(writing).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(of_output(error)),
            Err(error) => Some(QueryError::data(error.to_string())),
        };
        let last = match failed {
            None => Part::End { done, rest: self.take_pending() },
            Some(error) => Part::Failed(self.told(error.into())),
        };
        self.end(&door, &principal, last).await;
    }

    /// Gives the result's place back, and sends the last part, unless nobody reads it.
    async fn end(self, door: &Door, principal: &Principal, last: Part) {
        let Self { parts, place, stalled_max, .. } = self;
        drop(place);
        tokio::select! {
            // The end of a user who was thrown out is told where it is read.
            biased;
            sent = tokio::time::timeout(stalled_max, parts.send(last)) => drop(sent),
            _ = gone(door, principal, std::future::pending().boxed()) => {}
        }
    }

    /// Gives a failure for want of a place its reason.
    fn told(&self, failure: Failure) -> Failure {
        let PlaceState::Refused = *self.place.state() else { return failure };
        let message = "too many results wait for their readers";
        let error = QueryError::new(ErrorKind::Resources, message).with_sqlstate(TOO_MANY).with_hint("ask again later");
        Failure { error, ..failure }
    }

    fn pending(&self) -> MutexGuard<'_, Vec<u8>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_pending(&self) -> Bytes {
        std::mem::take(&mut *self.pending()).into()
    }
}

impl Sink for Chunks {
    async fn take(&mut self, running: &mut RunningStatement) -> Result<u64, StreamError<QueryError>> {
        drop(self.parts.send(Part::Started { id: running.id().to_owned() }).await);
        let output = RowOutput::new(self.clone(), self.format);
        write_statement(running, &output).await
    }

    fn unwanted(&self) -> BoxFuture<'static, ()> {
        let parts = self.parts.clone();
        async move { parts.closed().await }.boxed()
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending().extend_from_slice(bytes);
        if self.pending().len() >= CHUNK_BYTES {
            let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
            if !self.place.take() {
                return Err(gone());
            }
            // A client's time counts for each chunk. A writer may write a whole column at once.
            let mut pending = self.take_pending();
            while !pending.is_empty() {
                let chunk = Part::Chunk(pending.split_to(pending.len().min(CHUNK_BYTES)));
                // A writer has a thread of its own, which a client must not hold for ever.
                let sent = self.runtime.block_on(tokio::time::timeout(self.stalled_max, self.parts.send(chunk)));
                sent.map_err(|_| gone())?.map_err(|_| gone())?;
            }
        }
        Ok(bytes.len())
    }

    /// Keeps the bytes: the last ones go out with the end of the statement, whose cost is then known.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
