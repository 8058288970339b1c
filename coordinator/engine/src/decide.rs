//! Local or functions, and why. Pure: the same workload, fleet and model always give the same decision.
//!
//! The fastest distributed query is the one that runs on a single node; functions have to earn their overhead in pipes.

use std::f64::consts::EULER_GAMMA;
use std::time::Duration;

use serde::Serialize;

use crate::config::{Prefer, Target};

mod choose;

pub use choose::{Choice, choose, compare, fan_outs};

/// What a query is about to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Parquet scans in the plan.
    pub scans: usize,
    /// Files, or runs of row groups, that can be read apart.
    pub units: usize,
    /// Compressed bytes of the projected columns.
    pub bytes: u64,
}

/// The functions at hand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fleet {
    pub functions_max: usize,
    /// Whether the last that was heard of them was good.
    pub healthy: bool,
    /// Whether they run on the coordinator's machine and share its cores and its pipe.
    pub shares_machine: bool,
}

/// Seconds and bytes per second that the estimates are made from. Sources stand at each field's default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeModel {
    /// Planning a stage and a round trip to one warm function, with result.
    pub stage_overhead: Duration,
    /// What each further fragment adds on the coordinator.
    pub fragment_overhead: Duration,
    /// What a warm function is billed for that reads next to nothing, with one read's latency.
    pub attempt_overhead: Duration,
    /// Compressed bytes a second that one core filters and aggregates.
    pub core_bytes_per_second: f64,
    /// Bytes a second from storage into the coordinator.
    pub pipe_bytes_per_second: f64,
    /// The same into all functions together that run on the coordinator's machine.
    pub machine_pipe_bytes_per_second: f64,
    /// From storage into one function.
    pub function_pipe: Pipe,
    /// Of reads; a lane's wait for each other. One of a fragment is part of its overhead.
    pub read_latency: Latency,
    /// From nothing to an environment that takes its first request.
    pub start: Duration,
    pub cores: usize,
    /// Cores of one function.
    pub function_cores: f64,
}

impl TimeModel {
    /// A laptop with functions as its own processes.
    pub fn laptop(cores: usize) -> Self {
        Self {
            // `lab tax`, four warm fragments, on two cores (docs/measurements.md).
            stage_overhead: Duration::from_millis(4),
            fragment_overhead: Duration::from_micros(500),
            // TPC-H Q1 and Q6 at scale factor 1 on one core: 60 to 200 MB of compressed columns a second.
            core_bytes_per_second: 120e6,
            // A page cache or an NVMe disk: never the bound.
            pipe_bytes_per_second: 2e9,
            machine_pipe_bytes_per_second: 2e9,
            function_pipe: Pipe::steady(2e9),
            // Without its one read, which takes nothing here: `lab fanout`, an executor's tiny fragment, and as much for the rest.
            attempt_overhead: Duration::from_millis(1),
            read_latency: Latency::default(),
            // Our function's start to ready takes 6 ms, 14 at worst (docs/measurements.md).
            start: Duration::from_millis(10),
            cores,
            function_cores: 1.0,
        }
    }

    /// A coordinator of `cores` in AWS's network or near it, with functions on Lambda of `function_cores` each.
    pub fn lambda(cores: usize, function_cores: f64) -> Self {
        Self {
            // A warm synchronous invocation and S3's first byte: 30 to 50 ms for four workers in comparable engines.
            stage_overhead: Duration::from_millis(60),
            fragment_overhead: Duration::from_micros(500),
            core_bytes_per_second: 120e6,
            // An instance's or a laptop's one pipe, not saturated by few requests.
            pipe_bytes_per_second: 300e6,
            machine_pipe_bytes_per_second: 300e6,
            function_pipe: Pipe::LAMBDA,
            attempt_overhead: Latency::S3.mean + Duration::from_millis(5),
            read_latency: Latency::S3,
            // AWS says "from under 100 ms to over 1 second"; ours is a small binary.
            start: Duration::from_millis(250),
            cores,
            function_cores,
        }
    }
}

/// From a request to its first byte: never less than the least, and what comes on top varies as an exponential does.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Latency {
    pub mean: Duration,
    pub least: Duration,
}

impl Latency {
    /// Of the quantiles published for S3 (arXiv 2501.07771) that the tests' server has, too: 15 ms at least, 27 in the middle, 74 and
    /// 106 at 95 and 99 percent.
    pub const S3: Self = Self { mean: Duration::from_millis(32), least: Duration::from_millis(15) };

    /// Seconds until the last of some requests has its first byte that were sent together; a mean, and so for parts of requests, too.
    pub fn of_last(&self, requests: f64) -> f64 {
        // The harmonic numbers: 1, 1 + 1/2, 1 + 1/2 + 1/3.
        let n = requests.max(1.0);
        let harmonic = if n > 1.0 { n.ln() + EULER_GAMMA + 1.0 / (2.0 * n) - 1.0 / (12.0 * n * n) } else { 1.0 };
        self.least.as_secs_f64() + self.deviation() * harmonic
    }

    /// Standard deviation, in seconds.
    pub fn deviation(&self) -> f64 {
        self.mean.saturating_sub(self.least).as_secs_f64()
    }
}

/// How fast bytes come: quickly at first, where there is a burst, and then steadily.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pipe {
    pub burst_bytes: u64,
    pub burst_bytes_per_second: f64,
    pub bytes_per_second: f64,
}

impl Pipe {
    /// A function on AWS Lambda whose environment has just worked: half of the 300 MiB that a new one has (arXiv 2501.07771).
    pub const LAMBDA: Self =
        Self { burst_bytes: 150 << 20, burst_bytes_per_second: 1.2 * GIB, bytes_per_second: 75.0 * MIB };

    pub const fn steady(bytes_per_second: f64) -> Self {
        Self { burst_bytes: 0, burst_bytes_per_second: bytes_per_second, bytes_per_second }
    }

    pub fn seconds(&self, bytes: u64) -> f64 {
        self.seconds_besides(bytes, self.burst_bytes, 0.0)
    }

    /// Of a read that finds so much of the burst, and in whose pauses, so many seconds in all, some of it comes back.
    pub fn seconds_besides(&self, bytes: u64, burst_bytes: u64, pauses: f64) -> f64 {
        let refilled = if self.burst_bytes > 0 { (pauses * self.bytes_per_second) as u64 } else { 0 };
        let quick = bytes.min(burst_bytes.saturating_add(refilled));
        quick as f64 / self.burst_bytes_per_second + (bytes - quick) as f64 / self.bytes_per_second
    }
}

const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;

/// A fragment that reads less would mostly be overhead.
const LONG_BURST_BYTES: u64 = 32 << 20;

impl TimeModel {
    /// What one fragment should take from its invocation to its answer.
    pub fn fragment_time(&self, bytes: u64) -> Duration {
        self.stage_overhead + Duration::from_secs_f64(self.function_seconds(bytes))
    }

    /// One function, once it runs: reading and computing overlap.
    fn function_seconds(&self, bytes: u64) -> f64 {
        let computing = bytes as f64 / (self.function_cores * self.core_bytes_per_second);
        self.function_pipe.seconds(bytes).max(computing)
    }

    /// Bytes that a fragment should read: `wanted`, or what a function's burst carries where that makes the stage faster.
    ///
    /// Fragments inside the burst are worth it while there are functions for them: a second wave on the same functions finds
    /// their bursts used up.
    pub fn fragment_bytes(&self, total: u64, wanted: u64, functions_max: usize) -> u64 {
        let seconds = |target: u64| {
            let fragments = total.div_ceil(target.max(1)).clamp(1, functions_max.max(1) as u64);
            self.function_seconds(total.div_ceil(fragments)) + self.fragment_overhead.as_secs_f64() * fragments as f64
        };
        let burst = self.function_pipe.burst_bytes;
        // A short burst, as any pipe may have one, is no reason to cut small.
        if burst >= LONG_BURST_BYTES && seconds(burst) < seconds(wanted) { burst } else { wanted }
    }
}

/// Where the query runs and the numbers that made it so.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    pub place: Place,
    pub reason: Reason,
    pub workload: Workload,
    /// None where nothing had to be estimated.
    pub estimate: Option<Estimate>,
    /// Where money or a deadline decided: what was picked, and the runner-up.
    pub choice: Option<Box<Choice>>,
    /// Why scans stay on the coordinator while functions run the others: their plans do not arrive as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    Local,
    Functions,
}

/// Predicted wall times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    pub local_seconds: f64,
    pub functions_seconds: f64,
    /// With how many functions.
    pub functions: usize,
}

/// Why. [`std::fmt::Display`] puts it in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    #[error("asked for by --on")]
    Requested,
    #[error("no functions are configured")]
    NoFunctions,
    #[error("no function is healthy")]
    NoneHealthy,
    #[error("functions cannot be used: {0}")]
    Unavailable(String),
    #[error("the plan has no Parquet scan")]
    NoScan,
    #[error("the work is too small for the overhead of functions")]
    TooSmall,
    #[error("there are fewer scan units than it takes to use two functions")]
    FewerUnits,
    #[error("local is estimated to be faster")]
    LocalFaster,
    #[error("functions are estimated to be faster")]
    FunctionsFaster,
    #[error("{} by estimate", .0.superlative())]
    Preferred(Prefer),
    #[error("{} of what keeps the deadline by estimate", .0.superlative())]
    KeepsDeadline(Prefer),
    #[error("nothing is sure to keep the deadline; this is the fastest by estimate")]
    MissesDeadline,
    #[error("{0}")]
    PlanNotSupported(String),
    /// The plan of every stage arrives otherwise than it was sent, so all is run where it was made.
    #[error("no stage can travel to functions: {0}")]
    NothingTravels(String),
}

impl std::fmt::Display for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = match self.place {
            Place::Local => "local",
            Place::Functions => "functions",
        };
        write!(f, "{place}: {}", self.reason)?;
        for obstacle in &self.kept {
            write!(f, "; a scan stays on the coordinator, for its plan cannot travel: {obstacle}")?;
        }
        if let Some(choice) = &self.choice {
            write!(f, " ({}", choice.picked)?;
            return match &choice.runner_up {
                Some(runner_up) => write!(f, "; runner-up {runner_up})"),
                None => write!(f, ")"),
            };
        }
        if let Some(Estimate { local_seconds, functions_seconds, functions }) = self.estimate {
            write!(f, " (estimated {local_seconds:.3} s local, {functions_seconds:.3} s on {functions} functions)")?;
        }
        Ok(())
    }
}

impl Decision {
    /// A local run for a reason that needs no estimate.
    pub fn local(reason: Reason, workload: Workload) -> Self {
        Self { place: Place::Local, reason, workload, estimate: None, choice: None, kept: Vec::new() }
    }

    /// What was chosen among several ways.
    pub fn chosen(choice: Choice, workload: Workload) -> Self {
        let (place, reason) = (choice.picked.place, choice.reason.clone());
        Self { place, reason, workload, estimate: None, choice: Some(Box::new(choice)), kept: Vec::new() }
    }

    /// The same with scans that stay on the coordinator.
    pub fn keeping(self, kept: &[String]) -> Self {
        Self { kept: kept.to_vec(), ..self }
    }
}

/// Decides for `target`; an explicit target wins unless there is nothing to send.
pub fn decide(target: Target, workload: Workload, fleet: Option<Fleet>, model: &TimeModel) -> Decision {
    let decision =
        |place, reason, estimate| Decision { place, reason, workload, estimate, choice: None, kept: Vec::new() };
    let local = |reason| decision(Place::Local, reason, None);
    if workload.scans == 0 {
        return local(Reason::NoScan);
    }
    let Some(fleet) = fleet.filter(|fleet| fleet.functions_max > 0) else {
        return local(if target == Target::Local { Reason::Requested } else { Reason::NoFunctions });
    };
    let estimate = estimate(&workload, &fleet, model);
    match target {
        Target::Local => return decision(Place::Local, Reason::Requested, Some(estimate)),
        Target::InProcess | Target::Processes | Target::Lambda => {
            return decision(Place::Functions, Reason::Requested, Some(estimate));
        }
        Target::Auto => {}
    }
    let (place, reason) = if !fleet.healthy {
        (Place::Local, Reason::NoneHealthy)
    } else if estimate.local_seconds < model.stage_overhead.as_secs_f64() {
        (Place::Local, Reason::TooSmall)
    } else if workload.units < 2 {
        (Place::Local, Reason::FewerUnits)
    } else if estimate.functions_seconds < estimate.local_seconds {
        (Place::Functions, Reason::FunctionsFaster)
    } else {
        (Place::Local, Reason::LocalFaster)
    };
    decision(place, reason, Some(estimate))
}

pub(crate) fn estimate(workload: &Workload, fleet: &Fleet, model: &TimeModel) -> Estimate {
    let bytes = workload.bytes as f64;
    let functions = fleet.functions_max.min(workload.units).max(1);
    let seconds = |reading: f64, cores: f64| reading.max(bytes / (cores * model.core_bytes_per_second));
    let local_reading = bytes / model.pipe_bytes_per_second;
    let local_seconds = seconds(local_reading, model.cores as f64);
    let n = functions as f64;
    let reading = model.function_pipe.seconds(workload.bytes.div_ceil(functions as u64));
    let (reading, cores) = if fleet.shares_machine {
        (reading.max(bytes / model.machine_pipe_bytes_per_second), (n * model.function_cores).min(model.cores as f64))
    } else {
        (reading, n * model.function_cores)
    };
    let overhead = model.stage_overhead.as_secs_f64() * workload.scans as f64
        + model.fragment_overhead.as_secs_f64() * (functions * workload.scans) as f64;
    Estimate { local_seconds, functions_seconds: seconds(reading, cores) + overhead, functions }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn laptop() -> Fleet {
        Fleet { functions_max: 4, healthy: true, shares_machine: true }
    }

    fn cloud() -> Fleet {
        Fleet { functions_max: 100, healthy: true, shares_machine: false }
    }

    fn check(
        target: Target,
        (scans, units, bytes): (usize, usize, u64),
        fleet: Option<Fleet>,
        expect: (Place, Reason),
    ) {
        let workload = Workload { scans, units, bytes };
        let decision = decide(target, workload, fleet, &TimeModel::laptop(2));
        assert_eq!((decision.place, decision.reason), expect, "{target:?} {workload:?} {fleet:?}");
    }

    #[test]
    fn the_last_of_several_is_waited_for() {
        let latency = Latency { mean: Duration::from_millis(30), least: Duration::from_millis(10) };
        for (requests, expect) in [(0.0, 30.0), (1.0, 30.0), (2.0, 40.0), (3.0, 46.67), (4.0, 51.67), (100.0, 113.75)] {
            let found = 1e3 * latency.of_last(requests);
            assert!((found / expect - 1.0).abs() < 0.005, "{requests}: {found} is not about {expect}");
        }
        assert_eq!(Latency::default().of_last(3.0), 0.0);
    }

    #[test]
    fn each_reason() {
        use Place::{Functions, Local};
        let much = (1, 400, 20 * GB);
        check(Target::Auto, much, Some(cloud()), (Functions, Reason::FunctionsFaster));
        check(Target::Auto, much, Some(laptop()), (Local, Reason::LocalFaster));
        check(Target::Auto, much, None, (Local, Reason::NoFunctions));
        check(Target::Auto, much, Some(Fleet { healthy: false, ..cloud() }), (Local, Reason::NoneHealthy));
        check(Target::Auto, (0, 0, 0), Some(cloud()), (Local, Reason::NoScan));
        check(Target::Auto, (1, 8, 10_000), Some(cloud()), (Local, Reason::TooSmall));
        check(Target::Auto, (1, 1, 20 * GB), Some(cloud()), (Local, Reason::FewerUnits));
        check(Target::Processes, (1, 8, 10_000), Some(laptop()), (Functions, Reason::Requested));
        check(Target::Processes, (0, 0, 0), Some(laptop()), (Local, Reason::NoScan));
        check(Target::Local, much, Some(laptop()), (Local, Reason::Requested));
        check(Target::Local, much, None, (Local, Reason::Requested));
    }

    #[test]
    fn fragments_stay_inside_the_burst_where_that_is_faster() {
        let lambda = TimeModel {
            function_pipe: Pipe::LAMBDA,
            core_bytes_per_second: 1e9,
            function_cores: 2.0,
            ..TimeModel::laptop(2)
        };
        #[track_caller]
        fn check(model: &TimeModel, wanted: u64, functions_max: usize, expect: u64) {
            assert_eq!(model.fragment_bytes(30 * GB, wanted, functions_max), expect, "{wanted} {functions_max}");
        }
        let (small, burst, large) = (64 << 20, 150 << 20, 1 << 30);
        check(&lambda, large, 1000, burst);
        check(&lambda, small, 1000, burst);
        check(&TimeModel { fragment_overhead: Duration::ZERO, ..lambda }, small, 1000, small);
        check(&lambda, large, 20, large);
        check(&TimeModel::laptop(2), large, 1000, large);
        let short = Pipe { burst_bytes: 8 << 20, ..Pipe::LAMBDA };
        check(&TimeModel { function_pipe: short, ..lambda }, small, 1000, small);
    }

    #[test]
    fn a_pipe_is_quick_at_first() {
        let pipe = Pipe { burst_bytes: 100, burst_bytes_per_second: 100.0, bytes_per_second: 10.0 };
        assert_eq!((pipe.seconds(50), pipe.seconds(100), pipe.seconds(200)), (0.5, 1.0, 11.0));
        assert_eq!(Pipe::steady(10.0).seconds(20), 2.0);
        // Half of the burst, and what comes back in three seconds.
        assert_eq!(pipe.seconds_besides(200, 50, 3.0), 0.8 + 12.0);
        assert_eq!(Pipe::steady(10.0).seconds_besides(20, 0, 1.0), 2.0);
    }
}
