//! Submitted statements: waits and polls, progress and dollars, pages, keys, cancelling, and what is nobody else's.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{FORMATS, Served, numbers, pause};
use crate::bad_input::{ENDLESS, Place, check, wait_until};

const JSON: [&str; 2] = ["-H", "Content-Type: application/json"];

/// Submits a request. Returns the status and the answer.
fn submit(server: &Served<'_>, request: &Value, more: &[&str]) -> (u16, Value) {
    let body = request.to_string();
    let answer = server.curl("/v1/statements", &[&JSON[..], &["--data-binary", &body], more].concat());
    assert_eq!(answer.code, 0, "{answer:?}");
    if [200, 202].contains(&answer.status) {
        assert_eq!(answer.header("location"), answer.json()["href"].as_str(), "{answer:?}");
    }
    (answer.status, answer.json())
}

fn href(statement: &Value) -> &str {
    statement["href"].as_str().expect("a place")
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_fetched_as_a_whole_or_in_pages() {
    let place = numbers().await;
    let server = Served::start(&place, &["--setup", "setup.sql"]);
    let sql = "SELECT value AS v FROM generate_series(1, 25000)";
    let (status, told) = submit(&server, &json!({ "sql": sql, "wait_seconds": 30 }), &[]);
    assert_eq!((status, &told["state"]), (200, &json!("SUCCEEDED")), "{told}");
    let columns = json!([{ "name": "v", "type": "Int64" }]);
    assert_eq!((&told["result"]["columns"], &told["result"]["rows"]), (&columns, &json!(25_000)));
    assert_eq!((&told["result"]["pages"], &told["cost"]["dollars"]), (&json!(3), &json!("0.000000000")));
    assert_eq!(told["report"]["rows"], 25_000);
    // Page after page, to the one that says that it is the last.
    let (mut next, mut rows) =
        (Some(format!("{}?page=0", told["result"]["href"].as_str().expect("a place"))), Vec::new());
    while let Some(page) = next {
        let page = server.curl(&page, &[]).json();
        rows.extend(page["rows"].as_array().expect("rows").iter().map(|row| row["v"].as_i64().expect("a number")));
        next = page["next"].as_str().map(str::to_owned);
        assert_eq!(page["is_last"], json!(next.is_none()), "{}", page["page"]);
    }
    assert_eq!(rows, (1..=25_000).collect::<Vec<_>>());
    let result = format!("{}/result", href(&told));
    assert_eq!(server.curl(&format!("{result}?page=3"), &[]).status, 404);
    let page = server.curl(&format!("{result}?page=1"), &["-H", "Accept: text/csv"]);
    assert_eq!((page.header("gust-next-page"), page.text().lines().nth(1)), (Some("2"), Some("10001")));
    // In each format the rows are those of the command line, also a second time.
    for (accept, format) in FORMATS {
        let query = ["query", "--report", "none", "--format", format, sql];
        let output = place.gust(&query).output().expect("it starts");
        check(&output, 0, &[]);
        let answer = server.curl(&result, &["-H", &format!("Accept: {accept}")]);
        assert_eq!((answer.code, answer.status), (0, 200), "{accept}: {answer:?}");
        let depends_on_batches = ["arrow", "parquet"].contains(&format);
        assert!(depends_on_batches || output.stdout == answer.body, "{accept}: {}", answer.text());
    }
    let (status, silent) = submit(&server, &json!({ "sql": "CREATE VIEW v AS SELECT 1" }), &[]);
    assert_eq!((status, &silent["state"], &silent["result"]), (200, &json!("SUCCEEDED"), &Value::Null), "{silent}");
    assert_eq!(server.curl(&format!("{}/result", href(&silent)), &[]).status, 204);
    let (status, none) = submit(&server, &json!({ "sql": "SELECT k FROM t WHERE k < 0" }), &[]);
    assert_eq!((status, &none["result"]["rows"], &none["result"]["pages"]), (200, &json!(0), &json!(1)));
    assert_eq!(server.curl(&format!("{}/result", href(&none)), &[]).text(), "[]\n");
    // One that has ended is forgotten when the client says that it has seen the end.
    let again = server.curl(href(&told), &["-X", "DELETE"]);
    assert_eq!((again.status, &again.json()["state"]), (200, &json!("SUCCEEDED")), "nothing is lost: {again:?}");
    assert_eq!(server.curl(&format!("{}?forget=true", href(&told)), &["-X", "DELETE"]).status, 204);
    assert_eq!(server.curl(href(&told), &[]).status, 404);
    let (status, failed) = submit(&server, &json!({ "sql": "SELECT * FROM nowhere" }), &[]);
    assert_eq!((status, &failed["state"], &failed["error"]["code"]), (200, &json!("FAILED"), &json!("42P01")));
    let rows = server.curl(&format!("{}/result", href(&failed)), &[]);
    assert_eq!((rows.status, &rows.json()["code"]), (400, &json!("42P01")), "{rows:?}");
}

/// Each of four queries is sure of 4.5 of 36 MiB. A cross join holds 15.3 MiB until its last row is read: two do not fit into the other half.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_waits_for_the_memory_of_its_joins() {
    let place = Place::new("on = 'local'\nmemory_bytes_max = '36MiB'\n[server]\nqueries_max = 4\nreach = ['data']\n");
    place.parquet("data/a.parquet", "SELECT value AS k FROM generate_series(1, 2000000)").await;
    std::fs::write(place.path("setup.sql"), "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'data/'")
        .expect("written");
    let server = Served::start(&place, &["--setup", "setup.sql"]);
    let pairs = "SELECT a.k, b.k AS l FROM t a, t b";
    let flags = ["-H", "Content-Type: application/sql", "--data-binary", pairs];
    let mut reading = server.command("/v1/query", &flags).stdout(Stdio::piped()).spawn().expect("curl");
    let mut rows = reading.stdout.take().expect("its rows");
    rows.read_exact(&mut [0; 16]).expect("rows");
    let waiting = [0, 1].map(|position| {
        let (status, told) = submit(&server, &json!({ "sql": pairs, "wait_seconds": 0 }), &[]);
        assert_eq!(status, 202, "{told}");
        wait_until("it waits for memory", || {
            let told = server.curl(href(&told), &[]).json();
            (&told["state"], &told["position"]) == (&json!("QUEUED"), &json!(position))
        });
        told
    });
    let waits = || ["gust_queries_waiting_for_memory", "gust_memory_waited_for_bytes"].map(|name| server.metric(name));
    let foreseen = "SELECT count(*) AS n, sum(memory_bytes_foreseen) AS bytes FROM gust.running \
                    WHERE state = 'waiting_for_memory' AND place IS NULL";
    let told = server.rows(foreseen);
    // Two million rows of eight bytes, beyond the share.
    let beyond = 16_000_000.0 - 4.5 * f64::from(1 << 20);
    assert_eq!((waits(), &told[0]["n"]), ([2.0, 2.0 * beyond], &json!(2)), "{told}");
    assert_eq!(told[0]["bytes"].as_f64(), Some(2.0 * beyond), "{told}");
    // Those who need no memory go past them.
    server.is_well();
    let gone = server.curl(href(&waiting[1]), &["-X", "DELETE"]).json();
    assert_eq!(gone["state"], "CANCELLED", "{gone}");
    let told = server.curl(href(&waiting[0]), &[]).json();
    assert_eq!(told["state"], "QUEUED", "{told}");
    reading.kill().expect("killed");
    reading.wait().expect("its end");
    wait_until("its turn has come", || server.curl(href(&waiting[0]), &[]).json()["progress"].is_object());
    server.curl(href(&waiting[0]), &["-X", "DELETE"]);
    wait_until("nothing runs", || server.metric("gust_queries_running") == 0.0);
    assert_eq!(waits(), [0.0, 0.0]);
}

/// Functions of another release refuse their fragments. The server does the join itself then, for which a cross join leaves no memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_falls_back_waits_for_memory_once_more() {
    let place = Place::new(
        "allow_fallback = true\nexchange = 'exchange'\njoin = 'local'\nshuffle = 'hash'\nmemory_bytes_max = '36MiB'\n\
         [server]\nqueries_max = 4\nreach = ['data']\n",
    );
    std::fs::create_dir(place.path("exchange")).expect("made");
    place.parquet("data/a.parquet", "SELECT value AS k FROM generate_series(1, 2000000)").await;
    std::fs::write(place.path("setup.sql"), "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'data/'")
        .expect("written");
    let flags = ["--on", "processes", "--setup", "setup.sql"];
    let mut command = Served::command_of(&place, &flags);
    command.env("TEST_OTHER_RELEASE", "1");
    let server = Served::started(&place, command, &flags);
    let pairs =
        ["-H", "Content-Type: application/sql", "--data-binary", "SELECT a.k, b.k AS l FROM t a CROSS JOIN t b"];
    let mut reading = server.command("/v1/query", &pairs).stdout(Stdio::piped()).spawn().expect("curl");
    let mut rows = reading.stdout.take().expect("its rows");
    rows.read_exact(&mut [0; 16]).expect("rows");
    let joined = "SELECT a.k, b.k AS l FROM t a JOIN t b ON a.k = b.k";
    let (status, told) = submit(&server, &json!({ "sql": joined, "wait_seconds": 0 }), &[]);
    assert_eq!(status, 202, "{told}");
    let seen = || server.curl(href(&told), &[]).json();
    wait_until("it has begun, and waits for memory", || {
        let told = seen();
        told["query_id"].is_string() && (&told["state"], &told["position"]) == (&json!("QUEUED"), &json!(0))
    });
    let running = format!("SELECT state, place FROM gust.running WHERE statement = '{joined}'");
    assert_eq!(server.rows(&running), json!([{ "state": "waiting_for_memory", "place": "local" }]));
    let events = server.curl(&format!("{}/events", href(&told)), &[]).json();
    let names: Vec<&str> =
        events["events"].as_array().expect("events").iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!(events["state"], "QUEUED", "{events}");
    let expect = ["planned", "fell-back", "memory-wanted", "memory-claimed"];
    assert_eq!(expect.map(|name| names.contains(&name)), [true, true, true, false], "{events}");
    reading.kill().expect("killed");
    reading.wait().expect("its end");
    wait_until("its turn has come", || seen()["state"] != "QUEUED");
    server.curl(href(&told), &["-X", "DELETE"]);
    wait_until("nothing runs", || server.metric("gust_queries_running") == 0.0);
}

#[test]
fn a_statement_is_followed_and_cancelled() {
    let place = Place::new("on = 'local'\n[server]\nqueries_max = 1\n");
    let server = Served::start(&place, &[]);
    server.is_well();
    let started = Instant::now();
    let (status, running) = submit(&server, &json!({ "sql": ENDLESS, "wait_seconds": 1 }), &[]);
    assert!(status == 202 && running["state"] == "RUNNING", "{status} {running}");
    assert!(started.elapsed() >= Duration::from_secs(1), "it waited {:?}", started.elapsed());
    let early = server.curl(&format!("{}/result", href(&running)), &[]);
    assert_eq!((early.status, &early.json()["kind"]), (409, &json!("not-ended")), "{early:?}");
    let told = server.curl(href(&running), &[]).json();
    assert_eq!(told["progress"]["decision"]["place"], "local", "{told}");
    assert!(told["cost"]["dollars"].is_string() && told["query_id"].is_string(), "{told}");
    assert_eq!((&told["cost"]["is_complete"], told["cost"].get("dollars_at_most")), (&json!(false), None), "{told}");
    // Another one waits for it.
    let (status, queued) = submit(&server, &json!({ "sql": "SELECT 1", "wait_seconds": 0 }), &[]);
    assert_eq!((status, &queued["state"], &queued["position"]), (202, &json!("QUEUED"), &json!(0)), "{queued}");
    let expected = queued["expected_wait_seconds"].as_f64();
    assert!(expected.is_some_and(|seconds| seconds > 0.0 && seconds < 30.0), "as long as the first one took: {queued}");
    let events = server.curl(&format!("{}/events", href(&running)), &[]).json();
    assert_eq!((&events["events"][0]["event"], &events["state"]), (&json!("planned"), &json!("RUNNING")), "{events}");
    let seen = events["next"].as_u64().expect("a number");
    let after = server.curl(&format!("{}/events?since={seen}", href(&running)), &[]).json();
    assert_eq!(after["events"], json!([]), "{after}");
    // Somebody follows it to its end.
    let followed = format!("{}/events", href(&running));
    let cancelled = std::thread::scope(|scope| {
        let accept = "Accept: application/json;q=0.5, Text/Event-Stream";
        let following = scope.spawn(|| server.curl(&followed, &["-H", accept]));
        pause(Duration::from_millis(500));
        let cancelled = server.curl(href(&running), &["-X", "DELETE"]);
        let events = following.join().expect("no panic");
        assert_eq!((events.code, events.header("content-type")), (0, Some("text/event-stream")), "{events:?}");
        let text = events.text();
        assert!(text.contains("id: 0\n") && text.contains(r#""event":"planned""#), "{text}");
        assert!(text.contains("event: end\n") && text.contains("CANCELLED"), "{text}");
        cancelled
    });
    assert_eq!((cancelled.status, &cancelled.json()["state"]), (200, &json!("CANCELLED")), "{cancelled:?}");
    // A follower who has seen all of it is told to stay away.
    let last = format!("Last-Event-ID: {}", 1_000);
    assert_eq!(server.curl(&followed, &["-H", "Accept: text/event-stream", "-H", &last]).status, 204);
    let first = server.curl(&followed, &["-H", "Last-Event-ID: 0"]).json();
    assert_eq!(first["events"][0]["number"], 1, "{first}");
    let done = server.curl(&format!("{}?wait_seconds=20", href(&queued)), &[]).json();
    assert_eq!(done["state"], "SUCCEEDED", "its turn has come: {done}");
    wait_until("the history has it", || server.outcomes(ENDLESS) == ["cancelled"]);
    let (status, gone) = submit(&server, &json!({ "sql": ENDLESS, "wait_seconds": 1, "on_wait": "cancel" }), &[]);
    assert_eq!((status, &gone["state"]), (200, &json!("CANCELLED")), "{gone}");
    let listed = server.curl("/v1/statements", &[]).json();
    let states: Vec<&Value> = listed["statements"].as_array().expect("all").iter().map(|told| &told["state"]).collect();
    assert_eq!(states, ["CANCELLED", "SUCCEEDED", "CANCELLED"], "the newest is first");
    server.is_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_has_the_fragments_of_functions() {
    let place = Place::new("[server]\nreach = ['data']\n");
    for file in ["a", "b", "c"] {
        place.parquet(&format!("data/{file}.parquet"), "SELECT value AS k FROM generate_series(1, 1000)").await;
    }
    let server = Served::start(&place, &["--on", "processes"]);
    let (_, told) = submit(&server, &json!({ "sql": "SELECT sum(k) AS s FROM 'data/'", "wait_seconds": 40 }), &[]);
    assert_eq!(told["state"], "SUCCEEDED", "{told}");
    let adopted = told["report"]["fragments_adopted"].as_u64().expect("a number");
    assert!(adopted > 1, "{told}");
    let events = server.curl(&format!("{}/events", href(&told)), &[]).json();
    let count =
        |name: &str| events["events"].as_array().expect("events").iter().filter(|event| event["event"] == name).count();
    assert_eq!(
        (count("fragment-adopted") as u64, count("stage-started"), count("finished")),
        (adopted, 1, 1),
        "{events}"
    );
    let trace = server.curl(&format!("{}/trace", href(&told)), &[]).json();
    let drawn = |begins: &str| {
        let slices = trace["traceEvents"].as_array().expect("events").iter().filter(|event| event["ph"] == "X");
        slices.filter(|event| event["name"].as_str().is_some_and(|name| name.starts_with(begins))).count()
    };
    assert_eq!((drawn("statement"), drawn("fragment ")), (1, count("attempt-ended")), "{trace}");
    assert!(drawn("planning") > 0 && drawn("execute") as u64 >= adopted, "{trace}");
    assert_eq!(server.curl(&format!("{}/result", href(&told)), &[]).json(), json!([{ "s": 1_501_500 }]));
    // What failed has cost something, too.
    let failing = "SELECT 1 / (k - 1) AS q FROM 'data/'";
    let (_, failed) = submit(&server, &json!({ "sql": failing, "wait_seconds": 40 }), &[]);
    let dollars = |text: &Value| text.as_str().and_then(|text| text.parse::<f64>().ok());
    assert!(failed["state"] == "FAILED" && dollars(&failed["cost"]["dollars"]) > Some(0.0), "{failed}");
    assert_eq!(failed["report"]["failed_kind"], "data", "{failed}");
    let problem = server.query("*/*", failing);
    let told = problem.header("gust-cost-dollars").map(Value::from);
    assert!(problem.status == 422 && told.is_some_and(|text| dollars(&text) > Some(0.0)), "{problem:?}");
}

#[test]
fn a_drain_waits_for_statements_whose_clients_have_gone() {
    let place = Place::new("on = 'local'\n[server]\ndrain_seconds = 50\n");
    let slow = "SELECT count(*) AS n FROM generate_series(1, 100000) a, generate_series(1, 3000) b WHERE a.value * b.value = -1";
    let mut server = Served::start(&place, &[]);
    let (status, told) = submit(&server, &json!({ "sql": slow, "wait_seconds": 0 }), &[]);
    assert_eq!((status, told["state"] == "SUCCEEDED"), (202, false), "it is under way: {told}");
    server.signal("TERM");
    assert_eq!(server.ended(), Some(0));
    let sql = "SELECT outcome FROM gust.queries WHERE statement LIKE '%a.value * b.value%'";
    let output = place.gust(&["query", "--report", "none", "--format", "csv", sql]).output().expect("it starts");
    check(&output, 0, &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "outcome\ndone\n");
}

#[test]
fn a_key_submits_once_and_bad_requests_are_refused() {
    let place = Place::new("on = 'local'\n");
    let server = Served::start(&place, &[]);
    let request = json!({ "sql": "SELECT 1 AS one" });
    let key = ["-H", "Idempotency-Key: once"];
    let (_, first) = submit(&server, &request, &key);
    let (_, again) = submit(&server, &request, &key);
    let (_, impatient) = submit(&server, &json!({ "sql": "SELECT 1 AS one", "wait_seconds": 0 }), &key);
    assert_eq!((&first["id"], &first["id"]), (&again["id"], &impatient["id"]));
    let (status, other) = submit(&server, &json!({ "sql": "SELECT 2" }), &key);
    assert_eq!((status, &other["kind"]), (422, &json!("idempotency")), "{other}");
    let (_, without) = submit(&server, &request, &[]);
    assert_ne!(first["id"], without["id"]);
    assert_eq!(
        server.rows("SELECT count(*) AS n FROM gust.queries WHERE statement LIKE '%AS one'"),
        json!([{ "n": 2 }])
    );
    let long = format!("Idempotency-Key: {}", "x".repeat(300));
    for (request, more, words) in [
        (json!({ "sql": "SELECT 1", "wait_seconds": 51 }), vec![], "0 to 50"),
        (json!({ "sql": "SELECT 1", "wait_seconds": -1 }), vec![], "expected u64"),
        (json!({ "sql": "SELECT 1", "on_wait": "stop" }), vec![], "expected `continue` or `cancel`"),
        (request.clone(), vec!["-H", long.as_str()], "1 to 255 characters"),
    ] {
        let (status, problem) = submit(&server, &request, &more);
        assert!(status == 400 && problem.to_string().contains(words), "{request}: {problem}");
    }
    let started = Instant::now();
    let sql = ["-H", "Content-Type: application/sql", "--data-binary", ENDLESS];
    let impatient = server.curl("/v1/statements?wait_seconds=0", &sql);
    assert!(impatient.status == 202 && started.elapsed() < Duration::from_secs(5), "{impatient:?}");
    assert_eq!(server.curl(href(&impatient.json()), &["-X", "DELETE"]).status, 200);
    let one_shot = [&JSON[..], &["--data-binary", r#"{"sql": "SELECT 1", "wait_seconds": 1}"#]].concat();
    assert_eq!(server.curl("/v1/query", &one_shot).status, 400);
    for path in [
        "/v1/statements/nothing",
        "/v1/statements/%2e%2e/health",
        "/v1/statements/nothing/result",
        "/v1/statements/nothing/events",
    ] {
        assert_eq!(server.curl(path, &[]).status, 404, "{path}");
    }
    assert_eq!(server.curl(&format!("{}?wait_seconds=x", href(&first)), &[]).status, 400);
    assert_eq!(server.curl(&format!("{}/result?page=-1", href(&first)), &[]).status, 400);
    server.is_well();
}

#[test]
fn what_is_kept_is_bounded() {
    let settings = "on = 'local'\n[server]\nstatements_max = 2\nresults_bytes_max = '1MiB'\nqueries_max = 1\n";
    let place = Place::new(settings);
    let server = Served::start(&place, &[]);
    let (_, large) = submit(&server, &json!({ "sql": "SELECT value AS v FROM generate_series(1, 1000000)" }), &[]);
    assert_eq!((&large["state"], &large["error"]["code"]), (&json!("FAILED"), &json!("53400")), "{large}");
    let one = json!({ "sql": "SELECT 1" });
    let (_, first) = submit(&server, &one, &[]);
    let (_, second) = submit(&server, &one, &[]);
    assert_eq!(server.curl(href(&large), &[]).status, 404, "the oldest went");
    assert_eq!((server.curl(href(&first), &[]).status, server.curl(href(&second), &[]).status), (200, 200));
    let (_, one_runs) = submit(&server, &json!({ "sql": ENDLESS, "wait_seconds": 0 }), &[]);
    let (_, two_waits) = submit(&server, &json!({ "sql": ENDLESS, "wait_seconds": 0 }), &[]);
    let (status, full) = submit(&server, &one, &[]);
    assert_eq!((status, &full["kind"]), (429, &json!("busy")), "nothing that is under way goes: {full}");
    for told in [&two_waits, &one_runs] {
        assert_eq!(server.curl(href(told), &["-X", "DELETE"]).json()["state"], "CANCELLED");
    }
    server.is_well();
}
