//! A running server, as a client that is made from its description sees it: schemathesis with all checks, for as many examples as wanted.

use std::path::Path;

use anyhow::Context;
use gust_tests::python::{OPENAPI, Run, run_with};
use serde_json::json;

use super::Outcome;

/// The server, and the length of the run.
#[derive(clap::Args)]
pub struct Choice {
    /// Address of a server that runs, e.g. http://127.0.0.1:8123
    #[arg(long)]
    url: String,
    /// File with a token's secret; a server without users takes any
    #[arg(long)]
    token: Option<std::path::PathBuf>,
    /// Examples for each operation
    #[arg(long, default_value_t = 1_000)]
    examples: u32,
    /// Beginning of their chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub fn measure(choice: &Choice, cache: &Path) -> anyhow::Result<Outcome> {
    let secret = match &choice.token {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
        None => "none".to_owned(),
    };
    let (examples, seed) = (choice.examples.to_string(), choice.seed.to_string());
    let arguments = [choice.url.as_str(), secret.trim(), &examples, &seed];
    let ran = run_with(cache, OPENAPI, "openapi_client.py", &arguments);
    let (table, is_clean) = match ran {
        Ok(Run::Done { stdout }) => (stdout.lines().map(str::to_owned).collect(), true),
        Ok(Run::Skipped { reason }) => anyhow::bail!("schemathesis is not to be had: {reason}"),
        Err(error) => (format!("{error:#}").lines().map(str::to_owned).collect::<Vec<_>>(), false),
    };
    let samples = json!(table);
    let validity = vec![("all checks hold for each example".to_owned(), is_clean)];
    Ok(Outcome { name: "openapi", table, samples, bounds: Vec::new(), validity })
}
