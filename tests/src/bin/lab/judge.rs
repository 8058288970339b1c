//! All 22 TPC-H queries through function processes against DuckDB on the same files, at a scale that a test has no time for.

use std::path::Path;
use std::time::Instant;

use gust::demo::queries;
use gust_engine::config::Target;
use gust_tests::compare::{Rule, compare, read_arrow_file};
use gust_tests::python::{self, Run};
use gust_tests::query::{run, session};
use gust_tests::tpch;
use serde_json::json;

use super::Outcome;
use super::tax::sibling;

pub async fn measure(scale: f64, cache: &Path) -> anyhow::Result<Outcome> {
    let tables = tpch::tables_at(cache, scale, 8, 131_072)?;
    let folder = tempfile::tempdir_in(cache)?;
    let mut arguments = vec![tables.root().to_owned(), folder.path().join("judged")];
    for number in 1..=queries::COUNT {
        let file = folder.path().join(format!("q{number:02}.sql"));
        std::fs::write(&file, queries::query(number))?;
        arguments.push(file);
    }
    if let Run::Skipped { reason } = python::run(cache, "tpch_judge.py", &arguments)? {
        anyhow::bail!("DuckDB is the judge and is not to be had: {reason}");
    }
    let bootstrap = sibling("bootstrap_under_test")?;
    let session = session(Target::Processes, 4, &bootstrap.to_string_lossy());
    session.set_up(&tables.create_statements().join("; ")).await?;
    let mut table = vec!["query  seconds  fragments adopted  rows  DuckDB".to_owned()];
    let (mut samples, mut validity) = (Vec::new(), Vec::new());
    for number in 1..=queries::COUNT {
        let started = Instant::now();
        let (rows, report) = run(&session, queries::query(number)).await?;
        let seconds = started.elapsed().as_secs_f64();
        let judged = read_arrow_file(&arguments[1].join(format!("q{number:02}.arrow")))?;
        let verdict = compare(&judged, &rows, Rule::other_engine().in_any_order());
        let word = verdict.as_ref().map_or_else(ToString::to_string, |()| "agrees".to_owned());
        let (adopted, count) = (report.fragments_adopted, report.rows);
        table.push(format!("{number:>5}  {seconds:>7.3}  {adopted:>17}  {count:>4}  {word}"));
        samples
            .push(json!({ "query": number, "seconds": seconds, "adopted": adopted, "rows": count, "verdict": word }));
        validity.push((format!("query {number} is DuckDB's, by functions"), verdict.is_ok() && adopted > 0));
    }
    session.close().await;
    Ok(Outcome { name: "judge", table, samples: json!(samples), bounds: Vec::new(), validity })
}
