//! What a query may spend, kept while it runs.
//!
//! ```text
//!  spent by attempts that have ended         ┐
//!  + what open ones may cost at their worst  │
//!  + what the coordinator itself has spent   ├─ at most the cap whenever an attempt is let begin
//!  + what is set aside for the query's end   ┘
//! ```
//!
//! An attempt is paid for BEFORE it stands in line for a function: its memory until its deadline, which functions keep by
//! themselves, and the platform's grace; one invocation; a bound on its requests; its answer's way to a coordinator outside.
//! When it ends, what it did cost is booked, and the rest is free again. Each asks for a fair share of what is left, and for
//! three times what it is expected to take where that is more. What does not fit waits, in the order in which it came, until
//! another has ended; where there is none to wait for, it gets the time that the money affords, or the query ends.
//!
//! The coordinator's own spending cannot be asked for beforehand: it is looked at while the query runs ([`Cap::passed`]).
//! Not counted: what has no price, results while they lie in the exchange (2 cents for a GB and a month), and a function that
//! neither keeps its deadline nor is stopped within the grace: on Lambda its own time-out is what ends it.

use std::collections::VecDeque;
use std::fmt::{Display, Formatter};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fragment_fn::COALESCE_BYTES;
use fragment_fn::hedging::{HEDGES_AT_START, READS_PER_HEDGE};
use gust_protocol::FragmentResult;
use gust_protocol::exchange::writes_of;
use tokio::sync::oneshot;

use crate::attempt::{GRACE, Invocation};
use crate::cost::{Basis, Item, Quantities, Tariff};
use crate::money::Money;

/// An attempt has this long at least, and is paid for it: a new environment starts in a tenth of a second, in three at worst,
/// and its start is billed also where the deadline came first.
const TIME_MIN: Duration = Duration::from_secs(3);

/// Where money is short, an attempt has this many times what it is expected to take; each that ran out of time doubles it.
const TIME_FACTOR: u32 = 3;

/// The same for one that nothing can make room for.
const TIME_FACTOR_LAST: f64 = 1.5;

/// The coordinator's own spending may pass what is not reserved by this part of the cap before it ends a query whose attempts
/// could still cost less than is reserved for them: a 25th, so that all stays below a 20th whatever they cost.
const OWN_PART: u64 = 25;

/// How often the coordinator's own spending is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// LISTs that cleaning the exchange takes: at the query's end, and when its last attempt has ended.
const CLEANING_LISTS: u64 = 2;

/// GETs of a scan unit besides its columns: footer, what the footer's guess has missed, page index, dictionaries.
const READS_PER_UNIT: u64 = 4;
/// A result is at most half as large as what is read.
const RESULT_PART: u64 = 2;

/// What an attempt may ask of storage and send, at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttemptWork {
    /// GETs by the function.
    pub reads: u64,
    /// PUTs by the function.
    pub writes: u64,
    /// Of an answer that carries its rows.
    pub answer_bytes: u64,
}

impl AttemptWork {
    /// Of a fragment that reads `weight_bytes` of the projected columns in so many scan units.
    pub fn of_fragment(units: usize, weight_bytes: u64, answer_bytes: u64) -> Self {
        // The stage's plan may lie in the exchange, too.
        let of_plan = 1;
        // Neighbours that are closer are one GET, and column chunks are rarely smaller.
        let reads = of_plan + units as u64 * READS_PER_UNIT + weight_bytes.div_ceil(COALESCE_BYTES);
        let hedges = HEDGES_AT_START + reads / READS_PER_HEDGE;
        Self { reads: reads + hedges, writes: writes_of(weight_bytes.div_ceil(RESULT_PART)), answer_bytes }
    }
}

/// What an attempt wants to be paid for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttemptRequest {
    pub work: AttemptWork,
    pub expected: Duration,
    /// More is of no use to it.
    pub time_max: Duration,
    /// Attempts at the same fragment that ran out of time.
    pub timed_out: u32,
}

/// A query is not let spend more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverCap {
    /// Nothing has run.
    #[error("not run: it costs at least {at_least}, and the cap is {cap}")]
    Before { cap: Money, at_least: Money },
    #[error("{0}")]
    Meanwhile(Box<Stopped>),
}

impl OverCap {
    /// The next step.
    pub fn hint(&self) -> &'static str {
        "allow more with --max-cost, or read less"
    }
}

/// How far a query came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    pub cap: Money,
    /// By what has ended, and by the coordinator.
    pub spent: Money,
    /// What attempts that still ran may have cost on top, at most.
    pub open: Money,
    /// What one more attempt could have cost, where that was too much.
    pub next: Option<Money>,
    /// Fragments with a result, of all.
    pub done: u64,
    pub total: u64,
}

impl Display for Stopped {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { cap, spent, open, next, done, total } = self;
        write!(f, "stopped at the cap of {cap}: {spent} spent")?;
        if *open > Money::ZERO {
            write!(f, ", at most {open} more for what still runs")?;
        }
        if *total > 0 {
            write!(f, ", {done} of {total} fragments done")?;
        }
        next.map_or(Ok(()), |next| write!(f, "; the next attempt may cost {next}"))
    }
}

/// The least that a query can cost: an invocation and a billed millisecond a fragment, a GET a file.
pub fn lower_bound(fragments: u64, files: u64, tariff: &Tariff) -> Money {
    let memory_mb = tariff.memory_mb;
    let mut least = Quantities::default();
    least.add(Item::Compute { memory_mb }, Basis::Bounded, u128::from(memory_mb) * 1_000 * u128::from(fragments));
    least.add(Item::Invocations, Basis::Bounded, fragments);
    least.add(Item::TableReads, Basis::Bounded, files);
    least.cost(tariff)
}

/// What the coordinator itself has spent on a query until now, so many bytes of results not counted.
type OwnSpending = Box<dyn Fn(u64) -> Money + Send + Sync>;

/// One query's money.
pub struct Cap {
    cap: Money,
    tariff: Tariff,
    /// Of all stages.
    fragments: u64,
    /// For reading the results and cleaning up.
    aside: Money,
    own: OwnSpending,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By attempts that have ended.
    spent: Quantities,
    /// For those that have not.
    reserved: Money,
    open: usize,
    done: u64,
    /// Results whose way here has been paid.
    result_bytes: u64,
    line: VecDeque<Waiter>,
    /// Set once: no other attempt begins.
    refused: Option<OverCap>,
}

/// What money is wanted for.
#[derive(Debug, Clone, Copy)]
enum SpendingRequest {
    Attempt(AttemptRequest),
    /// The way of so many bytes to the coordinator.
    Read(u64),
}

#[derive(Debug)]
struct Waiter {
    want: SpendingRequest,
    grant: oneshot::Sender<Result<Reservation, OverCap>>,
}

type Granted = oneshot::Receiver<Result<Reservation, OverCap>>;

impl std::fmt::Debug for Cap {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budget").field("cap", &self.cap).finish_non_exhaustive()
    }
}

impl Cap {
    /// For a query of so many fragments. `own` tells what the coordinator itself has spent, planning included, without so many
    /// bytes of results.
    pub fn new(
        cap: Money,
        tariff: Tariff,
        fragments: u64,
        own: impl Fn(u64) -> Money + Send + Sync + 'static,
    ) -> Arc<Self> {
        let mut end = Quantities::default();
        if fragments > 0 {
            end.add(Item::ExchangeReads, Basis::Bounded, fragments);
            end.add(Item::CoordinatorWrites, Basis::Bounded, CLEANING_LISTS);
        }
        let aside = end.cost(&tariff);
        Arc::new(Self { cap, tariff, fragments, aside, own: Box::new(own), state: Mutex::default() })
    }

    /// # Errors
    /// [`OverCap::Before`] where what has been spent and what will be at least is above the cap.
    pub fn allow(&self, at_least: Money) -> Result<(), OverCap> {
        let at_least = (self.own)(0) + at_least;
        if at_least > self.cap { Err(OverCap::Before { cap: self.cap, at_least }) } else { Ok(()) }
    }

    /// Returns when the query has to end for want of money.
    pub async fn passed(&self) -> OverCap {
        loop {
            if let Some(over) = self.look() {
                return over;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether the query has to end now.
    fn look(&self) -> Option<OverCap> {
        let state = self.lock();
        let spent = self.spent(&state);
        let is_over = spent > self.cap || spent + state.reserved > self.cap + self.cap.part_of(OWN_PART);
        state.refused.clone().or_else(|| is_over.then(|| self.stopped(&state, None)))
    }

    /// A fragment has its result.
    pub(crate) fn fragment_done(&self) {
        self.lock().done += 1;
    }

    /// A result could not be used after all.
    pub(crate) fn fragment_undone(&self) {
        let mut state = self.lock();
        state.done = state.done.saturating_sub(1);
    }

    /// Waits until an attempt can be paid for; dropping the future gives up the place.
    ///
    /// # Errors
    /// Where nothing can make room for it, and from then on for all.
    pub(crate) async fn reserve(self: &Arc<Self>, ask: AttemptRequest) -> Result<Reservation, OverCap> {
        let granted = self.stand_in_line(SpendingRequest::Attempt(ask), VecDeque::push_back);
        granted.await.expect("a waiter is dropped with its future only")
    }

    /// The same where it need not wait, and nobody does.
    pub(crate) fn reserve_at_once(self: &Arc<Self>, ask: &AttemptRequest) -> Option<Reservation> {
        let mut state = self.lock();
        if state.refused.is_some() || state.line.iter().any(|waiter| !waiter.grant.is_closed()) {
            return None;
        }
        let time = self.time(ask, &state).filter(|time| *time >= self.fair_time(ask, &state))?;
        let worst = self.worst(time, &ask.work);
        Some(self.hold(&mut state, time, worst, ask.work))
    }

    /// Waits until a result's way to a coordinator outside of AWS can be paid for, and pays.
    ///
    /// # Errors
    /// As [`Self::reserve`].
    pub(crate) async fn pay_for_read(self: &Arc<Self>, bytes: u64) -> Result<(), OverCap> {
        if self.tariff.coordinator_outside != Some(true) {
            return Ok(());
        }
        // Before attempts: what it is for has been paid.
        let granted = self.stand_in_line(SpendingRequest::Read(bytes), VecDeque::push_front);
        let reservation = granted.await.expect("a waiter is dropped with its future only")?;
        self.lock().result_bytes += bytes;
        drop(reservation.begun());
        Ok(())
    }

    fn stand_in_line(self: &Arc<Self>, want: SpendingRequest, at: fn(&mut VecDeque<Waiter>, Waiter)) -> Granted {
        let (grant, granted) = oneshot::channel();
        at(&mut self.lock().line, Waiter { want, grant });
        self.serve();
        granted
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Answers those who wait, as far as that is possible now.
    fn serve(self: &Arc<Self>) {
        while let Some((waiter, answer)) = self.next() {
            // What nobody takes any more gives itself back.
            let _ = waiter.grant.send(answer);
        }
    }

    fn next(self: &Arc<Self>) -> Option<(Waiter, Result<Reservation, OverCap>)> {
        let mut state = self.lock();
        while state.line.front().is_some_and(|waiter| waiter.grant.is_closed()) {
            state.line.pop_front();
        }
        let want = state.line.front()?.want;
        let answer = match (state.refused.clone(), self.terms(want, &state)) {
            (Some(over), _) => Err(over),
            (None, Some((time, worst, work))) => Ok(self.hold(&mut state, time, worst, work)),
            (None, None) if state.open > 0 => return None,
            (None, None) => {
                let over = self.stopped(&state, Some(self.least(want).cost(&self.tariff)));
                state.refused = Some(over.clone());
                Err(over)
            }
        };
        state.line.pop_front().map(|waiter| (waiter, answer))
    }

    /// What can be paid for now: a time, what it costs at worst, and the requests in that.
    fn terms(&self, want: SpendingRequest, state: &State) -> Option<(Duration, Quantities, AttemptWork)> {
        match want {
            SpendingRequest::Attempt(ask) => {
                let time = self.time(&ask, state)?;
                Some((time, self.worst(time, &ask.work), ask.work))
            }
            SpendingRequest::Read(_) => {
                let worst = self.least(want);
                let fits = worst.cost(&self.tariff) <= self.left(state);
                fits.then(|| (Duration::ZERO, worst, AttemptWork::default()))
            }
        }
    }

    /// What would have to be left.
    fn least(&self, want: SpendingRequest) -> Quantities {
        match want {
            SpendingRequest::Attempt(ask) => self.worst(self.last_time(&ask), &ask.work),
            SpendingRequest::Read(bytes) => {
                let mut worst = Quantities::default();
                self.add_transfer(&mut worst, bytes);
                worst
            }
        }
    }

    /// Time for an attempt, if it can begin now.
    fn time(&self, ask: &AttemptRequest, state: &State) -> Option<Duration> {
        let affordable = self.affordable(self.left(state), &ask.work)?;
        let fair = self.fair_time(ask, state);
        if affordable >= fair {
            return Some(fair);
        }
        (state.open == 0 && affordable >= self.last_time(ask)).then_some(affordable)
    }

    /// An equal share of what is left for all that is not done, or what it takes: both with room for what goes wrong.
    fn fair_time(&self, ask: &AttemptRequest, state: &State) -> Duration {
        let unfinished = self.fragments.saturating_sub(state.done).max(1);
        let share = self.affordable(self.left(state).part_of(unfinished), &ask.work).unwrap_or_default();
        let least = TIME_MIN.max(ask.expected.saturating_mul(TIME_FACTOR)).saturating_mul(1 << ask.timed_out.min(16));
        share.max(least).min(ask.time_max)
    }

    fn last_time(&self, ask: &AttemptRequest) -> Duration {
        TIME_MIN.max(ask.expected.mul_f64(TIME_FACTOR_LAST)).min(ask.time_max)
    }

    /// How long an attempt can run for an amount; None where that does not suffice for a short one.
    fn affordable(&self, amount: Money, work: &AttemptWork) -> Option<Duration> {
        let mut requests = self.requests(work);
        requests.add(Item::Invocations, Basis::Bounded, 1_u128);
        let left = u128::from(amount.saturating_sub(requests.cost(&self.tariff)).nano_dollars());
        let memory_mb = self.tariff.memory_mb;
        let second = Item::Compute { memory_mb }.cost(u128::from(memory_mb) * 1_000_000, &self.tariff)?;
        // A second that is rounded up, and a begun millisecond.
        let milliseconds = left * 1_000 / (u128::from(second.nano_dollars()) + 1);
        let time = Duration::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX));
        time.checked_sub(GRACE + Duration::from_millis(1)).filter(|time| *time >= TIME_MIN)
    }

    /// All that an attempt may cost that has `time` until its deadline.
    fn worst(&self, time: Duration, work: &AttemptWork) -> Quantities {
        let memory_mb = self.tariff.memory_mb;
        let billed_ms = (time.max(TIME_MIN) + GRACE).as_micros().div_ceil(1_000);
        let mut worst = self.requests(work);
        worst.add(Item::Compute { memory_mb }, Basis::Bounded, u128::from(memory_mb) * billed_ms * 1_000);
        worst.add(Item::Invocations, Basis::Bounded, 1_u128);
        worst
    }

    fn requests(&self, work: &AttemptWork) -> Quantities {
        let mut requests = Quantities::default();
        requests.add(Item::TableReads, Basis::Bounded, work.reads);
        requests.add(Item::ExchangeWrites, Basis::Bounded, work.writes);
        self.add_transfer(&mut requests, work.answer_bytes);
        requests
    }

    fn add_transfer(&self, to: &mut Quantities, bytes: u64) {
        if self.tariff.coordinator_outside == Some(true) {
            to.add(Item::DataTransfer, Basis::Bounded, bytes);
        }
    }

    fn spent(&self, state: &State) -> Money {
        (self.own)(state.result_bytes) + state.spent.cost(&self.tariff)
    }

    fn left(&self, state: &State) -> Money {
        self.cap.saturating_sub(self.spent(state) + state.reserved + self.aside)
    }

    fn stopped(&self, state: &State, next: Option<Money>) -> OverCap {
        let (spent, open, done) = (self.spent(state), state.reserved, state.done);
        OverCap::Meanwhile(Box::new(Stopped { cap: self.cap, spent, open, next, done, total: self.fragments }))
    }

    fn hold(self: &Arc<Self>, state: &mut State, time: Duration, worst: Quantities, work: AttemptWork) -> Reservation {
        let amount = worst.cost(&self.tariff);
        state.reserved += amount;
        state.open += 1;
        Reservation { budget: Arc::clone(self), amount, time, work, worst, booked: Quantities::default() }
    }
}

/// Money for one attempt. Dropped before the attempt has begun it costs nothing, afterwards all of it.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<Cap>,
    amount: Money,
    time: Duration,
    work: AttemptWork,
    worst: Quantities,
    /// What is spent when it is dropped.
    booked: Quantities,
}

impl Reservation {
    /// What the attempt may take until its deadline.
    pub(crate) fn time(&self) -> Duration {
        self.time
    }

    /// From here on it may cost money, whatever becomes of it.
    pub(crate) fn begun(mut self) -> Self {
        self.booked = std::mem::take(&mut self.worst);
        self
    }

    /// The attempt has ended. Requests of one that could not tell them are spent as they were reserved.
    pub(crate) fn settle(mut self, invocation: &Invocation) {
        let Cap { tariff, .. } = &*self.budget;
        let mut spent = Quantities::default();
        spent.add_billing(invocation.billing, tariff);
        let was_started = spent != Quantities::default();
        match &invocation.outcome {
            Ok(response) => {
                spent.add_usage(&response.usage, Duration::ZERO);
                if let Ok(FragmentResult::Inline { part, .. }) = &response.outcome {
                    self.budget.add_transfer(&mut spent, part.bytes);
                }
            }
            Err(_) if was_started => spent.add_all(&self.budget.requests(&self.work)),
            Err(_) => {}
        }
        self.booked = spent;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        {
            let mut state = self.budget.lock();
            state.reserved = state.reserved.saturating_sub(self.amount);
            state.open -= 1;
            state.spent.add_all(&self.booked);
        }
        self.budget.serve();
    }
}

#[cfg(test)]
mod tests;
