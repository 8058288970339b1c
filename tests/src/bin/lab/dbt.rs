//! A server, as dbt sees it by its adapter for PostgreSQL: `dbt debug`, and `dbt show` of models and of a text.

use std::fs;
use std::path::Path;

use gust_tests::python::{DBT, Run, run_with};
use gust_tests::query::plain;
use serde_json::json;

use super::Outcome;
use crate::served::Server;

pub async fn measure(cache: &Path) -> anyhow::Result<Outcome> {
    let folder = tempfile::tempdir_in(cache)?;
    let to = folder.path().join("t/a.parquet");
    let rows = "SELECT value AS k, 'n' || value AS name FROM generate_series(1, 1000)";
    fs::create_dir(folder.path().join("t"))?;
    plain(&[], &format!("COPY ({rows}) TO '{}' STORED AS PARQUET", to.display())).await;
    fs::write(folder.path().join("setup.sql"), "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 't/'")?;
    let server = Server::start(folder.path(), &["--setup", "setup.sql"])?;
    let ran = run_with(cache, DBT, "dbt_show.py", &[server.ports.postgres.to_string()]);
    let (table, is_clean) = match ran {
        Ok(Run::Done { stdout }) => (stdout.lines().map(str::to_owned).collect(), true),
        Ok(Run::Skipped { reason }) => anyhow::bail!("dbt is not to be had: {reason}"),
        Err(error) => (format!("{error:#}").lines().map(str::to_owned).collect::<Vec<_>>(), false),
    };
    let (samples, validity) = (json!(table), vec![("dbt shows the rows".to_owned(), is_clean)]);
    Ok(Outcome { name: "dbt", table, samples, bounds: Vec::new(), validity })
}
