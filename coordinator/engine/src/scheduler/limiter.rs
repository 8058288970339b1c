//! Limiter of the attempts in flight, over all queries of a process, and the order of their turns.
//!
//! A slot is granted while four bounds hold:
//!
//! - `in_flight_max`;
//! - the limit that throttling has taught (additive increase, multiplicative decrease);
//! - the bytes that attempts may hold on the coordinator;
//! - the rate at which the platform starts environments.
//!
//! The next slot goes to the query with the fewest attempts in flight, among equals to the one that was served least
//! recently. So small queries overtake large ones, and none starves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::ramp::Ramp;
use crate::model::EnvironmentRamp;

/// Time within which throttles count as one overload, and slow down once.
const REDUCTION_INTERVAL: Duration = Duration::from_millis(200);

/// Share of `in_flight_max` that a whole round of successes adds, at least one attempt.
const INCREASE_SHARE: f64 = 0.01;

/// Bounds over all queries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SchedulerLimits {
    /// Attempts at once.
    pub in_flight_max: usize,
    /// Bytes that requests and inline results of those attempts may hold on the coordinator. A larger attempt runs
    /// alone.
    pub in_flight_bytes_max: u64,
    /// Rate at which the platform starts environments; None if that is no bound.
    pub ramp: Option<EnvironmentRamp>,
}

#[derive(Debug)]
pub(super) struct Limiter {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limits: SchedulerLimits,
    adaptive: Adaptive,
    ramp: Option<Ramp>,
    in_flight: usize,
    bytes: u64,
    /// Waiting and running attempts by query.
    lines: BTreeMap<u64, QueryQueue>,
    /// Number of grants so far, which orders queries by their last turn.
    served: u64,
    /// True while a task waits for the next environment.
    is_waking: bool,
}

/// A query's attempts, running and waiting.
#[derive(Debug, Default)]
struct QueryQueue {
    in_flight: usize,
    served_last: u64,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    bytes: u64,
    grant: oneshot::Sender<Slot>,
}

/// Right to one attempt, given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    held: Option<Claim>,
}

#[derive(Debug)]
struct Claim {
    limiter: Arc<Limiter>,
    query: u64,
    bytes: u64,
}

impl Limiter {
    pub(super) fn new(limits: SchedulerLimits) -> Self {
        let state = State {
            limits,
            adaptive: Adaptive::new(limits.in_flight_max),
            ramp: limits.ramp.map(Ramp::new),
            in_flight: 0,
            bytes: 0,
            lines: BTreeMap::new(),
            served: 0,
            is_waking: false,
        };
        Self { state: Mutex::new(state) }
    }

    /// Waits for a slot; dropping the future gives up the place. An `urgent` attempt goes before the query's other
    /// fragments.
    pub(super) async fn acquire(self: &Arc<Self>, query: u64, bytes: u64, urgent: bool) -> Slot {
        let (grant, granted) = oneshot::channel();
        {
            let mut state = self.lock();
            let served = state.served;
            let line =
                state.lines.entry(query).or_insert_with(|| QueryQueue { served_last: served, ..QueryQueue::default() });
            let waiter = Waiter { bytes, grant };
            if urgent {
                line.waiting.push_front(waiter);
            } else {
                line.waiting.push_back(waiter);
            }
            self.grant(&mut state);
        }
        granted.await.expect("a waiter is dropped with its future only")
    }

    /// Notes that the platform did its work.
    pub(super) fn succeeded(&self) {
        self.lock().adaptive.succeeded();
    }

    /// Notes that the platform, or storage under the functions, asked to slow down.
    pub(super) fn throttled(&self) {
        self.lock().adaptive.throttled(Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Hands out slots while the bounds hold.
    fn grant(self: &Arc<Self>, state: &mut State) {
        while let Some((query, waiter)) = state.next(Instant::now()) {
            let held = Claim { limiter: Arc::clone(self), query, bytes: waiter.bytes };
            if let Err(mut refused) = waiter.grant.send(Slot { held: Some(held) }) {
                // The waiter is gone. The state is locked, so the slot must not give itself back.
                refused.held = None;
                state.give_back(query, waiter.bytes);
            }
        }
        let wake_at = state.wake_at(Instant::now()).filter(|_| !state.is_waking);
        if let Some(wake_at) = wake_at {
            state.is_waking = true;
            let limiter = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep_until(wake_at).await;
                let mut state = limiter.lock();
                state.is_waking = false;
                limiter.grant(&mut state);
            });
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(Claim { limiter, query, bytes }) = self.held.take() else { return };
        let mut state = limiter.lock();
        state.give_back(query, bytes);
        limiter.grant(&mut state);
    }
}

impl State {
    /// Takes the waiter whose turn it is, if one may go.
    fn next(&mut self, now: Instant) -> Option<(u64, Waiter)> {
        for line in self.lines.values_mut() {
            while line.waiting.front().is_some_and(|waiter| waiter.grant.is_closed()) {
                line.waiting.pop_front();
            }
        }
        let waiting = self.lines.iter_mut().filter(|(_, line)| !line.waiting.is_empty());
        let (query, line) = waiting.min_by_key(|(query, line)| (line.in_flight, line.served_last, **query))?;
        let bytes = line.waiting.front()?.bytes;
        let fits = self.in_flight == 0 || self.bytes + bytes <= self.limits.in_flight_bytes_max;
        if self.in_flight >= self.adaptive.allowed() || !fits {
            return None;
        }
        if let Some(ramp) = &mut self.ramp
            && !ramp.take(self.in_flight + 1, now)
        {
            return None;
        }
        self.served += 1;
        line.served_last = self.served;
        line.in_flight += 1;
        self.in_flight += 1;
        self.bytes += bytes;
        line.waiting.pop_front().map(|waiter| (*query, waiter))
    }

    /// Returns the time to look again although nothing was given back.
    fn wake_at(&self, now: Instant) -> Option<Instant> {
        let waits = self.lines.values().any(|line| !line.waiting.is_empty());
        let ramp = self.ramp.as_ref().filter(|_| waits && self.in_flight < self.adaptive.allowed())?;
        ramp.next_at(self.in_flight + 1, now)
    }

    fn give_back(&mut self, query: u64, bytes: u64) {
        self.in_flight -= 1;
        self.bytes -= bytes;
        if let Some(line) = self.lines.get_mut(&query) {
            line.in_flight -= 1;
            if line.in_flight == 0 && line.waiting.is_empty() {
                self.lines.remove(&query);
            }
        }
    }
}

/// Limit of attempts between 1 and a cap: additive increase, multiplicative decrease.
#[derive(Debug)]
struct Adaptive {
    cap: f64,
    limit: f64,
    reduced_at: Option<Instant>,
}

impl Adaptive {
    fn new(cap: usize) -> Self {
        let cap = cap.max(1) as f64;
        Self { cap, limit: cap, reduced_at: None }
    }

    fn allowed(&self) -> usize {
        self.limit as usize
    }

    fn succeeded(&mut self) {
        let step = (self.cap * INCREASE_SHARE).max(1.0);
        self.limit = (self.limit + step / self.limit).min(self.cap);
    }

    fn throttled(&mut self, now: Instant) {
        if self.reduced_at.is_none_or(|at| now.saturating_duration_since(at) >= REDUCTION_INTERVAL) {
            self.limit = (self.limit / 2.0).max(1.0);
            self.reduced_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::task::yield_now;

    use super::*;

    fn limiter(in_flight_max: usize, in_flight_bytes_max: u64) -> Arc<Limiter> {
        Arc::new(Limiter::new(SchedulerLimits { in_flight_max, in_flight_bytes_max, ramp: None }))
    }

    /// Queues fragments of a query. Each notes its query when it is served, and holds its slot for `holds`.
    fn enqueue(limiter: &Arc<Limiter>, query: u64, fragments: usize, holds: Duration, order: &Arc<Mutex<Vec<u64>>>) {
        for _ in 0..fragments {
            let (limiter, order) = (Arc::clone(limiter), Arc::clone(order));
            tokio::spawn(async move {
                let slot = limiter.acquire(query, 1, false).await;
                order.lock().expect("no holder panics").push(query);
                tokio::time::sleep(holds).await;
                drop(slot);
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn small_queries_overtake_and_none_starves() {
        let (limiter, order) = (limiter(4, u64::MAX), Arc::default());
        enqueue(&limiter, 1, 400, Duration::from_secs(1), &order);
        yield_now().await;
        for small in 2..10 {
            enqueue(&limiter, small, 2, Duration::from_secs(1), &order);
        }
        tokio::time::sleep(Duration::from_secs(200)).await;
        let order = order.lock().expect("no holder panics").clone();
        assert_eq!(order.len(), 416);
        let last_small = order.iter().rposition(|query| *query > 1).expect("small ones ran");
        assert!(last_small < 30, "small queries wait for four rounds at most: {:?}", &order[..40]);
        let large_meanwhile = order[4..last_small].iter().filter(|query| **query == 1).count();
        assert!(large_meanwhile >= 1, "the large one is served, too: {:?}", &order[..40]);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_bounded_and_what_is_too_large_runs_alone() {
        let limiter = limiter(10, 100);
        let first = limiter.acquire(1, 60, false).await;
        assert!(limiter.acquire(1, 60, false).now_or_never().is_none());
        let second = limiter.acquire(1, 40, false).now_or_never().expect("fits");
        drop(first);
        assert!(limiter.acquire(2, 1000, false).now_or_never().is_none());
        drop(second);
        let alone = limiter.acquire(2, 1000, false).now_or_never().expect("runs alone");
        assert!(limiter.acquire(1, 1, false).now_or_never().is_none());
        drop(alone);
        assert!(limiter.acquire(1, 1, false).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_given_up_blocks_nobody() {
        let limiter = limiter(1, u64::MAX);
        let held = limiter.acquire(1, 1, false).await;
        let mut given_up = Box::pin(limiter.acquire(1, 1, false));
        assert!((&mut given_up).now_or_never().is_none());
        let mut next = Box::pin(limiter.acquire(1, 1, false));
        let mut urgent = Box::pin(limiter.acquire(1, 1, true));
        assert!((&mut next).now_or_never().is_none() && (&mut urgent).now_or_never().is_none());
        drop(given_up);
        drop(held);
        assert!((&mut next).now_or_never().is_none(), "what is urgent goes first");
        let urgent = (&mut urgent).now_or_never().expect("its turn");
        drop(urgent);
        // The slot was granted, and dropped before it was looked at.
        drop(next);
        assert!(limiter.acquire(2, 1, false).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_halves_once_and_successes_bring_it_back() {
        let mut adaptive = Adaptive::new(100);
        for _ in 0..50 {
            adaptive.throttled(Instant::now());
        }
        assert_eq!(adaptive.allowed(), 50, "one overload");
        tokio::time::advance(REDUCTION_INTERVAL).await;
        adaptive.throttled(Instant::now());
        assert_eq!(adaptive.allowed(), 25);
        let mut successes = 0;
        while adaptive.allowed() < 100 {
            adaptive.succeeded();
            successes += 1;
        }
        assert!((4500..4900).contains(&successes), "one more with each of 75 rounds: {successes}");
        for _ in 0..20 {
            tokio::time::advance(REDUCTION_INTERVAL).await;
            adaptive.throttled(Instant::now());
        }
        assert_eq!(adaptive.allowed(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn environments_start_as_fast_as_the_platform_allows() {
        let ramp = Some(EnvironmentRamp { functions: 1, burst: 10, per_second: 1.0 });
        let limiter =
            Arc::new(Limiter::new(SchedulerLimits { in_flight_max: 100, in_flight_bytes_max: u64::MAX, ramp }));
        let order: Arc<Mutex<Vec<u64>>> = Arc::default();
        enqueue(&limiter, 1, 20, Duration::from_secs(60), &order);
        let served = |order: &Arc<Mutex<Vec<u64>>>| order.lock().expect("no holder panics").len();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(served(&order), 10);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(served(&order), 15);
        tokio::time::sleep(Duration::from_secs(56)).await;
        enqueue(&limiter, 2, 20, Duration::from_secs(1), &order);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(served(&order), 40, "environments that are warm need no start");
    }
}
