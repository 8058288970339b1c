//! This build behind the line protocol of [`gust_tests::peer`], so that `lab` can measure releases beside each other.
//!
//! ```text
//! gust_peer local | processes FUNCTIONS [auto | shuffle] | stock
//! ```
//!
//! Functions are processes of the `bootstrap_under_test` beside this program. `stock` is DataFusion without Gust.

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use arrow::array::RecordBatch;
use arrow_ipc::writer::FileWriter;
use datafusion::prelude::SessionContext;
use gust_engine::config::{Config, JoinPlace, S3Config, Secret, ShufflePlace, SortPlace, Target};
use gust_engine::report::{CostLine, Report};
use gust_engine::session::Session;
use gust_tests::peer::{Answer, PeerQuery, Question};
use gust_tests::query::run_with_events;
use object_store::aws::AmazonS3Builder;
use serde_json::{Value, json};
use url::Url;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let engine = Engine::start(&arguments)?;
    let mut answers = io::stdout();
    writeln!(answers, "{}", engine.version())?;
    for line in io::stdin().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Question::Tables(tables) => engine.create(&tables).await?,
            Question::Query(query) => engine.run(&query).await?,
        };
        writeln!(answers, "{}", serde_json::to_string(&answer)?)?;
    }
    engine.close().await;
    Ok(())
}

const USAGE: &str = "usage: gust_peer local | processes FUNCTIONS [auto | shuffle] | stock";

enum Engine {
    Gust { session: Box<Session>, target: Target },
    Stock(SessionContext),
}

/// Returns the settings by which functions send rows to one another.
fn exchanging(join: JoinPlace, shuffle: ShufflePlace, sort: SortPlace) -> Config {
    Config { join, shuffle, sort, ..Config::default() }
}

impl Engine {
    fn start(arguments: &[String]) -> anyhow::Result<Self> {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let config = match arguments.as_slice() {
            ["local"] => Config { on: Target::Local, ..Config::default() },
            ["processes", functions, exchange @ ..] => {
                let defaults = match exchange {
                    [] => Config::default(),
                    ["auto"] => exchanging(JoinPlace::Auto, ShufflePlace::Auto, SortPlace::Auto),
                    ["shuffle"] => exchanging(JoinPlace::Local, ShufflePlace::Hash, SortPlace::Ranges),
                    _ => bail!(USAGE),
                };
                let mut config = Config { on: Target::Processes, functions_max: functions.parse()?, ..defaults };
                config.process.program = Some(env::current_exe()?.with_file_name("bootstrap_under_test"));
                config
            }
            ["stock"] => return Ok(Self::Stock(SessionContext::new())),
            _ => bail!(USAGE),
        };
        let target = config.on;
        Ok(Self::Gust { session: Box::new(Session::new(Config { s3: s3(), ..config })?), target })
    }

    fn version(&self) -> String {
        match self {
            Self::Gust { target, .. } => format!("Gust {}, {target:?}", env!("CARGO_PKG_VERSION")),
            Self::Stock(_) => format!("DataFusion {}", datafusion::DATAFUSION_VERSION),
        }
    }

    async fn create(&self, tables: &BTreeMap<String, String>) -> anyhow::Result<Answer> {
        let create = tables
            .iter()
            .map(|(name, location)| format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{location}'"));
        if let Self::Stock(context) = self {
            register_store(context, tables)?;
        }
        let started = Instant::now();
        match self {
            Self::Gust { session, .. } => session.set_up(&create.collect::<Vec<_>>().join("; ")).await?,
            Self::Stock(context) => {
                for statement in create {
                    context.sql(&statement).await?.collect().await?;
                }
            }
        }
        Ok(Answer { seconds: started.elapsed().as_secs_f64(), rows: 0, gigabyte_seconds: None, report: Value::Null })
    }

    async fn run(&self, query: &PeerQuery) -> anyhow::Result<Answer> {
        let started = Instant::now();
        let (rows, gigabyte_seconds, report) = self.rows(&query.sql).await?;
        let seconds = started.elapsed().as_secs_f64();
        write(&rows, &query.rows)?;
        Ok(Answer { seconds, rows: rows.iter().map(RecordBatch::num_rows).sum(), gigabyte_seconds, report })
    }

    /// Runs a statement. Returns its rows, the functions' memory-seconds and the report.
    async fn rows(&self, sql: &str) -> anyhow::Result<(Vec<RecordBatch>, Option<f64>, Value)> {
        let (session, target) = match self {
            Self::Gust { session, target } => (session, *target),
            Self::Stock(context) => return Ok((context.sql(sql).await?.collect().await?, None, Value::Null)),
        };
        let (rows, report, events) = run_with_events(session, sql).await?;
        let gigabyte_seconds = match target {
            Target::Processes => {
                let tariff = session.tariff().await?;
                let cost = Report::priced(&events, Ok(&tariff)).cost.context("prices give a cost")?;
                let is_function = |line: &&CostLine| matches!(line.item.name(), "compute" | "start-up");
                let lines = cost.lines.iter().filter(|line| line.unit == "GB-s").filter(is_function);
                Some(lines.map(|line| line.quantity).sum())
            }
            _ => None,
        };
        Ok((rows, gigabyte_seconds, json!(report)))
    }

    async fn close(&self) {
        if let Self::Gust { session, .. } = self {
            session.close().await;
        }
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

fn s3() -> S3Config {
    S3Config {
        endpoint: variable("AWS_ENDPOINT_URL"),
        region: variable("AWS_REGION"),
        allow_http: true,
        path_style: true,
        access_key_id: variable("AWS_ACCESS_KEY_ID"),
        secret_access_key: variable("AWS_SECRET_ACCESS_KEY").map(Secret::new),
        ..S3Config::default()
    }
}

/// Registers the store of the tables, unless they are local. They are in one bucket.
fn register_store(context: &SessionContext, tables: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let location = tables.values().find_map(|location| Url::parse(location).ok());
    let Some(location) = location.filter(|location| location.scheme() == "s3") else { return Ok(()) };
    let store = AmazonS3Builder::from_env().with_url(location.as_str()).with_allow_http(true).build()?;
    context.register_object_store(&location, Arc::new(store));
    Ok(())
}

fn write(rows: &[RecordBatch], path: &Path) -> anyhow::Result<()> {
    // A statement without rows may have no batch, and then no schema.
    let Some(first) = rows.first() else { return Ok(()) };
    let mut writer = FileWriter::try_new(File::create(path)?, first.schema_ref())?;
    for batch in rows {
        writer.write(batch)?;
    }
    Ok(writer.finish()?)
}
