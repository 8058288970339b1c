//! One seed: random queries under random faults, and the promises that hold whatever happens.
//!
//! Every query equals the fault-free result, or fails with a typed error by its deadline. Every attempt is booked before it
//! runs, and closed once. One attempt of a fragment is adopted. Nothing stays in the exchange.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use gust_engine::attempt::InvokeErrorKind;
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::events::{AttemptCause, AttemptOutcome, QueryEvent, StampedEvent};
use gust_engine::model::TimeModel;
use gust_engine::planner::DigestBounds;
use gust_engine::planner::passes::pack::Packing;
use gust_engine::scheduler::SchedulerSettings;
use gust_protocol::{FragmentErrorKind, FragmentId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::fragment_rows::number;
use super::unchecked::UncheckedInvoker;
use super::world::{QueryOutcome, SimulatedQuery, World, WorldOutcome, run_virtually};
use super::{Fault, FaultPlan, Graph, GraphStep, Overwritten, PartsReading, Pipe, Platform, Quantiles, ScanStage};

/// Choice of the result that the coordinator takes for a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// The coordinator takes one attempt's result and checks it, as the project does.
    On,
    /// The coordinator takes the last result, unchecked. A test uses it to show that the trial would notice.
    Off,
    /// Functions read the newest rows of other functions, unchecked. A test uses it, too.
    NewestParts,
    /// Lost rows are made anew that another attempt parts in another way. A test uses it, too.
    RestoresAll,
}

/// Result of one seed.
#[derive(Debug, Default)]
pub struct Trial {
    /// Promises that did not hold. A trial without any has passed.
    pub broken: Vec<String>,
    pub queries_right: usize,
    /// Queries that failed as they may, by the kind of their error.
    pub queries_failed: BTreeMap<&'static str, usize>,
    pub attempts: usize,
    pub retries: usize,
    pub second_attempts: usize,
    /// Queries of three stages or more.
    pub graphs: usize,
    /// Fragments whose rows were lost and made anew.
    pub restored: usize,
    /// Objects of rows for functions that were overwritten after these rows had been adopted.
    pub overwritten: usize,
    /// Fragments of stages beyond those that were planned.
    pub unplanned: usize,
    /// Fragments that were taken apart by partitions, because their functions ran out of memory.
    pub taken_apart: usize,
    /// Events of these fragments and of their pieces.
    pub of_pieces: PieceEvents,
    /// Fragments whose rows were made anew, of stages that combine objects with several functions for a run of partitions.
    pub groups_restored: usize,
    pub fired: BTreeMap<Fault, u64>,
    /// Objects that zombies wrote after their query had been cleaned up, and that the collection found.
    pub late_objects: usize,
    /// Hash of everything that happened, with its order and its times.
    pub history: u64,
}

/// Events of fragments that were taken apart, beside their memory that did not suffice, and of the pieces.
#[derive(Debug, Default)]
pub struct PieceEvents {
    /// Rows that were made anew.
    pub restored: usize,
    /// Attempts that found rows of others lost.
    pub without_input: usize,
    /// Attempts that failed otherwise.
    pub failed: usize,
    pub second_attempts: usize,
}

/// Runs one seed. Never panics.
pub fn trial(seed: u64, adoption: Adoption) -> Trial {
    match catch_unwind(AssertUnwindSafe(|| run(seed, adoption))) {
        Ok((_, trial)) => trial,
        Err(panic) => Trial { broken: vec![format!("panicked: {}", message(&*panic))], ..Trial::default() },
    }
}

/// Runs one seed and returns its log, too. Panics where the project's code does.
pub fn trial_in_full(seed: u64, adoption: Adoption) -> (Vec<String>, Trial) {
    run(seed, adoption)
}

pub(super) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

fn run(seed: u64, adoption: Adoption) -> (Vec<String>, Trial) {
    let mut random = SmallRng::seed_from_u64(seed);
    let reading = if adoption == Adoption::NewestParts { PartsReading::Newest } else { PartsReading::AsNamed };
    let world = World { reading, ..world(seed, &mut random) };
    let queries: Vec<SimulatedQuery> = (0..random.random_range(1..4))
        .map(|place| {
            let query = query(&mut random);
            // The unchecked coordinator knows results only.
            let steps = if adoption == Adoption::Off { Vec::new() } else { steps(place == 0, &mut random) };
            let restores_all = adoption == Adoption::RestoresAll;
            // Broken promises are looked for in the other histories.
            let is_short_of_memory =
                adoption == Adoption::On && number(seed, ("little memory", place)).is_multiple_of(3);
            let graph = Graph { restores_all, is_short_of_memory, ..graph(seed, steps, &mut random) };
            SimulatedQuery { graph, ..query }
        })
        .collect();
    let ended = run_virtually(world.run(std::slice::from_ref(&queries), |invoker, store| match adoption {
        Adoption::Off => Arc::new(UncheckedInvoker { inner: invoker, store }),
        Adoption::On | Adoption::NewestParts | Adoption::RestoresAll => Arc::new(invoker),
    }));
    let mut trial = Trial { fired: ended.served.fired.clone(), late_objects: ended.late_objects, ..Trial::default() };
    for (query, outcome) in queries.iter().zip(&ended.queries) {
        judge(&world, query, outcome, &mut trial);
        trial.overwritten += overwritten(outcome, &ended.served.overwritten);
    }
    if ended.orphans > 0 {
        trial.broken.push(format!("{} objects stayed in the exchange", ended.orphans));
    }
    if ended.running > 0 {
        trial.broken.push(format!("{} functions still run", ended.running));
    }
    let log = log(&ended);
    let mut hasher = DefaultHasher::new();
    log.hash(&mut hasher);
    trial.history = hasher.finish();
    (log, trial)
}

/// Draws the stages above a scan. The first query of a seed has three stages: one after the other, or a join of two tables.
fn steps(is_first: bool, random: &mut SmallRng) -> Vec<GraphStep> {
    let joins_one = random.random_bool(0.5);
    let number = match (is_first, joins_one) {
        (true, true) => 1,
        (true, false) => 2,
        (false, _) => random.random_range(0..4_usize).saturating_sub(1),
    };
    let step = |_| {
        let files = if joins_one { random.random_range(1..12) } else { 0 };
        GraphStep { joined: (0..files).map(|_| 1_u64 << random.random_range(16..26)).collect(), sent: None }
    };
    (0..number).map(step).collect()
}

/// Draws the exchanges of a query.
fn graph(seed: u64, steps: Vec<GraphStep>, random: &mut SmallRng) -> Graph {
    Graph {
        steps,
        partitions: Some(random.random_range(1..20)),
        reads_max: number(seed, "combines").is_multiple_of(4).then_some(0),
        restores_all: false,
        is_short_of_memory: false,
        outgrows_plan: number(seed, "outgrows its plan").is_multiple_of(3),
    }
}

/// Counts the rows for functions whose objects were overwritten after they had been adopted.
fn overwritten(outcome: &QueryOutcome, writes: &[Overwritten]) -> usize {
    let parted = |of: u32| {
        let mut events = outcome.events.iter();
        events.any(|stamped| matches!(stamped.event, QueryEvent::RowsParted { stage, .. } if stage == of))
    };
    let after = |id: &FragmentId, number: u32, at: Duration| {
        let adopted_unix_ms = u128::from(outcome.began_unix_ms) + at.as_millis();
        let is_later = |write: &&Overwritten| u128::from(write.unix_ms) > adopted_unix_ms;
        writes.iter().filter(|write| write.id == *id && write.attempt == number).filter(is_later).count()
    };
    let of_event = |StampedEvent { at, event }: &StampedEvent| match event {
        QueryEvent::FragmentAdopted { id, attempt, .. } if parted(id.stage) => after(id, *attempt, *at),
        _ => 0,
    };
    outcome.events.iter().map(of_event).sum()
}

pub(super) fn world(seed: u64, random: &mut SmallRng) -> World {
    let mib = f64::from(1 << 20);
    let platform = Platform {
        memory_mb: 2048,
        cores: 1.0,
        core_bytes_per_second: 100e6,
        concurrent_max: random.random_range(2..80),
        ramp_burst: random.random_range(4..100),
        ramp_per_second: 10.0,
        functions: 1,
        cold_start_ms: Quantiles::new(vec![(0.0, 80.0), (0.9, 300.0), (1.0, 3000.0)]),
        warm_start_ms: Quantiles::new(vec![(0.0, 5.0), (0.99, 30.0), (1.0, 500.0)]),
        read_ms: Quantiles::new(vec![(0.0, 10.0), (0.5, 27.0), (0.99, 106.0), (1.0, 2000.0)]),
        write_ms: Quantiles::new(vec![(0.0, 20.0), (0.99, 200.0), (1.0, 2000.0)]),
        reads_in_flight: 8,
        read_bytes: 8 << 20,
        footer_reads: 1,
        hedged_after_ms: random.random_bool(0.5).then_some(135.0),
        pipe: Pipe {
            once_bytes: 150.0 * mib,
            refilled_bytes: 150.0 * mib,
            burst_bytes_per_second: 1200.0 * mib,
            bytes_per_second: 75.0 * mib,
        },
    };
    World {
        seed,
        platform,
        faults: FaultPlan::random(random),
        settings: SchedulerSettings::new(random.random_range(1..64), seed),
        model: TimeModel { core_bytes_per_second: 100e6, ..TimeModel::laptop(1) },
        // Half of the worlds send all results through the exchange, where more can go wrong.
        inline_bytes_max: if random.random() { 0 } else { 1 << 20 },
        rows_max: 60,
        warm: random.random_range(0..20),
        reading: PartsReading::AsNamed,
    }
}

pub(super) fn query(random: &mut SmallRng) -> SimulatedQuery {
    let files = random.random_range(1..25);
    let size = |random: &mut SmallRng| 1_u64 << random.random_range(16..28);
    let typical = size(random);
    let seconds = if random.random_bool(0.2) { random.random_range(1..20) } else { random.random_range(60..400) };
    SimulatedQuery {
        begins: Duration::from_millis(random.random_range(0..10_000)),
        timeout: Duration::from_secs(seconds),
        file_bytes: (0..files).map(|_| if random.random_bool(0.9) { typical } else { size(random) }).collect(),
        packing: Packing {
            fragment_bytes_target: 1,
            model: TimeModel::laptop(1),
            functions_max: files,
            functions: Some(files),
            lanes_max: 1,
            function_memory_bytes: 2 << 30,
            digest: DigestBounds::default(),
        },
        graph: Graph::default(),
        cap: None,
    }
}

pub(super) fn judge(world: &World, query: &SimulatedQuery, outcome: &QueryOutcome, trial: &mut Trial) {
    let QueryOutcome { id, stages, scans, rows, took, events, .. } = outcome;
    trial.graphs += usize::from(*stages >= 3);
    match rows {
        Ok(rows) if *rows == world.fragment_rows().rows(id, scans) => trial.queries_right += 1,
        Ok(rows) => {
            let expect = world.fragment_rows().rows(id, scans).len();
            trial.broken.push(format!("query {id}: wrong rows: {} instead of {expect}", rows.len()));
        }
        Err(error) => match kind(error) {
            Some(kind) => *trial.queries_failed.entry(kind).or_default() += 1,
            None => trial.broken.push(format!("query {id}: not a typed failure of functions: {error}")),
        },
    }
    if *took > query.timeout + Duration::from_secs(1) {
        trial.broken.push(format!("query {id}: took {took:?} of {:?}", query.timeout));
    }
    check_books(outcome, query.graph.outgrows_plan, events, trial);
    count_pieces(events, trial);
    count_groups(outcome, trial);
}

/// Returns the fragments with which each stage began.
fn begun(events: &[StampedEvent]) -> BTreeMap<u32, u32> {
    let begun = |stamped: &StampedEvent| match stamped.event {
        QueryEvent::StageStarted { stage, fragments, .. } => Some((stage, fragments)),
        _ => None,
    };
    events.iter().filter_map(begun).collect()
}

/// Counts the events of fragments that were taken apart, and of their pieces: these have the numbers behind those with which a stage began.
fn count_pieces(events: &[StampedEvent], trial: &mut Trial) {
    let begun = begun(events);
    let apart: BTreeSet<&FragmentId> = events
        .iter()
        .filter_map(|stamped| match &stamped.event {
            QueryEvent::FragmentTakenApart { id, .. } => Some(id),
            _ => None,
        })
        .collect();
    let is_one =
        |id: &FragmentId| apart.contains(id) || begun.get(&id.stage).is_some_and(|fragments| id.index >= *fragments);
    let of_pieces = &mut trial.of_pieces;
    for StampedEvent { event, .. } in events {
        match event {
            QueryEvent::RowsRestored { id, .. } if is_one(id) => of_pieces.restored += 1,
            QueryEvent::AttemptStarted { id, cause: AttemptCause::Speculative, .. } if is_one(id) => {
                of_pieces.second_attempts += 1;
            }
            QueryEvent::AttemptEnded { id, outcome, .. } if is_one(id) => match outcome {
                AttemptOutcome::FragmentFailed { kind: FragmentErrorKind::OutOfMemory, .. } => {}
                AttemptOutcome::FragmentFailed { kind: FragmentErrorKind::InputLost, .. } => {
                    of_pieces.without_input += 1;
                }
                AttemptOutcome::FragmentFailed { .. } => of_pieces.failed += 1,
                AttemptOutcome::InvokeFailed { kind, .. } if *kind != InvokeErrorKind::Throttled => {
                    of_pieces.failed += 1;
                }
                _ => {}
            },
            _ => {}
        }
    }
}

/// Counts the fragments whose rows were made anew, of stages that began with more functions than runs of partitions.
fn count_groups(outcome: &QueryOutcome, trial: &mut Trial) {
    let begun = begun(&outcome.events);
    let is_shared =
        |stage: &u32| begun.get(stage).zip(outcome.combining.get(stage)).is_some_and(|(begun, runs)| begun > runs);
    let is_restored =
        |stamped: &&StampedEvent| matches!(&stamped.event, QueryEvent::RowsRestored { id, .. } if is_shared(&id.stage));
    trial.groups_restored += outcome.events.iter().filter(is_restored).count();
}

/// Returns the name of an error's kind, if faults may end a query with it.
pub(super) fn kind(error: &QueryError) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::Functions => Some("functions"),
        ErrorKind::TimedOut => Some("timed out"),
        ErrorKind::CapReached => Some("budget exceeded"),
        _ => None,
    }
}

/// Failed attempts at a fragment, at most: four count, and beside each of them one speculative attempt may fail. It begins anew when rows that it reads are lost, four
/// times and once more for each stage that it reads.
const FAILURES_MAX: u32 = 8 * (1 + 4 + 2);

/// Checks that the event log adds up.
fn check_books(outcome: &QueryOutcome, outgrows_plan: bool, events: &[StampedEvent], trial: &mut Trial) {
    let (query, succeeded) = (&outcome.id, outcome.rows.is_ok());
    let is_scan = |stage: u32| outcome.scans.iter().any(|scan: &ScanStage| scan.stage == stage);
    let (mut open, mut closed, mut adopted) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut failures: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    let (mut fragments_started, mut apart) = (0, BTreeSet::new());
    let mut broken = |what: String| trial.broken.push(format!("query {query}: {what}"));
    for StampedEvent { event, .. } in events {
        match event {
            QueryEvent::StageStarted { stage, fragments, .. } => {
                fragments_started += *fragments as usize;
                if outgrows_plan && !is_scan(*stage) {
                    trial.unplanned += (*fragments as usize).saturating_sub(1);
                }
            }
            QueryEvent::AttemptStarted { id, attempt, cause, .. } => {
                trial.attempts += 1;
                trial.retries += usize::from(*cause == AttemptCause::Retry);
                trial.second_attempts += usize::from(*cause == AttemptCause::Speculative);
                if !open.insert((id.stage, id.index, *attempt)) {
                    broken(format!("attempt {attempt} of fragment {id} was started twice"));
                }
            }
            QueryEvent::AttemptEnded { id, attempt, outcome, .. } => {
                let key = (id.stage, id.index, *attempt);
                if !open.contains(&key) || !closed.insert(key) {
                    broken(format!("attempt {attempt} of fragment {id} was closed without being open"));
                }
                let failed = match outcome {
                    AttemptOutcome::Done { .. } | AttemptOutcome::Cancelled => false,
                    AttemptOutcome::InvokeFailed { kind, .. } => *kind != InvokeErrorKind::Throttled,
                    AttemptOutcome::FragmentFailed { .. } => true,
                };
                *failures.entry((id.stage, id.index)).or_default() += u32::from(failed);
            }
            QueryEvent::FragmentAdopted { id, attempt, .. } => {
                if !closed.contains(&(id.stage, id.index, *attempt)) {
                    broken(format!("attempt {attempt} of fragment {id} was adopted before it ended"));
                }
                if !adopted.insert((id.stage, id.index)) {
                    broken(format!("fragment {id} was adopted twice"));
                }
            }
            QueryEvent::FragmentTakenApart { id, pieces } => {
                trial.taken_apart += 1;
                fragments_started += *pieces as usize;
                if !apart.insert((id.stage, id.index)) {
                    broken(format!("fragment {id} was taken apart twice"));
                }
            }
            QueryEvent::RowsRestored { id, lost, attempt, .. } => {
                trial.restored += 1;
                if lost == attempt || !closed.contains(&(id.stage, id.index, *attempt)) {
                    broken(format!("rows of fragment {id} were made anew by attempt {attempt} before it ended"));
                }
            }
            _ => {}
        }
    }
    if open != closed {
        broken(format!("{} attempts were never closed", open.len() - closed.len()));
    }
    // Its pieces take the place of a fragment that was taken apart.
    let fragments = fragments_started - apart.len();
    if succeeded && adopted.len() != fragments {
        broken(format!("{} of {fragments} fragments were adopted", adopted.len()));
    }
    if let Some(fragment) = adopted.intersection(&apart).next() {
        broken(format!("fragment {fragment:?} was adopted, and its pieces were, too"));
    }
    if let Some((fragment, failed)) = failures.iter().find(|(_, failed)| **failed > FAILURES_MAX) {
        broken(format!("fragment {fragment:?} failed {failed} times"));
    }
}

fn log(ended: &WorldOutcome) -> Vec<String> {
    let line = |query: &QueryOutcome, stamped: &StampedEvent| {
        format!("{} {:>10.3} {:?}", &query.id[26..], stamped.at.as_secs_f64(), stamped.event)
    };
    let mut log = Vec::new();
    for query in &ended.queries {
        log.extend(query.events.iter().map(|stamped| line(query, stamped)));
        let end = match &query.rows {
            Ok(rows) => format!("{} rows", rows.len()),
            Err(error) => error.to_string(),
        };
        log.push(format!("{} {:>10.3} {end}", &query.id[26..], query.took.as_secs_f64()));
    }
    log.push(format!("{:?}, {} late objects, {} orphans", ended.served, ended.late_objects, ended.orphans));
    log
}
