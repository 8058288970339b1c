//! All 22 TPC-H queries, everywhere, against DataFusion alone on the same files.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{LazyLock, Mutex};

use arrow::array::RecordBatch;
use gust::demo::queries;
use gust_engine::config::{Config, JoinPlace, ShufflePlace, Target};
use gust_engine::report::Report;
use gust_engine::session::Session;
use gust_tests::compare::{Rule, compare};
use gust_tests::duckdb;
use gust_tests::query::{assert_partly_remote, assert_remote, plain, run, session};
use gust_tests::tpch;
use tokio::sync::OnceCell;

/// Queries that stop early. At this scale no part is of query 17's brand and container: its join has nothing to look up and drops
/// lineitem's rows.
const STOPS_EARLY: [usize; 1] = [17];

fn tables() -> tpch::Tables {
    tpch::tables(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("TPC-H data")
}

/// Opens a session that knows the tables.
pub(crate) async fn open(target: Target, functions_max: u32) -> Session {
    let session = session(target, functions_max, env!("CARGO_BIN_EXE_bootstrap_under_test"));
    for statement in tables().create_statements() {
        run(&session, &statement).await.expect("setup");
    }
    session
}

/// Returns the rows of a query over the tables by DataFusion alone. It is asked once for all tests.
pub(crate) async fn judged(sql: &'static str) -> &'static [RecordBatch] {
    type Answers = HashMap<&'static str, &'static OnceCell<Vec<RecordBatch>>>;
    static JUDGED: LazyLock<Mutex<Answers>> = LazyLock::new(Mutex::default);
    let rows = *JUDGED.lock().expect("no holder panics").entry(sql).or_insert_with(|| Box::leak(Box::default()));
    rows.get_or_init(|| async { plain(&tables().create_statements(), sql).await }).await
}

/// Fails unless a query's rows came from functions.
#[track_caller]
pub(crate) fn assert_used(number: usize, report: &Report, what: &str) {
    if STOPS_EARLY.contains(&number) {
        assert_partly_remote(report, what);
    } else {
        assert_remote(report, what);
    }
}

/// Checks every query on one target.
async fn check(target: Target, functions_max: u32) {
    let session = open(target, functions_max).await;
    for number in 1..=queries::COUNT {
        let what = format!("query {number} on {target:?}");
        let (rows, report) = run(&session, queries::query(number)).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let expected = judged(queries::query(number)).await;
        compare(expected, &rows, Rule::same_engine()).unwrap_or_else(|difference| panic!("{what}: {difference}"));
        match target {
            Target::Local => assert_eq!(report.attempts, 0, "{what}: functions were used"),
            _ => assert_used(number, &report, &what),
        }
    }
    session.close().await;
}

/// Numbers of the queries that do joins in functions where those are asked for. The others have joins of two large sides, or none.
const JOINING: [usize; 16] = [2, 3, 5, 7, 8, 9, 10, 11, 12, 14, 16, 17, 18, 19, 20, 21];

/// Checks every query with its joins in functions.
async fn check_joining(target: Target, functions_max: u32) {
    let tables = tables();
    let mut config = Config { on: target, functions_max, join: JoinPlace::Broadcast, ..Config::default() };
    config.process.program = Some(env!("CARGO_BIN_EXE_bootstrap_under_test").into());
    let session = Session::new(config).expect("a session");
    for statement in tables.create_statements() {
        run(&session, &statement).await.expect("setup");
    }
    let mut joining = Vec::new();
    for number in 1..=queries::COUNT {
        let what = format!("query {number} on {target:?}, joining");
        let (rows, report) = run(&session, queries::query(number)).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let expected = judged(queries::query(number)).await;
        compare(expected, &rows, Rule::same_engine()).unwrap_or_else(|difference| panic!("{what}: {difference}"));
        assert_used(number, &report, &what);
        // A build side without rows is not sent: no function is invoked for the other.
        if report.broadcasts > 0 || report.left_out_fragments > 0 {
            joining.push(number);
        }
    }
    session.close().await;
    assert_eq!(joining, JOINING);
}

#[tokio::test(flavor = "multi_thread")]
async fn tpch_has_datafusions_rows_with_joins_in_functions() {
    check_joining(Target::InProcess, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tpch_has_datafusions_rows_with_joins_in_processes() {
    check_joining(Target::Processes, 4).await;
}

/// Numbers of the queries without an operator that needs rows by their keys.
const WITHOUT_SHUFFLES: [usize; 1] = [6];

/// Checks every query with its groups and its joins in functions. Its rows are those of DataFusion alone, and those of DuckDB.
async fn check_shuffling(target: Target, functions_max: u32, partitions: Option<u32>) {
    let tables = tables();
    let mut config = Config {
        on: target,
        functions_max,
        shuffle: ShufflePlace::Hash,
        shuffle_partitions: partitions,
        ..Config::default()
    };
    config.process.program = Some(env!("CARGO_BIN_EXE_bootstrap_under_test").into());
    let session = Session::new(config).expect("a session");
    for statement in tables.create_statements() {
        run(&session, &statement).await.expect("setup");
    }
    let answers = duckdb::tpch_answers(Path::new(env!("CARGO_TARGET_TMPDIR")), &tables).expect("DuckDB's rows");
    let mut objects = 0;
    for number in 1..=queries::COUNT {
        let what = format!("query {number} on {target:?}, shuffling");
        let (rows, report) = run(&session, queries::query(number)).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let expected = judged(queries::query(number)).await;
        compare(expected, &rows, Rule::same_engine()).unwrap_or_else(|difference| panic!("{what}: {difference}"));
        assert_used(number, &report, &what);
        if let Some(answers) = answers {
            let rule = Rule::other_engine().in_any_order();
            let judged = duckdb::named_as(&answers[number - 1], &rows);
            compare(&judged, &rows, rule).unwrap_or_else(|difference| panic!("{what}, DuckDB: {difference}"));
        }
        assert_eq!(report.shuffles > 0, !WITHOUT_SHUFFLES.contains(&number), "{what}: {report:?}");
        objects += report.shuffle_objects;
    }
    session.close().await;
    assert!(objects > 0, "all rows travelled inline");
}

#[tokio::test(flavor = "multi_thread")]
async fn tpch_has_datafusions_rows_with_shuffles_between_functions() {
    check_shuffling(Target::InProcess, 3, Some(7)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tpch_has_datafusions_rows_with_shuffles_between_processes() {
    check_shuffling(Target::Processes, 4, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tpch_has_datafusions_rows_locally() {
    check(Target::Local, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tpch_has_datafusions_rows_in_process() {
    check(Target::InProcess, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tpch_has_datafusions_rows_on_four_processes() {
    check(Target::Processes, 4).await;
}
