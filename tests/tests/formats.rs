//! Output has the columns, types and rows of the result, in every format and on every target.

use std::path::Path;
use std::process::Output;

use gust_engine::config::Target;
use gust_tests::formats::{Checked, check as check_seeds};

use crate::bad_input::{Place, check};

const TARGETS: [Target; 3] = [Target::Local, Target::InProcess, Target::Processes];

#[tokio::test(flavor = "multi_thread")]
async fn random_results_are_read_back_from_every_format() {
    let (bootstrap, cache) = (env!("CARGO_BIN_EXE_bootstrap_under_test"), Path::new(env!("CARGO_TARGET_TMPDIR")));
    let checked = check_seeds(0..60, &TARGETS, bootstrap, cache).await.unwrap_or_else(|error| panic!("{error:#}"));
    let Checked { results, remote, refused, skipped } = checked;
    if let Some(reason) = skipped {
        eprintln!("skipped: nothing was read back: {reason}");
        return;
    }
    assert!(results >= 90 && remote >= 40, "{results} results, {remote} remote, {refused} refused");
}

/// Statements, their output as CSV, and whether a Parquet scan is in the last of them.
const CASES: &[(&str, &str, bool)] = &[
    // Planning coerces these columns.
    ("SELECT id, CASE WHEN id = 1 THEN 'first' ELSE s END AS c FROM t ORDER BY id", "id,c\n1,first\n2,b\n3,c\n", true),
    ("SELECT sum(CASE WHEN id = 1 THEN 0 ELSE d END) AS s FROM t", "s\n2.500\n", true),
    (
        "SELECT k FROM (SELECT id AS k FROM t UNION ALL SELECT 1099511627776) ORDER BY k",
        "k\n1\n2\n3\n1099511627776\n",
        true,
    ),
    ("SELECT s AS v FROM t UNION ALL SELECT NULL WHERE false", "v\na\nb\nc\n", true),
    ("SELECT id IN (1, 2.5) AS hit FROM t ORDER BY id", "hit\ntrue\nfalse\nfalse\n", true),
    ("SELECT count(DISTINCT id) AS n, sum(d) AS s, avg(id) AS a FROM t", "n,s,a\n3,4.000,2.0\n", true),
    ("SELECT CASE WHEN id > 5 THEN d ELSE 1 END AS v FROM t WHERE id > 5", "v\n", true),
    // Prepared statements are queries.
    ("PREPARE p(BIGINT) AS SELECT count(*) AS n FROM t WHERE id < $1; EXECUTE p(3)", "n\n2\n", true),
    ("PREPARE p AS SELECT s FROM t WHERE id = $1; EXECUTE p(1 + 1); EXECUTE p(3)", "s\nb\n\ns\nc\n", true),
    ("PREPARE p AS SELECT 1 AS a; DEALLOCATE p; PREPARE p AS SELECT 2 AS a; EXECUTE p", "a\n2\n", false),
    // Statements that change the session write nothing.
    ("CREATE VIEW v AS SELECT s, sum(id) AS x FROM t GROUP BY s; SELECT count(*) AS n FROM v", "n\n3\n", true),
    ("CREATE TABLE c AS SELECT id FROM t; SELECT sum(id) AS s FROM c", "s\n6\n", false),
    ("CREATE EXTERNAL TABLE e (id BIGINT) STORED AS PARQUET LOCATION 't/'; SELECT sum(id) AS m FROM e", "m\n6\n", true),
    ("SET datafusion.execution.batch_size = 100; SELECT 1 AS one; DROP TABLE t", "one\n1\n", false),
    (
        "CREATE VIEW v AS SELECT 1 AS a; DROP VIEW v; CREATE OR REPLACE VIEW v AS SELECT 2 AS a; SELECT a FROM v",
        "a\n2\n",
        false,
    ),
    // Statements that show the session have rows.
    ("SHOW datafusion.execution.batch_size", "name,value\ndatafusion.execution.batch_size,8192\n", false),
    (
        "DESCRIBE t",
        "column_name,data_type,is_nullable\nid,Int64,NO\ns,Utf8View,YES\nd,\"Decimal128(12, 3)\",NO\n",
        false,
    ),
];

async fn place() -> Place {
    let place = Place::new("functions_max = 3\n");
    place
        .parquet(
            "t/0.parquet",
            "SELECT value AS id, chr(96 + value) AS s, CAST(1.5 AS DECIMAL(12, 3)) AS d FROM generate_series(1, 2)",
        )
        .await;
    place.parquet("t/1.parquet", "SELECT 3 AS id, 'c' AS s, CAST(1 AS DECIMAL(12, 3)) AS d").await;
    let setup = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 't/'";
    std::fs::write(place.path("setup.sql"), setup).expect("written");
    place
}

fn query(place: &Place, on: &str, format: &str, sql: &str) -> Output {
    place.gust(&["query", "--setup", "setup.sql", "--on", on, "--format", format, sql]).output().expect("it starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_write_their_rows_and_nothing_else() {
    let place = place().await;
    for (sql, expect, scans) in CASES {
        for on in ["local", "in-process", "processes"] {
            let output = query(&place, on, "csv", sql);
            check(&output, 0, if *scans && on != "local" { &["adopted"] } else { &[] });
            let mut rows: Vec<&str> =
                std::str::from_utf8(&output.stdout).expect("text").split_inclusive('\n').collect();
            let mut expected: Vec<&str> = expect.split_inclusive('\n').collect();
            // Rows without ORDER BY come in any order.
            if !sql.contains("ORDER BY") {
                rows[1..].sort_unstable();
                expected[1..].sort_unstable();
            }
            assert_eq!(rows, expected, "{on}: {sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_silent_where_nothing_is_to_show() {
    let place = place().await;
    let silent = "CREATE VIEW v AS SELECT * FROM t; CREATE TABLE c AS SELECT 1 AS a; SET datafusion.execution.batch_size = 10; PREPARE p AS SELECT 1; DEALLOCATE p; DROP TABLE c; DROP VIEW v";
    for format in ["table", "csv", "json", "ndjson", "arrow", "parquet"] {
        let output = query(&place, "local", format, silent);
        check(&output, 0, &[]);
        assert_eq!(output.stdout, b"", "{format}");
        let output = query(&place, "local", format, "CREATE VIEW w AS SELECT 1 AS a; SELECT a FROM w");
        check(&output, 0, &[]);
        let alone = query(&place, "local", format, "SELECT 1 AS a");
        assert_eq!(output.stdout, alone.stdout, "{format}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_are_treated_as_queries() {
    let place = place().await;
    let prepared = "PREPARE p(BIGINT) AS SELECT sum(id) AS s FROM t WHERE id < $1; ";
    let explained = query(&place, "processes", "csv", &format!("{prepared}EXPLAIN EXECUTE p(3)"));
    check(&explained, 0, &[]);
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(text.contains("stage 0") && text.contains("id@0 < 3"), "{text}");
    let cost = query(&place, "processes", "csv", &format!("{prepared}EXPLAIN COST EXECUTE p(3)"));
    check(&cost, 0, &[]);
    assert!(String::from_utf8_lossy(&cost.stdout).contains("functions"), "{cost:?}");
    for (sql, words) in [
        ("EXECUTE p(1, 2)", "EXECUTE p: 2 parameters are given, but the statement has 1"),
        ("EXECUTE p", "0 parameters are given"),
        ("EXECUTE p(random())", "parameter 1 is no constant"),
        ("EXECUTE q(1)", "there is no prepared statement `q`"),
        ("DEALLOCATE q", "there is no prepared statement `q`"),
        ("PREPARE p AS SELECT 1", "there is a prepared statement `p` already"),
        ("PREPARE r(INT, INT) AS SELECT $1", "2 types, but the statement has 1 parameters"),
        ("PREPARE r AS SELECT $1, $3", "`$3` is not one of $1 to $2"),
        ("PREPARE r AS INSERT INTO t VALUES (1, 'a', 2)", "gust reads"),
    ] {
        let output = query(&place, "local", "csv", &format!("{prepared}{sql}"));
        check(&output, 1, &[words]);
    }
}
