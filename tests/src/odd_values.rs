//! Random statements over files of odd values (NULL, NaN, -0.0, empty texts, the least and largest of each type), with DuckDB
//! as the judge: bare Parquet and Iceberg tables alike, locally, in-process and through processes.
//!
//! ```text
//!  seed ─► query ─► queries.json ─► odd_values.py: nine files, and DuckDB's answers
//!                └► Gust on three targets ─► the same rows as DuckDB, and the same types on all three
//! ```
//!
//! Some of them are around a function of ours, of which each has its turn. A difference is a failure, unless it stands in [`DIFFERENCES`]
//! with its reason.

mod expressions;
mod own;
mod queries;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use futures::{StreamExt, stream};
use gust_engine::config::{Config, ConfigFile, Overrides, Target};
use gust_engine::session::Session;
use tempfile::TempDir;

use crate::compare::{Rule, compare, read_arrow_file};
use crate::python::{self, Run};
use crate::query::run;
pub use own::{CALLS, own_query};
pub use queries::{Query, query};

const TARGETS: [Target; 3] = [Target::Local, Target::InProcess, Target::Processes];
/// Rows of a result that a failure shows.
const ROWS_SHOWN_MAX: usize = 40;

/// Difference from DuckDB that the dialect intends.
struct DialectDifference {
    /// Words of Gust's error; None where Gust has rows.
    gust: Option<&'static str>,
    /// Words of DuckDB's error; None where DuckDB has rows.
    duckdb: Option<&'static str>,
    reason: &'static str,
}

/// All intended differences. `docs/dialect.md` has a line for each.
const DIFFERENCES: &[DialectDifference] = &[DialectDifference {
    gust: Some("overflows: the sum does not fit"),
    duckdb: None,
    reason: "a sum of BIGINT that does not fit is an error; DuckDB has a wider type",
}];

impl DialectDifference {
    fn is(&self, gust: Result<(), &str>, duckdb: Result<(), &str>) -> bool {
        let said = |words: Option<&str>, by: Result<(), &str>| match (words, by) {
            (None, Ok(())) => true,
            (Some(words), Err(message)) => message.contains(words),
            _ => false,
        };
        said(self.gust, gust) && said(self.duckdb, duckdb)
    }
}

/// Result of many seeds.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// Seeds with equal rows on every target.
    pub agreed: usize,
    /// Seeds with equal rows whose tables functions read.
    pub remote: usize,
    /// Seeds with an intended difference, by its reason.
    pub dialect: BTreeMap<&'static str, usize>,
    /// Seeds with any other difference: the seed, the statement, and the difference.
    pub failures: Vec<String>,
}

/// Result of one seed.
enum Verdict {
    Agreed { remote: bool },
    Dialect(&'static str),
    Failed(String),
}

/// Runs statements with their seeds, `at_once` at a time. The process target runs `bootstrap`; the Python environment is kept under `cache`.
///
/// # Errors
/// When DuckDB cannot be had, with the reason, or when a session cannot be opened.
pub async fn judge(
    queries: Vec<(u64, Query)>,
    at_once: usize,
    bootstrap: &Path,
    cache: &Path,
) -> anyhow::Result<Verdicts> {
    let folder = tempfile::Builder::new().prefix("odd-values-").tempdir_in(cache)?;
    let texts: Vec<&str> = queries.iter().map(|(_, query)| query.judged.as_deref().unwrap_or("SELECT 1")).collect();
    std::fs::write(folder.path().join("queries.json"), serde_json::to_string(&texts)?)?;
    if let Run::Skipped { reason } = python::run(cache, "odd_values.py", &[folder.path()])? {
        bail!("DuckDB is the judge and is not to be had: {reason}");
    }
    let places = [open(&folder, bootstrap, true).await?, open(&folder, bootstrap, false).await?];
    let verdicts = stream::iter(queries.iter().enumerate()).map(async |(position, (seed, query))| {
        let answer = folder.path().join("answers").join(position.to_string());
        // Statements alternate between Iceberg and bare Parquet.
        let sessions = &places[position % places.len()];
        (*seed, Box::pin(verdict(sessions, *seed, query, &answer)).await)
    });
    let verdicts: Vec<(u64, anyhow::Result<Verdict>)> = verdicts.buffered(at_once).collect().await;
    let mut judged = Verdicts::default();
    for (seed, verdict) in verdicts {
        match verdict.with_context(|| format!("seed {seed}"))? {
            Verdict::Agreed { remote } => {
                judged.agreed += 1;
                judged.remote += usize::from(remote);
            }
            Verdict::Dialect(reason) => *judged.dialect.entry(reason).or_default() += 1,
            Verdict::Failed(told) => judged.failures.push(told),
        }
    }
    for session in places.iter().flatten() {
        session.close().await;
    }
    Ok(judged)
}

/// Opens a session on each target, with the tables of one kind.
async fn open(folder: &TempDir, bootstrap: &Path, is_iceberg: bool) -> anyhow::Result<Vec<Session>> {
    let text = format!(
        "[process]\nprogram = '{}'\n[catalogs.lake]\ntype = 'sqlite'\npath = 'catalog.db'\nwarehouse = 'warehouse'\n",
        bootstrap.display()
    );
    let file = ConfigFile { path: folder.path().join("gust.toml"), text };
    let mut sessions = Vec::new();
    for target in TARGETS {
        let overrides = Overrides { on: Some(target), functions_max: Some(3), ..Overrides::default() };
        let session = Session::new(Config::load(Some(&file), [], &overrides)?)?;
        match is_iceberg {
            true => session.use_catalog("lake").await?,
            false => {
                for table in ["a", "b", "c"] {
                    let location = folder.path().join("bare").join(table);
                    let location = location.display();
                    run(&session, &format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{location}/'"))
                        .await?;
                }
            }
        }
        sessions.push(session);
    }
    Ok(sessions)
}

async fn verdict(sessions: &[Session], seed: u64, query: &Query, answer: &Path) -> anyhow::Result<Verdict> {
    let mut answers = Vec::new();
    let mut remote = false;
    for (session, target) in sessions.iter().zip(TARGETS) {
        answers.push(match run(session, &query.sql).await {
            Ok((rows, report)) => {
                remote |= target != Target::Local && report.fragments_adopted > 0 && report.fell_back.is_none();
                Ok(rows)
            }
            Err(error) => Err(error.to_string()),
        });
    }
    let told = |what: &str| Verdict::Failed(format!("seed {seed}: {}\n{what}", query.sql));
    let local = answers[0].as_ref();
    for (answer, target) in answers.iter().zip(TARGETS).skip(1) {
        match (local, answer) {
            (Ok(local), Ok(rows)) => {
                let rule = if query.ordered { Rule::same_engine() } else { Rule::same_engine().in_any_order() };
                if let Err(difference) = compare(local, rows, rule) {
                    return Ok(told(&format!("{target:?} is not local: {difference}")));
                }
            }
            (Err(error), Err(same)) if first_words(error) == first_words(same) => {}
            (Err(error), Err(other)) => return Ok(told(&format!("local: {error}\n{target:?}: {other}"))),
            (Ok(_), Err(error)) => return Ok(told(&format!("{target:?} fails, local does not: {error}"))),
            (Err(error), Ok(_)) => return Ok(told(&format!("local fails, {target:?} does not: {error}"))),
        }
    }
    if query.judged.is_none() {
        return Ok(match local {
            Ok(_) => Verdict::Agreed { remote },
            Err(error) => told(error),
        });
    }
    let judge = judges_answer(answer)?;
    let rule = if query.ordered { Rule::other_engine() } else { Rule::other_engine().in_any_order() };
    let same = match (&judge, local) {
        (Ok(judge), Ok(rows)) => compare(judge, rows, rule).map_err(|difference| difference.to_string()),
        _ => Err(String::new()),
    };
    if same.is_ok() {
        return Ok(Verdict::Agreed { remote });
    }
    let words = (local.map(drop).map_err(String::as_str), judge.as_ref().map(drop).map_err(String::as_str));
    if let Some(known) = DIFFERENCES.iter().find(|difference| difference.is(words.0, words.1)) {
        return Ok(Verdict::Dialect(known.reason));
    }
    let shown = |answer: Result<&Vec<RecordBatch>, &String>| match answer {
        Ok(rows) => shown(rows),
        Err(error) => error.clone(),
    };
    let (gust, duckdb) = (shown(local), shown(judge.as_ref()));
    Ok(told(&format!("{}\nDuckDB:\n{duckdb}\nGust:\n{gust}", same.expect_err("not the same"))))
}

/// Returns the words of an error without its values: rows come in any order, and the error tells the first that fails.
fn first_words(error: &str) -> String {
    error.lines().next().unwrap_or_default().chars().filter(|c| c.is_alphabetic() || *c == ' ').collect()
}

/// Returns DuckDB's rows, or its error's message.
fn judges_answer(answer: &Path) -> anyhow::Result<Result<Vec<RecordBatch>, String>> {
    let error = PathBuf::from(format!("{}.error", answer.display()));
    if error.exists() {
        return Ok(Err(std::fs::read_to_string(error)?));
    }
    read_arrow_file(&PathBuf::from(format!("{}.arrow", answer.display()))).map(Ok)
}

fn shown(rows: &[RecordBatch]) -> String {
    let text = pretty_format_batches(rows).map_or_else(|error| error.to_string(), |table| table.to_string());
    text.lines().take(ROWS_SHOWN_MAX).collect::<Vec<_>>().join("\n")
}
