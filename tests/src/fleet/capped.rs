//! One seed: a query with a cap under random faults, and the dollars that it cost by the platform's own books.
//!
//! This module repeats the list prices. The simulated platform and the coordinator's store count the usage: nothing here
//! comes from the project's ledger.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use gust_engine::money::Money;
use gust_protocol::Requests;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::trial::{self, Trial};
use super::world::{QueryOutcome, SimulatedQuery, World, WorldOutcome, run_virtually};
use super::{FaultPlan, Graph, QueryUsage};

/// AWS's list prices in us-east-1, x86_64 (November 2026), in dollars.
const GIGABYTE_SECOND: f64 = 0.000_016_666_7;
const INVOCATION: f64 = 0.20 / 1e6;
const GET: f64 = 0.0004 / 1e3;
const PUT_OR_LIST: f64 = 0.005 / 1e3;

/// Share of its cap by which a query may exceed the cap. More breaks the trial.
const OVERSHOOT_MAX: f64 = 0.05;

/// Cap that the scheduler is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    On,
    /// The scheduler knows no cap. A test uses it to show that the trial would notice an overshoot.
    Off,
}

/// Result of one seed.
#[derive(Debug, Default)]
pub struct CappedTrial {
    pub trial: Trial,
    /// Queries that ended because their caps were reached.
    pub stopped: usize,
    /// Largest cost of a query, as a share of its cap.
    pub share_max: f64,
}

/// Runs one seed. Never panics.
pub fn capped_trial(seed: u64, enforcement: Enforcement) -> CappedTrial {
    catch_unwind(AssertUnwindSafe(|| run(seed, enforcement))).unwrap_or_else(|panic| {
        let broken = vec![format!("panicked: {}", trial::message(&*panic))];
        CappedTrial { trial: Trial { broken, ..Trial::default() }, ..CappedTrial::default() }
    })
}

/// Returns the dollars that the platform and S3 charge for a query.
pub fn dollars(ended: &WorldOutcome, outcome: &QueryOutcome) -> f64 {
    let QueryUsage { invocations, gigabyte_seconds, requests } =
        ended.served.bills.get(&outcome.id).copied().unwrap_or_default();
    let requested = |requests: Requests| {
        let Requests { get, head, list, put, .. } = requests;
        (get + head) as f64 * GET + (list + put) as f64 * PUT_OR_LIST
    };
    gigabyte_seconds * GIGABYTE_SECOND + invocations as f64 * INVOCATION + requested(requests) + requested(outcome.own)
}

fn run(seed: u64, enforcement: Enforcement) -> CappedTrial {
    let mut random = SmallRng::seed_from_u64(seed);
    let world = trial::world(seed, &mut random);
    let queries: Vec<(SimulatedQuery, Money)> = (0..random.random_range(1..3))
        .map(|_| {
            let query = trial::query(&mut random);
            let cap = cap(&query, &mut random);
            (query, cap)
        })
        .collect();
    let told = queries
        .iter()
        .map(|(query, cap)| SimulatedQuery { cap: (enforcement == Enforcement::On).then_some(*cap), ..query.clone() });
    let ended = run_virtually(world.run(&[told.collect()], |invoker, _| Arc::new(invoker)));
    let mut capped = CappedTrial::default();
    for ((query, cap), outcome) in queries.iter().zip(&ended.queries) {
        trial::judge(&world, query, outcome, &mut capped.trial);
        let share = dollars(&ended, outcome) / (cap.nano_dollars() as f64 / 1e9);
        capped.share_max = capped.share_max.max(share);
        if share > 1.0 + OVERSHOOT_MAX {
            let broken = format!("query {}: overshoot: it cost {share:.3} of its cap of {cap}", outcome.id);
            capped.trial.broken.push(broken);
        }
    }
    capped.stopped = capped.trial.queries_failed.get("budget exceeded").copied().unwrap_or_default();
    if ended.orphans > 0 || ended.running > 0 {
        let broken = format!("{} objects stayed, {} functions still run", ended.orphans, ended.running);
        capped.trial.broken.push(broken);
    }
    capped
}

/// Draws a cap. The range begins at the need of one attempt, a third of the cost without faults, and ends far above that cost.
fn cap(query: &SimulatedQuery, random: &mut SmallRng) -> Money {
    let seconds: f64 = query.file_bytes.iter().map(|bytes| 0.3 + *bytes as f64 / 100e6).sum();
    let usual = 0.000_15 + seconds * 2.0 * GIGABYTE_SECOND;
    let dollars = usual * 2_f64.powf(random.random_range(-1.5..4.0));
    Money::from_nano_dollars((dollars * 1e9) as u64)
}

/// Cost of a large query without a cap, and its times without and with one.
#[derive(Debug)]
pub struct CapSlowdown {
    pub dollars: f64,
    pub without: Duration,
    pub with: Duration,
}

/// Runs a large query without faults twice: without a cap, and with one of `times` the first run's cost.
///
/// # Panics
/// When one of the runs has no result.
pub fn with_and_without(times: f64) -> CapSlowdown {
    let mut random = SmallRng::seed_from_u64(7);
    let mut world = trial::world(7, &mut random);
    world.faults = FaultPlan::default();
    world.platform.concurrent_max = 1000;
    world.platform.ramp_burst = 1000;
    world.settings = gust_engine::scheduler::SchedulerSettings::new(200, 7);
    let query = |cap| SimulatedQuery {
        begins: Duration::ZERO,
        timeout: Duration::from_secs(300),
        file_bytes: vec![128 << 20; 100],
        packing: gust_engine::planner::passes::pack::Packing {
            functions_max: 100,
            functions: Some(100),
            ..trial::query(&mut SmallRng::seed_from_u64(7)).packing
        },
        graph: Graph::default(),
        cap,
    };
    let run = |world: &World, cap| {
        let ended = run_virtually(world.run(&[vec![query(cap)]], |invoker, _| Arc::new(invoker)));
        let outcome = &ended.queries[0];
        assert!(outcome.rows.is_ok(), "{:?}", outcome.rows);
        (dollars(&ended, outcome), outcome.took)
    };
    let (dollars, without) = run(&world, None);
    let (_, with) = run(&world, Some(Money::from_nano_dollars((dollars * times * 1e9) as u64)));
    CapSlowdown { dollars, without, with }
}
