//! Random queries through real function processes that fail at random: the same promise as in virtual time, kept for real.
//!
//! The function is the project's own, wrapped: before, while or after it runs a fragment it may crash, be killed, hang, panic,
//! be late, or damage its answer. What befalls an attempt hangs on the seed and the attempt's place alone. Each fault that
//! fires leaves a line beside the functions' mark.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use datafusion::prelude::SessionContext;
use fragment_fn::{Environment, handler};
use gust::config::{Config, Target};
use gust::session::{QueryError, Session};
use gust_protocol::exchange::result_path;
use gust_protocol::{Base64, FragmentResult, InvokeRequest, Output, wire};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::compare::{Rule, compare};
use crate::invokers::processes_marked;
use crate::query::run;
use crate::tpch::Tables;

/// What can befall a function process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Exits before it answers, and leaves an object behind.
    Crash,
    /// `kill -9` while it works.
    Kill,
    Hang,
    Panic,
    /// Gives up at its deadline, or would.
    TimeOut,
    Slow,
    /// Half of its result.
    TruncatedResult,
}

impl Fault {
    pub const ALL: [Self; 7] =
        [Self::Crash, Self::Kill, Self::Hang, Self::Panic, Self::TimeOut, Self::Slow, Self::TruncatedResult];

    /// What befalls an attempt: in most worlds a few of them, hanging and waiting seldom, for it takes real time.
    fn draw(seed: u64, request: &InvokeRequest) -> Option<Self> {
        let mut hasher = DefaultHasher::new();
        let id = &request.fragment.id;
        (seed, id.stage, id.index, request.attempt).hash(&mut hasher);
        let mut random = SmallRng::seed_from_u64(hasher.finish());
        let severity = [0.0, 0.1, 0.1, 0.2, 0.3][(seed % 5) as usize];
        if !random.random_bool(severity) {
            return None;
        }
        Some(match random.random_range(0..100) {
            0..25 => Self::Crash,
            25..45 => Self::Kill,
            45..50 => Self::Hang,
            50..65 => Self::Panic,
            65..70 => Self::TimeOut,
            70..80 => Self::Slow,
            _ => Self::TruncatedResult,
        })
    }
}

/// The function: answers a request unless a fault befalls it. Its working folder's mark tells what fired.
#[expect(clippy::disallowed_methods, reason = "ending without a word is what it is there for")]
pub async fn answer(
    environment: &Arc<Environment>,
    seed: u64,
    mark: &Path,
    payload: Bytes,
    deadline: SystemTime,
) -> Bytes {
    let request = wire::decode_request(&payload).expect("the coordinator sends valid requests");
    let fault = Fault::draw(seed, &request);
    if let Some(fault) = fault {
        note(mark, fault);
    }
    match fault {
        None => handler::handle(environment, payload, deadline).await,
        Some(Fault::Crash) => {
            leave_half(&request);
            std::process::exit(3)
        }
        Some(Fault::Kill) => {
            let working = handler::handle(environment, payload, deadline);
            let _ = tokio::time::timeout(Duration::from_millis(1), working).await;
            let this = std::process::id().to_string();
            let _ = std::process::Command::new("kill").args(["-KILL", &this]).status();
            std::future::pending().await
        }
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Panic) => panic!("asked to panic"),
        Some(Fault::TimeOut) => {
            let left = deadline.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::time::sleep(left).await;
            handler::handle(environment, payload, deadline).await
        }
        Some(Fault::Slow) => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            handler::handle(environment, payload, deadline).await
        }
        Some(Fault::TruncatedResult) => truncated(handler::handle(environment, payload, deadline).await),
    }
}

fn note(mark: &Path, fault: Fault) {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(mark.join("fired"));
    let line = format!("{fault:?}\n");
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the trial's folder is writable");
}

/// Half a result, where a whole one would lie.
fn leave_half(request: &InvokeRequest) {
    let Output::Gather { prefix, .. } = &request.stage.output;
    let path = PathBuf::from(format!("/{}", result_path(prefix, &request.fragment.id, request.attempt)));
    let made = path.parent().map(std::fs::create_dir_all).transpose();
    made.and_then(|_| std::fs::write(&path, "half a result")).expect("the exchange is writable");
}

fn truncated(answer: Bytes) -> Bytes {
    let mut response = wire::decode_response(&answer).expect("the handler's own answer");
    if let Ok(FragmentResult::Inline { bytes, .. }) = &mut response.outcome {
        *bytes = Base64(bytes.0.slice(..bytes.0.len() / 2));
    }
    wire::encode_response(&response).expect("a response is JSON")
}

/// What one seed brought.
#[derive(Debug, Default)]
pub struct Trial {
    pub sql: String,
    /// What did not hold. Empty is a pass.
    pub broken: Vec<String>,
    /// The typed error that the query ended in, if it did.
    pub error: Option<String>,
    pub attempts: usize,
    pub fired: BTreeMap<String, usize>,
}

/// Runs one seed: `faulty` is the function's program, `judge` has the same tables.
pub async fn trial(seed: u64, faulty: &Path, tables: &Tables, judge: &SessionContext) -> anyhow::Result<Trial> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut trial = Trial { sql: random_query(&mut random), ..Trial::default() };
    let folder = tempfile::tempdir()?;
    let (mark, exchange) = (folder.path().join("mark"), folder.path().join("exchange"));
    std::fs::create_dir_all(&mark)?;
    let timeout = Duration::from_secs(10);
    let mut config = Config {
        on: Target::Processes,
        functions_max: random.random_range(1..5),
        timeout,
        exchange: Some(exchange.display().to_string()),
        ..Config::default()
    };
    config.process.program = Some(script(folder.path(), faulty, seed, &mark)?);
    let session = Session::new(config)?;
    for statement in tables.create_statements() {
        run(&session, &statement).await?;
    }
    let started = Instant::now();
    let ended = run(&session, &trial.sql).await;
    let took = started.elapsed();
    session.close().await;
    match ended {
        Ok((rows, report)) => {
            trial.attempts = report.attempts;
            let expect = judge.sql(&trial.sql).await?.collect().await?;
            if let Err(difference) = compare(&expect, &rows, Rule::same_engine().in_any_order()) {
                trial.broken.push(format!("wrong rows: {difference}"));
            }
            if report.fragments_adopted < report.fragments {
                trial.broken.push(format!("{} of {} fragments adopted", report.fragments_adopted, report.fragments));
            }
        }
        Err(error @ (QueryError::Functions(_) | QueryError::TimedOut(_))) => trial.error = Some(error.to_string()),
        Err(error) => trial.broken.push(format!("not a typed failure of functions: {error}")),
    }
    if took > timeout + Duration::from_secs(3) {
        trial.broken.push(format!("took {took:?} of {timeout:?}"));
    }
    let leaked = processes_marked(&mark);
    if leaked > 0 {
        trial.broken.push(format!("{leaked} processes leaked"));
    }
    let orphans = files_below(&exchange);
    if orphans > 0 {
        trial.broken.push(format!("{orphans} objects stayed in the exchange"));
    }
    for fault in std::fs::read_to_string(mark.join("fired")).unwrap_or_default().lines() {
        *trial.fired.entry(fault.to_owned()).or_default() += 1;
    }
    Ok(trial)
}

/// A program without arguments, as a session's configuration names one.
fn script(folder: &Path, faulty: &Path, seed: u64, mark: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join("function.sh");
    let text = format!("#!/bin/sh\nexec '{}' chaos-{seed} '{}'\n", faulty.display(), mark.display());
    OpenOptions::new().create(true).truncate(true).write(true).mode(0o700).open(&path)?.write_all(text.as_bytes())?;
    Ok(path)
}

fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { 1 }).sum()
}

/// A query with one right answer: exact numbers, and an order only where there is a limit.
fn random_query(random: &mut SmallRng) -> String {
    let days = random.random_range(0..2400);
    let date = format!("date '1992-01-01' + interval '{days} days'");
    let quantity = random.random_range(1..50);
    let of = |random: &mut SmallRng, names: &[&'static str]| names[random.random_range(0..names.len())];
    match random.random_range(0..7) {
        0 => {
            let group = of(random, &["l_returnflag", "l_shipmode", "l_linenumber", "l_suppkey"]);
            format!(
                "SELECT {group}, count(*), sum(l_extendedprice), min(l_shipdate), max(l_quantity) FROM lineitem \
                 WHERE l_shipdate > {date} GROUP BY {group}"
            )
        }
        1 => {
            let limit = random.random_range(1..200);
            format!(
                "SELECT l_orderkey, l_linenumber, l_comment FROM lineitem WHERE l_quantity < {quantity} \
                 ORDER BY l_orderkey DESC, l_linenumber LIMIT {limit}"
            )
        }
        2 => format!(
            "SELECT o_orderpriority, count(*) FROM orders JOIN lineitem ON o_orderkey = l_orderkey \
             WHERE l_shipdate < {date} GROUP BY o_orderpriority"
        ),
        3 => {
            let distinct = of(random, &["l_partkey", "l_shipdate", "l_suppkey"]);
            format!(
                "SELECT l_linestatus, count(DISTINCT {distinct}) FROM lineitem WHERE l_quantity >= {quantity} GROUP BY 1"
            )
        }
        4 => format!("SELECT o_orderkey, o_custkey, o_totalprice FROM orders WHERE o_orderdate < {date}"),
        5 => {
            let modulus = random.random_range(2..40);
            format!("SELECT l_orderkey, l_linenumber, l_comment FROM lineitem WHERE l_orderkey % {modulus} = 1")
        }
        _ => format!(
            "SELECT c_mktsegment, avg(c_acctbal), count(*) FROM customer \
             WHERE c_custkey IN (SELECT o_custkey FROM orders WHERE o_orderdate > {date}) GROUP BY c_mktsegment"
        ),
    }
}
