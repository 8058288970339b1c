//! Rows in the body of a response, in chunks as they come.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gust_engine::error::QueryError;
use gust_engine::session::RunningStatement;
use gust_output::{OutputError, OutputFormat, RowOutput, RowWriter, StreamError, write_statement};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::admission::Permit;
use crate::door::Door;
use crate::run::{Asked, Done, Failure, Sink, of_output, run, spawn};
use crate::spool::Spool;

/// Bytes that are collected before they are sent.
const CHUNK_BYTES: usize = 64 << 10;

/// Chunks between the writer and the client. A client that reads slowly holds the query up.
const CHUNKS_QUEUED_MAX: usize = 4;

/// Longest time in which a client reads nothing, before its response is cut.
pub(crate) const STALLED_MAX: Duration = Duration::from_secs(5 * 60);

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

/// Starts a request's statements in a task of their own. They are cancelled when the receiver is dropped. `place` is held as long as
/// their rows are written.
pub(crate) fn start(
    door: &Arc<Door>,
    asked: Asked,
    format: OutputFormat,
    permit: Permit,
    place: Permit,
) -> mpsc::Receiver<Part> {
    let (mut chunks, receiver) = Chunks::new(format, place);
    let of_task = Arc::clone(door);
    spawn(door, async move {
        let ended = Box::pin(run(&of_task, asked, &mut chunks)).await;
        // The next query may begin before this client has read its last rows.
        drop(permit);
        let last = match ended {
            Ok(done) => Part::End { done, rest: chunks.take_pending() },
            Err(failure) => Part::Failed(failure),
        };
        // Nobody reads it where the client has gone.
        drop(chunks.parts.send(last).await);
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
    /// Place among the results that are written. A writer whose reader has stopped holds it until its thread ends.
    _place: Arc<Permit>,
}

impl Chunks {
    /// Makes an output whose chunks come out of the receiver.
    pub(crate) fn new(format: OutputFormat, place: Permit) -> (Self, mpsc::Receiver<Part>) {
        let (parts, receiver) = mpsc::channel(CHUNKS_QUEUED_MAX);
        let chunks =
            Self { parts, format, pending: Arc::default(), runtime: Handle::current(), _place: Arc::new(place) };
        (chunks, receiver)
    }

    /// Writes all rows of a statement that has ended.
    pub(crate) async fn write_all(self, spool: Spool, done: Done) {
        drop(self.parts.send(Part::Started { id: done.id.clone() }).await);
        let mut writer = RowWriter::new(self.clone(), self.format);
        let writing = move || writer.write_rows(spool.schema(), spool.batches());
        let last = match tokio::task::spawn_blocking(writing).await {
            Ok(Ok(_)) => Part::End { done, rest: self.take_pending() },
            // It would wait for a reader that has stopped.
            Ok(Err(OutputError::ReaderGone)) => return,
            Ok(Err(error)) => Part::Failed(of_output(error).into()),
            Err(error) => Part::Failed(QueryError::data(error.to_string()).into()),
        };
        drop(self.parts.send(last).await);
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
            let chunk = Part::Chunk(self.take_pending());
            // A writer has a thread of its own, which a client must not hold for ever.
            let sent = self.runtime.block_on(tokio::time::timeout(STALLED_MAX, self.parts.send(chunk)));
            let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
            sent.map_err(|_| gone())?.map_err(|_| gone())?;
        }
        Ok(bytes.len())
    }

    /// Keeps the bytes: the last ones go out with the end of the statement, whose cost is then known.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
