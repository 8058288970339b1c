//! Scheduler: runs fragments through an invoker. Attempts in flight are bounded and fair among queries. A fragment is
//! tried again if that can help, and run twice if it is slow. One attempt is adopted.
//!
//! ```text
//!  Scheduler ─► QueryAttempts ─► StageAttempts ─► FragmentAttempts::result
//!  (process)    deadline,        what is normal,      │   ▲  ▲
//!               retry budget,    what is slow         │   │  └─ retry: backoff ◄───── failure
//!               ledger                                ▼   │                              ▲
//!                        limiter: bound, AIMD, ─► ledger ─► invoker ─► outcome ─► settle ─┴─► result
//!                        fairness, bytes, ramp            (one attempt)   └─► breaker
//! ```
//!
//! Every attempt is booked BEFORE it is invoked. An attempt runs as a task of its own and cannot be recalled. So it
//! keeps its slot until it ends, even if its caller has gone or another attempt was faster. A fragment's answer is
//! taken from one attempt only. The results of the others are never read.
//!
//! In a query with a [`Cap`], each attempt is paid for before it stands in line for a slot. Time is tokio's and
//! randomness is seeded, so that one seed gives one history.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gust_protocol::FragmentId;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

mod clock;
mod failure;
mod fragment;
mod ledger;
mod limiter;
mod ramp;
mod retry;
mod schedulers;
mod speculate;

pub use clock::Clock;
pub use failure::{FailureCause, FragmentFailure, PreparationError};
pub use fragment::{AttemptRequests, AttemptResult, AttemptStamp, FragmentAttempts, FragmentNeeds};
pub use limiter::SchedulerLimits;
pub use retry::RetryPolicy;
pub use schedulers::Schedulers;
pub use speculate::SpeculationPolicy;

use crate::cap::{Cap, OverCap};
use crate::events::EventLog;
use crate::fleet::{Breaker, Invoker};
use ledger::Ledger;
use limiter::Limiter;
use retry::RetryBudget;
use speculate::StageProgress;

/// Settings for the bounds, retries and repetitions of attempts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SchedulerSettings {
    pub limits: SchedulerLimits,
    pub retry: RetryPolicy,
    pub speculation: SpeculationPolicy,
    /// Seed of the waits between attempts.
    pub seed: u64,
}

impl SchedulerSettings {
    /// Makes settings with at most `in_flight_max` attempts and a gibibyte of requests and results. The speculation
    /// suits functions elsewhere.
    pub fn new(in_flight_max: usize, seed: u64) -> Self {
        let limits = SchedulerLimits { in_flight_max, in_flight_bytes_max: 1 << 30, ramp: None };
        Self { limits, retry: RetryPolicy::default(), speculation: SpeculationPolicy::ELSEWHERE, seed }
    }
}

/// Bounds and destination of all attempts of a process. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    invoker: Arc<dyn Invoker>,
    limiter: Arc<Limiter>,
    breaker: Arc<Breaker>,
    retry: RetryPolicy,
    speculation: SpeculationPolicy,
    random: Mutex<SmallRng>,
    queries: AtomicU64,
}

impl Scheduler {
    pub fn new(invoker: Arc<dyn Invoker>, breaker: Arc<Breaker>, settings: SchedulerSettings) -> Self {
        let SchedulerSettings { limits, retry, speculation, seed } = settings;
        let shared = Shared {
            invoker,
            limiter: Arc::new(Limiter::new(limits)),
            breaker,
            retry,
            speculation,
            random: Mutex::new(SmallRng::seed_from_u64(seed)),
            queries: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Starts a query that must be done by `deadline`, within its `cap` if it has one.
    pub fn query(&self, events: EventLog, clock: Clock, deadline: Instant, cap: Option<Arc<Cap>>) -> QueryAttempts {
        self.resumed_query(events, clock, deadline, cap, 0)
    }

    /// Starts a query whose attempts have numbers from `first_attempt` on: others have made those before.
    pub fn resumed_query(
        &self,
        events: EventLog,
        clock: Clock,
        deadline: Instant,
        cap: Option<Arc<Cap>>,
        first_attempt: u32,
    ) -> QueryAttempts {
        let number = self.shared.queries.fetch_add(1, Ordering::Relaxed);
        let retry_budget = Mutex::new(RetryBudget::new(&self.shared.retry));
        let query = Query {
            scheduler: Arc::clone(&self.shared),
            number,
            ledger: Ledger::new(events),
            clock,
            deadline,
            retry_budget,
            cap,
            first_attempt,
            running: TaskTracker::new(),
        };
        QueryAttempts { query: Arc::new(query) }
    }
}

/// Attempts of one query. Cloning shares them.
#[derive(Debug, Clone)]
pub struct QueryAttempts {
    query: Arc<Query>,
}

#[derive(Debug)]
struct Query {
    scheduler: Arc<Shared>,
    /// Key of the query's queue in the limiter.
    number: u64,
    ledger: Ledger,
    clock: Clock,
    deadline: Instant,
    retry_budget: Mutex<RetryBudget>,
    cap: Option<Arc<Cap>>,
    /// Number of the first attempt at each fragment.
    first_attempt: u32,
    /// Attempts that have not ended, wanted or not.
    running: TaskTracker,
}

impl QueryAttempts {
    pub fn events(&self) -> &EventLog {
        self.query.ledger.events()
    }

    /// Opens a stage of fragments with these expected times.
    pub fn stage(&self, expected: Vec<Duration>) -> StageAttempts {
        let Shared { retry, speculation, .. } = *self.query.scheduler;
        self.query.retry_budget.lock().expect("no holder panics").add_fragments(&retry, expected.len());
        let progress = StageProgress::new(speculation, &expected);
        StageAttempts { query: Arc::clone(&self.query), expected: Arc::new(expected), progress: Arc::new(progress) }
    }

    /// Tells the query's cap with how many fragments a run of a stage begins.
    pub(crate) fn expect_fragments(&self, of: &ExpectedFragments, fragments: usize) {
        let before = of.0.swap(fragments, Ordering::Relaxed);
        self.query.cap.iter().for_each(|cap| cap.expect_fragments(before as u64, fragments as u64));
    }

    /// Tells the query's cap that a fragment is so many now.
    pub(crate) fn expect_pieces(&self, pieces: usize) {
        self.query.cap.iter().for_each(|cap| cap.expect_fragments(1, pieces as u64));
    }

    /// Waits until the query can pay for reading a result of so many bytes.
    ///
    /// # Errors
    /// The refusal of the query's [`Cap`].
    pub(crate) async fn pay_for_read(&self, bytes: u64) -> Result<(), OverCap> {
        match &self.query.cap {
            Some(cap) => cap.pay_for_read(bytes).await,
            None => Ok(()),
        }
    }

    /// Closes the ledger of a query that is over. Attempts that still run are booked as cancelled. Their callers must
    /// have gone.
    pub fn close(&self) {
        self.query.running.close();
        self.query.ledger.cancel_open();
    }

    /// Waits, after [`Self::close`], until no attempt can write any more.
    pub async fn all_ended(&self) {
        self.query.running.wait().await;
    }
}

/// Attempts of one run of one stage. Cloning shares them.
#[derive(Debug, Clone)]
pub struct StageAttempts {
    query: Arc<Query>,
    expected: Arc<Vec<Duration>>,
    progress: Arc<StageProgress>,
}

impl StageAttempts {
    /// Opens one of the stage's fragments, before any attempt.
    ///
    /// `id.index` is its place among the stage's expected times. `numbers` are those of the stage, so that attempts of
    /// different runs never share a number, and so never a result object.
    pub fn fragment(
        &self,
        id: FragmentId,
        numbers: AttemptNumbers,
        needs: FragmentNeeds,
        requests: AttemptRequests,
    ) -> FragmentAttempts {
        let seed = self.query.scheduler.random.lock().expect("no holder panics").random();
        FragmentAttempts::new(self.clone(), id, numbers, needs, requests, seed)
    }
}

/// Attempts at each fragment of a stage, counted over all runs of the stage. Cloning shares them.
///
/// A recursive query runs a stage any number of times, so one range of numbers per run would not suffice.
#[derive(Debug, Clone)]
pub struct AttemptNumbers(Arc<[AtomicU32]>);

impl AttemptNumbers {
    pub fn new(fragments: usize) -> Self {
        Self((0..fragments).map(|_| AtomicU32::new(0)).collect())
    }

    /// Returns a number that no attempt at the fragment had; None after four thousand million attempts.
    fn next(&self, fragment: u32) -> Option<u32> {
        let count = self.0.get(fragment as usize)?;
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_add(1)).ok()
    }
}

/// Fragments of a stage that the query's cap counts on: those that are planned, then those of the latest run. Cloning shares them.
#[derive(Debug, Clone)]
pub struct ExpectedFragments(Arc<AtomicUsize>);

impl ExpectedFragments {
    pub fn new(planned: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(planned)))
    }
}

#[cfg(test)]
mod tests;
