//! Random queries over small tables full of NULLs, about the meaning of IN, EXISTS, quantified comparisons and USING.
//!
//! Contract: one seed is one history of tables and queries. DuckDB understands the queries as well. Their rows come in any
//! order.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int32Array, RecordBatch};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use gust_engine::error::ErrorKind;
use gust_engine::session::Session;
use parquet::arrow::ArrowWriter;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

use crate::python::{self, Run};
use crate::query::run;

/// Tables of a trial. `id` is unique in a table; `k` and `z` have few values and NULL.
pub const TABLES: [&str; 3] = ["l", "r", "s"];

/// Writes the tables of a seed as `TABLE/N.parquet` below `folder`: two files each, some without rows.
///
/// # Errors
/// When a file cannot be written.
pub fn write_tables(seed: u64, folder: &Path) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    for table in TABLES {
        std::fs::create_dir_all(folder.join(table))?;
        for file in 0..2 {
            let rows = *[0, 1, 3, 6].choose(&mut random).unwrap_or(&1);
            let ids = Int32Array::from_iter_values((0..rows).map(|row| file * 100 + row));
            let nulls = *[0.0, 0.2, 0.5].choose(&mut random).unwrap_or(&0.2);
            let mut column = || -> ArrayRef {
                Arc::new(Int32Array::from_iter(
                    (0..rows).map(|_| (!random.random_bool(nulls)).then(|| random.random_range(0..4))),
                ))
            };
            let columns = [("id", Arc::new(ids) as ArrayRef), ("k", column()), ("z", column())];
            let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))?;
            let path = folder.join(table).join(format!("{file}.parquet"));
            let mut writer = ArrowWriter::try_new(std::fs::File::create(path)?, batch.schema(), None)?;
            writer.write(&batch)?;
            writer.close()?;
        }
    }
    Ok(())
}

/// Returns `count` queries over the tables of a seed.
pub fn queries(seed: u64, count: usize) -> Vec<String> {
    let mut queries = Queries(StdRng::seed_from_u64(seed.wrapping_add(1)));
    (0..count).map(|index| if index % 4 == 3 { queries.using() } else { queries.subquery() }).collect()
}

/// Tables and queries of a seed, with DuckDB's answers.
#[derive(Debug)]
pub struct Trial {
    folder: TempDir,
    queries: Vec<(String, DuckDbAnswer)>,
}

/// Answer of DuckDB.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DuckDbAnswer {
    Rows(Vec<Vec<Option<String>>>),
    Error(String),
}

/// Counts and failures of a trial's queries.
#[derive(Debug, Default)]
pub struct TrialOutcome {
    pub right: usize,
    /// Queries that ended with an error of SQL: neither wrong nor right.
    pub refused: usize,
    /// Queries that DuckDB refuses, with its reasons.
    pub unjudged: Vec<String>,
    /// Queries that were wrong, with the difference.
    pub wrong: Vec<String>,
}

/// Makes a trial. Returns None where DuckDB cannot be had, and says so on stdout.
///
/// # Errors
/// When files cannot be written, or the judge fails.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
pub fn trial(cache: &Path, seed: u64, count: usize) -> anyhow::Result<Option<Trial>> {
    let folder = TempDir::with_prefix("gust-subqueries-")?;
    write_tables(seed, folder.path())?;
    let queries = queries(seed, count);
    let tables = TABLES.map(|table| (table.to_owned(), json!(folder.path().join(table).join("*.parquet"))));
    let request = folder.path().join("request.json");
    let asked = json!({ "tables": serde_json::Map::from_iter(tables), "queries": queries });
    std::fs::write(&request, serde_json::to_vec(&asked)?)?;
    match python::run(cache, "rows_judge.py", &[&request])? {
        Run::Skipped { reason } => {
            println!("skipped: {reason}");
            Ok(None)
        }
        Run::Done { stdout } => {
            let judged: Vec<DuckDbAnswer> = serde_json::from_str(&stdout)?;
            Ok(Some(Trial { folder, queries: queries.into_iter().zip(judged).collect() }))
        }
    }
}

impl Trial {
    /// Runs the trial's queries in a session.
    pub async fn run(&self, session: &Session) -> TrialOutcome {
        let mut outcome = TrialOutcome::default();
        for table in TABLES {
            let location = self.folder.path().join(table);
            let create = format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{}/'", location.display());
            if let Err(error) = run(session, &create).await {
                outcome.wrong.push(format!("{create}: {error}"));
            }
        }
        for (sql, judged) in &self.queries {
            let expected = match judged {
                DuckDbAnswer::Rows(expected) => expected,
                DuckDbAnswer::Error(reason) => {
                    outcome.unjudged.push(format!("{sql}\n    {reason}"));
                    continue;
                }
            };
            match run(session, sql).await {
                Ok((batches, _)) => {
                    let (seen, expected) = (sorted(cells(&batches)), sorted(expected.clone()));
                    match seen == expected {
                        true => outcome.right += 1,
                        false => outcome.wrong.push(format!("{sql}\n    {seen:?}\n    instead of {expected:?}")),
                    }
                }
                Err(error) if error.kind() == ErrorKind::Sql => outcome.refused += 1,
                // A function ends with the same refusal as an error of its own.
                Err(error)
                    if error.kind() == ErrorKind::Functions
                        && error.message().contains("does not support logical expression") =>
                {
                    outcome.refused += 1;
                }
                Err(error) => outcome.wrong.push(format!("{sql}\n    {error}")),
            }
        }
        outcome
    }
}

fn sorted(mut rows: Vec<Vec<Option<String>>>) -> Vec<Vec<Option<String>>> {
    rows.sort();
    rows
}

/// Returns the rows with their cells as text; NULL is None.
fn cells(batches: &[RecordBatch]) -> Vec<Vec<Option<String>>> {
    let options = FormatOptions::new();
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cell = |column: &ArrayRef| {
                let text = ArrayFormatter::try_new(column.as_ref(), &options).expect("a type with a text");
                column.is_valid(row).then(|| text.value(row).to_string())
            };
            rows.push(batch.columns().iter().map(cell).collect());
        }
    }
    rows
}

struct Queries(StdRng);

impl Queries {
    fn pick(&mut self, choices: &[&str]) -> String {
        choices.choose(&mut self.0).copied().unwrap_or_default().to_owned()
    }

    fn subquery(&mut self) -> String {
        let condition = self.condition();
        self.pick(&["SELECT id FROM l WHERE {it}", "SELECT id FROM l WHERE {it}", "SELECT id, {it} AS c FROM l"])
            .replace("{it}", &condition)
    }

    fn condition(&mut self) -> String {
        let predicate = self.predicate();
        let shapes = [
            "{it}",
            "{it}",
            "NOT ({it})",
            "{it} OR l.z > 2",
            "{it} AND l.z >= 1",
            "NOT ({it} AND l.k > 1)",
            "({it}) IS NULL",
            "({it}) IS NOT TRUE",
            "CASE WHEN {it} THEN 1 ELSE 0 END = 0",
            "({it}) = (l.z > 1)",
            "coalesce({it}, l.z = 1)",
        ];
        self.pick(&shapes).replace("{it}", &predicate)
    }

    fn predicate(&mut self) -> String {
        let value = self.pick(&["l.k", "l.k", "l.z", "l.k + 1", "2", "CAST(NULL AS INT)"]);
        let rows = self.rows();
        let forms = [
            "{value} IN ({rows})",
            "{value} NOT IN ({rows})",
            "{value} NOT IN ({rows})",
            "EXISTS ({rows})",
            "NOT EXISTS ({rows})",
            "{value} <> ALL ({rows})",
            "{value} = ANY ({rows})",
            "{value} < ALL ({rows})",
        ];
        self.pick(&forms).replace("{value}", &value).replace("{rows}", &rows)
    }

    /// Returns a subquery of one column.
    fn rows(&mut self) -> String {
        let what = self.pick(&[
            "r.k",
            "r.k",
            "r.z",
            "r.k + 1",
            "1",
            "CAST(NULL AS INT)",
            "max(r.k)",
            "count(*)",
            "DISTINCT r.k",
        ]);
        let place = self.pick(&[
            "",
            "",
            "r.z = l.z",
            "r.z < l.z",
            "r.k = l.k",
            "r.k IS NOT NULL",
            "r.z > 1",
            "false",
            "r.z = l.z AND r.k IS NOT NULL",
        ]);
        let place = if place.is_empty() { place } else { format!(" WHERE {place}") };
        let group = if what == "r.k" { self.pick(&["", "", "", " GROUP BY r.k"]) } else { String::new() };
        format!("SELECT {what} FROM r{place}{group}")
    }

    fn using(&mut self) -> String {
        let kinds = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];
        let (first, second) = (self.pick(&kinds), self.pick(&kinds));
        let two = "s {first} r USING (k)";
        let from = self.pick(&[two, two, "s {first} r USING (k) {second} l USING (k)"]);
        let from = from.replace("{first}", &first).replace("{second}", &second);
        let shapes = [
            "SELECT k, s.z FROM {from}",
            "SELECT * FROM {from}",
            "SELECT k, count(*), min(s.id) FROM {from} GROUP BY k",
            "SELECT k + 1, s.k, r.k FROM {from} WHERE k > 0",
            "SELECT s.id, r.id FROM {from} WHERE k IS NOT NULL AND k <> 2",
            "SELECT count(*) FROM {from} WHERE k IN (SELECT k FROM l)",
            "SELECT DISTINCT k FROM {from}",
        ];
        self.pick(&shapes).replace("{from}", &from)
    }
}
