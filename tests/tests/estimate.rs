//! Estimates of a query's cost before it runs: they read no data, and the run then reads what they foretold.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Decimal128Type, Float64Type, UInt64Type};
use gust::demo::queries;
use gust::demo::tables::{CATALOG, DemoTables, ensure_tables};
use gust_engine::config::{CatalogConfig, Config, CostConfig, Prefer, Target};
use gust_engine::cost::PriceBook;
use gust_engine::error::ErrorKind;
use gust_engine::model::measured::{Measured, save};
use gust_engine::model::{Forecast, Place, Quote, Reason, WallTimes};
use gust_engine::report::Report;
use gust_engine::session::Session;
use gust_tests::query::{assert_remote, run};
use gust_tests::tpch;
use tempfile::TempDir;

use crate::bad_input::{Place as Folder, check, fails};

fn config(functions_max: u32) -> Config {
    Config { on: Target::InProcess, functions_max, ..Config::default() }
}

async fn with_tpch(config: Config) -> Session {
    let tables = tpch::tables(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("TPC-H data");
    let session = Session::new(config).expect("a session");
    for statement in tables.create_statements() {
        run(&session, &statement).await.expect("setup");
    }
    session
}

pub(crate) async fn quote(session: &Session, sql: &str) -> (Vec<RecordBatch>, Quote, Report) {
    let (rows, report) = run(session, &format!("EXPLAIN COST {sql}")).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let quote = report.quote.clone().unwrap_or_else(|| panic!("no quote for {sql}: {report:?}"));
    (rows, *quote, report)
}

pub(crate) fn picked(quote: &Quote) -> &Forecast {
    &quote.forecasts[quote.picked]
}

/// The data files are gone, and the estimate does not notice: all that it needs is in the metadata.
#[tokio::test(flavor = "multi_thread")]
async fn no_data_file_of_an_iceberg_table_is_read() {
    let home = TempDir::new().expect("a temporary folder");
    let DemoTables { database, warehouse, namespace } =
        ensure_tables(home.path(), 0.001, Arc::new(|_, _| {})).await.expect("the demo's tables");
    let mut config = config(3);
    let catalog = CatalogConfig::sqlite(database, warehouse.clone());
    config.catalogs.insert(CATALOG.to_owned(), catalog);
    let session = Session::new(config).expect("a session");
    session.use_catalog(CATALOG).await.expect("the catalog");
    session.use_schema(CATALOG, &namespace);
    let data = Path::new(warehouse.trim_start_matches("file://")).join(&namespace).join("lineitem/data");
    std::fs::rename(&data, home.path().join("away")).expect("there is data");
    let sql = "SELECT l_shipmode, max(l_tax) FROM lineitem WHERE l_shipdate > date '1997-06-01' GROUP BY 1";
    let (rows, quote, report) = quote(&session, sql).await;
    let bytes = picked(&quote).expected.bytes;
    assert!(bytes > 10_000 && report.functions.requests.total() == 0, "{quote:?} {report:?}");
    assert!(
        matches!(run(&session, sql).await, Err(error) if error.kind() == ErrorKind::Data),
        "the data is still there"
    );
    session.close().await;

    let of = |place: &str| {
        let places = rows[0].column_by_name("place").expect("a column").as_string::<i32>();
        (0..rows[0].num_rows()).find(|row| places.value(*row) == place).expect("a row of that place")
    };
    let dollars = rows[0].column_by_name("expected_dollars").expect("a column").as_primitive::<Decimal128Type>();
    let gb_seconds = rows[0].column_by_name("gb_seconds").expect("a column").as_primitive::<Float64Type>();
    let requests = rows[0].column_by_name("requests").expect("a column").as_primitive::<UInt64Type>();
    assert_eq!(gb_seconds.value(of("local")), 0.0);
    assert!(gb_seconds.value(of("functions")) > 0.0);
    // The coordinator reads files of this machine for nothing.
    assert_eq!(dollars.value(of("local")), 0);
    assert!(requests.value(of("local")) > 0);
    // The dollars are never less than the price of functions' time alone.
    let row = of("functions");
    let least = gb_seconds.value(row) * 0.0000166667;
    let seen = dollars.value(row) as f64 / 1e9;
    let slack = gb_seconds.value(row) * 0.21 + 1e-8; // arm64 is a fifth cheaper
    assert!(seen >= least - slack * 0.0000166667 && seen < least + 0.001, "{seen} for {least}");
}

/// Footers of bare Parquet are read when the table is made known, and then kept.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_known_parquet_table_is_read() {
    let session = with_tpch(config(4)).await;
    for number in [1, 3, 6, 14] {
        let before = session.stores().usage().requests;
        let (_, quote, _) = quote(&session, queries::query(number)).await;
        let after = session.stores().usage().requests;
        assert_eq!((after.get - before.get, after.head - before.head), (0, 0), "query {number}");
        assert_eq!(quote.guessed_files, 0, "every footer is known");
    }
    session.close().await;
}

/// One function has read nothing yet, so its requests and bytes are known beforehand. Row groups that statistics rule out would
/// be read less, never more; these queries rule none out.
#[tokio::test(flavor = "multi_thread")]
async fn requests_are_those_of_the_estimate() {
    for number in [1, 3, 5, 6, 12, 14] {
        let session = with_tpch(config(1)).await;
        let (_, quote, asked) = quote(&session, queries::query(number)).await;
        let (_, report) = run(&session, queries::query(number)).await.expect("rows");
        session.close().await;
        assert_remote(&report, "one function");
        let Forecast { place, functions, expected, upper, .. } = picked(&quote);
        assert_eq!((*place, *functions), (Place::Functions, 1));
        let seen = report.functions.requests.total() + report.coordinator.requests.total();
        let said = expected.requests;
        assert!(seen.abs_diff(said) * 20 <= said, "query {number}: {seen} requests of {said}: {report:?} {asked:?}");
        assert!(seen <= upper.requests, "query {number}: {seen} requests of {} at most", upper.requests);
        let bytes = report.functions.bytes_read;
        assert!(bytes.abs_diff(expected.bytes) * 20 <= bytes, "query {number}: {bytes} bytes of {}", expected.bytes);
    }
}

/// A scan whose plan cannot be sent is read by the coordinator, and counted.
#[tokio::test(flavor = "multi_thread")]
async fn scans_on_the_coordinator_are_counted() {
    let stays = "arrow_cast(CAST(o_custkey AS DOUBLE), 'Float16') > arrow_cast(0.5, 'Float16')";
    let sql = format!(
        "SELECT count(*), sum(o_shippriority) FROM lineitem JOIN orders ON l_orderkey = o_orderkey WHERE {stays}"
    );
    let session = with_tpch(config(1)).await;
    let (_, quote, _) = quote(&session, &sql).await;
    let (_, report) = run(&session, &sql).await.expect("rows");
    session.close().await;
    assert!(report.functions.bytes_read > 0 && report.coordinator.bytes_read > 0, "both read: {report:?}");
    assert_eq!(quote.missing, Vec::<String>::new());
    let expected = picked(&quote).expected;
    let seen = report.functions.requests.total() + report.coordinator.requests.total();
    assert!(seen.abs_diff(expected.requests) * 10 <= seen, "{seen} requests of {}: {report:?}", expected.requests);
    let seen = report.functions.bytes_read + report.coordinator.bytes_read;
    assert!(seen <= expected.bytes, "{seen} bytes of {}: {report:?}", expected.bytes);
}

/// Each of several functions reads the ends of the files that it has a part of, unless it has kept them from the query before.
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_several_functions_are_near_the_estimate() {
    let mut config = Config { on: Target::Processes, ..config(4) };
    config.process.program = Some(env!("CARGO_BIN_EXE_bootstrap_under_test").into());
    let session = with_tpch(config).await;
    for number in [1, 6] {
        let (_, quote, _) = quote(&session, queries::query(number)).await;
        let (_, report) = run(&session, queries::query(number)).await.expect("rows");
        assert_remote(&report, "four functions");
        let Forecast { functions, expected, upper, .. } = picked(&quote);
        assert_eq!(*functions, 4);
        let seen = report.functions.requests.total() + report.coordinator.requests.total();
        // A process that has had another part of a file knows its end. That is likely, but depends on chance.
        let said = expected.requests;
        assert!(
            4 * seen.abs_diff(said) <= said && seen <= upper.requests,
            "{seen} of {said}, {} at most",
            upper.requests
        );
        assert!(upper.requests > expected.requests && upper.dollars > expected.dollars);
    }
    session.close().await;
}

/// On one machine more functions compete for the same cores, and each has its overhead: money wants few, and time many.
#[tokio::test(flavor = "multi_thread")]
async fn money_picks_fewer_functions_than_time() {
    let sql = queries::query(1);
    let mut fragments = Vec::new();
    for prefer in [None, Some(Prefer::Latency), Some(Prefer::Cost)] {
        let session = with_tpch(Config { prefer, ..config(4) }).await;
        let (_, report) = run(&session, sql).await.expect("rows");
        session.close().await;
        assert_remote(&report, "functions");
        fragments.push(report.fragments);
        let decision = report.decision.expect("a decision");
        let choice = decision.choice.as_deref();
        assert_eq!(choice.is_some(), prefer.is_some(), "{decision}");
        if let Some(choice) = choice {
            assert_eq!(choice.picked.fragments, report.fragments);
        }
        if prefer == Some(Prefer::Cost) {
            let words = decision.to_string();
            let expect = "functions: cheapest by estimate (1 function of 2048 MB: $";
            assert!(words.starts_with(expect) && words.contains("; runner-up 2 functions of 2048 MB: $"), "{words}");
        }
    }
    // More than the machine has cores are not faster.
    assert!(matches!(fragments[..], [4, 2..=4, 1]), "{fragments:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_runs_even_if_nothing_keeps_its_deadline() {
    let second = Duration::from_secs(1);
    for (deadline, expect) in [
        (Duration::from_nanos(1), "nothing is sure to keep the deadline; this is the fastest by estimate"),
        (1000 * second, "cheapest of what keeps the deadline by estimate"),
    ] {
        let session = with_tpch(Config { deadline: Some(deadline), ..config(4) }).await;
        let (_, quote, asked) = quote(&session, queries::query(6)).await;
        let (_, report) = run(&session, queries::query(6)).await.expect("rows");
        session.close().await;
        assert_remote(&report, expect);
        let words = report.decision.expect("a decision").to_string();
        assert!(words.contains(expect), "{words}");
        assert_eq!(picked(&quote).fragments, report.fragments, "as was said");
        assert_eq!(asked.decision.expect("a decision").place, Place::Functions);
    }
}

/// Decisions and EXPLAIN COST have one model.
#[tokio::test(flavor = "multi_thread")]
async fn the_decision_has_the_seconds_that_are_quoted() {
    for (on, number) in [(Target::InProcess, 1), (Target::InProcess, 3), (Target::InProcess, 14), (Target::Auto, 6)] {
        let session = with_tpch(Config { on, ..config(4) }).await;
        let (_, quote, asked) = quote(&session, queries::query(number)).await;
        session.close().await;
        let decision = asked.decision.expect("a decision");
        let Some(WallTimes { local_seconds, functions_seconds, functions }) = decision.estimate else {
            assert_eq!((on, decision.reason), (Target::Auto, Reason::TooSmall), "query {number}");
            continue;
        };
        let (local, remote) = (&quote.forecasts[0], picked(&quote));
        assert_eq!((local.place, remote.place, remote.functions), (Place::Local, Place::Functions, functions));
        for (decided, quoted) in [(local_seconds, local), (functions_seconds, remote)] {
            assert!(
                (decided - quoted.expected.seconds).abs() < 1e-9,
                "query {number}: {decided} s decided, {quoted} quoted"
            );
        }
    }
}

/// Returns a calibration in which functions have next to no overhead and a network a hundred times as fast as the coordinator's.
pub(crate) fn functions_pay() -> Measured {
    Measured {
        functions: "processes of 1 core".to_owned(),
        date: "2026-11-28".parse().expect("a day"),
        start_up_seconds: 0.001,
        stage_seconds: 0.001,
        fragment_seconds: 0.0001,
        attempt_seconds: 0.0005,
        request_seconds: 0.0001,
        request_seconds_least: 0.0001,
        core_bytes_per_second: 1e9,
        function_cores: 1.0,
        pipe_bytes_per_second: 1e5,
        together_bytes_per_second: None,
        function_pipe_first: 1e7,
        function_pipe: 1e7,
        function_pipe_burst_bytes: 0,
    }
}

/// Returns the settings of `auto` that estimates with this calibration. The folder keeps it.
pub(crate) fn calibrated(folder: &TempDir, functions_max: u32, measured: Measured) -> Config {
    let time_model = folder.path().join("model.toml");
    save(&time_model, measured).expect("written");
    let mut config = Config { on: Target::Auto, time_model: Some(time_model), ..config(functions_max) };
    config.process.program = Some(env!("CARGO_BIN_EXE_bootstrap_under_test").into());
    config
}

/// One function, which takes long to answer each time, beside a coordinator that alone takes a second. Functions for both scans are slower
/// than that. If one scan cannot run on them, it is faster that the function reads the large table and the coordinator the small one.
#[tokio::test(flavor = "multi_thread")]
async fn auto_counts_a_scan_that_cannot_travel_where_it_is_read() {
    let half = |column: &str| format!("arrow_cast(CAST({column} AS DOUBLE), 'Float16') > arrow_cast(0.5, 'Float16')");
    let custkey = half("o_custkey");
    let large = "SELECT max(upper(l_comment)) FROM lineitem".to_owned();
    let filtered = format!("SELECT max(upper(o_clerk)) FROM orders WHERE {custkey}");
    // The coordinator's own plan counts in one step above a repartition.
    let counted = format!("SELECT CAST(count(CASE WHEN {custkey} THEN 1 END) AS VARCHAR) FROM orders");
    let stays = format!("{large} WHERE {}", half("l_suppkey"));
    for (large, small, expect) in [
        (&large, &filtered, Reason::FunctionsFaster),
        (&large, &counted, Reason::FunctionsFaster),
        // Nothing can travel.
        (&stays, &filtered, Reason::LocalFaster),
        (&stays, &counted, Reason::LocalFaster),
    ] {
        let sql = format!("{large} UNION ALL {small}");
        // The narrower the pipe, the fewer gaps come with their columns.
        let bytes = async |sql: &str, pipe: f64| {
            let folder = TempDir::new().expect("a temporary folder");
            let measured = Measured { pipe_bytes_per_second: pipe, ..functions_pay() };
            let session = with_tpch(Config { on: Target::Local, ..calibrated(&folder, 1, measured) }).await;
            let bytes = quote(&session, sql).await.1.forecasts[0].expected.bytes as f64;
            session.close().await;
            bytes
        };
        let mut all = 1e6;
        for _ in 0..3 {
            all = bytes(&sql, all).await;
        }
        let small = bytes(small, all).await;
        assert!(small < 0.25 * all, "{small} of {all} bytes: {sql}");
        let folder = TempDir::new().expect("a temporary folder");
        let measured = Measured {
            // The coordinator alone takes a second.
            pipe_bytes_per_second: all,
            stage_seconds: 0.66,
            attempt_seconds: 0.64,
            function_pipe_first: 1e9,
            function_pipe: 1e9,
            core_bytes_per_second: 1e12,
            ..functions_pay()
        };
        let session = with_tpch(calibrated(&folder, 1, measured)).await;
        let (_, quote, asked) = quote(&session, &sql).await;
        let (_, report) = run(&session, &sql).await.expect("rows");
        session.close().await;
        for decision in [asked.decision, report.decision.clone()] {
            let decision = decision.expect("a decision");
            assert_eq!(decision.reason, expect, "{decision}: {sql}");
        }
        if expect == Reason::LocalFaster {
            continue;
        }
        let seconds = |place: Place| {
            let of_place = quote.forecasts.iter().filter(|forecast| forecast.place == place);
            of_place.map(|forecast| forecast.expected.seconds).fold(f64::INFINITY, f64::min)
        };
        let (local, functions) = (seconds(Place::Local), seconds(Place::Functions));
        assert!((0.99..1.1).contains(&local) && functions < 0.95 * local, "{local} and {functions} s: {sql}");
        assert_remote(&report, "the large scan travels");
        assert!(report.coordinator.bytes_read > 0, "the small one stays: {report:?}");
    }
}

/// EXPLAIN COST takes every step that a run takes.
#[tokio::test(flavor = "multi_thread")]
async fn auto_decides_as_it_is_quoted() {
    let same_network = || Measured { pipe_bytes_per_second: 1e7, ..functions_pay() };
    let slow_function = || Measured { function_cores: 0.1, core_bytes_per_second: 1e6, ..same_network() };
    let mut reasons = Vec::new();
    for measured in [functions_pay(), slow_function(), Measured { stage_seconds: 100.0, ..same_network() }] {
        let folder = TempDir::new().expect("a temporary folder");
        let session = with_tpch(calibrated(&folder, 2, measured)).await;
        for number in [1, 3, 6] {
            let (_, quote, asked) = quote(&session, queries::query(number)).await;
            let (_, report) = run(&session, queries::query(number)).await.expect("rows");
            let [asked, ran] = [asked.decision, report.decision].map(|decision| decision.expect("a decision"));
            assert_eq!((asked.place, &asked.reason), (ran.place, &ran.reason), "query {number}: {asked} and {ran}");
            assert_eq!(picked(&quote).place, ran.place, "query {number}");
            reasons.push(ran.reason);
        }
        session.close().await;
    }
    for reason in [Reason::FunctionsFaster, Reason::LocalFaster, Reason::TooSmall] {
        assert!(reasons.contains(&reason), "{reason}: {reasons:?}");
    }
}

/// A network that is slow here and fast for functions, so that functions pay: `auto` takes the fastest of all candidates, as `--prefer latency`
/// does, and where nothing has a price.
#[tokio::test(flavor = "multi_thread")]
async fn auto_takes_the_fastest_candidate_with_and_without_prices() {
    let folder = TempDir::new().expect("a temporary folder");
    let config = calibrated(&folder, 4, functions_pay());
    let nowhere = CostConfig { region: Some("mars-1".to_owned()), ..CostConfig::default() };
    let mut seen = Vec::new();
    for (prefer, cost) in [(None, None), (Some(Prefer::Latency), None), (None, Some(nowhere))] {
        let is_priced = cost.is_none();
        let cost = cost.unwrap_or_default();
        let session = with_tpch(Config { prefer, cost, ..config.clone() }).await;
        let (_, report) = run(&session, queries::query(6)).await.expect("rows");
        assert_remote(&report, "functions pay");
        let decision = report.decision.expect("a decision");
        assert_eq!(decision.reason, Reason::FunctionsFaster);
        assert_eq!(decision.choice.is_some(), is_priced, "{decision}");
        if is_priced {
            let (_, quote, _) = quote(&session, queries::query(6)).await;
            let fastest =
                quote.forecasts.iter().map(|forecast| forecast.expected.seconds).fold(f64::INFINITY, f64::min);
            assert_eq!(picked(&quote).expected.seconds, fastest, "{quote:?}");
        }
        session.close().await;
        seen.push(report.fragments);
    }
    // One packing alone would be one fragment: the data is far below `fragment_bytes_target`.
    assert_eq!(seen, [4, 4, 4]);
}

/// Without a price of the coordinator's machine a local run costs next to nothing, so `auto` prefers it.
#[tokio::test(flavor = "multi_thread")]
async fn auto_by_money_is_local_and_says_what_it_left_out() {
    let session = with_tpch(Config { on: Target::Auto, prefer: Some(Prefer::Cost), ..Config::default() }).await;
    let (_, quote, _) = quote(&session, queries::query(1)).await;
    let (_, report) = run(&session, queries::query(1)).await.expect("rows");
    session.close().await;
    assert_eq!(report.decision.expect("a decision").place, Place::Local);
    let local = picked(&quote);
    assert_eq!((local.place, report.attempts), (Place::Local, 0));
    assert!(local.not_included.contains(&"the coordinator's machine"), "{local:?}");
    assert_eq!(quote.forecasts[quote.runner_up.expect("a runner-up")].place, Place::Functions);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_prints_candidates_and_runs_nothing() {
    let folder = Folder::new("");
    folder.parquet("t/a.parquet", "SELECT value AS k FROM generate_series(1, 1000)").await;
    folder.parquet("t/b.parquet", "SELECT value AS k FROM generate_series(1, 1000)").await;
    let dry = |format: &str, on: &str, sql: &str| {
        let arguments = ["query", "--dry-run", "--on", on, "--functions", "2", "--format", format, sql];
        folder.gust(&arguments).output().expect("it starts")
    };
    let setup = "SET datafusion.execution.batch_size = 4096; CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 't/'; ";
    let sql = format!("{setup}SELECT sum(k) FROM t");
    let book = PriceBook::of_region("us-east-1").expect("a book");
    let output = dry("json", "processes", &sql);
    let as_if = format!("estimate   nothing was run (as if on Lambda, us-east-1 on {}", book.date);
    // What is cheaper and faster is no runner-up: it is named with the way to it.
    let better = "--on without --prefer picks all functions that it may use; --prefer latency picks one that is expected to be \
                  cheaper and faster: 1 function of 2048 MB: $";
    check(&output, 0, &[&as_if, "picked 2 functions of 2048 MB: $", "not included: data transfer, logs", better]);
    let preferred = ["query", "--dry-run", "--on", "processes", "--functions", "2", "--prefer", "latency", &sql];
    let preferred = folder.gust(&preferred).output().expect("it starts");
    check(&preferred, 0, &["picked 1 function of 2048 MB: $"]);
    assert!(!String::from_utf8_lossy(&preferred.stderr).contains("cheaper and faster"), "{preferred:?}");
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one array");
    let rows = rows.as_array().expect("an array");
    assert_eq!(rows.iter().map(|row| &row["picked"]).collect::<Vec<_>>(), ["", "picked"], "{rows:?}");
    assert_eq!((&rows[0]["place"], &rows[0]["memory_mb"]), (&"local".into(), &serde_json::Value::Null));
    for row in rows {
        let number = |name: &str| row[name].as_f64().unwrap_or_else(|| panic!("{name} is no number in {row}"));
        // Files of this machine are free where the coordinator reads them.
        let is_paid = number("upper_dollars") > number("expected_dollars") && number("expected_dollars") > 0.0;
        assert_eq!(
            (is_paid, number("upper_dollars") > 0.0),
            (row["place"] == "functions", row["place"] == "functions")
        );
        assert!(number("upper_seconds") > number("expected_seconds") && number("requests") > 0.0, "{row}");
    }
    let functions = &rows[1];
    assert_eq!((&functions["functions"], &functions["fragments"]), (&2.into(), &2.into()), "{functions}");

    let output = dry("table", "local", &sql);
    check(&output, 0, &["decision   local: asked for by --on", "picked local: $"]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("| place     | functions | memory_mb |") && table.contains("| picked"), "{table}");

    let output = dry("csv", "local", "EXPLAIN COST SELECT 1; SELECT 2");
    check(&output, 0, &["no functions: the plan has no Parquet scan"]);
    let csv = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(csv.matches("\nlocal,0,,0,0.000000000,").count(), 2, "{csv}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_without_a_cost_is_refused() {
    let folder = Folder::new("");
    folder.parquet("t/a.parquet", "SELECT 1 AS k").await;
    let hint = "hint: ask for the cost of a query";
    fails(
        &folder,
        &["query", "EXPLAIN COST SET datafusion.execution.batch_size = 7"],
        1,
        &["no cost of its own", hint],
    );
    let create = "EXPLAIN COST CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 't/'";
    fails(&folder, &["query", create], 1, &["EXPLAIN COST", "no cost of its own", hint]);
    fails(
        &folder,
        &["query", "--dry-run", "CREATE TABLE u AS SELECT * FROM 't/'"],
        1,
        &["a dry run does not run", "hint: ask for the cost of its query"],
    );
    fails(&folder, &["query", "EXPLAIN COST INSERT INTO t VALUES (1)"], 1, &["DML not supported", "hint: gust reads"]);
    fails(&folder, &["query", "EXPLAIN COST"], 1, &["Expected: ", "found: EOF"]);
    fails(&folder, &["query", "EXPLAIN \"COST\" SELECT 1"], 1, &["COST"]);
    fails(&folder, &["query", "EXPLAIN COST SELECT 1 SELECT"], 1, &["found: SELECT", "Line: 1, Column: 23"]);
    fails(&folder, &["query", "--deadline", "0s", "SELECT 1"], 2, &["a deadline is above zero"]);
    fails(&folder, &["query", "--prefer", "nonsense", "SELECT 1"], 2, &["cost, latency, balanced"]);
    let output = folder.gust(&["query", "SELECT 1"]).env("GUST_PREFER", "cheap").output().expect("it starts");
    check(&output, 2, &["GUST_PREFER", "\"cost\", \"latency\", \"balanced\""]);
    // Without prices there is no choice by money.
    let mut command = folder.gust(&["query", "--prefer", "cost", "SELECT k FROM 't/'"]);
    let output = command.env("GUST_COST__REGION", "mars-1").output().expect("it starts");
    check(&output, 2, &["no price book for region `mars-1`"]);
}
