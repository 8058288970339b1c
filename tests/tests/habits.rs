//! `tests/habits/`: statements as people bring them from other engines. Each has its rows, or is refused with what to write
//! instead, locally and on functions. DuckDB is the judge of those that it knows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use arrow::array::RecordBatch;
use gust_engine::config::Target;
use gust_engine::error::QueryError;
use gust_engine::report::Report;
use gust_engine::session::Session;
use gust_tests::asks::lines;
use gust_tests::compare::read_arrow_file;
use gust_tests::python;
use gust_tests::query::{run, session};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

/// Names of the files with statements.
const FILES: [&str; 6] = ["athena", "trino", "trino_dialect", "duckdb", "spark", "functions"];

/// Characters of the longest message.
const MESSAGE_MAX: usize = 400;

/// Letters of a message and of a rewrite that an entry names at least.
const MESSAGE_MIN: usize = 12;
const REWRITE_MIN: usize = 4;

/// Words of a syntax tree, or of an engine's inside, that no message has.
const DUMPS: [&str; 8] = [
    "Span(",
    "Ident {",
    " { ",
    "bug report",
    "TokenWithSpan",
    "Internal error",
    "Candidate functions",
    "user-defined coercion",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    /// Queries of DuckDB by the Parquet files that they become.
    files: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Habits {
    entry: Vec<Entry>,
}

/// Statement with what becomes of it: rows, or a refusal.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Where it comes from.
    from: String,
    /// Dialect of the session. None for its own.
    dialect: Option<String>,
    sql: String,
    /// Cells of each row, with bars between them.
    rows: Option<Vec<String>>,
    /// Names of the columns.
    columns: Option<Vec<String>>,
    /// Words of the message, and of the hint.
    refused: Option<[String; 2]>,
    /// True if functions have to read its tables.
    #[serde(default)]
    remote: bool,
    /// True if DuckDB answers with the same rows.
    #[serde(default)]
    duckdb: bool,
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("habits").join(name).with_extension("toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads all entries. A refusal has words, and words of what to write.
fn entries() -> Vec<Entry> {
    let entries: Vec<Entry> = FILES.iter().flat_map(|file| read::<Habits>(file).entry).collect();
    for Entry { sql, rows, refused, .. } in &entries {
        let has_words =
            refused.as_ref().is_some_and(|[words, rewrite]| words.len() >= MESSAGE_MIN && rewrite.len() >= REWRITE_MIN);
        assert!(rows.is_some() != refused.is_some() && (rows.is_some() || has_words), "{sql}: {refused:?}");
    }
    entries
}

/// Has DuckDB make the tables and answer the entries. Returns None where Python is missing, and says so on stderr.
fn judged(data: &Data, entries: &[Entry]) -> Option<TempDir> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = tempfile::Builder::new().prefix("habits-").tempdir_in(cache).expect("a temporary folder");
    let files: Vec<(&String, &String)> = data.files.iter().collect();
    // Others might begin a transaction, or drop a table.
    let queries: Vec<&str> =
        entries.iter().map(|entry| if entry.duckdb { entry.sql.as_str() } else { "SELECT 1" }).collect();
    let is_judged = python::duckdb_answers(cache, folder.path(), &files, &queries).expect("DuckDB answers");
    is_judged.then_some(folder)
}

async fn open(target: Target, data: &Data, folder: &Path) -> Session {
    let session = session(target, 3, env!("CARGO_BIN_EXE_bootstrap_under_test"));
    let mut tables: Vec<&str> = data.files.keys().filter_map(|file| file.split('/').next()).collect();
    tables.dedup();
    for table in tables {
        let place = folder.join(table);
        let create = format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{}/'", place.display());
        run(&session, &create).await.unwrap_or_else(|error| panic!("{create}: {error}"));
    }
    session
}

/// Answer of a statement.
struct Answer {
    columns: Vec<String>,
    batches: Vec<RecordBatch>,
    report: Report,
}

/// Runs one text of statements, and returns the answer of the last.
async fn ask(session: &Session, sql: &str) -> Result<Answer, QueryError> {
    let mut last = None;
    for statement in session.parse(sql)? {
        let mut running = session.run(statement).await?;
        let columns = running.schema().fields().iter().map(|field| field.name().clone()).collect();
        let mut batches = Vec::new();
        let ended = loop {
            match running.next().await {
                Ok(Some(batch)) => batches.push(batch),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let events = running.finish().await;
        ended?;
        last = Some(Answer { columns, batches, report: Report::from_events(&events.snapshot()) });
    }
    Ok(last.expect("parse returns at least one statement"))
}

/// Returns what is wrong with an answer; None if it is the entry's.
fn difference(entry: &Entry, target: Target, answer: &Result<Answer, QueryError>) -> Option<String> {
    let Answer { columns, batches, report } = match answer {
        Ok(answer) => answer,
        Err(error) => return refusal(entry, error),
    };
    let rows = lines(batches, "NULL");
    if entry.rows.as_ref() != Some(&rows) {
        return Some(format!("rows {rows:?}"));
    }
    if entry.columns.as_ref().is_some_and(|expected| expected != columns) {
        return Some(format!("columns {columns:?}"));
    }
    let adopted = report.fragments_adopted;
    match target {
        Target::Local if report.attempts > 0 => Some("functions were used".to_owned()),
        Target::InProcess if entry.remote && (adopted == 0 || report.fell_back.is_some()) => {
            Some(format!("no fragment of a function was adopted: {:?}", report.decision))
        }
        _ => None,
    }
}

fn refusal(entry: &Entry, error: &QueryError) -> Option<String> {
    let message = error.message();
    let hint = error.hint().unwrap_or_default();
    let told = format!("{message}\n  hint: {hint}");
    if DUMPS.iter().any(|words| told.contains(words)) || message.len() > MESSAGE_MAX {
        return Some(format!("a dump: {told}"));
    }
    match &entry.refused {
        Some([words, rewrite]) if message.contains(words) && hint.contains(rewrite) => None,
        _ => Some(told),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn habits_run_or_are_refused_with_what_to_write() {
    let data: Data = read("data");
    let entries = entries();
    let Some(folder) = judged(&data, &entries) else { return };
    let mut wrong = String::new();
    for target in [Target::Local, Target::InProcess] {
        let session = open(target, &data, folder.path()).await;
        for entry in &entries {
            if let Some(dialect) = &entry.dialect {
                run(&session, &format!("SET gust.dialect = '{dialect}'")).await.expect("a dialect");
            }
            let answer = ask(&session, &entry.sql).await;
            run(&session, "RESET gust.dialect").await.expect("set back");
            if let Some(difference) = difference(entry, target, &answer) {
                writeln!(wrong, "{target:?}, {}: {}\n  {difference}", entry.from, entry.sql).expect("to a string");
            }
        }
        session.close().await;
    }
    for (number, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.duckdb) {
        let path = folder.path().join("answers").join(format!("{number}.arrow"));
        let rows = read_arrow_file(&path).map(|batches| lines(&batches, "NULL"));
        if rows.as_ref().ok() != entry.rows.as_ref() {
            writeln!(wrong, "DuckDB, {}: {}\n  {rows:?}", entry.from, entry.sql).expect("to a string");
        }
    }
    let count = |is: fn(&Entry) -> bool| entries.iter().filter(|entry| is(entry)).count();
    let (ran, refused) = (count(|entry| entry.rows.is_some()), count(|entry| entry.refused.is_some()));
    eprintln!("{ran} ran, {refused} were refused with the rewrite, of {}", entries.len());
    assert!(wrong.is_empty(), "{wrong}");
}
