//! Queries over the calibration's tables, and the clock.

use std::time::{Duration, Instant};

use object_store::ObjectStoreExt;
use object_store::path::Path as Key;
use uuid::Uuid;

use super::data::{Data, DataError};
use super::measured::{Measured, crossover};
use crate::config::{Config, Target};
use crate::cost::Money;
use crate::decide::Fleet;
use crate::demo::queries;
use crate::event::{QueryEvent, Stamped};
use crate::invoker::Billing;
use crate::report::Report;
use crate::session::{QueryError, Session};

const TINY: &str = "SELECT count(*), sum(c0) FROM tiny";
const PLAIN: &str = "SELECT sum(c0), sum(c1), sum(c2), sum(c3), sum(c4), sum(c5), sum(c6), sum(c7) FROM plain";
/// TPC-H's first query reads, filters and aggregates most of lineitem's numbers.
const COMPRESSED: usize = 1;

/// Runs of each query after one that warms up; the median counts.
const RUNS: usize = 5;
/// A tiny query takes milliseconds, and is noisy.
const TINY_RUNS: usize = 15;
/// Runs in a row of the query that looks for the end of a burst.
const BURST_RUNS: usize = 5;
const LATENCIES: usize = 20;
/// Functions that the slope of a fragment is measured over, at most.
const FRAGMENTS_MAX: usize = 16;
/// What nothing takes less than: clocks and noise.
const SECONDS_MIN: f64 = 1e-5;

/// What was measured, and what it means.
#[derive(Debug, Clone)]
pub struct Calibration {
    pub measured: Measured,
    /// Bytes from which functions are faster than a local run, for 1 and for 20 queries at once.
    pub crossover_alone: Option<u64>,
    pub crossover_of_twenty: Option<u64>,
    /// What the measurement itself has cost, as far as that is known.
    pub cost: Money,
}

/// Why there is no calibration.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("the exchange could not be read back: {0}")]
    Latency(object_store::Error),
    #[error("the functions brought no result: {0}")]
    NotRemote(String),
}

/// Measures the configured functions, or processes on this machine, and the coordinator. Opens sessions of its own; `told` hears what
/// is being measured.
pub async fn calibrate(
    config: &Config,
    plain_bytes: u64,
    told: &(dyn Fn(&str) + Send + Sync),
) -> Result<Calibration, CalibrationError> {
    let on = config.functions_on();
    let folder = tempfile::tempdir().map_err(|error| DataError::Made(error.to_string()))?;
    let open = |on, functions_max| {
        let mut config = Config { on, functions_max, time_model: None, allow_fallback: false, ..config.clone() };
        // Where the private exchange of one session would be, another could not read.
        config.exchange.get_or_insert_with(|| folder.path().display().to_string());
        Session::new(config)
    };
    let one = open(on, 1)?;
    let fragments = (config.functions_max as usize).clamp(1, FRAGMENTS_MAX);
    let many = open(on, fragments as u32)?;
    let local = open(Target::Local, 1)?;
    let exchange = one.exchange();
    let id = Uuid::now_v7().simple();
    let prefix: Key = Key::parse(&exchange.prefix)
        .unwrap_or_default()
        .parts()
        .chain(Key::from(format!("calibration-{id}")).parts())
        .collect();
    let data = Data { store: exchange.store.clone(), url: format!("{}{prefix}/", exchange.access.url), prefix };
    let measured = async {
        told("writing tables");
        data.write(fragments, plain_bytes).await?;
        measure(&data, [&one, &many, &local], fragments, plain_bytes, told).await
    };
    let measured = measured.await;
    data.remove().await;
    let functions = many.functions_kind().await;
    for session in [one, many, local] {
        session.close().await;
    }
    let (mut measured, cost) = measured?;
    measured.functions = functions?;
    let model = measured.model(std::thread::available_parallelism().map_or(1, usize::from));
    let fleet =
        Fleet { functions_max: config.functions_max as usize, healthy: true, shares_machine: on != Target::Lambda };
    Ok(Calibration {
        crossover_alone: crossover(&model, &fleet, 1),
        crossover_of_twenty: crossover(&model, &fleet, 20),
        measured,
        cost,
    })
}

/// One timed query.
struct Timed {
    seconds: f64,
    report: Report,
    events: Vec<Stamped>,
}

async fn measure(
    data: &Data,
    [one, many, local]: [&Session; 3],
    fragments: usize,
    plain_bytes: u64,
    told: &(dyn Fn(&str) + Send + Sync),
) -> Result<(Measured, Money), CalibrationError> {
    for session in [one, many, local] {
        for statement in data.create() {
            run(session, &statement).await?;
        }
    }
    let mut cost = Money::ZERO;
    told("a function's start");
    let cold = remote(one, TINY, &mut cost).await?;
    told("a stage and its fragments");
    remote(many, TINY, &mut cost).await?;
    let stage = of_three(
        median(one, TINY, TINY_RUNS, &mut cost).await?,
        median(many, TINY, TINY_RUNS, &mut cost).await?,
        median_here(local, TINY, TINY_RUNS).await?,
        fragments,
    );
    told("a function's network");
    let bytes = Data::plain_bytes(plain_bytes) as f64;
    let mut pipe = Vec::new();
    for _ in 0..BURST_RUNS {
        pipe.push(bytes / above(remote(one, PLAIN, &mut cost).await?.seconds - stage.0));
    }
    told("the network of several functions");
    remote(many, PLAIN, &mut cost).await?;
    let together = median(many, PLAIN, RUNS, &mut cost).await?;
    told("the coordinator's network");
    let here = median_here(local, PLAIN, RUNS).await?;
    told("what cores compute");
    let compressed = queries::query(COMPRESSED);
    let far = remote(one, compressed, &mut cost).await?;
    let compressed_bytes = far.report.functions.bytes_read as f64;
    let far = median(one, compressed, RUNS, &mut cost).await?;
    let near = median_here(local, compressed, RUNS).await?;
    told("a request's latency");
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let measured = Measured {
        functions: String::new(),
        date: chrono::Utc::now().date_naive(),
        start_up_seconds: start_up(&cold.events).as_secs_f64(),
        stage_seconds: stage.0,
        fragment_seconds: stage.1,
        request_seconds: latency(data).await?,
        core_bytes_per_second: compressed_bytes / above(near) / cores,
        function_bytes_per_second: compressed_bytes / above(far - stage.0),
        pipe_bytes_per_second: bytes / above(here),
        together_bytes_per_second: bytes / above(together - stage.0),
        function_pipe_first: pipe.first().copied().unwrap_or(f64::NAN),
        function_pipe_last: pipe.last().copied().unwrap_or(f64::NAN),
    };
    Ok((measured, cost))
}

/// Seconds of a stage of one fragment above a local run, and of each further fragment.
fn of_three(one: f64, many: f64, here: f64, fragments: usize) -> (f64, f64) {
    let further = (fragments.max(2) - 1) as f64;
    (above(one - here), above((many - one) / further))
}

fn above(seconds: f64) -> f64 {
    seconds.max(SECONDS_MIN)
}

async fn run(session: &Session, sql: &str) -> Result<Timed, QueryError> {
    let started = Instant::now();
    let statement = session.parse(sql)?.remove(0);
    let mut running = session.run(statement).await?;
    let ended = loop {
        match running.next().await {
            Ok(Some(_)) => {}
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    let events = running.finish().await.snapshot();
    ended?;
    let tariff = session.tariff().await;
    Ok(Timed { seconds, report: Report::priced(&events, tariff.as_ref()), events })
}

/// A run on functions, all of it.
async fn remote(session: &Session, sql: &str, cost: &mut Money) -> Result<Timed, CalibrationError> {
    let timed = run(session, sql).await?;
    let Report { fragments, fragments_adopted, decision, .. } = &timed.report;
    if *fragments_adopted == 0 || fragments_adopted != fragments {
        let decision = decision.as_ref().map(ToString::to_string).unwrap_or_default();
        return Err(CalibrationError::NotRemote(decision));
    }
    *cost += timed.report.cost.as_ref().map_or(Money::ZERO, |cost| cost.at_most);
    Ok(timed)
}

async fn median(session: &Session, sql: &str, runs: usize, cost: &mut Money) -> Result<f64, CalibrationError> {
    let mut seconds = Vec::new();
    for _ in 0..runs {
        seconds.push(remote(session, sql, cost).await?.seconds);
    }
    Ok(middle(seconds))
}

async fn median_here(session: &Session, sql: &str, runs: usize) -> Result<f64, CalibrationError> {
    run(session, sql).await?;
    let mut seconds = Vec::new();
    for _ in 0..runs {
        seconds.push(run(session, sql).await?.seconds);
    }
    Ok(middle(seconds))
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How long the platform started environments for a query's attempts, at most.
fn start_up(events: &[Stamped]) -> Duration {
    let init = |stamped: &Stamped| match stamped.event {
        QueryEvent::AttemptEnded {
            billing: Billing::Metered { init, .. } | Billing::Reported { init, .. }, ..
        } => init,
        _ => Duration::ZERO,
    };
    events.iter().map(init).max().unwrap_or_default()
}

async fn latency(data: &Data) -> Result<f64, CalibrationError> {
    let mut seconds = Vec::new();
    for _ in 0..LATENCIES {
        let started = Instant::now();
        data.store.get_range(&data.one_file(), 0..1024).await.map_err(CalibrationError::Latency)?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    Ok(middle(seconds))
}
