//! Helpers of tests that are tables of statements and their rows.

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use gust_engine::config::Target;
use gust_engine::error::QueryError;
use gust_engine::model::Reason;
use gust_engine::session::Session;
use serde::Deserialize;

use crate::query::{assert_partly_remote, assert_remote, run};

/// Reader that a query is expected to have where the target has functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Functions read everything.
    Functions,
    /// Functions read everything that is read; the planner may find nothing to scan.
    FunctionsIfAnythingIsRead,
    /// Nobody reads a data file: the answer is known without one.
    Nobody,
    Anybody,
}

/// Files of a table that a query needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum FilesRead {
    /// Every data file is read.
    All,
    /// The table's metadata rules out some files.
    Fewer,
    /// No file is read, because none can match.
    NoFile,
    /// No file is read, because the metadata is the answer.
    Metadata,
}

impl FilesRead {
    /// Returns true if a plan that keeps these files is as expected.
    pub fn is(self, kept: usize, total: usize) -> bool {
        match self {
            Self::All => kept == total && total > 0,
            Self::Fewer => 0 < kept && kept < total,
            Self::NoFile => kept == 0,
            Self::Metadata => true,
        }
    }
}

/// Returns the files that are kept and those that there are, summed over all tables of an explained query.
pub fn files_kept(explained: &str) -> (usize, usize) {
    let mut sums = (0, 0);
    for line in explained.lines().filter(|line| line.starts_with("table ")) {
        let counts = line.split(": ").nth(1).and_then(|counts| counts.split_once(" files"));
        let (kept, total) = counts.and_then(|(counts, _)| counts.split_once(" of ")).expect("`N of M files`");
        sums.0 += kept.parse::<usize>().expect("a number");
        sums.1 += total.parse::<usize>().expect("a number");
    }
    sums
}

/// Runs a query and returns its rows. Fails the test where another reader than `read` was at work.
///
/// # Errors
/// The query's error.
pub async fn ask(session: &Session, target: Target, sql: &str, read: Reader) -> Result<Vec<RecordBatch>, QueryError> {
    let (rows, report) = run(session, sql).await?;
    let what = format!("`{sql}` on {target:?}");
    match (target, read) {
        (Target::Local, _) => assert_eq!(report.attempts, 0, "{what}: functions were used"),
        (_, Reader::Functions) => assert_remote(&report, &what),
        (_, Reader::FunctionsIfAnythingIsRead) => {
            let reads = report.decision.as_ref().is_some_and(|decision| decision.reason != Reason::NoScan);
            if reads {
                assert_partly_remote(&report, &what);
            }
        }
        (_, Reader::Nobody) => assert_eq!(report.fragments, 0, "{what}: a fragment without files"),
        (_, Reader::Anybody) => {}
    }
    Ok(rows)
}

/// Returns the rows with their cells as text; `null` is the text of NULL.
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

/// Returns each row as a line whose cells are joined by `|`; `null` is the text of NULL.
pub fn lines(batches: &[RecordBatch], null: &str) -> Vec<String> {
    cells(batches, null).iter().map(|row| row.join("|")).collect()
}
