//! The judges of the Iceberg matrix, each in a process of its own: `tests/python/matrix/check.py`, in an environment of its own.
//!
//! Spark needs Java 17. A judge that cannot be had is absent, which is no failure where two others agree. Tables at odd locations of an S3
//! server are judged, too (`gust_tests::odd_locations`): they cannot be fixtures.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use gust_tests::odd_locations::{self, Judged};
use gust_tests::python::{self, PythonEnvironment};
use gust_tests::s3::S3Server;
use serde_json::json;
use tempfile::TempDir;

use super::Outcome;

/// Judges and tables that are asked.
#[derive(clap::Args)]
pub struct Choice {
    /// Judges: spark, pyiceberg, duckdb, chdb, rust
    #[arg(long, value_delimiter = ',')]
    judge: Vec<String>,
    /// Tables
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Write the verdicts into the truth
    #[arg(long)]
    write: bool,
}

/// Judges of odd locations. Spark has no library for S3 on PyPI.
const LOCATION_JUDGES: [&str; 3] = ["pyiceberg", "duckdb", "chdb"];

pub async fn measure(choice: &Choice, cache: &Path) -> anyhow::Result<Outcome> {
    let python = match python::environment(cache, python::JUDGES)? {
        PythonEnvironment::Ready(python) => python,
        PythonEnvironment::Missing(reason) => bail!("the judges are not to be had: {reason}"),
    };
    let mut command = Command::new(&python);
    command.arg(python::scripts().join("matrix").join("check.py")).args(["--check", "--show"]);
    for (flag, values) in [("--judge", &choice.judge), ("--only", &choice.only)] {
        if !values.is_empty() {
            command.arg(flag).args(values);
        }
    }
    if choice.write {
        command.arg("--write");
    }
    let output = command.output().with_context(|| format!("cannot run {}", python.display()))?;
    let agree = match output.status.code() {
        Some(code @ (0 | 1)) if !output.stdout.is_empty() => code == 0,
        _ => bail!("check.py failed with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)),
    };
    let mut table: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    let mut validity = vec![("two judges agree with each truth, and no verdict has changed".to_owned(), agree)];
    if choice.only.is_empty() {
        let (server, folder) = (S3Server::start()?, TempDir::new()?);
        for odd in odd_locations::write(&server, folder.path()).await? {
            let judged = odd_locations::judge(&python, &server, &odd, &LOCATION_JUDGES)?;
            let agree = judged.iter().filter(|judged| judged.ids.as_ref() == Some(&odd.ids)).count();
            table.extend(judged.iter().map(|Judged { engine, ids, error }| match ids {
                Some(ids) if *ids == odd.ids => format!("{} {engine} ok", odd.name),
                Some(ids) => format!("{} {engine} wrong: {ids:?}", odd.name),
                None => format!("{} {engine} refuses: {error}", odd.name),
            }));
            validity.push((format!("a judge agrees with {}", odd.name), agree > 0));
        }
    }
    let samples = json!(table);
    Ok(Outcome { name: "judges", table, samples, bounds: Vec::new(), validity })
}
