//! Cap on a query's cost, kept while the query runs.
//!
//! ```text
//!  spent by attempts that have ended         ┐
//!  + what open ones may cost at their worst  │
//!  + what the coordinator itself has spent   ├─ at most the cap whenever an attempt may begin
//!  + what is set aside for the query's end   ┘
//! ```
//!
//! An attempt is paid for BEFORE it stands in line for a function. Its price has four parts:
//!
//! - its memory until its deadline, which functions keep by themselves, and the platform's grace;
//! - one invocation;
//! - a bound on its requests;
//! - its answer's way to a coordinator outside of AWS.
//!
//! When an attempt ends, its real cost is booked, and the rest is free again.
//!
//! Each attempt asks for a fair share of the money that is left, or for three times its expected time if that is more.
//! An attempt that does not fit waits until another has ended, in the order of arrival. If no other runs, it gets the
//! time that the money affords, or the query ends. Money that other statements under one budget hold is waited for.
//!
//! Where the user shares budgets with others, the same money has to be free in each of them ([`Purse`]).
//!
//! The coordinator's own spending cannot be asked for beforehand. It is checked while the query runs ([`Cap::passed`]).
//!
//! Not counted: quantities without a price, and results while they lie in the exchange (2 cents for a GB and a month).
//! Not counted either: a function that neither keeps its deadline nor is stopped within the grace. On Lambda its own
//! time-out ends it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

mod budget;
mod refusal;
mod reservation;
mod worst_case;

pub use budget::{BudgetState, Budgets, OverBudget, Purse, SavedBudget, SharedBudgets};
pub use refusal::{OverCap, Stopped};
pub(crate) use reservation::Reservation;
pub use worst_case::{AttemptWork, lower_bound};

use crate::attempt::START_MAX;
use crate::cost::{Basis, Item, Quantities, Tariff};
use crate::money::Money;

/// Least time that an attempt is paid for.
const TIME_MIN: Duration = START_MAX;

/// Multiple of its expected time that an attempt gets when money is short. Each attempt that ran out of time doubles
/// it.
const TIME_FACTOR: u32 = 3;

/// Multiple of its expected time for an attempt that no other can make room for.
const TIME_FACTOR_LAST: f64 = 1.5;

/// Divisor of the cap for a tolerated excess: spent and reserved money together may pass the cap by a 25th. Attempts can
/// still cost less than their reservations, so this excess does not end the query. It keeps the real cost below a 20th
/// over the cap, even if each attempt costs all that is reserved.
const EXCESS_DIVISOR: u64 = 25;

/// Divisor of what a budget has left for the part that one query's attempts may share.
const BUDGET_DIVISOR: u64 = 2;

/// Interval at which the coordinator's own spending is checked.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Interval at which the budgets hear of a statement whose rows nobody reads.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Longest wait for money that other statements hold. They may wait for this one.
const HELD_WAIT_MAX: Duration = Duration::from_secs(30);

/// LISTs that clean the exchange: one at the query's end, and one when its last attempt has ended.
const CLEANING_LISTS: u64 = 2;

/// Request for the money of one attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttemptRequest {
    pub work: AttemptWork,
    pub expected: Duration,
    /// Time that the attempt can use at most; more is of no use to it.
    pub time_max: Duration,
    /// Attempts at the same fragment that ran out of time.
    pub timed_out: u32,
}

/// Money that the coordinator itself has spent on a query until now. The argument is the bytes of results to leave out.
type CoordinatorSpending = Box<dyn Fn(u64) -> Money + Send + Sync>;

/// Limits of a query's money.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Cap of the query itself; the greatest amount for none.
    pub own: Money,
    /// Purse of the budgets that it shares.
    pub purse: Option<Arc<Purse>>,
}

impl From<Money> for Limits {
    fn from(own: Money) -> Self {
        Self { own, purse: None }
    }
}

/// Money of one query.
pub struct Cap {
    limit: Money,
    purse: Option<Arc<Purse>>,
    tariff: Tariff,
    coordinator_spending: CoordinatorSpending,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Fragments of all stages.
    fragments: u64,
    /// Money for reading the results and for cleaning up.
    set_aside: Money,
    /// Spending of attempts that have ended.
    spent: Quantities,
    /// Worst cases of attempts that have not ended.
    reserved: Money,
    open: usize,
    done: u64,
    /// Bytes of results whose transfer to the coordinator has been paid.
    result_bytes: u64,
    queue: VecDeque<Waiter>,
    /// Refusal of all further attempts; set once.
    refused: Option<OverCap>,
}

/// Purpose of a request for money.
#[derive(Debug, Clone, Copy)]
enum SpendingRequest {
    Attempt(AttemptRequest),
    /// Transfer of a result of so many bytes to the coordinator.
    Read(u64),
}

#[derive(Debug)]
struct Waiter {
    request: SpendingRequest,
    since: Instant,
    grant: oneshot::Sender<Answer>,
}

/// Answer to a request for money.
type Answer = Result<Reservation, OverCap>;

/// Conditions on which a request is granted.
struct Terms {
    time: Duration,
    worst_case: Quantities,
    work: AttemptWork,
}

impl std::fmt::Debug for Cap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cap").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Cap {
    /// Makes the cap of a query of `fragments` fragments. `spending` returns the money that the coordinator
    /// itself has spent, planning included. Its argument is the bytes of results to leave out.
    pub fn new(
        limits: impl Into<Limits>,
        tariff: Tariff,
        fragments: u64,
        spending: impl Fn(u64) -> Money + Send + Sync + 'static,
    ) -> Arc<Self> {
        let set_aside = set_aside(fragments, &tariff);
        let Limits { own: limit, purse } = limits.into();
        let state = Mutex::new(State { fragments, set_aside, ..State::default() });
        Arc::new(Self { limit, purse, tariff, coordinator_spending: Box::new(spending), state })
    }

    /// Learns that a stage has another number of fragments than it was expected to have before.
    pub(crate) fn expect_fragments(self: &Arc<Self>, before: u64, fragments: u64) {
        {
            let mut state = self.lock();
            state.fragments = (state.fragments + fragments).saturating_sub(before);
            state.set_aside = set_aside(state.fragments, &self.tariff);
        }
        self.grant_waiting();
    }

    /// Returns the number of fragments that are expected.
    #[cfg(test)]
    pub(crate) fn fragments(&self) -> u64 {
        self.lock().fragments
    }

    /// Checks the cap before the query runs.
    ///
    /// # Errors
    /// [`OverCap::BeforeRun`] if the money spent so far and `at_least` are together above the cap, and [`OverCap::Budget`] if a
    /// budget has less left.
    pub fn allow(&self, at_least: Money) -> Result<(), OverCap> {
        let at_least = (self.coordinator_spending)(0) + at_least;
        if at_least > self.limit {
            return Err(OverCap::BeforeRun { limit: self.limit, at_least });
        }
        self.purse.as_ref().map_or(Ok(()), |purse| purse.hold_at_least(at_least)).map_err(OverCap::from)
    }

    /// Returns when the query has to end for want of money. Attempts that wait for money of others' statements begin meanwhile.
    pub async fn passed(self: &Arc<Self>) -> OverCap {
        loop {
            if let Some(over) = self.over() {
                return over;
            }
            if self.purse.is_some() {
                self.grant_waiting();
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    /// Tells the budgets what is spent while nobody reads the rows. Once there is too little, all further attempts are refused.
    pub async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(WATCH_INTERVAL).await;
            if let Some(over) = self.over() {
                self.lock().refused = Some(over);
                self.grant_waiting();
                return;
            }
        }
    }

    /// Returns the refusal if the query has to end now.
    fn over(&self) -> Option<OverCap> {
        let state = self.lock();
        let spent = self.spent(&state);
        let is_over = spent > self.limit || spent + state.reserved > self.limit + self.limit.part_of(EXCESS_DIVISOR);
        let over = state.refused.clone().or_else(|| is_over.then(|| self.stopped(&state, None)));
        over.or_else(|| self.note(&state).map(OverCap::from))
    }

    /// Tells the budgets what is spent and held. Returns the refusal of one that is over.
    fn note(&self, state: &State) -> Option<OverBudget> {
        let (purse, spent) = (self.purse.as_ref()?, self.spent(state));
        purse.note(spent, self.bound(state))
    }

    /// Counts a fragment that has its result.
    pub(crate) fn fragment_done(&self) {
        self.lock().done += 1;
    }

    /// Takes back a fragment whose result could not be used.
    pub(crate) fn fragment_undone(&self) {
        let mut state = self.lock();
        state.done = state.done.saturating_sub(1);
    }

    /// Waits until an attempt can be paid for; dropping the future gives up the place.
    ///
    /// # Errors
    /// [`OverCap::WhileRunning`] if no attempt can make room for it. From then on every request is refused.
    pub(crate) async fn reserve(self: &Arc<Self>, request: AttemptRequest) -> Result<Reservation, OverCap> {
        let granted = self.enqueue(SpendingRequest::Attempt(request), VecDeque::push_back);
        granted.await.expect("a waiter is dropped with its future only")
    }

    /// Reserves the money if that needs no wait and no other request waits.
    pub(crate) fn reserve_at_once(self: &Arc<Self>, request: &AttemptRequest) -> Option<Reservation> {
        let mut state = self.lock();
        if state.refused.is_some() || state.queue.iter().any(|waiter| !waiter.grant.is_closed()) {
            return None;
        }
        let time = self.time(request, &state).filter(|time| *time >= self.fair_time(request, &state))?;
        self.reserve_now(&mut state, self.attempt_terms(time, request)).ok()
    }

    /// Waits until a result's transfer to a coordinator outside of AWS can be paid for, and pays it.
    ///
    /// # Errors
    /// Those of [`Self::reserve`].
    pub(crate) async fn pay_for_read(self: &Arc<Self>, bytes: u64) -> Result<(), OverCap> {
        if self.tariff.coordinator_outside != Some(true) {
            return Ok(());
        }
        // A read goes before attempts, because its fragment has already been paid for.
        let granted = self.enqueue(SpendingRequest::Read(bytes), VecDeque::push_front);
        let reservation = granted.await.expect("a waiter is dropped with its future only")?;
        self.lock().result_bytes += bytes;
        drop(reservation.begun());
        Ok(())
    }

    fn enqueue(
        self: &Arc<Self>,
        request: SpendingRequest,
        at: fn(&mut VecDeque<Waiter>, Waiter),
    ) -> oneshot::Receiver<Answer> {
        let (grant, granted) = oneshot::channel();
        at(&mut self.lock().queue, Waiter { request, since: Instant::now(), grant });
        self.grant_waiting();
        granted
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Answers requests in line, as far as that is possible now.
    fn grant_waiting(self: &Arc<Self>) {
        while let Some((waiter, answer)) = self.next() {
            // A reservation that is no longer wanted gives itself back.
            let _ = waiter.grant.send(answer);
        }
    }

    fn next(self: &Arc<Self>) -> Option<(Waiter, Answer)> {
        let mut state = self.lock();
        while state.queue.front().is_some_and(|waiter| waiter.grant.is_closed()) {
            state.queue.pop_front();
        }
        let (request, since) = state.queue.front().map(|waiter| (waiter.request, waiter.since))?;
        let answer = loop {
            match (state.refused.clone(), self.terms(request, &state)) {
                (Some(over), _) => break Err(over),
                (None, Some(terms)) => {
                    if let Ok(reservation) = self.reserve_now(&mut state, terms) {
                        break Ok(reservation);
                    }
                    // A neighbour took the money in between. There is less of it now.
                }
                (None, None) if state.open > 0 => return None,
                (None, None) => {
                    let over = self.refusal(&state, self.least_quantities(request).cost(&self.tariff));
                    // Other statements may give it back, unless they wait as well.
                    let may_wait = since.elapsed() < HELD_WAIT_MAX;
                    if may_wait && matches!(&over, OverCap::Budget(over) if over.is_held) {
                        return None;
                    }
                    state.refused = Some(over.clone());
                    break Err(over);
                }
            }
        };
        state.queue.pop_front().map(|waiter| (waiter, answer))
    }

    /// Returns the terms that can be paid for now.
    fn terms(&self, request: SpendingRequest, state: &State) -> Option<Terms> {
        match request {
            SpendingRequest::Attempt(request) => {
                let time = self.time(&request, state)?;
                Some(self.attempt_terms(time, &request))
            }
            SpendingRequest::Read(_) => {
                let worst_case = self.least_quantities(request);
                let fits = worst_case.cost(&self.tariff) <= self.left(state);
                fits.then(|| Terms { time: Duration::ZERO, worst_case, work: AttemptWork::default() })
            }
        }
    }

    fn attempt_terms(&self, time: Duration, request: &AttemptRequest) -> Terms {
        Terms { time, worst_case: self.worst_case(time, &request.work), work: request.work }
    }

    /// Returns the least quantities that a request has to be able to pay for.
    fn least_quantities(&self, request: SpendingRequest) -> Quantities {
        match request {
            SpendingRequest::Attempt(request) => self.worst_case(self.last_time(&request), &request.work),
            SpendingRequest::Read(bytes) => {
                let mut worst_case = Quantities::default();
                self.add_transfer(&mut worst_case, bytes);
                worst_case
            }
        }
    }

    /// Returns the time for an attempt, if it can begin now.
    fn time(&self, request: &AttemptRequest, state: &State) -> Option<Duration> {
        let affordable = self.affordable(self.left(state), &request.work)?;
        let fair = self.fair_time(request, state);
        if affordable >= fair {
            return Some(fair);
        }
        (state.open == 0 && affordable >= self.last_time(request)).then_some(affordable)
    }

    /// Returns an equal share of the money for everything unfinished, or a multiple of the expected time if that is
    /// more. The multiple leaves room for mishaps.
    fn fair_time(&self, request: &AttemptRequest, state: &State) -> Duration {
        let unfinished = state.fragments.saturating_sub(state.done).max(1);
        let share = self.affordable(self.fair_left(state).part_of(unfinished), &request.work).unwrap_or_default();
        let least =
            TIME_MIN.max(request.expected.saturating_mul(TIME_FACTOR)).saturating_mul(1 << request.timed_out.min(16));
        share.max(least).min(request.time_max)
    }

    fn last_time(&self, request: &AttemptRequest) -> Duration {
        TIME_MIN.max(request.expected.mul_f64(TIME_FACTOR_LAST)).min(request.time_max)
    }

    fn spent(&self, state: &State) -> Money {
        (self.coordinator_spending)(state.result_bytes) + state.spent.cost(&self.tariff)
    }

    fn bound(&self, state: &State) -> Money {
        self.spent(state) + state.reserved + state.set_aside
    }

    fn left(&self, state: &State) -> Money {
        let room = self.purse.as_ref().map_or(self.limit, |purse| purse.room().min(self.limit));
        room.saturating_sub(self.bound(state))
    }

    /// Returns the money that the query's attempts share. Of a budget it is a part, for others need some, too.
    fn fair_left(&self, state: &State) -> Money {
        let bound = self.bound(state);
        let of_budget = self.purse.as_ref().map_or(Money::MAX, |purse| purse.room().saturating_sub(bound));
        self.limit.saturating_sub(bound).min(of_budget.part_of(BUDGET_DIVISOR))
    }

    /// Makes the refusal of a request for so much, by the cap or by the budget that does not suffice.
    fn refusal(&self, state: &State, wants: Money) -> OverCap {
        let bound = self.bound(state);
        let of_budget = match self.limit.saturating_sub(bound) >= wants {
            true => self.purse.as_ref().and_then(|purse| purse.refusal(bound + wants)),
            false => None,
        };
        of_budget.map_or_else(|| self.stopped(state, Some(wants)), OverCap::from)
    }

    fn stopped(&self, state: &State, next: Option<Money>) -> OverCap {
        let (spent, reserved, done) = (self.spent(state), state.reserved, state.done);
        OverCap::WhileRunning(Box::new(Stopped {
            limit: self.limit,
            spent,
            reserved,
            next,
            done,
            total: state.fragments,
        }))
    }
}

/// Returns the money for reading the results of so many fragments, and for cleaning up.
fn set_aside(fragments: u64, tariff: &Tariff) -> Money {
    let mut end = Quantities::default();
    if fragments > 0 {
        end.add(Item::ExchangeReads, Basis::Bounded, fragments);
        end.add(Item::CoordinatorWrites, Basis::Bounded, CLEANING_LISTS);
    }
    end.cost(tariff)
}

#[cfg(test)]
mod tests;
