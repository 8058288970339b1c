//! Estimates of EXPLAIN COST beside the report's figures. They are calibrated on tables of their own and tested on TPC-H and
//! random queries, on cloud-shaped S3. With `--stages` they are tested on TPC-H alone, whose functions send rows to one another.

use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Decimal128Type, Float64Type, UInt64Type};
use gust::calibrate::calibrate;
use gust::demo::queries;
use gust_engine::config::{Config, JoinPlace, ShufflePlace, SortPlace, Target};
use gust_engine::model::measured::save;
use gust_engine::report::Report;
use gust_engine::session::Session;
use gust_tests::chaos::random_query;
use gust_tests::query::run_with_events;
use gust_tests::s3::{S3Server, Shape};
use gust_tests::stats::median;
use gust_tests::{cloud, tpch};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::Serialize;
use serde_json::json;

use super::tax::sibling;
use super::workload::{Estimates, Limits};
use super::{Bound, Outcome};

/// Rows from functions to functions.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Stages {
    /// Wherever that is right
    Shuffle,
    /// Exchanges where statistics find many rows; joins by copies where one side is small
    Auto,
}

/// Queries that are estimated.
#[derive(clap::Args)]
pub struct Choice {
    /// The 22 TPC-H queries alone, with rows from functions to functions
    #[arg(long, value_enum)]
    stages: Option<Stages>,
}

impl Stages {
    /// Returns the settings by which functions send rows to one another.
    fn config(self, estimates: &Estimates) -> Config {
        let (join, shuffle, sort) = match self {
            Self::Shuffle => (JoinPlace::Local, ShufflePlace::Hash, SortPlace::Ranges),
            Self::Auto => (JoinPlace::Auto, ShufflePlace::Auto, SortPlace::Auto),
        };
        Config { join, shuffle, sort, shuffle_bytes_min: estimates.stages.auto_bytes_min, ..Config::default() }
    }
}

/// Query that was estimated and then run.
#[derive(Serialize)]
struct Sample {
    name: String,
    dollars: EstimatedFigure,
    gigabyte_seconds: EstimatedFigure,
    requests: EstimatedFigure,
    all_remote: bool,
    /// Stages whose rows went to other functions.
    shuffles: usize,
}

/// Estimate of a figure, and the figure itself.
#[derive(Clone, Copy, Serialize)]
struct EstimatedFigure {
    expected: f64,
    upper: f64,
    actual: f64,
}

impl EstimatedFigure {
    fn error(&self) -> f64 {
        (self.expected / self.actual - 1.0).abs()
    }
}

pub async fn measure(estimates: &Estimates, choice: &Choice, shape: &Shape, cache: &Path) -> anyhow::Result<Outcome> {
    let server = S3Server::start()?;
    let bootstrap = sibling("bootstrap_under_test")?;
    let tables = tpch::tables_at(cache, estimates.scale, estimates.files, estimates.row_group_rows)?;
    let store = server.store()?;
    let create = tables.upload(store.as_ref(), server.url("").trim_end_matches('/')).await?;
    server.set_shape(Some(shape.clone()));
    let folder = tempfile::tempdir()?;
    let time_model = folder.path().join("model.toml");
    let config = Config {
        on: Target::Processes,
        functions_max: estimates.functions,
        exchange: Some(server.url("exchange")),
        ..choice.stages.map_or_else(Config::default, |stages| stages.config(estimates))
    };
    let config = cloud::config(&server, config, &bootstrap);
    let calibration = Box::pin(calibrate(&config, estimates.calibration_bytes, &|_| {})).await?;
    save(&time_model, calibration.measured.clone())?;
    let session = Session::new(Config { time_model: Some(time_model), ..config })?;
    session.set_up(&create.join("; ")).await?;
    let mut queries: Vec<(String, String)> =
        (1..=22).map(|number| (format!("Q{number}"), queries::query(number).to_owned())).collect();
    let mut rounds = 1;
    match choice.stages {
        Some(_) => rounds = estimates.stages.rounds,
        None => {
            let mut random = SmallRng::seed_from_u64(estimates.seed);
            let random =
                (0..estimates.random_queries).map(|number| (format!("random {number}"), random_query(&mut random)));
            queries.extend(random.collect::<Vec<_>>());
        }
    }
    let mut samples = Vec::new();
    for _ in 0..rounds {
        for (name, sql) in &queries {
            samples.push(Box::pin(sample(&session, name.clone(), sql)).await?);
        }
    }
    session.close().await;
    Ok(outcome(estimates, choice.stages, &samples, &json!({ "calibration": calibration.measured })))
}

async fn sample(session: &Session, name: String, sql: &str) -> anyhow::Result<Sample> {
    let (rows, ..) = run_with_events(session, &format!("EXPLAIN COST {sql}")).await?;
    let (_, report, events) = run_with_events(session, sql).await?;
    let tariff = session.tariff().await?;
    let cost = Report::priced(&events, Ok(&tariff)).cost.ok_or_else(|| anyhow::anyhow!("no prices"))?;
    let picked = PickedRow::of(&rows)?;
    let gigabyte_seconds = cost.lines.iter().filter(|line| line.unit == "GB-s" && is_function(line.item.name()));
    let estimated = |(expected, upper): (f64, f64), actual| EstimatedFigure { expected, upper, actual };
    Ok(Sample {
        name,
        dollars: estimated(picked.dollars, cost.at_most.nano_dollars() as f64 / 1e9),
        gigabyte_seconds: estimated(picked.gigabyte_seconds, gigabyte_seconds.map(|line| line.quantity).sum()),
        requests: estimated(
            picked.requests,
            cost.lines.iter().filter(|line| line.unit == "requests").map(|line| line.quantity).sum(),
        ),
        all_remote: report.fragments_adopted > 0 && report.fell_back.is_none(),
        shuffles: report.shuffles,
    })
}

fn is_function(item: &str) -> bool {
    matches!(item, "compute" | "start-up")
}

/// Row of the picked place: each figure as expected and at most.
struct PickedRow {
    dollars: (f64, f64),
    gigabyte_seconds: (f64, f64),
    requests: (f64, f64),
}

impl PickedRow {
    fn of(rows: &[RecordBatch]) -> anyhow::Result<Self> {
        let batch = rows.first().ok_or_else(|| anyhow::anyhow!("EXPLAIN COST has no rows"))?;
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| anyhow::anyhow!("no column {name}"));
        let row = column("picked")?.as_string::<i32>().iter().position(|picked| picked == Some("picked"));
        let row = row.ok_or_else(|| anyhow::anyhow!("nothing is picked"))?;
        let dollars = |name| anyhow::Ok(column(name)?.as_primitive::<Decimal128Type>().value(row) as f64 / 1e9);
        let float = |name| anyhow::Ok(column(name)?.as_primitive::<Float64Type>().value(row));
        let count = |name| anyhow::Ok(column(name)?.as_primitive::<UInt64Type>().value(row) as f64);
        Ok(Self {
            dollars: (dollars("expected_dollars")?, dollars("upper_dollars")?),
            gigabyte_seconds: (float("gb_seconds")?, float("upper_gb_seconds")?),
            requests: (count("requests")?, count("upper_requests")?),
        })
    }
}

fn outcome(
    estimates: &Estimates,
    stages: Option<Stages>,
    samples: &[Sample],
    calibration: &serde_json::Value,
) -> Outcome {
    let mut table = vec![
        "query      expected µ$  actual µ$  upper µ$  error  upper/actual | GB-s expected  actual  error | requests expected  actual  error".to_owned(),
    ];
    for Sample { name, dollars, gigabyte_seconds, requests, .. } in samples {
        table.push(format!(
            "{name:<10} {:>11.1}  {:>9.1}  {:>8.1}  {:>3.0} %  {:>12.2} | {:>13.3}  {:>6.3}  {:>3.0} % | {:>17.0}  {:>6.0}  {:>3.0} %",
            1e6 * dollars.expected,
            1e6 * dollars.actual,
            1e6 * dollars.upper,
            100.0 * dollars.error(),
            dollars.upper / dollars.actual,
            gigabyte_seconds.expected,
            gigabyte_seconds.actual,
            100.0 * gigabyte_seconds.error(),
            requests.expected,
            requests.actual,
            100.0 * requests.error(),
        ));
    }
    let middle = |of: fn(&Sample) -> f64| median(&samples.iter().map(of).collect::<Vec<_>>());
    table.push(format!(
        "median errors: dollars {:.1} %, GB-s {:.1} %, requests {:.1} %",
        100.0 * middle(|sample| sample.dollars.error()),
        100.0 * middle(|sample| sample.gigabyte_seconds.error()),
        100.0 * middle(|sample| sample.requests.error()),
    ));
    let broken = samples.iter().filter(|sample| sample.dollars.actual > sample.dollars.upper).count();
    let limits = |aim, worst| Limits { aim, worst };
    let (of_error, of_above, of_ratio) = match stages {
        Some(_) => (estimates.stages.error, estimates.stages.above, estimates.stages.upper_ratio),
        None => (
            limits(estimates.aim_error, estimates.worst_error),
            limits(estimates.aim_above, estimates.worst_above),
            limits(estimates.aim_upper_ratio, estimates.worst_upper_ratio),
        ),
    };
    let bound = |what: &str, measured, Limits { aim, worst }: Limits, unit| Bound {
        what: what.to_owned(),
        measured,
        aim,
        worst,
        unit,
    };
    let sent = samples.iter().filter(|sample| sample.shuffles > 0).count();
    let enough = match stages {
        None => ("at least 100 queries".to_owned(), samples.len() >= 100),
        // One of the 22 has neither groups nor a join.
        Some(Stages::Shuffle) => {
            ("functions sent rows to one another for nine of ten queries".to_owned(), sent * 10 >= samples.len() * 9)
        }
        Some(Stages::Auto) => {
            ("functions sent rows to one another for a quarter of the queries".to_owned(), sent * 4 >= samples.len())
        }
    };
    Outcome {
        name: "estimate",
        table,
        samples: json!({ "calibration": calibration, "queries": samples }),
        bounds: vec![
            bound("median error of dollars", middle(|sample| sample.dollars.error()), of_error, ""),
            bound("queries above their upper bound", broken as f64 / samples.len() as f64, of_above, "of all"),
            bound(
                "median of upper bound over actual",
                middle(|sample| sample.dollars.upper / sample.dollars.actual),
                of_ratio,
                "times",
            ),
        ],
        validity: vec![
            ("every query ran on functions".to_owned(), samples.iter().all(|sample| sample.all_remote)),
            enough,
        ],
    }
}
