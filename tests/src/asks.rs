//! Tests that are tables of statements and their rows: what all of them need.

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use gust_engine::config::Target;
use gust_engine::error::QueryError;
use gust_engine::model::Reason;
use gust_engine::session::Session;

use crate::query::{assert_partly_remote, assert_remote, run};

/// Who reads what a query needs, where functions are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// Functions, all of it.
    ByFunctions,
    /// Functions, as far as there is anything to read.
    PartlyByFunctions,
    /// Nobody: it is known without a data file.
    ByNobody,
    ByAnybody,
}

/// Runs a query, and fails where another than `read` says has read for it.
///
/// # Errors
/// The query's.
pub async fn ask(session: &Session, target: Target, sql: &str, read: Read) -> Result<Vec<RecordBatch>, QueryError> {
    let (rows, report) = run(session, sql).await?;
    let what = format!("`{sql}` on {target:?}");
    match (target, read) {
        (Target::Local, _) => assert_eq!(report.attempts, 0, "{what}: functions were used"),
        (_, Read::ByFunctions) => assert_remote(&report, &what),
        (_, Read::PartlyByFunctions) => {
            let reads = report.decision.as_ref().is_some_and(|decision| decision.reason != Reason::NoScan);
            if reads {
                assert_partly_remote(&report, &what);
            }
        }
        (_, Read::ByNobody) => assert_eq!(report.fragments, 0, "{what}: a fragment without files"),
        (_, Read::ByAnybody) => {}
    }
    Ok(rows)
}

/// Rows with their cells as text.
pub fn cells(batches: &[RecordBatch], null: &str) -> Vec<Vec<String>> {
    let options = FormatOptions::new().with_null(null);
    let mut rows = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter();
        let columns =
            columns.map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("a type with a text"));
        let columns: Vec<_> = columns.collect();
        let row = |row| columns.iter().map(|column| column.value(row).to_string()).collect();
        rows.extend((0..batch.num_rows()).map(row));
    }
    rows
}

/// Rows as lines, their cells apart by a bar.
pub fn lines(batches: &[RecordBatch], null: &str) -> Vec<String> {
    cells(batches, null).iter().map(|row| row.join("|")).collect()
}
