//! Statements that outlive their server: `kill -9` at seeded moments, and another server that goes on under the same id.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::{Served, pause};
use crate::bad_input::{Place, check, wait_until};

pub(super) const JSON: [&str; 2] = ["-H", "Content-Type: application/json"];

/// Stages of the statement, and files of its table: each stage has a fragment for each file.
const STAGES: u64 = 50;
pub(super) const FILES: u64 = 4;
pub(super) const FRAGMENTS: u64 = STAGES * FILES;

/// Statements that may end before they are looked at, where a machine is fast or the test is late.
pub(super) const TOO_FAST_MAX: usize = 10;

/// Kill moments of one run in CI. `RESTART_SEEDS=20` has twenty.
const SEEDS: u64 = 2;

/// Makes a place whose results of functions are in responses, or in the exchange.
pub(super) async fn place(settings: &str) -> Place {
    place_with("exchange", settings, "").await
}

/// Does the same with another exchange, and more settings of the server.
pub(super) async fn place_with(exchange: &str, settings: &str, of_server: &str) -> Place {
    let place = Place::new(&format!(
        "exchange = '{exchange}'\nfunctions_max = {FILES}\n{settings}[server]\nreach = ['data']\njournal_after_seconds = 0.2\n{of_server}"
    ));
    for file in 0..FILES {
        let rows = format!("SELECT value AS k FROM generate_series({}, {})", file * 20_000 + 1, (file + 1) * 20_000);
        place.parquet(&format!("data/{file}.parquet"), &rows).await;
    }
    std::fs::create_dir(place.path("exchange")).expect("made");
    place
}

/// A statement of many small fragments that compute for a while.
pub(super) fn sums() -> String {
    sums_in(STAGES)
}

pub(super) fn sums_in(stages: u64) -> String {
    let stage = |stage| {
        format!(
            "SELECT sum(k) AS s, count(DISTINCT md5(CAST(k AS varchar))) AS d FROM 'data/' WHERE k % {stages} = {stage}"
        )
    };
    let stages: Vec<String> = (0..stages).map(stage).collect();
    format!("SELECT sum(s) AS s, sum(d) AS d FROM ({})", stages.join(" UNION ALL "))
}

/// A statement whose fragments have rows for the exchange.
pub(super) fn rows() -> String {
    let stage =
        |stage| format!("SELECT k, repeat(md5(CAST(k AS varchar)), 20) AS t FROM 'data/' WHERE k % {STAGES} = {stage}");
    let stages: Vec<String> = (0..STAGES).map(stage).collect();
    format!("SELECT count(*) AS n, sum(k) AS s, max(t) AS t FROM ({})", stages.join(" UNION ALL "))
}

pub(super) fn serve(place: &Place) -> Served<'_> {
    Served::start(place, &["--on", "processes", "--timeout", "120s"])
}

/// Cap of the statements, in dollars. Without faults they cost less than a tenth of it, and each attempt may cost a twentieth at worst.
pub(super) const CAP: f64 = 0.004;

/// Most that one attempt may cost by its time-out.
const ATTEMPT_DOLLARS_MAX: f64 = CAP / 20.0;

/// Factor by which a function's time varies on a busy machine.
const DOLLARS_NOISE: f64 = 2.0;

/// Measures of a statement without a fault that are made where it was dearer with one.
const MEASURES_MORE: usize = 2;

pub(super) fn submit(server: &Served<'_>, sql: &str) -> String {
    let body = json!({ "sql": sql, "wait_seconds": 0, "max_cost": CAP.to_string() }).to_string();
    let answer = server.curl("/v1/statements", &[&JSON[..], &["--data-binary", &body]].concat());
    assert_eq!((answer.code, answer.status), (0, 202), "{answer:?}");
    answer.json()["id"].as_str().expect("an id").to_owned()
}

pub(super) fn described(server: &Served<'_>, id: &str) -> Value {
    let answer = server.curl(&format!("/v1/statements/{id}"), &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Returns the number of fragments whose results are used by now.
pub(super) fn adopted(told: &Value) -> u64 {
    let stages = told["progress"]["stages"].as_array();
    stages.into_iter().flatten().filter_map(|stage| stage["adopted"].as_u64()).sum()
}

/// Waits for a statement's end.
pub(super) fn ended(server: &Served<'_>, id: &str) -> Value {
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

pub(super) fn result(server: &Served<'_>, id: &str) -> Value {
    let answer = server.curl(&format!("/v1/statements/{id}/result"), &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Lists the files of a folder and of those below it.
pub(super) fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path.display().to_string()] }).collect()
}

/// Lists the entries of a statement's journal, by their numbers. A file whose name has a `#` is being written, or its writer was killed.
pub(super) fn entries(place: &Place, id: &str) -> Vec<PathBuf> {
    entries_in(&place.path("exchange/journals").join(id))
}

pub(super) fn entries_in(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        files(folder).into_iter().filter(|path| !path.contains('#')).map(PathBuf::from).collect();
    paths.sort();
    paths
}

/// Returns the rows that the program itself has, without functions.
pub(super) fn expected(place: &Place, sql: &str) -> Value {
    let arguments = ["query", "--on", "local", "--report", "none", "--format", "json", sql];
    let output = place.gust(&arguments).output().expect("it starts");
    check(&output, 0, &[]);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Submits a statement, and waits until so many fragments are there and its journal has begun. Returns its id, and how it is described
/// then.
pub(super) fn begun(server: &Served<'_>, sql: &str, after: u64) -> (String, Value) {
    begun_where(server, sql, after, |id| !entries(server.place, id).is_empty())
}

/// Does the same where something else holds of its id, in place of the journal.
pub(super) fn begun_where(server: &Served<'_>, sql: &str, after: u64, holds: impl Fn(&str) -> bool) -> (String, Value) {
    let begun = (0..TOO_FAST_MAX).find_map(|_| begun_unless_ended(server, sql, after, &holds));
    begun.unwrap_or_else(|| panic!("{TOO_FAST_MAX} statements have ended before they were seen"))
}

/// Does the same with one statement. None if it ends before.
pub(super) fn begun_unless_ended(
    server: &Served<'_>,
    sql: &str,
    after: u64,
    holds: impl Fn(&str) -> bool,
) -> Option<(String, Value)> {
    let id = submit(server, sql);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let told = described(server, &id);
        match told["state"].as_str().expect("a state") {
            "QUEUED" | "RUNNING" => {}
            "SUCCEEDED" => return None,
            _ => panic!("{told}"),
        }
        if adopted(&told) >= after && holds(&id) {
            return Some((id, told));
        }
        assert!(Instant::now() < deadline, "{told}");
        pause(Duration::from_millis(5));
    }
}

/// End of a statement whose server was killed.
struct Killed {
    /// Fragments that were adopted at the kill.
    adopted_before: u64,
    reused: u64,
    attempts: u64,
    /// Dollars of both servers, and the most that they may be.
    dollars: f64,
    dollars_at_most: f64,
    rows: Value,
}

/// Kills the server of a statement once so many fragments are there, and something holds of its id. A statement may end before; then the
/// server of another one is killed.
pub(super) fn kill_within(place: &Place, sql: &str, after: u64, holds: impl Fn(&str) -> bool) -> (String, Value) {
    for _ in 0..TOO_FAST_MAX {
        let mut server = serve(place);
        let Some((id, before)) = begun_unless_ended(&server, sql, after, &holds) else { continue };
        server.signal("KILL");
        server.child.wait().expect("its end");
        if is_unended(&entries(place, &id)) {
            return (id, before);
        }
    }
    panic!("{TOO_FAST_MAX} statements have ended before their servers were killed");
}

/// Tells if a journal has entries, of which the last does not say that the statement has ended.
pub(super) fn is_unended(entries: &[PathBuf]) -> bool {
    let last = entries.last().and_then(|path| std::fs::read(path).ok());
    last.is_some_and(|last| serde_json::from_slice::<Value>(&last).expect("JSON")["what"] != "ended")
}

/// Runs a statement until so many fragments are there, kills the server, and lets the next one end it.
fn killed(place: &Place, sql: &str, after: u64) -> Killed {
    let (id, before) = kill_within(place, sql, after, |id| !entries(place, id).is_empty());
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
    let recorded = second.rows(&format!("SELECT outcome FROM gust.queries WHERE id = '{id}'"));
    assert_eq!(recorded, json!([{ "outcome": "done" }]));
    second.is_well();
    let report = &told["report"];
    let count = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name}: {report}"));
    let killed = Killed {
        adopted_before: adopted(&before),
        reused: count("fragments_reused"),
        attempts: count("attempts"),
        dollars: dollars(&told),
        dollars_at_most: at_most(&told),
        rows,
    };
    assert_eq!((count("takeovers"), count("fragments_adopted")), (1, FRAGMENTS), "{report}");
    let Killed { adopted_before, reused, attempts, .. } = killed;
    // Fragments in flight are made anew, and so are those that had come and were not noted.
    let anew = FILES + (adopted_before + FILES).saturating_sub(reused) + 2 * FILES;
    assert!(attempts <= FRAGMENTS + anew, "{report}");
    let known_before = before["cost"]["dollars"].as_str().map_or(0.0, |known| known.parse().expect("a number"));
    assert!(killed.dollars > known_before, "what was spent before counts: {told}\n{before}");
    assert_eq!(told["cost"]["is_complete"], false, "attempts of the last moment are not known: {told}");
    assert!(killed.dollars_at_most <= CAP, "the cap holds for both servers together: {}", killed.dollars_at_most);
    killed
}

fn dollars(told: &Value) -> f64 {
    told["cost"]["dollars"].as_str().expect("dollars").parse().expect("a number")
}

fn at_most(told: &Value) -> f64 {
    told["report"]["cost"]["at_most"].as_f64().expect("nano-dollars") / 1e9
}

/// Kills servers at seeded moments of a statement.
async fn at_seeded_moments(settings: &str, sql: &str, seeds: u64) {
    let place = place(settings).await;
    let expect = expected(&place, sql);
    let without_fault = || {
        let server = serve(&place);
        let told = ended(&server, &submit(&server, sql));
        assert_eq!(told["state"], "SUCCEEDED", "{told}");
        dollars(&told)
    };
    let mut whole = without_fault();
    for seed in 0..seeds {
        let mut random = SmallRng::seed_from_u64(seed);
        let after = random.random_range(FRAGMENTS * 2 / 5..FRAGMENTS * 7 / 10);
        let Killed { adopted_before, reused, attempts, dollars: spent, dollars_at_most, rows } =
            killed(&place, sql, after);
        eprintln!(
            "seed {seed}: killed after {adopted_before} of {FRAGMENTS} fragments, {reused} reused, {attempts} attempts, \
             {spent:.6} dollars, {dollars_at_most:.6} at most, {whole:.6} without a fault"
        );
        assert_eq!(rows, expect, "seed {seed}");
        assert!(reused * 10 >= adopted_before * 8, "{reused} of {adopted_before} fragments were reused");
        // The known ones are as dear as without a fault, but for the machine's noise. Those in flight count at their bound.
        let known = |whole: f64| DOLLARS_NOISE * whole * attempts as f64 / FRAGMENTS as f64;
        let most = |whole: f64| known(whole) + FILES as f64 * ATTEMPT_DOLLARS_MAX;
        // Others may have begun to use the machine since the first measure.
        for _ in 0..MEASURES_MORE {
            if dollars_at_most > most(whole) {
                whole = whole.max(without_fault());
            }
        }
        let most = most(whole);
        assert!(dollars_at_most <= most, "seed {seed}: {dollars_at_most} of {most} dollars");
    }
}

fn seeds() -> u64 {
    std::env::var("RESTART_SEEDS").ok().map_or(SEEDS, |seeds| seeds.parse().expect("a number of seeds"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_outlives_its_server() {
    at_seeded_moments("", &sums(), seeds()).await;
}

/// Its journal has just begun, or its last fragments are on their way.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_outlives_its_server_early_and_late() {
    let place = place("").await;
    let expect = expected(&place, &sums());
    for after in [0, FRAGMENTS * 9 / 10] {
        assert_eq!(killed(&place, &sums(), after).rows, expect, "{after}");
    }
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
    let counts = [&first, &second].map(|server| server.metric("gust_attempts_total"));
    assert!(counts[0] == 0.0 && counts[1] >= FRAGMENTS as f64, "and one counts its attempts: {counts:?}");
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
    // The second signal ends the drain. Two at once may be one.
    first.signal("TERM");
    first.has_said("no more connections are taken");
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
