//! Time of planning: `auto` beside `--on local`, over TPC-H with large scans. By the time model functions pay, so that `auto` plans twice and
//! compares every packing.

use std::path::Path;
use std::time::Instant;

use gust::demo::queries;
use gust_engine::config::{Config, Target};
use gust_engine::model::measured::{Measured, save};
use gust_engine::session::Session;
use gust_tests::stats::median;
use gust_tests::tpch::{self, Tables};
use serde::Serialize;
use serde_json::json;

use super::workload::Planning;
use super::{Bound, Outcome};

/// Milliseconds from a query's text to its plan in words.
#[derive(Serialize)]
struct Sample {
    query: usize,
    local_ms: Vec<f64>,
    auto_ms: Vec<f64>,
    on_functions: bool,
}

impl Sample {
    fn extra_ms(&self) -> f64 {
        median(&self.auto_ms) - median(&self.local_ms)
    }
}

pub async fn measure(planning: &Planning, cache: &Path) -> anyhow::Result<Outcome> {
    let tables = tpch::tables_at(cache, planning.scale, planning.files, planning.row_group_rows)?;
    let folder = tempfile::tempdir()?;
    let time_model = folder.path().join("model.toml");
    save(&time_model, functions_pay())?;
    let config = Config { time_model: Some(time_model), functions_max: planning.functions, ..Config::default() };
    let local = session(Config { on: Target::Local, ..config.clone() }, &tables).await?;
    let auto = session(Config { on: Target::Auto, ..config }, &tables).await?;
    let mut samples = Vec::new();
    for query in 1..=queries::COUNT {
        let mut sample = Sample { query, local_ms: Vec::new(), auto_ms: Vec::new(), on_functions: true };
        // The first pair only warms up.
        for pair in 0..=planning.pairs {
            let (local_ms, _) = planned(&local, queries::query(query)).await?;
            let (auto_ms, plan) = planned(&auto, queries::query(query)).await?;
            sample.on_functions &= plan.contains("functions are estimated to be faster");
            if pair > 0 {
                sample.local_ms.push(local_ms);
                sample.auto_ms.push(auto_ms);
            }
        }
        samples.push(sample);
    }
    local.close().await;
    auto.close().await;
    Ok(outcome(planning, &samples))
}

/// Returns a calibration by which functions are faster than the coordinator.
fn functions_pay() -> Measured {
    Measured {
        functions: "processes of 1 core".to_owned(),
        date: "2026-11-28".parse().expect("a day"),
        start_up_seconds: 0.05,
        stage_seconds: 0.01,
        fragment_seconds: 0.0001,
        attempt_seconds: 0.005,
        request_seconds: 0.03,
        request_seconds_least: 0.015,
        core_bytes_per_second: 1e9,
        function_cores: 1.0,
        pipe_bytes_per_second: 1e6,
        together_bytes_per_second: None,
        function_pipe_first: 1e8,
        function_pipe: 1e8,
        function_pipe_burst_bytes: 0,
    }
}

async fn session(config: Config, tables: &Tables) -> anyhow::Result<Session> {
    let session = Session::new(config)?;
    session.set_up(&tables.create_statements().join("; ")).await?;
    Ok(session)
}

/// Plans a query, and returns the milliseconds and the plan in words.
async fn planned(session: &Session, sql: &str) -> anyhow::Result<(f64, String)> {
    let started = Instant::now();
    let mut plan = String::new();
    for statement in session.parse(sql)? {
        plan = session.explain(statement).await?;
    }
    Ok((started.elapsed().as_secs_f64() * 1000.0, plan))
}

fn outcome(planning: &Planning, samples: &[Sample]) -> Outcome {
    let mut table = vec!["query  local ms  auto ms  more ms".to_owned()];
    table.extend(samples.iter().map(|sample| {
        let (local_ms, auto_ms) = (median(&sample.local_ms), median(&sample.auto_ms));
        format!("{:>5}  {local_ms:>8.1}  {auto_ms:>7.1}  {:>7.1}", sample.query, sample.extra_ms())
    }));
    Outcome {
        name: "planning",
        table,
        samples: json!(samples),
        bounds: vec![Bound {
            what: "most that `auto` takes longer to plan one of 22 queries than `--on local`".to_owned(),
            measured: samples.iter().map(Sample::extra_ms).fold(0.0, f64::max),
            aim: planning.aim_ms,
            worst: planning.worst_ms,
            unit: "ms",
        }],
        validity: vec![(
            "most queries are planned for functions".to_owned(),
            samples.iter().filter(|sample| sample.on_functions).count() * 2 > samples.len(),
        )],
    }
}
