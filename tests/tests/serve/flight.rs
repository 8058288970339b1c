//! Flight SQL, as ADBC's driver for Python and pyarrow see it.

use std::path::Path;

use gust_tests::python::{CLIENTS, Run, run_with};
use serde_json::json;

use super::Served;
use super::cut::{SLOW, four_files};
use super::identity::{certificate, token, write_private};
use crate::bad_input::{Place, check, wait_until};

impl Served<'_> {
    /// Returns the address as clients of Flight write it.
    pub(super) fn flight_uri(&self) -> String {
        self.url.replacen("https://", "grpc+tls://", 1).replacen("http://", "grpc://", 1)
    }
}

/// Makes a folder with a table, a view and two users. Returns it with their secrets.
async fn two_users(more: &str) -> (Place, [String; 2]) {
    let settings = format!("on = 'local'\n[server]\nreach = ['data']\ntokens = 'tokens.toml'\n{more}");
    let place = Place::new(&settings);
    place.parquet("data/a.parquet", "SELECT value AS k, 'n' || value AS name FROM generate_series(1, 1000)").await;
    let setup = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'data/'; CREATE VIEW v AS SELECT k FROM t";
    std::fs::write(place.path("setup.sql"), setup).expect("written");
    let [(ada, ada_lines), (bob, bob_lines)] = ["ada", "bob"].map(|user| token(&place, &[user]));
    write_private(&place.path("tokens.toml"), &format!("{ada_lines}\n{bob_lines}"));
    (place, [ada, bob])
}

/// Runs a script, whose last line begins with these words. Returns false where Python's packages cannot be had.
pub(super) fn speaks(script: &str, arguments: &[&str], last: &str) -> bool {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    match run_with(cache, CLIENTS, script, arguments).unwrap_or_else(|error| panic!("{error:#}")) {
        Run::Done { stdout } => {
            assert!(stdout.lines().last().is_some_and(|line| line.starts_with(last)), "{stdout}");
            true
        }
        Run::Skipped { reason } => {
            eprintln!("skipped: {reason}");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notebook_asks_by_adbc() {
    let (place, [ada, bob]) = two_users("").await;
    let server = Served::start(&place, &["--setup", "setup.sql"]);
    speaks("flight_client.py", &[&server.flight_uri(), &ada, &bob, "-"], "ok 19");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notebook_asks_by_adbc_over_tls() {
    let (place, [ada, bob]) = two_users("tls = { certificate = 'tls.pem', key = 'tls.key' }\n").await;
    if !certificate(&place, "tls") {
        eprintln!("skipped: openssl is missing");
        return;
    }
    let server = Served::start(&place, &["--setup", "setup.sql"]);
    let authority = place.path("tls.pem").display().to_string();
    speaks("flight_client.py", &[&server.flight_uri(), &ada, &bob, &authority, "queries", "tokens"], "ok 2");
}

#[test]
fn answers_to_tpch_have_the_rows_and_types_of_the_command_line() {
    let place = Place::new("");
    let demo = ["demo", "--sf", "0.01", "--home", "lake", "--queries", "6", "--on", "local"];
    check(&place.gust(&demo).output().expect("it starts"), 0, &["made orders"]);
    let lake = ["--config", "lake/gust.toml", "--on", "local", "--catalog", "demo"];
    let queries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../coordinator/src/demo/queries");
    std::fs::create_dir(place.path("answers")).expect("made");
    for number in 1..=22 {
        let file = queries.join(format!("q{number:02}.sql"));
        let query = ["query", "--report", "none", "--format", "arrow", "-f", file.to_str().expect("a path")];
        let expect = place.gust(&[&query[..], &lake].concat()).output().expect("it starts");
        check(&expect, 0, &[]);
        std::fs::copy(&file, place.path(&format!("answers/{number:02}.sql"))).expect("copied");
        std::fs::write(place.path(&format!("answers/{number:02}.arrow")), expect.stdout).expect("written");
    }
    let server = Served::start(&place, &lake);
    let answers = place.path("answers").display().to_string();
    speaks("flight_tpch.py", &[&server.flight_uri(), &answers], "ok 22");
}

/// The rows of the first file come at once. Those of the others take minutes, and their functions are killed before.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_is_an_error_at_its_client() {
    let place = four_files().await;
    let server = Served::start(&place, &["--setup", "setup.sql", "--on", "processes"]);
    let sql = format!("SELECT k, {SLOW} FROM t");
    let id = server.child.id().to_string();
    if speaks("flight_cut.py", &[&server.flight_uri(), &id, &sql], "ok 5000 ") {
        let failed = "SELECT outcome, attempts_wasted > 0 AS wasted FROM gust.queries WHERE statement LIKE '%levenshtein%repeat%'";
        wait_until("it is recorded", || server.rows(failed) == json!([{ "outcome": "failed", "wasted": true }]));
    }
    server.is_well();
}
