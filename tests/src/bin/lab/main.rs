//! `lab`: the measurements. Their workloads stand in `tests/lab.toml`, fixed before measuring. Every figure comes with its raw
//! samples (`--json`), its validity checks, and its aim.
//!
//! ```text
//! cargo run --release --bin lab -- tax --check
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::{Parser, Subcommand};
use serde::Serialize;
use workload::DeleteCosts;

mod aligned;
mod cloud_table;
mod compression;
mod concurrency;
mod cpu;
mod cut;
mod dbt;
mod deletes;
mod estimate;
mod fanout;
mod faults;
mod formats;
mod fuzz;
mod judge;
mod judges;
mod latency;
mod local;
mod matrix;
mod memory;
mod metering;
mod model;
mod names;
mod odd_values;
mod openapi;
mod operators;
mod plan;
mod planning;
mod random_tables;
mod readers;
mod rollup;
mod scaling;
mod serve;
mod served;
mod shuffle;
mod subqueries;
mod tail;
mod tax;
mod wheel;
mod workload;

#[derive(Parser)]
#[command(name = "lab", about = "Measurements; see docs/measurements.md")]
struct Lab {
    #[command(subcommand)]
    measurement: Measurement,
    /// Print raw samples and results as JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
    /// Exit with 1 where the worst acceptable bound is missed or a validity check fails
    #[arg(long, global = true)]
    check: bool,
    /// Workloads and parameters
    #[arg(long, global = true, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/lab.toml"))]
    workload: PathBuf,
    /// Folder that keeps generated data between runs
    #[arg(long, global = true, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/lab"))]
    cache: PathBuf,
}

#[derive(Subcommand)]
enum Measurement {
    /// Loopback tax: the same tiny query locally and through warm function processes
    Tax,
    /// EXPLAIN COST beside the costs of the queries that follow, on cloud-shaped S3, after a calibration
    Estimate(estimate::Choice),
    /// Many fragments through the scheduler to an invoker that only frames
    Fanout {
        #[arg(long, default_value_t = 10_000)]
        fragments: usize,
    },
    /// `--on local` against a stock SessionContext
    Local,
    /// Planning by `auto`, which compares all packings, beside planning for the coordinator alone
    Planning {
        /// Time from a physical plan to encoded stages instead, also of a query over twenty tables
        #[arg(long)]
        cut: bool,
    },
    /// Planning of an Iceberg table with many files on S3, beside DuckDB and pyiceberg
    Plan(plan::Choice),
    /// `--on local` and a stock SessionContext beside DataFusion's published Python wheel
    Wheel,
    /// The 22 TPC-H queries over S3 as late as the real one, beside other engines and an earlier build
    Latency(latency::Choice),
    /// Cost of counting and pricing, beside that of the queries that are counted and priced
    Metering,
    /// Codecs for results on the wire
    Compression,
    /// Names of a REST catalog of 10,000 tables: listing, completion and one query, beside pyiceberg
    Names,
    /// Random queries under random faults, in virtual time or with real processes
    Faults {
        /// Number of histories
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// Seed of one history, of which everything is shown
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
        /// Break a promise on purpose: seeds must then have wrong rows
        #[arg(long, value_enum)]
        planted: Option<faults::Planted>,
        /// Number of histories with real function processes instead, in real time
        #[arg(long, value_name = "SEEDS")]
        processes: Option<u64>,
        /// Seed of one history with real function processes
        #[arg(long, value_name = "N")]
        process_seed: Option<u64>,
    },
    /// Random queries of mixed types in every format, read back by pyarrow and Python
    Formats {
        /// Number of queries
        #[arg(long, default_value_t = 2_000)]
        seeds: u64,
        /// Seed of the first query
        #[arg(long, default_value_t = 0)]
        first: u64,
    },
    /// Damaged Parquet files: rows or an error that names the file, in bounded memory
    Fuzz {
        /// Number of damaged files
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// Seed of one file, read on both targets, of which the answers are shown
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
    },
    /// Stragglers in virtual time: the tail with and without second attempts, and their cost
    Tail,
    /// A published query at scale factor 1000 in virtual time, and ours beside it
    Model,
    /// The 22 TPC-H queries through functions against DuckDB
    Judge {
        #[arg(long = "sf", default_value_t = 1.0)]
        scale: f64,
    },
    /// The 22 TPC-H queries in every way in which functions can do them, against local runs and DuckDB
    Matrix(matrix::Choice),
    /// Spark, pyiceberg, DuckDB, ClickHouse and iceberg-rust over the tables of the Iceberg matrix
    Judges(judges::Choice),
    /// A running server against its OpenAPI, by schemathesis
    Openapi(openapi::Choice),
    /// A server, as dbt sees it by its adapter for PostgreSQL
    Dbt,
    /// Scans of a table with deletes of each kind, beside the scan of its data files
    Deletes {
        /// Rows below the workload's
        #[arg(long)]
        rows: Option<u64>,
    },
    /// Random subqueries and USING joins over tables full of NULLs against DuckDB
    Subqueries {
        #[arg(long, default_value_t = 100)]
        seeds: u64,
    },
    /// The 22 TPC-H queries under memory limits, each a process, against DuckDB
    Memory {
        /// Scale factor below the workload's; the limits shrink by as much
        #[arg(long = "sf")]
        scale: Option<f64>,
        #[arg(long, value_delimiter = ',')]
        queries: Vec<usize>,
        #[arg(long, value_delimiter = ',')]
        on: Vec<String>,
        #[arg(long, value_delimiter = ',')]
        limits: Vec<String>,
    },
    /// Every operator that spills or holds its input under parts of the memory that it needs
    Operators {
        /// Only those in functions
        #[arg(long)]
        in_functions: bool,
    },
    /// Ranks over a ROLLUP of two million rows with 500,000 groups in 256 MiB, here and with functions
    Rollup(rollup::Choice),
    /// Random statements over NULL, NaN, -0.0, empty texts and extremes against DuckDB
    OddValues {
        /// Number of statements
        #[arg(long, default_value_t = 5_000)]
        seeds: u64,
        /// Seed of the first statement
        #[arg(long, value_name = "N", default_value_t = 0)]
        from: u64,
        /// Seed of one statement, run alone
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
    },
    /// Random Iceberg tables of all kinds with deletes and conditions, here and by functions, against computed rows
    RandomTables {
        /// Number of tables
        #[arg(long, default_value_t = 10_000)]
        tables: u64,
        /// Seed of the first table
        #[arg(long, value_name = "N", default_value_t = 0)]
        from: u64,
    },
    /// A bandwidth-bound scan over more and more functions, on cloud-shaped S3
    Scaling {
        #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32])]
        functions: Vec<u32>,
    },
    /// Rows from 200 functions to 200 others: requests, bytes and dollars of their exchange
    Shuffle,
    /// A join of two Iceberg tables that are parted alike: objects of the exchange, and seconds beside the scans
    Aligned,
    /// Users at once on shared functions, on the coordinator alone and by `auto`, on cloud-shaped S3
    Concurrency {
        #[arg(long, default_value_t = 20)]
        queries: usize,
    },
    /// A server with 200 connections at half of its capacity, above it and after that, and with idle ones
    Serve,
    /// The memory of a server while a client reads a large result slowly, on each wire
    Readers(readers::Choice),
}

/// Result of a measurement.
#[derive(Serialize)]
struct Outcome {
    name: &'static str,
    /// Lines for people, without the verdict.
    #[serde(skip)]
    table: Vec<String>,
    /// Raw samples and derived figures.
    samples: serde_json::Value,
    bounds: Vec<Bound>,
    /// Conditions without which the figures are worthless, each with whether it held.
    validity: Vec<(String, bool)>,
}

/// Figure with its aim and the worst that is acceptable. Smaller is better.
#[derive(Serialize)]
struct Bound {
    what: String,
    measured: f64,
    aim: f64,
    worst: f64,
    unit: &'static str,
}

impl Bound {
    /// Allows no failure.
    fn failed_seeds(failed: usize) -> Self {
        Self { what: "failed seeds".to_owned(), measured: failed as f64, aim: 0.0, worst: 0.0, unit: "seeds" }
    }

    fn verdict(&self) -> &'static str {
        match self.measured {
            m if m <= self.aim => "aim met",
            m if m <= self.worst => "aim missed, acceptable",
            _ => "worst acceptable bound missed",
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let lab = Lab::parse();
    match Box::pin(measure(&lab)).await {
        Ok(outcome) => show(&lab, &outcome),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn measure(lab: &Lab) -> anyhow::Result<Outcome> {
    let workload = workload::read(&lab.workload)?;
    std::fs::create_dir_all(&lab.cache)?;
    // A canonical path has no `..`, which an object's path could not have.
    let cache: &Path = &lab.cache.canonicalize()?;
    match &lab.measurement {
        Measurement::Tax => tax::measure(&workload.tax, cache).await,
        Measurement::Estimate(choice) => {
            Box::pin(estimate::measure(&workload.estimate, choice, &workload.cloud, cache)).await
        }
        Measurement::Fanout { fragments } => fanout::measure(&workload.fanout, *fragments, cache).await,
        Measurement::Faults { processes: Some(seeds), process_seed, .. } => {
            Box::pin(faults::with_processes(&workload.faults, *seeds, *process_seed, cache)).await
        }
        Measurement::Faults { process_seed: Some(seed), .. } => {
            Box::pin(faults::with_processes(&workload.faults, 1, Some(*seed), cache)).await
        }
        Measurement::Faults { seeds, seed, planted, .. } => {
            let adoption = faults::adoption(*planted);
            Ok(virtually(|| match seed {
                Some(seed) => faults::reproduce(*seed, adoption),
                None => faults::measure(&workload.faults, *seeds, adoption),
            }))
        }
        Measurement::Formats { seeds, first } => formats::measure(*first..first + seeds, cache).await,
        Measurement::Fuzz { seeds, seed } => fuzz::measure(*seeds, *seed, cache).await,
        Measurement::Tail => Ok(virtually(|| tail::measure(&workload.tail, &workload.fleet))),
        Measurement::Model => Ok(virtually(|| model::measure(&workload.model, &workload.fleet, &workload.prices))),
        Measurement::Local => local::measure(&workload.local, cache).await,
        Measurement::Planning { cut: true } => Box::pin(cut::measure(&workload.planning.cut, cache)).await,
        Measurement::Planning { cut: false } => planning::measure(&workload.planning, cache).await,
        Measurement::Plan(choice) => plan::measure(&workload.plan, choice, cache).await,
        Measurement::Wheel => wheel::measure(&workload.local, cache).await,
        Measurement::Latency(choice) => latency::measure(&workload.latency, choice, cache).await,
        Measurement::Judge { scale } => judge::measure(*scale, cache).await,
        Measurement::Matrix(choice) => Box::pin(matrix::measure(choice, cache)).await,
        Measurement::Judges(choice) => judges::measure(choice, cache).await,
        Measurement::Openapi(choice) => openapi::measure(choice, cache),
        Measurement::Dbt => dbt::measure(cache).await,
        Measurement::Deletes { rows } => {
            let settings = workload.deletes;
            deletes::measure(&DeleteCosts { rows: rows.unwrap_or(settings.rows), ..settings }, cache).await
        }
        Measurement::Subqueries { seeds } => subqueries::measure(*seeds, cache).await,
        Measurement::Memory { scale, queries, on, limits } => {
            let choice =
                memory::Choice { scale: *scale, queries: queries.clone(), on: on.clone(), limits: limits.clone() };
            memory::measure(&workload.memory, &choice, cache).await
        }
        Measurement::Operators { in_functions } => {
            Box::pin(operators::measure(&workload.operators, *in_functions)).await
        }
        Measurement::Rollup(choice) => rollup::measure(choice).await,
        Measurement::OddValues { seeds, from, seed } => {
            let range = seed.map_or(*from..from + seeds, |seed| seed..seed + 1);
            odd_values::measure(&workload.odd_values, range, cache).await
        }
        Measurement::RandomTables { tables, from } => random_tables::measure(*from..from + tables).await,
        Measurement::Scaling { functions } => {
            scaling::measure(&workload.scaling, &workload.cloud, &workload.cloud_table, functions).await
        }
        Measurement::Concurrency { queries } => {
            concurrency::measure(&workload.concurrency, &workload.cloud, &workload.cloud_table, *queries).await
        }
        Measurement::Readers(choice) => readers::measure(choice, cache),
        Measurement::Serve => Box::pin(serve::measure(&workload.serve, cache)).await,
        Measurement::Shuffle => {
            Box::pin(shuffle::measure(&workload.shuffle, &workload.prices, workload.cloud.limits)).await
        }
        Measurement::Aligned => Box::pin(aligned::measure(&workload.aligned, &workload.cloud)).await,
        Measurement::Metering => metering::measure(&workload.metering, cache).await,
        Measurement::Names => names::measure(&workload.names, cache).await,
        Measurement::Compression => compression::measure(&workload.compression, cache).await,
    }
}

/// Runs a measurement on a thread of its own, because it makes runtimes with a time of their own.
fn virtually<T: Send>(measure: impl FnOnce() -> T + Send) -> T {
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| scope.spawn(measure).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `work` for each number below `count`, on all cores, and returns the results in the order of the numbers.
fn on_all_cores<T: Send>(count: u64, work: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = AtomicU64::new(0);
    let some = || {
        let numbers =
            std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < count));
        numbers.map(|number| (number, work(number))).collect::<Vec<_>>()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all: Vec<(u64, T)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(some)).collect();
        let done =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        done.flatten().collect()
    });
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, done)| done).collect()
}

#[expect(clippy::print_stdout, reason = "the program's output")]
fn show(lab: &Lab, outcome: &Outcome) -> ExitCode {
    if lab.json {
        println!("{}", serde_json::to_string(outcome).expect("plain data"));
    } else {
        for line in &outcome.table {
            println!("{line}");
        }
        for bound in &outcome.bounds {
            let Bound { what, measured, aim, worst, unit } = bound;
            println!("{what}: {measured:.2} {unit} (aim {aim}, worst {worst}): {}", bound.verdict());
        }
        for (check, held) in &outcome.validity {
            println!("valid: {check}: {}", if *held { "yes" } else { "NO" });
        }
    }
    let acceptable = outcome.bounds.iter().all(|bound| bound.measured <= bound.worst);
    let valid = outcome.validity.iter().all(|(_, held)| *held);
    if lab.check && !(acceptable && valid) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
