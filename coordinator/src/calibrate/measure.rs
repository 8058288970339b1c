//! Timed queries over the calibration's tables.

use std::time::{Duration, Instant};

use gust_engine::attempt::Billing;
use gust_engine::config::{Config, Target};
use gust_engine::error::QueryError;
use gust_engine::events::{QueryEvent, StampedEvent};
use gust_engine::model::Machines;
use gust_engine::model::measured::{Measured, crossover};
use gust_engine::money::Money;
use gust_engine::report::Report;
use gust_engine::session::Session;
use object_store::ObjectStoreExt;
use object_store::path::Path as Key;
use uuid::Uuid;

use super::data::{CalibrationData, DataError, PLAIN_FILES};
use super::network::{FunctionPipe, LongBurst, ReadTimes, measurable};
use crate::demo::queries;

const ONE: &str = "SELECT count(*), sum(c0) FROM one";
const TINY: &str = "SELECT count(*), sum(c0) FROM tiny";
const PLAIN: &str = "SELECT sum(c0), sum(c1), sum(c2), sum(c3), sum(c4), sum(c5), sum(c6), sum(c7) FROM plain";
const PIECE: &str = "SELECT sum(c0), sum(c1), sum(c2), sum(c3), sum(c4), sum(c5), sum(c6), sum(c7) FROM piece";
const DENSE: &str = "SELECT sum(sqrt(c0)), sum(ln(c0)), sum(sin(c0)), sum(cos(c1)), sum(exp(c1)), sum(cbrt(c1)), sum(atan(c2)), \
                     sum(tan(c2)), sum(log2(c2)), sum(sinh(c3)), sum(tanh(c3)), sum(log10(c3)) FROM dense";
/// Number of a TPC-H query that reads, filters and aggregates most of lineitem's numbers.
const COMPRESSED: usize = 1;

/// Runs of each query after one that warms up. The median of their seconds and the mean of the billed time count.
const RUNS: usize = 5;
/// Runs of one piece. A burst shows in a small difference, so that many are needed.
const PIECE_RUNS: usize = 30;
/// Runs of a tiny query, which takes milliseconds and is noisy.
const TINY_RUNS: usize = 60;
const LATENCIES: usize = 100;
/// Most functions over which the slope of a fragment is measured.
const FRAGMENTS_MAX: usize = 16;
/// Largest ratio of a function's time beside others to its time alone at which functions do not share a pipe.
const ALONE: f64 = 1.25;

/// Figures that were measured, and their consequences.
#[derive(Debug, Clone)]
pub struct Calibration {
    pub measured: Measured,
    /// Bytes from which functions are faster than a local run, for one query.
    pub crossover_alone: Option<u64>,
    /// Bytes from which functions are faster than a local run, for 20 queries at once.
    pub crossover_of_twenty: Option<u64>,
    /// Cost of the measurement itself, as far as it is known.
    pub cost: Money,
}

/// Reason why there is no calibration.
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

/// Measures the configured functions, or processes on this machine, and the coordinator.
///
/// It opens engines and sessions of its own. `told` is called with the name of each measurement.
pub async fn calibrate(
    config: &Config,
    plain_bytes: u64,
    told: &(dyn Fn(&str) + Send + Sync),
) -> Result<Calibration, CalibrationError> {
    let on = config.functions_on();
    let folder = tempfile::tempdir().map_err(|error| DataError::Made(error.to_string()))?;
    let open = |on, functions_max| {
        let mut config = Config { on, functions_max, time_model: None, allow_fallback: false, ..config.clone() };
        // Another session could not read the private exchange of one session.
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
    let data = CalibrationData {
        store: exchange.store.clone(),
        url: format!("{}{prefix}/", exchange.access.url),
        prefix,
        folder: folder.path().join("here"),
    };
    let measured = async {
        let (size, shares_machine) = many.functions_like().await?;
        let lanes = size.lanes;
        told("writing tables");
        data.write(fragments, plain_bytes, lanes).await?;
        let calibration =
            CalibrationRun { data: &data, one: &one, many: &many, local: &local, fragments, plain_bytes, lanes, told };
        Ok::<_, CalibrationError>((Box::pin(calibration.measure(size.kind)).await?, lanes, shares_machine))
    };
    let measured = Box::pin(measured).await;
    data.remove().await;
    for session in [one, many, local] {
        session.close().await;
    }
    let ((measured, cost), lanes, shares_machine) = measured?;
    let model = measured.model(std::thread::available_parallelism().map_or(1, usize::from));
    let functions_max = config.functions_max as usize;
    let machines = Machines { model: &model, functions_max, shares_machine, warm: functions_max, lanes };
    Ok(Calibration {
        crossover_alone: crossover(&machines, 1),
        crossover_of_twenty: crossover(&machines, 20),
        measured,
        cost,
    })
}

/// Times and report of one query.
struct TimedQuery {
    seconds: f64,
    /// Billed seconds of the functions, without their start.
    billed: f64,
    report: Report,
    events: Vec<StampedEvent>,
}

/// Sessions and tables of a measurement.
struct CalibrationRun<'a> {
    data: &'a CalibrationData,
    one: &'a Session,
    many: &'a Session,
    local: &'a Session,
    fragments: usize,
    plain_bytes: u64,
    /// Lanes of a function.
    lanes: usize,
    told: &'a (dyn Fn(&str) + Send + Sync),
}

impl CalibrationRun<'_> {
    async fn measure(&self, functions: String) -> Result<(Measured, Money), CalibrationError> {
        let Self { data, one, many, local, told, .. } = *self;
        for session in [one, many, local] {
            for statement in data.create() {
                run(session, &statement).await?;
            }
        }
        run(local, &data.create_lineitem()).await?;
        let mut cost = Money::ZERO;
        told("a function's start");
        let cold = remote(one, ONE, &mut cost).await?;
        told("a stage and its fragments");
        remote(many, TINY, &mut cost).await?;
        let alone = repeat(one, ONE, TINY_RUNS, &mut cost).await?;
        let tiny = repeat(many, TINY, TINY_RUNS, &mut cost).await?;
        let here = median_here(local, ONE, TINY_RUNS).await?;
        let stage = stage_seconds(alone.seconds, tiny.seconds, here, self.fragments);
        told("a request's latency");
        let request = request_seconds(data).await?;
        told("networks");
        let Pipes { function: pipe, shared } = self.pipes(alone.billed, request.mean, &mut cost).await?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let plain = median_here(local, PLAIN, RUNS).await?;
        // `here` contains one read's latency.
        let waits = request.mean * (PLAIN_FILES as f64 / cores - 1.0).max(0.0);
        let pipe_bytes_per_second =
            PLAIN_FILES as f64 * CalibrationData::piece_bytes(self.plain_bytes) / measurable(plain - here - waits);
        told("what cores compute");
        let compressed = queries::query(COMPRESSED);
        let near = median_here(local, compressed, RUNS).await?;
        let compressed_bytes = run(local, compressed).await?.report.coordinator.bytes_read as f64;
        remote(one, DENSE, &mut cost).await?;
        let far = repeat(one, DENSE, RUNS, &mut cost).await?.billed;
        // The same query runs on one core.
        run(local, "SET datafusion.execution.target_partitions = 1").await?;
        let near_dense = median_here(local, DENSE, RUNS).await?;
        let measured = Measured {
            functions,
            date: chrono::Utc::now().date_naive(),
            start_up_seconds: start_up(&cold.events).as_secs_f64(),
            stage_seconds: stage.first,
            fragment_seconds: stage.further,
            attempt_seconds: alone.billed,
            request_seconds: request.mean,
            request_seconds_least: request.least,
            core_bytes_per_second: compressed_bytes / measurable(near) / cores,
            function_cores: measurable(near_dense - here) / measurable(far - alone.billed),
            pipe_bytes_per_second,
            together_bytes_per_second: shared,
            function_pipe_first: pipe.first,
            function_pipe: pipe.then,
            function_pipe_burst_bytes: pipe.burst_bytes as u64,
        };
        Ok((measured, cost))
    }

    /// Measures a function's network, and the network that several functions share, if they do.
    ///
    /// `overhead` is the billed time of the least attempt, with the latency of one read in it, and `latency` that of a read, in
    /// seconds.
    async fn pipes(&self, overhead: f64, latency: f64, cost: &mut Money) -> Result<Pipes, CalibrationError> {
        let (one, many) = (self.one, self.many);
        let mut times = ReadTimes {
            whole: Vec::new(),
            piece: 0.0,
            piece_bytes: CalibrationData::piece_bytes(self.plain_bytes),
            pieces: PLAIN_FILES,
            latency,
        };
        let began = Instant::now();
        let mut burst = LongBurst::Unknown;
        while burst == LongBurst::Unknown {
            // The first run reads the files' footers, too.
            let footers = if times.whole.is_empty() { self.turns(PLAIN_FILES) } else { 0.0 };
            let billed = remote(one, PLAIN, cost).await?.billed;
            times.whole.push(measurable(billed - overhead - latency * footers));
            burst = times.long_burst(self.turns(PLAIN_FILES), began.elapsed());
        }
        times.whole.push(measurable(remote(one, PLAIN, cost).await?.billed - overhead));
        times.piece = measurable(repeat(one, PIECE, PIECE_RUNS, cost).await?.billed - overhead);
        let pipe = times.pipe(burst, self.turns(PLAIN_FILES));
        // After these runs each function has probably read each footer.
        repeat(many, PLAIN, RUNS, cost).await?;
        let together = repeat(many, PLAIN, RUNS, cost).await?;
        let functions = together.report.fragments.max(1);
        let (bytes, waits) = (times.whole_bytes(), latency * (self.turns(PLAIN_FILES.div_ceil(functions)) - 1.0));
        let seconds = measurable(together.billed / functions as f64 - overhead);
        let alone = (bytes / functions as f64 - pipe.burst_bytes).max(0.0) / pipe.then + waits;
        let shares = seconds + overhead > ALONE * (alone + overhead);
        Ok(Pipes { function: pipe, shared: shares.then_some(bytes / seconds) })
    }

    /// Returns the waits that follow each other in a lane, for `waits` first bytes of a function.
    fn turns(&self, waits: usize) -> f64 {
        (waits as f64 / self.lanes as f64).max(1.0)
    }
}

/// Networks of functions.
struct Pipes {
    function: FunctionPipe,
    /// Rate into several functions together, in bytes a second. None where they share no network.
    shared: Option<f64>,
}

/// Seconds of a stage.
struct StageSeconds {
    /// Seconds of a stage of one fragment above a local run.
    first: f64,
    /// Seconds of each further fragment.
    further: f64,
}

fn stage_seconds(one: f64, many: f64, here: f64, fragments: usize) -> StageSeconds {
    let further = (fragments.max(2) - 1) as f64;
    StageSeconds { first: measurable(one - here), further: measurable((many - one) / further) }
}

async fn run(session: &Session, sql: &str) -> Result<TimedQuery, QueryError> {
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
    let billed = events.iter().map(|stamped| billed(stamped).run.as_secs_f64()).sum();
    Ok(TimedQuery { seconds, billed, report: Report::priced(&events, tariff.as_ref()), events })
}

/// Runs a query whose fragments all run on functions.
async fn remote(session: &Session, sql: &str, cost: &mut Money) -> Result<TimedQuery, CalibrationError> {
    let timed = run(session, sql).await?;
    let Report { fragments, fragments_adopted, decision, .. } = &timed.report;
    if *fragments_adopted == 0 || fragments_adopted != fragments {
        let decision = decision.as_ref().map(ToString::to_string).unwrap_or_default();
        return Err(CalibrationError::NotRemote(decision));
    }
    *cost += timed.report.cost.as_ref().map_or(Money::ZERO, |cost| cost.at_most);
    Ok(timed)
}

/// Runs a query several times: the median of the seconds, the mean of the billed time, and the last report.
async fn repeat(session: &Session, sql: &str, runs: usize, cost: &mut Money) -> Result<TimedQuery, CalibrationError> {
    let mut last = remote(session, sql, cost).await?;
    let (mut seconds, mut billed) = (vec![last.seconds], last.billed);
    for _ in 1..runs {
        last = remote(session, sql, cost).await?;
        seconds.push(last.seconds);
        billed += last.billed;
    }
    Ok(TimedQuery { seconds: middle(seconds), billed: billed / runs.max(1) as f64, ..last })
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

/// Returns the longest start of an environment for a query's attempts.
fn start_up(events: &[StampedEvent]) -> Duration {
    events.iter().map(|stamped| billed(stamped).start).max().unwrap_or_default()
}

/// Billed time of an ended attempt: its function's run, and the start before it.
#[derive(Default)]
struct BilledTime {
    run: Duration,
    start: Duration,
}

fn billed(stamped: &StampedEvent) -> BilledTime {
    match stamped.event {
        QueryEvent::AttemptEnded { billing: Billing::Metered { duration, init }, .. } => {
            BilledTime { run: duration, start: init }
        }
        QueryEvent::AttemptEnded { billing: Billing::Reported { duration, init, .. }, .. } => {
            BilledTime { run: duration.saturating_sub(init), start: init }
        }
        _ => BilledTime::default(),
    }
}

/// Seconds of a small read.
struct RequestSeconds {
    mean: f64,
    least: f64,
}

/// Measures small reads.
async fn request_seconds(data: &CalibrationData) -> Result<RequestSeconds, CalibrationError> {
    let mut seconds = Vec::new();
    for _ in 0..LATENCIES {
        let started = Instant::now();
        data.store.get_range(&data.one_file(), 0..1024).await.map_err(CalibrationError::Latency)?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    let mean = seconds.iter().sum::<f64>() / LATENCIES as f64;
    Ok(RequestSeconds { mean, least: seconds.into_iter().fold(mean, f64::min) })
}
