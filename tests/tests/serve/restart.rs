//! Statements that outlive their server: `kill -9` at seeded moments, and another server that goes on under the same id.

use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::{Served, pause};
use crate::bad_input::{Place, check, wait_until};

const JSON: [&str; 2] = ["-H", "Content-Type: application/json"];

/// Stages of the statement, and files of its table: each stage has a fragment for each file.
const STAGES: u64 = 50;
const FILES: u64 = 4;
const FRAGMENTS: u64 = STAGES * FILES;

/// Kill moments of one run in CI. `RESTART_SEEDS=20` has twenty.
const SEEDS: u64 = 2;

/// Makes a place whose results of functions are in responses, or in the exchange.
async fn place(settings: &str) -> Place {
    let place = Place::new(&format!(
        "exchange = 'exchange'\nfunctions_max = {FILES}\n{settings}[server]\nreach = ['data']\njournal = true\njournal_after_seconds = 0.2\n"
    ));
    for file in 0..FILES {
        let rows = format!("SELECT value AS k FROM generate_series({}, {})", file * 20_000 + 1, (file + 1) * 20_000);
        place.parquet(&format!("data/{file}.parquet"), &rows).await;
    }
    std::fs::create_dir(place.path("exchange")).expect("made");
    place
}

/// A statement of many small fragments that compute for a while.
fn sums() -> String {
    let stage = |stage| {
        format!(
            "SELECT sum(k) AS s, count(DISTINCT md5(CAST(k AS varchar))) AS d FROM 'data/' WHERE k % {STAGES} = {stage}"
        )
    };
    let stages: Vec<String> = (0..STAGES).map(stage).collect();
    format!("SELECT sum(s) AS s, sum(d) AS d FROM ({})", stages.join(" UNION ALL "))
}

/// A statement whose fragments have rows for the exchange.
fn rows() -> String {
    let stage =
        |stage| format!("SELECT k, repeat(md5(CAST(k AS varchar)), 20) AS t FROM 'data/' WHERE k % {STAGES} = {stage}");
    let stages: Vec<String> = (0..STAGES).map(stage).collect();
    format!("SELECT count(*) AS n, sum(k) AS s, max(t) AS t FROM ({})", stages.join(" UNION ALL "))
}

fn serve(place: &Place) -> Served<'_> {
    Served::start(place, &["--on", "processes", "--timeout", "120s"])
}

/// Cap of the statements, in dollars. Without faults they cost less than a tenth of it, and each attempt may cost a twentieth at worst.
const CAP: f64 = 0.004;

fn submit(server: &Served<'_>, sql: &str) -> String {
    let body = json!({ "sql": sql, "wait_seconds": 0, "max_cost": CAP.to_string() }).to_string();
    let answer = server.curl("/v1/statements", &[&JSON[..], &["--data-binary", &body]].concat());
    assert_eq!((answer.code, answer.status), (0, 202), "{answer:?}");
    answer.json()["id"].as_str().expect("an id").to_owned()
}

fn described(server: &Served<'_>, id: &str) -> Value {
    let answer = server.curl(&format!("/v1/statements/{id}"), &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Returns the number of fragments whose results are used by now.
fn adopted(told: &Value) -> u64 {
    let stages = told["progress"]["stages"].as_array();
    stages.into_iter().flatten().filter_map(|stage| stage["adopted"].as_u64()).sum()
}

/// Waits for a statement's end.
fn ended(server: &Served<'_>, id: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let told = described(server, id);
        if !["QUEUED", "RUNNING"].contains(&told["state"].as_str().expect("a state")) {
            return told;
        }
        assert!(Instant::now() < deadline, "{told}");
        pause(Duration::from_millis(100));
    }
}

fn result(server: &Served<'_>, id: &str) -> Value {
    let answer = server.curl(&format!("/v1/statements/{id}/result"), &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Lists the files of a folder and of those below it.
fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path.display().to_string()] }).collect()
}

/// Returns the rows that the program itself has, without functions.
fn expected(place: &Place, sql: &str) -> Value {
    let arguments = ["query", "--on", "local", "--report", "none", "--format", "json", sql];
    let output = place.gust(&arguments).output().expect("it starts");
    check(&output, 0, &[]);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Submits a statement, and waits until so many fragments are there. Returns its id, and how it is described then.
fn begun(server: &Served<'_>, sql: &str, after: u64) -> (String, Value) {
    let id = submit(server, sql);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let told = described(server, &id);
        assert!(["QUEUED", "RUNNING"].contains(&told["state"].as_str().expect("a state")), "it ended before: {told}");
        if adopted(&told) >= after && !files(&server.place.path("exchange/journals")).is_empty() {
            return (id, told);
        }
        assert!(Instant::now() < deadline, "{told}");
        pause(Duration::from_millis(5));
    }
}

/// Runs a statement until so many fragments are there, kills the server, and lets the next one end it. Returns the number of fragments
/// that were adopted at the kill, and the end.
fn killed(place: &Place, sql: &str, after: u64) -> (u64, Value, Value) {
    let mut first = serve(place);
    let (id, before) = begun(&first, sql, after);
    first.signal("KILL");
    first.child.wait().expect("its end");
    let second = serve(place);
    wait_until("the statement is shown", || second.curl(&format!("/v1/statements/{id}"), &[]).status == 200);
    let told = ended(&second, &id);
    assert_eq!(
        (&told["state"], &told["id"], &told["query_id"]),
        (&json!("SUCCEEDED"), &json!(id), &json!(id)),
        "{told}"
    );
    let rows = result(&second, &id);
    wait_until("nothing is left in the exchange", || files(&place.path("exchange")).is_empty());
    second.is_well();
    let report = &told["report"];
    let count = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name}: {report}"));
    let (adopted_before, reused) = (adopted(&before), count("fragments_reused"));
    eprintln!(
        "killed after {adopted_before} of {FRAGMENTS} fragments: {reused} reused, {} attempts",
        count("attempts")
    );
    assert_eq!((count("takeovers"), count("fragments_adopted")), (1, FRAGMENTS), "{report}");
    assert!(reused * 10 >= adopted_before * 8, "{reused} of {adopted_before} fragments were reused: {report}");
    // Fragments in flight are made anew, and so are those that had come and were not noted.
    let anew = FILES + (adopted_before + FILES).saturating_sub(reused) + 2 * FILES;
    assert!(count("attempts") <= FRAGMENTS + anew, "{report}");
    let dollars = |told: &Value| told["cost"]["dollars"].as_str().expect("dollars").parse::<f64>().expect("a number");
    assert!(dollars(&told) > dollars(&before), "what was spent before counts: {told}\n{before}");
    assert_eq!(told["cost"]["is_complete"], false, "attempts of the last moment are not known: {told}");
    let at_most = report["cost"]["at_most"].as_f64().expect("nano-dollars") / 1e9;
    assert!(at_most <= CAP, "the cap holds for both servers together: {at_most}");
    (adopted_before, rows, told)
}

/// Kills servers at seeded moments of a statement.
async fn at_seeded_moments(settings: &str, sql: &str, seeds: u64) {
    let place = place(settings).await;
    let expect = expected(&place, sql);
    for seed in 0..seeds {
        let mut random = SmallRng::seed_from_u64(seed);
        let after = random.random_range(FRAGMENTS * 2 / 5..FRAGMENTS * 7 / 10);
        let (_, rows, _) = killed(&place, sql, after);
        assert_eq!(rows, expect, "seed {seed}");
    }
}

fn seeds() -> u64 {
    std::env::var("RESTART_SEEDS").ok().map_or(SEEDS, |seeds| seeds.parse().expect("a number of seeds"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_outlives_its_server() {
    at_seeded_moments("", &sums(), seeds()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_in_the_exchange_outlive_their_server() {
    at_seeded_moments("memory_bytes_max = '64MiB'\n", &rows(), seeds().min(1)).await;
}

/// A server that was only stopped for a while does not know that it was taken for gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_has_one_server() {
    let place = place("memory_bytes_max = '64MiB'\n").await;
    let expect = expected(&place, &rows());
    let first = serve(&place);
    let (id, _) = begun(&first, &rows(), FRAGMENTS / 4);
    first.signal("STOP");
    let second = serve(&place);
    wait_until("it is taken over", || {
        let told = second.curl(&format!("/v1/statements/{id}"), &[]);
        told.status == 200 && told.json()["state"] != "QUEUED"
    });
    first.signal("CONT");
    let told = ended(&second, &id);
    assert_eq!((&told["state"], &result(&second, &id)), (&json!("SUCCEEDED"), &expect), "{told}");
    // The first one has lost it, and does not say that it was cancelled.
    wait_until("it is the other's alone", || {
        let told = first.curl(&format!("/v1/statements/{id}"), &[]);
        assert!(told.status == 404 || told.json()["state"] != "CANCELLED", "{told:?}");
        told.status == 404
    });
    wait_until("nothing is left in the exchange", || files(&place.path("exchange")).is_empty());
    let recorded = second.rows(&format!("SELECT outcome FROM gust.queries WHERE id = '{id}'"));
    assert_eq!(recorded, json!([{ "outcome": "done" }]), "one server records it");
    first.is_well();
    second.is_well();
}

/// A server that is stopped in order leaves its statements, and nobody has to wait for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_leaves_its_statements() {
    let place = place("").await;
    let (sql, expect) = (sums(), expected(&place, &sums()));
    let mut first = serve(&place);
    let (id, before) = begun(&first, &sql, FRAGMENTS / 4);
    // The second signal ends the drain.
    first.signal("TERM");
    first.signal("TERM");
    first.child.wait().expect("its end");
    let second = serve(&place);
    let told = ended(&second, &id);
    assert_eq!((&told["state"], &result(&second, &id)), (&json!("SUCCEEDED"), &expect), "{told}");
    let reused = told["report"]["fragments_reused"].as_u64().expect("a number");
    assert!(reused >= adopted(&before), "all that was there is noted: {reused} of {}", adopted(&before));
    let recorded = second.rows(&format!("SELECT outcome FROM gust.queries WHERE id = '{id}'"));
    assert_eq!(recorded, json!([{ "outcome": "done" }]));
    wait_until("nothing is left in the exchange", || files(&place.path("exchange")).is_empty());
}
