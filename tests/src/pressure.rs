//! Queries under less memory than they need: they give the same rows as with plenty, or a typed error.
//!
//! Every operator that spills, holds an input or reads it again has its queries here. A query first runs with plenty of memory,
//! which gives its rows and its need. Then it runs with parts of that need.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use arrow::array::RecordBatch;
use gust_engine::config::{Config, JoinPlace, ShufflePlace, Target};
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::report::Report;
use gust_engine::session::Session;
use tempfile::TempDir;

use crate::compare::{Rule, compare};
use crate::query::{plain, run};

/// Divisors of a query's need. Each quotient is the memory of one run.
pub const PARTS: [usize; 4] = [1, 2, 8, 32];

/// Query of the suite.
#[derive(Debug, Clone)]
pub struct Query {
    pub name: String,
    pub settings: Vec<&'static str>,
    pub sql: String,
    /// True where the rows come in one order only.
    pub ordered: bool,
}

/// Machine that has little memory. Others have plenty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// The coordinator, with its part of a query on this target.
    Coordinator(Target),
    /// Each function in this process. They do all that functions can: joins with copies of a build side first, or all with rows by key.
    Functions { copies: bool },
}

/// Place and settings of a run, and the part of its need that the query has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunSettings {
    pub short: Short,
    pub partitions: usize,
    pub part: usize,
    /// True where texts share their buffers, as by default. A batch is then counted with everything that its neighbours hold.
    pub views: bool,
}

/// Result of a query under too little memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemoryOutcome {
    /// The rows were right, and memory was never refused.
    Right,
    /// The rows were right, though memory was refused: an operator spilled.
    Spilled,
    /// The rows were right, and a fragment that ran out of memory went on partition by partition.
    TakenApart,
    /// The rows were right, with sort-merge joins after hash joins did not fit.
    PlannedAgain,
    /// The query ended in a typed error.
    Refused,
}

/// Result of a query with plenty of memory.
#[derive(Debug)]
pub struct Plenty {
    pub rows: Vec<RecordBatch>,
    /// Bytes that were reserved at the peak, on the machine that is to have little.
    pub need_bytes: usize,
}

/// Number of runs by their outcome.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<MemoryOutcome, usize>);

impl Tally {
    pub fn count(&self, outcome: MemoryOutcome) -> usize {
        self.0.get(&outcome).copied().unwrap_or_default()
    }

    pub fn add(&mut self, outcome: MemoryOutcome) {
        *self.0.entry(outcome).or_default() += 1;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: usize = self.0.values().sum();
        write!(f, "{all} runs")?;
        self.0.iter().try_for_each(|(outcome, count)| write!(f, ", {count} {outcome:?}"))
    }
}

/// Tables that the queries read: `a` of 4,000 rows in six files, `b` of 2,000 in four.
pub struct Data(TempDir);

/// Columns of both tables. Keys repeat and are sometimes NULL, numbers have NaN and NULL, texts are wide enough to matter.
const COLUMNS: &str = "\
    CASE WHEN value % 53 = 0 THEN NULL ELSE (value * 7919) % 1499 END AS k, \
    value AS v, \
    CASE WHEN value % 31 = 0 THEN NULL WHEN value % 37 = 0 THEN CAST('NaN' AS DOUBLE) ELSE (value % 211) / 8.0 END AS f, \
    CASE WHEN value % 41 = 0 THEN NULL ELSE md5(CAST(value % 997 AS VARCHAR)) || repeat('x', value % 60) END AS s, \
    CAST((value * 31) % 17 AS INT) AS g";

impl Data {
    pub async fn make() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        for (table, files, rows) in [("a", 6, 4000), ("b", 4, 2000)] {
            for file in 0..files {
                let (first, last) = (file * rows / files + 1, (file + 1) * rows / files);
                let path = folder.path().join(table).join(format!("{file:02}.parquet"));
                let rows = format!("SELECT {COLUMNS} FROM generate_series({first}, {last})");
                plain(&[], &format!("COPY ({rows}) TO '{}' STORED AS PARQUET", path.display())).await;
            }
        }
        Self(folder)
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// Opens a session with so much memory where it is short, in which the tables are known.
    pub async fn session(
        &self,
        run_settings: RunSettings,
        memory_bytes: u64,
        settings: &[&str],
    ) -> Result<Session, QueryError> {
        let session = Session::new(run_settings.short.config(memory_bytes))?;
        let partitions = format!("SET datafusion.execution.target_partitions = {}", run_settings.partitions);
        let tables = ["a", "b"].map(|t| {
            format!("CREATE EXTERNAL TABLE {t} STORED AS PARQUET LOCATION '{}/{t}/'", self.0.path().display())
        });
        let batches = "SET datafusion.execution.batch_size = 128";
        let views = format!("SET datafusion.execution.parquet.schema_force_view_types = {}", run_settings.views);
        for statement in [partitions.as_str(), batches, &views].into_iter().chain(settings.iter().copied()) {
            run(&session, statement).await?;
        }
        for statement in &tables {
            run(&session, statement).await?;
        }
        Ok(session)
    }

    /// Runs a query with plenty of memory.
    pub async fn plenty(&self, query: &Query, run_settings: RunSettings) -> Result<Plenty, QueryError> {
        let session = self.session(run_settings, PLENTY_BYTES, &query.settings).await?;
        let ended = run(&session, &query.sql).await;
        let need_here = session.engine().memory().peak_bytes();
        session.close().await;
        let (rows, report) = ended?;
        let need_bytes = match run_settings.short {
            Short::Coordinator(_) => need_here,
            Short::Functions { .. } => report.memory_peak_bytes as usize,
        };
        Ok(Plenty { rows, need_bytes })
    }

    /// Runs each query with plenty of memory, and with two parts of its need. The settings are those of its place in the list.
    ///
    /// # Panics
    /// With all runs that have other rows, or an error that is not about memory.
    pub async fn tally(&self, settings: impl Fn(usize) -> RunSettings) -> Tally {
        let (mut tally, mut wrong) = (Tally::default(), Vec::new());
        for (index, query) in queries().iter().enumerate() {
            let run_settings = settings(index);
            let plenty = self.plenty(query, run_settings).await;
            let plenty = plenty.unwrap_or_else(|error| panic!("{}: {error}", query.name));
            for part in [PARTS[index % 2], PARTS[2 + index % 2]] {
                match self.under(query, RunSettings { part, ..run_settings }, &plenty).await {
                    Ok(outcome) => tally.add(outcome),
                    Err(why) => wrong.push(why),
                }
            }
        }
        assert!(wrong.is_empty(), "{} of {tally} are wrong:\n{}", wrong.len(), wrong.join("\n"));
        tally
    }

    /// Runs a query with a part of its need.
    ///
    /// # Errors
    /// In words: other rows than with plenty, or an error that is not about memory.
    pub async fn under(
        &self,
        query: &Query,
        run_settings: RunSettings,
        plenty: &Plenty,
    ) -> Result<MemoryOutcome, String> {
        let memory_bytes = (plenty.need_bytes / run_settings.part).max(1) as u64;
        let what = |why: String| format!("{} with {memory_bytes} bytes, {run_settings:?}: {why}", query.name);
        let session =
            self.session(run_settings, memory_bytes, &query.settings).await.map_err(|e| what(e.to_string()))?;
        let ended = run(&session, &query.sql).await;
        let refused = session.engine().memory().refusals() > 0;
        session.close().await;
        let (got, report) = match ended {
            Ok(ended) => ended,
            Err(error) if error.kind() == ErrorKind::Resources => {
                let message = error.to_string();
                return match run_settings.short.is_named(&message) {
                    true => Ok(MemoryOutcome::Refused),
                    false => Err(what(format!("no setting or no operator is named: {message}"))),
                };
            }
            Err(error) => return Err(what(format!("{error:?}"))),
        };
        let rule = Rule::same_engine();
        let rule = if query.ordered { rule } else { rule.in_any_order() };
        compare(&plenty.rows, &got, rule).map_err(|difference| what(difference.to_string()))?;
        Ok(outcome(&report, refused))
    }
}

impl Short {
    fn config(self, memory_bytes: u64) -> Config {
        let config = Config { functions_max: 3, ..Config::default() };
        match self {
            Self::Coordinator(on) => Config { on, memory_bytes_max: memory_bytes, ..config },
            Self::Functions { copies } => Config {
                on: Target::InProcess,
                memory_bytes_max: PLENTY_BYTES,
                function_memory_bytes: memory_bytes,
                join: if copies { JoinPlace::Broadcast } else { JoinPlace::Local },
                shuffle: ShufflePlace::Hash,
                shuffle_partitions: Some(5),
                ..config
            },
        }
    }

    /// Returns true if an error names an operator and the setting that would help.
    fn is_named(self, message: &str) -> bool {
        let setting = match self {
            // Functions have memory of their own, of which the default is plenty.
            Self::Coordinator(_) => "memory_bytes_max",
            Self::Functions { .. } => "function_memory_bytes",
        };
        message.contains(setting) && HOLDERS.iter().any(|holder| message.contains(holder))
    }
}

/// Words of the names of those that hold memory.
const HOLDERS: [&str; 11] = [
    "Join",
    "join",
    "Sort",
    "sort",
    "Aggregate",
    "aggregate",
    "TopK",
    "Window",
    "rows",
    "results of stage",
    "recursive query",
];

/// Memory that is enough for each query.
const PLENTY_BYTES: u64 = 4 << 30;

fn outcome(report: &Report, refused: bool) -> MemoryOutcome {
    match (&report.planned_again, refused || report.spilled_bytes > 0) {
        (Some(_), _) => MemoryOutcome::PlannedAgain,
        (None, _) if report.fragments_taken_apart > 0 => MemoryOutcome::TakenApart,
        (None, true) => MemoryOutcome::Spilled,
        (None, false) => MemoryOutcome::Right,
    }
}

const JOIN_TYPES: [&str; 8] = [
    "JOIN",
    "LEFT JOIN",
    "RIGHT JOIN",
    "FULL JOIN",
    "LEFT SEMI JOIN",
    "LEFT ANTI JOIN",
    "RIGHT SEMI JOIN",
    "RIGHT ANTI JOIN",
];

/// Settings by which joins of equal keys are done, by name.
const EQUI: [(&str, &[&str]); 3] = [
    (
        "collect-left",
        &[
            "SET datafusion.optimizer.hash_join_single_partition_threshold = 100000000",
            "SET datafusion.optimizer.hash_join_single_partition_threshold_rows = 100000000",
        ],
    ),
    (
        "partitioned",
        &[
            "SET datafusion.optimizer.hash_join_single_partition_threshold = 0",
            "SET datafusion.optimizer.hash_join_single_partition_threshold_rows = 0",
        ],
    ),
    ("sort-merge", &["SET datafusion.optimizer.prefer_hash_join = false"]),
];

/// Returns all queries.
pub fn queries() -> Vec<Query> {
    let mut all = equi_joins();
    all.extend(other_joins());
    all.extend(others());
    all
}

fn query(name: impl Into<String>, settings: &[&'static str], sql: impl Into<String>) -> Query {
    let (sql, settings) = (sql.into(), settings.to_vec());
    let ordered = sql.ends_with("ORDER BY v") || sql.ends_with("ORDER BY s, v");
    Query { name: name.into(), settings, sql, ordered }
}

/// Sums up a join's output in one row, so that no row can be lost, doubled or changed unseen.
fn digest(join: &str, condition: &str) -> String {
    let side =
        |t: &str| format!("count({t}.v), sum({t}.v), sum({t}.v * {t}.v), sum(length({t}.s)), min({t}.s), max({t}.s)");
    let sides = match join {
        "LEFT SEMI JOIN" | "LEFT ANTI JOIN" => side("a"),
        "RIGHT SEMI JOIN" | "RIGHT ANTI JOIN" => side("b"),
        _ => format!("{}, {}, sum(a.v * b.v)", side("a"), side("b")).replace(", min(b.s), max(b.s)", ""),
    };
    format!("SELECT count(*), {sides} FROM a {join} b ON {condition}").replace("count(a.v), ", "count(a.v) AS n, ")
}

fn equi_joins() -> Vec<Query> {
    let conditions = ["a.k = b.k", "a.k = b.k AND a.v + b.v > 2500", "a.f = b.f AND a.g = b.g", "a.s = b.s"];
    let mut all = Vec::new();
    for (index, join) in JOIN_TYPES.iter().enumerate() {
        for (how, settings) in EQUI {
            let condition = conditions[(index + how.len()) % conditions.len()];
            all.push(query(format!("{how} {join} on {condition}"), settings, digest(join, condition)));
        }
    }
    for (how, settings) in EQUI {
        let marked = "SELECT count(*), sum(v), min(s) FROM a WHERE a.g = 3 OR EXISTS (SELECT 1 FROM b WHERE b.k = a.k)";
        all.push(query(format!("{how} mark join"), settings, marked));
        let unmarked = "SELECT count(*), sum(v), min(s) FROM a WHERE a.g = 3 OR NOT EXISTS (SELECT 1 FROM b WHERE b.k = a.k AND b.v > a.v)";
        all.push(query(format!("{how} mark join, none"), settings, unmarked));
        let three =
            "SELECT count(*), sum(a.v), sum(c.v), max(c.s) FROM a JOIN b ON a.k = b.k LEFT JOIN a c ON b.v = c.v";
        all.push(query(format!("{how} twice"), settings, three));
    }
    all.push(query("NOT IN", &[], "SELECT count(*), sum(v) FROM a WHERE k NOT IN (SELECT k FROM b WHERE k > 5)"));
    all.push(query(
        "NOT IN with NULL",
        &[],
        "SELECT count(*), sum(v) FROM a WHERE v NOT IN (SELECT k FROM b WHERE k > 1400 OR k IS NULL)",
    ));
    all
}

fn other_joins() -> Vec<Query> {
    let mut all = Vec::new();
    for join in JOIN_TYPES {
        let near = "a.v > b.v * 2 - 3 AND a.v < b.v * 2 + 4 AND a.g <> b.g";
        all.push(query(format!("nested loop {join}"), &[], digest(join, near)));
    }
    let marked =
        "SELECT count(*), sum(v), min(s) FROM a WHERE a.g = 3 OR EXISTS (SELECT 1 FROM b WHERE b.v > a.v + 1990)";
    all.push(query("nested loop mark join", &[], marked));
    all.push(query(
        "cross join",
        &[],
        "SELECT count(*), sum(a.v), sum(length(b.s)), min(a.s) FROM a, b WHERE b.v < 60",
    ));
    all
}

fn others() -> Vec<Query> {
    let list = [
        ("grouped", "SELECT s, count(*), sum(v), sum(f), min(k), max(g) FROM a GROUP BY s"),
        ("grouped by many", "SELECT k, g, s, count(*), avg(v) FROM a GROUP BY k, g, s"),
        (
            "grouped, then joined",
            "SELECT count(*), sum(n) FROM (SELECT s, count(*) n FROM a GROUP BY s) x JOIN b ON x.s = b.s",
        ),
        ("count distinct", "SELECT g, count(DISTINCT s), count(DISTINCT k), sum(v) FROM a GROUP BY g"),
        ("lists", "SELECT k, array_agg(v ORDER BY v), string_agg(s, ',' ORDER BY v) FROM a GROUP BY k"),
        ("medians", "SELECT k, median(v), approx_distinct(g) FROM a GROUP BY k"),
        ("grouping sets", "SELECT k, g, count(*), sum(v) FROM a GROUP BY ROLLUP (k, g)"),
        ("ordered groups", "SELECT v, s, count(*) FROM (SELECT * FROM a ORDER BY v) GROUP BY v, s"),
        ("distinct", "SELECT DISTINCT s, k FROM a"),
        ("distinct on", "SELECT DISTINCT ON (k) k, v, s FROM a ORDER BY k, v"),
        ("union", "SELECT k, s FROM a UNION SELECT k, s FROM b"),
        ("union all, sorted", "SELECT v, s FROM a UNION ALL SELECT v + 10000, s FROM b ORDER BY v"),
        ("intersect", "SELECT k, g FROM a INTERSECT SELECT k, g FROM b"),
        ("except", "SELECT k, s FROM a EXCEPT SELECT k, s FROM b"),
        ("sorted", "SELECT v, s, f, k FROM a ORDER BY s, v"),
        ("sorted with limit", "SELECT v, s FROM (SELECT v, s FROM a ORDER BY s, v LIMIT 1500) ORDER BY s, v"),
        ("sorted with offset", "SELECT v, s FROM (SELECT v, s FROM a ORDER BY s, v OFFSET 700) ORDER BY s, v"),
        (
            "ranks",
            "SELECT v, row_number() OVER (PARTITION BY k ORDER BY v), rank() OVER (PARTITION BY g ORDER BY s, v) FROM a",
        ),
        (
            "frames",
            "SELECT v, sum(v) OVER (PARTITION BY g ORDER BY v ROWS BETWEEN 5 PRECEDING AND CURRENT ROW), max(s) OVER (PARTITION BY k) FROM a",
        ),
        (
            "first of each",
            "SELECT * FROM (SELECT v, s, row_number() OVER (PARTITION BY k ORDER BY v) n FROM a) WHERE n <= 2",
        ),
        (
            "recursive",
            "WITH RECURSIVE r AS (SELECT v, s FROM b WHERE v <= 900 UNION ALL SELECT r.v + 900, a.s FROM r JOIN a ON a.v = r.v + 900) \
             SELECT count(*), sum(v), min(s), max(s), sum(length(s)) FROM r",
        ),
        (
            "recursive, distinct",
            "WITH RECURSIVE r AS (SELECT k, v FROM a WHERE v <= 60 UNION SELECT b.k, b.v % 100 FROM r JOIN b ON r.k = b.k) \
             SELECT count(*), sum(k), sum(v) FROM r",
        ),
        (
            "recursive, nested loop",
            "WITH RECURSIVE r AS (SELECT v, s FROM b WHERE v <= 300 UNION ALL \
             SELECT a.v, a.s FROM r JOIN a ON a.v > r.v + 499 AND a.v < r.v + 501) SELECT count(*), sum(v), sum(length(s)) FROM r",
        ),
        (
            "recursive, greatest",
            "WITH RECURSIVE r AS (SELECT 1 AS n, CAST(0 AS BIGINT) AS m UNION ALL \
             SELECT r.n + 1, a.v FROM r JOIN a ON a.g = r.n % 17 AND a.v > r.m WHERE r.n < 6 AND a.v < r.m + 20) \
             SELECT count(*), sum(m), max(n) FROM r",
        ),
        (
            "subqueries",
            "SELECT v, s FROM a WHERE v > (SELECT avg(v) FROM b) AND v = (SELECT max(b.v) FROM b WHERE b.k = a.k)",
        ),
    ];
    list.into_iter().map(|(name, sql)| query(name, &[], sql)).collect()
}
