//! Requests that are refused. Each has a typed error without a secret, and the next query works.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{Answer, Served};
use crate::bad_input::{Place, wait_until};

const SQL: [&str; 2] = ["-H", "Content-Type: application/sql"];
const JSON: [&str; 2] = ["-H", "Content-Type: application/json"];

#[track_caller]
fn is_problem(answer: &Answer, status: u16, kind: &str, words: &str) {
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (status, Some("application/problem+json")),
        "{answer:?}"
    );
    let problem = answer.json();
    assert_eq!((&problem["kind"], &problem["status"]), (&kind.into(), &status.into()), "{problem}");
    assert!(problem.to_string().contains(words), "`{words}` is not in {problem}");
    assert!(problem["title"].is_string() && problem["type"].is_string() && problem["detail"].is_string(), "{problem}");
}

#[test]
fn requests_that_are_not_as_the_api_has_them() {
    let place = Place::new("on = 'local'\n");
    let server = Served::start(&place, &[]);
    let long = place.path("long.sql");
    std::fs::write(&long, format!("SELECT '{}'", "x".repeat(1 << 20))).expect("written");
    let long = format!("@{}", long.display());
    let wrong = place.path("wrong.sql");
    std::fs::write(&wrong, b"SELECT '\xff\xfe'").expect("written");
    let wrong = format!("@{}", wrong.display());
    let body = |content: [&'static str; 2], body: &str| {
        vec![content[0].to_owned(), content[1].to_owned(), "--data-binary".to_owned(), body.to_owned()]
    };
    let with = |more: &[&str]| [body(SQL, "SELECT 1"), more.iter().map(|flag| (*flag).to_owned()).collect()].concat();
    let many = format!("X-Long: {}", "x".repeat(40_000));
    for (path, flags, status, kind, words) in [
        ("/", vec![], 404, "not-found", "nothing at this path"),
        ("/v1/nothing", vec![], 404, "not-found", "nothing at this path"),
        ("/v1/query/%0d%0aX-Injected:%20yes", vec![], 404, "not-found", "nothing at this path"),
        ("/v1/query/../../etc/passwd", vec!["--path-as-is".to_owned()], 404, "not-found", "nothing at this path"),
        ("/v1/query", vec![], 405, "method", "another method"),
        ("/v1/health", body(SQL, "x"), 405, "method", "another method"),
        ("/v1/query", vec!["-d".to_owned(), "sql=SELECT 1".to_owned()], 415, "content-type", "x-www-form-urlencoded"),
        ("/v1/query", vec!["-F".to_owned(), "sql=SELECT 1".to_owned()], 415, "content-type", "multipart/form-data"),
        ("/v1/query", body(["-H", "Content-Type: text/plain"], "SELECT 1"), 415, "content-type", "text/plain"),
        ("/v1/query", body(["-H", "Content-Type:"], "SELECT 1"), 415, "content-type", "application/sql"),
        ("/v1/query", body(SQL, &long), 413, "too-long", "longer than 1048576 bytes"),
        ("/v1/query", body(SQL, &wrong), 400, "request", "not UTF-8"),
        ("/v1/query", body(JSON, "{"), 400, "request", "EOF"),
        ("/v1/query", body(JSON, "[]"), 400, "request", "no request"),
        ("/v1/query", body(JSON, "{}"), 400, "request", "missing field `sql`"),
        ("/v1/query", body(JSON, r#"{"sql": "SELECT 1", "max_csot": 1}"#), 400, "request", "unknown field `max_csot`"),
        ("/v1/query", body(JSON, r#"{"sql": "SELECT 1", "max_cost": "much"}"#), 400, "request", "dollars"),
        ("/v1/query", body(JSON, r#"{"sql": "SELECT 1", "timeout_seconds": -1}"#), 400, "request", "at most a day"),
        ("/v1/query", body(JSON, r#"{"sql": "SELECT 1", "labels": {"a b": "c"}}"#), 400, "request", "a key of 1 to 64"),
        ("/v1/query", body(JSON, r#"{"sql": "SELECT 1", "catalog": "lake"}"#), 400, "sql", "no catalog `lake`"),
        ("/v1/query", with(&["-H", "Accept: text/html"]), 406, "format", "application/vnd.apache.arrow.stream"),
        ("/v1/query", with(&["-H", "Host: evil.example"]), 421, "host", "evil.example"),
        ("/v1/query", with(&["-H", "Origin: http://evil.example"]), 403, "origin", "another origin"),
        ("/v1/query", with(&["-H", "Origin: null"]), 403, "origin", "another origin"),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let answer = server.curl(path, &flags);
        is_problem(&answer, status, kind, words);
        assert!(!answer.headers.to_ascii_lowercase().contains("x-injected"), "{answer:?}");
        server.is_well();
    }
    // These never come to a route. The last one is a token of 1 MB, which is too long for a command line.
    let token = place.path("token");
    std::fs::write(&token, format!("Authorization: Bearer {}", "x".repeat(1_000_000))).expect("written");
    let token = format!("@{}", token.display());
    for flags in [
        with(&["-H", &many, "-H", &many]),
        with(&["--http2-prior-knowledge", "-H", &many, "-H", &many]),
        with(&["-H", &token]),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let answer = server.curl("/v1/query", &flags);
        assert!(answer.status == 431 || answer.code != 0, "{answer:?}");
        server.is_well();
    }
}

#[test]
fn statements_that_are_refused() {
    let place = Place::new("on = 'local'\n");
    std::fs::write(place.path("secret.csv"), "k\nhunter2\n").expect("written");
    let server = Served::start(&place, &[]);
    let copied = place.path("copied.csv");
    let copy = format!("COPY (SELECT 1 AS a) TO '{}'", copied.display());
    let deep = format!("COPY (SELECT {}1) TO '{}'", "1+".repeat(2_000), copied.display());
    for (sql, status, code, words) in [
        ("SELEC 1", 400, "42601", r#""column":1,"line":1"#),
        ("SELECT 1 +\n  'a' FRM t", 400, "42601", r#""line":2"#),
        ("SELECT * FROM nowhere", 400, "42P01", "there is no table `nowhere`"),
        ("SELECT missing FROM (SELECT 1 AS k)", 400, "42703", "missing"),
        ("", 400, "42000", "no statement"),
        ("SELECT 1; SELECT 2", 400, "42000", "one result"),
        ("SELECT 1 / (value - 1) FROM generate_series(1, 3)", 422, "22000", "ivide by zero"),
        ("SELECT * FROM '/etc/passwd'", 403, "42501", "outside of what this server reads"),
        ("SELECT * FROM 'file:///etc/passwd'", 403, "42501", "outside of what this server reads"),
        ("SELECT * FROM 'secret.csv'", 403, "42501", "outside of what this server reads"),
        ("SELECT * FROM './secret.csv'", 403, "42501", "outside of what this server reads"),
        ("SELECT * FROM '%2e%2e/secret.csv'", 403, "42501", "outside of what this server reads"),
        ("SELECT * FROM 's3://another-bucket/t/'", 403, "42501", "outside of what this server reads"),
        (
            "CREATE EXTERNAL TABLE p STORED AS CSV LOCATION '/etc/passwd'",
            403,
            "42501",
            "outside of what this server reads",
        ),
        ("SET datafusion.runtime.memory_limit = '1G'", 400, "42000", "whole process"),
        ("SET datafusion.execution.target_partitions = 1", 400, "42000", "may not change"),
        ("SET datafusion.execution.batch_size = 1", 400, "42000", "from 128 to 65536"),
        (copy.as_str(), 403, "42501", "writes files of the server"),
        (deep.as_str(), 400, "42000", "more than 500 levels deep"),
        ("SELECT '\0'; SELEC 2", 400, "42601", "SELEC"),
    ] {
        let file = place.path("statement.sql");
        std::fs::write(&file, sql).expect("written");
        let answer =
            server.curl("/v1/query", &[&SQL[..], &["--data-binary", &format!("@{}", file.display())]].concat());
        let kind = if status == 422 { "data" } else { "sql" };
        is_problem(&answer, status, kind, words);
        assert_eq!(answer.json()["code"], code, "{sql}: {answer:?}");
        assert!(!answer.text().contains("hunter2"), "{sql}: {answer:?}");
    }
    assert!(!copied.exists(), "a server writes no file");
    server.is_well();
}

/// Most processor time in which a statement is refused, and in which one is answered, in hundredths of a second.
const REFUSED_TICKS_MAX: u64 = 500;
const ANSWERED_TICKS_MAX: u64 = 3_000;
/// Time in which a refusal has to come. Processor time bounds what the server computes meanwhile, and this what it waits for.
const REFUSED_WITHIN: Duration = Duration::from_secs(30);
/// Time in which a neighbour has to be answered, on a processor that others use, too.
const NEIGHBOUR_WITHIN: Duration = Duration::from_secs(15);

/// Each is short and would overflow a thread's stack, be planned for minutes, or take all memory. It ends in time, with rows or a typed error, beside a
/// neighbour.
#[test]
fn hostile_statements_end_in_time_and_do_not_hurt_neighbours() {
    let place = Place::new("on = 'local'\n");
    let server = Served::start(&place, &[]);
    let joined = |depth: usize| {
        let first = "WITH c0 AS (SELECT 1 AS k)".to_owned();
        let rest =
            (1..=depth).map(|n| format!(", c{n} AS (SELECT a.k FROM c{m} a JOIN c{m} b ON a.k = b.k)", m = n - 1));
        first + &rest.collect::<String>() + &format!(" SELECT * FROM c{depth}")
    };
    let chained = |links: usize| {
        let rest = (1..=links).map(|n| format!(", c{n} AS (SELECT * FROM c{})", n - 1)).collect::<String>();
        format!("WITH c0 AS (SELECT 1 AS k){rest} SELECT * FROM c{links}")
    };
    let repeated = |first: &str, more: &str, times: usize| format!("SELECT {first}{}", more.repeat(times));
    for (name, sql) in [
        ("sums", repeated("1", "+1", 2_000)),
        ("long sums", repeated("1", "+1", 100_000)),
        ("ors", repeated("1=2", " OR 1=3", 20_000)),
        ("ors of a tool", repeated("1=2", " OR 1=3", 4_000)),
        ("casts", repeated("1", "::int", 2_000)),
        ("texts", repeated("'a'", "||'a'", 2_000)),
        ("unions", format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(3_000))),
        ("brackets", format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000))),
        ("nots", format!("SELECT {}true", "NOT ".repeat(100_000))),
        ("links", chained(1_000)),
        ("joins", joined(18)),
        ("deeper joins", joined(60)),
        ("values", format!("SELECT 1 WHERE 0 IN (1{})", ", 2".repeat(100_000))),
        (
            "tables",
            format!(
                "SELECT 1 FROM (SELECT 1) t0{}",
                (1..=200).map(|n| format!(", (SELECT 1) t{n}")).collect::<String>()
            ),
        ),
        ("calls", format!("SELECT {}1{}", "abs(".repeat(101), ")".repeat(101))),
        ("arrays", format!("SELECT {}1{}", "[".repeat(101), "]".repeat(101))),
        ("subqueries", format!("SELECT {}1{}", "(SELECT ".repeat(101), ")".repeat(101))),
        ("a long value", "SELECT length(repeat('x', 2147483647))".to_owned()),
    ] {
        let file = place.path("statement.sql");
        std::fs::write(&file, &sql).expect("written");
        let body = format!("@{}", file.display());
        let flags = [&SQL[..], &["--data-binary", &body]].concat();
        let (before, asked) = (server.processor_ticks(), Instant::now());
        let answer = server.curl_beside("/v1/query", &flags, || {
            let started = Instant::now();
            server.is_well();
            assert!(started.elapsed() < NEIGHBOUR_WITHIN, "{name}: a neighbour waited {:?}", started.elapsed());
        });
        let (took, waited) = (server.processor_ticks() - before, asked.elapsed());
        eprintln!("{name}: {} after {took} ticks, {waited:?}", answer.status);
        assert_eq!(answer.code, 0, "{name}: {answer:?}");
        match answer.status {
            200 => assert!(took < ANSWERED_TICKS_MAX, "{name}: answered after {took} ticks"),
            status => {
                // Too long a value is no fault of the text alone.
                let kind = if status == 422 && name == "a long value" { "data" } else { "sql" };
                is_problem(&answer, if kind == "data" { 422 } else { 400 }, kind, "");
                assert!(answer.json()["code"].is_string(), "{name}: {answer:?}");
                assert!(took < REFUSED_TICKS_MAX, "{name}: refused after {took} ticks");
                assert!(waited < REFUSED_WITHIN, "{name}: refused after {waited:?}");
            }
        }
    }
    wait_until("nothing is planned on", || server.metric("gust_queries_running") == 0.0);
}

/// A head that never ends, and connections that say nothing.
#[test]
fn slow_clients_hold_nobody_up() {
    let place = Place::new("on = 'local'\n");
    let server = Served::start(&place, &[]);
    let address = server.url.strip_prefix("http://").expect("plain HTTP");
    let connect = || TcpStream::connect(address).expect("a connection");
    let idle: Vec<TcpStream> = (0..200).map(|_| connect()).collect();
    let started = Instant::now();
    let mut slow = connect();
    slow.write_all(b"POST /v1/query HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").expect("written");
    server.is_well();
    slow.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).expect("the server closes the connection");
    let waited = started.elapsed();
    assert!(waited > Duration::from_secs(5) && waited < Duration::from_secs(30), "{waited:?}");
    drop(idle);
    server.is_well();
}
