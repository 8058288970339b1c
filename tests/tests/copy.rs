//! Files of rows, by COPY … TO and `--output`: they have all rows of a query or are not there, on every place, and no server writes any.

use std::path::Path;

use gust_engine::config::{Config, Target};
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::report::Report;
use gust_engine::session::{Engine, EngineOptions, Session, SessionOptions, SettingsPolicy};
use gust_output::{OutputFormat, RowOutput, StreamError, write_statement};
use gust_tests::asks::lines;
use gust_tests::query::{run, session};
use serde_json::Value;

use crate::bad_input::{ENDLESS, Place, check, fails, wait_until};

const ROWS: &str = "SELECT id, CASE WHEN id % 3 > 0 THEN 'n, ' || id END AS name, CAST(id AS DOUBLE) / 4 AS x, DATE '2024-02-29' AS d FROM t";

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Runs one COPY, which has no rows to show.
async fn copy(session: &Session, sql: &str) -> Result<Report, StreamError<QueryError>> {
    let statement = session.parse(sql).map_err(StreamError::Query)?.remove(0);
    let mut running = session.run(statement).await.map_err(StreamError::Query)?;
    assert!(running.is_silent(), "{sql}");
    let written = write_statement(&mut running, &RowOutput::new(std::io::sink(), OutputFormat::Csv)).await;
    let report = Report::from_events(&running.finish().await.snapshot());
    assert_eq!(report.failed.is_some(), written.is_err(), "{sql}: {report:?}");
    written.map(|_| report)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_the_rows_of_its_query() {
    for target in [Target::Local, Target::InProcess] {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let session = session(target, 3, env!("CARGO_BIN_EXE_bootstrap_under_test"));
        std::fs::create_dir(folder.path().join("t")).expect("a folder");
        std::fs::create_dir(folder.path().join("out")).expect("a folder");
        for (part, from) in [1, 101, 201].into_iter().enumerate() {
            let rows = format!("SELECT value AS id FROM generate_series({from}, {from} + 99)");
            copy(&session, &format!("COPY ({rows}) TO '{}'", at(&format!("t/{part}.parquet")))).await.expect("written");
        }
        let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'", at("t/"));
        run(&session, &create).await.expect("a table");
        for name in ["a.parquet", "b.csv", "c.json"] {
            let path = at(&format!("out/{name}"));
            let report = copy(&session, &format!("COPY ({ROWS}) TO '{path}'")).await.expect("written");
            assert_eq!(report.rows, 300, "{name}");
            assert_eq!(report.fragments_adopted > 0, target == Target::InProcess, "{name}: {:?}", report.decision);
            let check = "SELECT count(*), sum(id), count(name), min(name), sum(x), min(CAST(d AS DATE)) FROM";
            let (expect, _) = run(&session, &format!("{check} ({ROWS})")).await.expect("rows");
            let (found, _) = run(&session, &format!("{check} '{path}'")).await.expect("rows");
            assert_eq!(lines(&found, "NULL"), lines(&expect, "NULL"), "{name} on {target:?}");
            let again = copy(&session, &format!("COPY t TO '{path}'")).await.expect_err("it exists");
            assert!(again.to_string().contains("the file exists"), "{again}");
        }
        let none = at("out/none.csv");
        let copied = copy(&session, &format!("COPY (SELECT id, 'x' AS v FROM t WHERE id < 0) TO '{none}'")).await;
        assert_eq!(copied.expect("written").rows, 0);
        assert_eq!(std::fs::read_to_string(none).expect("a file"), "id,v\n");
        let half = format!("COPY (SELECT 10 / (id - 250) AS q FROM t) TO '{}'", at("out/half.csv"));
        assert!(copy(&session, &half).await.expect_err("it fails").to_string().contains("ivide by zero"));
        let there = ["a.parquet", "b.csv", "c.json", "none.csv"];
        assert_eq!(names(&folder.path().join("out")), there, "nothing half is there");
        session.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_statement_of_its_own_writes_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let to = format!("COPY (SELECT 1 AS a) TO '{}/x.csv'", folder.path().display());
    let options = EngineOptions { settings: SettingsPolicy::Listed(&[]), ..EngineOptions::default() };
    let engine = Engine::open(Config { on: Target::Local, ..Config::default() }, options).expect("an engine");
    let session = engine.session(SessionOptions::default()).expect("a session");
    for sql in [&to, &format!("EXPLAIN COST {to}")] {
        let refused = run(&session, sql).await.expect_err("no file of a server");
        assert_eq!((refused.kind(), refused.sqlstate()), (ErrorKind::Sql, "42501"), "{refused}");
    }
    engine.close().await;
    let session = Session::new(Config { on: Target::Local, ..Config::default() }).expect("a session");
    // Whoever reads rows and knows of no file gets an error, and no rows.
    for refused in [session.set_up(&to).await, run(&session, &to).await.map(drop)] {
        assert!(refused.expect_err("no file").message().contains("no file is written here"));
    }
    session.close().await;
    assert!(names(folder.path()).is_empty());
}

async fn place() -> Place {
    let place = Place::new("");
    for file in 0..3 {
        let first = file * 100 + 1;
        let rows = format!("SELECT value AS k FROM generate_series({first}, {first} + 99)");
        place.parquet(&format!("t/{file}.parquet"), &rows).await;
    }
    place
}

const TABLE: [&str; 3] = ["gust.toml", "t", "tmp"];

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_recorded_capped_and_estimated_as_its_query_is() {
    let place = place().await;
    let to = "COPY (SELECT k FROM 't/' WHERE k > 100) TO 'rows.parquet'";
    let query = |flags: &[&str], sql: &str| {
        let arguments = [&["query", "--report", "json"], flags, &[sql]].concat();
        place.gust(&arguments).output().expect("it starts")
    };
    let output = query(&["--dry-run", "--format", "csv", "--on", "processes"], to);
    check(&output, 0, &[]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("functions"), "{output:?}");
    let explained = place.gust(&["explain", "--on", "processes", to]).output().expect("it starts");
    check(&explained, 0, &[]);
    assert!(String::from_utf8_lossy(&explained.stdout).contains("stage 0"), "{explained:?}");
    assert_eq!(names(&place.path("")), [&TABLE[..1], &["state"], &TABLE[1..]].concat(), "an estimate writes nothing");
    let output = query(&["--on", "processes", "--max-cost", "0.000000001"], to);
    check(&output, 4, &["cap"]);
    assert!(!place.path("rows.parquet").exists());
    let output = query(&["--on", "processes"], to);
    check(&output, 0, &[]);
    assert_eq!(output.stdout, b"");
    let report: Value = serde_json::from_slice(&output.stderr).expect("a report");
    assert_eq!((&report["rows"], &report["fragments_adopted"]), (&Value::from(200), &Value::from(3)), "{report}");
    let asked = "SELECT statement, outcome, rows, place, tables FROM gust.queries WHERE statement LIKE 'COPY%' ORDER BY started DESC LIMIT 2";
    let rows = query(&["--format", "ndjson", "--on", "local"], asked);
    let text = String::from_utf8_lossy(&rows.stdout).into_owned();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect();
    assert_eq!(rows[0]["statement"], to, "{text}");
    assert_eq!((&rows[0]["outcome"], &rows[0]["rows"]), (&Value::from("done"), &Value::from(200)), "{text}");
    assert_eq!(
        (&rows[0]["place"], &rows[0]["tables"]),
        (&Value::from("functions"), &Value::from(vec!["t/"])),
        "{text}"
    );
    assert_eq!(rows[1]["outcome"], "cap_reached", "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_is_a_whole_file_or_none() {
    let place = place().await;
    std::fs::write(place.path("there.csv"), "x\n").expect("written");
    let query = |output: &str, format: &str, sql: &str| {
        let arguments = ["query", "--report", "none", "--output", output, "--format", format, sql];
        place.gust(&arguments).output().expect("it starts")
    };
    let rows = "SELECT k FROM 't/' ORDER BY k";
    for format in ["csv", "parquet"] {
        let name = format!("rows.{format}");
        let output = query(&name, format, rows);
        check(&output, 0, &[]);
        assert_eq!(output.stdout, b"");
        let sum = place.gust(&["query", "--format", "csv", &format!("SELECT sum(k) AS s FROM '{name}'")]).output();
        assert_eq!(sum.expect("it starts").stdout, b"s\n45150\n", "{format}");
    }
    let output = query("two.csv", "csv", "SELECT 1 AS a; SET datafusion.execution.batch_size = 10; SELECT 2 AS b");
    check(&output, 0, &[]);
    assert_eq!(std::fs::read_to_string(place.path("two.csv")).expect("a file"), "a\n1\n\nb\n2\n");
    check(&query("there.csv", "csv", rows), 2, &["--output: file `there.csv`", "the file exists", "hint: remove it"]);
    check(&query("no/a.csv", "csv", rows), 2, &["its folder does not exist"]);
    check(&query("half.csv", "csv", "SELECT 1 / (k - 7) FROM 't/'"), 1, &["ivide by zero"]);
    check(&query("half.parquet", "parquet", "SELECT 1 AS a; SELECT 2 AS a"), 1, &["one statement", "hint: run the"]);
    check(&query("none.parquet", "parquet", "SELECT FROM 't/'"), 1, &["at least one column"]);
    fails(&place, &["query", "COPY (SELECT 1 AS a) TO 'there.csv'"], 1, &["there.csv", "the file exists"]);
    assert_eq!(std::fs::read_to_string(place.path("there.csv")).expect("a file"), "x\n");
    check(&query("none.json", "json", "SET datafusion.execution.batch_size = 10"), 2, &["no statement has rows"]);
    check(&query(&"r".repeat(300), "csv", rows), 2, &["--output", "too long"]);
    let one = ["query", "--output", "one.csv", "--report-file", "./one.csv", "--format", "csv", rows];
    fails(&place, &one, 2, &["name one file"]);
    let left = names(&place.path(""));
    assert_eq!(left, ["gust.toml", "rows.csv", "rows.parquet", "state", "t", "there.csv", "tmp", "two.csv"]);
    let piped = place.gust(&["query", "--report", "none", "--format", "parquet", rows]).output().expect("it starts");
    assert!(piped.stdout.starts_with(b"PAR1") && piped.stdout.ends_with(b"PAR1"), "a pipe takes a file");
    // The name is taken while the rows are made: they are left, and the statement did not do what was asked.
    let taken = "COPY (SELECT 1 AS a) TO 'taken.csv'; SELECT 2 AS b";
    let arguments = ["query", "--report", "json", "--output", "taken.csv", "--format", "csv", taken];
    let output = place.gust(&arguments).output().expect("it starts");
    check(&output, 1, &["cannot have its name: the file exists", "hint: the file is whole"]);
    let reports = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = reports.lines().rfind(|line| line.starts_with('{')).expect("a report");
    let report: Value = serde_json::from_str(report).expect("a report");
    assert!(report["failed"].to_string().contains("cannot have its name"), "{report}");
    let hidden = names(&place.path("")).into_iter().find(|name| name.starts_with(".gust-")).expect("its rows");
    assert_eq!(std::fs::read_to_string(place.path(&hidden)).expect("a file"), "b\n2\n");
    assert_eq!(std::fs::read_to_string(place.path("taken.csv")).expect("a file"), "a\n1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_copy_leaves_no_file() {
    let place = place().await;
    let hidden = || names(&place.path("")).iter().any(|name| name.starts_with(".gust-"));
    let to = format!("COPY ({ENDLESS}) TO 'rows.csv'");
    for arguments in
        [&["query", "--on", "local", &to][..], &["query", "--on", "local", "--output", "rows.csv", ENDLESS]]
    {
        let mut child = place.gust(arguments).spawn().expect("it starts");
        wait_until("a file is being written", hidden);
        let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(killed.expect("kill").success());
        assert_eq!(child.wait().expect("it ends").code(), Some(130));
        let left = names(&place.path(""));
        assert!(!hidden() && !left.contains(&"rows.csv".to_owned()), "{left:?}");
    }
    fails(&place, &["query", "--timeout", "300ms", "--on", "local", &to], 124, &["300ms"]);
    assert!(!hidden() && !place.path("rows.csv").exists());
}
