//! Local or functions, and why. Pure: the same workload, fleet and model always give the same decision.
//!
//! The fastest distributed query is the one that runs on a single node; functions have to earn their overhead in pipes.

use serde::Serialize;

use crate::config::{Prefer, Target};
use crate::model::{Estimate, Fleet, TimeModel, Workload};

/// Where the query runs and the numbers that made it so.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    pub place: Place,
    pub reason: Reason,
    pub workload: Workload,
    /// None where nothing had to be estimated.
    pub estimate: Option<WallTimes>,
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
pub struct WallTimes {
    pub local_seconds: f64,
    pub functions_seconds: f64,
    /// With how many functions.
    pub functions: usize,
}

/// The way that is taken, and the one that would be if it were not there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    pub picked: Estimate,
    pub runner_up: Option<Estimate>,
    #[serde(skip)]
    pub reason: Reason,
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
        if let Some(WallTimes { local_seconds, functions_seconds, functions }) = self.estimate {
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

pub(crate) fn estimate(workload: &Workload, fleet: &Fleet, model: &TimeModel) -> WallTimes {
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
    WallTimes { local_seconds, functions_seconds: seconds(reading, cores) + overhead, functions }
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
}
