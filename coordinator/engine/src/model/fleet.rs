//! The offer of a platform of functions: data that plans and estimates are made from.

use std::sync::Arc;
use std::time::Duration;

use gust_protocol::{AheadBounds, FragmentLimits};

use super::{Machines, TimeModel, WarmState};
use crate::cost::{Architecture, Billed, Tariff};

/// Functions of one memory size: the equipment of each, and their most.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionSize {
    /// Their name in a calibration: `processes of 1 core`, or `lambda 2048 MB arm64`.
    pub kind: String,
    pub memory_mb: u32,
    /// Processor of the function. None is this machine's.
    pub architecture: Option<Architecture>,
    /// Lanes of one function: its whole cores, at least one.
    pub lanes: usize,
    /// Cores that these lanes can use: less than one where a function has less than one.
    pub cores: f64,
    /// Limits of one attempt.
    pub limits: FragmentLimits,
    /// Functions of this size at once.
    pub functions_max: usize,
    /// True if all of them are one environment, which is always up.
    pub is_one_environment: bool,
    /// Rate at which they are started. None where nothing bounds it.
    pub ramp: Option<EnvironmentRamp>,
    /// Time model: as it was calibrated, else as it was published.
    pub model: TimeModel,
}

impl FunctionSize {
    /// Returns a tariff of the same prices, for functions of this size.
    pub fn tariff(&self, of_first: &Tariff) -> Tariff {
        let architecture = self.architecture.unwrap_or(of_first.architecture);
        Tariff { memory_mb: self.memory_mb, architecture, ..of_first.clone() }
    }

    /// Returns the number of environments that a query of `fragments` fragments keeps busy at the same time.
    pub fn at_once(&self, fragments: usize) -> usize {
        if self.is_one_environment { 1 } else { fragments.min(self.functions_max) }
    }
}

/// Memory above which a function has a whole core (AWS Lambda, read in November 2026), in MB.
const WHOLE_CORE_MB: u32 = 1_769;

/// Requests that one function reads ahead at most. A prototype had 92 % of its gain with 64 (TPC-H SF 1 at 27 ms to the first
/// byte, November 2026).
const AHEAD_REQUESTS_MAX: u32 = 64;

/// Parts of a function's memory pool, one of which holds bytes that were read ahead.
const AHEAD_POOL_PARTS: u64 = 8;

/// Parts of a query's memory on the coordinator, one of which holds bytes that were read ahead.
const AHEAD_QUERY_PARTS: u64 = 10;

/// Returns the bounds of a query's reading ahead on the coordinator, of whose memory it may have `memory_bytes`.
pub fn ahead_bounds_here(set: AheadBounds, memory_bytes: u64) -> AheadBounds {
    AheadBounds { bytes_max: set.bytes_max.min(memory_bytes / AHEAD_QUERY_PARTS), ..set }
}

/// Returns the bounds of reading ahead in a function of this memory, with these lanes and a pool of `pool_bytes`, within the
/// bounds that are set.
///
/// A small function has a narrow pipe and little memory, and a request costs it processor time. So it asks for less.
pub fn ahead_bounds(set: AheadBounds, memory_mb: u32, lanes: usize, pool_bytes: u64) -> AheadBounds {
    let lanes = u32::try_from(lanes).unwrap_or(u32::MAX);
    let requests_max = match memory_mb {
        ..=512 => lanes.saturating_mul(4),
        513..WHOLE_CORE_MB => lanes.saturating_mul(16),
        _ => AHEAD_REQUESTS_MAX,
    };
    let requests_max = requests_max.min(AHEAD_REQUESTS_MAX);
    set.and(AheadBounds { requests_max, bytes_max: pool_bytes / AHEAD_POOL_PARTS })
}

/// Returns the number of reads that are in flight ahead of computing within these bounds.
pub fn reads_ahead(bounds: AheadBounds) -> usize {
    if bounds.is_off() { 0 } else { bounds.requests_max as usize }
}

/// Traits of a platform that all of its sizes share at all times.
#[derive(Debug, Clone, PartialEq)]
pub struct PlatformTraits {
    pub name: &'static str,
    /// True if functions run on the coordinator's machine: they share its cores and its pipe, and read its files.
    pub shares_machine: bool,
    /// Time that an idle environment is kept. None is until the session ends.
    pub kept_for: Option<Duration>,
    /// True if functions reach stores with credentials that the coordinator lends them, and not with their own.
    pub lends_credentials: bool,
    pub billed: Billed,
}

/// The functions at hand when a query is planned.
#[derive(Debug, Clone)]
pub struct FleetFacts {
    pub traits: PlatformTraits,
    /// Sizes, at least one. The one to use where nothing is picked comes first.
    pub sizes: Vec<FunctionSize>,
    /// True if the last answer of functions was good.
    pub is_healthy: bool,
    /// State that environments are likely to be in.
    pub warm: Arc<WarmState>,
}

impl FleetFacts {
    /// Returns the number of environments of a size that are likely to be up.
    pub fn environments(&self, size: &FunctionSize) -> usize {
        match size.is_one_environment {
            true => size.functions_max,
            false => self.warm.environments(size.memory_mb),
        }
    }

    /// Returns the machines of the model, with functions of a size.
    pub fn machines<'a>(&self, size: &'a FunctionSize) -> Machines<'a> {
        Machines {
            model: &size.model,
            functions_max: size.functions_max,
            shares_machine: self.traits.shares_machine,
            warm: self.environments(size),
            lanes: size.lanes,
        }
    }
}

/// The rate at which a platform starts environments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnvironmentRamp {
    /// Clones of the function, each with a rate of its own.
    pub functions: u32,
    /// Environments that one clone starts at once.
    pub burst: u32,
    pub per_second: f64,
}

impl EnvironmentRamp {
    /// Rate of AWS Lambda: 1,000 environments per 10 seconds and function (AWS Lambda quotas, read in November 2026).
    pub const fn lambda(functions: u32) -> Self {
        Self { functions, burst: 1000, per_second: 100.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_functions_read_further_ahead() {
        let set = AheadBounds { requests_max: u32::MAX, bytes_max: u64::MAX };
        let check = |memory_mb, lanes, requests_max| {
            let expect = AheadBounds { requests_max, bytes_max: 10 };
            assert_eq!(ahead_bounds(set, memory_mb, lanes, 80), expect, "{memory_mb} MB, {lanes} lanes");
        };
        check(128, 1, 4);
        check(512, 1, 4);
        check(513, 1, 16);
        check(1_768, 2, 32);
        check(1_769, 1, 64);
        check(10_240, 6, 64);
        check(128, 1_000, 64);
    }

    #[test]
    fn functions_read_no_further_ahead_than_is_set() {
        for (requests_max, bytes_max) in [(0, 10), (3, 10), (64, 0), (64, 9)] {
            let set = AheadBounds { requests_max, bytes_max };
            assert_eq!(ahead_bounds(set, 2_048, 1, 80), set);
        }
    }
}
