//! Functions that are killed after the first rows: no client takes these for all.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::json;

use super::postgres::{POSTGRES, has_psql};
use super::{Served, pause};
use crate::bad_input::{Place, wait_until};

/// Work of the rows of all files but the first, which takes minutes.
pub(super) const SLOW: &str = "CASE WHEN k > 5000 THEN levenshtein(repeat(k::text, 500), repeat('ab', 5000)) END AS d";

/// Makes four files, each of which is a fragment.
pub(super) async fn four_files() -> Place {
    let place = Place::new("functions_max = 4\n[server]\nreach = ['data']\n");
    for file in 0..4 {
        let select = format!("SELECT value + {file} * 5000 AS k FROM generate_series(1, 5000)");
        place.parquet(&format!("data/{file}.parquet"), &select).await;
    }
    std::fs::write(place.path("setup.sql"), "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'data/'")
        .expect("written");
    place
}

/// Returns the children of a process.
fn children(of: u32) -> Vec<u32> {
    let is_child = |id: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|fields| fields.split_whitespace().nth(1));
        parent.is_some_and(|parent| parent == of.to_string())
    };
    let processes = std::fs::read_dir("/proc").expect("Linux");
    processes.filter_map(|process| process.ok()?.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

/// Reads the first rows of a client, and kills the server's functions until it ends. Returns the exit code and its words.
#[track_caller]
fn cut(server: &Served<'_>, mut client: Command) -> (Option<i32>, String) {
    let mut child = client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a client");
    let mut rows = child.stdout.take().expect("its rows");
    rows.read_exact(&mut [0; 4_096]).expect("the first rows");
    let ended = AtomicBool::new(false);
    let killed = std::thread::scope(|scope| {
        let killing = scope.spawn(|| {
            let mut killed = 0;
            while !ended.load(Relaxed) {
                for function in children(server.child.id()) {
                    let sent = Command::new("kill").args(["-KILL", &function.to_string()]).output().expect("kill");
                    killed += usize::from(sent.status.success());
                }
                pause(Duration::from_millis(20));
            }
            killed
        });
        std::io::copy(&mut rows, &mut std::io::sink()).expect("its end");
        ended.store(true, Relaxed);
        killing.join().expect("no panic")
    });
    assert!(killed > 0, "nothing was killed");
    let output = child.wait_with_output().expect("its end");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_functions_that_die_are_cut_over_http_and_postgresql() {
    let place = four_files().await;
    let flags = [&POSTGRES[..], &["--setup", "setup.sql", "--on", "processes"]].concat();
    let server = Served::start(&place, &flags);
    let is_failed = |mark: &str| {
        let sql = format!(
            "SELECT outcome, attempts_wasted > 0 AS wasted FROM gust.queries WHERE statement LIKE '% AS {mark}, %' AND statement NOT LIKE '%gust.%'"
        );
        wait_until("it is recorded", || server.rows(&sql) == json!([{ "outcome": "failed", "wasted": true }]));
    };
    // The rows of the first file are more than what a wire gathers before it sends.
    let query = |mark: &str| format!("SELECT k, repeat('x', 200) AS {mark}, {SLOW} FROM t");
    let sql = query("cut_http");
    let accept = ["-H", "Accept: application/x-ndjson", "-H", "Content-Type: application/sql", "--no-buffer"];
    let (code, words) = cut(&server, server.command("/v1/query", &[&accept[..], &["--data-binary", &sql]].concat()));
    assert_eq!(code, Some(18), "curl takes the rows for all: {words}");
    is_failed("cut_http");
    if has_psql() {
        let copy = format!("COPY ({}) TO STDOUT", query("cut_postgres"));
        let (code, words) = cut(&server, server.psql(&["-c", &copy]));
        assert!(code != Some(0) && words.contains("ERROR"), "psql takes the rows for all: {code:?} {words}");
        is_failed("cut_postgres");
    }
    server.is_well();
}
