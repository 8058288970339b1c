//! Rows of a running statement, and the end that the history has of it.

use std::fmt::Debug;
use std::io::Write;

use futures::stream;
use gust_engine::error::QueryError;
use gust_engine::history::{Outcome, StatementEnd};
use gust_engine::session::{CopyFormat, CopyTarget, RunningStatement};

use crate::{NewFile, OutputError, OutputFormat, RowOutput, StreamError};

/// Writes all rows of a statement, until its time-out at most. Returns their number. The rows of a COPY go into its file, and
/// none to the output.
///
/// The caller finishes the statement, also after an error.
///
/// # Errors
/// The error of the query, or of the writing.
pub async fn write_statement<W: Write + Debug + Send + 'static>(
    running: &mut RunningStatement,
    output: &RowOutput<W>,
) -> Result<u64, StreamError<QueryError>> {
    let written = match running.take_copy_target() {
        Some(target) => copy(running, target).await,
        None => shown(running, output).await,
    };
    if let Err(StreamError::Output(error)) = &written
        && !matches!(error, OutputError::ReaderGone)
    {
        running.not_written(error);
    }
    written
}

async fn shown<W: Write + Debug + Send + 'static>(
    running: &mut RunningStatement,
    output: &RowOutput<W>,
) -> Result<u64, StreamError<QueryError>> {
    // Statements that only change the session have no rows.
    if running.is_silent() {
        while running.next().await.map_err(StreamError::Query)?.is_some() {}
        return Ok(0);
    }
    write_rows(running, output).await
}

/// Writes the rows of a COPY into its file.
async fn copy(running: &mut RunningStatement, target: CopyTarget) -> Result<u64, StreamError<QueryError>> {
    let format = match target.format {
        CopyFormat::Csv => OutputFormat::Csv,
        CopyFormat::Ndjson => OutputFormat::Ndjson,
        CopyFormat::Parquet => OutputFormat::Parquet,
    };
    let file = NewFile::create(&target.path)?;
    let rows = write_rows(running, &RowOutput::new(file.writer()?, format)).await.map_err(|error| match error {
        StreamError::Output(OutputError::Write(error)) => OutputError::File { path: target.path, error }.into(),
        other => other,
    })?;
    file.keep().await?;
    Ok(rows)
}

async fn write_rows<W: Write + Debug + Send + 'static>(
    running: &mut RunningStatement,
    output: &RowOutput<W>,
) -> Result<u64, StreamError<QueryError>> {
    let schema = running.schema().clone();
    let deadline = running.deadline();
    let rows = stream::unfold(&mut *running, |running| async {
        let next = running.next().await.transpose()?;
        Some((next, running))
    });
    // A reader that has stopped reading must not outlive the statement's time-out either.
    let written = tokio::time::timeout_at(deadline.into(), output.write_stream(schema, rows)).await;
    written.unwrap_or_else(|_| Err(StreamError::Query(running.timed_out())))
}

/// Returns the end of a statement from the writing of its rows.
pub fn end_of(written: &Result<u64, StreamError<QueryError>>) -> StatementEnd {
    match written {
        Ok(_) => StatementEnd { outcome: Outcome::Done, message: None },
        Err(StreamError::Query(error)) => error.into(),
        Err(StreamError::Output(error @ OutputError::ReaderGone)) => {
            StatementEnd { outcome: Outcome::Cancelled, message: Some(error.to_string()) }
        }
        Err(StreamError::Output(error)) => StatementEnd { outcome: Outcome::Failed, message: Some(error.to_string()) },
    }
}
