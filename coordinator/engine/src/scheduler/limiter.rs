//! Limiter of the attempts in flight, over all queries of a process, and the order of their turns.
//!
//! A slot is granted while four bounds hold:
//!
//! - `in_flight_max`;
//! - the limit that throttling has taught (additive increase, multiplicative decrease);
//! - the bytes that attempts may hold on the coordinator;
//! - the rate at which the platform starts environments.
//!
//! The next slot goes to the query with the fewest attempts in flight, among equals to the one that was granted one
//! least recently. So small queries overtake large ones, and none starves.

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
    adaptive: AdaptiveLimit,
    ramp: Option<Ramp>,
    in_flight: usize,
    bytes: u64,
    /// Waiting and running attempts by query.
    queues: BTreeMap<u64, QueryQueue>,
    /// Number of grants so far, which orders queries by their last turn.
    grants: u64,
    /// True while a task waits for the next environment.
    has_wakeup: bool,
}

/// A query's attempts, running and waiting.
#[derive(Debug, Default)]
struct QueryQueue {
    in_flight: usize,
    granted_last: u64,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    query: u64,
    bytes: u64,
    grant: oneshot::Sender<Slot>,
}

/// Request for the slot of one attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotRequest {
    pub query: u64,
    /// Bytes that the attempt holds on the coordinator.
    pub bytes: u64,
    /// True for an attempt that goes before the query's other fragments.
    pub is_urgent: bool,
}

/// Right to one attempt, given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    /// Share of the bounds; None once it is given back.
    claim: Option<SlotClaim>,
}

#[derive(Debug)]
struct SlotClaim {
    limiter: Arc<Limiter>,
    query: u64,
    bytes: u64,
}

impl Limiter {
    pub(super) fn new(limits: SchedulerLimits) -> Self {
        let state = State {
            limits,
            adaptive: AdaptiveLimit::new(limits.in_flight_max),
            ramp: limits.ramp.map(Ramp::new),
            in_flight: 0,
            bytes: 0,
            queues: BTreeMap::new(),
            grants: 0,
            has_wakeup: false,
        };
        Self { state: Mutex::new(state) }
    }

    /// Waits for a slot; dropping the future gives up the place.
    pub(super) async fn acquire(self: &Arc<Self>, request: SlotRequest) -> Slot {
        let SlotRequest { query, bytes, is_urgent } = request;
        let (grant, granted) = oneshot::channel();
        {
            let mut state = self.lock();
            let granted_last = state.grants;
            let queue =
                state.queues.entry(query).or_insert_with(|| QueryQueue { granted_last, ..QueryQueue::default() });
            let waiter = Waiter { query, bytes, grant };
            if is_urgent {
                queue.waiting.push_front(waiter);
            } else {
                queue.waiting.push_back(waiter);
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
        while let Some(Waiter { query, bytes, grant }) = state.next(Instant::now()) {
            let claim = SlotClaim { limiter: Arc::clone(self), query, bytes };
            if let Err(mut refused) = grant.send(Slot { claim: Some(claim) }) {
                // The waiter is gone. The state is locked, so the slot must not give itself back.
                refused.claim = None;
                state.give_back(query, bytes);
            }
        }
        let wake_at = state.wake_at(Instant::now()).filter(|_| !state.has_wakeup);
        if let Some(wake_at) = wake_at {
            state.has_wakeup = true;
            let limiter = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep_until(wake_at).await;
                let mut state = limiter.lock();
                state.has_wakeup = false;
                limiter.grant(&mut state);
            });
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(SlotClaim { limiter, query, bytes }) = self.claim.take() else { return };
        let mut state = limiter.lock();
        state.give_back(query, bytes);
        limiter.grant(&mut state);
    }
}

impl State {
    /// Takes the waiter whose turn it is, if one may go.
    fn next(&mut self, now: Instant) -> Option<Waiter> {
        for queue in self.queues.values_mut() {
            while queue.waiting.front().is_some_and(|waiter| waiter.grant.is_closed()) {
                queue.waiting.pop_front();
            }
        }
        let waiting = self.queues.iter_mut().filter(|(_, queue)| !queue.waiting.is_empty());
        let (_, queue) = waiting.min_by_key(|(query, queue)| (queue.in_flight, queue.granted_last, **query))?;
        let bytes = queue.waiting.front()?.bytes;
        let fits = self.in_flight == 0 || self.bytes + bytes <= self.limits.in_flight_bytes_max;
        if self.in_flight >= self.adaptive.allowed() || !fits {
            return None;
        }
        if let Some(ramp) = &mut self.ramp
            && !ramp.take(self.in_flight + 1, now)
        {
            return None;
        }
        self.grants += 1;
        queue.granted_last = self.grants;
        queue.in_flight += 1;
        self.in_flight += 1;
        self.bytes += bytes;
        queue.waiting.pop_front()
    }

    /// Returns the time to look again although nothing was given back.
    fn wake_at(&self, now: Instant) -> Option<Instant> {
        let waits = self.queues.values().any(|queue| !queue.waiting.is_empty());
        let ramp = self.ramp.as_ref().filter(|_| waits && self.in_flight < self.adaptive.allowed())?;
        ramp.next_at(self.in_flight + 1, now)
    }

    fn give_back(&mut self, query: u64, bytes: u64) {
        self.in_flight -= 1;
        self.bytes -= bytes;
        if let Some(queue) = self.queues.get_mut(&query) {
            queue.in_flight -= 1;
            if queue.in_flight == 0 && queue.waiting.is_empty() {
                self.queues.remove(&query);
            }
        }
    }
}

/// Limit of attempts between 1 and a maximum: additive increase, multiplicative decrease.
#[derive(Debug)]
struct AdaptiveLimit {
    max: f64,
    limit: f64,
    reduced_at: Option<Instant>,
}

impl AdaptiveLimit {
    fn new(max: usize) -> Self {
        let max = max.max(1) as f64;
        Self { max, limit: max, reduced_at: None }
    }

    fn allowed(&self) -> usize {
        self.limit as usize
    }

    fn succeeded(&mut self) {
        let step = (self.max * INCREASE_SHARE).max(1.0);
        self.limit = (self.limit + step / self.limit).min(self.max);
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

    fn request(query: u64, bytes: u64) -> SlotRequest {
        SlotRequest { query, bytes, is_urgent: false }
    }

    /// Queues fragments of a query. Each notes its query when it is granted a slot, and holds its slot for `holds`.
    fn enqueue(limiter: &Arc<Limiter>, query: u64, fragments: usize, holds: Duration, order: &Arc<Mutex<Vec<u64>>>) {
        for _ in 0..fragments {
            let (limiter, order) = (Arc::clone(limiter), Arc::clone(order));
            tokio::spawn(async move {
                let slot = limiter.acquire(request(query, 1)).await;
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
    async fn an_attempt_above_the_byte_bound_runs_alone() {
        let limiter = limiter(10, 100);
        let first = limiter.acquire(request(1, 60)).await;
        assert!(limiter.acquire(request(1, 60)).now_or_never().is_none());
        let second = limiter.acquire(request(1, 40)).now_or_never().expect("fits");
        drop(first);
        assert!(limiter.acquire(request(2, 1000)).now_or_never().is_none());
        drop(second);
        let alone = limiter.acquire(request(2, 1000)).now_or_never().expect("runs alone");
        assert!(limiter.acquire(request(1, 1)).now_or_never().is_none());
        drop(alone);
        assert!(limiter.acquire(request(1, 1)).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_waiter_blocks_no_other() {
        let limiter = limiter(1, u64::MAX);
        let held = limiter.acquire(request(1, 1)).await;
        let mut given_up = Box::pin(limiter.acquire(request(1, 1)));
        assert!((&mut given_up).now_or_never().is_none());
        let mut next = Box::pin(limiter.acquire(request(1, 1)));
        let mut urgent = Box::pin(limiter.acquire(SlotRequest { is_urgent: true, ..request(1, 1) }));
        assert!((&mut next).now_or_never().is_none() && (&mut urgent).now_or_never().is_none());
        drop(given_up);
        drop(held);
        assert!((&mut next).now_or_never().is_none(), "what is urgent goes first");
        let urgent = (&mut urgent).now_or_never().expect("its turn");
        drop(urgent);
        // The slot was granted, and dropped before it was looked at.
        drop(next);
        assert!(limiter.acquire(request(2, 1)).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_halves_once_and_successes_bring_it_back() {
        let mut adaptive = AdaptiveLimit::new(100);
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
