//! What a query will cost, before it runs: a pure function of what its fragments read, the time model and the prices.
//!
//! ```text
//!  stages: weights, reads, results ─┐
//!  time model, fleet ───────────────┼─► attempts: seconds and requests ─► quantities ─► Amounts, expected and at most
//!  tariff ──────────────────────────┘                (as in a report: [`Quantities`])
//! ```
//!
//! Expected is what the model says. At most is the same sum under the pessimism of [`View::UPPER`], each of whose factors says where it
//! comes from; a query whose attempts fail for good reasons can cost more. Not foreseen: what operators above the scans take
//! on the coordinator, row groups that statistics rule out, and LIMITs that end a query early.

use std::time::Duration;

use gust_protocol::Usage;
use gust_protocol::exchange::PART_BYTES;
use serde::Serialize;

use crate::attempt::Billing;
use crate::cost::{Basis, Item, Quantities, Tariff, line_cost};
use crate::model::load::{FragmentLoad, LocalLoad, Reads, Results, StageLoad};
use crate::model::{Latency, Pipe, Place, TimeModel};
use crate::money::Money;

/// Where, with what, and at which prices.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// Of functions of the size in question.
    pub model: &'a TimeModel,
    pub functions_max: usize,
    /// Whether functions share the coordinator's cores and pipe.
    pub shares_machine: bool,
    /// Environments that are likely to be up.
    pub warm: usize,
    /// Of one function.
    pub lanes: usize,
    /// `memory_mb` is that of one function.
    pub tariff: &'a Tariff,
    /// What the coordinator asks its stores for until the plan stands.
    pub planning: &'a Usage,
}

/// What it takes to run a query in one way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    pub place: Place,
    /// At once; none where it runs locally.
    pub functions: usize,
    /// Of one function.
    pub memory_mb: Option<u32>,
    pub fragments: usize,
    pub expected: Amounts,
    pub upper: Amounts,
    /// What it will also cost, by names of [`Item`]s whose price or quantity nobody knows.
    pub not_included: Vec<&'static str>,
}

/// Sums over a query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Amounts {
    #[serde(rename = "nano_dollars")]
    pub dollars: Money,
    pub seconds: f64,
    /// From storage, by functions and by the coordinator.
    pub bytes: u64,
    /// To storage, by functions and by the coordinator.
    pub requests: u64,
    /// Of functions.
    pub gb_seconds: f64,
}

/// How the future is looked at.
#[derive(Debug, Clone, Copy)]
struct View {
    /// A core takes this many times as long as the model's.
    core: f64,
    /// An attempt's overhead takes this many times as long.
    overhead: f64,
    /// Standard deviations above the mean that all waiting for first bytes takes.
    deviations: f64,
    /// An environment takes this many times as long to start.
    start: f64,
    /// Whether pipes have their burst.
    bursts: bool,
    /// Whether a platform may have ended all environments. Processes of this machine live as long as the session.
    all_cold: bool,
    /// Whether what is not known of files and environments is at its worst.
    pessimistic: bool,
    /// Reads that are sent once more, of all.
    again: f64,
    /// The same for each function, on top.
    again_each: u64,
    /// Fragments of which there are two attempts, of all.
    repeated: f64,
    /// Size of a stage's results.
    results: fn(&Results) -> u64,
}

/// Fewer fragments than this see no second attempt while the first is well: three quarters must be done before one is called
/// slow ([`crate::scheduler::SpeculationPolicy`]).
const REPEATED_FROM: usize = 4;

impl View {
    const EXPECTED: Self = Self {
        core: 1.0,
        overhead: 1.0,
        deviations: 0.0,
        start: 1.0,
        bursts: true,
        all_cold: false,
        pessimistic: false,
        again: 0.0,
        again_each: 0,
        repeated: 0.0,
        // Where nobody can say, it is an aggregate's: mostly small enough for the response.
        results: |results| results.expected.unwrap_or_default(),
    };

    const UPPER: Self = Self {
        // Queries differ in what a core takes: TPC-H's scans from 60 to 200 MB/s, where the model says 120.
        core: 2.0,
        // A plan of twenty operators takes longer to decode and to set up than a calibration's tiny one.
        overhead: 2.0,
        // One exponential is three deviations above its mean twice in a hundred times, a sum of several less often.
        deviations: 3.0,
        // AWS: a cold start takes "from under 100 ms to over 1 second", where the model says 250 ms.
        start: 4.0,
        // A function whose environment has just worked may have used up its burst.
        bursts: false,
        all_cold: true,
        pessimistic: true,
        // Hedges: 1 in 200 reads (`fragment_fn::hedging`), and as many for what a store's client tries again.
        again: 0.01,
        // A client that has just begun has one hedge at once.
        again_each: 1,
        // What a stage may spend on second attempts (`SpeculationPolicy::extra_share_max`).
        repeated: 0.05,
        results: |results| results.at_most,
    };
}

/// An attempt that runs to its end.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    /// In the mean.
    seconds: f64,
    /// Of what it waits for first bytes, in square seconds.
    variance: f64,
    requests: u64,
    bytes: u64,
}

/// What a query costs on functions.
pub fn on_functions(stages: &[StageLoad], on: &Circumstances<'_>) -> Estimate {
    let fragments: usize = stages.iter().map(|stage| stage.fragments.len()).sum();
    let (expected, not_included) = functions_amounts(stages, on, &View::EXPECTED);
    let (upper, _) = functions_amounts(stages, on, &View::UPPER);
    Estimate {
        place: Place::Functions,
        functions: fragments.min(on.functions_max),
        memory_mb: Some(on.tariff.memory_mb),
        fragments,
        expected,
        upper: upper.at_least(&expected),
        not_included,
    }
}

/// What a query costs without functions.
pub fn locally(load: &LocalLoad, on: &Circumstances<'_>) -> Estimate {
    let (expected, not_included) = local_amounts(load, on, &View::EXPECTED);
    let (upper, _) = local_amounts(load, on, &View::UPPER);
    Estimate {
        place: Place::Local,
        functions: 0,
        memory_mb: None,
        fragments: 0,
        expected,
        upper: upper.at_least(&expected),
        not_included,
    }
}

impl Estimate {
    /// And what the coordinator reads itself, after the functions: scans whose plans do not travel.
    #[must_use]
    pub fn and_here(mut self, load: &LocalLoad, on: &Circumstances<'_>) -> Self {
        let planning = Usage::default();
        let here = locally(load, &Circumstances { planning: &planning, ..*on });
        self.expected = self.expected + here.expected;
        self.upper = self.upper + here.upper;
        let new = here.not_included.into_iter().filter(|name| !self.not_included.contains(name));
        self.not_included.extend(new.collect::<Vec<_>>());
        self
    }
}

fn functions_amounts(stages: &[StageLoad], on: &Circumstances<'_>, view: &View) -> (Amounts, Vec<&'static str>) {
    let fragments: Vec<&FragmentLoad> = stages.iter().flat_map(|stage| &stage.fragments).collect();
    let count = fragments.len();
    // All stages are handed to the scheduler at once.
    let at_once = count.min(on.functions_max).max(1);
    let of = |(index, fragment): (usize, &&FragmentLoad)| attempt(fragment, index < at_once, at_once, on, view);
    let mut attempts: Vec<Attempt> = fragments.iter().enumerate().map(of).collect();
    attempts.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let repeated = if count < REPEATED_FROM { 0 } else { (view.repeated * count as f64).ceil() as usize };
    let start = on.model.start.mul_f64(view.start);
    let warm = if view.all_cold && !on.shares_machine { 0 } else { on.warm };
    let cold = at_once.saturating_sub(warm).min(count);
    let results = results(stages, view);

    let all = || attempts.iter().chain(&attempts[..repeated]);
    // Many deviate less, together, than each by itself.
    let deviation = view.deviations * all().map(|attempt| attempt.variance).sum::<f64>().sqrt();
    let billed: f64 = all().map(|attempt| attempt.seconds).sum();
    let longer = 1.0 + if billed > 0.0 { deviation / billed } else { 0.0 };
    let mut spent = Quantities::default();
    for (position, attempt) in all().enumerate() {
        let init = if position < cold { start } else { Duration::ZERO };
        let duration = duration(attempt.seconds * longer);
        spent.add_billing(Billing::Metered { duration, init }, on.tariff);
    }
    let plans = stages.iter().filter(|stage| stage.publishes_plan).count() as u64;
    let reads: u64 = all().map(|attempt| attempt.requests).sum::<u64>() + plans * at_once as u64;
    let again = (view.again * reads as f64).ceil() as u64 + view.again_each * at_once as u64;
    spent.add(Item::TableReads, Basis::Metered, reads + again);
    spent.add(Item::ExchangeWrites, Basis::Metered, results.writes);
    spent.add(Item::ExchangeReads, Basis::Metered, results.objects);
    // The coordinator's own: plans, and a listing to clean up where anything was written.
    spent.add(Item::CoordinatorWrites, Basis::Metered, plans + u64::from(plans + results.objects > 0));

    let longest = attempts.first().map_or(0.0, |attempt| attempt.seconds + view.deviations * attempt.variance.sqrt());
    let shared = (attempts.iter().map(|attempt| attempt.seconds).sum::<f64>() + deviation) / at_once as f64;
    let seconds = longest.max(shared)
        // What a stage takes and its functions are not billed for.
        + view.overhead * on.model.stage_overhead.saturating_sub(on.model.attempt_overhead).as_secs_f64()
        + if cold > 0 { start.as_secs_f64() } else { 0.0 }
        + on.model.fragment_overhead.as_secs_f64() * count as f64
        + results.bytes as f64 / on.model.pipe_bytes_per_second;
    spent.add(Item::ExchangeStorage, Basis::Metered, u128::from(results.object_bytes) * micros(seconds));
    let read_bytes: u64 = all().map(|attempt| attempt.bytes).sum();
    spent.add(Item::Logs, Basis::Unknown, (count + repeated) as u64);
    add_own(&mut spent, on, seconds, results.bytes);
    let bytes = read_bytes + results.object_bytes + on.planning.bytes_read;
    amounts(&spent, on.tariff, seconds, bytes)
}

fn local_amounts(load: &LocalLoad, on: &Circumstances<'_>, view: &View) -> (Amounts, Vec<&'static str>) {
    let LocalLoad { weight_bytes, reads } = load;
    let TimeModel { pipe_bytes_per_second, core_bytes_per_second, cores, .. } = *on.model;
    let reading = reads.bytes as f64 / pipe_bytes_per_second;
    let computing = *weight_bytes as f64 * view.core / (cores as f64 * core_bytes_per_second);
    let (waiting, variance) = waiting(reads, cores.max(1), &on.model.read_latency);
    let seconds = in_lanes(reading, computing, cores.max(1)) + waiting + view.deviations * variance.sqrt();
    let requests = requests(reads, view);
    let again = (view.again * requests as f64).ceil() as u64 + view.again_each * u64::from(requests > 0);
    let mut spent = Quantities::default();
    spent.add(Item::CoordinatorReads, Basis::Metered, requests + again);
    add_own(&mut spent, on, seconds, reads.bytes);
    amounts(&spent, on.tariff, seconds, reads.bytes + on.planning.bytes_read)
}

/// What the coordinator has whatever it runs: the requests of its planning, its machine, and bytes that come to it.
fn add_own(spent: &mut Quantities, on: &Circumstances<'_>, seconds: f64, arriving_bytes: u64) {
    let bytes = arriving_bytes + on.planning.bytes_read;
    spent.add_own(&on.planning.requests, bytes, duration(seconds), on.tariff);
}

/// One fragment from its invocation to its answer, as the first on its function or after others.
fn attempt(fragment: &FragmentLoad, is_first: bool, at_once: usize, on: &Circumstances<'_>, view: &View) -> Attempt {
    let FragmentLoad { weight_bytes, lanes, .. } = *fragment;
    let reads = if view.pessimistic { fragment.reads_at_most } else { fragment.reads };
    let (model, lanes) = (on.model, lanes.max(1));
    let overhead = view.overhead * model.attempt_overhead.as_secs_f64();
    let (waiting, variance) = waiting(&reads, lanes, &model.read_latency);
    // One read's latency is part of the overhead.
    let waiting = (waiting - model.read_latency.mean.as_secs_f64()).max(0.0);
    // A function's cores are shared by its lanes, of which some may have nothing to do.
    let cores = model.function_cores * (lanes as f64 / on.lanes.max(lanes) as f64);
    let mut computing = weight_bytes as f64 * view.core / (cores * model.core_bytes_per_second);
    if on.shares_machine {
        computing *= (at_once as f64 * cores / model.cores.max(1) as f64).max(1.0);
    }
    let pauses = waiting + computing / lanes as f64;
    let pipe = &model.function_pipe;
    let mut reading = match view.bursts {
        true if is_first => pipe.seconds_besides(reads.bytes, pipe.burst_bytes, pauses),
        true => pipe.seconds_besides(reads.bytes, 0, overhead + pauses),
        false => Pipe::steady(pipe.bytes_per_second).seconds(reads.bytes),
    };
    if on.shares_machine {
        reading = reading.max(reads.bytes as f64 * at_once as f64 / model.machine_pipe_bytes_per_second);
    }
    Attempt {
        seconds: overhead + waiting + in_lanes(reading, computing, lanes),
        variance,
        requests: requests(&reads, view),
        bytes: reads.bytes,
    }
}

/// While one lane computes, the others read.
fn in_lanes(reading: f64, computing: f64, lanes: usize) -> f64 {
    reading.max(computing) + reading.min(computing) / lanes as f64
}

/// What lanes wait for first bytes, at the same time: seconds in the mean, and the variance. A footer is waited for, and then each row
/// group, whose runs are asked for together.
fn waiting(reads: &Reads, lanes: usize, latency: &Latency) -> (f64, f64) {
    let Reads { footers, row_groups, runs, .. } = *reads;
    // One after the other in a lane; a lane that has anything waits at least once.
    let turns = |waits: u64| if waits > 0 { (waits as f64 / lanes as f64).max(1.0) } else { 0.0 };
    let of_group = latency.of_last(runs as f64 / row_groups.max(1) as f64);
    let mean = turns(footers) * latency.mean.as_secs_f64() + turns(row_groups) * of_group;
    (mean, latency.deviation().powi(2) * (turns(footers) + turns(row_groups)))
}

fn requests(reads: &Reads, view: &View) -> u64 {
    if view.pessimistic { reads.requests_max() } else { reads.requests() }
}

/// What comes back, and how much of it through the exchange.
#[derive(Default)]
struct Sent {
    bytes: u64,
    objects: u64,
    writes: u64,
    object_bytes: u64,
}

fn results(stages: &[StageLoad], view: &View) -> Sent {
    let mut sent = Sent::default();
    for stage in stages {
        let (bytes, fragments) = ((view.results)(&stage.results), stage.fragments.len().max(1) as u64);
        let each = bytes.div_ceil(fragments);
        sent.bytes += bytes;
        if each > stage.inline_bytes_max {
            sent.objects += fragments;
            // One PUT, or a beginning, parts and an end.
            let parts = each.div_ceil(PART_BYTES as u64);
            sent.writes += fragments * if parts < 2 { 1 } else { parts + 2 };
            sent.object_bytes += bytes;
        }
    }
    sent
}

/// The sums, and the names of what has no amount.
fn amounts(spent: &Quantities, tariff: &Tariff, seconds: f64, bytes: u64) -> (Amounts, Vec<&'static str>) {
    let (mut requests, mut gb_seconds) = (0, 0.0);
    let mut unknown: Vec<&'static str> = Vec::new();
    for (item, basis, quantity) in spent.iter() {
        match item {
            Item::Compute { .. } | Item::StartUp { .. } => gb_seconds += item.shown(quantity).0,
            Item::TableReads
            | Item::TableLists
            | Item::ExchangeWrites
            | Item::ExchangeReads
            | Item::CoordinatorReads
            | Item::CoordinatorWrites => requests += u64::try_from(quantity).unwrap_or(u64::MAX),
            Item::Invocations
            | Item::ExchangeStorage
            | Item::DataTransfer
            | Item::Logs
            | Item::Coordinator
            | Item::LostRequests
            | Item::OpenAttempts => {}
        }
        if line_cost(item, basis, quantity, tariff).is_none() {
            unknown.push(item.name());
        }
    }
    (Amounts { dollars: spent.cost(tariff), seconds, bytes, requests, gb_seconds }, unknown)
}

impl Estimate {
    /// Whether it is of the same place, functions, size and fragments.
    pub fn is_like(&self, other: &Self) -> bool {
        self.kind() == other.kind()
    }

    /// Without functions first, then by their number and size.
    pub(super) fn kind(&self) -> (bool, usize, usize, Option<u32>) {
        (self.place == Place::Functions, self.functions, self.fragments, self.memory_mb)
    }
}

impl Amounts {
    /// Pessimism about one thing may be optimism about another, such as a pipe without burst that is never waited for.
    fn at_least(self, least: &Self) -> Self {
        Self {
            dollars: self.dollars.max(least.dollars),
            seconds: self.seconds.max(least.seconds),
            bytes: self.bytes.max(least.bytes),
            requests: self.requests.max(least.requests),
            gb_seconds: self.gb_seconds.max(least.gb_seconds),
        }
    }
}

impl std::ops::Add for Amounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            dollars: self.dollars + other.dollars,
            seconds: self.seconds + other.seconds,
            bytes: self.bytes + other.bytes,
            requests: self.requests + other.requests,
            gb_seconds: self.gb_seconds + other.gb_seconds,
        }
    }
}

/// A model of nonsense gives nonsense, but no panic.
fn duration(seconds: f64) -> Duration {
    const MAX: Duration = Duration::from_secs(1_000_000_000);
    Duration::try_from_secs_f64(seconds).map_or(MAX, |duration| duration.min(MAX))
}

fn micros(seconds: f64) -> u128 {
    duration(seconds).as_micros()
}

impl std::fmt::Display for Estimate {
    /// Where, and what is expected: `8 functions of 2048 MB: $0.0004213 and 1.203 s expected, $0.0009 and 2.5 s at most`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.place, self.memory_mb) {
            (Place::Local, _) | (Place::Functions, None) => write!(f, "local")?,
            (Place::Functions, Some(memory_mb)) => {
                let plural = if self.functions == 1 { "" } else { "s" };
                write!(f, "{} function{plural} of {memory_mb} MB", self.functions)?;
            }
        }
        let Self { expected, upper, .. } = self;
        write!(f, ": {} and {:.3} s expected", expected.dollars, expected.seconds)?;
        write!(f, ", {} and {:.3} s at most", upper.dollars, upper.seconds)
    }
}

#[cfg(test)]
#[path = "forecast_tests.rs"]
mod tests;
