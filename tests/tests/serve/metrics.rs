//! Metrics agree with the history and its bills, and Prometheus can read them.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::Served;
use crate::bad_input::{ENDLESS, Place, wait_until};

/// Series, and the figure of the history that it has.
const SERIES: &[(&str, &str)] = &[
    ("gust_statements_total{outcome=\"done\"}", "count(*) FILTER (WHERE outcome = 'done')"),
    ("gust_statements_total{outcome=\"failed\"}", "count(*) FILTER (WHERE outcome = 'failed')"),
    ("gust_statements_total{outcome=\"cap_reached\"}", "count(*) FILTER (WHERE outcome = 'cap_reached')"),
    ("gust_statements_total{outcome=\"cancelled\"}", "count(*) FILTER (WHERE outcome = 'cancelled')"),
    ("gust_statement_seconds_count", "count(*)"),
    ("gust_statement_seconds_sum", "sum(seconds)"),
    ("gust_cost_dollars_total", "sum(dollars)"),
    ("gust_waste_dollars_total", "sum(dollars_wasted)"),
    ("gust_rows_total", "sum(rows)"),
    ("gust_fragments_total", "sum(fragments)"),
    ("gust_attempts_total", "sum(attempts)"),
    ("gust_attempts_wasted_total", "sum(attempts_wasted)"),
    ("gust_cold_starts_total", "sum(cold_starts)"),
    ("gust_read_bytes_total{side=\"coordinator\"}", "sum(coordinator_bytes_read)"),
    ("gust_read_bytes_total{side=\"functions\"}", "sum(function_bytes_read)"),
    ("gust_store_requests_total{side=\"coordinator\"}", "sum(coordinator_requests)"),
    ("gust_store_requests_total{side=\"functions\"}", "sum(function_requests)"),
];

/// Returns the value of a series.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == series))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// Returns a figure of a row, which may be a decimal in a text.
fn number(row: &Value, name: &str) -> f64 {
    let figure = &row[name];
    let text = figure.as_str().map_or_else(|| figure.to_string(), str::to_owned);
    text.parse().unwrap_or_else(|error| panic!("{name}: {error}: {row}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_those_of_the_history_and_of_its_bills() {
    let place = Place::new("on = 'processes'\n[server]\nreach = ['data']\n");
    place.parquet("data/a.parquet", "SELECT value AS k, 'n' || value AS name FROM generate_series(1, 1000)").await;
    let setup = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'data/'";
    std::fs::write(place.path("setup.sql"), setup).expect("written");
    let server = Served::start(&place, &["--setup", "setup.sql"]);
    for sql in
        ["SELECT k FROM t WHERE k < 8", "SELECT max(name) FROM t", "SELECT 1 / (k - 1) FROM t", "SELECT * FROM nowhere"]
    {
        server.query("*/*", sql);
    }
    let post =
        |path: &str, body: &str| server.curl(path, &["-H", "Content-Type: application/json", "--data-binary", body]);
    assert_eq!(
        post("/v1/query", r#"{"sql": "SELECT max(name) FROM t WHERE k > 1", "max_cost": "0.000000001"}"#).status,
        402
    );
    assert_eq!(
        post("/v1/statements", r#"{"sql": "SET datafusion.execution.batch_size = 512; SELECT k FROM t"}"#).status,
        200
    );
    let endless = ENDLESS.replace('\n', " ");
    assert_eq!(
        server
            .curl("/v1/query", &["-H", "Content-Type: application/sql", "--data-binary", &endless, "--max-time", "1"])
            .code,
        28
    );
    // No statement: neither has it.
    server.query("*/*", "SELEC 1");

    // A question is counted when it has ended: after the metrics, and after its own answer.
    wait_until("all have ended", || {
        let text = server.curl("/metrics", &[]).text();
        let figures = ["gust_statement_seconds_count", "gust_queries_running"].map(|series| value(&text, series));
        figures == [Some(8.0), Some(0.0)]
    });
    let answer = server.curl("/metrics", &[]);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    let text = answer.text();
    let figures: Vec<String> = SERIES.iter().zip(0..).map(|((_, sql), at)| format!("{sql} AS c{at}")).collect();
    let history = server.rows(&format!("SELECT {} FROM gust.queries", figures.join(", ")));
    for (at, (series, sql)) in SERIES.iter().enumerate() {
        let (metric, told) = (value(&text, series).unwrap_or_default(), number(&history[0], &format!("c{at}")));
        assert!((metric - told).abs() <= told.abs() * 1e-9, "{series}: {metric}, and {sql}: {told}\n{text}");
    }
    let [done, failed, capped, cancelled] = [0, 1, 2, 3].map(|at| number(&history[0], &format!("c{at}")));
    assert_eq!((done, failed, capped, cancelled), (4.0, 2.0, 1.0, 1.0), "{text}");
    for (series, expect) in [
        ("gust_errors_total{kind=\"sql\"}", Some(1.0)),
        ("gust_errors_total{kind=\"data\"}", Some(1.0)),
        ("gust_errors_total{kind=\"cap-reached\"}", Some(1.0)),
        ("gust_statements_unpriced_total", Some(0.0)),
        ("gust_statements_unrecorded_total", Some(0.0)),
        ("gust_queries_running", Some(0.0)),
        ("gust_queries_waiting", Some(0.0)),
        ("gust_queries_waiting_for_memory", Some(0.0)),
        ("gust_memory_waited_for_bytes", Some(0.0)),
        ("gust_statements_kept", Some(1.0)),
    ] {
        assert_eq!(value(&text, series), expect, "{series}\n{text}");
    }
    for (at, name) in [(6, "dollars"), (8, "rows"), (9, "fragments"), (10, "attempts"), (14, "function bytes")] {
        assert!(number(&history[0], &format!("c{at}")) > 0.0, "{name}: {history}");
    }
    let bills = server.rows("SELECT sum(dollars) AS dollars FROM gust.cost_lines WHERE basis IN ('reported', 'metered') AND query_id IN (SELECT id FROM gust.queries WHERE statement NOT LIKE '%FROM gust.%')");
    let (metric, told) = (value(&text, "gust_cost_dollars_total").expect("a series"), number(&bills[0], "dollars"));
    assert!((metric - told).abs() < 1e-9, "{metric}, and the bills: {told}");
    assert!(!text.contains("nowhere"), "no label has a text of a statement: {text}");

    let promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut promtool) = promtool else {
        assert!(std::env::var("CI").is_err(), "CI does not skip: promtool is missing");
        eprintln!("skipped: promtool is missing");
        return;
    };
    promtool.stdin.take().expect("its input").write_all(&answer.body).expect("written");
    let checked = promtool.wait_with_output().expect("it ends");
    let words = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && words.is_empty(), "{words}");
}
