//! Sorts without a limit by ranges: functions of a second stage sort, and the coordinator takes their rows in order. Rows are compared in their order.

use std::path::Path;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use gust_engine::config::{Config, ShufflePlace, SortPlace, Target};
use gust_engine::error::ErrorKind;
use gust_engine::report::Report;
use gust_engine::session::Session;
use gust_tests::asks::lines;
use gust_tests::compare::{Rule, compare};
use gust_tests::duckdb;
use gust_tests::query::{assert_remote, plain, run};

use crate::plans::explain;
use crate::shuffles::{Lake, config};

/// Statements that write tables beside those of [`Lake::new`].
const DATA: [(&str, &str, usize, usize); 4] = [
    // Times, whole numbers below zero, and NULLs.
    (
        "times",
        "SELECT value AS v, arrow_cast(value * 86400000, 'Timestamp(Microsecond, None)') AS t, \
         CAST(arrow_cast(value * 7 % 400, 'Int32') AS INT) - 200 AS n, \
         CASE WHEN value % 9 = 0 THEN NULL ELSE arrow_cast(arrow_cast(value % 50, 'Int32'), 'Date32') END AS day, \
         value % 2 = 0 AS even FROM generate_series({from}, {to})",
        3,
        200,
    ),
    // Nine of ten rows have one key, and the others are far away.
    (
        "skewed",
        "SELECT CASE WHEN value % 10 < 9 THEN 1 ELSE value * value END AS k, value AS v FROM generate_series({from}, {to})",
        3,
        200,
    ),
    ("same", "SELECT 7 AS k, 'x' AS s, value AS v FROM generate_series({from}, {to})", 2, 100),
    (
        "odd",
        "SELECT CASE value WHEN 0 THEN 'NaN'::double WHEN 1 THEN -0.0 WHEN 2 THEN 0.0 WHEN 3 THEN NULL WHEN 4 THEN 1e308 * 10 \
         WHEN 5 THEN -1e300 WHEN 6 THEN 1e-300 ELSE 2.5 END AS f, value AS v FROM generate_series({from}, {to})",
        2,
        4,
    ),
];

/// Queries with a total order, and the exchanges that each needs. An engine has its own place for NULLs where none is named.
const QUERIES: [(&str, usize); 27] = [
    ("SELECT v FROM a ORDER BY v", 1),
    ("SELECT v, s FROM a ORDER BY v DESC", 1),
    ("SELECT v, k FROM a ORDER BY k NULLS LAST, v", 1),
    ("SELECT v, k FROM a ORDER BY k NULLS FIRST, v DESC", 1),
    ("SELECT v, k FROM a ORDER BY k DESC NULLS FIRST, v", 1),
    ("SELECT v, k FROM a ORDER BY k DESC NULLS LAST, v", 1),
    ("SELECT s, v FROM a ORDER BY s, v DESC", 1),
    // The key is not among the columns.
    ("SELECT v FROM a ORDER BY s DESC, v", 1),
    ("SELECT d, v FROM a ORDER BY d DESC NULLS LAST, v", 1),
    // No greatest value of floats is known, and bounds are guessed.
    ("SELECT f, v FROM a ORDER BY f NULLS LAST, v", 1),
    ("SELECT f, v FROM a ORDER BY f DESC NULLS LAST, v DESC", 1),
    // Keys that are computed, one of them not in the order of its column.
    ("SELECT v * 2 AS w FROM a WHERE k > 50 ORDER BY w DESC", 1),
    ("SELECT v, k FROM a ORDER BY v % 10, v", 1),
    ("SELECT v FROM times ORDER BY t DESC", 1),
    ("SELECT day, v FROM times ORDER BY day NULLS FIRST, v", 1),
    ("SELECT n, v FROM times ORDER BY n, v", 1),
    ("SELECT even, v FROM times ORDER BY even DESC, v", 1),
    // Few values, one, one of nearly all rows, and none.
    ("SELECT k, v FROM few ORDER BY k DESC, v", 1),
    ("SELECT k, v FROM same ORDER BY k + v % 1, v", 0),
    ("SELECT s, v FROM same ORDER BY s, v", 0),
    ("SELECT k, v FROM skewed ORDER BY k, v", 1),
    ("SELECT k, v FROM a WHERE v + k < 0 ORDER BY v", 1),
    ("SELECT v FROM a ORDER BY v OFFSET 1190", 1),
    // Stages below the sort, and a window above it.
    ("SELECT k, count(*) AS n, sum(v) FROM a GROUP BY k ORDER BY k NULLS LAST", 2),
    ("SELECT a.v, b.n FROM a JOIN b ON a.k = b.k ORDER BY a.v DESC, b.n", 3),
    ("SELECT v, row_number() OVER (ORDER BY v DESC) AS place FROM a ORDER BY place", 1),
    ("SELECT v FROM (SELECT v FROM few UNION ALL SELECT v FROM one) ORDER BY v, v + 1", 0),
];

async fn lake() -> Lake {
    let mut lake = Lake::new().await;
    for (table, rows, files, rows_each) in DATA {
        lake.add(table, rows, files, rows_each).await;
    }
    lake
}

/// Makes a configuration whose functions sort by ranges.
fn ranges(functions_max: u32, partitions: Option<u32>, cores: u32) -> Config {
    Config { sort: SortPlace::Ranges, ..config(Target::InProcess, functions_max, partitions, cores) }
}

async fn check(session: &Session, local: &Session, sql: &str, least: usize, what: &str) -> Report {
    let what = format!("{what}: {sql}");
    let (rows, report) = run(session, sql).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let (expected, _) = run(local, sql).await.expect("rows");
    compare(&expected, &rows, Rule::same_engine()).unwrap_or_else(|difference| panic!("{what}: {difference}"));
    assert_remote(&report, &what);
    assert!(report.shuffles >= least, "{what}: {} exchanges: {report:?}", report.shuffles);
    report
}

fn check_all(config: Config) -> LocalBoxFuture<'static, ()> {
    async move {
        let lake = lake().await;
        let what = format!(
            "{:?}, {} functions of {} cores, {:?} partitions",
            config.on, config.functions_max, config.process.cores, config.shuffle_partitions
        );
        let local = lake.session(Config { on: Target::Local, ..Config::default() }).await;
        let session = lake.session(config).await;
        for (sql, least) in QUERIES {
            check(&session, &local, sql, least, &what).await;
        }
        session.close().await;
        local.close().await;
    }
    .boxed_local()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_in_order_on_one_function() {
    check_all(ranges(1, Some(5), 1)).await;
    check_all(ranges(1, None, 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_in_order_on_two_functions() {
    check_all(ranges(2, Some(1), 1)).await;
    check_all(ranges(2, Some(7), 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_in_order_on_four_functions() {
    check_all(ranges(4, Some(16), 1)).await;
    check_all(ranges(4, Some(33), 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_in_order_in_processes() {
    check_all(Config { on: Target::Processes, ..ranges(3, Some(12), 2) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn combined_objects_are_in_order() {
    check_all(Config { shuffle_reads_max: 0, ..ranges(4, Some(16), 1) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_in_duckdbs_order() {
    let lake = lake().await;
    let statements = QUERIES.map(|(sql, _)| sql);
    let judged = duckdb::answers(Path::new(env!("CARGO_TARGET_TMPDIR")), lake.folder(), &statements);
    let Some(judged) = judged.expect("DuckDB's rows") else { return };
    let session = lake.session(ranges(3, Some(11), 2)).await;
    for (sql, expected) in statements.into_iter().zip(&judged) {
        let (rows, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_remote(&report, sql);
        let expected = duckdb::named_as(expected, &rows);
        compare(&expected, &rows, Rule::other_engine()).unwrap_or_else(|difference| panic!("{sql}: {difference}"));
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_values_are_where_they_belong() {
    let lake = lake().await;
    let session = lake.session(ranges(2, Some(64), 1)).await;
    for (order, expect) in [
        ("f NULLS LAST, v", ["5", "1", "2", "6", "7", "4", "0", "3"]),
        ("f NULLS FIRST, v", ["3", "5", "1", "2", "6", "7", "4", "0"]),
        ("f DESC NULLS LAST, v", ["0", "4", "7", "6", "1", "2", "5", "3"]),
        ("-f NULLS LAST, v DESC", ["4", "7", "6", "2", "1", "5", "0", "3"]),
    ] {
        let sql = format!("SELECT v FROM odd ORDER BY {order}");
        let (rows, report) = run(&session, &sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(lines(&rows, "NULL"), expect, "{sql}");
        assert_remote(&report, &sql);
        assert_eq!(report.shuffles, 1, "{sql}: {report:?}");
    }
    session.close().await;
}

/// Returns the part of EXPLAIN that has the coordinator's plan.
fn here(explained: &str) -> &str {
    explained.split_once("\nstage 0").map_or(explained, |(here, _)| here)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinator_neither_sorts_nor_merges() {
    let lake = lake().await;
    let session = lake.session(ranges(4, Some(16), 1)).await;
    for (sql, told) in [
        ("SELECT v, k FROM a ORDER BY k, v", "by ranges of [k@"),
        ("SELECT s, v FROM a ORDER BY s DESC, v", "by ranges of [s@"),
        ("SELECT v FROM a ORDER BY f", "a setting asks for it; bounds are guessed"),
    ] {
        let explained = explain(&session, sql).await;
        assert!(!here(&explained).contains("Sort") && here(&explained).contains(", in order=["), "{explained}");
        assert!(explained.contains("sorted, taken in order by the coordinator"), "{explained}");
        assert!(explained.contains(told), "{told}: {explained}");
        // All bounds would be a wall of words.
        assert!(explained.lines().filter(|line| line.contains("=Range(")).all(|line| line.len() < 99), "{explained}");
    }
    let limited = explain(&session, "SELECT v FROM a ORDER BY v LIMIT 7").await;
    assert!(!limited.contains("by ranges of"), "{limited}");
    let (rows, _) = run(&session, "EXPLAIN ANALYZE SELECT v FROM a ORDER BY v").await.expect("rows");
    let analyzed = lines(&rows, "").join("\n");
    for told in ["shuffle      1200 rows, ", "by ranges of [v@0 ASC NULLS LAST]", ", sorted, taken in order there"] {
        assert!(analyzed.contains(told), "{told}: {analyzed}");
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sorts_that_stay_say_why() {
    let lake = lake().await;
    let auto = |bytes_min| Config { sort: SortPlace::Auto, shuffle_bytes_min: bytes_min, ..ranges(3, None, 1) };
    let alone = Config { shuffle: ShufflePlace::Local, ..ranges(3, None, 1) };
    let by_count = "SELECT k, count(*) AS n FROM a GROUP BY k ORDER BY n";
    for (config, sql, shuffles, told) in [
        (auto(1), "SELECT v FROM a ORDER BY v", 1, "; the sort has about "),
        (auto(1 << 40), "SELECT v FROM a ORDER BY v", 0, "by ranges of [v@0 ASC NULLS LAST]: the sort has about "),
        (auto(1), "SELECT v FROM a ORDER BY f", 0, "the bounds of its first key would be guessed"),
        (ranges(3, None, 1), by_count, 1, "its first key is not made of one table's columns"),
        (ranges(3, None, 1), "SELECT v FROM a ORDER BY v + k", 0, "its first key is not made of one column"),
        (ranges(3, None, 1), "SELECT v FROM a ORDER BY random()", 0, "its first key "),
        (alone.clone(), by_count, 0, "below it stays on the coordinator"),
        // Scans have ranges without exchanges by hash, too.
        (alone, "SELECT v FROM a ORDER BY v", 1, "by ranges of [v@0 ASC NULLS LAST], 64 partitions for stage 1"),
        (ranges(3, None, 1), "SELECT k FROM none ORDER BY k", 0, "no least and greatest value of k are known"),
    ] {
        let session = lake.session(config).await;
        let (_, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(report.shuffles, shuffles, "{sql}: {report:?}");
        let explained = explain(&session, sql).await;
        assert!(explained.contains(told), "{told}: {explained}");
        session.close().await;
    }
}

/// Texts that do not compress, of more bytes than the coordinator's memory: a merge holds all of them.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_do_not_fit_the_coordinator_go_through_it() {
    let mut lake = Lake::new().await;
    let rows = "SELECT value AS k, value % 2 AS half, md5(CAST(value AS VARCHAR)) || md5(CAST(-value AS VARCHAR)) AS s \
                FROM generate_series({from}, {to})";
    lake.add("wide", rows, 4, 24_000).await;
    let sql = "SELECT s, k FROM wide ORDER BY s";
    let expected = plain(&lake.setup, sql).await;
    for (sort, fits) in [(SortPlace::Local, false), (SortPlace::Ranges, true)] {
        let config = Config { sort, memory_bytes_max: 4 << 20, ..ranges(2, None, 1) };
        let session = lake.session(config).await;
        let ran = run(&session, sql).await;
        session.close().await;
        match ran {
            Ok((rows, report)) => {
                compare(&expected, &rows, Rule::same_engine()).expect("the same rows in the same order");
                assert_eq!(report.planned_again.is_none(), fits, "{sort:?}: {report:?}");
                if fits {
                    assert_remote(&report, sql);
                    assert!(report.fragments > 10, "each has few rows: {report:?}");
                }
            }
            Err(error) => assert_eq!((error.kind(), fits), (ErrorKind::Resources, false), "{sort:?}: {error}"),
        }
    }
}
