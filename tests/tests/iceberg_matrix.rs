//! The matrix of Iceberg tables: each ask of `tests/iceberg/truth/*.toml`, on each target, against the rows that are written there by hand.
//!
//! ```text
//!  tests/iceberg/tables ─► /tmp/gust-iceberg-fixtures-1 ─► each ask, on each target ─► the truth
//! ```
//!
//! Four writers made the tables, by the scripts of `tests/python/matrix`, and a fifth edits what they wrote; its `check.py` asks the judges. `refused` is the text with
//! which Gust refuses an ask today, and `wrong` the reason for which it has other rows. Such an ask fails the suite once it has its
//! rows, so that the line is struck out.
//!
//! `rest/suites.rs` runs it through a REST catalog.
//!
//! `MATRIX=v3 cargo test --release -p gust-tests iceberg_matrix::` runs the tables alone whose names contain `v3`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::util::display::array_value_to_string;
use gust_engine::config::Target;
use gust_engine::session::Session;
use gust_tests::asks::{FilesRead, Reader, ask, files_kept};
use gust_tests::query::{run, session};
use serde::Deserialize;
use serde_json::{Number, Value, json};
use sha2::{Digest, Sha256};

/// Folder that the tables' metadata names. Its number rises when the tables are made anew with other contents.
pub(crate) const ROOT: &str = "/tmp/gust-iceberg-fixtures-1";
const PROGRAM: &str = env!("CARGO_BIN_EXE_bootstrap_under_test");
const FUNCTIONS: u32 = 4;

/// Findings of the review of November 2026 that tables must be cases of. W had wrong rows, F were refused though they are legal,
/// H are what bad writers leave, and numbers are traps of the specification. F11 and F13 need a bucket: `locations.rs` has them.
const TRAPS: &[&str] = &[
    "W1", "W2", "W3", "F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9", "F10", "F12", "F14", "H1", "H2", "H3",
    "H4", "H5", "2", "3", "4", "5", "6", "7", "8", "9", "10", "12", "15",
];

/// File of `tests/iceberg/truth`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Truth {
    table: Vec<Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    pub(crate) name: String,
    writer: String,
    /// Findings that the table is a case of.
    #[serde(default)]
    traps: Vec<String>,
    /// Text with which every ask is refused today.
    refused: Option<String>,
    pub(crate) ask: Vec<Ask>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ask {
    pub(crate) sql: String,
    /// Statement for Spark, where its dialect differs.
    #[serde(rename = "spark_sql")]
    _spark_sql: Option<String>,
    /// Rows as lines of JSON. The first line names the columns.
    rows: Option<String>,
    /// Text of the error that is right.
    error: Option<String>,
    /// Text with which the ask is refused today.
    refused: Option<String>,
    /// Reason for which the rows are wrong today.
    wrong: Option<String>,
    files: Option<FilesRead>,
    /// Most files that the plan keeps.
    files_max: Option<usize>,
    /// Verdicts by judge.
    #[serde(default)]
    judges: BTreeMap<String, String>,
    /// Checksum of what the verdicts hold for, [`digest`].
    judged: Option<String>,
    /// Reason where fewer than two judges agree with the rows.
    few_judges: Option<String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("iceberg")
}

pub(crate) fn truth() -> Vec<Table> {
    let mut tables = Vec::new();
    for file in fs::read_dir(folder().join("truth")).expect("readable") {
        let file = file.expect("readable").path();
        let text = fs::read_to_string(&file).expect("readable");
        let truth: Truth = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        tables.extend(truth.table);
    }
    tables
}

/// Lists the files below a folder, by their paths in it, with their sizes.
fn files_below(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let size = fs::metadata(&path).expect("readable").len();
            files.insert(path.strip_prefix(folder).expect("below").to_owned(), size);
        }
    }
    files
}

/// Copies the checked-in tables to [`ROOT`], where their metadata says that they are. A table appears there whole, so that another
/// process reads it at the same time.
pub(crate) fn copy_tables() {
    static COPYING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = COPYING.lock();
    fs::create_dir_all(ROOT).expect("made");
    for entry in fs::read_dir(folder().join("tables")).expect("readable") {
        let source = entry.expect("readable").path();
        let name = source.file_name().expect("a name").to_string_lossy().into_owned();
        let files = files_below(&source);
        let place = Path::new(ROOT).join(&name);
        if files_below(&place) == files {
            continue;
        }
        let part = Path::new(ROOT).join(format!(".{name}.{}", std::process::id()));
        for file in files.keys() {
            let copy = part.join(file);
            fs::create_dir_all(copy.parent().expect("a folder")).expect("made");
            fs::copy(source.join(file), copy).expect("copied");
        }
        // Contents of older tables go. Another process may have been faster with the same ones.
        drop(fs::remove_dir_all(&place));
        if let Err(error) = fs::rename(&part, &place) {
            assert!(files_below(&place) == files, "{name}: {error}");
            fs::remove_dir_all(&part).expect("removed");
        }
    }
}

/// Returns a cell as the truth writes it: decimals, dates and times are texts, bytes hexadecimal, maps lists of pairs, and NaN a text.
fn cell(array: &ArrayRef, row: usize) -> Value {
    if array.is_null(row) || matches!(array.data_type(), DataType::Null) {
        return Value::Null;
    }
    let text = || array_value_to_string(array, row).expect("a text");
    let items = |items: ArrayRef| Value::Array((0..items.len()).map(|item| cell(&items, item)).collect());
    match array.data_type() {
        DataType::Boolean => json!(array.as_boolean().value(row)),
        DataType::Float32 => float(f64::from(array.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row)),
        kind if kind.is_integer() => json!(text().parse::<i64>().expect("an integer")),
        kind if kind.is_temporal() => Value::String(without_last_zeros(&text())),
        DataType::List(_) => items(array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => items(array.as_list::<i64>().value(row)),
        DataType::Map(..) => {
            let pairs = array.as_map().value(row);
            let pair = |at| json!([cell(pairs.column(0), at), cell(pairs.column(1), at)]);
            Value::Array((0..pairs.len()).map(pair).collect())
        }
        DataType::Struct(fields) => {
            let parts = fields.iter().zip(array.as_struct().columns());
            Value::Object(parts.map(|(field, column)| (field.name().clone(), cell(column, row))).collect())
        }
        DataType::Dictionary(_, values) => cell(&cast(array, values).expect("its own values"), row),
        _ => Value::String(text()),
    }
}

fn float(value: f64) -> Value {
    let text = if value > 0.0 { "Infinity" } else { "-Infinity" };
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None => Value::String(if value.is_nan() { "NaN" } else { text }.to_owned()),
    }
}

/// Returns a point of time without zeros at the end of its fraction.
fn without_last_zeros(text: &str) -> String {
    let (point, zone) = text.strip_suffix('Z').map_or((text, ""), |point| (point, "Z"));
    let point = if point.contains('.') { point.trim_end_matches('0').trim_end_matches('.') } else { point };
    format!("{point}{zone}")
}

/// Returns how rows differ from those of the ask.
fn difference(ask: &Ask, rows: &[RecordBatch]) -> Option<String> {
    let expected = ask.rows.as_deref().expect("an ask has rows or an error").trim().lines();
    let expected: Vec<Value> = expected.map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let (header, expected) = expected.split_first().expect("a header");
    if let Some(batch) = rows.first() {
        let schema = batch.schema();
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        if json!(names) != *header {
            return Some(format!("columns {names:?}, expected {header}"));
        }
    }
    // Texts tell the zeros apart.
    let mut expected: Vec<String> = expected.iter().map(Value::to_string).collect();
    let mut got = Vec::new();
    for batch in rows {
        let line = |row| Value::Array(batch.columns().iter().map(|column| cell(column, row)).collect()).to_string();
        got.extend((0..batch.num_rows()).map(line));
    }
    if !ask.sql.contains("ORDER BY") {
        expected.sort();
        got.sort();
    }
    (expected != got).then(|| format!("rows {got:?}, expected {expected:?}"))
}

/// Returns how the plan of an ask keeps other files than its truth says.
async fn wrong_files(session: &Session, ask: &Ask) -> Option<String> {
    let files = ask.files?;
    let statement = session.parse(&ask.sql).expect("it has run").remove(0);
    let explained = session.explain(statement).await.expect("it has run");
    let (kept, total) = files_kept(&explained);
    let is_unread = files != FilesRead::Metadata || !explained.contains("file_type=parquet");
    let as_expected = files.is(kept, total) && is_unread && ask.files_max.is_none_or(|most| kept <= most);
    (!as_expected)
        .then(|| format!("{kept} of {total} files are not {files:?}, {:?} at most:\n{explained}", ask.files_max))
}

/// Runs one ask and returns its fault.
pub(crate) async fn fault(
    session: &Session,
    target: Target,
    table: &Table,
    opened: Option<&str>,
    question: &Ask,
) -> Option<String> {
    let read = match question.files {
        _ if question.wrong.is_some() => Reader::Anybody,
        Some(FilesRead::NoFile | FilesRead::Metadata) => Reader::Nobody,
        // The planner may know that nothing matches, and a limit may leave fragments behind.
        None if question.sql.contains("LIMIT") => Reader::FunctionsIfAnythingIsRead,
        _ => Reader::Functions,
    };
    let refused = question.refused.as_deref().or(table.refused.as_deref());
    let answer = match opened {
        Some(error) => Err(error.to_owned()),
        None if refused.is_some() => {
            run(session, &question.sql).await.map(|(rows, _)| rows).map_err(|error| error.to_string())
        }
        None => ask(session, target, &question.sql, read).await.map_err(|error| error.to_string()),
    };
    match (answer, refused.or(question.error.as_deref())) {
        (Err(error), Some(expect)) if error.contains(expect) => None,
        (Err(error), _) => Some(error),
        (Ok(rows), Some(expect)) if question.rows.is_none() => {
            Some(format!("{} batches, expected \"{expect}\"", rows.len()))
        }
        (Ok(rows), expect) => match difference(question, &rows) {
            Some(_) if question.wrong.is_some() => None,
            Some(differs) => Some(differs),
            None if expect.is_some() || question.wrong.is_some() => {
                Some("it works now: strike out `refused` or `wrong`".to_owned())
            }
            None => wrong_files(session, question).await,
        },
    }
}

async fn check(target: Target) {
    copy_tables();
    let only = std::env::var("MATRIX").unwrap_or_default();
    let session = session(target, FUNCTIONS, PROGRAM);
    let mut faults = Vec::new();
    for table in truth().iter().filter(|table| table.name.contains(&only)) {
        let create = format!("CREATE EXTERNAL TABLE {0} STORED AS ICEBERG LOCATION '{ROOT}/{0}'", table.name);
        let opened = run(&session, &create).await.err().map(|error| error.to_string());
        for ask in &table.ask {
            if let Some(fault) = fault(&session, target, table, opened.as_deref(), ask).await {
                faults.push(format!("{}: `{}` on {target:?}: {fault}", table.name, ask.sql));
            }
        }
    }
    session.close().await;
    assert!(faults.is_empty(), "{} asks fail:\n{}", faults.len(), faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_holds_locally() {
    check(Target::Local).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_holds_in_process() {
    check(Target::InProcess).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_holds_on_four_processes() {
    check(Target::Processes).await;
}

/// Makes the checksum of a statement, its rows and its table's files, as `check.py` does.
fn digest(name: &str, ask: &Ask) -> String {
    let mut found = Sha256::new();
    for text in [ask.sql.as_str(), ask.rows.as_deref().unwrap_or_default()] {
        found.update([text.as_bytes(), b"\0"].concat());
    }
    let folder = folder().join("tables").join(name);
    let mut files: Vec<PathBuf> = files_below(&folder).into_keys().collect();
    files.sort_by_key(|path| path.components().map(|part| part.as_os_str().to_owned()).collect::<Vec<_>>());
    for path in files {
        let text = path.to_str().expect("a text").replace(std::path::MAIN_SEPARATOR, "/");
        found.update([text.as_bytes(), b"\0"].concat());
        found.update(Sha256::digest(fs::read(folder.join(&path)).expect("readable")));
    }
    found.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_matrix_covers_the_review_and_is_judged() {
    let tables = truth();
    let writers: BTreeSet<&str> = tables.iter().map(|table| table.writer.as_str()).collect();
    assert_eq!(writers, BTreeSet::from(["chdb", "crafted", "java", "pyiceberg", "spark"]));
    let asks: usize = tables.iter().map(|table| table.ask.len()).sum();
    assert!(tables.len() >= 60 && asks >= 200, "{} tables, {asks} asks", tables.len());
    let traps: BTreeSet<&str> = tables.iter().flat_map(|table| table.traps.iter().map(String::as_str)).collect();
    let missing: Vec<&&str> = TRAPS.iter().filter(|trap| !traps.contains(*trap)).collect();
    assert!(missing.is_empty(), "no table is a case of {missing:?}");
    for table in &tables {
        for ask in &table.ask {
            assert!(ask.rows.is_some() != ask.error.is_some(), "{}: `{}`: rows or an error", table.name, ask.sql);
            // iceberg-rust is asked, too, but it is none of the four.
            let agree = ask.judges.iter().filter(|(judge, verdict)| *judge != "rust" && *verdict == "ok").count();
            let judged = ask.rows.is_none() || agree >= 2 || ask.few_judges.is_some();
            assert!(judged, "{}: `{}`: {agree} judges agree", table.name, ask.sql);
            let is_known = ask.judged.as_ref().is_some_and(|judged| *judged == digest(&table.name, ask));
            assert!(
                is_known,
                "{}: `{}` or its table changed since it was judged: `lab judges --write`",
                table.name, ask.sql
            );
        }
    }
}
