//! Random Iceberg tables against rows that are computed, for more seeds than a test has time for.

use std::ops::Range;
use std::time::Instant;

use gust_tests::random_tables;
use serde_json::json;

use super::{Bound, Outcome};

/// Tables after which the sessions are opened anew.
const TABLES_A_SESSION: u64 = 200;
/// Tables of a run that says something.
const TABLES_MIN: u64 = 10_000;

pub async fn measure(seeds: Range<u64>) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let tables = seeds.end - seeds.start;
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut statements, mut remote, mut deleted, mut failures) = (0, 0, 0, Vec::new());
    let (mut files, mut left_out) = (0, 0);
    for first in seeds.clone().step_by(usize::try_from(TABLES_A_SESSION)?) {
        let last = (first + TABLES_A_SESSION).min(seeds.end);
        let found = random_tables::check(first..last, at_once).await;
        statements += found.statements;
        remote += found.remote;
        deleted += found.deleted_rows;
        files += found.plain.files;
        left_out += found.plain.left_out;
        failures.extend(found.failures);
        eprintln!("{} tables, {} fail", last - seeds.start, failures.len());
    }
    let seconds = started.elapsed().as_secs_f64();
    let mut table = vec![format!(
        "{tables} tables, {statements} statements, {deleted} deleted rows, {left_out} of {files} files left out: {seconds:.0} s; \
         functions read {remote} tables"
    )];
    table.extend(failures.iter().cloned());
    Ok(Outcome {
        name: "random-tables",
        table,
        samples: json!({ "tables": tables, "statements": statements, "deleted_rows": deleted, "remote": remote,
            "files": files, "left_out": left_out, "failures": failures }),
        bounds: vec![Bound {
            what: "failed tables".to_owned(),
            measured: failures.len() as f64,
            aim: 0.0,
            worst: 0.0,
            unit: "tables",
        }],
        validity: vec![(format!("at least {TABLES_MIN} tables"), tables == 1 || tables >= TABLES_MIN)],
    })
}
