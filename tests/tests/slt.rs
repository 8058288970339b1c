//! The SQL files of `tests/slt/`: the same rows from DataFusion alone, which is the judge, and from every target.
//!
//! Records with `skipif judge` are about Gust's own words. The judge alone writes expected rows anew:
//! `SLT_WRITE=1 cargo test --release -p gust-tests slt::judge`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::future::BoxFuture;
use gust_engine::config::{Config, Target};
use gust_engine::error::QueryError;
use gust_engine::session::Session;
use gust_protocol::plan::scans;
use gust_tests::asks::cells;
use gust_tests::query::{assert_partly_remote, run, session};
use sqllogictest::{
    AsyncDB, DBOutput, DefaultColumnType, MakeConnection, Runner, default_normalizer, default_validator,
    strict_column_validator,
};
use tempfile::TempDir;

/// Database that a file's statements are sent to.
enum Database {
    Judge(SessionContext),
    Gust { session: Box<Session>, target: Target },
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failure(String);

impl From<datafusion::error::DataFusionError> for Failure {
    fn from(error: datafusion::error::DataFusionError) -> Self {
        Self(error.strip_backtrace())
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Self(error.to_string())
    }
}

impl Database {
    fn judge() -> Self {
        let context = SessionContext::new_with_config(SessionConfig::new().with_information_schema(true));
        Self::Judge(context.enable_url_table())
    }

    fn with_late_columns() -> Self {
        let config = Config { on: Target::Local, late_columns_percent_max: 100, ..Config::default() };
        Self::Gust { session: Box::new(Session::new(config).expect("a session")), target: Target::Local }
    }

    fn gust(target: Target) -> Self {
        Self::Gust { session: Box::new(session(target, 4, env!("CARGO_BIN_EXE_bootstrap_under_test"))), target }
    }
}

impl Database {
    fn answer<'a>(&'a mut self, sql: &'a str) -> BoxFuture<'a, Result<DBOutput<DefaultColumnType>, Failure>> {
        Box::pin(async move {
            let batches = match self {
                Self::Judge(context) => {
                    let frame = context.sql(sql).await?;
                    let schema = Arc::clone(frame.schema().inner());
                    with_columns(frame.collect().await?, &schema)
                }
                Self::Gust { session, target } => on_target(session, *target, sql).await?,
            };
            Ok(match batches.first() {
                Some(first) => DBOutput::Rows { types: types(first.schema_ref()), rows: rows(&batches) },
                None => DBOutput::StatementComplete(0),
            })
        })
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Self::Gust { session, .. } = self {
                session.close().await;
            }
        })
    }
}

/// Its methods are written without `async_trait`: within the bounds of that macro rustc takes minutes to prove that a session is `Send`.
impl AsyncDB for Database {
    type Error = Failure;
    type ColumnType = DefaultColumnType;

    fn run<'database, 'sql, 'rows>(
        &'database mut self,
        sql: &'sql str,
    ) -> BoxFuture<'rows, Result<DBOutput<DefaultColumnType>, Failure>>
    where
        'database: 'rows,
        'sql: 'rows,
        Self: 'rows,
    {
        self.answer(sql)
    }

    fn shutdown<'database, 'end>(&'database mut self) -> BoxFuture<'end, ()>
    where
        'database: 'end,
        Self: 'end,
    {
        self.close()
    }

    fn engine_name(&self) -> &str {
        match self {
            Self::Judge(_) => "judge",
            Self::Gust { target: Target::Local, .. } => "local",
            Self::Gust { .. } => "functions",
        }
    }
}

/// Runs a statement. If the target has functions, they must have read everything that the plan's scans would read.
async fn on_target(session: &Session, target: Target, sql: &str) -> Result<Vec<RecordBatch>, Failure> {
    let (batches, report) = run(session, sql).await?;
    if report.decision.is_none() {
        return Ok(batches);
    }
    let plan = session.context().sql(sql).await?.create_physical_plan().await?;
    match target {
        Target::Local => assert_eq!(report.attempts, 0, "functions were used: {sql}"),
        _ if scans(&plan).is_empty() => {}
        _ => assert_partly_remote(&report, sql),
    }
    Ok(with_columns(batches, &plan.schema()))
}

/// Adds an empty batch to no rows, so that their columns are known. A statement that only changes the session has no columns.
fn with_columns(batches: Vec<RecordBatch>, schema: &SchemaRef) -> Vec<RecordBatch> {
    if batches.is_empty() && !schema.fields().is_empty() {
        return vec![RecordBatch::new_empty(Arc::clone(schema))];
    }
    batches
}

fn types(schema: &Schema) -> Vec<DefaultColumnType> {
    let of = |data_type: &DataType| match data_type {
        number if number.is_integer() => DefaultColumnType::Integer,
        number if number.is_numeric() => DefaultColumnType::FloatingPoint,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DefaultColumnType::Text,
        DataType::Dictionary(_, values) if values.is_string() => DefaultColumnType::Text,
        _ => DefaultColumnType::Any,
    };
    schema.fields().iter().map(|field| of(field.data_type())).collect()
}

/// Returns the cells as text. A row with line breaks in it, as EXPLAIN has one, becomes one row for each line.
fn rows(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for mut row in cells(batches, "NULL") {
        row.iter_mut().filter(|cell| cell.is_empty()).for_each(|cell| "(empty)".clone_into(cell));
        if row.iter().any(|cell| cell.contains('\n')) {
            rows.extend(row.join(" ").lines().map(|line| vec![line.to_owned()]));
        } else {
            rows.push(row);
        }
    }
    rows
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("slt")
}

/// Returns the suites, not the parts that they include.
fn suites() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).expect("tests/slt");
    let files = entries.map(|entry| entry.expect("readable").path());
    let mut suites: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|end| end == "slt")).collect();
    suites.sort();
    assert!(!suites.is_empty(), "no suite in {}", folder().display());
    suites
}

/// Makes the files that the tables lie in.
async fn data() -> TempDir {
    let data = TempDir::with_prefix("gust-slt-").expect("a temporary folder");
    let mut runner = runner(&data, || async { Ok(Database::judge()) });
    let script = std::fs::read_to_string(folder().join("data.part")).expect("readable");
    let script = format!("control substitution on\n\n{script}");
    runner.run_script_with_name_async(&script, "data.part").await.unwrap_or_else(|error| panic!("{error}"));
    data
}

fn runner<M: MakeConnection<Conn = Database>>(data: &TempDir, make: M) -> Runner<Database, M> {
    let mut runner = Runner::new(make);
    runner.with_column_validator(strict_column_validator);
    runner.set_var("DATA".to_owned(), data.path().to_string_lossy().into_owned());
    runner
}

async fn check(make: fn() -> Database) {
    let data = data().await;
    for suite in suites() {
        let mut runner = runner(&data, || async { Ok(make()) });
        let outcome = runner.run_file_async(&suite).await;
        runner.shutdown_async().await;
        outcome.unwrap_or_else(|error| panic!("{error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn judge_has_the_expected_rows() {
    if std::env::var_os("SLT_WRITE").is_some() {
        let data = data().await;
        for suite in suites() {
            let mut runner = runner(&data, || async { Ok(Database::judge()) });
            let write =
                runner.update_test_file(&suite, " ", default_validator, default_normalizer, strict_column_validator);
            write.await.unwrap_or_else(|error| panic!("{}: {error}", suite.display()));
        }
    }
    check(Database::judge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_are_the_judges_locally() {
    check(|| Database::gust(Target::Local)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_are_the_judges_where_columns_are_always_late() {
    check(Database::with_late_columns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_are_the_judges_in_process() {
    check(|| Database::gust(Target::InProcess)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_are_the_judges_on_four_processes() {
    check(|| Database::gust(Target::Processes)).await;
}
