//! Time from a physical plan to encoded stages: cutting, encoding, and comparing what was encoded. The 22 TPC-H queries, and a query over twenty tables in the shape of
//! TPC-DS's 64th: sales and their returns with eighteen dimensions, grouped, twice over and joined.

use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use datafusion::execution::SessionState;
use datafusion::prelude::SessionContext;
use gust::demo::queries;
use gust_engine::config::{Config, JoinPlace, ShufflePlace, Target};
use gust_engine::planner::passes::broadcast::Joins;
use gust_engine::planner::passes::facts::Facts;
use gust_engine::planner::passes::shuffle::{Shuffles, StageRules};
use gust_engine::planner::passes::spread::distributing;
use gust_engine::planner::passes::stages::CutPlan;
use gust_engine::planner::{FunctionAccess, Placement};
use gust_engine::session::Session;
use gust_protocol::StoreAccess;
use gust_tests::stats::median;
use gust_tests::tpch;
use serde::Serialize;
use serde_json::json;

use super::workload::{Cutting, Limits};
use super::{Bound, Outcome};

/// Dimensions of the query over twenty tables.
const DIMENSIONS: usize = 18;

/// A query, and the milliseconds of each run.
#[derive(Serialize)]
struct Sample {
    name: String,
    stages: usize,
    scans: usize,
    cut_ms: Vec<f64>,
}

pub async fn measure(cutting: &Cutting, cache: &Path) -> anyhow::Result<Outcome> {
    let tables = tpch::tables_at(cache, cutting.scale, cutting.files, cutting.row_group_rows)?;
    let session = Session::new(Config { on: Target::Local, ..Config::default() })?;
    session.set_up(&tables.create_statements().join("; ")).await?;
    let folder = tempfile::tempdir()?;
    session.set_up(&twenty_tables(folder.path()).await?.join("; ")).await?;
    let state = session.context().state();
    let (mut samples, mut twenty) = (Vec::new(), Vec::new());
    for (way, joins) in WAYS {
        for query in 1..=queries::COUNT {
            let name = format!("Q{query} by {way}");
            samples.push(Box::pin(sample(&state, joins, name, queries::query(query), cutting.runs)).await?);
        }
        let name = format!("twenty tables by {way}");
        twenty.push(Box::pin(sample(&state, joins, name, &over_twenty_tables(), cutting.runs)).await?);
    }
    session.close().await;
    Ok(outcome(cutting, samples, twenty))
}

/// Joins by copies of small sides, and by exchanges alone. Groups have exchanges in both.
const WAYS: [(&str, Joins); 2] = [
    ("copies", Joins { place: JoinPlace::Broadcast, bytes_max: 8 << 20, probe_bytes_min: 0 }),
    ("exchanges", Joins::LOCAL),
];

async fn sample(state: &SessionState, joins: Joins, name: String, sql: &str, runs: usize) -> anyhow::Result<Sample> {
    let shuffles = Shuffles { place: ShufflePlace::Hash, ..Shuffles::NONE };
    let rules = StageRules { joins, shuffles, facts: Facts::of(state.config_options()), ..StageRules::SCANS };
    let logical = state.optimize(&state.create_logical_plan(sql).await?)?;
    let distributing = distributing(state, rules);
    let plan = distributing.query_planner().create_physical_plan(&logical, &distributing).await?;
    let reach =
        |url: &str| Ok(FunctionAccess::Through(StoreAccess { url: url.to_owned(), options: Default::default() }));
    let mut sample = Sample { name, stages: 0, scans: 0, cut_ms: Vec::new() };
    // The first run only warms up.
    for run in 0..=runs {
        let started = Instant::now();
        let cut = CutPlan::of(&plan, rules, &reach)?;
        let ms = started.elapsed().as_secs_f64() * 1_000.0;
        let Placement::Functions(cut) = cut else { anyhow::bail!("{}: nothing was cut off", sample.name) };
        (sample.stages, sample.scans) = (cut.plans().count(), cut.scans().map(|scans| scans.len()).sum());
        if run > 0 {
            sample.cut_ms.push(ms);
        }
    }
    Ok(sample)
}

/// Writes the twenty tables, and returns the statements that make them. Dimensions have a key and an attribute.
async fn twenty_tables(folder: &Path) -> anyhow::Result<Vec<String>> {
    let keys: Vec<String> = (0..DIMENSIONS).map(|number| format!(", value % {} AS k{number}", 10 + number)).collect();
    let sales = format!("SELECT value AS ticket, value % 7 AS item, value * 3 AS price{}", keys.concat());
    let mut tables = vec![
        ("sales".to_owned(), sales),
        ("returned".to_owned(), "SELECT value * 2 AS ticket, value * 2 % 7 AS item".to_owned()),
    ];
    let dimension = |number: usize| (format!("d{number}"), "SELECT value AS k, value % 5 AS a".to_owned());
    tables.extend((0..DIMENSIONS).map(dimension));
    let context = SessionContext::new();
    let mut statements = Vec::new();
    for (name, rows) in tables {
        let file = folder.join(&name).join("0.parquet");
        let sql = format!("COPY ({rows} FROM generate_series(0, 999)) TO '{}'", file.display());
        context.sql(&sql).await?.collect().await?;
        ensure!(file.exists(), "{} was not written", file.display());
        let location = folder.join(&name);
        statements.push(format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{}/'", location.display()));
    }
    Ok(statements)
}

fn over_twenty_tables() -> String {
    let joins: Vec<String> =
        (0..DIMENSIONS).map(|number| format!(" JOIN d{number} ON s.k{number} = d{number}.k")).collect();
    let joins = joins.concat();
    let cross = format!(
        "SELECT d0.a AS item, d1.a AS store, d2.a AS year, count(*) AS n, sum(s.price) AS dollars FROM sales s \
         JOIN returned r ON s.ticket = r.ticket AND s.item = r.item{joins} WHERE d3.a <> d4.a GROUP BY d0.a, d1.a, d2.a"
    );
    format!(
        "WITH cross_sales AS ({cross}) SELECT x.item, x.store, x.n, x.dollars, y.n, y.dollars FROM cross_sales x \
         JOIN cross_sales y ON x.item = y.item AND x.store = y.store WHERE x.year = 1 AND y.year = 2 AND y.n <= x.n ORDER BY 1, 2, 3"
    )
}

fn outcome(cutting: &Cutting, samples: Vec<Sample>, twenty: Vec<Sample>) -> Outcome {
    let slowest = |samples: &[Sample]| samples.iter().map(|sample| median(&sample.cut_ms)).fold(0.0, f64::max);
    let bound = |what: &str, samples: &[Sample], limits: Limits| Bound {
        what: what.to_owned(),
        measured: slowest(samples),
        aim: limits.aim,
        worst: limits.worst,
        unit: "ms",
    };
    let bounds = vec![
        bound("the slowest of 22 queries, cut and encoded", &samples, cutting.tpch_ms),
        bound("the query over twenty tables", &twenty, cutting.twenty_tables_ms),
    ];
    let staged = samples.iter().filter(|sample| sample.stages > 1).count();
    let validity = vec![
        ("nine of ten plans of the 22 queries have several stages".to_owned(), staged * 10 >= samples.len() * 9),
        (
            "each of the twenty tables is scanned by functions, twice".to_owned(),
            twenty.iter().all(|sample| sample.scans == 2 * (2 + DIMENSIONS)),
        ),
    ];
    let all: Vec<Sample> = samples.into_iter().chain(twenty).collect();
    let mut table = vec!["query                       stages  scans  cut ms  longest".to_owned()];
    table.extend(all.iter().map(|Sample { name, stages, scans, cut_ms }| {
        let longest = cut_ms.iter().copied().fold(0.0, f64::max);
        format!("{name:<26}  {stages:>6}  {scans:>5}  {:>6.2}  {longest:>7.2}", median(cut_ms))
    }));
    Outcome { name: "planning", table, samples: json!(all), bounds, validity }
}
