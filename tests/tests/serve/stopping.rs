//! Statements that a client stops, and the time that the server takes to end them, by its own record.

use std::process::{Child, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::Served;
use super::postgres::{POSTGRES, has_psql};
use super::restart::JSON;
use crate::bad_input::{Place, wait_until};

/// Tries of which one has to end in time. A busy machine delays one of three now and then, and a server that is slow delays all.
const TRIES: usize = 6;

/// Longest time from a client's wish to the end that the history has, in seconds.
const SECONDS_MAX: f64 = 1.0;

/// Sources of rows of which none is there for hours, of many rows, and of functions that compute for minutes.
const ENDLESS: &str = "generate_series(1, 10000000) a, generate_series(1, 10000000) b WHERE a.value * b.value = -1";
const MANY: &str = "generate_series(1, 1000000000)";
const SLOW: &str = "'data/' WHERE levenshtein(repeat(k::text, 500), repeat('ab', 5000)) = -1";

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// Checks that a statement ends soon after a client stops it. `start` gives it to a client, and `stop` stops that one.
#[track_caller]
fn ends_within_a_second<C>(
    server: &Served<'_>,
    way: &str,
    [column, from]: [&str; 2],
    start: impl Fn(&str) -> C,
    stop: impl Fn(C),
) {
    let mut taken = Vec::new();
    for attempt in 0..TRIES {
        let name = format!("{way}_{attempt}");
        let of = format!("statement LIKE '% AS {name} FROM %' AND statement NOT LIKE '%gust.%'");
        let client = start(&format!("SELECT {column} AS {name} FROM {from}"));
        let running = format!("SELECT count(*) AS n FROM gust.running WHERE place IS NOT NULL AND {of}");
        wait_until("it runs", || server.rows(&running) == json!([{ "n": 1 }]));
        let began = now();
        stop(client);
        let ended = format!("SELECT outcome, date_part('epoch', started) + seconds AS at FROM gust.queries WHERE {of}");
        wait_until("it has ended", || server.rows(&ended) != json!([]));
        let ended = server.rows(&ended);
        assert_eq!(ended[0]["outcome"], "cancelled", "{name}: {ended}");
        taken.push(ended[0]["at"].as_f64().expect("a time") - began);
        if taken.last().is_some_and(|seconds| *seconds < SECONDS_MAX) {
            return;
        }
    }
    panic!("{way}: it took {taken:?} seconds");
}

fn killed(mut client: Child) {
    client.kill().expect("it runs");
    client.wait().expect("its end");
}

/// Starts a client that asks for rows over HTTP.
fn asks(server: &Served<'_>, sql: &str) -> Child {
    let flags = ["-H", "Content-Type: application/sql", "--limit-rate", "1000", "--data-binary", sql];
    server.command("/v1/query", &flags).stdout(Stdio::null()).spawn().expect("curl")
}

/// Submits a statement, and returns its place.
fn submitted(server: &Served<'_>, sql: &str) -> String {
    let body = json!({ "sql": sql, "wait_seconds": 0 }).to_string();
    let answer = server.curl("/v1/statements", &[&JSON[..], &["--data-binary", &body]].concat());
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()["href"].as_str().expect("a place").to_owned()
}

fn deleted(server: &Served<'_>, href: &str) {
    let answer = server.curl(href, &["-X", "DELETE"]);
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("CANCELLED")), "{answer:?}");
}

#[test]
fn a_statement_ends_within_a_second_of_its_clients_wish() {
    let place = Place::new("on = 'local'\n");
    let server = Served::start(&place, &POSTGRES);
    let (submit, ask) = (|sql: &str| submitted(&server, sql), |sql: &str| asks(&server, sql));
    ends_within_a_second(&server, "deleted", ["count(*)", ENDLESS], submit, |href| deleted(&server, &href));
    ends_within_a_second(&server, "gone", ["count(*)", ENDLESS], ask, killed);
    ends_within_a_second(&server, "gone_with_rows", ["value", MANY], ask, killed);
    if has_psql() {
        let psql = |sql: &str| {
            let mut psql = server.psql(&["-c", sql]);
            psql.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("psql")
        };
        let interrupted = |mut client: Child| {
            let sent = std::process::Command::new("kill").args(["-INT", &client.id().to_string()]).status();
            assert!(sent.expect("kill").success());
            client.wait().expect("its end");
        };
        ends_within_a_second(&server, "interrupted", ["count(*)", ENDLESS], psql, interrupted);
        ends_within_a_second(&server, "psql_gone", ["count(*)", ENDLESS], psql, killed);
    }
    server.is_well();
}

/// The record has its attempts as cancelled, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_on_functions_ends_within_a_second_of_its_clients_wish() {
    let place = Place::new("functions_max = 2\n[server]\nreach = ['data']\n");
    for file in ["a", "b"] {
        place.parquet(&format!("data/{file}.parquet"), "SELECT value AS k FROM generate_series(1, 5000)").await;
    }
    let server = Served::start(&place, &["--on", "processes"]);
    let begins = "SELECT count(*) AS n FROM gust.running WHERE attempts > 0 AND statement LIKE '% AS deleted%'";
    let submit = |sql: &str| {
        let href = submitted(&server, sql);
        wait_until("functions have it", || server.rows(begins) == json!([{ "n": 1 }]));
        href
    };
    ends_within_a_second(&server, "deleted", ["count(*)", SLOW], submit, |href| deleted(&server, &href));
    let cancelled = "SELECT count(*) > 0 AS has_some, bool_and(f.outcome = 'Cancelled') AS are_all FROM gust.fragments f \
                     JOIN gust.queries q ON f.query_id = q.id WHERE q.statement LIKE '% AS deleted%'";
    assert_eq!(server.rows(cancelled), json!([{ "has_some": true, "are_all": true }]));
    server.is_well();
}
