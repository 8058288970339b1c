//! The history on the command line: its records, in SQL and in `gust cost`, and queries whose record cannot be kept.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use crate::bad_input::{ENDLESS, Place, check, wait_until};

/// Makes two Parquet files, so that there are two fragments.
async fn place() -> Place {
    let place = Place::new("[history]\nuser = \"ada\"\n");
    place.parquet("t/a.parquet", "SELECT value AS k FROM generate_series(1, 1000)").await;
    place.parquet("t/b.parquet", "SELECT value AS k FROM generate_series(1001, 2000)").await;
    place
}

/// Runs a statement on function processes, with labels. Returns its report.
#[track_caller]
fn query(place: &Place, sql: &str, flags: &[&str]) -> Value {
    let arguments = [&["query", "--on", "processes", "--report", "json"], flags, &[sql]].concat();
    let output = place.gust(&arguments).output().expect("it starts");
    check(&output, 0, &[]);
    serde_json::from_slice(&output.stderr).expect("a report")
}

/// Runs a query over the history that leaves no record in it. Returns its rows.
#[track_caller]
fn ask(place: &Place, sql: &str) -> Vec<Value> {
    let mut command = place.gust(&["query", "--format", "json", "--report", "none", sql]);
    let output = command.env("GUST_HISTORY__ENABLED", "false").output().expect("it starts");
    check(&output, 0, &[]);
    serde_json::from_slice(&output.stdout).expect("rows")
}

#[track_caller]
fn ask_one(place: &Place, sql: &str) -> Value {
    let mut rows = ask(place, sql);
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.remove(0)
}

/// Returns an amount in nano-dollars. JSON has decimals as numbers.
fn nano(dollars: &Value) -> u64 {
    (dollars.as_f64().expect("dollars") * 1e9).round() as u64
}

const SUM: &str = "SELECT sum(k) AS s FROM 't/'";

#[tokio::test(flavor = "multi_thread")]
async fn a_record_has_the_figures_of_the_report() {
    let place = place().await;
    let report = query(&place, SUM, &["--label", "team=ads", "--label", "job=nightly"]);
    assert_eq!(report["fragments_adopted"], 2, "{report}");
    assert_eq!(report["history_not_recorded"], Value::Null);
    let row = ask_one(
        &place,
        "SELECT *, labels['team'] AS team, labels['none'] AS none, started > now() - INTERVAL '1 hour' AS is_new FROM gust.queries",
    );
    let total = |side: &Value| -> u64 {
        ["get", "head", "list", "put", "delete"]
            .iter()
            .map(|kind| side["requests"][kind].as_u64().expect("a number"))
            .sum()
    };
    let expect = json!({
        "user_name": "ada", "team": "ads", "none": null, "labels": {"job": "nightly", "team": "ads"}, "is_new": true,
        "statement": SUM, "tables": ["t/"], "place": "functions", "reason": "requested", "outcome": "done", "message": null,
        "fragments": 2, "attempts": report["attempts"], "cold_starts": report["cold_starts"], "rows": 1, "as_if": true,
        "function_requests": total(&report["functions"]), "function_bytes_read": report["functions"]["bytes_read"],
        "coordinator_requests": total(&report["coordinator"]), "result_bytes": report["result_bytes"],
        "is_complete": report["cost"]["is_complete"], "region": report["cost"]["region"],
    });
    for (key, value) in expect.as_object().expect("an object") {
        assert_eq!(&row[key], value, "{key}");
    }
    for (column, amount) in [
        ("dollars", &report["cost"]["known"]),
        ("dollars_at_most", &report["cost"]["at_most"]),
        ("dollars_wasted", &report["cost"]["waste"]["total"]),
        ("dollars_athena", &report["cost"]["athena"]["nano_dollars"]),
    ] {
        assert_eq!(Some(nano(&row[column])), amount.as_u64(), "{column}");
    }
    let fragments = ask_one(
        &place,
        "SELECT count(*) AS n, sum(requests) AS requests, sum(f.bytes_read) AS bytes_read, sum(f.rows) AS rows, sum(f.dollars) AS dollars \
         FROM gust.fragments f JOIN gust.queries q ON f.query_id = q.id WHERE adopted AND q.labels['team'] = 'ads'",
    );
    assert_eq!(fragments["n"], 2);
    assert_eq!(fragments["requests"], total(&report["functions"]));
    assert_eq!(fragments["bytes_read"], report["functions"]["bytes_read"]);
    assert_eq!(fragments["rows"], report["rows_from_functions"]);
    // The report rounds the sum of the functions' attempts, the history each attempt: they differ by half a nano-dollar a line.
    let of_functions = ["compute", "start_up", "invocations", "table_reads", "table_lists"];
    let lines = report["cost"]["lines"].as_array().expect("lines");
    let lines = lines.iter().filter(|line| of_functions.iter().any(|item| line["item"] == *item));
    let priced: u64 = lines.filter_map(|line| line["nano_dollars"].as_u64()).sum();
    assert!(nano(&fragments["dollars"]).abs_diff(priced) <= 10, "{fragments} {priced}");
    let lines = ask_one(&place, "SELECT count(*) AS n, sum(dollars) AS dollars FROM gust.cost_lines");
    assert_eq!(Some(nano(&lines["dollars"])), report["cost"]["at_most"].as_u64());
    assert_eq!(lines["n"], report["cost"]["lines"].as_array().expect("lines").len());
}

#[tokio::test(flavor = "multi_thread")]
async fn costs_are_summed_by_label_table_user_and_outcome() {
    let place = place().await;
    let cost = |arguments: &[&str]| {
        let output = place.gust(&[&["cost"], arguments].concat()).output().expect("it starts");
        check(&output, 0, &[]);
        (String::from_utf8(output.stdout).expect("text"), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (rows, words) = cost(&["--format", "csv"]);
    assert_eq!(rows.lines().count(), 1, "a header for no rows: {rows}");
    assert!(words.contains("no query is recorded") && words.contains("state/gust/history.db"), "{words}");

    let reports = [
        query(&place, SUM, &["--label", "team=ads", "--label", "job=nightly"]),
        query(&place, SUM, &["--label", "team=ads"]),
        query(&place, "SELECT count(*) AS n FROM read_parquet('t/a.parquet')", &["--label", "team=search"]),
        query(&place, "SELECT 1 AS one", &[]),
    ];
    let dollars = |numbers: &[usize]| {
        let nano: u64 = numbers.iter().map(|n| reports[*n]["cost"]["known"].as_u64().expect("an amount")).sum();
        format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
    };
    // The key of each row, whether it is as if, the number of queries, and the dollars.
    let shown = |rows: &str| -> Vec<[String; 4]> {
        let header: Vec<&str> = rows.lines().next().expect("a header").split(',').collect();
        let at = |name: &str| header.iter().position(|column| *column == name).expect("a column");
        let wanted = [0, at("as_if"), at("queries"), at("dollars")];
        let cells = rows.lines().skip(1).map(|row| row.split(',').map(str::to_owned).collect::<Vec<_>>());
        let mut rows: Vec<_> = cells.map(|cells| wanted.map(|index| cells[index].clone())).collect();
        rows.sort();
        rows
    };
    let row =
        |key: &str, numbers: &[usize]| [key.to_owned(), "true".to_owned(), numbers.len().to_string(), dollars(numbers)];

    let (rows, words) = cost(&["--by", "label", "--format", "csv"]);
    assert!(rows.starts_with("label,as_if,queries,not_done,not_priced,seconds,gb_seconds,dollars,"), "{rows}");
    let expect = [row("", &[3]), row("job=nightly", &[0]), row("team=ads", &[0, 1]), row("team=search", &[2])];
    assert_eq!(shown(&rows), expect, "{rows}");
    assert!(words.contains("a query with several labels counts for each of them"), "{words}");
    let (rows, _) = cost(&["--label-key", "team", "--format", "csv"]);
    assert!(rows.starts_with("team,"), "{rows}");
    assert_eq!(shown(&rows), [row("", &[3]), row("ads", &[0, 1]), row("search", &[2])], "{rows}");
    let (rows, _) = cost(&["--by", "table", "--since", "1h", "--format", "csv"]);
    assert_eq!(shown(&rows), [row("", &[3]), row("t/", &[0, 1]), row("t/a.parquet", &[2])], "{rows}");
    let (rows, _) = cost(&["--by", "user", "--format", "csv"]);
    assert_eq!(shown(&rows), [row("ada", &[0, 1, 2, 3])], "{rows}");
    let (rows, _) = cost(&["--by", "outcome", "--format", "csv"]);
    assert_eq!(shown(&rows), [row("done", &[0, 1, 2, 3])], "{rows}");
    let (rows, _) = cost(&["--format", "csv"]);
    let queries: u64 = shown(&rows).iter().map(|row| row[2].parse::<u64>().expect("a number")).sum();
    assert!(rows.starts_with("day,") && queries == 4, "all days, at midnight two: {rows}");
    let (rows, words) = cost(&["--since", "2999-01-01", "--format", "csv"]);
    assert!(rows.lines().count() == 1 && words.contains("no query is recorded"), "{rows}{words}");
    let (table, _) = cost(&["--by", "user"]);
    assert!(table.contains("| ada  | true"), "{table}");
}

#[test]
fn the_history_is_there_in_every_catalog() {
    let place = Place::new("");
    let demo = ["demo", "--sf", "0.001", "--home", "lake", "--queries", "6", "--on", "local", "--label", "job=demo"];
    check(&place.gust(&demo).output().expect("it starts"), 0, &["made orders"]);
    let row = ask_one(&place, "SELECT tables, labels['job'] AS job, place, rows FROM gust.queries");
    assert_eq!(row, json!({"tables": ["demo.tpch_sf0_001.lineitem"], "job": "demo", "place": "local", "rows": 1}));
    let counted =
        "SELECT count(*) AS n, (SELECT count(*) FROM nation) AS nations FROM gust.queries WHERE labels['job'] = 'demo'";
    let query = ["query", "--config", "lake/gust.toml", "--catalog", "demo", "--format", "csv", counted];
    let output = place.gust(&query).output().expect("it starts");
    check(&output, 0, &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "n,nations\n1,25\n");
    let tables = ask(&place, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'gust' ORDER BY 1");
    assert_eq!(
        tables,
        ["cost_lines", "fragments", "functions", "queries", "running", "settings"]
            .map(|name| json!({"table_name": name}))
    );
    let output = place.gust(&["query", "SELECT * FROM gust.querys"]).output().expect("it starts");
    check(&output, 1, &["there is no table `gust.querys`", "did you mean `queries`?"]);
}

/// A view stands for the tables that it reads, and rows in memory for none.
#[tokio::test(flavor = "multi_thread")]
async fn the_tables_of_a_statement_are_those_that_are_read() {
    let place = place().await;
    let sql = "CREATE EXTERNAL TABLE e STORED AS PARQUET LOCATION 't/'; CREATE VIEW v AS SELECT k FROM e UNION ALL SELECT k FROM 't/'; \
               CREATE VIEW w AS SELECT k FROM v; CREATE TABLE m AS SELECT k FROM w; \
               SELECT count(*) FROM w JOIN m USING (k); SELECT count(*) FROM m, generate_series(1, 2)";
    check(&place.gust(&["query", sql]).output().expect("it starts"), 0, &[]);
    let rows = ask(&place, "SELECT statement, tables FROM gust.queries ORDER BY started");
    let of = |begin: &str| {
        let row = rows.iter().find(|row| row["statement"].as_str().is_some_and(|text| text.starts_with(begin)));
        row.map(|row| row["tables"].clone()).unwrap_or_else(|| panic!("{begin}: {rows:?}"))
    };
    assert_eq!(of("CREATE EXTERNAL TABLE e"), json!(["e"]));
    assert_eq!(of("CREATE TABLE m"), json!(["e", "t/"]));
    assert_eq!(of("SELECT count(*) FROM w"), json!(["e", "t/"]));
    assert_eq!(of("SELECT count(*) FROM m"), json!([]));
    let output = place.gust(&["cost", "--by", "table"]).output().expect("it starts");
    check(&output, 0, &[]);
    let told = String::from_utf8(output.stdout).expect("text");
    assert!(told.contains("t/") && !told.contains(" w ") && !told.contains(" m "), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_recorded_and_a_hash_hides_the_text() {
    let place = place().await;
    let fails = |arguments: &[&str], code: i32| {
        let output = place.gust(arguments).output().expect("it starts");
        check(&output, code, &[]);
    };
    fails(&["query", "SELECT k FROM missing"], 1);
    fails(&["query", "SELECT 1 / (k - k) FROM 't/'"], 1);
    fails(&["query", "--timeout", "300ms", ENDLESS], 124);
    fails(&["query", "COPY (SELECT 1) TO 's3://x/y' OPTIONS ('aws.secret_access_key' 'hunter2')"], 1);
    let rows = ask(&place, "SELECT statement, outcome, message, tables FROM gust.queries ORDER BY started");
    let of = |index: usize, column: &str| rows[index][column].as_str().unwrap_or_default();
    assert_eq!(rows.len(), 4, "{rows:?}");
    assert_eq!((of(0, "outcome"), of(0, "statement")), ("failed", "SELECT k FROM missing"));
    assert_eq!((of(0, "message"), &rows[0]["tables"]), ("there is no table `missing`", &json!([])));
    assert!(of(1, "outcome") == "failed" && of(1, "message").contains("ivide by zero"), "{rows:?}");
    assert_eq!((of(2, "outcome"), of(2, "message")), ("timed_out", "the statement did not finish within 300ms"));
    let text = of(3, "statement");
    assert!(text.starts_with("COPY (SELECT 1) TO") && !text.contains("hunter2"), "options may be secrets: {text}");

    // A statement that fails while it is planned has read listings and footers.
    fails(&["query", "SELECT nope FROM 't/'"], 1);
    let row = ask_one(
        &place,
        "SELECT outcome, coordinator_requests > 0 AS is_counted FROM gust.queries WHERE statement LIKE '%nope%'",
    );
    assert_eq!(row, json!({"outcome": "failed", "is_counted": true}));

    let secret = "SELECT 'hunter3' AS s, CAST('hunter3' AS INT) FROM 't/'";
    let mut command = place.gust(&["query", secret]);
    check(&command.env("GUST_HISTORY__STATEMENT", "hash").output().expect("it starts"), 1, &["hunter3"]);
    let rows = ask(&place, "SELECT statement, message, statement_hash FROM gust.queries WHERE statement IS NULL");
    assert_eq!((rows.len(), &rows[0]["message"]), (1, &Value::Null), "{rows:?}");
    assert_eq!(rows[0]["statement_hash"].as_str().map(str::len), Some(64));
    let file = std::fs::read(place.path("state/gust/history.db")).expect("readable");
    assert!(!file.windows(6).any(|window| window == b"hunter"), "the file tells the text");
}

/// Waits until a program computes. The session makes its temporary folder a moment before the program listens to signals.
fn runs_for_a_while(place: &Place) {
    wait_until("it runs", || std::fs::read_dir(place.path("tmp")).is_ok_and(|entries| entries.count() > 0));
    crate::serve::pause(Duration::from_millis(1_500));
}

#[test]
fn an_interrupted_query_is_recorded() {
    let place = Place::new("");
    let mut command = place.gust(&["query", ENDLESS]);
    let running = command.stderr(Stdio::piped()).spawn().expect("it starts");
    runs_for_a_while(&place);
    let interrupted = Command::new("kill").args(["-INT", &running.id().to_string()]).status().expect("kill");
    assert!(interrupted.success());
    check(&running.wait_with_output().expect("it ends"), 130, &["interrupted"]);
    let row = ask_one(&place, "SELECT outcome, message, coordinator_requests, is_complete FROM gust.queries");
    let expect =
        json!({"outcome": "cancelled", "message": "interrupted", "coordinator_requests": 0, "is_complete": false});
    assert_eq!(row, expect);
}

/// A statement of a set-up file has a report and a row, too.
#[test]
fn an_interrupted_set_up_is_recorded() {
    let place = Place::new("");
    std::fs::write(place.path("setup.sql"), format!("SELECT 1; {ENDLESS}")).expect("written");
    let mut command = place.gust(&["query", "--report", "json", "--setup", "setup.sql", "SELECT 2"]);
    let running = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    runs_for_a_while(&place);
    let terminated = Command::new("kill").args(["-TERM", &running.id().to_string()]).status().expect("kill");
    assert!(terminated.success());
    let output = running.wait_with_output().expect("it ends");
    check(&output, 143, &["terminated"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let reports: Vec<Value> = stderr
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(reports.len(), 1, "{stderr}");
    assert_eq!((&reports[0]["failed_kind"], &reports[0]["failed"]), (&json!("interrupted"), &json!("interrupted")));
    assert!(reports[0]["id"].is_string(), "{stderr}");
    let row = ask_one(&place, "SELECT outcome, message FROM gust.queries");
    assert_eq!(row, json!({"outcome": "cancelled", "message": "interrupted"}));
}

#[test]
fn the_user_is_the_account_where_no_variable_names_one() {
    let place = Place::new("");
    let names = ["USER", "LOGNAME", "GUST_HISTORY__USER"];
    let run = |mut command: Command, named: Option<&str>| {
        for name in names {
            command.env_remove(name);
        }
        command.envs(named.map(|name| ("USER", name)));
        check(&command.output().expect("it starts"), 0, &[]);
    };
    run(place.gust(&["query", "SELECT 'account'"]), None);
    run(place.gust(&["query", "SELECT 'variable'"]), Some("grace"));
    let account = Command::new("id").arg("-un").output().expect("id");
    let account = String::from_utf8(account.stdout).expect("a name");
    let rows = ask(&place, "SELECT user_name FROM gust.queries ORDER BY started");
    assert_eq!(rows, [json!({"user_name": account.trim()}), json!({"user_name": "grace"})]);
}

#[test]
fn a_disabled_history_keeps_nothing() {
    let place = Place::new("[history]\nenabled = false\n");
    let output = place.gust(&["query", "SELECT 1"]).output().expect("it starts");
    check(&output, 0, &[]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("history"), "{output:?}");
    assert!(!place.path("state").exists());
    // Nothing is kept where there is no place, either, but then the report says so.
    let place = Place::new("");
    let nowhere = |arguments: &[&str]| {
        let mut command = place.gust(arguments);
        command.env_remove("XDG_STATE_HOME").env_remove("HOME").output().expect("it starts")
    };
    let unset = "neither XDG_STATE_HOME nor HOME is set";
    check(&nowhere(&["query", "SELECT 1"]), 0, &["history    not recorded: the history has no folder", unset]);
    check(&nowhere(&["cost"]), 2, &["the history has no folder", unset, "hint: set history.path"]);
}

/// Checks a query whose history's file is broken: it has rows and succeeds, and the report has a word about the file.
#[track_caller]
fn answers_without(place: &Place, settings: &[(&str, &str)], expect: &[&str]) {
    let sql = long_statement();
    let run = |report: &str| {
        let mut command = place.gust(&["query", "--format", "csv", "--report", report, &sql]);
        command.envs(settings.iter().copied()).output().expect("it starts")
    };
    let output = run("text");
    check(&output, 0, &["history    not recorded: "]);
    check(&output, 0, expect);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "one\n1\n");
    let output = run("json");
    let report: Value = serde_json::from_slice(&output.stderr).expect("a report and nothing else");
    let why = report["history_not_recorded"].as_str().expect("a reason");
    assert!(expect.iter().all(|part| why.contains(part)), "{why}");
    let output = run("none");
    check(&output, 0, &["warning: not recorded in the history: "]);
    check(&output, 0, expect);
}

/// Returns a statement that is too long for the free bytes of any page of the file.
fn long_statement() -> String {
    format!("SELECT 1 AS one WHERE '{}' <> ''", "x".repeat(60_000))
}

/// Locks the file as another program does in the middle of writing.
async fn lock(path: &Path) -> SqliteConnection {
    let mut held = SqliteConnectOptions::new().filename(path).connect().await.expect("a file of SQLite's");
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut held).await.expect("locked");
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_history_fails_no_query() {
    let place = Place::new("");
    check(&place.gust(&["query", "SELECT 1"]).output().expect("it starts"), 0, &[]);
    let file = place.path("state/gust/history.db");
    let whole = std::fs::read(&file).expect("recorded");

    let held = lock(&file).await;
    answers_without(&place, &[], &["history.db", "is locked by another program"]);
    check(&place.gust(&["cost"]).output().expect("it starts"), 1, &["is locked by another program", "hint: "]);
    held.close().await.expect("closed");

    std::fs::write(&file, "no history at all\n".repeat(1_000)).expect("written");
    answers_without(&place, &[], &["history.db", "is damaged, or no history", "hint: move it away"]);
    check(&place.gust(&["cost"]).output().expect("it starts"), 1, &["is damaged, or no history", "hint: move it away"]);

    std::fs::write(&file, &whole).expect("written");
    let full = [("GUST_HISTORY__BYTES_MAX", "40KiB")];
    answers_without(
        &place,
        &full,
        &["history.db", "is full: it has reached history.bytes_max = 40 KiB", "hint: raise"],
    );
    check(&place.gust(&["cost"]).output().expect("it starts"), 0, &[]);

    std::fs::write(place.path("file"), "").expect("written");
    let unusable = [("GUST_HISTORY__PATH", "file/history.db")];
    answers_without(&place, &unusable, &["`file/history.db` cannot be opened", "hint: set history.path"]);
    assert_eq!(ask_one(&place, "SELECT count(*) AS n FROM gust.queries"), json!({"n": 1}));
}
