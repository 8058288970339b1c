//! A statement's rows, written in the format that the user chose, for the command line and the server alike.
//!
//! ```text
//! query stream ─► bounded channel ─► blocking thread: RowWriter ─► stdout, or the body of a response
//! ```
//!
//! Rows are written as they come and none is ever left out. Memory is bounded whatever the size of the result. Several
//! statements follow each other in one output: tables and CSV with an empty line between them, JSON as one array a line,
//! newline-delimited JSON without any mark, Arrow as one complete IPC stream each. A Parquet file has the rows of one
//! statement ([`parquet_file`]). Files are there whole or not at all ([`mod@file`]). A query without columns still has rows.
//! Statements that only change the session never come here. Each batch is compared with the columns that its statement
//! announced ([`announced`]), so that the rows fit their header or schema.
//!
//! Non-goals: widths of terminals, colours and paging; `| less -S` does that.

#![warn(clippy::unwrap_used)]

mod announced;
mod file;
mod formats;
mod parquet_file;
mod statement;
mod table;

use std::fmt::Debug;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

pub use announced::AnnouncedColumns;
pub use file::NewFile;
pub use statement::{end_of, write_statement};

/// Batches between the query and the writing thread: one is being written, one is ready.
const BATCHES_QUEUED_MAX: usize = 2;

/// Format of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// A drawn table, for people. NULL is written as NULL.
    Table,
    /// RFC 4180 with a header. NULL is empty, nested values are JSON text.
    Csv,
    /// One array of objects.
    Json,
    /// One object a line.
    Ndjson,
    /// Arrow IPC stream.
    Arrow,
    /// One Parquet file of one statement, compressed with zstd.
    Parquet,
}

impl OutputFormat {
    pub const ALL: [Self; 6] = [Self::Table, Self::Csv, Self::Json, Self::Ndjson, Self::Arrow, Self::Parquet];

    /// Returns the name in flags.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Arrow => "arrow",
            Self::Parquet => "parquet",
        }
    }
}

/// Reason why rows could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Nobody reads any more (`| head`): end quietly, with success.
    #[error("the reader of the rows has gone")]
    ReaderGone,
    #[error("cannot write the rows: {0}")]
    Write(io::Error),
    /// The file of the rows cannot be made, and is not there.
    #[error("file `{}` cannot be written: {}", path.display(), told(error))]
    File { path: PathBuf, error: io::Error },
    /// The file has all rows and cannot have its name.
    #[error("file `{}` cannot have its name: {}; its rows are in `{}`", path.display(), told(error), left.display())]
    Unnamed { path: PathBuf, left: PathBuf, error: io::Error },
    /// A Parquet file has the rows of another statement.
    #[error("a Parquet file has the rows of one statement, and a second one has rows")]
    SecondStatement,
    /// The format cannot express the rows: choose another.
    #[error("cannot write the rows in this format: {0}")]
    Encode(ArrowError),
    /// The rows are not of the columns that were announced, and some may have been written.
    #[error("cannot write the rows: {0}")]
    Undeclared(String),
    /// The query ended early. The rows so far are not marked as complete.
    #[error("the rows end early")]
    Incomplete,
}

impl OutputError {
    /// Returns the next step.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Undeclared(_) => Some("this is a fault of gust's, not of the data; please report the statement"),
            Self::File { error, .. } if error.kind() == io::ErrorKind::AlreadyExists => {
                Some("remove it first, or name another")
            }
            Self::File { .. } => Some("look at its folder, the permissions and the space on the disk"),
            Self::Unnamed { .. } => Some("the file is whole: move it to another name"),
            Self::SecondStatement => {
                Some("run the statements one by one, or write each with COPY (SELECT ...) TO 'rows.parquet'")
            }
            Self::ReaderGone | Self::Write(_) | Self::Encode(_) | Self::Incomplete => None,
        }
    }
}

/// Returns an error in words for people.
fn told(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AlreadyExists => "the file exists".to_owned(),
        io::ErrorKind::NotFound => "its folder does not exist".to_owned(),
        _ => error.to_string(),
    }
}

impl From<ArrowError> for OutputError {
    fn from(error: ArrowError) -> Self {
        match error {
            ArrowError::IoError(_, error) => Self::Write(error),
            error => Self::Encode(error),
        }
    }
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// Reason why a query's rows did not all arrive.
#[derive(Debug, thiserror::Error)]
pub enum StreamError<E: std::error::Error + 'static> {
    #[error(transparent)]
    Query(E),
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Destination of rows. It lives as long as the output and serves one statement after the other. Clones share the output.
#[derive(Debug)]
pub struct RowOutput<W> {
    writer: Arc<Mutex<RowWriter<W>>>,
}

impl<W: Write + Debug + Send + 'static> RowOutput<W> {
    pub fn new(out: W, format: OutputFormat) -> Self {
        Self { writer: Arc::new(Mutex::new(RowWriter::new(out, format))) }
    }

    /// Tells if no statement has had rows to write.
    pub fn is_untouched(&self) -> bool {
        self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_first
    }

    /// Writes one statement's rows as they come, and returns their number.
    ///
    /// A blocking thread writes, so that a reader that stops reading holds up neither the runtime nor a time-out. A dropped
    /// future frees the caller, and the thread ends with its current write.
    pub async fn write_stream<E>(
        &self,
        schema: SchemaRef,
        stream: impl Stream<Item = Result<RecordBatch, E>>,
    ) -> Result<u64, StreamError<E>>
    where
        E: std::error::Error + 'static,
    {
        let (sender, mut receiver) = mpsc::channel::<Message>(BATCHES_QUEUED_MAX);
        let writer = Arc::clone(&self.writer);
        let written = tokio::task::spawn_blocking(move || {
            let batches = std::iter::from_fn(|| match receiver.blocking_recv() {
                Some(Message::Batch(batch)) => Some(Ok(batch)),
                Some(Message::Complete) => None,
                None => Some(Err(OutputError::Incomplete)),
            });
            let mut writer = writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            writer.write_rows(&schema, batches)
        });
        let mut stream = std::pin::pin!(stream);
        let mut failure = None;
        while let Some(batch) = stream.next().await {
            match batch {
                // A closed channel means that the writer has failed: its own error says why.
                Ok(batch) => match sender.send(Message::Batch(batch)).await {
                    Ok(()) => continue,
                    Err(_) => break,
                },
                Err(error) => failure = Some(StreamError::Query(error)),
            }
            break;
        }
        if failure.is_none() {
            let _closed_if_failed = sender.send(Message::Complete).await;
        }
        drop(sender);
        let written = written.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        failure.map_or_else(|| written.map_err(StreamError::Output), Err)
    }
}

enum Message {
    Batch(RecordBatch),
    /// Every batch has been sent. Without this message the query has failed or was dropped.
    Complete,
}

/// Writer of statements' rows to one output. It blocks where the output does.
#[derive(Debug)]
pub struct RowWriter<W> {
    out: PipeWatch<W>,
    format: OutputFormat,
    is_first: bool,
}

impl<W: Write + Send> RowWriter<W> {
    pub fn new(out: W, format: OutputFormat) -> Self {
        Self { out: PipeWatch { out, failed: None }, format, is_first: true }
    }

    /// Writes one statement's rows and returns their number. After an error of `batches` the output is left unfinished.
    pub fn write_rows(
        &mut self,
        schema: &SchemaRef,
        batches: impl Iterator<Item = Result<RecordBatch, OutputError>>,
    ) -> Result<u64, OutputError> {
        let mut rows = 0;
        let batches = batches.inspect(|batch| rows += batch.as_ref().map_or(0, |batch| batch.num_rows() as u64));
        match self.write(schema, batches) {
            Ok(()) => Ok(rows),
            // Some encoders turn the error into text, so that the output is watched.
            Err(error) => match self.out.failed.take() {
                Some(failed) if failed.kind() == io::ErrorKind::BrokenPipe => Err(OutputError::ReaderGone),
                Some(failed) => Err(OutputError::Write(failed)),
                None => Err(error),
            },
        }
    }

    fn write(
        &mut self,
        schema: &SchemaRef,
        batches: impl Iterator<Item = Result<RecordBatch, OutputError>>,
    ) -> Result<(), OutputError> {
        let announced = AnnouncedColumns::new(schema);
        let schema = &announced.schema();
        let batches = batches.map(|batch| announced.conform(&batch?));
        let is_first = std::mem::replace(&mut self.is_first, false);
        if !is_first && matches!(self.format, OutputFormat::Table | OutputFormat::Csv) {
            self.out.write_all(b"\n")?;
        }
        match self.format {
            OutputFormat::Table => table::write(&mut self.out, schema, batches, &table::BlockLimits::default())?,
            OutputFormat::Csv => formats::write_csv(&mut self.out, schema, batches)?,
            OutputFormat::Json => formats::write_json(&mut self.out, schema, batches)?,
            OutputFormat::Ndjson => formats::write_ndjson(&mut self.out, schema, batches)?,
            OutputFormat::Arrow => formats::write_arrow(&mut self.out, schema, batches)?,
            // Readers find the last footer alone.
            OutputFormat::Parquet if !is_first => return Err(OutputError::SecondStatement),
            OutputFormat::Parquet => parquet_file::write(&mut self.out, schema, batches)?,
        }
        Ok(self.out.flush()?)
    }
}

/// Output that remembers why it took no more.
#[derive(Debug)]
struct PipeWatch<W> {
    out: W,
    failed: Option<io::Error>,
}

impl<W> PipeWatch<W> {
    fn watch<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.failed = Some(copy_of(error));
        }
        result
    }
}

fn copy_of(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

impl<W: Write> Write for PipeWatch<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.out.write(bytes);
        self.watch(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.out.flush();
        self.watch(result)
    }
}

#[cfg(test)]
mod tests;
