//! `gust prices`: the prices that reports are made with.

use std::io::stdout;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use gust_engine::config::Overrides;
use gust_engine::cost::PriceBook;
use gust_engine::fleet;
use gust_engine::storage::aws;
use gust_output::{OutputError, RowWriter};

use super::args::PricesArgs;
use super::{CommandError, check_terminal, configuration};
use crate::cli::exit::Exit;
use crate::cli::say::say;

/// Writes one row a price. The source of the prices goes to stderr.
pub(super) async fn prices(args: PricesArgs) -> Result<(), CommandError> {
    check_terminal(args.format)?;
    let mut config = configuration(args.config.as_deref(), &Overrides::default())?;
    if config.s3.region.is_none() {
        config.s3.region = aws::default_region().await;
    }
    let book = PriceBook::of_config(&config, &fleet::traits(&config).billed, args.region.as_deref())
        .map_err(|error| CommandError::usage(&error).with_hint(error.hint()))?;
    let rows = rows(&book).map_err(|error| CommandError::new(Exit::QueryFailed, error))?;
    let schema = rows.schema();
    match RowWriter::new(stdout(), args.format).write_rows(&schema, std::iter::once(Ok(rows))) {
        Ok(_) | Err(OutputError::ReaderGone) => {}
        Err(error) => return Err(error.into()),
    }
    say!("list prices of {}, looked up on {}: {}", book.region, book.date, book.source);
    if let Some(stale) = book.staleness(chrono::Utc::now().date_naive()) {
        say!("warning: {stale}");
    }
    Ok(())
}

fn rows(book: &PriceBook) -> Result<RecordBatch, arrow::error::ArrowError> {
    let entries = book.entries();
    let column = |values: Vec<String>| Arc::new(StringArray::from(values)) as ArrayRef;
    RecordBatch::try_from_iter([
        ("what", column(entries.iter().map(|(what, ..)| (*what).to_owned()).collect())),
        ("dollars", column(entries.iter().map(|(_, price, _)| price.to_string()).collect())),
        ("unit", column(entries.iter().map(|(.., unit)| (*unit).to_owned()).collect())),
    ])
}
