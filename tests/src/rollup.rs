//! Ranks over grouping sets, in a coordinator's memory that the groups do not fit: what functions send competes with the operators that need it.

use arrow::array::RecordBatch;
use gust_engine::config::{Config, ShufflePlace, Target};
use gust_engine::error::QueryError;
use gust_engine::report::Report;
use gust_engine::session::Session;
use tempfile::TempDir;

use crate::compare::{Rule, compare};
use crate::query::{plain, run};

const QUERY: &str = "SELECT * FROM (SELECT a, b, c, d, s, rank() OVER (PARTITION BY a ORDER BY s DESC) AS r \
                     FROM (SELECT a, b, c, d, sum(v) AS s FROM t GROUP BY ROLLUP (a, b, c, d))) WHERE r <= 100";

/// Files of the table. Each has all groups, as far as it has rows for them, so that no file's groups become fewer in a function.
const FILES: u64 = 8;

/// Place of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RollupPlace {
    /// The coordinator alone.
    Local,
    /// Functions scan and group what they scan. The coordinator puts the groups together, and ranks.
    Scans,
    /// Functions send groups to one another, and rank.
    Shuffle,
}

pub const PLACES: [RollupPlace; 3] = [RollupPlace::Local, RollupPlace::Scans, RollupPlace::Shuffle];

/// A table, and the rows of the query.
pub struct Rollup {
    folder: TempDir,
    expected: Vec<RecordBatch>,
}

impl Rollup {
    /// Writes so many rows with so many groups.
    pub async fn make(rows: u64, groups: u64) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        for file in 0..FILES {
            let (first, last) = (file * rows / FILES, (file + 1) * rows / FILES - 1);
            // The factor shares no divisor with the number of groups, so that each has as many rows.
            let keyed =
                format!("SELECT value AS x, (value * 7919) % {groups} AS g FROM generate_series({first}, {last})");
            let sql = format!(
                "SELECT 'category ' || (g % 10) AS a, 'class ' || (g / 10 % 50) AS b, g / 500 % 50 AS c, \
                 'product ' || (g / 25000) || ' of many ' || (g % 25000) AS d, x % 1000 AS v FROM ({keyed})"
            );
            let path = folder.path().join(format!("t/{file}.parquet"));
            plain(&[], &format!("COPY ({sql}) TO '{}' STORED AS PARQUET", path.display())).await;
        }
        let mut rollup = Self { folder, expected: Vec::new() };
        rollup.expected = plain(&[rollup.table()], QUERY).await;
        rollup
    }

    fn table(&self) -> String {
        format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}/t/'", self.folder.path().display())
    }

    /// Returns the number of rows that the query has.
    pub fn rows(&self) -> usize {
        self.expected.iter().map(RecordBatch::num_rows).sum()
    }

    /// Runs the query in so much memory of the coordinator.
    ///
    /// # Errors
    /// The query's.
    ///
    /// # Panics
    /// Rows other than DataFusion's with plenty of memory.
    pub async fn run(&self, place: RollupPlace, memory_bytes_max: u64) -> Result<Report, QueryError> {
        let (on, shuffle) = match place {
            RollupPlace::Local => (Target::Local, ShufflePlace::Local),
            RollupPlace::Scans => (Target::InProcess, ShufflePlace::Local),
            RollupPlace::Shuffle => (Target::InProcess, ShufflePlace::Hash),
        };
        let session = Session::new(Config { on, shuffle, memory_bytes_max, ..Config::default() })?;
        run(&session, &self.table()).await?;
        let ended = run(&session, QUERY).await;
        session.close().await;
        let (rows, report) = ended?;
        compare(&self.expected, &rows, Rule::same_engine().in_any_order())
            .unwrap_or_else(|difference| panic!("{place:?} with {memory_bytes_max} bytes: {difference}"));
        Ok(report)
    }
}
