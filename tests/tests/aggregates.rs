//! Aggregates whose partial states travel: over nine files with NULLs they equal those of one node.

use std::fmt::Write as _;

use datafusion::prelude::SessionContext;
use gust_engine::config::Target;
use gust_engine::session::Session;
use gust_tests::asks::lines;
use gust_tests::query::{assert_remote, run, session};
use tempfile::TempDir;

/// Files of one row group each. `g` is in all of them but for one group, which is in one file; a file has NULLs alone.
const FILES: usize = 9;

/// Aggregates that have one result, in whatever order their rows come.
const AGGREGATES: [&str; 26] = [
    "checksum(s)",
    "checksum(f)",
    "checksum(id)",
    "checksum(d)",
    "histogram(s)",
    "histogram(f)",
    "map_agg(id, s)",
    "map_agg(id, n)",
    "cardinality(multimap_agg(s, id))",
    "map_values(multimap_agg(id, s))",
    "mode(s)",
    "mode(n)",
    "max_by(s, id)",
    "min_by(s, n * 1000 + id)",
    "arg_max(s, id)",
    "count_if(n > 2)",
    "every(n > 0)",
    "geometric_mean(n) > 1",
    "count(DISTINCT s, n)",
    "listagg(s, '-') WITHIN GROUP (ORDER BY id)",
    "arbitrary(g)",
    "bitwise_xor_agg(n)",
    "approx_distinct(s)",
    "approx_percentile(n, 1.0)",
    "sum(date_diff('day', DATE '2024-01-01', d))",
    "max(json_extract_scalar(j, '$.a'))",
];

async fn files() -> TempDir {
    let data = TempDir::with_prefix("gust-aggregates-").expect("a temporary folder");
    let context = SessionContext::new();
    for file in 0..FILES {
        let rows = format!(
            "SELECT {file} * 100 + value AS id,
                CASE WHEN {file} = 3 AND value % 5 = 0 THEN 9 ELSE value % 3 END AS g,
                CASE WHEN {file} = 5 OR value % 7 = 0 THEN NULL ELSE 's' || (value * {file} % 4) END AS s,
                CASE WHEN {file} = 5 OR value % 4 = 0 THEN NULL ELSE 1 + value % 5 END AS n,
                CASE WHEN {file} = 5 THEN NULL WHEN value % 3 = 0 THEN CAST('-0.0' AS DOUBLE) ELSE CAST(value % 3 - 1 AS DOUBLE) END AS f,
                CASE WHEN {file} = 5 THEN NULL ELSE DATE '2024-01-31' END AS d,
                CASE WHEN {file} = 5 THEN NULL ELSE '{{\"a\": ' || value || '}}' END AS j
            FROM generate_series(1, 40) AS t(value)"
        );
        let path = data.path().join(format!("t/{file}.parquet"));
        let copy = format!("COPY ({rows}) TO '{}' STORED AS PARQUET", path.display());
        context.sql(&copy).await.expect("planned").collect().await.expect("written");
    }
    data
}

async fn open(target: Target, functions: u32, data: &TempDir) -> Session {
    let session = session(target, functions, env!("CARGO_BIN_EXE_bootstrap_under_test"));
    let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}/t/'", data.path().display());
    run(&session, &create).await.expect("a table");
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_states_of_nine_files_are_those_of_one_node() {
    let data = files().await;
    let local = open(Target::Local, 1, &data).await;
    let three = open(Target::InProcess, 3, &data).await;
    let nine = open(Target::Processes, 9, &data).await;
    let mut wrong = String::new();
    for aggregate in AGGREGATES {
        for (shape, ending) in
            [("g, ", "GROUP BY g ORDER BY g"), ("", ""), ("", "WHERE id BETWEEN 500 AND 599"), ("", "WHERE id < 0")]
        {
            let sql = format!("SELECT {shape}{aggregate} AS a FROM t {ending}");
            let (rows, _) = run(&local, &sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            let expected = lines(&rows, "NULL");
            for functions in [&three, &nine] {
                let (rows, report) = run(functions, &sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
                if !ending.starts_with("WHERE") {
                    assert_remote(&report, &sql);
                }
                let rows = lines(&rows, "NULL");
                if rows != expected {
                    writeln!(wrong, "{sql}\n  local {expected:?}\n  functions {rows:?}").expect("to a string");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    // By hand: 40 rows a file, of which every seventh is NULL, in eight files.
    let (rows, _) =
        run(&nine, "SELECT sum(v) FROM (SELECT unnest(map_values(histogram(s))) AS v FROM t)").await.expect("rows");
    assert_eq!(lines(&rows, "NULL"), ["280"]);
    for session in [local, three, nine] {
        session.close().await;
    }
}
