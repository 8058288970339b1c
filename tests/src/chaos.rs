//! Random queries through real function processes and a real S3 server, both of which fail at random. The trial asserts the
//! promise that the simulated fleet asserts in virtual time.
//!
//! The function is the project's own, wrapped. Before, while or after it runs a fragment it may crash, be killed, hang, panic,
//! be late, damage its result, do its work twice, or overwrite its result after its answer. Before it reads rows of other functions it may delete, tear or swap their
//! objects, which were adopted. Storage may ask to slow
//! down, fail, reset connections and cut bodies short. An attempt's fault depends on the seed and the attempt's place alone.
//! A request's fault depends on the seed and the request alone. Each fault that fires in a function adds a line to the
//! file `fired` in the folder that marks the functions; the server counts its own faults.

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
use fragment_fn::{Environment, connect, handler};
use futures::TryStreamExt;
use gust_engine::config::{Config, JoinPlace, ShufflePlace, Target};
use gust_engine::error::ErrorKind;
use gust_protocol::exchange::result_path;
use gust_protocol::{Base64, FragmentResult, InvokeRequest, PartsPlace, wire};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::compare::{Rule, compare};
use crate::invokers::processes_marked;
use crate::query::run;
use crate::s3::shape::Faults;
use crate::s3::{S3Server, Shape, StorageFault};
use crate::{cloud, lost_parts, tpch};

/// Fault of a function process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProcessFault {
    /// The process exits before it answers, and leaves an object behind.
    Crash,
    /// The process is ended by `kill -9` while it works.
    Kill,
    Hang,
    Panic,
    /// The process starts its work at its deadline.
    TimeOut,
    Slow,
    /// The result is cut to half of its bytes.
    TruncatedResult,
    /// The work is done twice, so the result is written twice.
    DuplicateDelivery,
    /// The result is overwritten soon after the answer.
    LateZombieWrite,
    /// Rows of another function are deleted before they are read.
    LostInput,
    /// Such rows end within those that are read.
    TornInput,
    /// Such rows are those of another function.
    SwappedInput,
}

impl ProcessFault {
    pub const ALL: [Self; 12] = [
        Self::Crash,
        Self::Kill,
        Self::Hang,
        Self::Panic,
        Self::TimeOut,
        Self::Slow,
        Self::TruncatedResult,
        Self::DuplicateDelivery,
        Self::LateZombieWrite,
        Self::LostInput,
        Self::TornInput,
        Self::SwappedInput,
    ];

    /// Faults of rows that an attempt reads of other functions.
    const OF_INPUT: [Self; 3] = [Self::LostInput, Self::TornInput, Self::SwappedInput];

    /// Draws an attempt's fault. In four of five worlds some attempts have one; faults that take real time are rare. Every second one is of the rows of other functions,
    /// if it reads some.
    fn draw(seed: u64, reads_others: bool, random: &mut SmallRng) -> Option<Self> {
        let severity = [0.0, 0.1, 0.1, 0.2, 0.3][(seed % 5) as usize];
        if !random.random_bool(severity) {
            return None;
        }
        if reads_others && random.random_bool(0.5) {
            return Some(Self::OF_INPUT[random.random_range(0..Self::OF_INPUT.len())]);
        }
        Some(match random.random_range(0..100) {
            0..20 => Self::Crash,
            20..35 => Self::Kill,
            35..40 => Self::Hang,
            40..50 => Self::Panic,
            50..55 => Self::TimeOut,
            55..65 => Self::Slow,
            65..80 => Self::TruncatedResult,
            80..90 => Self::DuplicateDelivery,
            _ => Self::LateZombieWrite,
        })
    }
}

/// Faults of a request to storage.
pub const STORAGE_FAULTS: [StorageFault; 5] = [
    StorageFault::SlowDown,
    StorageFault::InternalError,
    StorageFault::Reset,
    StorageFault::ResetInBody,
    StorageFault::Truncated,
];

/// Returns storage's shape in a world; in every third world it has no faults.
fn storage(seed: u64) -> Shape {
    let share = [0.0, 0.02, 0.05][(seed % 3) as usize];
    let faults =
        Faults { slow_down: share, internal_error: share, reset: share, reset_in_body: share, truncated: share };
    Shape { seed, scale: 1.0, pipe: None, latency: None, limits: None, faults }
}

/// Answers a request as the function does, unless a fault is drawn for it. The file `fired` in `mark` lists such faults.
#[expect(clippy::disallowed_methods, reason = "ending without a word is what it is there for")]
pub async fn answer(
    environment: &Arc<Environment>,
    seed: u64,
    mark: &Path,
    payload: Bytes,
    deadline: SystemTime,
) -> Bytes {
    let mut request = wire::decode_request(&payload).expect("the coordinator sends valid requests");
    let mut random = random_of(seed, &request);
    let fault = ProcessFault::draw(seed, !lost_parts::slices(&request, None).is_empty(), &mut random);
    // Results are small and would stay inline: half of them are forced to be objects.
    if random.random_bool(0.5) {
        request.fragment.limits.inline_bytes_max = 0;
    }
    let payload = wire::encode_request(&request).expect("it was decoded");
    if let Some(fault) = fault
        && (!ProcessFault::OF_INPUT.contains(&fault) || spoiled(&request, fault, &mut random).await)
    {
        note(mark, fault);
    }
    let work = || handler::handle(environment, payload.clone(), deadline);
    match fault {
        None | Some(ProcessFault::LostInput | ProcessFault::TornInput | ProcessFault::SwappedInput) => work().await,
        Some(ProcessFault::Crash) => {
            overwrite(&request, "half a result".into()).await;
            std::process::exit(3)
        }
        Some(ProcessFault::Kill) => {
            let _ = tokio::time::timeout(Duration::from_millis(1), work()).await;
            let this = std::process::id().to_string();
            let _ = std::process::Command::new("kill").args(["-KILL", &this]).status();
            std::future::pending().await
        }
        Some(ProcessFault::Hang) => std::future::pending().await,
        Some(ProcessFault::Panic) => panic!("asked to panic"),
        Some(ProcessFault::TimeOut) => {
            let left = deadline.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::time::sleep(left).await;
            work().await
        }
        Some(ProcessFault::Slow) => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            work().await
        }
        Some(ProcessFault::TruncatedResult) => truncated(&request, work().await).await,
        Some(ProcessFault::DuplicateDelivery) => {
            work().await;
            work().await
        }
        Some(ProcessFault::LateZombieWrite) => {
            let answer = work().await;
            let pause = Duration::from_millis(random.random_range(0..20));
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                overwrite(&request, "another result".into()).await;
            });
            answer
        }
    }
}

/// Returns a random source that is the same whenever this attempt is made in this world.
fn random_of(seed: u64, request: &InvokeRequest) -> SmallRng {
    let mut hasher = DefaultHasher::new();
    let id = &request.fragment.id;
    (seed, id.stage, id.index, request.attempt).hash(&mut hasher);
    SmallRng::seed_from_u64(hasher.finish())
}

fn note(mark: &Path, fault: ProcessFault) {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(mark.join("fired"));
    let line = format!("{fault:?}\n");
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the trial's folder is writable");
}

/// Returns the store and the path of an attempt's result, whether it is there or not.
fn result_of(request: &InvokeRequest) -> (Arc<dyn ObjectStore>, Key) {
    let (access, prefix) = request.stage.output.place();
    let access = request.access.0.get(usize::from(access)).expect("a valid request");
    let store = connect(access, None).expect("a valid store").store;
    (store, result_path(prefix, &request.fragment.id, request.attempt))
}

/// Writes `bytes` at the path of a result. Storage may refuse the write, which is ignored.
async fn overwrite(request: &InvokeRequest, bytes: Bytes) {
    let (store, path) = result_of(request);
    let _ = store.put(&path, bytes.into()).await;
}

/// Spoils rows of another function that a request names. Returns false where storage does not let it, or where nothing would change.
async fn spoiled(request: &InvokeRequest, fault: ProcessFault, random: &mut SmallRng) -> bool {
    let slices = lost_parts::slices(request, None);
    let (store, _) = result_of(request);
    let slice = &slices[random.random_range(0..slices.len())];
    let key = lost_parts::key_of(request, slice);
    let changed = match fault {
        ProcessFault::TornInput => {
            let end = (slice.start + slice.bytes / 2) as usize;
            read(&store, &key).await.map(|bytes| bytes.slice(..bytes.len().min(end)))
        }
        ProcessFault::SwappedInput => {
            let other = &slices[random.random_range(0..slices.len())];
            let (own, other) = (read(&store, &key).await, read(&store, &lost_parts::key_of(request, other)).await);
            other.filter(|other| own.is_some_and(|own| own != *other))
        }
        _ => return store.delete(&key).await.is_ok(),
    };
    match changed {
        Some(bytes) => store.put(&key, bytes.into()).await.is_ok(),
        None => false,
    }
}

/// Reads an object. None where storage does not let it.
async fn read(store: &Arc<dyn ObjectStore>, key: &Key) -> Option<Bytes> {
    store.get(key).await.ok()?.bytes().await.ok()
}

async fn truncated(request: &InvokeRequest, answer: Bytes) -> Bytes {
    let mut response = wire::decode_response(&answer).expect("the handler's own answer");
    match &mut response.outcome {
        Ok(FragmentResult::Inline { bytes, .. }) => *bytes = Base64(bytes.0.slice(..bytes.0.len() / 2)),
        Ok(FragmentResult::Parts { place: PartsPlace::Inline(bytes), .. }) => {
            *bytes = Base64(bytes.0.slice(..bytes.0.len() / 2));
        }
        Ok(FragmentResult::Object { part, .. } | FragmentResult::Parts { part, .. }) => {
            let (store, path) = result_of(request);
            if let Ok(half) = store.get_range(&path, 0..part.bytes / 2).await {
                let _ = store.put(&path, half.into()).await;
            }
        }
        Err(_) => {}
    }
    wire::encode_response(&response).expect("a response is JSON")
}

/// Result of one seed.
#[derive(Debug, Default)]
pub struct Trial {
    pub sql: String,
    /// Promises that did not hold. A trial without any has passed.
    pub broken: Vec<String>,
    /// Typed error of the query, where it ended in one.
    pub error: Option<String>,
    pub attempts: usize,
    /// Stages that were run.
    pub stages: usize,
    /// Fragments whose rows were lost and made anew.
    pub restored: usize,
    /// True if the whole query began anew, because others would have had other rows.
    pub restarted: bool,
    /// Times that each fault fired, by its name.
    pub fired: BTreeMap<String, u64>,
}

/// TPC-H tables on an S3 server, and a judge that reads them from disk.
pub struct Bench {
    server: S3Server,
    store: Arc<dyn ObjectStore>,
    create: Vec<String>,
    judge: SessionContext,
    faulty: PathBuf,
}

/// Time by which a query may end after its time-out, on a machine that others use, too.
const LATE_MAX: Duration = Duration::from_secs(10);

impl Bench {
    /// Makes or finds the tables below `cache` and uploads them. `faulty` is the path of the function's program.
    pub async fn new(faulty: &Path, cache: &Path) -> anyhow::Result<Self> {
        let tables = tpch::tables(cache)?;
        let judge = SessionContext::new();
        for statement in tables.create_statements() {
            judge.sql(&statement).await?;
        }
        let server = S3Server::start()?;
        let store = server.store()?;
        let url = server.url("");
        let create = tables.upload(store.as_ref(), url.trim_end_matches('/')).await?;
        Ok(Self { server, store, create, judge, faulty: faulty.to_owned() })
    }

    /// Runs one seed.
    pub async fn trial(&self, seed: u64) -> anyhow::Result<Trial> {
        let mut random = SmallRng::seed_from_u64(seed);
        let is_staged = random.random_bool(0.5);
        let sql = if is_staged { staged_query(&mut random) } else { random_query(&mut random) };
        let mut trial = Trial { sql, ..Trial::default() };
        let folder = tempfile::tempdir()?;
        let mark = folder.path().join("mark");
        std::fs::create_dir_all(&mark)?;
        let (timeout, folder_of_exchange) = (Duration::from_secs(10), Key::from(format!("exchange-{seed}")));
        let config = Config {
            on: Target::Processes,
            functions_max: random.random_range(1..5),
            timeout,
            exchange: Some(self.server.url(folder_of_exchange.as_ref())),
            ..stages(is_staged, &mut random)
        };
        self.server.set_shape(None);
        let session = cloud::session(
            &self.server,
            config,
            &script(folder.path(), &self.faulty, &format!("chaos-{seed}"), &mark)?,
        )?;
        for statement in &self.create {
            run(&session, statement).await?;
        }
        let exchange = session.exchange().clone();
        self.server.set_shape(Some(storage(seed)));
        let started = Instant::now();
        let ended = run(&session, &trial.sql).await;
        let took = started.elapsed();
        session.close().await;
        for (fault, times) in self.server.fired() {
            trial.fired.insert(format!("{fault:?}"), times);
        }
        self.server.set_shape(None);
        match ended {
            Ok((rows, report)) => {
                (trial.attempts, trial.stages) = (report.attempts, report.stages);
                (trial.restored, trial.restarted) = (report.shuffles_restored, report.restarted.is_some());
                let expect = self.judge.sql(&trial.sql).await?.collect().await?;
                if let Err(difference) = compare(&expect, &rows, Rule::same_engine().in_any_order()) {
                    trial.broken.push(format!("wrong rows: {difference}"));
                }
                // Fragments of the first run need not have ended.
                if report.fragments_adopted < report.fragments && !trial.restarted {
                    let missed = format!("{} of {} fragments adopted", report.fragments_adopted, report.fragments);
                    trial.broken.push(missed);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::Functions | ErrorKind::TimedOut) => {
                trial.error = Some(error.to_string())
            }
            Err(error) => trial.broken.push(format!("not a typed failure of functions: {error}")),
        }
        if took > timeout + LATE_MAX {
            trial.broken.push(format!("took {took:?} of {timeout:?}"));
        }
        let leaked = processes_marked(&mark);
        if leaked > 0 {
            trial.broken.push(format!("{leaked} processes leaked"));
        }
        for fault in std::fs::read_to_string(mark.join("fired")).unwrap_or_default().lines() {
            *trial.fired.entry(fault.to_owned()).or_default() += 1;
        }
        // An object may be left only if it was written after its query had been cleaned up. It is then collected.
        let late = [ProcessFault::LateZombieWrite, ProcessFault::TornInput, ProcessFault::SwappedInput];
        let zombies: u64 = late.iter().filter_map(|fault| trial.fired.get(&format!("{fault:?}"))).sum();
        let left: Vec<_> = self.store.list(Some(&folder_of_exchange)).try_collect().await?;
        if left.len() as u64 > zombies {
            trial.broken.push(format!("{} objects stayed in the exchange", left.len()));
        }
        let found = exchange.leftovers(Duration::ZERO, Duration::ZERO, SystemTime::now()).await?;
        exchange.remove(&found).await?;
        let left: Vec<_> = self.store.list(Some(&folder_of_exchange)).try_collect().await?;
        if !left.is_empty() {
            trial.broken.push(format!("{} objects were not collected", left.len()));
        }
        Ok(trial)
    }
}

/// Returns the names of all faults, those of functions before those of storage.
pub fn fault_names() -> Vec<String> {
    let functions = ProcessFault::ALL.iter().map(|fault| format!("{fault:?}"));
    functions.chain(STORAGE_FAULTS.iter().map(|fault| format!("{fault:?}"))).collect()
}

/// Writes a script that runs the faulty function in a mode: a session's configuration names a program without arguments.
pub fn script(folder: &Path, faulty: &Path, mode: &str, mark: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join("function.sh");
    let text = format!("#!/bin/sh\nexec '{}' {mode} '{}'\n", faulty.display(), mark.display());
    OpenOptions::new().create(true).truncate(true).write(true).mode(0o700).open(&path)?.write_all(text.as_bytes())?;
    Ok(path)
}

/// Draws the settings of stages over stages. Queries that are made for these have them.
fn stages(is_staged: bool, random: &mut SmallRng) -> Config {
    if !is_staged && random.random_bool(0.5) {
        return Config::default();
    }
    Config {
        join: JoinPlace::Local,
        shuffle: ShufflePlace::Hash,
        shuffle_partitions: Some(random.random_range(2..17)),
        // In every fourth world functions combine objects.
        shuffle_reads_max: if random.random_bool(0.25) { 0 } else { Config::default().shuffle_reads_max },
        ..Config::default()
    }
}

/// Returns a query of three stages or more with one right answer. In some of them a stage is not determined by its rows, although its rows are always the same.
fn staged_query(random: &mut SmallRng) -> String {
    let days = random.random_range(500..2400);
    let date = format!("date '1992-01-01' + interval '{days} days'");
    let quantity = random.random_range(5..50);
    let volatile = if random.random_bool(0.3) { " AND random() >= 0" } else { "" };
    match random.random_range(0..4) {
        0 => format!(
            "SELECT o_custkey, count(*), sum(l_quantity) FROM orders JOIN lineitem ON o_orderkey = l_orderkey \
             WHERE l_shipdate < {date}{volatile} GROUP BY o_custkey"
        ),
        1 => format!(
            "SELECT c_nationkey, count(*), min(l_shipdate) FROM customer JOIN orders ON c_custkey = o_custkey \
             JOIN lineitem ON o_orderkey = l_orderkey WHERE l_quantity < {quantity} GROUP BY c_nationkey"
        ),
        2 => format!(
            "SELECT n, count(*), max(supplier) FROM (SELECT l_suppkey AS supplier, count(*) AS n FROM lineitem \
             WHERE l_shipdate < {date}{volatile} GROUP BY l_suppkey) GROUP BY n"
        ),
        _ => format!(
            "SELECT l_suppkey, count(*) FROM (SELECT l_suppkey, l_partkey FROM lineitem WHERE l_shipdate < {date} \
             INTERSECT SELECT l_suppkey, l_partkey FROM lineitem WHERE l_quantity >= {quantity}) GROUP BY l_suppkey"
        ),
    }
}

/// Returns a query with one right answer: its numbers are exact, and it has an order only where it has a limit.
pub fn random_query(random: &mut SmallRng) -> String {
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
