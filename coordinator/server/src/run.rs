//! One request's statements on their way: their rows go out in chunks as they come.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::history::StatementEnd;
use gust_engine::report::Report;
use gust_engine::session::{Recorder, Statement};
use gust_output::{OutputError, OutputFormat, RowOutput, StreamError, end_of, write_statement};
use tokio::sync::mpsc;

use crate::admission::Permit;
use crate::door::{Door, SessionWishes};
use crate::tokens::Principal;

/// Bytes that are collected before they are sent.
const CHUNK_BYTES: usize = 64 << 10;

/// Chunks between the writer and the client. A client that reads slowly holds the query up.
const CHUNKS_QUEUED_MAX: usize = 4;

/// SQLSTATE codes of PostgreSQL.
const NOT_IN_THIS_FORMAT: &str = "0A000";
const SHUTTING_DOWN: &str = "57P01";
const FAULT: &str = "XX000";

/// Work of one request.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) principal: Principal,
    pub(crate) sql: String,
    pub(crate) format: OutputFormat,
    /// True if statements are estimated instead of run.
    pub(crate) dry_run: bool,
    pub(crate) wishes: SessionWishes,
}

/// Part of an answer. The last one is an end or a failure.
#[derive(Debug)]
pub(crate) enum Part {
    /// The statement with the rows has started.
    Started {
        id: String,
    },
    Chunk(Bytes),
    End(End),
    Failed(Failure),
}

/// End of a request whose statements all succeeded.
#[derive(Debug)]
pub(crate) struct End {
    /// Last bytes of the rows.
    pub(crate) rest: Bytes,
    /// True if the last statement has no rows to show.
    pub(crate) is_silent: bool,
    pub(crate) report: Box<Report>,
}

/// Failure of a statement.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Id of the statement, if it has one.
    pub(crate) id: Option<String>,
    pub(crate) error: QueryError,
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Self { id: None, error }
    }
}

/// Starts a request's statements in a task of their own. They are cancelled when the receiver is dropped.
pub(crate) fn start(door: &Arc<Door>, asked: Asked, permit: Permit) -> mpsc::Receiver<Part> {
    let (parts, receiver) = mpsc::channel(CHUNKS_QUEUED_MAX);
    let door_of_task = Arc::clone(door);
    let run = async move {
        let ended = run(&door_of_task, asked, &parts).await;
        // The next query may begin before this client has read its last rows.
        drop(permit);
        let last = ended.map_or_else(Part::Failed, Part::End);
        // Nobody reads it where the client has gone.
        drop(parts.send(last).await);
    };
    drop(door.tasks.spawn(run));
    receiver
}

async fn run(door: &Door, asked: Asked, parts: &mpsc::Sender<Part>) -> Result<End, Failure> {
    let Asked { principal, sql, format, dry_run, wishes } = asked;
    let session = tokio::select! {
        session = Box::pin(door.session(&principal, wishes)) => session?,
        gone = gone(door, parts) => return Err(gone.into()),
    };
    let parsing = session.clone();
    // Parsing computes, and cannot be interrupted.
    let parsed = tokio::task::spawn_blocking(move || parsing.parse(&sql)).await;
    let mut statements = parsed.map_err(|_| QueryError::sql("the parser panicked").with_sqlstate(FAULT))??;
    if dry_run {
        statements = statements.into_iter().map(Statement::as_dry_run).collect();
    }
    let recorder = Recorder::new(session);
    let last = statements.pop();
    for statement in statements {
        one(door, &recorder, statement, format, parts, false).await?;
    }
    let last = last.ok_or_else(|| QueryError::sql("there is no statement"))?;
    one(door, &recorder, last, format, parts, true).await
}

/// Runs one statement. Only the last one of a request may have rows.
async fn one(
    door: &Door,
    recorder: &Recorder,
    statement: Statement,
    format: OutputFormat,
    parts: &mpsc::Sender<Part>,
    is_last: bool,
) -> Result<End, Failure> {
    let running = tokio::select! {
        running = Box::pin(recorder.run(statement)) => running,
        gone = gone(door, parts) => {
            recorder.interrupt().await;
            return Err(gone.into());
        }
    };
    let mut running = running.map_err(|refused| Failure { id: Some(refused.id), error: refused.error })?;
    let id = running.id().to_owned();
    let is_silent = running.is_silent();
    if !is_last && !is_silent {
        let error = QueryError::sql("a statement before the last one has rows, and a request has one result")
            .with_hint("send each query by itself");
        recorder.finish(running, &StatementEnd::from(&error)).await;
        return Err(Failure { id: Some(id), error });
    }
    if is_last {
        drop(parts.send(Part::Started { id: id.clone() }).await);
    }
    let chunks = Chunks { parts: parts.clone(), pending: Arc::default() };
    let output = RowOutput::new(chunks.clone(), format);
    let written = tokio::select! {
        written = Box::pin(write_statement(&mut running, &output)) => written,
        gone = gone(door, parts) => Err(StreamError::Query(gone)),
    };
    let report = recorder.finish(running, &end_of(&written)).await;
    if let Some(why) = &report.history_not_recorded {
        tracing::warn!(id, "not recorded in the history: {why}");
    }
    match written {
        Ok(_) => Ok(End { rest: chunks.take(), is_silent, report: Box::new(report) }),
        Err(StreamError::Query(error)) => Err(Failure { id: Some(id), error }),
        Err(StreamError::Output(error)) => Err(Failure { id: Some(id), error: of_output(error) }),
    }
}

/// Waits until nobody wants the rows any more, and returns the error of their statement.
async fn gone(door: &Door, parts: &mpsc::Sender<Part>) -> QueryError {
    tokio::select! {
        () = parts.closed() => QueryError::interrupted(),
        () = door.stopping.cancelled() => {
            QueryError::new(ErrorKind::Interrupted, "the server shuts down").with_sqlstate(SHUTTING_DOWN)
        }
    }
}

fn of_output(error: OutputError) -> QueryError {
    let (hint, is_of_format) = (error.hint(), matches!(error, OutputError::Encode(_)));
    let told = QueryError::data(error.to_string()).with_source(error);
    match hint {
        _ if is_of_format => {
            told.with_sqlstate(NOT_IN_THIS_FORMAT).with_hint("ask for another format with Accept, or cast the column")
        }
        Some(hint) => told.with_sqlstate(FAULT).with_hint(hint),
        None => told.with_sqlstate(FAULT),
    }
}

/// Output of rows that sends them in chunks. It blocks while the client reads more slowly than the query runs.
#[derive(Debug, Clone)]
struct Chunks {
    parts: mpsc::Sender<Part>,
    pending: Arc<Mutex<Vec<u8>>>,
}

impl Chunks {
    fn pending(&self) -> MutexGuard<'_, Vec<u8>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.pending()).into()
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending().extend_from_slice(bytes);
        if self.pending().len() >= CHUNK_BYTES {
            let chunk = Part::Chunk(self.take());
            self.parts.blocking_send(chunk).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(bytes.len())
    }

    /// Keeps the bytes: the last ones go out with the end of the statement, whose cost is then known.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
