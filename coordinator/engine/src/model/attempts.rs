//! Attempts of a query, and their times: one model for decisions, quotes, packing and expected times of attempts. It is pure, and knows no
//! prices ([`super::forecast`] does).
//!
//! Within an attempt, lanes overlap reading and computing: while one computes, the others read. Where scans read ahead, an attempt waits for its
//! first footer and its first row group, and computes on what has come from then on. Operators above the scans take the bytes into them at the rate
//! of a core ([`super::load::OperatorLoad`]), on the coordinator after all functions are done. The model foresees no row groups that statistics rule out,
//! and no LIMIT that ends a query early.

use std::time::Duration;

use fragment_fn::DIGEST_READS_MAX;
use fragment_fn::hedging::{HEDGES_AT_START, READS_PER_HEDGE};
use gust_protocol::exchange::writes_of;

use super::load::{FragmentLoad, LocalLoad, Reads, Results, SharedRows, StageLoad};
use super::{Latency, Pipe, TimeModel};

/// Share of a stage's time that second attempts may take, summed over its fragments. One is always allowed.
pub const EXTRA_SHARE_MAX: f64 = 0.05;

/// Least number of fragments that see a second attempt beside a healthy first one: three quarters must be done before one is called
/// slow ([`crate::scheduler::SpeculationPolicy`]).
const REPEATED_FROM: usize = 4;

/// Least burst, in bytes, that fragments are cut for. A fragment that reads less would mostly be overhead.
const PACKED_BURST_BYTES_MIN: u64 = 32 << 20;

/// The coordinator, and functions of one size.
#[derive(Debug, Clone, Copy)]
pub struct Machines<'a> {
    pub model: &'a TimeModel,
    /// Functions that work at once.
    pub functions_max: usize,
    /// True if functions share the coordinator's cores and pipe.
    pub shares_machine: bool,
    /// Environments that are likely to be up.
    pub warm: usize,
    /// Lanes of one function.
    pub lanes: usize,
}

/// A view of the future: as it is expected, or at its worst.
#[derive(Debug, Clone, Copy)]
pub(super) struct Assumptions {
    /// Factor on the time of a core.
    core: f64,
    /// Factor on an attempt's overhead.
    pub(super) overhead: f64,
    /// Standard deviations above the mean, for all waiting for first bytes.
    deviations: f64,
    /// Factor on an environment's start.
    start: f64,
    /// True if pipes have their burst.
    bursts: bool,
    /// True if a platform may have ended all environments. Processes of this machine live as long as the session.
    all_cold: bool,
    /// True if unknown facts of files and environments count at their worst.
    pessimistic: bool,
    /// Share of reads that are sent once more.
    again: f64,
    /// Reads of each function that are sent once more, on top.
    again_each: u64,
    /// Share of fragments with two attempts.
    repeated: f64,
    /// Size of a stage's results, in bytes.
    results: fn(&Results) -> u64,
}

impl Assumptions {
    pub(super) const EXPECTED: Self = Self {
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
        // An unknown size is an aggregate's: mostly small enough for the response.
        results: |results| results.expected.unwrap_or_default(),
    };

    pub(super) const UPPER: Self = Self {
        // A core's rate differs between queries: from 60 to 200 MB/s for TPC-H's scans. The model says 120.
        core: 2.0,
        // A plan of twenty operators takes longer to decode and to set up than a calibration's tiny one.
        overhead: 2.0,
        // One exponential is three deviations above its mean twice in a hundred times, a sum of several less often.
        deviations: 3.0,
        // A cold start takes "from under 100 ms to over 1 second", says AWS. The model says 250 ms.
        start: 4.0,
        // A function whose environment has just worked may have used up its burst.
        bursts: false,
        all_cold: true,
        pessimistic: true,
        // Hedges, and as many retries of a store's client.
        again: 2.0 / READS_PER_HEDGE as f64,
        again_each: HEDGES_AT_START,
        repeated: EXTRA_SHARE_MAX,
        results: |results| results.at_most,
    };

    /// Returns the reads that `clients` clients send once more, of `reads` reads.
    fn repeated_reads(&self, reads: u64, clients: u64) -> u64 {
        (self.again * reads as f64).ceil() as u64 + self.again_each * clients
    }
}

/// An attempt that runs to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    /// Mean seconds.
    pub(super) seconds: f64,
    /// Variance of its waiting for first bytes, in square seconds.
    variance: f64,
    requests: u64,
    bytes: u64,
}

/// Results of stages on their way to the coordinator, and the part of them that takes the exchange.
#[derive(Debug, Default)]
pub(super) struct ResultTraffic {
    pub(super) bytes: u64,
    pub(super) objects: u64,
    pub(super) writes: u64,
    pub(super) object_bytes: u64,
    /// Bytes of all objects, also of those that other functions read.
    pub(super) stored_bytes: u64,
}

/// Work of the coordinator on delete files, before the fragments that share them begin.
#[derive(Debug, Default)]
pub(super) struct DigestTraffic {
    seconds: f64,
    pub(super) requests: u64,
    /// Part of the requests that costs something.
    pub(super) billed: u64,
    pub(super) bytes: u64,
    /// Objects in the exchange, one a stage.
    pub(super) objects: u64,
}

/// Position of an attempt among those of its function.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Turn {
    First,
    Later,
}

/// Stages that run on functions, from the first attempt to the last result.
#[derive(Debug)]
pub(super) struct RemoteRun {
    /// The first attempts, the longest first.
    attempts: Vec<Attempt>,
    /// Number of the longest that have a second attempt.
    repeated: usize,
    pub(super) at_once: usize,
    /// Environments that are started for it.
    pub(super) cold: usize,
    /// Time that one start takes.
    pub(super) start: Duration,
    /// Factor on every attempt's mean.
    pub(super) longer: f64,
    pub(super) seconds: f64,
    pub(super) results: ResultTraffic,
    pub(super) digests: DigestTraffic,
    /// Rows in the exchange that fragments of each stage read, each stage's once.
    pub(super) shared: SharedRows,
}

impl RemoteRun {
    pub(super) fn of(stages: &[&StageLoad], on: &Machines<'_>, assume: &Assumptions) -> Self {
        let by_stage = first_attempts(stages, on, assume);
        let (mut at_first, mut after_others) = (Vec::new(), 0.0);
        for (attempts, stage) in by_stage.iter().zip(stages) {
            // A stage that reads the rows of others begins when they are all there.
            match stage.reads_parts {
                true => after_others += seconds_together(attempts, on, assume),
                false => at_first.extend_from_slice(attempts),
            }
        }
        let mut attempts: Vec<Attempt> = by_stage.concat();
        let count = attempts.len();
        let at_once = at_once(count, on);
        attempts.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let repeated = if count < REPEATED_FROM { 0 } else { (assume.repeated * count as f64).ceil() as usize };
        let start = on.model.start.mul_f64(assume.start);
        let warm = if assume.all_cold && !on.shares_machine { 0 } else { on.warm };
        let cold = at_once.saturating_sub(warm).min(count);
        let results = results(stages, assume);
        let digests = digests(stages, on.model, assume);
        let shared_of = |stage: &&StageLoad| if assume.pessimistic { stage.shared_at_most } else { stage.shared };
        let read_by_all: SharedRows = stages.iter().map(shared_of).sum();
        let stages_before = stages.iter().map(|stage| stage.stages_before).max().unwrap_or_default();

        // The sum of many deviates less than each by itself.
        let all = || attempts.iter().chain(&attempts[..repeated]);
        let deviation = assume.deviations * all().map(|attempt| attempt.variance).sum::<f64>().sqrt();
        let billed: f64 = all().map(|attempt| attempt.seconds).sum();
        let longer = 1.0 + if billed > 0.0 { deviation / billed } else { 0.0 };
        let seconds = seconds_together(&at_first, on, assume)
            // The part of a stage's time that its functions are not billed for.
            + assume.overhead * on.model.stage_overhead.saturating_sub(on.model.attempt_overhead).as_secs_f64()
            + if cold > 0 { start.as_secs_f64() } else { 0.0 }
            + on.model.fragment_overhead.as_secs_f64() * count as f64
            + results.bytes as f64 / on.model.pipe_bytes_per_second
            + digests.seconds
            + after_others
            // A stage that needs others' rows begins a round trip later, and these rows go out again.
            + assume.overhead * stages_before as f64 * on.model.stage_overhead.as_secs_f64()
            + if read_by_all.bytes > 0 { read_by_all.bytes as f64 / on.model.pipe_bytes_per_second } else { 0.0 };
        let shared = read_by_all;
        Self { attempts, repeated, at_once, cold, start, longer, seconds, results, digests, shared }
    }

    /// Lists every attempt, first and second.
    pub(super) fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().chain(&self.attempts[..self.repeated])
    }

    /// Sums up the bytes that functions read. Each environment reads shared rows once.
    pub(super) fn bytes(&self) -> u64 {
        self.attempts().map(|attempt| attempt.bytes).sum::<u64>() + self.shared.bytes * self.at_once as u64
    }

    /// Counts the requests of functions, for tables, and for `plans` plans and shared rows in the exchange.
    pub(super) fn requests(&self, plans: u64, assume: &Assumptions) -> u64 {
        let at_once = self.at_once as u64;
        let objects = plans + self.shared.objects;
        let reads = self.attempts().map(|attempt| attempt.requests).sum::<u64>() + objects * at_once;
        reads + assume.repeated_reads(reads, at_once)
    }
}

/// Work that the coordinator does itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalRun {
    pub(super) seconds: f64,
    pub(super) requests: u64,
    /// Part of the requests that costs something.
    pub(super) billed: u64,
}

impl LocalRun {
    pub(super) fn of(load: &LocalLoad, model: &TimeModel, assume: &Assumptions) -> Self {
        let LocalLoad { weight_bytes, operators, reads, of_files } = load;
        let TimeModel { pipe_bytes_per_second, core_bytes_per_second, cores, reads_ahead, .. } = *model;
        let reading = reads.bytes as f64 / pipe_bytes_per_second;
        let shared_bytes = *weight_bytes as f64 + operators.bytes as f64;
        let computing = shared_bytes * assume.core / (cores as f64 * core_bytes_per_second)
            + operators.one_core_bytes as f64 * assume.core / core_bytes_per_second;
        let waits = Waits::of(reads, cores.max(1), ahead_of(reads, reads_ahead), &model.latency_of(reads));
        let again = |requests: u64| requests + assume.repeated_reads(requests, u64::from(requests > 0));
        let (of_files, requests) = (requests(of_files, assume), requests(reads, assume));
        Self {
            seconds: waits.before_computing
                + waits.beside(reading, computing)
                + assume.deviations * waits.variance.sqrt(),
            requests: again(requests),
            billed: again(requests.saturating_sub(of_files)),
        }
    }
}

/// Returns the seconds that a query is expected to take on the coordinator alone.
pub fn seconds_here(load: &LocalLoad, model: &TimeModel) -> f64 {
    LocalRun::of(load, model, &Assumptions::EXPECTED).seconds
}

/// Returns the seconds that a query is expected to take with stages on functions, and then with the work that stays `here`.
pub fn seconds_on_functions(stages: &[&StageLoad], here: Option<&LocalLoad>, on: &Machines<'_>) -> f64 {
    let here = here.map_or(0.0, |here| seconds_here(here, on.model));
    RemoteRun::of(stages, on, &Assumptions::EXPECTED).seconds + here
}

/// Returns the seconds that a query takes at least on any number of functions of any speed: a round trip, and a wait for each kind of first
/// bytes. One of these waits is part of the round trip.
pub fn seconds_least(load: &LocalLoad, model: &TimeModel) -> f64 {
    let latency = model.latency_of(&load.reads);
    let waits = Waits::of(&load.reads, usize::MAX, 0, &latency);
    let waiting = (waits.before_computing - latency.mean.as_secs_f64()).max(0.0);
    model.overhead(model.stage_overhead, &load.reads).as_secs_f64() + waiting
}

/// Returns the times that fragments are expected to take from their invocations to their answers, in the order of `stages`. Each has its own
/// reads, and the others beside it.
pub fn expected_times(stages: &[&StageLoad], on: &Machines<'_>) -> Vec<Vec<Duration>> {
    let overhead = on.model.stage_overhead.saturating_sub(on.model.attempt_overhead);
    let time = |attempt: Attempt| overhead + duration(attempt.seconds);
    let attempts = first_attempts(stages, on, &Assumptions::EXPECTED);
    attempts.into_iter().map(|attempts| attempts.into_iter().map(time).collect()).collect()
}

impl TimeModel {
    /// Returns the latency of these reads: files of this machine have none.
    fn latency_of(&self, reads: &Reads) -> Latency {
        if reads.is_remote { self.read_latency } else { Latency::default() }
    }

    /// Returns an overhead that has one read's latency in it, as it is with these reads.
    fn overhead(&self, with_read: Duration, reads: &Reads) -> Duration {
        if reads.is_remote { with_read } else { with_read.saturating_sub(self.read_latency.mean) }
    }

    /// Returns the time of one fragment of `bytes` bytes from its invocation to its answer, as the first on its function.
    pub fn fragment_time(&self, bytes: u64, lanes: usize) -> Duration {
        let overhead = self.stage_overhead.saturating_sub(self.attempt_overhead);
        overhead + duration(self.fragment_seconds(bytes, lanes))
    }

    /// Returns the bytes that a fragment of a stage of `total` bytes should read: `wanted`, or a function's burst where the stage is faster.
    ///
    /// Fragments inside the burst are worth it while there are functions for them: a second wave on the same functions finds
    /// their bursts used up.
    pub fn fragment_bytes(&self, total: u64, wanted: u64, functions_max: usize, lanes: usize) -> u64 {
        let seconds = |target: u64| {
            let fragments = total.div_ceil(target.max(1)).clamp(1, functions_max.max(1) as u64);
            let each = self.fragment_seconds(total.div_ceil(fragments), lanes);
            each + self.fragment_overhead.as_secs_f64() * fragments as f64
        };
        let burst = self.function_pipe.burst_bytes;
        // A short burst is no reason to cut small: any pipe may have one.
        if burst >= PACKED_BURST_BYTES_MIN && seconds(burst) < seconds(wanted) { burst } else { wanted }
    }

    fn fragment_seconds(&self, bytes: u64, lanes: usize) -> f64 {
        let alone = Machines { model: self, functions_max: 1, shares_machine: false, warm: 1, lanes };
        attempt(&FragmentLoad::of_bytes(bytes, lanes), Turn::First, 1, &alone, &Assumptions::EXPECTED).seconds
    }
}

/// Returns the first attempt of each fragment, by stage.
fn first_attempts(stages: &[&StageLoad], on: &Machines<'_>, assume: &Assumptions) -> Vec<Vec<Attempt>> {
    // All stages are handed to the scheduler at once, but for those that wait for others' rows.
    let at_once = at_once(stages.iter().map(|stage| stage.fragments.len()).sum(), on);
    let mut started = 0;
    let mut of = |fragment: &FragmentLoad| {
        let turn = if started < at_once { Turn::First } else { Turn::Later };
        started += 1;
        attempt(fragment, turn, at_once, on, assume)
    };
    stages.iter().map(|stage| stage.fragments.iter().map(&mut of).collect()).collect()
}

/// Returns the number of functions that work at the same time on `fragments` fragments; at least one.
fn at_once(fragments: usize, on: &Machines<'_>) -> usize {
    fragments.min(on.functions_max).max(1)
}

/// Returns the seconds from the beginning of attempts that begin together until the last of them ends.
fn seconds_together(attempts: &[Attempt], on: &Machines<'_>, assume: &Assumptions) -> f64 {
    let of_longest = |attempt: &Attempt| attempt.seconds + assume.deviations * attempt.variance.sqrt();
    let longest = attempts.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds)).map_or(0.0, of_longest);
    let deviation = assume.deviations * attempts.iter().map(|attempt| attempt.variance).sum::<f64>().sqrt();
    let all: f64 = attempts.iter().map(|attempt| attempt.seconds).sum();
    longest.max((all + deviation) / at_once(attempts.len(), on) as f64)
}

/// Estimates one fragment from its invocation to its answer, on one of `at_once` functions.
fn attempt(fragment: &FragmentLoad, turn: Turn, at_once: usize, on: &Machines<'_>, assume: &Assumptions) -> Attempt {
    let FragmentLoad { weight_bytes, operator_bytes, lanes, .. } = *fragment;
    let reads = if assume.pessimistic { fragment.reads_at_most } else { fragment.reads };
    let (model, lanes) = (on.model, lanes.max(1));
    let latency = model.latency_of(&reads);
    let overhead = assume.overhead * model.overhead(model.attempt_overhead, &reads).as_secs_f64();
    let ahead = ahead_of(&reads, model.function_reads_ahead);
    let waits = Waits::of(&reads, lanes, ahead, &latency);
    // One read's latency is part of the overhead.
    let waiting = (waits.before_computing - latency.mean.as_secs_f64()).max(0.0);
    // A function's cores are shared by its lanes, of which some may have nothing to do.
    let cores = model.function_cores * (lanes as f64 / on.lanes.max(lanes) as f64);
    let computed_bytes = weight_bytes as f64 + operator_bytes as f64;
    let mut computing = computed_bytes * assume.core / (cores * model.core_bytes_per_second);
    if on.shares_machine {
        computing *= (at_once as f64 * cores / model.cores.max(1) as f64).max(1.0);
    }
    // A lane that computes asks for nothing, unless its scan reads ahead.
    let pauses = if ahead > 0 { waiting } else { waiting + computing / lanes as f64 };
    let pipe = &model.function_pipe;
    let mut reading = match (assume.bursts, turn) {
        (true, Turn::First) => pipe.seconds_besides(reads.bytes, pipe.burst_bytes, pauses),
        (true, Turn::Later) => pipe.seconds_besides(reads.bytes, 0, overhead + pauses),
        (false, _) => Pipe::steady(pipe.bytes_per_second).seconds(reads.bytes),
    };
    if on.shares_machine {
        reading = reading.max(reads.bytes as f64 * at_once as f64 / model.machine_pipe_bytes_per_second);
    }
    Attempt {
        seconds: overhead + waiting + waits.beside(reading, computing),
        variance: waits.variance,
        requests: requests(&reads, assume),
        bytes: reads.bytes,
    }
}

/// Returns the reads in flight ahead of computing: files of this machine are not read ahead.
fn ahead_of(reads: &Reads, ahead: usize) -> usize {
    if reads.is_remote { ahead } else { 0 }
}

/// Waits for first bytes, of one attempt or of the coordinator.
struct Waits {
    /// Seconds in which nothing is computed.
    before_computing: f64,
    /// Seconds in which further answers come one after the other, beside computing.
    beside_computing: f64,
    /// Parts of the work, one of which is not read while another is computed.
    parts: usize,
    /// Square seconds.
    variance: f64,
}

impl Waits {
    /// Foresees the waits of lanes that have `ahead` reads in flight beside what they wait for; with 0 they read in turn.
    fn of(reads: &Reads, lanes: usize, ahead: usize, latency: &Latency) -> Self {
        match ahead {
            0 => Self::in_turn(reads, lanes, latency),
            ahead => Self::ahead(reads, lanes, ahead as u64, latency),
        }
    }

    /// Lanes wait at the same time for a footer each, and then for each row group, whose runs are asked for together.
    fn in_turn(reads: &Reads, lanes: usize, latency: &Latency) -> Self {
        let Reads { footers, row_groups, runs, .. } = *reads;
        // A lane waits for one after the other, and at least once if it has anything.
        let turns = |waits: u64| if waits > 0 { (waits as f64 / lanes as f64).max(1.0) } else { 0.0 };
        let of_group = latency.of_last(runs as f64 / row_groups.max(1) as f64);
        Self {
            before_computing: turns(footers) * latency.mean.as_secs_f64() + turns(row_groups) * of_group,
            beside_computing: 0.0,
            parts: lanes,
            variance: latency.deviation().powi(2) * (turns(footers) + turns(row_groups)),
        }
    }

    /// The first footer and the first row group are waited for. Of the other reads, `ahead` at a time, the last one's answer comes so much later.
    fn ahead(reads: &Reads, lanes: usize, ahead: u64, latency: &Latency) -> Self {
        let Reads { footers, row_groups, runs, .. } = *reads;
        let first = |any: u64, requests: f64| if any > 0 { latency.of_last(requests) } else { 0.0 };
        let together = |requests: u64| requests.min(ahead) as f64;
        let of_group = runs as f64 / row_groups.max(1) as f64;
        let before_computing = first(footers, 1.0) + first(runs, of_group);
        let later = (first(footers, together(footers)) + first(runs, together(runs)) - before_computing).max(0.0);
        let in_turn = (footers + runs).saturating_sub(ahead) as f64 / ahead as f64 * latency.mean.as_secs_f64();
        Self {
            before_computing,
            beside_computing: later + in_turn,
            // A load of which only the bytes are known has no row groups.
            parts: if row_groups > 0 { usize::try_from(row_groups).unwrap_or(usize::MAX) } else { lanes },
            variance: latency.deviation().powi(2) * f64::from(u8::from(footers > 0) + u8::from(runs > 0)),
        }
    }

    /// Returns the seconds of `reading` and `computing` that overlap: while one part is computed, others are read.
    fn beside(&self, reading: f64, computing: f64) -> f64 {
        let reading = reading.max(self.beside_computing);
        reading.max(computing) + reading.min(computing) / self.parts as f64
    }
}

fn requests(reads: &Reads, assume: &Assumptions) -> u64 {
    if assume.pessimistic { reads.requests_max() } else { reads.requests() }
}

fn results(stages: &[&StageLoad], assume: &Assumptions) -> ResultTraffic {
    let mut sent = ResultTraffic::default();
    for stage in stages {
        let (bytes, fragments) = ((assume.results)(&stage.results), stage.fragments.len().max(1) as u64);
        let each = bytes.div_ceil(fragments);
        if stage.sends_parts {
            sent.writes += fragments * writes_of(each);
            sent.stored_bytes += bytes;
            continue;
        }
        sent.bytes += bytes;
        if each > stage.inline_bytes_max {
            sent.objects += fragments;
            sent.writes += fragments * writes_of(each);
            sent.object_bytes += bytes;
            sent.stored_bytes += bytes;
        }
    }
    sent
}

fn digests(stages: &[&StageLoad], model: &TimeModel, assume: &Assumptions) -> DigestTraffic {
    // A stage's files are read side by side, those of positions beside those of keys. One task computes.
    let model = TimeModel { reads_ahead: DIGEST_READS_MAX, cores: 1, ..*model };
    let mut done = DigestTraffic::default();
    for load in stages.iter().filter_map(|stage| stage.digest.as_ref()) {
        let LocalRun { seconds, requests, billed } = LocalRun::of(load, &model, assume);
        // Stages do it at the same time.
        done.seconds = done.seconds.max(seconds);
        done.requests += requests;
        done.billed += billed;
        done.bytes += load.reads.bytes;
        done.objects += 1;
    }
    done
}

/// Turns seconds into a duration. A model of nonsense gives nonsense, but no panic.
pub(super) fn duration(seconds: f64) -> Duration {
    const MAX: Duration = Duration::from_secs(1_000_000_000);
    Duration::try_from_secs_f64(seconds).map_or(MAX, |duration| duration.min(MAX))
}

#[cfg(test)]
#[path = "attempts_tests.rs"]
mod tests;
