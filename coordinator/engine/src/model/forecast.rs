//! Forecast of a query's cost, before it runs: a pure function of its fragments' reads, the time model and the prices.
//!
//! ```text
//!  stages: weights, reads, results ─┐
//!  time model, fleet ───────────────┴─► [`super::attempts`]: seconds, requests ─┬─► quantities ─► Amounts, expected and at most
//!  tariff ──────────────────────────────────────────────────────────────────────┘   (as in a report: [`Quantities`])
//! ```
//!
//! The expected amounts are the model's. The upper ones are the same sums under the pessimism of [`Assumptions::UPPER`], each factor of which
//! names its source. A query whose attempts fail for good reasons can cost more.

use std::time::Duration;

use gust_protocol::Requests;
use serde::Serialize;

use crate::attempt::Billing;
use crate::cost::{Basis, Item, Quantities, Tariff, line_cost};
use crate::model::attempts::{Assumptions, LocalRun, Machines, RemoteRun, duration};
use crate::model::load::{LocalLoad, OwnUsage, StageLoad};
use crate::model::{Place, TimeModel};
use crate::money::Money;

/// Prices, and the coordinator's spending so far.
#[derive(Debug, Clone, Copy)]
pub struct Prices<'a> {
    /// Tariff with the `memory_mb` of one function.
    pub tariff: &'a Tariff,
    /// Usage of stores by the coordinator until the plan stands.
    pub planning: &'a OwnUsage,
}

/// Amounts of one candidate: a query at one place, with one packing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    pub place: Place,
    /// Functions at once; none where it runs locally.
    pub functions: usize,
    /// Memory of one function.
    pub memory_mb: Option<u32>,
    pub fragments: usize,
    /// True if functions do more than to scan: they join, or get rows from one another.
    pub staged: bool,
    pub expected: Amounts,
    pub upper: Amounts,
    /// Names of [`Item`]s that it will also cost, whose price or quantity is not known.
    pub not_included: Vec<&'static str>,
}

/// The three ways of a query: how much of it functions do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Local,
    /// Functions scan. Joins, and what needs all rows of a key, are the coordinator's.
    Scans,
    /// Functions do all that they may do by the settings and by the sizes that are expected.
    Stages,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Local, Self::Scans, Self::Stages];

    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Scans => "scans",
            Self::Stages => "stages",
        }
    }
}

/// Way and width, by which one candidate is told from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CandidateKind {
    way: Way,
    functions: usize,
    fragments: usize,
    memory_mb: Option<u32>,
}

/// Amounts, and the names of items without one.
struct Spending {
    amounts: Amounts,
    not_included: Vec<&'static str>,
}

/// Sums over a query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Amounts {
    #[serde(rename = "nano_dollars")]
    pub dollars: Money,
    pub seconds: f64,
    /// Bytes from storage, by functions and by the coordinator.
    pub bytes: u64,
    /// Requests to storage, by functions and by the coordinator.
    pub requests: u64,
    /// Gigabytes times seconds of functions.
    pub gb_seconds: f64,
}

/// Forecasts a query with `stages` on functions, as if these did nothing but scan: its caller knows.
pub fn on_functions(stages: &[&StageLoad], on: &Machines<'_>, prices: &Prices<'_>) -> Forecast {
    let fragments: usize = stages.iter().map(|stage| stage.fragments.len()).sum();
    let Spending { amounts: expected, not_included } = functions_amounts(stages, on, prices, &Assumptions::EXPECTED);
    let upper = functions_amounts(stages, on, prices, &Assumptions::UPPER).amounts;
    Forecast {
        place: Place::Functions,
        functions: fragments.min(on.functions_max),
        memory_mb: Some(prices.tariff.memory_mb),
        fragments,
        staged: false,
        expected,
        upper: upper.at_least(&expected),
        not_included,
    }
}

/// Forecasts a query on the coordinator alone.
pub fn locally(load: &LocalLoad, model: &TimeModel, prices: &Prices<'_>) -> Forecast {
    let Spending { amounts: expected, not_included } = local_amounts(load, model, prices, &Assumptions::EXPECTED);
    let upper = local_amounts(load, model, prices, &Assumptions::UPPER).amounts;
    Forecast {
        place: Place::Local,
        functions: 0,
        memory_mb: None,
        fragments: 0,
        staged: false,
        expected,
        upper: upper.at_least(&expected),
        not_included,
    }
}

impl Forecast {
    /// Adds the work that the coordinator does itself, after the functions: its operators, and scans whose plans do not travel.
    #[must_use]
    pub fn and_here(mut self, load: &LocalLoad, model: &TimeModel, tariff: &Tariff) -> Self {
        let here = locally(load, model, &Prices { tariff, planning: &OwnUsage::default() });
        self.expected = self.expected + here.expected;
        self.upper = self.upper + here.upper;
        let new = here.not_included.into_iter().filter(|name| !self.not_included.contains(name));
        self.not_included.extend(new.collect::<Vec<_>>());
        self
    }
}

fn functions_amounts(stages: &[&StageLoad], on: &Machines<'_>, prices: &Prices<'_>, assume: &Assumptions) -> Spending {
    let run = RemoteRun::of(stages, on, assume);
    let RemoteRun { cold, start, longer, seconds, ref results, ref digests, shared, .. } = run;
    let mut spent = Quantities::default();
    for (position, attempt) in run.attempts().enumerate() {
        let init = if position < cold { start } else { Duration::ZERO };
        let duration = duration(attempt.seconds * longer);
        spent.add_billing(Billing::Metered { duration, init }, prices.tariff);
    }
    let plans = stages.iter().filter(|stage| stage.publishes_plan).count() as u64;
    spent.add(Item::TableReads, Basis::Metered, run.requests(plans, assume));
    spent.add(Item::ExchangeWrites, Basis::Metered, results.writes);
    spent.add(Item::ExchangeReads, Basis::Metered, results.objects);
    spent.add(Item::CoordinatorReads, Basis::Metered, digests.billed);
    // The coordinator's own writes: plans, digests, rows, and a listing to clean up where anything was written.
    let own_writes = plans + digests.objects + shared.objects;
    spent.add(Item::CoordinatorWrites, Basis::Metered, own_writes + u64::from(own_writes + results.writes > 0));
    spent.add(Item::ExchangeStorage, Basis::Metered, u128::from(results.stored_bytes) * duration(seconds).as_micros());
    spent.add(Item::Logs, Basis::Unknown, run.attempts().count() as u64);
    add_own(&mut spent, prices, seconds, results.bytes + digests.bytes);
    let bytes = run.bytes() + results.object_bytes + digests.bytes + prices.planning.all.bytes_read;
    amounts(&spent, prices, seconds, bytes, digests.requests - digests.billed)
}

fn local_amounts(load: &LocalLoad, model: &TimeModel, prices: &Prices<'_>, assume: &Assumptions) -> Spending {
    let LocalRun { seconds, requests, billed } = LocalRun::of(load, model, assume);
    let mut spent = Quantities::default();
    spent.add(Item::CoordinatorReads, Basis::Metered, billed);
    add_own(&mut spent, prices, seconds, load.reads.bytes - load.of_files.bytes);
    amounts(&spent, prices, seconds, load.reads.bytes + prices.planning.all.bytes_read, requests - billed)
}

/// Adds the coordinator's own spending on any query: the requests of its planning, its machine, and bytes that come to it.
fn add_own(spent: &mut Quantities, prices: &Prices<'_>, seconds: f64, arriving_bytes: u64) {
    let planning = &prices.planning.billed;
    spent.add_own(&planning.requests, arriving_bytes + planning.bytes_read, duration(seconds), prices.tariff);
}

/// Sums up, and names the items without an amount. `of_files` requests go to files of this machine, beside those of planning.
fn amounts(spent: &Quantities, prices: &Prices<'_>, seconds: f64, bytes: u64, of_files: u64) -> Spending {
    let OwnUsage { all, billed } = prices.planning;
    let planning = |requests: &Requests| requests.get + requests.head + requests.list + requests.put;
    let (mut requests, mut gb_seconds) =
        (of_files + planning(&all.requests).saturating_sub(planning(&billed.requests)), 0.0);
    let tariff = prices.tariff;
    let mut not_included: Vec<&'static str> = Vec::new();
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
            | Item::OpenAttempts
            | Item::LostCoordinators => {}
        }
        if line_cost(item, basis, quantity, tariff).is_none() {
            not_included.push(item.name());
        }
    }
    Spending { amounts: Amounts { dollars: spent.cost(tariff), seconds, bytes, requests, gb_seconds }, not_included }
}

impl Forecast {
    pub fn way(&self) -> Way {
        match (self.place, self.staged) {
            (Place::Local, _) => Way::Local,
            (Place::Functions, false) => Way::Scans,
            (Place::Functions, true) => Way::Stages,
        }
    }

    /// Returns true if it has the same way, functions, size and fragments.
    pub fn is_like(&self, other: &Self) -> bool {
        self.kind() == other.kind()
    }

    /// Returns the order of candidates: without functions first, then those that scan, then by their number, their fragments and their size.
    pub(super) fn kind(&self) -> CandidateKind {
        let Self { functions, fragments, memory_mb, .. } = *self;
        CandidateKind { way: self.way(), functions, fragments, memory_mb }
    }
}

impl Amounts {
    /// Returns amounts of which none is below `least`. Pessimism about one thing may be optimism about another, such as a pipe without burst that
    /// is never waited for.
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

impl std::fmt::Display for Forecast {
    /// Writes the way and the amounts: `8 functions of 2048 MB: $0.0004213 and 1.203 s expected, $0.0009 and 2.5 s at most`. Functions that do more than
    /// to scan `join or group`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.place, self.memory_mb) {
            (Place::Local, _) | (Place::Functions, None) => write!(f, "local")?,
            (Place::Functions, Some(memory_mb)) => {
                let plural = if self.functions == 1 { "" } else { "s" };
                write!(f, "{} function{plural} of {memory_mb} MB", self.functions)?;
                if self.staged {
                    f.write_str(" that join or group")?;
                }
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
