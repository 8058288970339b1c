//! Promises of a session about its folders, its memory and the lanes of its functions.

use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use gust_engine::config::{Config, Target};
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::session::Session;
use gust_tests::query::{assert_remote, plain, run};
use tempfile::TempDir;

/// Makes `files` Parquet files of `rows` rows each, by a query over `value`.
async fn table(files: u64, rows: u64, select: &str) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    for file in 0..files {
        let (first, last) = (file * rows + 1, (file + 1) * rows);
        let path = folder.path().join(format!("{file}.parquet"));
        let copy = format!(
            "COPY (SELECT {select} FROM generate_series({first}, {last})) TO '{}' STORED AS PARQUET",
            path.display()
        );
        plain(&[], &copy).await;
    }
    folder
}

fn config(target: Target, functions_max: u32) -> Config {
    let mut config = Config { on: target, functions_max, ..Config::default() };
    config.process.program = Some(env!("CARGO_BIN_EXE_bootstrap_under_test").into());
    config
}

/// Lists the names of everything below a folder, at any depth.
fn below(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable")) {
        names.push(entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().expect("readable").is_dir() {
            names.extend(below(&entry.path()));
        }
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_have_their_folders_where_the_settings_say() {
    let data = table(2, 10, "value AS k").await;
    let temp = TempDir::new().expect("a temporary folder");
    let config = Config { temp_folder: Some(temp.path().to_owned()), ..config(Target::Processes, 2) };
    let session = Session::new(config).expect("a session");
    let (_, report) = run(&session, &format!("SELECT sum(k) FROM '{}/'", data.path().display())).await.expect("rows");
    assert_remote(&report, "two functions");
    let names = below(temp.path());
    let functions = names.iter().filter(|name| name.starts_with("gust-function-")).count();
    assert!((1..=2).contains(&functions), "one folder a process: {names:?}");
    session.close().await;
    assert_eq!(below(temp.path()), Vec::<String>::new(), "something is left");
}

/// Runs of which one has to have more lanes than functions. A busy machine may let one lane read all files before the others begin.
const RUNS_MAX: usize = 5;

/// Every file has seven groups, and a lane sends seven partial ones, so the rows on the wire count the lanes that ran. Any free
/// lane reads the next file, so a slow lane may find none.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_runs_as_many_lanes_as_it_has_cores() {
    let data = table(6, 70_000, "value AS k, value % 7 AS g").await;
    let sql = format!("SELECT g, count(*), sum(k) FROM '{}/' GROUP BY g ORDER BY g", data.path().display());
    let mut results: Vec<Vec<RecordBatch>> = Vec::new();
    for cores in [1, 3] {
        let mut config = config(Target::Processes, 2);
        config.process.cores = cores;
        let session = Session::new(config).expect("a session");
        let statement = session.parse(&sql).expect("SQL").remove(0);
        let explained = session.explain(statement).await.expect("a plan");
        assert!(explained.contains("2 fragments of 6 scan units"), "{explained}");
        assert!(explained.contains(&format!("; {cores} lanes at most")), "{explained}");
        let (least, most) = if cores == 1 { (2, 2) } else { (3, 6) };
        let mut seen = Vec::new();
        let rows = loop {
            let (rows, report) = run(&session, &sql).await.expect("rows");
            assert_remote(&report, "two functions");
            let lanes = report.rows_from_functions / 7;
            assert!(lanes <= most, "{lanes} lanes ran on two functions of {cores} cores");
            if lanes >= least {
                break rows;
            }
            seen.push(lanes);
            assert!(seen.len() < RUNS_MAX, "{seen:?} lanes ran on two functions of {cores} cores");
        };
        results.push(rows);
        session.close().await;
    }
    assert_eq!(results[0], results[1]);
    let sums: i64 =
        results[0].iter().map(|batch| batch.column(2).as_primitive::<Int64Type>().iter().flatten().sum::<i64>()).sum();
    assert_eq!(sums, 420_000 * 420_001 / 2);
}

/// Columns of about 130 bytes a row.
const WIDE: &str = "value AS k, md5(CAST(value AS VARCHAR)) AS v, repeat(md5(CAST(value AS VARCHAR)), 2) AS w";
/// Rows in each of eight files.
const ROWS: u64 = 20_000;

async fn wide_query(memory_bytes_max: u64, sql: &str) -> Result<usize, QueryError> {
    let data = table(8, ROWS, WIDE).await;
    let session = Session::new(Config { memory_bytes_max, ..config(Target::InProcess, 8) }).expect("a session");
    // With these settings a sort and its merge set aside as much memory on any number of cores.
    let settings = "SET datafusion.execution.target_partitions = 2; SET datafusion.execution.batch_size = 1000; \
                    SET datafusion.execution.sort_spill_reservation_bytes = 1000000";
    run(&session, settings).await.expect("settings");
    let ended = run(&session, &sql.replace("$T", &format!("'{}/'", data.path().display()))).await;
    session.close().await;
    let (rows, report) = ended?;
    assert_remote(&report, sql);
    Ok(rows.iter().map(RecordBatch::num_rows).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_larger_than_the_memory_is_refused() {
    let error = wide_query(1 << 20, "SELECT * FROM $T").await.expect_err("3 MB in 1 MB");
    assert!(error.kind() == ErrorKind::Resources, "{error:?}");
    let error = error.to_string();
    assert!(error.contains("results of stage 1"), "the consumer is not named: {error}");
    assert!(error.contains("hint: raise memory_bytes_max"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_wait_make_operators_spill_instead_of_failing() {
    // One sort has all 22 MB, because they come from behind an offset. Only results wait before it. It holds as much as it can
    // and spills the rest.
    let sql = "SELECT k, v, w FROM (SELECT * FROM $T OFFSET 1) ORDER BY v";
    assert_eq!(wide_query(20 << 20, sql).await.expect("the sort spills"), 8 * ROWS as usize - 1);
}
