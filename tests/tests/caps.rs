//! Caps in dollars on the command line and over S3: the setting that counts, the queries that are refused, and those stopped.

use std::error::Error;

use gust_engine::cap::OverCap;
use gust_engine::config::{Config, Target};
use gust_engine::money::Money;
use gust_engine::session::Session;
use gust_tests::asks::lines;
use gust_tests::query::{plain, run};
use gust_tests::s3::{ACCESS_KEY_ID, Operation, REGION, Request, S3Server, SECRET_ACCESS_KEY};
use object_store::ObjectStoreExt;
use object_store::path::Path as Key;
use serde_json::Value;
use tempfile::TempDir;

use crate::bad_input::{ENDLESS, Place, check, fails};

const SUM: &str = "SELECT sum(k) FROM 't/'";

async fn place(configuration: &str, files: usize) -> Place {
    let place = Place::new(configuration);
    for file in 0..files {
        place.parquet(&format!("t/{file:02}.parquet"), "SELECT value AS k FROM generate_series(1, 100)").await;
    }
    place
}

#[test]
fn a_bad_cap_is_refused_with_its_reason() {
    let place = Place::new("");
    let no_amount = "is no amount of dollars\nhint: write a decimal number that is not negative, such as 0.05";
    for bad in ["-0.05", "much", "1e3", "NaN"] {
        fails(&place, &["query", "--max-cost", bad, "SELECT 1"], 2, &["--max-cost <DOLLARS>", bad, no_amount]);
        fails(&place, &["explain", "--max-cost", bad, "SELECT 1"], 2, &[bad]);
        let set = format!("SET gust.max_cost = '{bad}'");
        fails(&place, &["query", &set], 1, &["gust.max_cost: ", bad, no_amount]);
    }
    let finer = "`0.0000000001` is finer than a nano-dollar\nhint: write at most 9 digits after the point";
    fails(&place, &["query", "--max-cost", "0.0000000001", "SELECT 1"], 2, &[finer]);
    fails(&place, &["query", "SET gust.max_cost = '0.0000000001'"], 1, &[finer]);
    fails(&place, &["query", "SET gust.max_cost = -1"], 1, &["`-1` is no amount"]);
    fails(&place, &["query", "SET gust.max_cots = 1"], 1, &["`gust.max_cots`", "did you mean `gust.max_cost`?"]);
    fails(
        &place,
        &["query", "SET gust.nonsense = 1"],
        1,
        &["no setting `gust.nonsense`", "there is gust.dialect, gust.max_cost"],
    );
    fails(&place, &["query", "RESET gust.nonsense"], 1, &["no setting `gust.nonsense`"]);
    let output = place.gust(&["query", "SELECT 1"]).env("GUST_COST__MAX", "soon").output().expect("it starts");
    check(&output, 2, &["GUST_COST__MAX", "soon", "dollars that are not negative"]);
    let place = Place::new("[cost]\nmax = -1\n");
    fails(&place, &["query", "SELECT 1"], 2, &["cost.max", "line 2", "dollars that are not negative"]);
}

#[test]
fn a_cap_needs_prices() {
    let place = Place::new("[s3]\nregion = 'us-west-9'\n");
    check(&place.gust(&["query", "SELECT 1"]).output().expect("it starts"), 0, &[]);
    let expect = ["a cap cannot be kept without prices", "`us-west-9`; did you mean `us-west-2`?"];
    fails(&place, &["query", "--max-cost", "1", "SELECT 1"], 2, &expect);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cap_that_was_set_last_counts() {
    let place = place("[cost]\nmax = 0\n", 2).await;
    let refused: &[&str] = &["not run: it costs at least $0.0000", "the cap is $0", "hint: allow more with --max-cost"];
    let query = |arguments: &[&str], sql: &str| {
        let all = [&["query", "--on", "in-process", "--report", "none"], arguments, &[sql]].concat();
        let mut command = place.gust(&all);
        command.env("GUST_FUNCTIONS_MAX", "2");
        command
    };
    let text = |output: &std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();
    check(&query(&[], SUM).output().expect("it starts"), 4, refused);
    check(&query(&[], SUM).env("GUST_COST__MAX", "1").output().expect("it starts"), 0, &[]);
    check(&query(&["--max-cost", "0"], SUM).env("GUST_COST__MAX", "1").output().expect("it starts"), 4, refused);
    check(&query(&["--max-cost", "1"], SUM).output().expect("it starts"), 0, &[]);
    let set = format!("SHOW gust.max_cost; SET gust.max_cost = 0.07; SHOW gust.max_cost; {SUM}");
    let output = query(&["--max-cost", "0"], &set).output().expect("it starts");
    check(&output, 0, &[]);
    assert!(text(&output).contains("| gust.max_cost | $0 ") && text(&output).contains("$0.07000"), "{}", text(&output));
    let reset = format!("SET gust.max_cost = '0'; RESET gust.max_cost; {SUM}; SET gust.max_cost = '0'; {SUM}");
    let output = query(&["--max-cost", "1"], &reset).output().expect("it starts");
    check(&output, 4, refused);
    assert_eq!(text(&output).matches("10100").count(), 1, "the first of two: {}", text(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_stops_a_query_unless_it_suffices() {
    let place = place("", 20).await;
    let on = |on: &'static str, cap: &'static str| ["query", "--on", on, "--functions", "20", "--max-cost", cap, SUM];
    check(&place.gust(&on("local", "0")).output().expect("it starts"), 0, &[]);
    // 20 × (an invocation, a millisecond of 2 GiB, a read).
    fails(
        &place,
        &on("processes", "0.00001"),
        4,
        &["not run: it costs at least $0.00001267, and the cap is $0.00001000"],
    );
    let none =
        ["stopped at the cap of $0.0001000: $0 spent, 0 of 20 fragments done; the next attempt may cost $0.0001"];
    fails(&place, &on("processes", "0.0001"), 4, &none);
    // A prepared statement does not evade the cap.
    let prepared = format!("PREPARE p AS {SUM}; EXECUTE p");
    let prepared = ["query", "--on", "processes", "--functions", "20", "--max-cost", "0.00001", &prepared];
    fails(&place, &prepared, 4, &["not run: it costs at least $0.00001267"]);
    // One attempt after the other is admitted by its worst case, until the next worst case exceeds the rest of the cap.
    let some =
        ["stopped at the cap of $0.0001650: $0.0000", " of 20 fragments done", "hint: allow more with --max-cost"];
    fails(&place, &on("processes", "0.000165"), 4, &some);
    let output = place.gust(&on("processes", "0.000165")).arg("--allow-fallback").output().expect("it starts");
    check(&output, 4, &some);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!words.contains(" 0 of 20") && !words.contains("fell back"), "{words}");
    check(&place.gust(&on("processes", "0.05")).output().expect("it starts"), 0, &["20 adopted"]);
}

#[test]
fn the_coordinators_machine_counts() {
    // The machine costs a dollar a second.
    let place = Place::new("[cost]\ncoordinator_hour = 3600\n");
    let query = ["query", "--on", "local", "--max-cost", "0.5", ENDLESS];
    fails(&place, &query, 4, &["stopped at the cap of $0.5000: $0.5", " spent\nhint: allow more"]);
}

/// Starts a server with a table of eight files.
async fn served() -> S3Server {
    let folder = TempDir::new().expect("a temporary folder");
    let server = S3Server::start().expect("a server");
    let store = server.store().expect("a client");
    for file in 0..8 {
        let path = folder.path().join("x.parquet");
        let copy = format!("COPY (SELECT value AS k FROM generate_series(1, 1000)) TO '{}'", path.display());
        plain(&[], &copy).await;
        let bytes = std::fs::read(&path).expect("readable");
        store.put(&Key::from(format!("t/{file}.parquet")), bytes.into()).await.expect("put");
    }
    server
}

fn local(server: &S3Server) -> Session {
    Session::new(Config { on: Target::Local, s3: server.config(), ..Config::default() }).expect("a session")
}

/// Price of requests to S3 by AWS's list, in nano-dollars.
fn price(asked: &[Request]) -> Money {
    let count = |operation| asked.iter().filter(|request| request.operation == operation).count() as u64;
    Money::from_nano_dollars((count(Operation::Get) + count(Operation::Head)) * 400 + count(Operation::List) * 5_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_for_a_new_table_count() {
    let server = served().await;
    let session = local(&server);
    let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'", server.url("t/"));
    let error = run(&session, &format!("SET gust.max_cost = 0; {create}")).await.map(drop).expect_err("it is not free");
    let over = error.source().and_then(|source| source.downcast_ref::<OverCap>());
    let Some(OverCap::WhileRunning(stopped)) = over else { panic!("{error:?}") };
    let most = Money::from_nano_dollars(5_000 + 2 * 8 * 400);
    assert!(
        stopped.spent > Money::ZERO && stopped.spent <= most,
        "a listing, and at most eight footers, each late and sent twice: {stopped}"
    );
    run(&session, "SELECT * FROM t").await.map(drop).expect_err("there is no such table");
    // The stopped statement may have left footers in its session.
    session.close().await;
    let session = local(&server);
    let (_, report) = run(&session, &format!("SET gust.max_cost = 0.01; {create}")).await.expect("a cent is enough");
    assert!(report.coordinator.requests.total() >= 9, "a listing, and eight footers: {report:?}");
    let (rows, _) = run(&session, "SELECT count(*) FROM t").await.expect("rows");
    assert_eq!(lines(&rows, "NULL"), ["8000"]);
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_of_a_setup_file_are_reported_and_recorded() {
    let server = served().await;
    let settings = format!(
        "[s3]\nendpoint = \"{}\"\nallow_http = true\npath_style = true\nregion = \"{REGION}\"\n\
         access_key_id = \"{ACCESS_KEY_ID}\"\nsecret_access_key = \"{SECRET_ACCESS_KEY}\"\n",
        server.endpoint()
    );
    let place = Place::new(&settings);
    place.parquet("here/a.parquet", "SELECT 1 AS k").await;
    let there = format!("CREATE EXTERNAL TABLE there STORED AS PARQUET LOCATION '{}'", server.url("t/"));
    let here = "CREATE EXTERNAL TABLE here STORED AS PARQUET LOCATION 'here/'";
    std::fs::write(place.path("setup.sql"), format!("SET datafusion.execution.batch_size = 100; {there}; {here}"))
        .expect("written");
    let query = |flags: &[&str]| {
        let arguments = [&["query", "--on", "local", "--setup", "setup.sql"], flags].concat();
        place.gust(&arguments).output().expect("it starts")
    };
    let output = query(&["--report", "json", "SELECT 1"]);
    check(&output, 0, &[]);
    let reports = String::from_utf8_lossy(&output.stderr).into_owned();
    let reports: Vec<Value> = reports.lines().map(|line| serde_json::from_str(line).expect("a report")).collect();
    assert_eq!(reports.len(), 2, "of the table that was paid for, and of the query");
    let requests = &reports[0]["coordinator"]["requests"];
    assert!(requests["list"].as_u64() >= Some(1) && requests["get"].as_u64() >= Some(8), "{requests}");
    let output = query(&["--report", "text", "SELECT 1"]);
    check(&output, 0, &["of a statement of --setup:"]);
    check(&query(&["--max-cost", "0.000001", "SELECT 1"]), 4, &["stopped at the cap of $0.000001000"]);
    let mut rows = place.gust(&[
        "query", "--format", "csv", "--report", "none",
        "SELECT left(statement, 27) AS begins, outcome, coalesce(dollars > 0, false) AS paid FROM gust.queries ORDER BY started",
    ]);
    let rows = String::from_utf8(rows.output().expect("it starts").stdout).expect("text");
    let expect = [
        "begins,outcome,paid",
        "CREATE EXTERNAL TABLE there,done,true",
        "SELECT 1,done,false",
        "CREATE EXTERNAL TABLE there,done,true",
        "SELECT 1,done,false",
        "CREATE EXTERNAL TABLE there,cap_reached,true",
    ];
    assert_eq!(rows.lines().collect::<Vec<_>>(), expect);
}

/// Bills are sent where functions run on Lambda. Files of this machine are in none of them.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_this_machine_cost_nothing_anywhere() {
    let place = Place::new("invoker = \"lambda\"\n[lambda]\nfunctions = [\"gust:live\"]\n");
    place.parquet("t/a.parquet", "SELECT value AS k FROM generate_series(1, 1000)").await;
    let sql = "SELECT sum(k) FROM 't/'";
    let query = |flags: &[&str]| {
        let arguments = [&["query", "--on", "local", "--max-cost", "0.000000001"], flags, &[sql]].concat();
        place.gust(&arguments).output().expect("it starts")
    };
    let output = query(&["--report", "json"]);
    check(&output, 0, &[]);
    let report: Value = serde_json::from_slice(&output.stderr).expect("a report");
    assert!(report["coordinator"]["requests"]["get"].as_u64() > Some(0), "it has read: {report}");
    let cost = &report["cost"];
    assert_eq!((&cost["as_if"], &cost["known"], &cost["at_most"]), (&false.into(), &0.into(), &0.into()), "{cost}");
    check(&query(&["--dry-run"]), 0, &["picked local: $0 and ", "it keeps its cap of $0.000000001"]);
    let mut rows = place.gust(&[
        "query", "--format", "csv", "--report", "none", "--on", "local",
        "SELECT outcome, dollars, dollars_at_most FROM gust.queries WHERE statement LIKE 'SELECT sum%' ORDER BY started",
    ]);
    let rows = String::from_utf8(rows.output().expect("it starts").stdout).expect("text");
    assert_eq!(rows.lines().nth(1), Some("done,0.000000000,0.000000000"), "{rows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_up_file_that_fails_has_a_report_and_a_record() {
    let place = Place::new("");
    std::fs::write(place.path("bad.sql"), "SET datafusion.execution.batch_size = 100; SELECT nothing FROM nowhere")
        .expect("written");
    std::fs::write(place.path("unread.sql"), "SELEC 1").expect("written");
    for (file, words, code) in
        [("bad.sql", "there is no table `nowhere`", "42P01"), ("unread.sql", "sql parser error", "42601")]
    {
        let arguments =
            ["query", "--on", "local", "--report", "json", "--report-file", "r.json", "--setup", file, "SELECT 1"];
        check(&place.gust(&arguments).output().expect("it starts"), 1, &[words]);
        let written = std::fs::read_to_string(place.path("r.json")).expect("a file");
        let report: Value = serde_json::from_str(&written).expect("one report");
        assert!(report["failed"].as_str().is_some_and(|failed| failed.contains(words)), "{report}");
        assert_eq!(report["failed_sqlstate"], code, "{report}");
    }
    // People read the error alone.
    let output = place.gust(&["query", "--on", "local", "--setup", "bad.sql", "SELECT 1"]).output().expect("it starts");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("there is no table `nowhere`") && !told.contains("of a statement of --setup"), "{told}");
    let mut rows = place.gust(&[
        "query",
        "--format",
        "csv",
        "--report",
        "none",
        "SELECT statement, outcome FROM gust.queries WHERE outcome = 'failed' ORDER BY started",
    ]);
    let rows = String::from_utf8(rows.output().expect("it starts").stdout).expect("text");
    assert_eq!(rows.lines().skip(1).collect::<Vec<_>>(), ["SELECT nothing FROM nowhere,failed"; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinators_requests_to_s3_count() {
    let server = served().await;
    let session = local(&server);
    let query = format!("SELECT sum(k) FROM '{}'", server.url("t/"));
    run(&session, &format!("SET gust.max_cost = 0; {query}")).await.map(drop).expect_err("a listing is not free");
    server.take_requests();
    let error = run(&session, &query).await.map(drop).expect_err("a listing is not free");
    let asked = server.take_requests();
    let over = error.source().and_then(|source| source.downcast_ref::<OverCap>());
    let Some(OverCap::BeforeRun { at_least, .. }) = over else { panic!("{error:?}") };
    assert_eq!(*at_least, price(&asked), "what planning asked the server for: {asked:?}");
    run(&session, &format!("SET gust.max_cost = 0.01; {query}")).await.map(drop).expect("a cent is enough");
    session.close().await;
}
