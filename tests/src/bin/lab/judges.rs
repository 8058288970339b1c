//! The judges of the Iceberg matrix, each in a process of its own: `tests/python/matrix/check.py`, in an environment of its own.
//!
//! Spark needs Java 17. A judge that cannot be had is absent, which is no failure where two others agree.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use gust_tests::python::{self, PythonEnvironment};
use serde_json::json;

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

pub fn measure(choice: &Choice, cache: &Path) -> anyhow::Result<Outcome> {
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
    let table: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    let samples = json!(table);
    let validity = vec![("two judges agree with each truth, and no verdict has changed".to_owned(), agree)];
    Ok(Outcome { name: "judges", table, samples, bounds: Vec::new(), validity })
}
