//! Requests and bytes that a process may have read ahead at a time, divided among its queries that read.
//!
//! ```text
//!  query ─► try_grant ─┬─► slot: one request under way, until its body has come ┐
//!                      └─► share: its bytes, until they are decoded ─────────────┴─► given back ─► refused queries look again
//! ```
//!
//! A grant is given at once or not at all. No task waits for one, so that nothing can block and an abort leaves nothing
//! behind. Reads that somebody waits for are counted and never refused.

use std::collections::BTreeMap;
use std::fmt::{Debug, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use gust_protocol::AheadBounds;

/// Requests that a query has under way whatever the depth: a rate that was learnt from few bytes does not stop it.
const DEPTH_REQUESTS_MIN: u32 = 8;

/// Bounds of a moment on what a query reads ahead, below its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) requests_max: u32,
    /// Bytes that are under way, or have come and are not decoded.
    pub(super) bytes_max: u64,
    /// Bytes that are under way, of all queries.
    pub(super) under_way_bytes_max: u64,
}

/// Budget of a process. Clones share it.
#[derive(Debug, Clone)]
pub struct ReadBudget(Arc<BudgetState>);

#[derive(Debug)]
struct BudgetState {
    bounds: AheadBounds,
    held: Mutex<Held>,
}

/// Parts of the budget that are held now.
#[derive(Debug, Default)]
struct Held {
    requests: u32,
    queries: BTreeMap<u64, QueryHeld>,
    next_id: u64,
}

struct QueryHeld {
    /// Scans that are open. A query without any needs no part of the budget.
    scans: u32,
    requests: u32,
    bytes: u64,
    under_way_bytes: u64,
    /// True since it was refused a grant.
    was_refused: bool,
    wake: Wake,
}

/// Call that makes a query look again for what it may read.
pub(super) type Wake = Arc<dyn Fn() + Send + Sync>;

impl Debug for QueryHeld {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryHeld")
            .field("requests", &self.requests)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl ReadBudget {
    pub fn new(bounds: AheadBounds) -> Self {
        Self(Arc::new(BudgetState { bounds, held: Mutex::default() }))
    }

    /// Returns the bounds of the process.
    pub fn bounds(&self) -> AheadBounds {
        self.0.bounds
    }

    /// Returns the requests and bytes that all queries hold now. After the last query has ended both are zero.
    pub fn held(&self) -> AheadBounds {
        let held = self.0.lock();
        AheadBounds { requests_max: held.requests, bytes_max: held.queries.values().map(|query| query.bytes).sum() }
    }

    /// Adds a query. `wake` is called, without a lock, when a part comes back after the query was refused one.
    pub(super) fn member(&self, bounds: AheadBounds, wake: Wake) -> Member {
        let mut held = self.0.lock();
        let id = held.next_id;
        held.next_id += 1;
        held.queries
            .insert(id, QueryHeld { scans: 0, requests: 0, bytes: 0, under_way_bytes: 0, was_refused: false, wake });
        Member { budget: Arc::clone(&self.0), id, bounds: bounds.and(self.0.bounds) }
    }
}

impl BudgetState {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no holder panics")
    }
}

/// Query's place in the budget, until it is dropped.
#[derive(Debug)]
pub(super) struct Member {
    budget: Arc<BudgetState>,
    id: u64,
    bounds: AheadBounds,
}

impl Member {
    /// Returns the most that the query can hold while no other query reads.
    pub(super) fn bounds(&self) -> AheadBounds {
        self.bounds
    }

    /// Counts one more open scan, until the part is dropped.
    pub(super) fn open_scan(&self) -> Part {
        if let Some(own) = self.budget.lock().queries.get_mut(&self.id) {
            own.scans += 1;
        }
        self.part(1, 0, 0)
    }

    /// Grants one request and its bytes, or nothing.
    ///
    /// Each query with an open scan may have an even part of both. `requests_sure` requests are granted to it in any case,
    /// within its bounds: its lanes would otherwise send as many reads and wait for each. `at_most` are lower bounds on all
    /// others. A query that holds nothing is granted one request of any size within its bounds.
    pub(super) fn try_grant(&self, bytes: u64, requests_sure: u32, at_most: Room) -> Option<Grant> {
        let mut held = self.budget.lock();
        let queries = held.queries.values().filter(|query| query.scans > 0).count();
        let queries = u32::try_from(queries).unwrap_or(u32::MAX).max(1);
        let all = held.requests;
        let own = held.queries.get_mut(&self.id)?;
        let is_sure = own.requests < requests_sure.min(self.bounds.requests_max);
        let slots = at_most.requests_max.min(self.bounds.requests_max / queries);
        let has_slot = all < self.budget.bounds.requests_max && own.requests < slots;
        let part = at_most.bytes_max.min(self.bounds.bytes_max / u64::from(queries));
        let bytes_max = if own.bytes == 0 { self.bounds.bytes_max } else { part };
        let under_way_max = at_most.under_way_bytes_max / u64::from(queries);
        let is_deep = own.requests >= DEPTH_REQUESTS_MIN && own.under_way_bytes.saturating_add(bytes) > under_way_max;
        if !(is_sure || has_slot && !is_deep) || own.bytes.saturating_add(bytes) > bytes_max {
            own.was_refused = true;
            return None;
        }
        own.requests += 1;
        own.bytes += bytes;
        own.under_way_bytes += bytes;
        held.requests += 1;
        let mut slot = self.part(0, 1, 0);
        slot.under_way_bytes = bytes;
        Some(Grant { slot, share: self.part(0, 0, bytes) })
    }

    /// Counts reads that a reader waits for, whatever the bounds.
    pub(super) fn over(&self, requests: u32, bytes: u64) -> Part {
        let mut held = self.budget.lock();
        if let Some(own) = held.queries.get_mut(&self.id) {
            own.requests += requests;
            own.bytes += bytes;
            held.requests += requests;
            return self.part(0, requests, bytes);
        }
        self.part(0, 0, 0)
    }

    fn part(&self, scans: u32, requests: u32, bytes: u64) -> Part {
        let budget = Arc::downgrade(&self.budget);
        Part { budget, query: self.id, scans, requests, bytes, under_way_bytes: 0 }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let left = {
            let mut held = self.budget.lock();
            let left = held.queries.remove(&self.id);
            held.requests -= left.as_ref().map_or(0, |left| left.requests);
            left
        };
        drop(left);
        self.budget.wake_refused(self.id);
    }
}

/// Right to read ahead with one request.
#[derive(Debug)]
pub(super) struct Grant {
    /// The request. It is given back when the body has come.
    pub(super) slot: Part,
    /// Its bytes. They are given back when they were taken or dropped; a reader that took them counts its own.
    pub(super) share: Part,
}

/// Part of the budget, given back when it is dropped. Drop it without a lock: queries that were refused then look again.
#[derive(Debug)]
pub(super) struct Part {
    budget: Weak<BudgetState>,
    query: u64,
    scans: u32,
    requests: u32,
    bytes: u64,
    under_way_bytes: u64,
}

impl Drop for Part {
    fn drop(&mut self) {
        let Some(budget) = self.budget.upgrade() else { return };
        if self.scans == 0 && self.requests == 0 && self.bytes == 0 {
            return;
        }
        {
            let mut held = budget.lock();
            // A query that has ended has given back everything.
            let Some(own) = held.queries.get_mut(&self.query) else { return };
            own.scans -= self.scans;
            own.requests -= self.requests;
            own.bytes -= self.bytes;
            own.under_way_bytes -= self.under_way_bytes;
            held.requests -= self.requests;
        }
        budget.wake_refused(self.query);
    }
}

impl BudgetState {
    /// Lets the queries that were refused look again, first the one after `query`, so that each has its turn.
    fn wake_refused(&self, query: u64) {
        let refused: Vec<Wake> = {
            let mut held = self.lock();
            let (before, after): (Vec<_>, Vec<_>) = held
                .queries
                .iter_mut()
                .filter_map(|(id, other)| {
                    std::mem::take(&mut other.was_refused).then(|| (*id, Arc::clone(&other.wake)))
                })
                .partition(|(id, _)| *id <= query);
            after.into_iter().chain(before).map(|(_, wake)| wake).collect()
        };
        for wake in refused {
            wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    const BOUNDS: AheadBounds = AheadBounds { requests_max: 4, bytes_max: 100 };
    /// No lower bounds than the query's own.
    const FREE: Room = Room { requests_max: u32::MAX, bytes_max: u64::MAX, under_way_bytes_max: u64::MAX };

    fn member(budget: &ReadBudget) -> (Member, Arc<AtomicUsize>) {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let wake = move || {
            count.fetch_add(1, Relaxed);
        };
        (budget.member(BOUNDS, Arc::new(wake)), woken)
    }

    #[test]
    fn a_grant_is_given_at_once_or_not_at_all() {
        let budget = ReadBudget::new(BOUNDS);
        let (query, woken) = member(&budget);
        let mut grants: Vec<_> = (0..4).map(|_| query.try_grant(20, 1, FREE).expect("room")).collect();
        assert!(query.try_grant(1, 1, FREE).is_none(), "all requests are under way");
        assert_eq!(woken.load(Relaxed), 0);
        let Grant { slot, share } = grants.pop().expect("one");
        drop(slot);
        assert_eq!(woken.load(Relaxed), 1, "a query that was refused looks again");
        assert!(query.try_grant(21, 1, FREE).is_none(), "bytes are held until they are taken");
        assert!(query.try_grant(20, 1, Room { bytes_max: 99, ..FREE }).is_none(), "a lower bound counts");
        let last = query.try_grant(20, 1, FREE).expect("room");
        drop(share);
        drop((grants, last));
        assert_eq!(budget.held(), AheadBounds::OFF);
    }

    #[test]
    fn reads_that_are_waited_for_are_counted_and_never_refused() {
        let budget = ReadBudget::new(BOUNDS);
        let (query, _) = member(&budget);
        let demanded = query.over(5, 500);
        assert_eq!(budget.held(), AheadBounds { requests_max: 5, bytes_max: 500 });
        assert!(query.try_grant(1, 4, FREE).is_none());
        drop(demanded);
        query.try_grant(1, 4, FREE).expect("room");
    }

    #[test]
    fn each_query_that_reads_has_an_even_part() {
        let budget = ReadBudget::new(BOUNDS);
        let (first, woken) = member(&budget);
        let (second, _) = member(&budget);
        let (_idle, _) = member(&budget);
        let _scan = first.open_scan();
        let scans = [second.open_scan(), second.open_scan()];
        let held: Vec<_> = (0..2).map(|_| first.try_grant(20, 1, FREE).expect("its part")).collect();
        assert!(first.try_grant(1, 1, FREE).is_none(), "the rest is the other's");
        let other = second.try_grant(50, 1, FREE).expect("its part");
        assert!(second.try_grant(1, 1, FREE).is_none(), "it has its part");
        assert_eq!(woken.load(Relaxed), 0);
        let [scan, last] = scans;
        drop(scan);
        assert_eq!(woken.load(Relaxed), 1);
        assert!(first.try_grant(11, 1, FREE).is_none(), "the other still reads");
        drop(last);
        assert_eq!(woken.load(Relaxed), 2, "its part is free");
        let more = first.try_grant(60, 1, FREE).expect("all");
        drop((held, other, more));
        assert_eq!(budget.held(), AheadBounds::OFF);
    }

    #[test]
    fn a_query_that_holds_nothing_has_one_piece_within_its_bounds() {
        let budget = ReadBudget::new(BOUNDS);
        let (first, _) = member(&budget);
        let (second, _) = member(&budget);
        let _scans = [first.open_scan(), second.open_scan()];
        assert!(first.try_grant(101, 1, FREE).is_none());
        let piece = first.try_grant(100, 1, Room { bytes_max: 10, ..FREE }).expect("more than its part");
        assert!(first.try_grant(1, 2, FREE).is_none(), "it holds one");
        second.try_grant(51, 1, FREE).expect("each has one");
        drop(piece);
        let off = ReadBudget::new(AheadBounds { requests_max: 0, ..BOUNDS });
        let (query, _) = member(&off);
        assert!(query.try_grant(1, 1, FREE).is_none(), "nothing is read ahead");
    }

    #[test]
    fn a_store_that_asks_for_fewer_requests_gets_fewer() {
        let budget = ReadBudget::new(BOUNDS);
        let (query, _) = member(&budget);
        let fewer = Room { requests_max: 2, ..FREE };
        let held: Vec<_> = (0..2).map(|_| query.try_grant(1, 1, fewer).expect("room")).collect();
        assert!(query.try_grant(1, 1, fewer).is_none());
        query.try_grant(1, 3, fewer).expect("as many as its lanes would send");
        drop(held);
    }

    #[test]
    fn bytes_under_way_have_a_bound_of_their_own() {
        let wide = AheadBounds { requests_max: 100, bytes_max: 10_000 };
        let budget = ReadBudget::new(wide);
        let query = budget.member(wide, Arc::new(|| {}));
        let other = budget.member(wide, Arc::new(|| {}));
        let _scan = query.open_scan();
        let deep = Room { under_way_bytes_max: 100, ..FREE };
        let mut held: Vec<_> = std::iter::from_fn(|| query.try_grant(10, 1, deep)).collect();
        assert_eq!(held.len(), 10, "a full pipe");
        // Bytes that have come wait for their reader in the larger bound.
        let came: Vec<_> = held.drain(..4).map(|Grant { slot, share }| (drop(slot), share)).collect();
        held.extend(std::iter::from_fn(|| query.try_grant(10, 1, deep)));
        assert_eq!((held.len(), came.len()), (10, 4));
        let _others = other.open_scan();
        drop(held);
        let half: Vec<_> = std::iter::from_fn(|| query.try_grant(6, 1, deep)).collect();
        assert_eq!(half.len(), 8, "its part of the pipe: {DEPTH_REQUESTS_MIN} at least");
        drop((half, came));
        let lanes: Vec<_> = std::iter::from_fn(|| query.try_grant(100, 12, deep)).collect();
        assert_eq!(lanes.len(), 12, "as many as its lanes would send");
        drop(lanes);
        assert_eq!(budget.held(), AheadBounds::OFF);
    }

    #[test]
    fn a_query_is_sure_of_what_its_lanes_would_send() {
        let budget = ReadBudget::new(BOUNDS);
        let members: Vec<_> = (0..8).map(|_| member(&budget)).collect();
        let grants: Vec<_> = members.iter().map(|(query, _)| query.try_grant(1, 2, FREE)).collect();
        assert!(grants.iter().all(Option::is_some), "beyond the process's four");
        drop(members);
        assert_eq!(budget.held(), AheadBounds::OFF);
        drop(grants);
        assert_eq!(budget.held(), AheadBounds::OFF);
    }
}
