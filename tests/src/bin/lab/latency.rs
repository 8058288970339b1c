//! TPC-H over S3 that answers as late as the real one: this build and an earlier one, locally and by functions, beside other
//! engines. Every side is a process behind the line protocol of [`gust_tests::peer`], so that its clock, its processor time
//! and its requests are counted alike. Sides take turns, query by query and round by round, and meet the same latencies. All
//! rows are compared with DuckDB's over local files.
//!
//! ```text
//!  scenario: tables on a server of its own
//!    └─ query ─ round ─ side, in another order each round: one run ─▶ a sample
//! ```
//!
//! Non-goals: the peers' estimates and settings beyond those of [`side::SIDES`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use gust::demo::queries;
use gust::demo::table::TpchTable;
use gust_tests::compare::{Rule, compare, read_arrow_file};
use gust_tests::peer::{Answer, Peer, PeerQuery, Question};
use gust_tests::s3::{Operation, Request, S3Server, Shape, accounts, in_flight_max, repeated};
use gust_tests::tpch::{self, Tables};
use serde::Serialize;
use serde_json::Value;

use super::cpu::{self, Cpu};
use super::workload::Latency;
use super::{Outcome, memory};
use side::{SIDES, Side};

mod outcome;
mod side;

/// Longest time that requests may go on after the answer that they were for. Shaped latencies reach ten seconds.
const QUIET_MAX: Duration = Duration::from_secs(15);

/// Bytes that came and that nobody used, as reports name them.
const UNUSED: [&str; 4] =
    ["unused_pruned_bytes", "unused_limit_bytes", "unused_cancelled_bytes", "unused_given_back_bytes"];

/// Parts of the measurement that the command line chooses. An empty list chooses all.
#[derive(Args)]
pub struct Choice {
    /// Folder of an earlier build, with its `gust_peer` and `bootstrap_under_test`
    #[arg(long, value_name = "FOLDER")]
    against: Option<PathBuf>,
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<Scenario>,
    #[arg(long, value_delimiter = ',')]
    queries: Vec<usize>,
    /// Names of programs, as the table has them
    #[arg(long, value_delimiter = ',')]
    sides: Vec<String>,
}

/// Tables and server of a part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// S3's latency
    Latency,
    /// The same, with lineitem and orders in hundreds of files
    SmallFiles,
    /// A server that answers at once
    Loopback,
}

/// Run of a query by a side. Requests are the server's count of those that the side signed.
#[derive(Debug, Serialize)]
struct Sample {
    side: &'static str,
    query: usize,
    /// Number of the round. Round 0 warms up and does not count.
    round: usize,
    seconds: f64,
    cpu_seconds: f64,
    gets: u64,
    heads: u64,
    lists: u64,
    bytes_read: u64,
    in_flight_max: usize,
    /// Bytes that were served more often than the plan scans their table.
    bytes_again: u64,
    /// Requests that were sent a second time on purpose, by Gust's report.
    hedged: u64,
    /// Bytes that came and that nobody used, without gaps, by Gust's report.
    unused_bytes: u64,
    /// Time for which compute waited for bytes, over all lanes, by Gust's report.
    waited_seconds: f64,
    gigabyte_seconds: Option<f64>,
    /// Difference from DuckDB's rows.
    difference: Option<String>,
    /// True if functions did all that they were asked to. Other sides have none.
    all_remote: Option<bool>,
    report: Value,
}

/// Process of a side.
#[derive(Serialize)]
struct SideProcess {
    side: &'static str,
    version: String,
    /// Seconds in which the tables were made.
    setup_seconds: f64,
    /// Peak memory of the process itself, without that of its functions.
    peak_bytes: u64,
}

#[derive(Serialize)]
struct ScenarioRun {
    scenario: Scenario,
    rounds: usize,
    processes: Vec<SideProcess>,
    samples: Vec<Sample>,
    /// Share of the machine that programs had which are no part of the measurement.
    others_share: f64,
}

pub async fn measure(latency: &Latency, choice: &Choice, cache: &Path) -> anyhow::Result<Outcome> {
    let known = |name: &String| SIDES.iter().any(|side| side.name == name);
    let names = || SIDES.iter().map(|side| side.name).collect::<Vec<_>>().join(", ");
    ensure!(choice.sides.iter().all(known), "sides are {}", names());
    let numbers = if choice.queries.is_empty() { (1..=queries::COUNT).collect() } else { choice.queries.clone() };
    let mut runs = Vec::new();
    for scenario in Scenario::value_variants() {
        if choice.scenarios.is_empty() || choice.scenarios.contains(scenario) {
            runs.push(Bench::new(latency, *scenario, &numbers, cache).await?.run(choice, cache).await?);
        }
    }
    Ok(outcome::outcome(latency, &numbers, &runs))
}

/// Server with the tables of a scenario, and the queries with their judged rows.
struct Bench<'a> {
    latency: &'a Latency,
    scenario: Scenario,
    server: S3Server,
    queries: Vec<Query>,
    /// Folder of DuckDB's rows.
    judged: PathBuf,
    /// File that the sides write their rows to.
    rows: tempfile::TempPath,
}

struct Query {
    number: usize,
    /// Times that a plan scans each table.
    scans: BTreeMap<String, usize>,
}

impl<'a> Bench<'a> {
    async fn new(latency: &'a Latency, scenario: Scenario, numbers: &[usize], cache: &Path) -> anyhow::Result<Self> {
        let files = if scenario == Scenario::SmallFiles { latency.small_files } else { latency.files };
        let tables = tpch::tables_in_files(cache, latency.scale, files, latency.row_group_rows)?;
        let judged = memory::judge(&tables, numbers, cache, latency.scale)?;
        let server = S3Server::start()?;
        tables.upload(server.store()?.as_ref(), &root(&server)).await?;
        let mut queries = Vec::new();
        for &number in numbers {
            queries.push(Query { number, scans: scans(queries::query(number)).await? });
        }
        let rows = tempfile::NamedTempFile::new_in(cache)?.into_temp_path();
        Ok(Self { latency, scenario, server, queries, judged, rows })
    }

    async fn run(&self, choice: &Choice, cache: &Path) -> anyhow::Result<ScenarioRun> {
        let wanted = |side: &&Side| choice.sides.is_empty() || choice.sides.iter().any(|name| *name == side.name);
        let mut sides = Vec::new();
        for side in SIDES.iter().filter(|side| side.scenarios.contains(&self.scenario)).filter(wanted) {
            let command = side.command(&self.server, choice.against.as_deref(), self.latency.functions, cache)?;
            let Some(command) = command else { continue };
            let mut peer = Peer::start(command)?;
            self.shape(0);
            let setup = peer.ask(&Question::Tables(Tables::locations_at(&root(&self.server))))?;
            sides.push((side, peer, setup.seconds));
        }
        let cpu = Cpu::now()?;
        let rounds = match self.scenario {
            Scenario::SmallFiles => self.latency.rounds_of_small_files,
            Scenario::Latency | Scenario::Loopback => self.latency.rounds,
        };
        let (mut samples, count) = (Vec::new(), sides.len());
        for query in &self.queries {
            let first = samples.len();
            for round in 0..=rounds {
                for turn in 0..count {
                    let (side, peer, _) = &mut sides[(round + turn) % count];
                    samples.push(self.sample(side, peer, query, round).await?);
                }
            }
            let names = sides.iter().map(|(side, ..)| side.name);
            eprintln!("{:?}: {}", self.scenario, outcome::progress(query.number, names, &samples[first..]));
        }
        let others_share = Cpu::now()?.shares_since(&cpu).others();
        let mut processes = Vec::new();
        for (side, peer, setup_seconds) in sides {
            let peak_bytes = memory::high_water_bytes(&peer.id().to_string()).unwrap_or_default();
            let version = peer.version.clone();
            processes.push(SideProcess { side: side.name, version, setup_seconds, peak_bytes });
            peer.end()?;
        }
        Ok(ScenarioRun { scenario: self.scenario, rounds, processes, samples, others_share })
    }

    async fn sample(&self, side: &Side, peer: &mut Peer, query: &Query, round: usize) -> anyhow::Result<Sample> {
        self.shape(round);
        self.server.take_requests();
        let (sql, rows) = (queries::query(query.number).to_owned(), self.rows.to_path_buf());
        std::fs::write(&rows, "")?;
        let cpu = cpu::of_family(peer.id())?;
        let question = Question::Query(PeerQuery { number: query.number, sql, rows });
        let answer = peer.ask(&question).with_context(|| format!("query {} by {}", query.number, side.name))?;
        let cpu_seconds = cpu::of_family(peer.id())?.saturating_sub(cpu).as_secs_f64();
        self.quiet().await?;
        let key = side.access_key();
        let requests: Vec<Request> =
            self.server.take_requests().into_iter().filter(|request| request.identity == key).collect();
        let account = accounts(&requests).remove(&key).unwrap_or_default();
        let count = |operation| account.requests.get(&operation).copied().unwrap_or_default();
        let report = &answer.report;
        let hedged = |of: &str| report[of]["requests"]["hedged"].as_u64().unwrap_or_default();
        let reading = ["coordinator", "functions"].map(|of| &report[of]);
        let unused = |of: &Value| UNUSED.map(|why| of["ahead"][why].as_u64().unwrap_or_default()).iter().sum::<u64>();
        Ok(Sample {
            side: side.name,
            query: query.number,
            round,
            seconds: answer.seconds,
            cpu_seconds,
            gets: count(Operation::Get),
            heads: count(Operation::Head),
            lists: count(Operation::List),
            bytes_read: account.bytes_read,
            in_flight_max: in_flight_max(&requests).remove(&key).unwrap_or_default(),
            bytes_again: query.bytes_again(&requests),
            hedged: hedged("functions") + hedged("coordinator"),
            unused_bytes: reading.into_iter().map(unused).sum(),
            waited_seconds: reading.into_iter().filter_map(|of| of["waited_seconds"].as_f64()).sum(),
            gigabyte_seconds: answer.gigabyte_seconds,
            difference: self.difference(query.number, &answer)?,
            all_remote: answer.gigabyte_seconds.map(|_| {
                let fragments = report["fragments"].as_u64().unwrap_or_default();
                fragments > 0 && report["fragments_adopted"] == fragments && report["fell_back"].is_null()
            }),
            report: answer.report,
        })
    }

    /// Sets the server's latencies for a run. They are drawn anew, so that all runs of a round draw the same.
    fn shape(&self, round: usize) {
        let shape = &self.latency.shape;
        let shape = Shape { seed: shape.seed + round as u64, ..shape.clone() };
        self.server.set_shape((self.scenario != Scenario::Loopback).then_some(shape));
    }

    /// Waits until the requests are over that a side has given up.
    async fn quiet(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        while self.server.in_flight() > 0 {
            ensure!(started.elapsed() < QUIET_MAX, "requests go on {QUIET_MAX:?} after the answer");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    fn difference(&self, number: usize, answer: &Answer) -> anyhow::Result<Option<String>> {
        let expected = read_arrow_file(&self.judged.join(format!("q{number:02}.arrow")))?;
        // A side without rows may leave the file as it was.
        let rows = if answer.rows == 0 { Vec::new() } else { read_arrow_file(&self.rows)? };
        let difference = compare(&expected, &rows, Rule::other_engine().in_any_order()).err();
        Ok(difference.map(|difference| difference.to_string()))
    }
}

impl Query {
    /// Returns the bytes that were served more often than the plan scans their table.
    fn bytes_again(&self, requests: &[Request]) -> u64 {
        let again = repeated(requests).into_iter().map(|stretch| {
            let table = stretch.key.split('/').next().unwrap_or_default();
            let scans = self.scans.get(table).copied().unwrap_or_default();
            (stretch.bytes.end - stretch.bytes.start) * stretch.times.saturating_sub(scans) as u64
        });
        again.sum()
    }
}

fn root(server: &S3Server) -> String {
    server.url("").trim_end_matches('/').to_owned()
}

/// Counts the scans of each table in DataFusion's plan of a query.
async fn scans(sql: &str) -> anyhow::Result<BTreeMap<String, usize>> {
    let context = SessionContext::new();
    for table in TpchTable::ALL {
        context.register_table(table.name(), Arc::new(EmptyTable::new(table.schema())))?;
    }
    let plan = context.sql(sql).await?.into_optimized_plan()?;
    let mut scans = BTreeMap::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            *scans.entry(scan.table_name.table().to_owned()).or_default() += 1;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(scans)
}
