//! `gust query --server` and `gust cost --server`.

use std::fmt::Debug;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::sync::Arc;

use gust_output::{NewFile, OutputError, OutputFormat, RowOutput, StreamError};

use super::{Remote, Rows, Wanted};
use crate::cli::args::{QueryArgs, ServerArgs};
use crate::cli::signals::Signals;
use crate::cli::{CommandError, Reports, destinations, no_rows};

/// Lets a server run the statements, writes the rows of the last one, and tells the server's report. A signal cancels them.
pub(in crate::cli) async fn query(args: QueryArgs) -> Result<(), CommandError> {
    let sql = args.source.read_sql(stdin(), stdin().is_terminal())?;
    let (file, mut reports) = destinations(&args)?;
    let mut signals = Signals::listen()?;
    let wanted = Wanted {
        sql,
        catalog: args.source.catalog.as_deref(),
        cap: args.source.run.max_cost,
        timeout: args.source.run.timeout,
        labels: &args.labels,
        dry_run: args.dry_run,
    };
    let url = args.server.url.as_deref().unwrap_or_default();
    let running = async {
        let mut rows = Remote::connect(url, &args.server).await?.run(&wanted).await?;
        let written = match &file {
            _ if rows.is_silent => drained(&mut rows).await,
            None => written(&mut rows, &RowOutput::new(stdout(), args.format)).await,
            Some(file) => written(&mut rows, &RowOutput::new(file.writer()?, args.format)).await,
        };
        ended(written, rows, file, &mut reports).await
    };
    tokio::select! {
        ended = Box::pin(running) => ended,
        ended = signals.ended() => Err(ended),
    }
}

/// Ends a statement whose rows were written. Its file has its name before it counts as done.
async fn ended(
    written: Result<u64, StreamError<super::Failed>>,
    rows: Rows,
    file: Option<NewFile>,
    reports: &mut Reports,
) -> Result<(), CommandError> {
    match written {
        Ok(_) => {}
        Err(StreamError::Output(OutputError::ReaderGone)) => return Ok(()),
        Err(StreamError::Output(error)) => return Err(error.into()),
        Err(StreamError::Query(error)) => return Err(error.into()),
    }
    let kept = match file {
        Some(_) if rows.is_silent => Err(no_rows()),
        Some(file) => file.keep().await.map_err(CommandError::from),
        None => Ok(()),
    };
    if let Some(told) = rows.ended() {
        reports.write_told(&told.report_text, told.report.get())?;
    }
    kept
}

/// Lets a server run one statement, and writes its rows to stdout. Returns their number.
pub(in crate::cli) async fn rows(
    url: &str,
    args: &ServerArgs,
    sql: String,
    format: OutputFormat,
) -> Result<u64, CommandError> {
    let wanted = Wanted { sql, catalog: None, cap: None, timeout: None, labels: &[], dry_run: false };
    let mut rows = Remote::connect(url, args).await?.run(&wanted).await?;
    match written(&mut rows, &RowOutput::new(stdout(), format)).await {
        Ok(rows) => Ok(rows),
        // There were some.
        Err(StreamError::Output(OutputError::ReaderGone)) => Ok(1),
        Err(StreamError::Output(error)) => Err(error.into()),
        Err(StreamError::Query(error)) => Err(error.into()),
    }
}

async fn written<W: Write + Debug + Send + 'static>(
    rows: &mut Rows,
    output: &RowOutput<W>,
) -> Result<u64, StreamError<super::Failed>> {
    let schema = Arc::clone(&rows.schema);
    output.write_stream(schema, rows.batches()).await
}

async fn drained(rows: &mut Rows) -> Result<u64, StreamError<super::Failed>> {
    while rows.next().await.map_err(StreamError::Query)?.is_some() {}
    Ok(0)
}
