//! Speed-up by more functions where the network is the bound: one scan, one run, one pipe for each function.

use std::time::Instant;

use arrow::util::pretty::pretty_format_batches;
use gust_engine::config::{Config, Target};
use gust_engine::report::Report;
use gust_engine::session::Session;
use gust_tests::cloud;
use gust_tests::query::run_with_events;
use gust_tests::s3::identity::{COORDINATOR, FUNCTION, access_key};
use gust_tests::s3::{Operation, S3Server, Shape};
use gust_tests::stats::median;
use serde::Serialize;
use serde_json::json;

use super::cloud_table::CloudTable;
use super::cpu::{Cpu, Shares};
use super::tax::sibling;
use super::workload::Scaling;
use super::{Bound, Outcome};

/// Query that starts every function process before the measured run.
const WARM_UP: &str = "SELECT count(*), sum(c0) FROM w";

/// Run that was timed.
#[derive(Serialize)]
struct Sample {
    seconds: f64,
    /// Seconds from the text to the plan, and from the last answer to the last row, which more functions do not shorten.
    serial_seconds: f64,
    cpu: Shares,
    /// GETs by the functions' identities (by the coordinator's where it runs locally), counted by the server.
    gets: u64,
    /// Bytes by the same identities.
    bytes: u64,
    /// Bytes of the busiest pipe over their mean.
    imbalance: f64,
    pipes: usize,
    hedged: u64,
    #[serde(skip)]
    rows: String,
    all_remote: bool,
}

pub async fn measure(
    scaling: &Scaling,
    shape: &Shape,
    data: &CloudTable,
    functions: &[u32],
) -> anyhow::Result<Outcome> {
    let bench = Bench::new(shape, data).await?;
    let mut rows = vec![Row { functions: 0, samples: bench.samples(Target::Local, 1, scaling.runs).await? }];
    for functions in functions {
        let samples = bench.samples(Target::Processes, *functions, scaling.runs).await?;
        rows.push(Row { functions: *functions, samples });
    }
    Ok(outcome(scaling, data, &rows))
}

/// Server with the tables, and the statements that are run on it.
struct Bench<'a> {
    server: S3Server,
    create: String,
    create_warm_up: String,
    query: String,
    shape: &'a Shape,
}

impl<'a> Bench<'a> {
    async fn new(shape: &'a Shape, data: &CloudTable) -> anyhow::Result<Self> {
        let server = S3Server::start()?;
        let create = data.put(&server, "t").await?;
        let warm_up = CloudTable { rows_per_file: 1, ..*data };
        let create_warm_up = warm_up.put(&server, "w").await?;
        Ok(Self { server, create, create_warm_up, query: data.query(data.columns), shape })
    }

    async fn samples(&self, target: Target, functions: u32, runs: usize) -> anyhow::Result<Vec<Sample>> {
        let mut samples = Vec::new();
        for run in 0..runs {
            samples.push(self.sample(target, functions, run as u64).await?);
        }
        Ok(samples)
    }

    /// Runs the query once. The functions run but have not seen the table; the coordinator has planned the query before.
    ///
    /// Each run of a row meets other latencies, the same as that run of the other rows.
    async fn sample(&self, target: Target, functions: u32, run: u64) -> anyhow::Result<Sample> {
        self.server.set_shape(None);
        let config = Config { on: target, functions_max: functions, ..Config::default() };
        let session = cloud::session(&self.server, config, &sibling("bootstrap_under_test")?)?;
        run_with_events(&session, &self.create).await?;
        run_with_events(&session, &self.create_warm_up).await?;
        run_with_events(&session, WARM_UP).await?;
        run_with_events(&session, &format!("EXPLAIN {}", self.query)).await?;
        self.server.set_shape(Some(Shape { seed: self.shape.seed + run, ..self.shape.clone() }));
        self.server.take_requests();
        let sample = self.timed(&session, target).await;
        session.close().await;
        sample
    }

    async fn timed(&self, session: &Session, target: Target) -> anyhow::Result<Sample> {
        let cpu = Cpu::now()?;
        let started = Instant::now();
        let (batches, report, _) = run_with_events(session, &self.query).await?;
        let seconds = started.elapsed().as_secs_f64();
        let cpu = Cpu::now()?.shares_since(&cpu);
        let who = access_key(if target == Target::Local { COORDINATOR } else { FUNCTION });
        let requests = self.server.take_requests();
        let reads = requests.iter().filter(|r| r.operation == Operation::Get && r.identity.starts_with(&who));
        let pipes = self.server.passed_bytes();
        let pipes: Vec<u64> =
            pipes.iter().filter(|(name, _)| name.starts_with(&who)).map(|(_, bytes)| *bytes).collect();
        let bytes: u64 = pipes.iter().sum();
        let Report { fragments, fragments_adopted, attempts, functions, coordinator, seconds: phases, .. } = report;
        Ok(Sample {
            seconds,
            serial_seconds: phases.plan + phases.finish,
            cpu,
            gets: reads.count() as u64,
            bytes,
            imbalance: pipes.iter().max().map_or(1.0, |most| *most as f64 * pipes.len() as f64 / bytes.max(1) as f64),
            pipes: pipes.len(),
            hedged: functions.requests.hedged + coordinator.requests.hedged,
            rows: pretty_format_batches(&batches)?.to_string(),
            all_remote: target == Target::Local || (fragments_adopted == fragments && attempts == fragments),
        })
    }
}

/// All runs with the same number of functions. None is the coordinator alone.
struct Row {
    functions: u32,
    samples: Vec<Sample>,
}

impl Row {
    fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(&self.samples.iter().map(of).collect::<Vec<_>>())
    }

    fn cpu(&self) -> Shares {
        self.samples.iter().map(|sample| sample.cpu).reduce(Shares::or_more).expect("at least one run")
    }
}

fn outcome(scaling: &Scaling, data: &CloudTable, rows: &[Row]) -> Outcome {
    let one = rows.iter().find(|row| row.functions == 1);
    let one_seconds = one.map_or(f64::NAN, |row| row.median(|sample| sample.seconds));
    let serial = one.map_or(f64::NAN, |row| row.median(|sample| sample.serial_seconds / sample.seconds));
    let mut table = vec![
        format!("{} values of 8 bytes, {} MB, neither encoded nor compressed", data.bytes(data.columns) / 8, data.bytes(data.columns) / 1_000_000),
        "functions  seconds [least, most]    speed-up  of N  Amdahl  published   GETs  MB read  imbalance  hedged  CPU server clients machine".to_owned(),
    ];
    let (mut bounds, mut validity) = (Vec::new(), Vec::new());
    for row in rows {
        let seconds = row.median(|sample| sample.seconds);
        let (speed_up, n) = (one_seconds / seconds, f64::from(row.functions.max(1)));
        let amdahl = 1.0 / (serial + (1.0 - serial) / n);
        let published = scaling.published.iter().find(|(functions, _)| *functions == row.functions);
        let name = if row.functions == 0 { "local".to_owned() } else { row.functions.to_string() };
        let least = row.samples.iter().map(|sample| sample.seconds).fold(f64::INFINITY, f64::min);
        let most = row.samples.iter().map(|sample| sample.seconds).fold(0.0, f64::max);
        let cpu = row.cpu();
        table.push(format!(
            "{name:>9}  {seconds:>7.3} [{least:.3}, {most:.3}]  {speed_up:>8.2}  {:>4.2}  {amdahl:>6.1}  {:>9}  {:>5}  {:>7.1}  {:>9.2}  {:>6}  {:>10.2} {:>7.2} {:>7.2}",
            speed_up / n,
            published.map_or("-".to_owned(), |(_, speed_up)| speed_up.to_string()),
            row.median(|sample| sample.gets as f64),
            row.median(|sample| sample.bytes as f64) / 1e6,
            row.median(|sample| sample.imbalance),
            row.median(|sample| sample.hedged as f64),
            cpu.server,
            cpu.clients,
            cpu.machine,
        ));
        let judged = scaling.judged.iter().find(|judged| judged.functions == row.functions);
        bounds.extend(judged.map(|judged| Bound {
            what: format!("N / speed-up at N = {}", row.functions),
            measured: n / speed_up,
            aim: judged.aim_ratio,
            worst: judged.worst_ratio,
            unit: "",
        }));
        let quiet = format!("{name}: server, clients and machine within {:.0} % CPU", 100.0 * scaling.cpu_share_max);
        validity.push((quiet, cpu.most() <= scaling.cpu_share_max));
        let own_pipes = row.samples.iter().all(|sample| sample.all_remote && sample.pipes == n as usize);
        validity.push((format!("{name}: every fragment came from a function with a pipe of its own"), own_pipes));
    }
    let first = rows.first().and_then(|row| row.samples.first()).map(|sample| &sample.rows);
    let same = rows.iter().flat_map(|row| &row.samples).all(|sample| Some(&sample.rows) == first);
    validity.push(("the same rows everywhere".to_owned(), same));
    let short = one_seconds <= scaling.one_pipe_seconds_max;
    validity.push((format!("one pipe takes at most {} s", scaling.one_pipe_seconds_max), short));
    let samples = rows.iter().map(|row| json!({ "functions": row.functions, "samples": row.samples }));
    Outcome { name: "scaling", table, samples: samples.collect(), bounds, validity }
}
